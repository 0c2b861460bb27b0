package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// pagesArgs asks for pages of the history at random places.
type pagesArgs struct {
	N     int
	Limit uint32
}

// pages is how long queries took, and what came.
type pages struct {
	Messages int // in the last answer
	Delays   delays
}

// history reads pages of the joined room, one after the other.
func (c *clients) history(a pagesArgs) (pages, error) {
	s := c.sessions[0]
	var newest chatproto.HistoryRes
	if err := call(s, s.room, chatproto.History, &chatproto.HistoryReq{Limit: 1}, &newest); err != nil {
		return pages{}, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	return timed(a.N, func() (int, error) {
		var page chatproto.HistoryRes
		before := newest.First + uint64(a.Limit) + r.Uint64N(newest.Last-newest.First-uint64(a.Limit))
		err := call(s, s.room, chatproto.History, &chatproto.HistoryReq{Before: before, Limit: a.Limit}, &page)
		if n := len(page.Messages); err == nil && (n != int(a.Limit) || page.Messages[n-1].Seq != before-1) {
			err = fmt.Errorf("page before %d has %d entries", before, n)
		}
		return len(page.Messages), err
	})
}

// searchArgs asks for the same search several times.
type searchArgs struct {
	N     int
	Req   chatproto.SearchReq
	Least int // answers must have so many messages
}

// search searches, one time after the other.
func (c *clients) search(a searchArgs) (pages, error) {
	s := c.sessions[0]
	return timed(a.N, func() (int, error) {
		var res chatproto.SearchRes
		err := call(s, s.chat, chatproto.Search, &a.Req, &res)
		if err == nil && len(res.Messages) < a.Least {
			err = fmt.Errorf("search for %q finds %d messages", a.Req.Terms, len(res.Messages))
		}
		return len(res.Messages), err
	})
}

func timed(n int, f func() (int, error)) (p pages, err error) {
	var h hist
	for range n {
		start := time.Now()
		if p.Messages, err = f(); err != nil {
			return p, err
		}
		h.record(time.Since(start))
	}
	p.Delays = h.delays()
	return p, nil
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/store"
)

const (
	bigRoom   = "archive"
	authors   = 64
	rareEvery = 100_000 // messages from one with the rare word to the next
)

// millions measures pages of history and searches over many messages, through
// the RPC.
func (s *site) millions() error {
	s.step("%d messages", s.o.million)
	room, err := s.fill(names("author", authors))
	if err != nil {
		return err
	}
	if err := s.serve(names("author", authors)); err != nil {
		return err
	}
	all, err := s.open(bigRoom, names("author", 1))
	if err != nil {
		return err
	}
	for _, limit := range []uint32{50, chatproto.MaxPage} {
		s.step("pages of %d", limit)
		var got pages
		if err := all.ask("history", pagesArgs{N: 2000, Limit: limit}, &got); err != nil {
			return err
		}
		most := 5.0
		if limit > 100 {
			most = 0 // as much as the protocol allows; nobody asks for it in a hurry
		}
		name := fmt.Sprintf("history, page of %d", limit)
		s.rep.add(s.part, name+", p50", got.Delays.quantile(.5), "ms")
		if most > 0 {
			s.rep.atMost(s.part, name+", p99", got.Delays.quantile(.99), most, "ms")
		} else {
			s.rep.add(s.part, name+", p99", got.Delays.quantile(.99), "ms")
		}
	}
	return s.searches(all, room)
}

func (s *site) searches(c *child, room chatproto.RoomID) error {
	for _, q := range []struct {
		name  string
		req   chatproto.SearchReq
		least int
	}{
		{"rare word", chatproto.SearchReq{Terms: []string{"needle"}}, s.o.million/rareEvery - 1},
		{"common word", chatproto.SearchReq{Terms: []string{"the"}}, 50},
		{"phrase", chatproto.SearchReq{Terms: []string{"quick brown fox"}}, 1},
		{"common and rare word", chatproto.SearchReq{Terms: []string{"the", "needle"}}, 1},
		{"absent word", chatproto.SearchReq{Terms: []string{"xyzzy"}}, 0},
		{"from: alone", chatproto.SearchReq{From: "author0005"}, 50},
		{"from: and rare word", chatproto.SearchReq{From: "author0000", Terms: []string{"needle"}}, 0},
		{"from: in: and common word", chatproto.SearchReq{From: "author0005", Room: room, Terms: []string{"the"}}, 50},
	} {
		s.step("search: %s", q.name)
		q.req.Limit = 50
		var got pages
		if err := c.ask("search", searchArgs{N: 50, Req: q.req, Least: min(q.least, 50)}, &got); err != nil {
			return err
		}
		s.rep.add(s.part, "search, "+q.name+", p50", got.Delays.quantile(.5), "ms")
		s.rep.atMost(s.part, "search, "+q.name+", slowest", got.Delays.quantile(1), 200, "ms")
	}
	return nil
}

// fill writes the messages straight into the daemon's database.
func (s *site) fill(users []string) (chatproto.RoomID, error) {
	if err := os.MkdirAll(s.state(), 0o700); err != nil {
		return 0, err
	}
	ctx := context.Background()
	st, err := store.Open(ctx, store.Config{Path: filepath.Join(s.state(), "chat.db")})
	if err != nil {
		return 0, err
	}
	defer st.Close()
	room, err := st.Create(ctx, users[0], &chatproto.CreateRoomReq{ID: newID(), Kind: chatproto.RoomPublic, Name: bigRoom})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = parallel(len(users), len(users), func(i int) error {
		if i > 0 {
			if _, err := st.Join(ctx, users[i], &chatproto.JoinRoomReq{ID: newID(), Name: bigRoom}); err != nil {
				return err
			}
		}
		r := rand.New(rand.NewPCG(uint64(i), 1))
		for n := i; n < s.o.million; n += len(users) {
			req := chatproto.SayReq{ID: newID(), Kind: chatproto.KindText, Body: sentence(r, n)}
			if _, err := st.Say(ctx, users[i], room, &req); err != nil {
				return err
			}
		}
		return nil
	})
	s.rep.add(s.part, "written through the store", float64(s.o.million)/time.Since(start).Seconds(), "messages/s")
	return room, err
}

var common = strings.Fields("the quick brown fox jumps over a lazy dog while we wait for an answer to that question about it")

// sentence is a message as the search has to cope with: a common word in most,
// words that occur some hundred times, a rare one, and now and then a phrase.
func sentence(r *rand.Rand, n int) []byte {
	var b []byte
	for range 4 + r.IntN(12) {
		b = append(append(b, common[r.IntN(len(common))]...), ' ')
	}
	b = append(b, "the "...)
	b = fmt.Appendf(b, "w%d w%d", r.IntN(5000), r.IntN(5000))
	if n%rareEvery == 7 {
		b = append(b, " needle"...)
	}
	if n%1000 == 3 {
		b = append(b, " quick brown fox"...)
	}
	return b
}

// open starts a client process whose sessions join a room that is there.
func (s *site) open(room string, users []string) (*child, error) {
	c, err := s.start(users)
	if err == nil {
		err = c.ask("attach", none{}, nil)
	}
	if err == nil {
		err = c.ask("join", joinArgs{Room: room}, nil)
	}
	return c, err
}

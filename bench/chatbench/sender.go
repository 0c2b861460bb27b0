package main

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// sayArgs asks the sessions of a process to say something.
type sayArgs struct {
	N       int           // messages, of all sessions together; 0: until For has passed
	For     time.Duration // with N: the messages are spread over it
	Size    int           // of a text, in bytes
	Callers int           // of each session at once
}

// said is what was acknowledged, and how long that took.
type said struct {
	N       int
	Seconds float64
	Delays  delays
}

// say says N messages as fast as they are acknowledged, or at an even rate.
func (c *clients) say(a sayArgs) (said, error) {
	var acks hist
	var next atomic.Int64
	start := time.Now()
	callers := max(a.Callers, 1)
	err := parallel(len(c.sessions)*callers, len(c.sessions)*callers, func(i int) error {
		s, text := c.sessions[i/callers], filler(a.Size)
		for {
			n := int(next.Add(1)) - 1
			if a.N > 0 && n >= a.N || a.N == 0 && time.Since(start) > a.For {
				return nil
			}
			if a.N > 0 && a.For > 0 {
				time.Sleep(time.Until(start.Add(a.For * time.Duration(n) / time.Duration(a.N))))
			}
			begin := time.Now()
			if err := s.sayOne(n, text); err != nil {
				return err
			}
			acks.record(time.Since(begin))
		}
	})
	d := acks.delays()
	return said{int(d.count()), time.Since(start).Seconds(), d}, err
}

// sayOne says message number n with the text's length.
func (s *session) sayOne(n int, text []byte) error {
	body := append(fmt.Appendf(nil, "message %d ", n), text...)
	req := chatproto.SayReq{
		ID: newID(), Kind: chatproto.KindText, Sent: time.Now().UnixMicro(),
		Body: body[:max(len(text), len("message "))],
	}
	var res chatproto.SayRes
	return call(s, s.room, chatproto.Say, &req, &res)
}

// filler is text of n bytes as people write it: short words.
func filler(n int) []byte {
	return bytes.Repeat([]byte("the quick brown fox jumps over a lazy dog "), n/42+1)[:n]
}

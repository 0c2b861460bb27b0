package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// log follows one room's log: every entry once and in order, whether it comes as
// an event or, after the feed was cut, from the history.
type log struct {
	mu sync.Mutex
	progress
}

// progress is guarded by the log's mutex.
type progress struct {
	room     chatproto.RoomID
	last     uint64 // the newest entry of those without a gap
	seen     uint64 // the newest entry that is known to exist
	said     uint64 // entries up to last that somebody said, since the beginning
	late     uint64 // of these, how many came from the history
	cuts     uint64
	catching bool  // somebody asks the history
	failed   error // of asking
}

// begin follows a room from the entry after last.
func (g *log) begin(room chatproto.RoomID, last uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	// The entry of the joining itself may have come before the answer.
	if g.room != room {
		g.progress = progress{room: room, last: last, seen: last}
	}
}

// take enters an entry and reports whether it is the next one.
func (g *log) take(m *chatproto.Message, late bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.Room != g.room {
		return false
	}
	g.seen = max(g.seen, m.Seq)
	if m.Seq != g.last+1 {
		return false
	}
	g.last++
	if m.Kind == chatproto.KindText {
		g.said++
		if late {
			g.late++
		}
	}
	return m.Kind == chatproto.KindText
}

// listener is what the server calls.
func (s *session) listener() *rpc.Mux {
	m := new(rpc.Mux)
	rpc.Handle(m, chatproto.Deliver, func(_ context.Context, _ *rpc.Request, req *chatproto.DeliverReq, _ *chatproto.Empty) error {
		now := time.Now().UnixMicro()
		for i := range req.Events {
			if e := &req.Events[i]; e.Kind == chatproto.EventMessage {
				if err := s.hear(e.Body, now); err != nil {
					return err
				}
			}
		}
		s.catchUp()
		return nil
	})
	rpc.Handle(m, chatproto.Cut, func(context.Context, *rpc.Request, *chatproto.CutReq, *chatproto.Empty) error {
		s.log.mu.Lock()
		s.log.cuts++
		s.log.mu.Unlock()
		go s.resume()
		return nil
	})
	return m
}

func (s *session) hear(body []byte, now int64) error {
	var m chatproto.Message
	if err := rpc.Decode(body, &m); err != nil {
		return err
	}
	if s.log.take(&m, false) && m.Sent != 0 {
		s.owner.delays.record(time.Duration(now-m.Sent) * time.Microsecond)
	}
	return nil
}

// resume sets the feed going after a cut, and fetches what was missed.
func (s *session) resume() {
	var snap chatproto.SnapshotRes
	err := call(s, s.chat, chatproto.Snapshot, &chatproto.SnapshotReq{}, &snap)
	s.log.mu.Lock()
	for i := range snap.Rooms {
		if info := &snap.Rooms[i].Info; info.Room == s.log.room {
			s.log.seen = max(s.log.seen, info.Last)
		}
	}
	if err != nil {
		s.log.failed = err
	}
	s.log.mu.Unlock()
	s.catchUp()
}

// catchUp fetches what is missing, if anything is and nobody does.
func (s *session) catchUp() {
	g := &s.log
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.catching || g.failed != nil || g.last == g.seen {
		return
	}
	g.catching = true
	go s.fetch()
}

// fetch asks the history until nothing is missing.
func (s *session) fetch() {
	g := &s.log
	for {
		g.mu.Lock()
		if g.failed != nil || g.last == g.seen {
			g.catching = false
			g.mu.Unlock()
			return
		}
		after := g.last
		g.mu.Unlock()
		var page chatproto.HistoryRes
		err := call(s, s.room, chatproto.History, &chatproto.HistoryReq{After: after}, &page)
		if err == nil && len(page.Messages) == 0 {
			err = fmt.Errorf("no entry after %d in the history", after)
		}
		now := time.Now().UnixMicro()
		for i := range page.Messages {
			if m := &page.Messages[i]; g.take(m, true) && m.Sent != 0 {
				s.owner.delays.record(time.Duration(now-m.Sent) * time.Microsecond)
			}
		}
		if err != nil {
			g.mu.Lock()
			g.failed = err
			g.mu.Unlock()
		}
	}
}

// arrivals is what has come to the sessions of a process.
type arrivals struct {
	Least  uint64 // messages, of the session with the fewest
	Total  uint64 // messages of all sessions
	Late   uint64 // of these, from the history
	Cuts   uint64 // feeds that overflowed
	Delays delays
}

func (a *arrivals) add(b arrivals) {
	a.Least = min(a.Least, b.Least)
	a.Total += b.Total
	a.Late += b.Late
	a.Cuts += b.Cuts
	a.Delays.add(b.Delays)
}

// arrived waits until every session has this many messages since the last reset,
// and tells what has come.
func (c *clients) arrived(want uint64) (arrivals, error) {
	for until := time.Now().Add(callLimit); ; {
		a, err := c.count()
		if err != nil {
			return a, err
		}
		if a.Least >= want {
			a.Delays = c.delays.delays()
			return a, nil
		}
		if time.Now().After(until) {
			return a, fmt.Errorf("%d of %d messages arrived in %v (%d feeds cut)", a.Least, want, callLimit, a.Cuts)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (c *clients) count() (arrivals, error) {
	a := arrivals{Least: ^uint64(0)}
	for _, s := range c.sessions {
		g := &s.log
		g.mu.Lock()
		a.Least = min(a.Least, g.said)
		a.Total += g.said
		a.Late += g.late
		a.Cuts += g.cuts
		err := g.failed
		g.mu.Unlock()
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

// reset begins a new count.
func (c *clients) reset(none) (none, error) {
	c.delays.reset()
	for _, s := range c.sessions {
		s.log.mu.Lock()
		s.log.said, s.log.late, s.log.cuts = 0, 0, 0
		s.log.mu.Unlock()
	}
	return none{}, nil
}

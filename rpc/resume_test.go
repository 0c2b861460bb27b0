package rpc_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

var opAgain = rpc.Define[textMsg, textMsg](0x7f32, "test_again", rpc.State)

type textMsg struct{ S string }

func (m *textMsg) Fields(c *rpc.Codec) { c.String(&m.S, 100) }

// memory is a SlotLog in memory.
type memory struct {
	mu     sync.Mutex
	served map[uint32]rpc.ServedSlot
	sent   map[uint32]rpc.Dep
	dead   bool // the process was killed
}

func newMemory() *memory {
	return &memory{served: make(map[uint32]rpc.ServedSlot), sent: make(map[uint32]rpc.Dep)}
}

func (m *memory) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dead {
		f()
	}
}

func (m *memory) Began(d rpc.Dep) {
	m.set(func() {
		s := m.served[d.Slot]
		if s.Dep != d || !s.Running {
			s.Dep, s.Running, s.Note = d, true, nil
		}
		m.served[d.Slot] = s
	})
}

func (m *memory) Noted(d rpc.Dep, note []byte) {
	m.set(func() {
		s := m.served[d.Slot]
		s.Note = slices.Clone(note)
		m.served[d.Slot] = s
	})
}

func (m *memory) Ended(s rpc.ServedSlot) {
	m.set(func() {
		s.Reply = slices.Clone(s.Reply)
		m.served[s.Slot] = s
	})
}

func (m *memory) Sent(d rpc.Dep) { m.set(func() { m.sent[d.Slot] = d }) }

// kill returns what is remembered, and remembers nothing more.
func (m *memory) kill() (from rpc.Slots) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
	for _, s := range m.served {
		from.Served = append(from.Served, s)
	}
	for _, d := range m.sent {
		from.Sent = append(from.Sent, d)
	}
	return from
}

// TestAnotherProcess kills the server's side while calls run in both directions. The next
// one is given what was remembered: calls that had been answered there are answered
// alike, what was cut off is executed with the note that it may be for the second time,
// and slots of both sides go on in order.
func TestAnotherProcess(t *testing.T) {
	var mu sync.Mutex
	runs := map[string]int{}
	again := map[string]bool{}
	var hold chan struct{} // calls do not end before it is closed
	entered := make(chan struct{}, 100)
	mux := func() *rpc.Mux {
		m := new(rpc.Mux)
		rpc.Handle(m, opAgain, func(ctx context.Context, r *rpc.Request, req *textMsg, res *textMsg) error {
			mu.Lock()
			runs[req.S]++
			if again[req.S] = r.Again; r.Again && string(r.Noted) != req.S {
				t.Errorf("%s: noted %q", req.S, r.Noted)
			}
			r.Note([]byte(req.S))
			wait := hold
			mu.Unlock()
			if wait != nil {
				entered <- struct{}{}
				<-wait
			}
			res.S = fmt.Sprint("done ", req.S)
			return nil
		})
		return m
	}
	log := newMemory()
	s := rpctest.New(t, rpc.Config{Root: mux(), Slots: log}, rpc.Config{Root: mux()})
	call := func(p *rpc.Peer, text string) error {
		var res textMsg
		err := rpc.Call(t.Context(), p, opAgain, &textMsg{S: text}, &res)
		if err == nil && res.S != "done "+text {
			err = fmt.Errorf("%s: answered %q", text, res.S)
		}
		return err
	}
	for round := range 4 {
		for i := range 40 {
			if err := call(s.Client, fmt.Sprint("early ", round, " ", i)); err != nil {
				t.Fatal(err)
			}
			if err := call(s.Server, fmt.Sprint("back ", round, " ", i)); err != nil {
				t.Fatal(err)
			}
		}
		mu.Lock()
		hold = make(chan struct{})
		mu.Unlock()
		var calls sync.WaitGroup
		for i := range 20 {
			calls.Go(func() {
				if err := call(s.Client, fmt.Sprint("cut ", round, " ", i)); err != nil {
					t.Error(err)
				}
			})
			server := s.Server
			calls.Go(func() { _ = call(server, fmt.Sprint("lost ", round, " ", i)) }) // who asked is dead
		}
		for range 40 {
			<-entered
		}
		from := log.kill()
		s.Cut()
		mu.Lock()
		close(hold)
		hold = nil
		mu.Unlock()
		old := s.Server
		log = newMemory()
		for _, f := range from.Served {
			log.served[f.Slot] = f
		}
		for _, d := range from.Sent {
			log.sent[d.Slot] = d
		}
		s.Server = rpc.NewPeer(rpc.Config{Root: mux(), Slots: log, From: from})
		old.End(nil)
		s.Connect()
		calls.Wait()
	}
	for text, n := range runs {
		want := 1
		if strings.HasPrefix(text, "cut ") {
			want = 2
		}
		if n != want || again[text] != (want == 2) {
			t.Errorf("%s: executed %d times, the last time with again %t", text, n, again[text])
		}
	}
}

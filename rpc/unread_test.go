package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// page is a reply of any size.
type page struct{ B []byte }

func (m *page) Fields(c *rpc.Codec) { c.Bytes(&m.B, 1<<20) }

var opPage = rpc.Define[number, page](0x7f31, "test_page", rpc.Query)

// stuck is a connection whose other side takes nothing while the gate is locked.
type stuck struct {
	rpctest.Transport
	gate *sync.RWMutex
}

func (c stuck) Write(b []byte) (int, error) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	return c.Transport.Write(b)
}

// refusals counts the calls that a peer says it has refused.
type refusals struct {
	slog.Handler
	n *atomic.Int64
}

func (refusals) Enabled(context.Context, slog.Level) bool { return true }

func (r refusals) Handle(_ context.Context, rec slog.Record) error {
	if rec.Message == "call refused" {
		r.n.Add(1)
	}
	return nil
}

// A peer that asks and asks but takes no answers is not served without end: what
// waits for it is bounded, small answers and large ones and those to what is
// refused. When it takes them, all are there.
func TestUnreadAnswersAreBounded(t *testing.T) {
	const handlers = 8
	for _, x := range []struct {
		what string
		n    int    // calls
		size uint64 // of an answer; 0: the call is refused
		most int64  // executed while nothing is taken
	}{
		{"large answers", 120, 256 << 10, 16 + handlers + 4}, // the share has room for 16
		{"small answers", 3000, 3 << 10, 1000},
		{"refusals", 25_000, 0, 15_000},
	} {
		t.Run(x.what, func(t *testing.T) {
			share := rpc.NewBudget(4<<20, 4<<20).User("a")
			defer share.Close()
			var taken atomic.Int64
			mux := new(rpc.Mux)
			rpc.Handle(mux, opPage, func(_ context.Context, _ *rpc.Request, req *number, res *page) error {
				taken.Add(1)
				res.B = make([]byte, req.N)
				return nil
			})
			cfg := rpc.Config{Root: mux, Share: share, MaxHandlers: handlers, Log: slog.New(refusals{slog.DiscardHandler, &taken})}
			session := rpctest.New(t, cfg, rpc.Config{})
			var gate sync.RWMutex
			var ended sync.WaitGroup
			ended.Go(func() {
				session.ConnectOver(func(c rpctest.Transport) rpc.Transport { return stuck{c, &gate} })
			})
			defer ended.Wait()
			defer session.Client.End(nil)
			ask := func(size uint64) error {
				extra, want := rpc.Extra{}, error(nil)
				if size == 0 {
					extra.Object, want = 12345, rpc.ErrNoReference
				}
				var res page
				_, err := rpc.CallWith(testContext(t), session.Client, opPage, &number{size}, &res, extra)
				if !errors.Is(err, want) || len(res.B) != int(size) {
					return fmt.Errorf("%d bytes, %w", len(res.B), err)
				}
				return nil
			}
			for session.Client.Epoch() < 2 { // a call could go over the connection of before
				time.Sleep(time.Millisecond)
			}
			if err := ask(1); err != nil {
				t.Fatal(err)
			}
			gate.Lock()
			answers := make(chan error, x.n+1)
			go func() { answers <- ask(1000) }() // whoever writes it is stuck
			standstill(&taken)
			taken.Store(0)
			for range x.n {
				go func() { answers <- ask(x.size) }()
			}
			for began := time.Now(); taken.Load() == 0 && time.Since(began) < 20*time.Second; {
				time.Sleep(time.Millisecond) // a busy machine has not even begun
			}
			standstill(&taken)
			if n := taken.Load(); n > x.most || n == 0 {
				t.Errorf("%d of %d are answered to a peer that takes nothing", n, x.n)
			}
			gate.Unlock()
			for range x.n + 1 {
				if err := <-answers; err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// standstill waits until n no longer rises.
func standstill(n *atomic.Int64) {
	for last, since := int64(-1), time.Now(); time.Since(since) < 500*time.Millisecond; time.Sleep(5 * time.Millisecond) {
		if now := n.Load(); now != last {
			last, since = now, time.Now()
		}
	}
}

package rpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

var opChain = rpc.Define[number, number](0x7f33, "test_chain", rpc.Change, rpc.CarriesData)

// chains is a service that notes which calls of each chain it has executed.
type chains struct {
	mux  rpc.Mux
	gate sync.RWMutex // handlers wait while it is locked

	mu   sync.Mutex
	done map[uint32][]uint32

	begun, n atomic.Int64 // handlers that have begun, and ended
}

func chainData(n uint64, size int) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, n), size/8+1)[:size]
}

func newChains() *chains {
	s := &chains{done: make(map[uint32][]uint32)}
	rpc.Handle(&s.mux, opChain, func(_ context.Context, r *rpc.Request, req, res *number) error {
		s.begun.Add(1)
		s.gate.RLock()
		defer s.gate.RUnlock()
		if !bytes.Equal(r.Data, chainData(req.N, len(r.Data))) {
			return fmt.Errorf("call %x has other data", req.N)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		chain := uint32(req.N >> 32)
		s.done[chain] = append(s.done[chain], uint32(req.N))
		s.n.Add(1)
		*res = *req
		return nil
	})
	return s
}

// check checks that each of so many calls was executed once, in order.
func (s *chains) check(t *testing.T, chain uint32, calls int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.done[chain]
	for i := range got {
		if got[i] != uint32(i) {
			t.Errorf("chain %d: %d", chain, got)
			return
		}
	}
	if len(got) != calls {
		t.Errorf("chain %d: %d calls of %d", chain, len(got), calls)
	}
}

// run makes the calls of a chain, each with so much data, and each to be executed after the
// one before. All are on their way at once, but for that each has its place before the next.
func (s *chains) run(ctx context.Context, p *rpc.Peer, chain uint32, calls, size int) error {
	var ended sync.WaitGroup
	errs := make([]error, calls)
	var after []rpc.Dep
	for i := range calls {
		placed := make(chan rpc.Dep, 1)
		n := uint64(chain)<<32 | uint64(i)
		x := rpc.Extra{Data: chainData(n, size), After: after, Stream: chain, Placed: func(d rpc.Dep) { placed <- d }}
		ended.Go(func() {
			_, errs[i] = rpc.CallWith(ctx, p, opChain, &number{n}, &number{}, x)
			close(placed)
		})
		d, ok := <-placed
		if !ok {
			break
		}
		after = []rpc.Dep{d}
	}
	ended.Wait()
	return errors.Join(errs...)
}

// tight is a server with room for few payloads. Its connections never seem dead: what does
// not go on stands still for ever.
func tight(t *testing.T, s *chains) *rpctest.Session {
	share := rpc.NewBudget(2<<20+512<<10, 2<<20+512<<10).User("a")
	t.Cleanup(share.Close)
	return rpctest.New(t, rpc.Config{Root: &s.mux, Share: share, PingTimeout: time.Hour}, rpc.Config{PingTimeout: time.Hour, CallSlots: 256})
}

// Calls of one stream are read in order, so that those which wait for others do not take
// the memory that these need, whatever connections there are, and whoever comes and goes.
func TestStream(t *testing.T) {
	const streams, calls = 6, 20
	all := func(t *testing.T, s *chains, session *rpctest.Session) <-chan error {
		ctx, ended := testContext(t), make(chan error, streams)
		for chain := range uint32(streams) {
			go func() { ended <- s.run(ctx, session.Client, chain+1, calls, 80_000*int(chain+1)) }()
		}
		return ended
	}
	await := func(t *testing.T, s *chains, ended <-chan error) {
		for range streams {
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
		for chain := range uint32(streams) {
			s.check(t, chain+1, calls)
		}
	}
	for _, joined := range []int{0, 1, 2, 3} {
		t.Run(fmt.Sprint(joined, " joined"), func(t *testing.T) {
			s := newChains()
			session := tight(t, s)
			for range joined {
				session.Join()
			}
			await(t, s, all(t, s, session))
		})
	}
	t.Run("joined meanwhile", func(t *testing.T) {
		for range 3 {
			s := newChains()
			session := tight(t, s)
			ended := all(t, s, session)
			for range 3 {
				s.await(t, min(s.n.Load()+3, streams*calls))
				session.Join()
			}
			await(t, s, ended)
		}
	})
	t.Run("cut and resumed", func(t *testing.T) {
		s := newChains()
		session := tight(t, s)
		session.Join()
		session.Join()
		ended := all(t, s, session)
		for cut := range streams * calls / 10 {
			s.await(t, int64(cut)*10)
			if cut%2 == 0 {
				session.Cut()
			} else {
				session.CutJoined()
			}
			session.Connect()
			for range 3 {
				session.Join()
			}
		}
		await(t, s, ended)
	})
}

// await returns when so many calls have been executed.
func (s *chains) await(t *testing.T, n int64) {
	t.Helper()
	for ctx := testContext(t); s.n.Load() < n; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("stands still after %d calls", s.n.Load())
		}
	}
}

// Who sends faster than the other side works fills its room, and no more is begun; what
// waits is executed in order when it goes on.
func TestStreamOfASlowReceiver(t *testing.T) {
	const calls = 20
	s := newChains()
	session := tight(t, s)
	for range 3 {
		session.Join()
	}
	s.gate.Lock()
	ended := make(chan error, 2)
	for chain := range uint32(2) {
		go func() { ended <- s.run(testContext(t), session.Client, chain+1, calls, rpc.MaxPayload) }()
	}
	standstill(&s.begun)
	if n := s.begun.Load(); n > 2 {
		t.Errorf("%d calls have begun where two payloads fit", n)
	}
	s.gate.Unlock()
	for range 2 {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	s.check(t, 1, calls)
	s.check(t, 2, calls)
}

// A length beyond the limits ends the connection before anything is made ready for it, and
// of a call that breaks off nothing is executed. The session goes on over the next one.
func TestStreamOfHostileLength(t *testing.T) {
	for name, x := range map[string]struct {
		length, meta uint32
		body         int // bytes that follow; then the connection is closed
	}{
		"all that fits into a number": {length: 1<<32 - 1},
		"meta that is all of it":      {length: 1<<32 - 1, meta: 1<<32 - 13},
		"too much payload":            {length: 12 + 9 + rpc.MaxPayload + 1, meta: 9},
		"too much meta":               {length: 12 + rpc.MaxRequest + 1, meta: rpc.MaxRequest + 1},
		"meta beyond the frame":       {length: 20, meta: 9},
		"no length":                   {},
		"half a payload":              {length: 12 + 16 + 1000, meta: 16, body: 500},
		"half a meta":                 {length: 12 + 16 + 1000, meta: 16, body: 8},
	} {
		t.Run(name, func(t *testing.T) {
			s := newChains()
			session := tight(t, s)
			if err := s.run(testContext(t), session.Client, 1, 3, 1000); err != nil {
				t.Fatal(err)
			}
			ours, theirs := net.Pipe()
			defer ours.Close()
			ended := make(chan error)
			go func() { ended <- session.Server.ServeJoined(rpctest.Transport{Conn: theirs}, session.Server.Epoch()) }()
			b := make([]byte, 16+x.body)
			binary.LittleEndian.PutUint32(b, x.length)
			binary.LittleEndian.PutUint32(b[4:], x.meta)
			binary.LittleEndian.PutUint16(b[12:], opChain.Number)
			b[14], b[15] = 1, 2 // a call with a slot
			binary.LittleEndian.PutUint32(b[8:], 1)
			if x.body > 0 {
				binary.LittleEndian.PutUint32(b[16:], 100) // of which nobody has heard
				binary.LittleEndian.PutUint32(b[20:], 1)
			}
			if _, err := ours.Write(b); err != nil {
				t.Fatal(err)
			}
			if x.body > 0 {
				ours.Close()
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Error("it ended without an error")
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the connection goes on")
			}
			s.check(t, 1, 3)
			session.Connect()
			if err := s.run(testContext(t), session.Client, 2, 3, 1000); err != nil {
				t.Fatal(err)
			}
			s.check(t, 2, 3)
			if n := s.n.Load(); n != 6 {
				t.Errorf("%d calls were executed", n)
			}
		})
	}
}

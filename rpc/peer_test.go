package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type number struct{ N uint64 }

func (m *number) Fields(c *rpc.Codec) { c.U64(&m.N) }

type text struct {
	Ref rpc.Ref
	S   []byte
}

func (m *text) Fields(c *rpc.Codec) {
	c.Ref(&m.Ref)
	c.Bytes(&m.S, 8<<10)
}

var (
	opEcho  = rpc.Define[number, number](0x7f00, "test_echo", rpc.Query)
	opQuick = rpc.Define[number, number](0x7f01, "test_quick", rpc.Query, rpc.Quick)
	opCount = rpc.Define[number, number](0x7f02, "test_count", rpc.Change)
	opFetch = rpc.Define[number, number](0x7f03, "test_fetch", rpc.Query, rpc.ReturnsData, rpc.Compresses)
	opStore = rpc.Define[number, number](0x7f04, "test_store", rpc.Change, rpc.CarriesData, rpc.Compresses)
	opFail  = rpc.Define[number, number](0x7f05, "test_fail", rpc.Query)
	opBlock = rpc.Define[number, number](0x7f06, "test_block", rpc.Query)
	opHold  = rpc.Define[number, number](0x7f07, "test_hold", rpc.Change)
	opBig   = rpc.Define[text, text](0x7f08, "test_big", rpc.Change)
	opNest  = rpc.Define[number, number](0x7f09, "test_nest", rpc.Query)
)

// service is what the tests call.
type service struct {
	mux      rpc.Mux
	counts   sync.Map // N → *atomic.Int64: executions of opCount and opStore
	total    atomic.Uint64
	progress chan struct{}        // every 25 executions
	blocked  chan context.Context // contexts of opBlock handlers
	hold     chan struct{}        // opHold handlers wait for it
	holding  chan struct{}        // an opHold handler has begun
}

func newService() *service {
	s := &service{progress: make(chan struct{}), blocked: make(chan context.Context, 100), hold: make(chan struct{}), holding: make(chan struct{}, 100)}
	echo := func(_ context.Context, _ *rpc.Request, req, res *number) error { *res = *req; return nil }
	rpc.Handle(&s.mux, opEcho, echo)
	rpc.Handle(&s.mux, opQuick, echo)
	rpc.Handle(&s.mux, opCount, func(_ context.Context, _ *rpc.Request, req, res *number) error {
		s.executed(req.N)
		*res = *req
		if req.N == 13 {
			return syscall.ENOSPC
		}
		return nil
	})
	rpc.Handle(&s.mux, opFetch, func(_ context.Context, r *rpc.Request, req, res *number) error {
		b, err := r.Reply(int(req.N))
		if err != nil {
			return err
		}
		fill(b, req.N)
		r.SetReply(len(b) - len(b)/4)
		return nil
	})
	rpc.Handle(&s.mux, opStore, func(_ context.Context, r *rpc.Request, req, res *number) error {
		s.executed(req.N)
		res.N = uint64(len(r.Data))
		want := make([]byte, len(r.Data))
		fill(want, req.N)
		if !bytes.Equal(want, r.Data) {
			return syscall.EBADMSG
		}
		return nil
	})
	rpc.Handle(&s.mux, opFail, func(_ context.Context, _ *rpc.Request, req, _ *number) error {
		switch req.N {
		case 0:
			panic("on purpose")
		case 1:
			return errors.New("secret path /etc/shadow")
		case 1000:
			return &rpc.Error{Code: 0x20001, Detail: []byte("retry in 3 s")}
		}
		return syscall.Errno(req.N)
	})
	rpc.Handle(&s.mux, opBlock, func(ctx context.Context, _ *rpc.Request, _, _ *number) error {
		s.blocked <- ctx
		<-ctx.Done()
		return context.Cause(ctx)
	})
	rpc.Handle(&s.mux, opHold, func(_ context.Context, _ *rpc.Request, req, res *number) error {
		s.executed(req.N)
		s.holding <- struct{}{}
		<-s.hold
		*res = *req
		return nil
	})
	rpc.Handle(&s.mux, opBig, func(_ context.Context, _ *rpc.Request, req, res *text) error { *res = *req; return nil })
	rpc.Handle(&s.mux, opNest, func(ctx context.Context, r *rpc.Request, req, res *number) error {
		if req.N == 0 {
			return nil
		}
		err := rpc.Call(ctx, r.Peer, opNest, &number{req.N - 1}, res)
		res.N++
		return err
	})
	return s
}

func (s *service) executed(n uint64) int64 {
	if s.total.Add(1)%25 == 0 {
		select {
		case s.progress <- struct{}{}:
		default:
		}
	}
	v, _ := s.counts.LoadOrStore(n, new(atomic.Int64))
	return v.(*atomic.Int64).Add(1)
}

func (s *service) times(n uint64) int64 {
	v, ok := s.counts.Load(n)
	if !ok {
		return 0
	}
	return v.(*atomic.Int64).Load()
}

func fill(b []byte, seed uint64) {
	for i := range b {
		b[i] = byte(uint64(i)*7 + seed)
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestCall(t *testing.T) {
	s := newService()
	_, client := rpctest.Pair(t, &s.mux, nil)
	ctx := testContext(t)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			into := make([]byte, 100_000)
			for i := range 60 {
				n := uint64(g*1000 + i)
				var res number
				for _, op := range []*rpc.Op[number, number]{opEcho, opQuick, opCount} {
					if err := rpc.Call(ctx, client, op, &number{n}, &res); err != nil && n != 13 || res.N != n {
						t.Errorf("%s(%d) = %d, %v", op.Name, n, res.N, err)
					}
				}
				got, err := rpc.CallWith(ctx, client, opFetch, &number{n}, &res, rpc.Extra{Into: into})
				want := make([]byte, n)
				fill(want, n)
				if err != nil || !bytes.Equal(into[:got], want[:n-n/4]) {
					t.Errorf("fetch(%d) = %d bytes, %v", n, got, err)
				}
				if _, err := rpc.CallWith(ctx, client, opStore, &number{n}, &res, rpc.Extra{Data: want}); err != nil || res.N != n {
					t.Errorf("store(%d) = %d, %v", n, res.N, err)
				}
			}
		}()
	}
	wg.Wait()
}

func TestLargePayload(t *testing.T) {
	s := newService()
	_, client := rpctest.Pair(t, &s.mux, nil)
	ctx := testContext(t)
	into := make([]byte, rpc.MaxPayload)
	var res number
	for range 20 {
		n, err := rpc.CallWith(ctx, client, opFetch, &number{rpc.MaxPayload}, &res, rpc.Extra{Into: into})
		if err != nil || n != rpc.MaxPayload*3/4 {
			t.Fatalf("fetch = %d, %v", n, err)
		}
		fill(into, 5)
		if _, err := rpc.CallWith(ctx, client, opStore, &number{5}, &res, rpc.Extra{Data: into}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := rpc.CallWith(ctx, client, opStore, &number{5}, &res, rpc.Extra{Data: make([]byte, rpc.MaxPayload+1)}); !errors.Is(err, rpc.ErrBadRequest) {
		t.Fatalf("a payload over the limit: %v", err)
	}
}

func TestErrors(t *testing.T) {
	s := newService()
	_, client := rpctest.Pair(t, &s.mux, nil)
	ctx := testContext(t)
	call := func(n uint64) error { return rpc.Call(ctx, client, opFail, &number{n}, &number{}) }

	if err := call(uint64(syscall.ENOENT)); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("ENOENT: %v", err)
	}
	if err := call(uint64(syscall.ENOTEMPTY)); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("ENOTEMPTY: %v", err)
	}
	for n := range uint64(2) {
		err := call(n)
		var e *rpc.Error
		if !errors.Is(err, rpc.ErrInternal) || !errors.As(err, &e) || e.ID == 0 || bytes.Contains([]byte(err.Error()), []byte("shadow")) {
			t.Errorf("internal error %d: %v", n, err)
		}
	}
	var e *rpc.Error
	if err := call(1000); !errors.As(err, &e) || e.Code != 0x20001 || string(e.Detail) != "retry in 3 s" {
		t.Errorf("error of a service: %v", err)
	}
	_, client = rpctest.Pair(t, nil, nil)
	if err := rpc.Call(ctx, client, opEcho, &number{}, &number{}); !errors.Is(err, rpc.ErrNoMethod) {
		t.Errorf("a peer without methods: %v", err)
	}
}

func TestCancelCrossesTheWire(t *testing.T) {
	s := newService()
	_, client := rpctest.Pair(t, &s.mux, nil)
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error)
	go func() { done <- rpc.Call(ctx, client, opBlock, &number{}, &number{}) }()
	handler := <-s.blocked
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled call: %v", err)
	}
	select {
	case <-handler.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the handler's context goes on")
	}
}

func TestDeadlineCrossesTheWire(t *testing.T) {
	s := newService()
	_, client := rpctest.Pair(t, &s.mux, nil)
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	err := rpc.Call(ctx, client, opBlock, &number{}, &number{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if handler := <-s.blocked; handler.Err() == nil {
		select {
		case <-handler.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the handler's context goes on")
		}
	}
}

func TestNestedCalls(t *testing.T) {
	a, b := newService(), newService()
	_, client := rpctest.Pair(t, &a.mux, &b.mux)
	var res number
	if err := rpc.Call(testContext(t), client, opNest, &number{100}, &res); err != nil || res.N != 100 {
		t.Fatalf("depth %d, %v", res.N, err)
	}
}

func TestReferences(t *testing.T) {
	s, obj := newService(), newService()
	server, client := rpctest.Pair(t, &s.mux, nil)
	ctx := testContext(t)
	released := make(chan rpc.Ref, 1)
	var ref rpc.Ref
	ref, err := client.Export(&obj.mux, func() { released <- ref })
	if err != nil {
		t.Fatal(err)
	}
	call := func(r rpc.Ref) error {
		_, err := rpc.CallWith(ctx, server, opEcho, &number{1}, &number{}, rpc.Extra{Object: r})
		return err
	}
	if err := call(ref); err != nil {
		t.Fatal(err)
	}
	if err := call(ref + 1); !errors.Is(err, rpc.ErrNoReference) {
		t.Errorf("a forged reference: %v", err)
	}
	if err := rpc.Call(ctx, server, opEcho, &number{1}, &number{}); !errors.Is(err, rpc.ErrNoMethod) {
		t.Errorf("the root of a client without methods: %v", err)
	}
	if err := server.Release(ctx, ref); err != nil {
		t.Fatal(err)
	}
	<-released
	if err := call(ref); !errors.Is(err, rpc.ErrNoReference) {
		t.Errorf("a released reference: %v", err)
	}
}

func TestTenThousandReferences(t *testing.T) {
	server, client := rpctest.Pair(t, nil, nil)
	var refs []rpc.Ref
	for range 10_000 {
		ref, err := client.Export(new(rpc.Mux), nil)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	if err := server.Release(testContext(t), refs...); err != nil || client.Exported() != 0 {
		t.Fatalf("%d references left, %v", client.Exported(), err)
	}
	for i := 0; ; i++ {
		if _, err := client.Export(new(rpc.Mux), nil); errors.Is(err, rpc.ErrBusy) {
			break
		} else if err != nil || i > 1<<20 {
			t.Fatalf("export %d: %v", i, err)
		}
	}
}

func TestEndReleasesEverything(t *testing.T) {
	s := newService()
	server, client := rpctest.Pair(t, &s.mux, nil)
	released := make(chan struct{})
	if _, err := server.Export(&s.mux, func() { close(released) }); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- rpc.Call(testContext(t), client, opBlock, &number{}, &number{}) }()
	<-s.blocked
	server.End(errors.New("maintenance"))
	<-released
	client.End(nil)
	if err := <-done; !errors.Is(err, rpc.ErrGone) {
		t.Fatal(err)
	}
	if err := rpc.Call(testContext(t), client, opEcho, &number{}, &number{}); !errors.Is(err, rpc.ErrGone) {
		t.Fatal(err)
	}
}

// Calls that are under way when the connection is cut are executed exactly once
// and answered over the next one.
func TestExactlyOnceOverCuts(t *testing.T) {
	s := newService()
	session := rpctest.New(t, rpc.Config{Root: &s.mux}, rpc.Config{})
	ctx := testContext(t)
	const callers, each = 20, 150
	var wg sync.WaitGroup
	for g := range callers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			data := make([]byte, 40_000)
			for i := range each {
				n := uint64(1000 + g*each + i)
				var res number
				size := (i * 977) % len(data)
				fill(data[:size], n)
				if _, err := rpc.CallWith(ctx, session.Client, opStore, &number{n}, &res, rpc.Extra{Data: data[:size]}); err != nil || res.N != uint64(size) {
					t.Errorf("store %d: %d, %v", n, res.N, err)
				}
				if err := rpc.Call(ctx, session.Client, opEcho, &number{n}, &res); err != nil || res.N != n {
					t.Errorf("echo %d: %d, %v", n, res.N, err)
				}
			}
		}()
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	cuts := 0
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case <-s.progress: // some calls have come through since the last cut
			if cuts++; cuts%2 == 0 {
				session.Cut()
			}
			session.Connect()
		}
	}
	if cuts < 10 {
		t.Errorf("only %d cuts", cuts)
	}
	for n := uint64(1000); n < 1000+callers*each; n++ {
		if s.times(n) != 1 {
			t.Errorf("call %d executed %d times", n, s.times(n))
		}
	}
}

// A reply that was lost with its connection is given again from the slot.
func TestReplayWhileRunning(t *testing.T) {
	s := newService()
	session := rpctest.New(t, rpc.Config{Root: &s.mux}, rpc.Config{})
	done := make(chan error)
	go func() { done <- rpc.Call(testContext(t), session.Client, opHold, &number{7}, &number{}) }()
	<-s.holding
	session.Cut()
	session.Connect()
	close(s.hold)
	if err := <-done; err != nil || s.times(7) != 1 {
		t.Fatalf("%v, executed %d times", err, s.times(7))
	}
}

// A cancelled call that may have begun ends with its true reply while the
// connection stands, and is left alone, not lost, when it does not.
func TestCancelOfAChange(t *testing.T) {
	s := newService()
	session := rpctest.New(t, rpc.Config{Root: &s.mux}, rpc.Config{})
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error)
	var res number
	go func() { done <- rpc.Call(ctx, session.Client, opHold, &number{8}, &res) }()
	<-s.holding
	cancel()
	s.hold <- struct{}{}
	if err := <-done; err != nil || res.N != 8 {
		t.Fatalf("cancelled after it began: %v", err)
	}

	ctx, cancel = context.WithCancel(testContext(t))
	go func() { done <- rpc.Call(ctx, session.Client, opHold, &number{9}, &res) }()
	<-s.holding
	session.Cut()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled without a connection: %v", err)
	}
	session.Connect()
	s.hold <- struct{}{}
	if err := rpc.Call(testContext(t), session.Client, opEcho, &number{1}, &res); err != nil || s.times(9) != 1 {
		t.Fatalf("%v, executed %d times", err, s.times(9))
	}
}

func TestOrder(t *testing.T) {
	s := newService()
	_, client := rpctest.Pair(t, &s.mux, nil)
	ctx := testContext(t)
	first := make(chan rpc.Dep, 1)
	done := make(chan error, 2)
	go func() {
		_, err := rpc.CallWith(ctx, client, opHold, &number{20}, &number{}, rpc.Extra{Started: func(d rpc.Dep) { first <- d }})
		done <- err
	}()
	dep := <-first
	second := make(chan error, 1)
	go func() {
		_, err := rpc.CallWith(ctx, client, opCount, &number{21}, &number{}, rpc.Extra{After: []rpc.Dep{dep}})
		second <- err
	}()
	<-s.holding
	// Something that came later has been answered; the dependent call waits.
	if err := rpc.Call(ctx, client, opEcho, &number{}, &number{}); err != nil || s.times(21) != 0 {
		t.Fatalf("%v; the dependent call ran %d times", err, s.times(21))
	}
	close(s.hold)
	if err := errors.Join(<-done, <-second); err != nil || s.times(21) != 1 {
		t.Fatalf("%v, %d", err, s.times(21))
	}

	var failed rpc.Dep
	_, err := rpc.CallWith(ctx, client, opCount, &number{13}, &number{}, rpc.Extra{Started: func(d rpc.Dep) { failed = d }})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	_, err = rpc.CallWith(ctx, client, opCount, &number{22}, &number{}, rpc.Extra{After: []rpc.Dep{failed}})
	if !errors.Is(err, syscall.ECANCELED) || s.times(22) != 0 {
		t.Fatalf("after a failure: %v, ran %d times", err, s.times(22))
	}
}

func TestSlotReplyIsBounded(t *testing.T) {
	s := newService()
	_, client := rpctest.Pair(t, &s.mux, nil)
	err := rpc.Call(testContext(t), client, opBig, &text{S: make([]byte, rpc.MaxSlotReply)}, &text{})
	if !errors.Is(err, rpc.ErrInternal) {
		t.Fatal(err)
	}
}

func TestBudgetBoundsButServes(t *testing.T) {
	s := newService()
	budget := rpc.NewBudget(3<<20, 3<<20)
	share := budget.User("a")
	defer share.Close()
	session := rpctest.New(t, rpc.Config{Root: &s.mux, Share: share}, rpc.Config{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			into := make([]byte, rpc.MaxPayload)
			for range 10 {
				if _, err := rpc.CallWith(testContext(t), session.Client, opFetch, &number{rpc.MaxPayload}, &number{}, rpc.Extra{Into: into}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
}

// deaf swallows what is written to it, so that its peer hears nothing.
type deaf struct{ rpctest.Transport }

func (d deaf) Write(p []byte) (int, error) { return len(p), nil }

func TestSilentPeerIsNoticed(t *testing.T) {
	s := newService()
	cfg := rpc.Config{Root: &s.mux, PingInterval: 20 * time.Millisecond, PingTimeout: 100 * time.Millisecond}
	session := rpctest.New(t, rpc.Config{Root: &s.mux}, cfg)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ctx := testContext(t); session.Client.RTT() == 0; <-tick.C {
		if ctx.Err() != nil {
			t.Fatal("no ping was answered")
		}
	}
	if err := session.ConnectOver(func(c rpctest.Transport) rpc.Transport { return deaf{c} }); !errors.Is(err, rpc.ErrIdle) {
		t.Fatalf("a connection on which nothing comes back: %v", err)
	}
}

// Bulk connections that joined carry payloads, and the end of one ends the
// epoch: what was under way is answered in the next.
func TestBulkConnections(t *testing.T) {
	s := newService()
	session := rpctest.New(t, rpc.Config{Root: &s.mux}, rpc.Config{})
	ctx := testContext(t)
	var res number
	if err := rpc.Call(ctx, session.Client, opEcho, &number{1}, &res); err != nil {
		t.Fatal(err)
	}
	session.Join()
	session.Join()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			data := make([]byte, 300_000)
			into := make([]byte, len(data))
			var res number
			for i := range 30 {
				n := uint64(5000 + g*100 + i)
				fill(data, n)
				if _, err := rpc.CallWith(ctx, session.Client, opStore, &number{n}, &res, rpc.Extra{Data: data}); err != nil || s.times(n) != 1 {
					t.Errorf("store %d: %v, executed %d times", n, err, s.times(n))
				}
				if got, err := rpc.CallWith(ctx, session.Client, opFetch, &number{uint64(len(into))}, &res, rpc.Extra{Into: into}); err != nil || got != len(into)*3/4 {
					t.Errorf("fetch: %d, %v", got, err)
				}
				if g == 0 && i == 15 {
					session.CutJoined()
					session.Connect()
				}
			}
		}()
	}
	wg.Wait()
}

func TestDrain(t *testing.T) {
	s := newService()
	session := rpctest.New(t, rpc.Config{Root: &s.mux}, rpc.Config{})
	done := make(chan error)
	go func() { done <- rpc.Call(testContext(t), session.Client, opHold, &number{30}, &number{}) }()
	<-s.holding
	drained := make(chan error)
	go func() { drained <- session.Server.Drain(testContext(t)) }()
	close(s.hold)
	if err := errors.Join(<-done, <-drained); err != nil {
		t.Fatal(err)
	}
	if session.Server.Connected() {
		t.Fatal("still connected")
	}
}

package rpc_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// still is a connection that nothing passes while the gate is locked.
type still struct {
	rpctest.Transport
	gate *sync.RWMutex
}

func (c still) Read(b []byte) (int, error) {
	n, err := c.Transport.Read(b)
	c.gate.RLock()
	defer c.gate.RUnlock()
	return n, err
}

func (c still) Write(b []byte) (int, error) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	return c.Transport.Write(b)
}

// awaitEpoch waits until calls can be sent in an epoch.
func awaitEpoch(p *rpc.Peer, epoch uint32) {
	for p.Epoch() != epoch || p.Turns()%2 == 0 {
		time.Sleep(time.Millisecond)
	}
}

// Calls that are left return while their connection stands still, with more data in
// it than it takes. They are executed once all the same, with the data that they had,
// and their end is told.
func TestLeave(t *testing.T) {
	const calls, size = 24, 1 << 20
	s := newService()
	session := rpctest.New(t, rpc.Config{Root: &s.mux}, rpc.Config{})
	var gate sync.RWMutex
	ended := make(chan error, 1)
	go func() {
		ended <- session.ConnectOver(func(c rpctest.Transport) rpc.Transport { return still{c, &gate} })
	}()
	awaitEpoch(session.Client, 2)
	gate.Lock()

	ctx, cancel := context.WithCancel(context.Background())
	var calling sync.WaitGroup
	type end struct {
		n   uint64
		err error
	}
	ends := make(chan end, calls)
	for i := range uint64(calls) {
		started := make(chan struct{})
		calling.Go(func() {
			data := make([]byte, size)
			fill(data, i)
			_, err := rpc.CallWith(rpc.Leaving(ctx), session.Client, opStore, &number{i}, &number{}, rpc.Extra{
				Data: data, Started: func(rpc.Dep) { close(started) },
				Left: func(res any, err error) { ends <- end{res.(*number).N, err} },
			})
			if !errors.Is(err, context.Canceled) || !errors.Is(err, rpc.ErrLeft) {
				t.Errorf("call %d: %v", i, err)
			}
			clear(data) // it is the caller's again
		})
		<-started
	}
	for session.Client.Quiet() < 20*time.Millisecond {
		time.Sleep(time.Millisecond)
	}
	cancel()
	calling.Wait()
	gate.Unlock()
	<-ended
	session.Connect()
	for range calls {
		if e := <-ends; e.err != nil || e.n != size {
			t.Errorf("left: %d bytes, %v", e.n, e.err)
		}
	}
	for i := range uint64(calls) {
		if n := s.times(i); n != 1 {
			t.Errorf("call %d: executed %d times", i, n)
		}
	}
}

// A reply that stands still in the middle of its data is not waited for either.
func TestLeaveReply(t *testing.T) {
	s := newService()
	session := rpctest.New(t, rpc.Config{Root: &s.mux}, rpc.Config{})
	half := &halfway{after: 64 << 10, reached: make(chan struct{}), open: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- session.ConnectOver(func(c rpctest.Transport) rpc.Transport {
			half.Transport = c
			return half
		})
	}()
	awaitEpoch(session.Client, 2)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	into := make([]byte, 1<<20)
	go func() {
		_, err := rpc.CallWith(rpc.Leaving(ctx), session.Client, opFetch, &number{1 << 20}, &number{}, rpc.Extra{Into: into})
		done <- err
	}()
	<-half.reached
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	clear(into)
	close(half.open)
	session.Connect() // it may have been left before any of the data was there
	<-ended
}

// halfway is a connection on which what is written stands still from a byte on.
type halfway struct {
	rpctest.Transport
	after         int
	reached, open chan struct{}
}

func (c *halfway) Write(b []byte) (int, error) {
	if c.after -= len(b); c.after < 0 {
		select {
		case <-c.reached:
		default:
			close(c.reached)
		}
		<-c.open
	}
	return c.Transport.Write(b)
}

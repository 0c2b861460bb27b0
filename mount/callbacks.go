package mount

import (
	"context"
	"sync"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// Callbacks answers the daemon's calls to a mount. It is made before the session
// is dialled, because calls may come with the first connection, and given to
// Attach.
type Callbacks struct {
	mux rpc.Mux

	mu    sync.Mutex
	last  uint64                        // number of a wait
	waits map[uint64]chan syscall.Errno // capacity 1
	fs    *FS                           // nil: not attached yet
}

// NewCallbacks returns Callbacks without a mount.
func NewCallbacks() *Callbacks {
	c := &Callbacks{waits: make(map[uint64]chan syscall.Errno)}
	rpc.Handle(&c.mux, fsproto.LkGranted, c.lkGranted)
	rpc.Handle(&c.mux, fsproto.LocksLost, c.locksLost)
	rpc.Handle(&c.mux, fsproto.Recall, c.recall)
	rpc.Handle(&c.mux, fsproto.Events, c.events)
	return c
}

// Mux answers the daemon's calls.
func (c *Callbacks) Mux() *rpc.Mux { return &c.mux }

// serve answers for fs from now on.
func (c *Callbacks) serve(fs *FS) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fs = fs
}

func (c *Callbacks) served() *FS {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fs
}

// wait returns a new number for a lock that may have to be waited for, and where
// its end will be told: 0 that it is set.
func (c *Callbacks) wait() (uint64, <-chan syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	ch := make(chan syscall.Errno, 1)
	c.waits[c.last] = ch
	return c.last, ch
}

// forget gives a number up.
func (c *Callbacks) forget(number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waits, number)
}

func (c *Callbacks) lkGranted(_ context.Context, _ *rpc.Request, req *fsproto.LkGrantedReq, _ *fsproto.Empty) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range req.Grants {
		if ch := c.waits[g.Wait]; ch != nil {
			delete(c.waits, g.Wait)
			ch <- syscall.Errno(g.Errno)
		}
	}
	return nil
}

func (c *Callbacks) locksLost(_ context.Context, _ *rpc.Request, req *fsproto.LocksLostReq, _ *fsproto.Empty) error {
	if fs := c.served(); fs != nil && fs.locks != nil {
		fs.locksLost(req.Handles)
	}
	return nil
}

func (c *Callbacks) recall(ctx context.Context, _ *rpc.Request, req *fsproto.RecallReq, _ *fsproto.Empty) error {
	if fs := c.served(); fs != nil && fs.leases != nil {
		fs.recall(ctx, req)
	}
	return nil
}

func (c *Callbacks) events(_ context.Context, _ *rpc.Request, req *fsproto.EventsReq, _ *fsproto.Empty) error {
	if fs := c.served(); fs != nil {
		fs.inject.add(req)
	}
	return nil
}

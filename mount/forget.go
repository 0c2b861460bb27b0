package mount

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// maxForgets bounds the nodes that wait to be forgotten at the daemon. Beyond
// it they are left to the end of the session: holding the kernel back here
// would stop every other request.
const maxForgets = 1 << 20

// clock is a counter that several goroutines advance.
type clock struct{ n atomic.Uint64 }

func (c *clock) next() uint64 { return c.n.Add(1) }
func (c *clock) read() uint64 { return c.n.Load() }

// forgetQueue tells the daemon of forgotten nodes, from one goroutine. While a
// batch is under way the next one gathers.
type forgetQueue struct {
	send   func(context.Context, []fsproto.Forgotten) error
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{} // capacity 1

	mu      sync.Mutex
	waiting []fsproto.Forgotten
	dropped bool
	batch   chan struct{} // closed when the next batch has been sent
}

func newForgetQueue(send func(context.Context, []fsproto.Forgotten) error, log *slog.Logger) *forgetQueue {
	ctx, cancel := context.WithCancel(context.Background())
	q := &forgetQueue{send: send, log: log, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1), batch: make(chan struct{})}
	go q.run(rpc.Leaving(ctx))
	return q
}

// add never waits, and reports whether the node will be given to send.
func (q *forgetQueue) add(f fsproto.Forgotten) bool {
	q.mu.Lock()
	if len(q.waiting) >= maxForgets {
		if !q.dropped {
			q.log.Warn("the daemon is too slow in forgetting files; some stay until the session ends")
		}
		q.dropped = true
		q.mu.Unlock()
		return false
	}
	q.waiting = append(q.waiting, f)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// stop ends the worker; what still waits ends with the session.
func (q *forgetQueue) stop() {
	q.cancel()
	<-q.done
}

func (q *forgetQueue) run(ctx context.Context) {
	defer close(q.done)
	for {
		batch := q.take()
		if batch == nil {
			select {
			case <-q.wake:
			case <-ctx.Done():
				return
			}
			continue
		}
		if err := q.send(ctx, batch); err != nil {
			q.log.Debug("forget", "nodes", len(batch), "err", err)
		}
		if ctx.Err() != nil {
			return
		}
		q.mu.Lock()
		close(q.batch)
		q.batch = make(chan struct{})
		q.mu.Unlock()
	}
}

// sent returns what is closed when the daemon has been told of more nodes.
func (q *forgetQueue) sent() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.batch
}

// take returns up to fsproto.MaxForget nodes, or nil.
func (q *forgetQueue) take() []fsproto.Forgotten {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), fsproto.MaxForget)
	if n == 0 {
		q.waiting = nil
		return nil
	}
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return batch
}

package mount

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/rpc"
)

const (
	// patience is how long a request runs before anyone looks whether it has
	// been interrupted; most have ended by then.
	patience = 50 * time.Millisecond
	// interruptGrace is how long an interrupted request of a caller that is not
	// being killed goes on, so that a timer's signal does no harm.
	interruptGrace = 5 * time.Second
)

// request is the context of one request of the kernel. It ends when the request
// was interrupted and the caller has a fatal signal pending or, if the request
// changes nothing, when interruptGrace has passed. Signals with handlers
// (timers, the Go runtime's preemption) end no change: it goes on in its slot,
// and a repeated mkdir would find its own directory.
//
// Nothing is started for a request that ends within patience.
type request struct {
	cancel <-chan struct{} // closed by go-fuse when the kernel interrupts
	pid    uint32
	fatal  bool // only a fatal signal ends it
	done   chan struct{}
	timer  *time.Timer

	mu    sync.Mutex
	over  bool          // end has been called
	ended chan struct{} // set by watch; closed by end
}

// begin returns the context for a request; its end must be called before the
// handler returns, because go-fuse uses cancel again.
func begin(cancel <-chan struct{}, h *fuse.InHeader, op *rpc.Info) *request {
	r := &request{cancel: cancel, pid: h.Pid, fatal: op.Slotted(), done: make(chan struct{})}
	r.timer = time.AfterFunc(patience, r.watch)
	return r
}

func (r *request) end() {
	if r.timer.Stop() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	if r.ended != nil {
		close(r.ended)
	}
}

// watch runs for requests that take longer than patience.
func (r *request) watch() {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return
	}
	r.ended = make(chan struct{})
	r.mu.Unlock()

	select {
	case <-r.ended:
		return
	case <-r.cancel:
	}
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for deadline := time.Now().Add(interruptGrace); !beingKilled(r.pid) && (r.fatal || time.Now().Before(deadline)); {
		select {
		case <-r.ended:
			return
		case <-tick.C:
		}
	}
	close(r.done)
}

// Deadline implements context.Context: there is none.
func (r *request) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (r *request) Done() <-chan struct{} { return r.done }

// Err implements context.Context.
func (r *request) Err() error {
	select {
	case <-r.done:
		return context.Canceled
	default:
		return nil
	}
}

// Value implements context.Context: there are none.
func (r *request) Value(any) any { return nil }

// beingKilled reports whether the thread has SIGKILL pending, which the kernel
// sets for every signal that ends a process. A caller that is gone or that this
// process may not see counts as killed.
func beingKilled(tid uint32) bool {
	if tid == 0 {
		return true
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return true
	}
	return killPending(status)
}

// killPending finds SIGKILL in the pending sets of a /proc/PID/status.
func killPending(status []byte) bool {
	const sigkill = 1 << (9 - 1)
	for _, name := range []string{"SigPnd", "ShdPnd"} {
		line := statusLine(status, name)
		if line == nil {
			continue
		}
		set, err := strconv.ParseUint(string(line), 16, 64)
		if err != nil || set&sigkill != 0 {
			return true
		}
	}
	return false
}

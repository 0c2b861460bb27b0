package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

const (
	// patience is how long a request runs before anyone looks whether it has
	// been interrupted; most have ended by then.
	patience = 50 * time.Millisecond
	// glance is how often a request is looked at that is about to be given up.
	glance = 15 * time.Millisecond
	// interruptGrace is how long an interrupted request of a caller that is not
	// being killed goes on, so that a timer's signal does no harm.
	interruptGrace = 5 * time.Second
)

// Why requests end before they are answered.
var (
	errTimedOut = fmt.Errorf("the server does not answer: %w", syscall.ETIMEDOUT)
	errApart    = errors.New("the server is out of reach")
)

// manner says how a request waits.
type manner uint8

const (
	// brief requests are answered from memory if the daemon is out of reach.
	brief manner = 1 << iota
	// dying requests are not waited for by a process that is about to be gone.
	dying
	// locking requests end with any signal, as waiting for a lock does.
	locking
)

// request is the context of one request of the kernel. When it ends without an
// answer, and how:
//
//	the caller is being killed     at once; if the daemon is out of reach a change that
//	                               may have begun is left to itself (rpc.Leaver)
//	another signal, daemon there   after interruptGrace, if the request changes nothing
//	another signal, daemon away    at once, if it asks to end and nothing was sent that
//	                               changes something; timers do no harm
//	timeo is over, soft mount      with ETIMEDOUT, if the daemon is silent
//	the mount is gone              at once
//
// So a change that was sent goes on whatever signal comes, and a repeated mkdir does
// not find its own directory.
//
// Nothing is started for a request that ends within patience.
type request struct {
	link   *link
	cancel <-chan struct{} // closed by go-fuse when the kernel interrupts
	pid    uint32
	info   *rpc.Info
	manner manner
	turns  uint32 // of the peer, when it began
	done   chan struct{}
	timer  *time.Timer // nil: it has ended before it began

	since       time.Time // when it began
	interrupted time.Time // used by watch only
	told        time.Time // the same: when its signal began to count

	mu    sync.Mutex
	over  bool          // end has been called
	ended chan struct{} // set by watch; closed by end
	err   error         // why done is closed
	left  chan struct{} // made on demand
	leave bool          // left is closed
}

var _ rpc.Leaver = (*request)(nil)

func (r *request) op() *rpc.Info { return r.info }

// begin returns the context for a request; its end must be called before the
// handler returns, because go-fuse uses cancel again.
func (fs *FS) begin(cancel <-chan struct{}, h *fuse.InHeader, op *rpc.Info, how manner) *request {
	r := &request{link: fs.link, cancel: cancel, pid: h.Pid, info: op, manner: how, turns: fs.peer.Turns(), done: make(chan struct{})}
	if fs.link.fails() && !r.faulting() {
		r.giveUp(errTimedOut)
		return r
	}
	soon := patience
	if how&(brief|dying) != 0 {
		soon = glance
	}
	r.since = time.Now()
	r.timer = time.AfterFunc(soon, r.watch)
	return r
}

func (r *request) end() {
	if r.timer == nil || r.timer.Stop() {
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

	defer r.link.wait(r, r.pid, r.since)()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	cancel := r.cancel
	for {
		next := r.judge(time.Now())
		timer.Reset(next)
		select {
		case <-r.ended:
			return
		case <-cancel:
			r.interrupted = time.Now()
			r.told = r.interrupted
			cancel = nil
		case <-timer.C:
		}
	}
}

// judge ends the request if it is time, and returns when to look again.
func (r *request) judge(now time.Time) (next time.Duration) {
	l := r.link
	next = time.Hour
	signalled := !r.interrupted.IsZero()
	switch {
	case signalled && l.gone():
		r.giveUp(context.Canceled)
		r.leaveNow()
		return next
	case signalled && beingKilled(r.pid):
		r.giveUp(context.Canceled)
		if l.apart() {
			r.leaveNow()
			return next
		}
		return glance
	case signalled:
		next = glance
		if r.endedBySignal(now) {
			r.giveUp(context.Canceled)
			if r.manner&locking != 0 {
				r.leaveNow() // the lock is given back behind it
			}
		}
		if now.Sub(r.interrupted) > 10*glance {
			next = patience
		}
	}
	if r.manner&(brief|dying) != 0 {
		next = min(next, glance)
		if (r.manner&brief != 0 || exiting(r.pid)) && l.apart() {
			r.giveUp(errApart)
			r.leaveNow()
		}
	}
	if l.soft {
		if left := l.timeo/2 - now.Sub(r.since); left > 0 {
			return min(next, left)
		}
		if l.expired(r.since, now) && !r.faulting() {
			r.giveUp(errTimedOut)
			r.leaveNow()
		}
		next = min(next, max(l.timeo/64, time.Millisecond))
	}
	return next
}

// endedBySignal reports whether a signal that does not kill ends the request.
func (r *request) endedBySignal(now time.Time) bool {
	if r.link.apart() {
		r.told = now // if the daemon comes back there is time for its answer
		if r.manner&locking != 0 {
			return true
		}
		sent := r.turns%2 == 1 || r.link.peer.Turns() != r.turns
		return (!r.info.Slotted() || !sent) && asksToEnd(r.pid)
	}
	return !r.info.Slotted() && now.Sub(r.told) >= interruptGrace
}

// faulting reports whether a read is for a page that a program has touched: it would
// be killed if it did not get it.
func (r *request) faulting() bool {
	if r.info != &fsproto.Read.Info {
		return false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", r.pid))
	return err == nil && bytes.HasPrefix(text, []byte("-1 "))
}

// giveUp ends the context. Only the first reason counts.
func (r *request) giveUp(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		close(r.done)
	}
}

// leaveNow makes a call that may have begun be left.
func (r *request) leaveNow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.leave {
		r.leave = true
		if r.left == nil {
			r.left = make(chan struct{})
		}
		close(r.left)
	}
}

// Left implements rpc.Leaver.
func (r *request) Left() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == nil {
		r.left = make(chan struct{})
	}
	return r.left
}

// Deadline implements context.Context: there is none.
func (r *request) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (r *request) Done() <-chan struct{} { return r.done }

// Err implements context.Context.
func (r *request) Err() error {
	select {
	case <-r.done:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.err
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
	for _, name := range []string{"SigPnd", "ShdPnd"} {
		line := statusLine(status, name)
		if line == nil {
			continue
		}
		set, err := strconv.ParseUint(string(line), 16, 64)
		if err != nil || set&signalBit(syscall.SIGKILL) != 0 {
			return true
		}
	}
	return false
}

func signalBit(s syscall.Signal) uint64 { return 1 << (s - 1) }

// asksToEnd reports whether the thread has a signal pending by which people end
// programs, and does not block it.
func asksToEnd(tid uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	return err == nil && endPending(status)
}

// endPending finds such signals in a /proc/PID/status.
func endPending(status []byte) bool {
	set := func(name string) uint64 {
		n, _ := strconv.ParseUint(string(statusLine(status, name)), 16, 64)
		return n
	}
	asking := signalBit(syscall.SIGINT) | signalBit(syscall.SIGTERM) | signalBit(syscall.SIGHUP) | signalBit(syscall.SIGQUIT)
	return (set("SigPnd")|set("ShdPnd"))&^set("SigBlk")&asking != 0
}

// exiting reports whether a thread is past all signals and on its way to its end.
func exiting(tid uint32) bool {
	const flagExiting = 4 // PF_EXITING
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", tid))
	if err != nil {
		return true
	}
	// The name in parentheses may hold anything. State is the first field behind it,
	// flags the seventh.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	return err == nil && flags&flagExiting != 0
}

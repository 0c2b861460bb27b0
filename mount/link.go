package mount

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/rpc"
)

const (
	// answerLimit is how long a ping may take at least before the server counts as
	// out of reach for who need not wait for it.
	answerLimit = 40 * time.Millisecond
	// DefaultTimeo is Config.Timeo unless that says otherwise.
	DefaultTimeo = 30 * time.Second
)

// link knows whether the daemon can be reached, and what waits for it.
type link struct {
	peer  *rpc.Peer
	soft  bool
	timeo time.Duration
	made  time.Time

	// ctx is for calls that no request of the kernel waits for. They are left as soon
	// as it ends, which is when the kernel has let go of the mount.
	ctx    context.Context
	cancel context.CancelFunc

	// failing is when a request was told last that the daemon had not been heard of
	// for timeo, in nanoseconds since made; 0: it has been heard of since.
	failing atomic.Int64

	mu      sync.Mutex
	fd      int                // of the device; -1: it is not mounted, or not any more
	waiting map[waiter]waiting // what has been waited for for longer than patience
	looking bool               // somebody looks whether the mount still stands
}

// waiter is something that waits for the daemon.
type waiter interface{ op() *rpc.Info }

// waiting is since when, and on behalf of which process.
type waiting struct {
	since time.Time
	pid   uint32
}

func newLink(peer *rpc.Peer, cfg *Config) *link {
	l := &link{peer: peer, soft: cfg.Soft, timeo: cfg.Timeo, made: time.Now(), fd: -1, waiting: make(map[waiter]waiting)}
	ctx, cancel := context.WithCancel(context.Background())
	l.ctx, l.cancel = rpc.Leaving(ctx), cancel
	return l
}

// connected reports whether calls can be sent, as far as that is known.
func (l *link) connected() bool { return l.peer.Turns()%2 == 1 }

// apart reports whether the daemon is out of reach: there is no connection, or it has
// not answered for longer than it usually takes. If it is asked again and again that
// shows within some answerLimit.
func (l *link) apart() bool { return l.peer.Quiet() > max(answerLimit, 2*l.peer.RTT()) }

// fails reports whether a request fails at once: the mount is soft, and the daemon has
// not been heard of for timeo.
func (l *link) fails() bool {
	if !l.soft {
		return false
	}
	failing := l.failing.Load()
	if l.connected() && failing == 0 {
		return false
	}
	heard := l.peer.Heard()
	if failing > 0 && heard.Sub(l.made) > time.Duration(failing) {
		l.failing.CompareAndSwap(failing, 0)
		failing = 0
	}
	return failing > 0 || !l.connected() && time.Since(heard) >= l.timeo
}

// expired reports whether a request that has waited since then has waited long enough
// on a soft mount. That the daemon is slow is no reason: it has to be silent as well.
func (l *link) expired(since, now time.Time) bool {
	quiet := l.peer.Quiet()                                       // pings it, too
	if now.Sub(since) < l.timeo-l.timeo/32 || quiet < l.timeo/4 { // by then it is answered
		return false
	}
	l.failing.Store(max(1, int64(now.Sub(l.made))))
	return true
}

// wait notes that w waits for the daemon, until the function that it returns is called.
func (l *link) wait(w waiter, pid uint32, since time.Time) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting[w] = waiting{since, pid}
	if !l.looking && l.fd >= 0 {
		l.looking = true
		go l.look()
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting, w)
	}
}

// lookEvery is how often it is looked whether a mount still stands for which something
// waits.
const lookEvery = 200 * time.Millisecond

// While something waits, a connection on which nothing has come for silence, and no
// answer to a ping for unanswered, is given up; otherwise that takes the session's own
// ping longer.
const (
	silence    = 2 * time.Second
	unanswered = 3 * time.Second
)

var errUnanswered = fmt.Errorf("no answer to a ping for %v while something waits", unanswered)

// look ends ctx when the kernel has let go of the mount, the connection when it is dead,
// and itself when nothing waits.
func (l *link) look() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for l.needed() {
		if l.gone() {
			return
		}
		if l.connected() && time.Since(l.peer.Heard()) > silence && l.peer.Quiet() > unanswered {
			l.peer.Drop(errUnanswered)
		}
		<-tick.C
	}
}

func (l *link) needed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looking = len(l.waiting) > 0 && l.fd >= 0
	return l.looking
}

// gone reports whether the kernel has let go of the mount, and ends ctx then.
func (l *link) gone() bool {
	if l.ctx.Err() != nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd < 0 {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(l.fd)}}
	if n, err := unix.Poll(fds, 0); n != 1 || err != nil || fds[0].Revents&unix.POLLERR == 0 {
		return false
	}
	l.cancel()
	return true
}

// mounted tells the descriptor of the device.
func (l *link) mounted(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fd = fd
}

// stop ends what is left; the device is about to be closed.
func (l *link) stop() {
	l.mounted(-1)
	l.cancel()
}

// behind makes a call that no request waits for.
func (l *link) behind(op *rpc.Info, call func(ctx context.Context) error) error {
	b := &background{info: op}
	var mu sync.Mutex
	end := func() {}
	t := time.AfterFunc(patience, func() {
		mu.Lock()
		defer mu.Unlock()
		if end != nil {
			end = l.wait(b, 0, time.Now().Add(-patience))
		}
	})
	err := call(l.ctx)
	if !t.Stop() {
		mu.Lock()
		defer mu.Unlock()
		end()
	}
	end = nil
	return err
}

// background is a call that no request waits for.
type background struct{ info *rpc.Info }

func (b *background) op() *rpc.Info { return b.info }

// status fills in what is known of the link.
func (l *link) status(s *Status) {
	s.Soft, s.Timeo, s.Failing = l.soft, l.timeo.Seconds(), l.fails()
	l.mu.Lock()
	defer l.mu.Unlock()
	at := make(map[string]int)
	for w, since := range l.waiting {
		name := w.op().Name
		i, ok := at[name]
		if !ok {
			i = len(s.Waiting)
			at[name] = i
			s.Waiting = append(s.Waiting, WaitStatus{Op: name})
		}
		e := &s.Waiting[i]
		if e.Count++; e.Count == 1 || since.since.Before(e.Since) {
			e.Since, e.PID = since.since, since.pid
		}
	}
	slices.SortFunc(s.Waiting, func(a, b WaitStatus) int { return a.Since.Compare(b.Since) })
}

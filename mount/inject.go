package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// Programs that wait for changes by inotify(7) are told by the kernel, and only of what
// it has done itself. So what others have done is done once more: a thread of this
// process makes a system call on the mount that would have had the same effect, and the
// requests that the kernel makes of it are answered from memory (injection), so that
// nothing happens but the event. The kernel says in each request which thread it is for.
//
// The daemon tells what others have done (fsproto.Events), after the kernel had to drop
// what it had cached of it. It comes into a queue; only what somebody watches is
// injected (watches), one change at a time.
//
// The call takes locks in the kernel that other requests may hold, which wait for the
// daemon, who may wait for us. Nothing waits for the call: the thread that makes it does
// nothing else, and is left behind if that takes too long.

const (
	// maxInjections bounds the queue. What comes beyond it is left out.
	maxInjections = 4096
	// maxThreads is how many threads may be left behind, and one; then injecting pauses.
	maxThreads = 5
	// injectTries is how often a call is made whose names the kernel did not look up.
	injectTries = 3
	// probeTimeout is how long the first call of all may take.
	probeTimeout = 10 * time.Second
)

// injector makes the kernel tell what others have done. nil is one that never does.
type injector struct {
	fs   *FS
	log  *slog.Logger
	dir  string // where it is mounted
	dev  string // major:minor
	void void

	watches *watches
	threads [maxThreads]atomic.Pointer[injectThread]
	current *injectThread // used by run only
	freed   chan struct{} // capacity 1: a thread that was left behind is back
	left    sync.WaitGroup

	wake   chan struct{} // capacity 1
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // nil: not started
	probed chan struct{} // closed when it is known whether there are events

	mu    sync.Mutex
	queue []queued
	why   string // there are no events; "": there are, or it is not known yet

	told, lost atomic.Uint64 // changes that the kernel told of; that were left out
}

// queued is a change that has come to be known.
type queued struct {
	event fsproto.Event
	came  time.Time
}

func newInjector(fs *FS) *injector {
	in := &injector{fs: fs, log: fs.log, void: newVoid(fs), freed: make(chan struct{}, 1), wake: make(chan struct{}, 1), probed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	in.ctx, in.cancel = rpc.Leaving(ctx), cancel
	return in
}

// start is called at most once, when the kernel's requests are about to be answered.
func (in *injector) start(m *Mounted) {
	if in == nil {
		return
	}
	in.dir, in.dev, in.done = m.Dir, m.Dev, make(chan struct{})
	go in.run()
}

// stop ends it. The kernel makes no requests any more.
func (in *injector) stop() {
	if in == nil {
		return
	}
	in.cancel()
	if in.done != nil {
		<-in.done
		in.left.Wait()
	}
}

// add takes note of changes. It never waits.
func (in *injector) add(req *fsproto.EventsReq) {
	if in == nil {
		return
	}
	now := time.Now()
	in.mu.Lock()
	defer in.mu.Unlock()
	if req.Lost {
		in.lost.Add(1)
	}
	for _, e := range req.Events {
		if in.why != "" || len(in.queue) >= maxInjections {
			in.lost.Add(1)
			continue
		}
		in.queue = append(in.queue, queued{e, now})
	}
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// state tells for status whether there are events.
func (in *injector) state() string {
	if in == nil {
		return "off"
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.why != "" {
		return "off: " + in.why
	}
	return "on"
}

func (in *injector) run() {
	defer close(in.done)
	defer in.retire()
	var err error
	if in.why != "" {
		err = errors.New(in.why)
	} else {
		err = in.probe()
	}
	close(in.probed)
	if err != nil {
		if in.ctx.Err() == nil {
			in.giveUp(err)
		}
		return
	}
	for {
		q, ok := in.next()
		if !ok {
			return
		}
		in.follow(&q.event)
		if !in.watched(&q) {
			continue
		}
		err := in.tell(&q.event)
		switch {
		case err == nil:
			in.told.Add(1)
		case in.ctx.Err() != nil:
			return
		default:
			in.lost.Add(1)
			in.log.Debug("a change elsewhere cannot be told to who watches", "what", q.event.What, "name", q.event.Name, "err", err)
		}
	}
}

// follow notes where a rename has put what is known here, watched or not: a directory
// is found by its name again when the kernel has dropped it.
func (in *injector) follow(e *fsproto.Event) {
	if e.What != fsproto.EventRename {
		return
	}
	if e.Node != 0 && e.NewDir != 0 {
		in.fs.nodes.moved(e.Node, e.NewDir, e.NewName)
	} else if e.Dir != 0 && e.NewDir != 0 && !e.Exchange {
		in.fs.nodes.former.renamed(entryName{e.Dir, e.Name}, entryName{e.NewDir, e.NewName})
	}
	if e.Exchange && e.Replaced != 0 && e.Dir != 0 {
		in.fs.nodes.moved(e.Replaced, e.Dir, e.Name)
	}
}

// giveUp notes that there will be no events, and tells the daemon to send none.
func (in *injector) giveUp(err error) {
	in.log.Info("no inotify events for changes made elsewhere", "err", err)
	in.mu.Lock()
	in.why, in.queue = err.Error(), nil
	in.mu.Unlock()
	if _, err := in.fs.askLeases(in.ctx, false); err != nil {
		in.log.Debug("leases", "err", err)
	}
}

// none says from the start that there will be no events.
func (in *injector) none(why string) {
	if in != nil {
		in.why = why
	}
}

// next waits for a change.
func (in *injector) next() (q queued, ok bool) {
	for {
		in.mu.Lock()
		if len(in.queue) > 0 {
			q, in.queue = in.queue[0], in.queue[1:]
			in.mu.Unlock()
			return q, in.ctx.Err() == nil
		}
		in.queue = nil
		in.mu.Unlock()
		select {
		case <-in.wake:
		case <-in.ctx.Done():
			return q, false
		}
	}
}

// watched reports whether anybody watches what has changed. That nobody does is only
// believed if it was looked for since.
func (in *injector) watched(q *queued) bool {
	w, e := in.watches, &q.event
	for {
		has := w.any(e.Node, e.Dir, e.NewDir, e.Replaced)
		switch {
		case has && time.Since(w.began) < scanAgain:
			return true
		case w.began.After(q.came):
			return has
		case has && time.Now().Before(w.next):
			return true
		}
		if !in.sleep(time.Until(w.next)) {
			return false
		}
		w.look()
	}
}

// sleep reports whether the mount is still there afterwards.
func (in *injector) sleep(d time.Duration) bool {
	if d <= 0 {
		return in.ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-in.ctx.Done():
		return false
	}
}

// tell makes the kernel tell of one change.
func (in *injector) tell(e *fsproto.Event) error {
	for try := 1; ; try++ {
		j, err := in.prepare(e)
		if err != nil {
			return err
		}
		err = in.do(j, stuckAfter)
		if err == nil || try == injectTries || !errors.Is(err, errUnasked) {
			return err
		}
		for _, s := range j.shown {
			in.fs.notices.kernel.EntryNotify(uint64(s.dir), s.name)
		}
	}
}

// errLate says that a system call has not returned in time.
var errLate = errors.New("the kernel is busy there")

// do has a thread make the call of j, and waits for it.
func (in *injector) do(j *injection, limit time.Duration) error {
	t, err := in.thread()
	if err != nil {
		j.clean()
		return err
	}
	t.jobs <- j
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-j.done:
		return j.err
	case <-timer.C:
		in.retire()
		return errLate
	}
}

// thread returns the thread that makes calls, a new one if there is none. It waits if
// too many have been left behind.
func (in *injector) thread() (*injectThread, error) {
	for in.current == nil {
		for i := range in.threads {
			if in.threads[i].Load() == nil {
				in.current = &injectThread{slot: &in.threads[i], jobs: make(chan *injection)}
				in.left.Add(1)
				go in.current.run(in)
				break
			}
		}
		if in.current != nil {
			break
		}
		select {
		case <-in.freed:
		case <-in.ctx.Done():
			return nil, in.ctx.Err()
		}
	}
	return in.current, nil
}

// retire leaves the thread behind; it ends after the call that it is making.
func (in *injector) retire() {
	if in.current != nil {
		close(in.current.jobs)
		in.current = nil
	}
}

// injectThread is a thread that the kernel's requests name.
type injectThread struct {
	slot *atomic.Pointer[injectThread] // of injector.threads
	tid  uint32
	now  atomic.Pointer[injection] // the call that it is making
	jobs chan *injection

	moves bool // it has a working directory of its own
}

func (t *injectThread) run(in *injector) {
	defer in.left.Done()
	runtime.LockOSThread() // for good: the thread ends with this
	t.moves = unix.Unshare(unix.CLONE_FS) == nil
	t.tid = uint32(unix.Gettid())
	t.slot.Store(t)
	for j := range t.jobs {
		j.thread = t
		t.now.Store(j)
		j.err = j.make()
		t.now.Store(nil)
		j.clean()
		close(j.done)
	}
	t.slot.Store(nil)
	select {
	case in.freed <- struct{}{}:
	default:
	}
}

// of returns what a request is to be answered by; nil if it is not from a thread of the
// injector. Other than by that it is not answered.
func (in *injector) of(h *fuse.InHeader) *injection {
	if in == nil {
		return nil
	}
	for i := range in.threads {
		if t := in.threads[i].Load(); t != nil && t.tid == h.Pid {
			if j := t.now.Load(); j != nil {
				return j
			}
			return &injection{by: in}
		}
	}
	return nil
}

// probe finds out whether all this works here: an entry is made and removed where no
// program gets to.
func (in *injector) probe() (err error) {
	if in.watches, err = newWatches(in.dev); err != nil {
		return err
	}
	for _, what := range []uint8{fsproto.EventCreate, fsproto.EventDelete} {
		j := in.newInjection(&fsproto.Event{What: what, Kind: syscall.S_IFREG, Dir: in.void.node, Name: voidEntry})
		if what == fsproto.EventCreate {
			j.create(in.unknown(syscall.S_IFREG))
		} else {
			s := in.unknown(syscall.S_IFREG)
			s.entry.Attr.Nlink = 1
			j.remove(s)
		}
		if err := in.do(j, probeTimeout); err != nil {
			return fmt.Errorf("tried on the mount: %w", err)
		}
	}
	return nil
}

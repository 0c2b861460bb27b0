package export

import (
	"time"

	"github.com/rpycfs/rpycfs/internal/beneath"
	"golang.org/x/sys/unix"
)

// Of two things no event tells: stores into a shared mapping, and changes through a
// name in a directory that is not watched. So leased files are looked at now and then:
// whether their attributes are what they were, and whether a program has them open for
// writing. As long as one has, leases on them are taken back at each look, as stores
// need not move any attribute. All files that sessions have open are looked at and all
// that had such a writer the last time, up to a limit; of the others a few at random.

const (
	storesEvery  = 500 * time.Millisecond
	storesOpen   = 250 // files that sessions have open, at each look
	storesHot    = 250 // files that programs were writing
	storesRandom = 100 // others
)

// looked is what a file was when it was looked at last, guarded by leases.mu.
type looked struct {
	change, clock uint64 // 0: never
}

// sweepStores looks at leased files until the export is closed.
func (e *Export) sweepStores() {
	defer e.done.Done()
	tick := time.NewTicker(storesEvery)
	defer tick.Stop()
	var hot []*node // references are held
	defer func() { e.unrefAll(hot...) }()
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
			hot = e.lookAtFiles(hot)
		}
	}
}

// lookAtFiles looks at files, hot ones first, and returns those that programs are
// writing. References are taken over and handed over.
func (e *Export) lookAtFiles(hot []*node) (still []*node) {
	files, ours := e.openFiles()
	done := make(map[*node]bool)
	for _, n := range append(append(hot, files...), e.someFiles()...) {
		if done[n] || !e.lookAt(n, ours[n]) || len(still) == storesHot {
			e.unref(n)
		} else {
			still = append(still, n)
		}
		done[n] = true
	}
	return still
}

// openFiles returns leased files that sessions have open, with references, and which
// of all are open for writing.
func (e *Export) openFiles() (files []*node, ours map[*node]bool) {
	e.leases.mu.Lock()
	sessions := make([]*Session, 0, len(e.leases.sessions))
	for s := range e.leases.sessions {
		sessions = append(sessions, s)
	}
	e.leases.mu.Unlock()
	ours = make(map[*node]bool)
	for _, s := range sessions {
		s.mu.Lock()
		for _, h := range s.handles {
			if h == nil || h.r.n.kind != unix.S_IFREG {
				continue
			}
			ours[h.r.n] = ours[h.r.n] || h.writes
			if len(files) < storesOpen {
				s.e.keep(h.r.n)
				files = append(files, h.r.n)
			}
		}
		s.mu.Unlock()
	}
	return files, ours
}

// someFiles returns a few leased files, with references.
func (e *Export) someFiles() (files []*node) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leases.mu.Lock()
	defer e.leases.mu.Unlock()
	if e.leases.blind || len(e.leases.sessions) == 0 {
		return nil
	}
	tried := 0
	for _, n := range e.nodes { // in an order of its own each time
		if tried++; tried > 10*storesRandom || len(files) == storesRandom {
			break
		}
		if n.kind == unix.S_IFREG && len(n.holders) > 0 {
			n.refs++
			files = append(files, n)
		}
	}
	return files
}

// lookAt takes back leases on a file that has been changed, or may be being changed,
// and reports whether the latter. Ours says that a session has it open for writing.
func (e *Export) lookAt(n *node, ours bool) (written bool) {
	clock, leased := e.leases.quiet(n)
	if !leased {
		return false
	}
	e.keep(n)
	p, err := e.acquire(n)
	if err != nil {
		e.unref(n)
		return false
	}
	defer e.release(n)
	if !ours {
		written, _ = p.HasWriters() // else attributes are all there is to go by
	}
	var st beneath.Stat
	if st, err = p.Stat(); err == nil {
		e.leases.look(n, looked{attrOf(&st).Change, clock}, written)
	}
	return written
}

// quiet returns the clock at the last change of a file. leased is false if nobody has
// a lease on it, or a session is changing it now.
func (l *leases) quiet(n *node) (clock uint64, leased bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return n.changed, len(n.holders) > 0 && len(n.changers) == 0
}

// look takes leases back if the file is written, or is not as it was looked at last
// although nobody is known to have changed it.
func (l *leases) look(n *node, now looked, written bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.changed != now.clock || len(n.changers) > 0 {
		return // somebody has, meanwhile
	}
	last := n.looked
	n.looked = now
	if written || last.clock == now.clock && last.change != now.change && last.change != 0 {
		l.foreignLocked(n, recallWhole, "")
		n.looked.clock = n.changed
	}
}

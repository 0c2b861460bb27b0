package export

import (
	"slices"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

// maxDepth bounds how many directories are walked up to find or check a node.
const maxDepth = 4096

// acquire returns n's descriptor, which stays open until release. The caller
// holds a reference of n, which release takes over.
func (e *Export) acquire(n *node) (*beneath.Path, error) {
	if p, _ := e.held(n); p != nil {
		return p, nil
	}
	return e.reacquire(n)
}

// held returns n's descriptor as acquire does if it has one, and otherwise names
// that it had.
func (e *Export) held(n *node) (*beneath.Path, []hint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n.path == nil {
		return nil, slices.Clone(n.hints)
	}
	e.take(n)
	return n.path, nil
}

// reacquire finds n again. That takes the daemon's rights: who uses an object
// need not be able to search the way to it any longer.
func (e *Export) reacquire(n *node) (p *beneath.Path, err error) {
	e.asDaemon(func() { p, err = e.acquireAt(n, 0) })
	return p, err
}

func (e *Export) acquireAt(n *node, depth int) (*beneath.Path, error) {
	p, hints := e.held(n)
	if p != nil {
		return p, nil
	}
	if n.kernel.Data != "" {
		if p, err := e.rootDir.OpenHandle(n.kernel); err == nil {
			if p, err = e.expect(n, p); err == nil {
				return e.install(n, p), nil
			}
		}
	}
	for _, h := range hints {
		if p, err := e.reopen(n, h, depth); err == nil {
			return e.install(n, p), nil
		} else if !isErrno(err, syscall.ENOENT, syscall.ESTALE, syscall.ENOTDIR) {
			return nil, err
		}
	}
	return nil, syscall.ESTALE
}

// reopen looks for n under one of its names.
func (e *Export) reopen(n *node, h hint, depth int) (*beneath.Path, error) {
	dir := e.find(h.dir)
	if dir == nil || depth > maxDepth {
		if dir != nil {
			e.unref(dir)
		}
		return nil, syscall.ESTALE
	}
	d, err := e.acquireAt(dir, depth+1)
	if err != nil {
		e.unref(dir)
		return nil, err
	}
	defer e.release(dir)
	p, err := d.Walk(h.name)
	if err != nil {
		return nil, err
	}
	return e.expect(n, p)
}

// expect closes p with ESTALE unless it is n.
func (e *Export) expect(n *node, p *beneath.Path) (*beneath.Path, error) {
	st, err := p.Stat()
	if err == nil {
		err = e.within(&st)
	}
	var id ident
	if err == nil {
		id, err = identOf(&st, p.Handle)
	}
	if err == nil && id != n.id {
		err = syscall.ESTALE
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// hold returns the node with an identity if it has a descriptor, which is
// acquired, and remembers the name. Otherwise it returns nil.
func (e *Export) hold(id ident, at hint, links uint32) *node {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.nodes[id]
	if n == nil || n.path == nil {
		return nil
	}
	e.take(n)
	return e.metLocked(id, at, links)
}

// install makes p the descriptor of n and counts the caller as a user. If n got
// one meanwhile, that is returned and p closed.
func (e *Export) install(n *node, p *beneath.Path) *beneath.Path {
	var spare *beneath.Path
	e.mu.Lock()
	if n.path == nil {
		n.path = p
	} else {
		spare = p
	}
	e.take(n)
	p = n.path
	e.mu.Unlock()
	if spare != nil {
		spare.Close()
	}
	return p
}

// take counts a user of n's descriptor; mu is held.
func (e *Export) take(n *node) {
	n.users++
	if n.place != nil {
		e.idle.Remove(n.place)
		n.place = nil
	}
}

// release ends the use of n's descriptor and gives the reference back.
func (e *Export) release(n *node) {
	e.mu.Lock()
	if n.users--; n.users == 0 {
		n.used = time.Now()
		n.place = e.idle.PushFront(n)
	}
	unused := e.drop(n)
	closing := append(e.evict(), unused...)
	e.mu.Unlock()
	closeAll(closing)
}

// forgetPath takes the descriptor away from a node that nobody uses it of.
func (e *Export) forgetPath(n *node) *beneath.Path {
	if n.place != nil {
		e.idle.Remove(n.place)
	}
	p := n.path
	n.path, n.place = nil, nil
	return p
}

// evict takes away the idle descriptors that exceed the limit. The caller closes
// them without the lock.
func (e *Export) evict() (closing []*beneath.Path) {
	for e.idle.Len() > e.cfg.Descriptors {
		closing = append(closing, e.forgetPath(e.idle.Back().Value.(*node)))
	}
	return closing
}

// sweepIdle closes the descriptors of files that were not used for a while: a
// file that has lost its name keeps its space no longer than that, or until its
// last session forgets it. Until then an open that races with the removal still
// finds it, as it would on a local disk.
func (e *Export) sweepIdle() {
	defer e.done.Done()
	tick := time.NewTicker(idleAfter)
	defer tick.Stop()
	for {
		select {
		case <-e.stop:
			return
		case now := <-tick.C:
			e.closeIdle(now.Add(-idleAfter))
			e.unwatchEnded()
		}
	}
}

// closeIdle closes the descriptors of files that nobody used since before.
func (e *Export) closeIdle(before time.Time) {
	var closing []*beneath.Path
	e.mu.Lock()
	for at := e.idle.Back(); at != nil; {
		n := at.Value.(*node)
		at = at.Prev()
		if !n.isDir() && n.used.Before(before) {
			closing = append(closing, e.forgetPath(n))
		}
	}
	e.mu.Unlock()
	closeAll(closing)
}

// giveUpRemoved closes the idle descriptors of files that have lost their names, and
// reports whether there were any: their space is wanted now.
func (e *Export) giveUpRemoved() bool {
	var closing []*beneath.Path
	e.mu.Lock()
	for at := e.idle.Front(); at != nil; {
		n := at.Value.(*node)
		at = at.Next()
		if !n.isDir() && len(n.hints) == 0 {
			closing = append(closing, e.forgetPath(n))
		}
	}
	e.mu.Unlock()
	closeAll(closing)
	return len(closing) > 0
}

func closeAll(paths []*beneath.Path) {
	for _, p := range paths {
		if p != nil {
			p.Close()
		}
	}
}

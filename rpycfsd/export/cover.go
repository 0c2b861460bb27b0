package export

import (
	"errors"
	"slices"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/fsevents"
)

// Where objects are watched one by one, a directory is before anything of it is read,
// and a file if no directory is known in which it has its only name. A file keeps a
// reference of that directory, which so is watched as long as the file is known. A
// lease on what could not be watched is brief.

// cover begins to watch what a request names.
func (s *Session) cover(req any) {
	if !s.e.piecemeal {
		return
	}
	for _, num := range coveredBy(req) {
		s.coverNode(num)
	}
}

// coverWithin is cover for a node that a handler comes to.
func (s *Session) coverWithin(num fsproto.Node) {
	if s.e.piecemeal {
		s.e.asDaemon(func() { s.coverNode(num) })
	}
}

// coverNode begins to watch a node, unless changes of it are told already.
func (s *Session) coverNode(num fsproto.Node) {
	if n := s.uncovered(num); n != nil {
		s.e.watchOne(n)
	}
}

// uncovered returns a node of which changes are not told, with a reference; nil if
// they are, or the session gets no leases.
func (s *Session) uncovered(num fsproto.Node) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := s.numbers[num]
	if entry == nil || s.closed || s.e.leases.isCovered(entry.r.n) || !s.getsLeases() {
		return nil
	}
	s.e.keep(entry.r.n)
	return entry.r.n
}

// getsLeases reports whether the session has asked for leases.
func (s *Session) getsLeases() bool {
	s.e.leases.mu.Lock()
	defer s.e.leases.mu.Unlock()
	return s.recalls.peer != nil
}

// watchOne begins to watch a node, a reference of which it takes over.
func (e *Export) watchOne(n *node) {
	p, err := e.acquire(n)
	if err != nil {
		e.unref(n)
		return
	}
	defer e.release(n)
	e.watching.Lock()
	defer e.watching.Unlock()
	o, err := e.watcher.Watch(p)
	if isErrno(err, syscall.ENOSPC) && e.unwatchLocked() {
		o, err = e.watcher.Watch(p)
	}
	if err != nil {
		if !errors.Is(err, errors.ErrUnsupported) {
			e.refused.Do(func() {
				e.log.Warn("not everything can be watched; clients see late what programs on the server change there", "err", err)
			})
		}
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n.object = o
	e.objects[o] = n
	e.leases.watched(n, true)
}

// unwatchEnded ends to watch what no session knows any longer.
func (e *Export) unwatchEnded() {
	e.watching.Lock()
	defer e.watching.Unlock()
	e.unwatchLocked()
}

// unwatchLocked is unwatchEnded with Export.watching held, and reports whether there
// was anything.
func (e *Export) unwatchLocked() bool {
	e.mu.Lock()
	left := e.left
	e.left = nil
	e.mu.Unlock()
	e.unrefAll(left...)
	e.mu.Lock()
	// One that has become known again meanwhile is watched again.
	ended := slices.DeleteFunc(e.ended, func(o fsevents.Object) bool { return e.objects[o] != nil })
	e.ended = nil
	e.mu.Unlock()
	for _, o := range ended {
		e.unwatchObject(o)
	}
	return len(ended) > 0
}

// unwatchObject ends to watch what neither a lease (Export.objects) nor a watch
// (watches.tracked) needs: both rest on the same watch of the kernel. watching is held.
func (e *Export) unwatchObject(o fsevents.Object) {
	e.mu.Lock()
	leased := e.objects[o] != nil
	e.mu.Unlock()
	if !leased && !e.watches.tracks(o) {
		e.watcher.Unwatch(o)
	}
}

// gone notes that a node's watch has ended with the object.
func (e *Export) gone(n *node) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.objects[n.object] == n {
		delete(e.objects, n.object)
	}
	n.object = ""
	e.leases.watched(n, false)
}

// found notes by which name a node was found, and how many links it has. mu is held.
func (e *Export) found(n *node, at hint, links uint32) {
	if !e.piecemeal || at.name == "" {
		return
	}
	if other := e.byName[at]; other != nil && other != n { // the event is still to come
		e.leases.foreign(other, recallWhole, "")
	}
	e.byName[at] = n
	var in *node
	if links == 1 && !n.isDir() {
		in = e.nodes[at.dir]
	}
	e.putIn(n, in)
}

// moved notes that a session has renamed a node, or that a name of it is gone. mu is
// held.
func (e *Export) moved(n *node, from, to hint) {
	if !e.piecemeal {
		return
	}
	e.unname(n, from)
	switch {
	case to.name != "":
		e.byName[to] = n
		if n.in != nil {
			e.putIn(n, e.nodes[to.dir])
		}
	case n.in != nil && n.in.id == from.dir && !slices.ContainsFunc(n.hints, func(h hint) bool { return h.dir == from.dir }):
		e.putIn(n, nil)
	}
}

// putIn sets the directory where a file has its only name. mu is held.
func (e *Export) putIn(n, in *node) {
	if n.in == in {
		return
	}
	if in != nil {
		in.refs++
	}
	if n.in != nil {
		e.left = append(e.left, n.in)
	}
	e.leases.move(n, in)
}

// unname forgets that a name leads to n. mu is held.
func (e *Export) unname(n *node, at hint) {
	if e.byName[at] == n {
		delete(e.byName, at)
	}
}

// enclose notes the name that a new node was found by. mu is held.
func (e *Export) enclose(n *node, at hint, links uint32) {
	if !e.piecemeal || n.isDir() || links != 1 {
		return
	}
	if n.in = e.nodes[at.dir]; n.in != nil {
		n.in.refs++
	}
}

package mount

import (
	"maps"
	"slices"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// found is what a listing says of a name: which entry it is, whose node has one more
// reference then, or that there is none.
type found struct {
	entry *fsproto.Entry // nil: there is none
	lease uint64         // on the directory
	clock uint64
}

// lookupHere answers a lookup from the listing of its directory, if that is at hand or
// worth to be asked for.
func (fs *FS) lookupHere(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) (here bool) {
	a, parent := fs.ahead, fsproto.Node(h.NodeId)
	if a == nil {
		return false
	}
	f, ok := a.find(parent, name, h.Pid)
	if !ok && a.missed(parent) {
		_, begin, _ := a.list(cancel, h, parent, true)
		if begin != nil { // too long
			a.forget(known(begin.entries))
			a.avoid(parent)
		}
		f, ok = a.find(parent, name, h.Pid)
	}
	if !ok {
		return false
	}
	if f.entry == nil {
		fs.hot.found(parent, name, 0)
		out.SetEntryTimeout(fs.nameTimeout(fs.negativeTimeout, parent, name, f.lease)) // with NodeId 0
		return true
	}
	id := f.entry.Node
	fs.hot.found(parent, name, id)
	fs.nodes.looked(id)
	fs.show(id, &f.entry.Attr)
	fs.fillEntry(out, f.entry, true, fs.nameTimeout(fs.entryTimeout, parent, name, f.lease), 0)
	fs.leases.keep(id, &f.entry.Attr, f.clock)
	return true
}

// find looks a name up in the listing of its directory. It does not know where that is
// not at hand, where the kernel would not be allowed to believe it, or where the node's
// attributes are not good any more.
func (a *ahead) find(parent fsproto.Node, name string, thread uint32) (f found, ok bool) {
	fs := a.fs
	a.mu.Lock()
	l := a.dirs[parent]
	if l == nil {
		a.mu.Unlock()
		return f, false
	}
	if !a.good(l) {
		gone := a.remove(l)
		a.mu.Unlock()
		a.forget(gone)
		return f, false
	}
	defer a.mu.Unlock()
	if m := a.misses[parent]; m != nil && time.Now().Before(m.shun) || fs.nameTimeout(leaseTime, parent, name, l.dir.Lease) <= 0 {
		return f, false
	}
	f.lease, f.clock = l.dir.Lease, l.clock
	i, exists := l.names[name]
	if !exists {
		// What a program on the server has just made is not told of yet. Who walks a tree
		// looks for what is never there in each directory that he is in.
		if fs.negativeTimeout <= 0 || l.walk.visits < 2 || l.walk.of(thread).at != l.node || time.Since(l.walk.last) > missesEnd {
			return f, false
		}
		a.visit(l, thread)
		return f, true
	}
	e := &l.entries[i]
	if !e.Known {
		return f, false
	}
	entry := e.Entry
	if fs.behind.busy(entry.Node) {
		return f, false
	}
	if !fs.stillGood(entry.Node, &entry.Attr, l.clock) {
		f.clock = fs.nodes.clock.read()
		attr, here := fs.attrHere(entry.Node)
		if !here {
			attr, f.clock, here = a.attrLocked(entry.Node)
		}
		if !here {
			return f, false
		}
		entry.Attr = attr
	}
	if !fs.nodes.again(entry.Node) {
		return f, false
	}
	f.entry = &entry
	a.visit(l, thread)
	a.use(l, (l.size-fsproto.TreeDirSize)/len(l.entries))
	l.walk.looked++
	a.fetchAhead(l.walk)
	return f, true
}

// namesOf returns the names in a directory whose listing is at hand, and the lease on it.
func (a *ahead) namesOf(dir fsproto.Node) (lease uint64, names []string, ok bool) {
	if a == nil {
		return 0, nil, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.dirs[dir]
	if !a.good(l) {
		return 0, nil, false
	}
	return l.dir.Lease, slices.Collect(maps.Keys(l.names)), true
}

// attrOf returns the attributes of a directory whose listing is at hand, and the clock
// before they were asked for. Where objects are watched one by one there is a lease on it
// from then on only.
func (a *ahead) attrOf(dir fsproto.Node) (attr fsproto.Attr, clock uint64, ok bool) {
	if a == nil {
		return attr, 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.attrLocked(dir)
}

// attrLocked is attrOf with mu held.
func (a *ahead) attrLocked(dir fsproto.Node) (attr fsproto.Attr, clock uint64, ok bool) {
	l := a.dirs[dir]
	if l == nil || !a.good(l) || a.fs.nodes.newer(dir, &l.dir) {
		return attr, 0, false
	}
	return l.dir, l.clock, true
}

// stillGood reports whether attributes that came in a reply to a call that began at this
// clock are still those of a node.
func (fs *FS) stillGood(id fsproto.Node, a *fsproto.Attr, clock uint64) bool {
	return fs.leases.valid(id, a.Lease) && !fs.nodes.changedSince(id, clock) && !fs.nodes.newer(id, a)
}

// missed notes a lookup in a directory whose listing is not at hand, and reports whether
// it is to be asked for: it is on its way, the directory is one of those that are being
// walked through, or many names are looked up that we are not about to make.
func (a *ahead) missed(dir fsproto.Node) bool {
	if a.off.Load() {
		return false
	}
	now, clock := time.Now(), a.fs.nodes.clock.read()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.pending[dir] != nil:
		return true
	case a.dirs[dir] != nil:
		return false
	}
	m := a.misses[dir]
	if m != nil && now.Before(m.shun) {
		return false
	}
	w := a.walkOf(dir)
	if m == nil || now.Sub(m.last) > missesEnd {
		if m == nil && len(a.misses) >= maxMisses {
			clear(a.misses)
		}
		m = &misses{clock: clock, need: listAfter}
		if (w.visits > 1 || w.looked >= listAfter) && now.Sub(w.last) < missesEnd {
			m.need = 1
		}
		a.misses[dir] = m
	}
	if m.last = now; a.fs.nodes.changedSince(dir, m.clock) || a.fs.nodes.isChanging(dir) {
		*m = misses{clock: clock, need: 2 * m.need, last: now}
	}
	m.n++
	if m.n < m.need {
		return false
	}
	*m = misses{clock: clock, need: 2 * max(m.need, listAfter), last: now} // if it is of no use, seldom again
	return true
}

// avoid makes lookups in a directory not ask for its listing.
func (a *ahead) avoid(dir fsproto.Node) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.misses[dir]; m != nil {
		m.need = 1 << 20
	}
}

package mount

import (
	"container/list"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// A small file is opened and read by one call (readfile). Who opens one after the other in
// a directory whose listing is at hand gets those that come next, too, in the order of the
// walk, as far as directories are at hand. What has come lies in the store (store.go),
// which drops it by all that drops what lies there, and the daemon learns of the open file
// late.

const (
	// maxNow bounds a file that is read when it is opened, in bytes.
	maxNow = 64 << 10
	// maxAheadFile bounds one that is read before, in bytes.
	maxAheadFile = 1 << 20
	// fileCost is what a file takes beside its bytes.
	fileCost = 128
	// maxFilesPerCall bounds the files that are read by one call.
	maxFilesPerCall = 256
	// maxFiles bounds those that are kept, and of which a walk remembers that they were read.
	maxFiles = 1 << 15
	// maxPassed bounds the entries that are looked at to find files.
	maxPassed = 10_000
)

// content is a file that was read before it was opened, or as it was. Its bytes are in the
// store.
type content struct {
	node  fsproto.Node
	attr  fsproto.Attr
	clock uint64 // of the node table, before it was asked for
	size  int    // bytes, with fileCost
	walk  *walk  // nil: it belongs to none
	at    *list.Element
}

// readNow sees to it that a file that is being opened for reading can be opened without
// asking, and read, if one call will do for that.
func (fs *FS) readNow(cancel <-chan struct{}, h *fuse.InHeader, id fsproto.Node, flags uint32) (granted bool) {
	a := fs.ahead
	if !a.on() || flags != fsproto.OpenRead {
		return false
	}
	for range 2 { // a call that is under way may not come to it
		if c := a.contentOf(id, h.Pid); c != nil {
			return a.grant(c)
		}
		f := a.readingOf(id)
		if f == nil {
			break
		}
		if st := a.await(cancel, h, f); !st.Ok() {
			return false
		}
	}
	attr, here := fs.attrHere(id)
	if s := fs.nodes.seen(id); !here || fs.behind.busy(id) || attr.Type() != fsproto.ModeRegular || attr.Size > maxNow || s.reads != s.dropped || fs.nodes.changedSince(id, 0) {
		a.opened(id, h.Pid) // it is too long, or the kernel may have it, as it was read or written
		return false
	}
	w, req, f := a.beginNow(id, attr.Size, h.Pid)
	res, clock, end := new(fsproto.ReadfileRes), fs.nodes.clock.read(), fs.naming.begin()
	defer end()
	wanted := a.wants(req)
	ctx := fs.begin(cancel, h, &fsproto.Readfile.Info, 0)
	defer ctx.end()
	err := callAs(ctx, fs, h, fsproto.Readfile, req, res)
	a.finishRead(w, req, res, wanted, clock, f, err)
	c := a.contentOf(id, h.Pid)
	return c != nil && a.grant(c)
}

// contentOf returns what was read of a file, if it is still so, and notes that a thread is
// opening it.
func (a *ahead) contentOf(id fsproto.Node, thread uint32) *content {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.files[id]
	if c == nil {
		return nil
	}
	if !a.fs.stillGood(id, &c.attr, c.clock) {
		a.removeFile(c)
		return nil
	}
	a.openedLocked(id, thread)
	return c
}

func (a *ahead) readingOf(id fsproto.Node) *fetching {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reading[id]
}

// grant lets a file be opened for reading without asking: the daemon has done so under a
// lease that holds, and the kernel has the attributes of then.
func (a *ahead) grant(c *content) (granted bool) {
	fs := a.fs
	fs.nodes.update(c.node, func(n *node) {
		s := &n.seen
		granted = s.leased && s.sure && s.change == c.attr.Change && n.changed <= c.clock && fs.leases.valid(c.node, c.attr.Lease)
		if granted { // a recall makes the lease void first
			n.may |= mayRead
		}
	})
	if granted {
		fs.leases.keep(c.node, &c.attr, c.clock)
		if c.attr.Size == 0 {
			a.readKept(c.node) // nobody will read
		}
	}
	return granted
}

// seekHere finds data or a hole in a file that the daemon has not been told of, which grep
// does with each that is longer than its buffer: if all of it has blocks it has no hole but
// the one at its end. Beyond that off is negative.
func (fs *FS) seekHere(in *fuse.LseekIn) (off int64, here bool) {
	if fs.ahead == nil || fs.handles.isTold(in.Fh) {
		return 0, false
	}
	a, here := fs.attrHere(fsproto.Node(in.NodeId))
	switch {
	case !here || a.Blocks < (a.Size+511)/512 || a.Size > math.MaxInt64:
		return 0, false
	case in.Offset >= a.Size:
		return -1, true
	case in.Whence == uint32(fsproto.SeekData):
		return int64(in.Offset), true
	}
	return int64(a.Size), true
}

// opened notes that a thread has opened a file for reading.
func (a *ahead) opened(id fsproto.Node, thread uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.openedLocked(id, thread)
}

// openedLocked is opened with mu held. It returns the walk that the file belongs to, nil
// if its directory is not at hand.
func (a *ahead) openedLocked(id fsproto.Node, thread uint32) *walk {
	parent, name := a.fs.nodes.placeOf(id)
	l := a.dirs[parent]
	if l == nil || !a.good(l) {
		return nil
	}
	i, ok := l.names[name]
	if !ok || l.entries[i].Entry.Node != id {
		return nil
	}
	now, w := time.Now(), l.walk
	a.last = now
	if w.read[id] {
		return w
	}
	if now.Sub(w.lastFile) > walkEnds {
		w.opens, w.files = 0, meter{asked: w.files.asked}
	}
	if w.read == nil || len(w.read) >= maxFiles {
		w.read = make(map[fsproto.Node]bool)
	}
	w.read[id] = true
	c := w.of(thread)
	if c.fileIn == parent && c.file < len(l.entries) {
		w.learn(l, c.file, i)
	} else if c.fileIn != parent {
		a.learnOrder(w, c.fileIn, parent)
	}
	w.opens++
	c.fileIn, c.file, w.lastFile, w.last = parent, i, now, now
	a.readAhead(w)
	return w
}

// readAhead begins calls that nobody waits for, as many as a walk is good for. mu is held.
func (a *ahead) readAhead(w *walk) {
	for w.opens > 1 && a.under < maxUnder && !a.stopped && !a.off.Load() {
		size := min(w.files.left(firstAhead, maxUnusedFiles), listAhead)
		if size < min(max(least, w.files.used/4), listAhead) {
			return
		}
		parts := a.nextFiles(w, size)
		if len(parts) == 0 {
			return
		}
		req := &fsproto.ReadfileReq{Parts: parts}
		f := a.beginRead(w, req)
		a.under++
		a.running.Go(func() { a.fetchFiles(w, req, f) })
	}
}

// beginNow notes a call for a file that is being opened, and for those that come next.
func (a *ahead) beginNow(id fsproto.Node, size uint64, thread uint32) (w *walk, req *fsproto.ReadfileReq, f *fetching) {
	a.mu.Lock()
	defer a.mu.Unlock()
	req = &fsproto.ReadfileReq{Parts: []fsproto.FilePart{{Node: id, Size: uint32(size)}}}
	w = a.openedLocked(id, thread)
	if w == nil {
		w = new(walk)
	} else if w.opens > 1 && w.files.left(firstAhead, maxUnusedFiles) >= firstAhead {
		req.Parts = append(req.Parts, a.nextFiles(w, firstAhead)...)
	}
	return w, req, a.beginRead(w, req)
}

// beginRead notes what a call asks for. mu is held.
func (a *ahead) beginRead(w *walk, req *fsproto.ReadfileReq) *fetching {
	f := &fetching{done: make(chan struct{}), walk: w}
	for _, p := range req.Parts {
		a.reading[p.Node] = f
		w.files.asked += int(p.Size) + fileCost
	}
	return f
}

// wants tells the store what is going to come.
func (a *ahead) wants(req *fsproto.ReadfileReq) []wanted {
	list := make([]wanted, len(req.Parts))
	for i, p := range req.Parts {
		list[i] = a.fs.store.want(p.Node)
	}
	return list
}

// fetchFiles makes a call that nobody waits for.
func (a *ahead) fetchFiles(w *walk, req *fsproto.ReadfileReq, f *fetching) {
	res, clock := new(fsproto.ReadfileRes), a.fs.nodes.clock.read()
	wanted := a.wants(req)
	err := a.fs.link.behind(&fsproto.Readfile.Info, func(ctx context.Context) error {
		_, err := rpc.CallWith(ctx, a.fs.peer, fsproto.Readfile, req, res, rpc.Extra{Bulk: true})
		if err == nil {
			a.fs.ids.learn(ctx, res)
		}
		return err
	})
	a.finishRead(w, req, res, wanted, clock, f, err)
	a.mu.Lock()
	a.under--
	a.readAhead(w)
	a.mu.Unlock()
}

// finishRead takes the reply to a call.
func (a *ahead) finishRead(w *walk, req *fsproto.ReadfileReq, res *fsproto.ReadfileRes, wanted []wanted, clock uint64, f *fetching, err error) {
	if errors.Is(err, rpc.ErrNoMethod) {
		a.off.Store(true)
	}
	if err != nil || len(res.Parts) > len(req.Parts) {
		res.Parts = nil
	}
	for i := range res.Parts {
		p, q := &res.Parts[i], &req.Parts[i]
		if whole := uint64(len(p.Data)) == p.Attr.Size; !p.Read || len(p.Data) > int(q.Size) || !whole {
			p.Read = false // it is longer by now, or the daemon errs
			continue
		}
		wanted[i].size = len(p.Data) + 1 // there is no more
		a.fs.store.fill(wanted[i], p.Data, p.Attr.Lease)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	defer close(f.done)
	for i, q := range req.Parts {
		w.files.asked -= int(q.Size) + fileCost
		if a.reading[q.Node] == f {
			delete(a.reading, q.Node)
		}
		if i < len(res.Parts) {
			a.putFile(w, q.Node, &res.Parts[i], clock)
		}
	}
	if a.last = time.Now(); !a.stopped {
		a.sweep.Reset(aheadEnds)
	}
}

// putFile keeps what was read of a file. mu is held.
func (a *ahead) putFile(w *walk, id fsproto.Node, p *fsproto.FileData, clock uint64) {
	if !p.Read {
		if w.read != nil {
			w.read[id] = true // not to be asked for again
		}
		return
	}
	if old := a.files[id]; old != nil {
		a.removeFile(old)
	}
	c := &content{node: id, attr: p.Attr, clock: clock, size: len(p.Data) + fileCost, walk: w}
	w.files.fetched += c.size
	a.status.Files++
	a.status.FileBytes += uint64(c.size)
	a.files[id] = c
	c.at = a.fileOrder.PushFront(c)
	for len(a.files) > maxFiles {
		a.removeFile(a.fileOrder.Back().Value.(*content))
	}
}

// removeFile gives up what is known of a file. mu is held.
func (a *ahead) removeFile(c *content) {
	if a.files[c.node] == c {
		delete(a.files, c.node)
		a.fileOrder.Remove(c.at)
	}
}

// readHere reads from what was read ahead of a file that the kernel caches.
func (fs *FS) readHere(id fsproto.Node, off uint64, buf []byte) (n int, here bool) {
	if fs.ahead == nil {
		return 0, false
	}
	if n, here = fs.store.take(id, off, buf); here {
		fs.ahead.readKept(id)
	}
	return n, here
}

// readKept notes that a file is being read from what was fetched.
func (a *ahead) readKept(id fsproto.Node) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.files[id]
	if c == nil {
		return
	}
	a.removeFile(c)
	c.walk.files.used += c.size
	a.status.FilesUsed++
	a.status.FileBytesUsed += uint64(c.size)
	a.readAhead(c.walk)
}

// nextFiles returns files of so many bytes together that the thread that moved last in a
// walk is about to come to, and that are neither at hand nor asked for. It goes no further than to a directory that is
// not at hand. mu is held.
func (a *ahead) nextFiles(w *walk, size int) (parts []fsproto.FilePart) {
	passed, full := 0, false
	add := func(e *fsproto.Dirent) {
		id, length := e.Entry.Node, e.Entry.Attr.Size
		if e.Entry.Attr.Type() != fsproto.ModeRegular || length > maxAheadFile || a.files[id] != nil || a.reading[id] != nil || w.read[id] || a.fs.behind.busy(id) {
			return
		}
		cost := int(length) + fileCost
		if len(parts) > 0 && (cost > size || len(parts) == maxFilesPerCall) || cost > max(size, w.files.left(firstAhead, maxUnusedFiles)) {
			full = true
			return
		}
		parts = append(parts, fsproto.FilePart{Node: id, Size: uint32(length)})
		size -= cost
	}
	var down func(l *listing, from int)
	down = func(l *listing, from int) {
		for _, i := range l.inOrder(w.order)[from:] {
			e := &l.entries[i]
			if passed++; full || passed > maxPassed {
				full = true
				return
			}
			switch {
			case !e.Known:
			case !e.Entry.Attr.IsDir():
				add(e)
			case a.dirs[e.Entry.Node] != nil:
				down(a.dirs[e.Entry.Node], 0)
			case !w.visited[e.Entry.Node]:
				full = true
			}
		}
	}
	at, from := w.latest.fileIn, w.latest.file
	for !full {
		l := a.dirs[at]
		if l == nil || from >= len(l.entries) {
			return parts
		}
		order := l.inOrder(w.order)
		done := slices.Index(order, from) + 1
		if w.follows[w.order] <= 0 { // it goes in no order that is known here
			for _, i := range order {
				if e := &l.entries[i]; !full && e.Known {
					add(e)
				}
			}
		}
		down(l, done)
		parent, name := a.fs.nodes.placeOf(at)
		up := a.dirs[parent]
		if up == nil || up.walk != w || parent == at {
			return parts
		}
		i, ok := up.names[name]
		if !ok {
			return parts
		}
		at, from = parent, i
	}
	return parts
}

// inOrder returns the indices of the entries. ahead.mu is held.
func (l *listing) inOrder(order uint8) []int {
	if l.sorted[order] == nil {
		sorted := make([]int, len(l.entries))
		for i := range sorted {
			sorted[i] = i
		}
		if order != fsproto.TreeAsListed {
			slices.SortFunc(sorted, func(i, j int) int { return fsproto.TreeCompare(order, &l.entries[i], &l.entries[j]) })
		}
		l.sorted[order] = sorted
	}
	return l.sorted[order]
}

// dirsInOrder is inOrder for those that are directories.
func (l *listing) dirsInOrder(order uint8) []int {
	if l.subdirs[order] == nil {
		dirs := make([]int, 0)
		for _, i := range l.inOrder(order) {
			if e := &l.entries[i]; e.Known && e.Entry.Attr.IsDir() {
				dirs = append(dirs, i)
			}
		}
		l.subdirs[order] = dirs
	}
	return l.subdirs[order]
}

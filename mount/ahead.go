package mount

import (
	"container/list"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// Who walks a tree asks for one directory after the other. So a directory is listed and
// opened by one call (tree), which from the second directory of a walk on brings more of
// them: those that the walker comes to next. What has come is kept and answers OPENDIR,
// READDIR and LOOKUP, as long as the leases hold that came with it; they are looked at
// when it is used, in the same order as with the reply to a call. The daemon keeps
// nothing of it, and learns of opened directories late (late.go).
//
// Of what was fetched ahead in a walk no more is unused at any time than has been used
// before, or firstAhead for each thread that waits.

const (
	// firstAhead is what may be fetched ahead when a walk has been seen, in bytes, and
	// firstCrowd how many threads may have so much.
	firstAhead = 64 << 10
	firstCrowd = 16
	// packing is how many bytes of listings are about one where they come compressed. So
	// much more may be fetched ahead.
	packing = 4
	// listNow bounds the reply in which a directory comes that is wanted now, in bytes.
	listNow = 256 << 10
	// listAhead and least bound a call that nobody waits for, in bytes.
	listAhead = 256 << 10
	least     = 16 << 10
	// leastMore is what a call brings at least beside the directory that is wanted.
	leastMore = 1 << 10
	// maxUnused and maxUnusedFiles bound what was fetched ahead in a walk and is not used,
	// in bytes of listings and files.
	maxUnused      = 4 << 20
	maxUnusedFiles = 8 << 20
	// maxUnder bounds the calls that nobody waits for.
	maxUnder = 6
	// maxListed bounds the listings that are kept, in bytes of the daemon's replies.
	maxListed = 16 << 20
	// maxLooked bounds how many directories are looked at to find some to be fetched.
	maxLooked = 2000
	// walkEnds is how long after the last directory a walk is over.
	walkEnds = 10 * time.Second
	// aheadEnds is how long what is kept is kept without being used.
	aheadEnds = time.Minute
	// missesEnd is how long lookups in a directory may be apart to belong together.
	missesEnd = 2 * time.Second
	// maxMisses bounds the directories of which lookups are counted.
	maxMisses = 256
	// listAfter is how many lookups in a directory make it be listed.
	listAfter = 3
)

// ahead is what was fetched before it was asked for. Its methods may be called
// concurrently. It is nil where there are no leases, or calls carry credentials.
type ahead struct {
	fs      *FS
	off     atomic.Bool // the daemon does not know the calls
	running sync.WaitGroup

	mu      sync.Mutex // comes before the guard's, that of a shard of the node table and leases.mu
	stopped bool
	dirs    map[fsproto.Node]*listing
	order   *list.List // of *listing, what came last in front
	size    int        // bytes of them
	pending map[fsproto.Node]*fetching
	under   int // calls that nobody waits for
	misses  map[fsproto.Node]*misses

	files     map[fsproto.Node]*content
	fileOrder *list.List // of *content, what came last in front
	reading   map[fsproto.Node]*fetching

	last  time.Time // when something was used or came
	sweep *time.Timer

	status AheadStatus
}

// listing is a directory as the daemon has listed it. Each known entry holds a reference
// in the node table while it is kept. Its first block never changes.
type listing struct {
	node    fsproto.Node
	dir     fsproto.Attr
	entries []fsproto.Dirent
	names   map[string]int
	size    int       // in bytes
	clock   uint64    // of the node table, before it was asked for
	fetched time.Time // when it came

	sorted  [fsproto.TreeOrders][]int // indices of entries in an order; nil: not needed so far
	subdirs [fsproto.TreeOrders][]int // the same of directories
	walk    *walk
	visited bool
	used    int // bytes of size
	at      *list.Element
}

// fetching is a call that is under way.
type fetching struct {
	done   chan struct{}
	walk   *walk
	wanted fsproto.Node // the directory that comes in any case; 0: none does
	asked  int          // bytes
}

// misses counts lookups of a directory that was not at hand.
type misses struct {
	n     int
	need  int       // so many make it be listed
	shun  time.Time // until when no lookup is answered from the listing
	clock uint64    // of the node table, at the first
	last  time.Time
}

func newAhead(fs *FS) *ahead {
	a := &ahead{
		fs: fs, dirs: make(map[fsproto.Node]*listing), order: list.New(),
		pending: make(map[fsproto.Node]*fetching), misses: make(map[fsproto.Node]*misses),
		files: make(map[fsproto.Node]*content), fileOrder: list.New(), reading: make(map[fsproto.Node]*fetching),
	}
	a.sweep = time.AfterFunc(time.Hour, a.sweepIdle)
	return a
}

// stop returns when nothing is fetched any more; the calls have been left by then.
func (a *ahead) stop() {
	if a == nil {
		return
	}
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	a.sweep.Stop()
	a.running.Wait()
}

// good reports whether what a listing tells of its directory is still so. mu is held.
func (a *ahead) good(l *listing) bool {
	nodes := a.fs.nodes
	return l != nil && a.fs.leases.valid(l.node, l.dir.Lease) && !nodes.changedSince(l.node, l.clock) && !nodes.isChanging(l.node)
}

// on reports whether something can be fetched.
func (a *ahead) on() bool { return a != nil && !a.off.Load() }

// listNow lists a directory that is being opened. It reports whether it can be opened
// without asking, and returns what is to be read from it first, if that is not kept.
func (fs *FS) listNow(cancel <-chan struct{}, h *fuse.InHeader, dir fsproto.Node) (granted bool, begin *page, st fuse.Status) {
	l, begin, st := fs.ahead.list(cancel, h, dir, false)
	var lease uint64
	switch {
	case !st.Ok():
		return false, nil, st
	case l != nil:
		lease = l.dir.Lease
		fs.leases.keep(dir, &l.dir, l.clock)
	case begin != nil:
		lease = begin.lease
	}
	fs.nodes.update(dir, func(n *node) {
		if granted = fs.leases.valid(dir, lease); granted { // a recall makes it void first
			n.seen.leased = true
			n.may |= mayRead
		}
	})
	return granted, begin, fuse.OK
}

// listingOf returns the listing of a directory that a thread visits, if it is at hand.
func (a *ahead) listingOf(dir fsproto.Node, thread uint32) *listing {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	l := a.dirs[dir]
	var gone []fsproto.Node
	switch {
	case l == nil:
	case a.good(l):
		a.visit(l, thread)
	default:
		gone, l = a.remove(l), nil
	}
	a.mu.Unlock()
	a.forget(gone)
	return l
}

// visit notes that a thread has come to a directory. mu is held.
func (a *ahead) visit(l *listing, thread uint32) {
	now := time.Now()
	w := l.walk
	c := w.of(thread)
	last := c.at
	c.at, w.last, a.last = l.node, now, now
	if l.visited {
		return
	}
	a.learnOrder(w, last, c.at)
	l.visited = true
	w.visits++
	w.dry = false
	if len(w.visited) >= maxVisited {
		clear(w.visited)
	}
	w.visited[l.node] = true
	a.status.DirsUsed++
	a.use(l, fsproto.TreeDirSize)
	a.fetchAhead(w)
}

// use counts bytes of a listing as used. mu is held.
func (a *ahead) use(l *listing, size int) {
	size = min(size, l.size-l.used)
	l.used += size
	l.walk.lists.used += size
	a.status.BytesUsed += uint64(size)
}

// served notes that a listing was read.
func (a *ahead) served(l *listing) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l.used < l.size {
		a.use(l, l.size)
		a.fetchAhead(l.walk)
	}
}

// list returns the listing of a directory that is wanted now; if it is too long or there is
// no lease on it, its beginning or all of it as a page, whose references are the caller's.
// It is read, or a name looked up in it.
func (a *ahead) list(cancel <-chan struct{}, h *fuse.InHeader, dir fsproto.Node, looking bool) (l *listing, begin *page, st fuse.Status) {
	for first := true; ; first = false {
		if l := a.listingOf(dir, h.Pid); l != nil {
			return l, nil, fuse.OK
		}
		a.mu.Lock()
		f := a.pending[dir]
		if f == nil || !first && f.wanted != dir { // the last one did not come to it
			break
		}
		a.mu.Unlock()
		if st := a.await(cancel, h, f); !st.Ok() {
			return nil, nil, st
		}
	}
	w := a.walkOf(dir)
	w.wait()
	c := w.of(h.Pid)
	req := fsproto.TreeReq{Dirs: []fsproto.Node{dir}, First: listNow, Order: w.order}
	asked := 0
	if looking {
		asked = w.typical()
	}
	if w.visits > 0 {
		last := c.at
		c.at = dir
		a.learnOrder(w, last, c.at)
		// Another part comes on other connections, or for who else waits.
		if size := min(w.left()/(w.crowd+1), listAhead); size >= leastMore {
			req.Dirs = append(req.Dirs, a.next(w, size)...)
			req.Size, req.Below = uint32(size), true
			asked += size
		}
	}
	f := a.begin(w, &req, asked)
	a.fetchAhead(w)
	a.mu.Unlock()

	res, clock, end := a.prepare()
	defer end()
	ctx := a.fs.begin(cancel, h, &fsproto.Tree.Info, 0)
	defer ctx.end()
	err := callAs(ctx, a.fs, h, fsproto.Tree, &req, res)
	begin, st = a.finish(w, &req, res, clock, f, err)
	a.mu.Lock()
	w.done()
	if begin != nil && !looking {
		w.lists.used += begin.size
		a.status.BytesUsed += uint64(begin.size)
	}
	a.mu.Unlock()
	if !st.Ok() || begin != nil {
		return nil, begin, st
	}
	return a.listingOf(dir, h.Pid), nil, fuse.OK
}

// await waits for a call that is under way, on behalf of a request.
func (a *ahead) await(cancel <-chan struct{}, h *fuse.InHeader, f *fetching) fuse.Status {
	ctx := a.fs.begin(cancel, h, &fsproto.Tree.Info, 0)
	defer ctx.end()
	a.fs.calling(h)
	a.mu.Lock()
	f.walk.wait()
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		f.walk.done()
		a.mu.Unlock()
	}()
	select {
	case <-f.done:
		return fuse.OK
	case <-ctx.Done():
		return errno(context.Cause(ctx))
	}
}

// begin notes what a call asks for, which is so many bytes. mu is held.
func (a *ahead) begin(w *walk, req *fsproto.TreeReq, asked int) *fetching {
	f := &fetching{done: make(chan struct{}), walk: w, asked: asked}
	if req.First > 0 {
		f.wanted = req.Dirs[0]
	}
	for _, dir := range req.Dirs {
		a.pending[dir] = f
	}
	w.lists.asked += asked
	return f
}

// prepare returns what a call needs: where its reply goes, the node table's clock, and
// what is to be called when the reply is in the table.
func (a *ahead) prepare() (res *fsproto.TreeRes, clock uint64, end func()) {
	return new(fsproto.TreeRes), a.fs.nodes.clock.read(), a.fs.naming.begin()
}

// finish takes the reply to a call. If the first directory was wanted, and came in part or
// without a lease, that is a page, whose references are the caller's.
func (a *ahead) finish(w *walk, req *fsproto.TreeReq, res *fsproto.TreeRes, clock uint64, f *fetching, err error) (begin *page, st fuse.Status) {
	if errors.Is(err, rpc.ErrNoMethod) {
		a.off.Store(true)
	}
	if err == nil && !wellFormed(res) {
		err = rpc.ErrBadRequest
	}
	st = errno(err)
	now := time.Now()
	var gone []fsproto.Node
	sizes := make([]int, len(res.Dirs))
	if st.Ok() {
		for i := range res.Dirs {
			sizes[i] = fsproto.TreeDirSize
			for j := range res.Dirs[i].Entries {
				e := &res.Dirs[i].Entries[j]
				sizes[i] += fsproto.DirentSize(len(e.Name), e.Known, len(e.Entry.FileHandle))
				if e.Known {
					a.fs.nodes.note(&e.Entry, res.Dirs[i].Node, e.Name)
					e.Entry.FileHandle = nil // the table has a copy
				}
			}
		}
		a.fs.trimmer.check()
	}
	a.mu.Lock()
	w.lists.asked -= f.asked
	w.dry = false
	for _, dir := range req.Dirs {
		if a.pending[dir] == f {
			delete(a.pending, dir)
		}
	}
	if st.Ok() {
		w.passedOver(req, res)
	}
	for i := range res.Dirs {
		d := &res.Dirs[i]
		if !st.Ok() {
			break
		}
		w.lists.fetched += sizes[i]
		a.status.Dirs++
		a.status.Bytes += uint64(sizes[i])
		switch {
		case d.Failed:
			w.visited[d.Node] = true // not to be asked for again
		case d.End && a.fs.leases.valid(d.Node, d.Dir.Lease):
			gone = append(gone, a.put(w, d, sizes[i], clock, now)...)
		case i == 0 && req.First > 0:
			begin = &page{entries: d.Entries, end: d.End, plus: true, clock: clock, fetched: now, lease: d.Dir.Lease, size: sizes[i]}
		default:
			w.visited[d.Node] = true
			gone = append(gone, known(d.Entries)...)
		}
	}
	if a.stopped {
		gone = append(gone, a.clear()...)
	}
	if a.last = now; !a.stopped {
		a.sweep.Reset(aheadEnds)
	}
	a.mu.Unlock()
	close(f.done)
	a.forget(gone)
	return begin, st
}

// wellFormed reports whether a reply can be one.
func wellFormed(res *fsproto.TreeRes) bool {
	for i := range res.Dirs {
		for j := range res.Dirs[i].Entries {
			if !validEntry(&res.Dirs[i].Entries[j]) {
				return false
			}
		}
	}
	return true
}

// validEntry reports whether an entry of a listing can be one of a daemon's.
func validEntry(e *fsproto.Dirent) bool {
	if c := e.Cookie; c == 0 || c == afterDot || c == afterDotDot || c > math.MaxInt64 {
		return false
	}
	return !e.Known || introducible(e.Entry.Node)
}

// known returns the nodes of entries.
func known(entries []fsproto.Dirent) (nodes []fsproto.Node) {
	for i := range entries {
		if entries[i].Known {
			nodes = append(nodes, entries[i].Entry.Node)
		}
	}
	return nodes
}

// put keeps a listing that takes size bytes, and returns the nodes of those that it
// displaces. mu is held.
func (a *ahead) put(w *walk, d *fsproto.TreeDir, size int, clock uint64, now time.Time) (gone []fsproto.Node) {
	if old := a.dirs[d.Node]; old != nil {
		gone = a.remove(old)
	}
	l := &listing{
		node: d.Node, dir: d.Dir, entries: d.Entries, names: make(map[string]int, len(d.Entries)),
		size: size, clock: clock, fetched: now, walk: w,
	}
	for i := range l.entries {
		l.names[l.entries[i].Name] = i
	}
	a.dirs[l.node] = l
	l.at = a.order.PushFront(l)
	for a.size += l.size; a.size > maxListed && a.order.Len() > 1; {
		gone = append(gone, a.remove(a.order.Back().Value.(*listing))...)
	}
	return gone
}

// remove gives a listing up, and returns the nodes that are to be forgotten for it. mu is
// held.
func (a *ahead) remove(l *listing) []fsproto.Node {
	if a.dirs[l.node] != l {
		return nil
	}
	delete(a.dirs, l.node)
	a.order.Remove(l.at)
	a.size -= l.size
	return known(l.entries)
}

// clear is remove for all. mu is held.
func (a *ahead) clear() (gone []fsproto.Node) {
	for _, l := range a.dirs {
		gone = append(gone, a.remove(l)...)
	}
	clear(a.files)
	a.fileOrder.Init()
	return gone
}

// forget gives references back. mu is not held.
func (a *ahead) forget(nodes []fsproto.Node) {
	for _, n := range nodes {
		a.fs.Forget(uint64(n), 1)
	}
}

// drop drops what is kept of a node.
func (a *ahead) drop(node fsproto.Node) {
	if a == nil {
		return
	}
	a.mu.Lock()
	var gone []fsproto.Node
	if l := a.dirs[node]; l != nil {
		gone = a.remove(l)
	}
	if c := a.files[node]; c != nil {
		a.removeFile(c)
	}
	a.mu.Unlock()
	a.forget(gone)
}

// stale is told of a node that the daemon does not find: what is kept of its directory is
// older than that, and the kernel is about to look it up again.
func (a *ahead) stale(node fsproto.Node) {
	if a == nil {
		return
	}
	parent, _ := a.fs.nodes.placeOf(node)
	a.mu.Lock()
	if len(a.misses) >= maxMisses {
		clear(a.misses)
	}
	a.misses[parent] = &misses{need: listAfter, shun: time.Now().Add(hotFor)}
	a.mu.Unlock()
	a.drop(parent)
	a.drop(node)
}

// dropAll drops everything.
func (a *ahead) dropAll() {
	if a == nil {
		return
	}
	a.mu.Lock()
	gone := a.clear()
	a.mu.Unlock()
	a.forget(gone)
}

// sweepIdle drops everything if nothing was used for a while.
func (a *ahead) sweepIdle() {
	a.mu.Lock()
	idle := time.Since(a.last)
	var gone []fsproto.Node
	if idle >= aheadEnds {
		gone = a.clear()
	} else if !a.stopped {
		a.sweep.Reset(aheadEnds - idle)
	}
	a.mu.Unlock()
	a.forget(gone)
}

// AheadStatus counts what was fetched with directories and ahead of them, in bytes of
// listings and files.
type AheadStatus struct {
	Dirs      uint64 `json:"directories"`
	DirsUsed  uint64 `json:"directories_used"`
	Bytes     uint64 `json:"listed_bytes"`
	BytesUsed uint64 `json:"listed_bytes_used"`

	Files         uint64 `json:"files"`
	FilesUsed     uint64 `json:"files_used"`
	FileBytes     uint64 `json:"file_bytes"`
	FileBytesUsed uint64 `json:"file_bytes_used"`

	Kept int `json:"kept_bytes"` // of listings and in the store
}

// get returns the status.
func (a *ahead) get() *AheadStatus {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Kept = a.size + a.fs.store.size()
	return &s
}

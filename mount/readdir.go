package mount

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// Positions in a directory. 0 is the beginning. The two constants stand after
// "." and after "..", which the daemon does not list; every other position is
// a cookie of the daemon's and stands after its entry. The constants are random
// numbers below 2⁶³, which is as far as seekdir(3) goes; a daemon's cookie that
// equals one of them, is 0 or lies beyond 2⁶³ makes the listing fail with EIO.
const (
	afterDot    = 0x5d1e_84b3_92f6_c07a
	afterDotDot = 0x5d1e_84b3_92f6_c07b
)

// Sizes of the daemon's replies in bytes. A listing that is read to its end
// gets larger pages; after a change of our own it starts over with small ones.
const (
	firstPage = 64 << 10
	lastPage  = 1 << 20
)

// dir is an open directory.
type dir struct {
	node fsproto.Node
	ino  uint64

	late  late
	mu    sync.Mutex // reads of one open directory take turns
	ended bool       // it is closed, and was opened here
	page  page
	came  bool   // page came when the directory was opened, and was not asked for yet
	size  uint32 // of the next page, in bytes
	from  uint64 // the lease on the directory when the listing began
}

// page is the part of a listing that was fetched last. Each entry with a node
// holds one reference in the node table, which is handed on to the kernel with
// the entry or given back when the page is dropped.
type page struct {
	from    uint64 // daemon's position that the page starts at
	entries []fsproto.Dirent
	next    int // index of the entry that is served next
	end     bool
	plus    bool      // entries have nodes and attributes
	clock   uint64    // of the node table, before the page was fetched
	fetched time.Time // zero: there is no page
	lease   uint64    // on the directory
	kept    *listing  // nil: the references are the page's; else there are none
	size    int       // bytes, if it came with the opening of the directory
}

// OpenDir opens a directory, unless the kernel is to do without.
func (fs *FS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if fs.noOpenDir {
		return fuse.ENOSYS
	}
	return fs.openDir(cancel, in, out)
}

func (fs *FS) openDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	req := fsproto.OpenReq{Node: fsproto.Node(in.NodeId), Handle: fs.newHandle(), Flags: fsproto.OpenDir}
	out.Fh = uint64(req.Handle)
	here := fs.openHere(req.Node, req.Flags)
	var begin *page
	if !here && fs.ahead.on() {
		var st fuse.Status
		if here, begin, st = fs.listNow(cancel, &in.InHeader, req.Node); !st.Ok() && fs.ahead.on() {
			return st
		}
	}
	if here {
		d := &dir{
			node: req.Node, ino: fs.nodes.inoOf(req.Node), size: firstPage, late: late{req: &req, op: fsproto.Opendir},
		}
		d.begin(begin)
		fs.handles.addDir(req.Handle, d)
		if fs.stillHere(req.Node) {
			out.OpenFlags |= fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
			return fuse.OK
		}
		fs.closeLate(&in.InHeader, &fs.handles.removeDir(out.Fh).late)
		again := req
		again.Handle = fs.newHandle()
		return fs.openDirThere(cancel, in, again, begin, out)
	}
	return fs.openDirThere(cancel, in, req, begin, out)
}

// begin is the page that came when the directory was opened, if one did.
func (d *dir) begin(p *page) {
	if p != nil {
		d.page, d.came, d.size = *p, true, 2*listNow
	}
}

// openDirThere opens a directory at the daemon.
func (fs *FS) openDirThere(cancel <-chan struct{}, in *fuse.OpenIn, req fsproto.OpenReq, begin *page, out *fuse.OpenOut) fuse.Status {
	out.Fh = uint64(req.Handle)
	var res fsproto.OpenRes
	if st := call(fs, cancel, &in.InHeader, fsproto.Opendir, &req, &res); !st.Ok() {
		if begin != nil {
			fs.ahead.forget(known(begin.entries))
		}
		return st
	}
	d := &dir{node: req.Node, ino: res.Attr.Ino, size: firstPage}
	d.begin(begin)
	fs.handles.addDir(req.Handle, d)
	leased := fs.leases.valid(req.Node, res.Attr.Lease)
	if leased {
		out.OpenFlags |= fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	}
	fs.nodes.update(req.Node, func(n *node) { n.seen.leased = leased })
	fs.granted(req.Node, req.Flags, &res)
	return fuse.OK
}

// ReleaseDir closes a directory.
func (fs *FS) ReleaseDir(in *fuse.ReleaseIn) {
	if fs.closeDir(&in.InHeader, in.Fh) {
		fs.calling(&in.InHeader)
		fs.release(fsproto.Handle(in.Fh))
	}
}

// closeDir forgets an open directory, and reports whether the daemon has to be told.
func (fs *FS) closeDir(h *fuse.InHeader, fh uint64) bool {
	d := fs.handles.removeDir(fh)
	if d == nil {
		return true
	}
	d.mu.Lock()
	fs.dropPage(d)
	d.mu.Unlock()
	return fs.closeLate(h, &d.late)
}

// FsyncDir waits until the directory is on the daemon's disk.
func (fs *FS) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if fs.noOpenDir {
		var out fuse.OpenOut
		if st := fs.openDir(cancel, &fuse.OpenIn{InHeader: in.InHeader}, &out); !st.Ok() {
			return st
		}
		in.Fh = out.Fh
		defer fs.endDir(&in.InHeader, in.Fh)
	}
	return fs.Fsync(cancel, in)
}

// ReadDir lists names.
func (fs *FS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.readdir(cancel, in, false, func(e fuse.DirEntry, _ *fsproto.Entry, _ *page) (added, taken bool) {
		return out.AddDirEntry(e), false
	})
}

// ReadDirPlus lists names and tells the kernel of their nodes, unless it would
// not remember them. It takes a reference to each node in the reply.
func (fs *FS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if fs.leases != nil && !fs.nodes.contended(fsproto.Node(in.NodeId), false) {
		defer fs.nodes.listedNow(fsproto.Node(in.NodeId))
	}
	return fs.readdir(cancel, in, fs.entryTimeout > 0, func(e fuse.DirEntry, node *fsproto.Entry, p *page) (added, taken bool) {
		entry := out.AddDirLookupEntry(e)
		if entry == nil || node == nil {
			return entry != nil, false // NodeId 0: only the name
		}
		age := time.Since(p.fetched)
		if fs.leases != nil {
			age = 0 // leases tell whether it still holds
		}
		fs.fillEntry(entry, node, true, fs.nameTimeout(fs.entryTimeout, fsproto.Node(in.NodeId), e.Name, p.lease), age)
		return true, true
	})
}

// addEntry puts an entry into the reply to the kernel. node is nil where only
// the name is told. taken reports that the kernel has got a reference.
type addEntry func(e fuse.DirEntry, node *fsproto.Entry, from *page) (added, taken bool)

// readdir serves one request from the page at hand, or from a new one. One page
// serves several requests; several pages never serve one.
func (fs *FS) readdir(cancel <-chan struct{}, in *fuse.ReadIn, plus bool, add addEntry) fuse.Status {
	d, old, st := fs.dirFor(cancel, in)
	if !st.Ok() {
		return st
	}
	end, added := false, false
	func() {
		defer d.mu.Unlock()
		end, st = fs.readFrom(cancel, in, d, plus, func(e fuse.DirEntry, node *fsproto.Entry, from *page) (ok, taken bool) {
			ok, taken = add(e, node, from)
			added = added || ok
			return ok, taken
		})
	}()
	if fs.noOpenDir && end && !added && fs.listings.end(d.node, in.Fh) {
		old = append(old, in.Fh)
	}
	for _, fh := range old {
		fs.endDir(&in.InHeader, fh)
	}
	return st
}

// readFrom is readdir of an open directory. end says that there is nothing left. d.mu is
// held.
func (fs *FS) readFrom(cancel <-chan struct{}, in *fuse.ReadIn, d *dir, plus bool, add addEntry) (end bool, st fuse.Status) {
	pos := in.Offset
	if pos == 0 || pos == afterDot {
		var full bool
		if pos, full = fs.addDots(d, pos, add); full {
			return false, fuse.OK
		}
		if !d.came {
			fs.dropPage(d) // rewinddir(3) looks again
		}
	}
	d.came = false
	if pos == afterDotDot {
		pos = 0 // of the daemon
	}
	if !fs.usable(d, pos, plus) {
		fs.dropPage(d)
		if st := fs.fetch(cancel, in, d, pos, plus); !st.Ok() {
			return false, st
		}
	}
	if pos == 0 {
		d.from = d.page.lease
	}
	if d.page.next == len(d.page.entries) && !fs.leases.valid(d.node, d.from) {
		// The kernel has all entries now and would keep them, though they were not
		// under one lease.
		fs.notices.drop(d.node, 0)
	}
	fs.serve(d, add)
	return d.page.end && d.page.next == len(d.page.entries), fuse.OK
}

// addDots adds "." and "..", or only the latter. It returns the position after
// what was added, and whether the reply is full.
func (fs *FS) addDots(d *dir, pos uint64, add addEntry) (uint64, bool) {
	if pos == 0 {
		if ok, _ := add(fuse.DirEntry{Name: ".", Mode: fuse.S_IFDIR, Ino: d.ino, Off: afterDot}, nil, nil); !ok {
			return pos, true
		}
	}
	up := fuse.DirEntry{Name: "..", Mode: fuse.S_IFDIR, Ino: fs.nodes.inoOfParent(d.node), Off: afterDotDot}
	if ok, _ := add(up, nil, nil); !ok {
		return afterDot, true
	}
	return afterDotDot, false
}

// usable reports whether the page can serve from pos on, and moves it there. A
// page is given up when this mount has changed the directory since, when it is
// older than the time-outs allow, or when it lacks nodes that are asked for.
func (fs *FS) usable(d *dir, pos uint64, plus bool) bool {
	p := &d.page
	if p.fetched.IsZero() || plus && !p.plus {
		return false
	}
	if fs.nodes.changedSince(d.node, p.clock) || time.Since(p.fetched) > fs.leases.timeout(min(fs.cfg.EntryTimeout, fs.cfg.AttrTimeout), d.node, p.lease) {
		d.size = firstPage
		return false
	}
	return p.seek(pos) && (p.next < len(p.entries) || p.end)
}

// seek moves the page to the entry after pos, if it has that position.
func (p *page) seek(pos uint64) bool {
	if p.next > 0 && p.entries[p.next-1].Cookie == pos {
		return true
	}
	// Entries before next have handed their references on already, so going
	// back needs a new page.
	if p.next == 0 && p.from == pos {
		return true
	}
	return false
}

// fetch gets the page that starts at pos.
func (fs *FS) fetch(cancel <-chan struct{}, in *fuse.ReadIn, d *dir, pos uint64, plus bool) fuse.Status {
	if pos == 0 && fs.fetchKept(cancel, in, d) {
		return fuse.OK
	}
	if st := fs.toldFor(cancel, &in.InHeader, in.Fh); !st.Ok() {
		return st
	}
	p := page{from: pos, plus: plus, clock: fs.nodes.clock.read(), fetched: time.Now()}
	defer fs.naming.begin()()
	req := fsproto.ReaddirReq{Handle: fsproto.Handle(in.Fh), Cookie: pos, Size: d.size, Entries: plus}
	var res fsproto.ReaddirRes
	if st := call(fs, cancel, &in.InHeader, fsproto.Readdir, &req, &res); !st.Ok() {
		return st
	}
	if len(res.Entries) == 0 && !res.End {
		return fuse.EIO
	}
	for i := range res.Entries {
		if !validEntry(&res.Entries[i]) {
			return fuse.EIO
		}
	}
	for i := range res.Entries {
		if e := &res.Entries[i]; e.Known {
			fs.nodes.note(&e.Entry, d.node, e.Name)
			e.Entry.FileHandle = nil // the table has a copy
		}
	}
	fs.trimmer.check()
	fs.leases.keep(d.node, &res.Dir, p.clock)
	p.entries, p.end, p.lease = res.Entries, res.End, res.Dir.Lease
	d.page = p
	d.size = min(2*d.size, lastPage)
	return fuse.OK
}

// fetchKept makes a listing that is kept the page, or asks for one if the daemon would have
// to be told of the open directory otherwise. It reports whether there is one.
func (fs *FS) fetchKept(cancel <-chan struct{}, in *fuse.ReadIn, d *dir) bool {
	l := fs.ahead.listingOf(d.node, in.Pid)
	if l == nil && fs.ahead.on() && !fs.handles.isTold(in.Fh) {
		var begin *page
		if l, begin, _ = fs.ahead.list(cancel, &in.InHeader, d.node, false); begin != nil {
			d.page, d.size = *begin, 2*listNow
			return true
		}
	}
	if l == nil {
		return false
	}
	fs.leases.keep(d.node, &l.dir, l.clock)
	d.page = page{entries: l.entries, end: true, plus: true, clock: l.clock, fetched: l.fetched, lease: l.dir.Lease, kept: l}
	fs.ahead.served(l)
	return true
}

// serve adds entries of the page until the reply is full. The attributes of a
// node that this mount has changed since the page was fetched, or has told newer
// ones of, are out of date; the kernel gets the name alone then and looks the
// node up.
func (fs *FS) serve(d *dir, add addEntry) {
	p := &d.page
	for ; p.next < len(p.entries); p.next++ {
		e := &p.entries[p.next]
		var node *fsproto.Entry
		own := e.Known && p.kept == nil
		if e.Known && !fs.behind.busy(e.Entry.Node) && !fs.nodes.changedSince(e.Entry.Node, p.clock) && !fs.nodes.newer(e.Entry.Node, &e.Entry.Attr) {
			if p.kept != nil {
				own = fs.nodes.again(e.Entry.Node)
			}
			if own {
				node = &e.Entry
			}
		}
		if node != nil {
			fs.show(node.Node, &node.Attr)
			fs.leases.keep(node.Node, &node.Attr, p.clock)
		}
		added, taken := add(fuse.DirEntry{Name: e.Name, Mode: e.Type, Ino: e.Ino, Off: e.Cookie}, node, p)
		if own && !taken && (added || p.kept != nil) {
			fs.Forget(uint64(e.Entry.Node), 1)
		}
		if !added {
			return
		}
	}
}

// dropPage gives back the references of entries that nobody has asked for.
func (fs *FS) dropPage(d *dir) {
	p := &d.page
	for i := p.next; i < len(p.entries) && p.kept == nil; i++ {
		if e := &p.entries[i]; e.Known {
			fs.Forget(uint64(e.Entry.Node), 1)
		}
	}
	*p = page{}
}

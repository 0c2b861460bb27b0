package export

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/identity"
	"github.com/rpycfs/rpycfs/internal/lockrange"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// Recovery goes on with the sessions of the process before. What was open is open by the
// keeper's descriptors; where it has none (it died too) files are opened again under the
// names that they had, and what cannot be is gone: ESTALE for that file alone, EIO for
// who had locks there. Leases are not taken over: each session learns first that it has
// none any more.
type Recovery struct {
	e     *Export
	kept  map[uint64]int // descriptors of the keeper that nobody has claimed
	nodes map[ident]*foundNode
	of    map[uint64][]mapped.Record // records of sessions that were not begun yet
	moved map[ident][]ident          // nodes that may have moved last, and where they are then
}

type foundNode struct {
	rec  nodeRec
	cell mapped.Cell
}

// Recover reads records, and takes over the descriptors that a keeper holds by their
// keys. It ends with Close.
func (e *Export) Recover(records []mapped.Record, kept map[uint64]int) *Recovery {
	r := &Recovery{e: e, kept: kept, nodes: make(map[ident]*foundNode), of: make(map[uint64][]mapped.Record), moved: make(map[ident][]ident)}
	for _, rec := range records {
		if rec.Kind != recNode {
			if len(rec.Body) < 8 {
				rec.Free()
				continue
			}
			key := sessionOf(rec)
			r.of[key] = append(r.of[key], rec)
			continue
		}
		n := &foundNode{cell: rec.Cell}
		if err := rpc.Decode(slices.Clone(rec.Body), &n.rec); err != nil {
			e.log.Error("a record of a node makes no sense", "err", err)
			rec.Free()
			continue
		}
		e.version = max(e.version, n.rec.version)
		if old := r.nodes[n.rec.id]; old != nil {
			if old.rec.version > n.rec.version {
				old, n = n, old
			}
			old.cell.Free()
		}
		r.nodes[n.rec.id] = n
	}
	return r
}

func sessionOf(rec mapped.Record) (key uint64) {
	c := sessionKey{}
	if err := rpc.Decode(slices.Clone(rec.Body[:8]), &c); err != nil {
		return 0
	}
	return c.key
}

type sessionKey struct{ key uint64 }

func (k *sessionKey) Fields(c *rpc.Codec) { c.U64(&k.key) }

// Undecided tells of calls that had begun and not ended, with their notes. It is called
// for all sessions before the first is begun.
func (r *Recovery) Undecided(calls map[rpc.Dep][]byte) {
	for _, note := range calls {
		var i intent
		if len(note) == 0 || rpc.Decode(note, &i) != nil || i.to == (ident{}) {
			continue
		}
		for _, id := range []ident{i.was, i.other} {
			r.moved[id] = append(r.moved[id], i.on, i.to)
		}
	}
}

// search looks for n, which is not where it was, where it may just have been moved.
func (r *Recovery) search(n *node) {
	for _, id := range r.moved[n.id] {
		dir := r.node(id)
		if dir == nil {
			continue
		}
		p, err := r.e.acquire(dir)
		if err != nil {
			r.e.unref(dir)
			continue
		}
		if name := nameIn(p, n.id); name != "" {
			r.e.remember(n, hint{id, name})
		}
		r.e.release(dir)
	}
}

// nameIn returns a name that an inode has in directory p, "" if none.
func nameIn(p *beneath.Path, id ident) string {
	f, err := p.OpenDir()
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	for {
		entries, end, err := f.Dirents(buf, nil)
		if err != nil {
			return ""
		}
		for i := range entries {
			name := string(entries[i].Name)
			if entries[i].Ino != id.ino {
				continue
			}
			st, err := p.StatAt(name)
			if err != nil {
				continue
			}
			if now, err := identOf(&st, func() (beneath.KernelHandle, error) { return p.HandleAt(name) }); err == nil && now == id {
				return name
			}
		}
		if end {
			return ""
		}
	}
}

// Close gives up what no session has claimed.
func (r *Recovery) Close() {
	for _, n := range r.nodes {
		n.cell.Free()
	}
	for _, records := range r.of {
		for _, rec := range records {
			rec.Free()
		}
	}
	for key, fd := range r.kept {
		r.e.cfg.Keep.Keeper.Drop(key, func() { unix.Close(fd) })
	}
}

// node returns a node that was recorded, with a reference for the caller; nil if it was
// not.
func (r *Recovery) node(id ident) *node {
	e := r.e
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.nodes[id]
	if n == nil {
		found := r.nodes[id]
		if found == nil {
			return nil
		}
		delete(r.nodes, id)
		n = &node{
			id: id, kind: found.rec.kind, hints: found.rec.hints, cell: found.cell,
			handle: beneath.KernelHandle{Type: int32(found.rec.kernelType), Data: found.rec.kernel},
		}
		if n.isDir() && e.priv.ByHandle {
			n.kernel = n.handle
		}
		e.nodes[id] = n
		e.leases.known(n)
		e.watch(n, n.handle)
		if e.piecemeal && len(n.hints) > 0 {
			e.byName[n.hints[0]] = n
		}
	}
	n.refs++
	return n
}

// Session goes on with the session that was recorded under a key. undecided are the calls
// that had begun and not ended, with their notes. The returned function tells the client what it has
// lost; it is called once. ESTALE if the session's root is not there any more.
func (r *Recovery) Session(id Identity, key uint64, undecided map[rpc.Dep][]byte) (*Session, func(*rpc.Peer), error) {
	byKind := make(map[uint8][]mapped.Record)
	for _, rec := range r.of[key] {
		byKind[rec.Kind] = append(byKind[rec.Kind], rec)
	}
	delete(r.of, key)
	s, err := r.e.NewSession(id)
	if err != nil {
		free(byKind)
		return nil, nil, err
	}
	s.key = key
	b := &revival{r: r, s: s, undecided: undecided, byKind: byKind}
	if err := b.attach(); err != nil {
		free(byKind)
		s.Close()
		return nil, nil, err
	}
	b.numbers()
	b.creds()
	b.handles()
	b.locks()
	s.holdUndecided(undecided)
	return s, b.tell, nil
}

func free(byKind map[uint8][]mapped.Record) {
	for _, records := range byKind {
		for _, rec := range records {
			rec.Free()
		}
	}
}

// revival is the recovery of one session. What stays in byKind is freed.
type revival struct {
	r         *Recovery
	s         *Session
	undecided map[rpc.Dep][]byte
	byKind    map[uint8][]mapped.Record
	settings  uint64
	lost      []fsproto.Handle
}

// each decodes the records of a kind for f, which reports whether the record is in use
// from now on.
func each[M any, P interface {
	*M
	rpc.Message
}](b *revival, kind uint8, f func(mapped.Record, *M) bool) {
	b.byKind[kind] = slices.DeleteFunc(b.byKind[kind], func(rec mapped.Record) bool {
		var m M
		if err := rpc.Decode(slices.Clone(rec.Body), P(&m)); err != nil {
			b.s.log.Error("a record makes no sense", "kind", kind, "err", err)
			return false
		}
		return f(rec, &m)
	})
}

// attach finds the attached root again, by the path that led to it, as the same directory.
func (b *revival) attach() error {
	s := b.s
	err := fmt.Errorf("it was not attached: %w", syscall.ESTALE)
	var root ident
	each(b, recNumber, func(_ mapped.Record, m *numberRec) bool {
		if fsproto.Node(m.num) == fsproto.RootNode {
			root = m.id
		}
		return false
	})
	each(b, recAttached, func(rec mapped.Record, m *attachedRec) bool {
		if s.attached.IsZero() {
			err = b.attachTo(rec, m, root)
		}
		return !s.attached.IsZero() && s.attached.ID() == rec.ID()
	})
	return err
}

func (b *revival) attachTo(rec mapped.Record, m *attachedRec, root ident) error {
	s := b.s
	var names []string
	if m.path != "" {
		names = strings.Split(m.path, "/")
	}
	n, err := s.e.descend(s.root, names)
	if err != nil {
		return err
	}
	if n.id != root {
		s.e.release(n)
		return fmt.Errorf("its root is another directory by now: %w", syscall.ESTALE)
	}
	s.attached = rec.Cell
	s.mu.Lock()
	defer s.mu.Unlock()
	s.e.keep(n)
	s.top = &ref{s: s, n: n, main: fsproto.RootNode}
	s.refs[n] = s.top
	s.next, s.stamp = fsproto.Node(rec.Word(wordNext).Load()), rec.Word(wordStamp).Load()
	b.settings = rec.Word(wordSet).Load()
	s.settings = b.settings
	return nil
}

// numbers makes the nodes known that the client has numbers for.
func (b *revival) numbers() {
	s := b.s
	each(b, recNumber, func(rec mapped.Record, m *numberRec) bool {
		n := b.r.node(m.id)
		num := fsproto.Node(m.num)
		if n == nil || s.numbers[num] != nil {
			b.r.e.unrefAll(n)
			return false
		}
		r := b.ref(n)
		if m.alias {
			r.aliases = append(r.aliases, num)
		} else {
			r.main = num
		}
		s.numbers[num] = &number{r: r, stamp: rec.Word(wordNumberStamp).Load(), cell: rec.Cell}
		return true
	})
}

// ref returns what the session has of n, a reference of which it takes over.
func (b *revival) ref(n *node) *ref {
	s := b.s
	if r := s.refs[n]; r != nil {
		s.e.unref(n)
		return r
	}
	r := &ref{s: s, n: n}
	s.refs[n] = r
	return r
}

func (b *revival) creds() {
	s := b.s
	each(b, recCred, func(rec mapped.Record, m *credRec) bool {
		as := s.own
		if s.id.RunAs == fsproto.RunAsCaller {
			id, err := s.id.squash(m.req.UID, m.req.GID, m.req.Groups)
			if err != nil {
				return false
			}
			as = &id
		}
		s.creds[m.req.ID] = as
		old := s.credCells[m.req.ID]
		s.credCells[m.req.ID] = rec.Cell
		old.Free()
		return true
	})
}

func (b *revival) handles() {
	s := b.s
	each(b, recHandle, func(rec mapped.Record, m *handleRec) bool {
		num := fsproto.Handle(m.num)
		n := b.r.node(m.id)
		if n == nil || s.handles[num] != nil {
			b.r.e.unrefAll(n)
			return false
		}
		h := &handle{num: num, r: b.ref(n), writes: m.writes, as: b.opener(m.as), cell: rec.Cell, users: 1}
		if _, ok := b.undecided[m.by]; ok {
			h.by = m.by
		}
		h.r.opens++
		s.e.leases.opened(h.r, m.writes, 1)
		s.e.handles.Add(1)
		s.e.keep(n) // the open file's
		h.f, h.kept = b.open(rec.ID(), n, m)
		switch {
		case h.f == nil:
			s.log.Warn("an open file could not be found again", "ino", n.id.ino)
		case !h.kept && !n.isDir():
			s.e.cfg.Keep.Keeper.Keep(rec.ID(), h.f.Fd())
		}
		if rec.Word(wordHandleState).Load() != 0 {
			h.lost.Store(true)
			b.lost = append(b.lost, num)
		}
		s.handles[num] = h
		return true
	})
}

// opener returns whose rights a file was opened with, as one of the session's where it
// is one.
func (b *revival) opener(as *identity.ID) *identity.ID {
	if as == nil {
		return nil
	}
	if b.s.own != nil && *b.s.own == *as {
		return b.s.own
	}
	return as
}

// open returns the open file of a record: the keeper's, or opened again, or nil. n's
// descriptor is acquired with it; otherwise the reference stays.
func (b *revival) open(key uint64, n *node, m *handleRec) (f *beneath.File, kept bool) {
	fd, kept := b.claim(key)
	if kept {
		f = beneath.NewFile(fd)
	}
	s := b.s
	p, err := s.e.acquire(n)
	if err != nil {
		b.r.search(n)
		p, err = s.e.acquire(n)
	}
	switch {
	case err == nil && f != nil:
		return f, true
	case err == nil && n.isDir():
		f, err = s.e.openAgain(p, p.OpenDir)
	case err == nil:
		f, err = s.e.openAgain(p, func() (*beneath.File, error) {
			return p.Open(int(m.flags) & (unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC | unix.O_NOATIME))
		})
	case f != nil:
		if p, err = f.Path(); err == nil {
			s.e.install(n, p)
			return f, true
		}
		f.Close()
		return nil, false
	default:
		return nil, false
	}
	if err != nil {
		s.e.keep(n)
		s.e.release(n)
		return nil, false
	}
	return f, false
}

// claim takes a descriptor of the keeper's.
func (b *revival) claim(key uint64) (fd int, ok bool) {
	fd, ok = b.r.kept[key]
	delete(b.r.kept, key)
	return fd, ok
}

// locks takes over the locks that stand through the descriptors, as the kernel has them.
// Where the description is another one they are lost.
func (b *revival) locks() {
	files := make(map[uint64]mapped.Cell)
	each(b, recLockFile, func(rec mapped.Record, _ *lockFileRec) bool {
		files[rec.ID()] = rec.Cell
		return true
	})
	each(b, recLockOwner, func(rec mapped.Record, m *lockOwnerRec) bool {
		return b.lockOwner(rec, m, files)
	})
	for key, cell := range files { // that nobody uses
		if fd, ok := b.claim(key); ok {
			b.r.kept[key] = fd
		}
		cell.Free()
	}
}

func (b *revival) lockOwner(rec mapped.Record, m *lockOwnerRec, files map[uint64]mapped.Cell) bool {
	s := b.s
	o := &lockOwner{
		key: lockKey{s, m.flock, m.owner}, kind: m.kind, pid: m.pid, via: make(map[*handle]bool), cell: rec.Cell,
	}
	var any *handle
	for _, num := range m.via {
		if h := s.handles[fsproto.Handle(num)]; h != nil {
			o.via[h] = true
			any = h
		}
	}
	if any != nil && s.e.lockTable(any).has(o.key) { // the daemon ended between writing this and removing that
		return false
	}
	f := &lockFile{flock: m.flock, read: m.read, write: m.write}
	if own := s.handles[fsproto.Handle(m.handle)]; m.file == 0 && own != nil && own.f != nil && own.kept {
		f.f, f.own = own.f, own
	} else if fd, ok := b.claim(m.file); ok && m.file != 0 {
		f.f, f.cell = beneath.NewFile(fd), files[m.file]
		delete(files, m.file)
		s.locks.files++
		s.e.handles.Add(1)
	}
	if any == nil || f.f == nil {
		if f.f != nil {
			f.close(s)
		}
		for h := range o.via {
			if h.loseLocks() {
				b.lost = append(b.lost, h.num)
			}
		}
		return false
	}
	ranges, err := f.standing()
	if err != nil || len(ranges) == 0 {
		if f.own == nil {
			f.close(s)
		}
		return false
	}
	t := s.e.lockTable(any)
	for h := range o.via {
		s.e.lockTable(h)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.own != nil {
		*f.own.lockUsers.of(m.flock) = true
	}
	o.file, o.recorded, o.ranges = f, f, ranges
	t.ranges += len(ranges)
	s.locks.ranges += len(ranges)
	t.byKey[o.key] = o
	t.owners = append(t.owners, o)
	return true
}

// standing returns the locks that stand through f.
func (f *lockFile) standing() (ranges lockrange.Ranges, err error) {
	locks, flock, err := f.f.Locks()
	if f.flock {
		if flock != unix.F_UNLCK {
			r := everything
			r.Write = flock == unix.F_WRLCK
			ranges = append(ranges, r)
		}
		return ranges, err
	}
	for _, l := range locks {
		ranges = append(ranges, lockrange.Range{Start: l.Start, End: l.End, Write: l.Type == unix.F_WRLCK})
	}
	slices.SortFunc(ranges, func(a, b lockrange.Range) int { return cmp.Compare(a.Start, b.Start) })
	return ranges, err
}

// tell tells the client what it has lost: leases, locks, and its place in queues.
func (b *revival) tell(peer *rpc.Peer) {
	s := b.s
	s.locks.setPeer(peer)
	s.locks.lost(b.lost)
	each(b, recLockWait, func(rec mapped.Record, m *lockWaitRec) bool {
		if _, ok := b.undecided[m.by]; ok {
			return false // it is asked again
		}
		s.locks.mu.Lock()
		defer s.locks.mu.Unlock()
		s.locks.tell(lockNotice{grant: fsproto.LockGrant{Wait: m.number, Errno: uint32(syscall.ECANCELED)}, cell: rec.Cell})
		return true
	})
	free(b.byKind)
	if b.settings&setLeases == 0 {
		return
	}
	l := &s.e.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	l.admit(s, peer)
	s.notices.wanted = b.settings&setEvents != 0
	s.notices.lost = s.notices.wanted
	l.fence(s)
}

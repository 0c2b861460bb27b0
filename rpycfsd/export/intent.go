package export

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// A change that a killed process had begun and not answered is sent again, and the next
// process has to find out whether it was made. So what is about to change, and how it was
// before, is noted with the call (an intent), and looked at again when the call comes for
// the second time:
//
//   - Until then no other call changes the same directory or file, for decideWithin at
//     most, and what concerns one name, or appends to one file, was done one after the
//     other. So what is found differs from what was noted by this call alone, or by a
//     program on the server.
//   - What was made: there was no such entry, and there is one that has the number which
//     the call was to give it, or else was born after the note and before that process had
//     ended, of the kind, owner, mode and target that the call gives. One that was born
//     then and is otherwise may be either's. What was removed or renamed: inodes tell.
//     What was appended: the bytes are where they would have begun, all of them or some,
//     which are then completed.
//   - Other changes come to the same when they are made twice, and are.
//   - Where a program on the server has done what cannot be told apart from the call, the
//     answer is EIO, and the log says why.

// decideWithin is how long others wait for a client to send its undecided calls again.
const decideWithin = 30 * time.Second

// intent is what is noted of a change before it is made.
type intent struct {
	on, to ident // the directory or file; of a rename the other directory
	// was is what the name led to, of a link what it is going to; other is what the new
	// name of a rename led to. Zero: there was no such entry.
	was, other ident
	size       uint64       // of an append: where it begins; of attributes: 1 if it was there
	since      fsproto.Time // by the clock of inodes
}

func (i *intent) Fields(c *rpc.Codec) {
	i.on.Fields(c)
	i.to.Fields(c)
	i.was.Fields(c)
	i.other.Fields(c)
	c.U64(&i.size)
	i.since.Fields(c)
}

// reached is for tests.
func (e *Export) reached(point string) error {
	if e.cfg.reached == nil {
		return nil
	}
	return e.cfg.reached(point)
}

// busyNames are names, and files that are appended to, that a call is changing.
// Export.mu guards it.
type busyNames map[hint]chan struct{}

// claimName returns when nobody else is changing a name. It ends with release.
func (e *Export) claimName(ctx context.Context, h hint) error {
	for {
		e.mu.Lock()
		busy := e.busy[h]
		if busy == nil {
			e.busy[h] = make(chan struct{})
			e.mu.Unlock()
			return nil
		}
		e.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *Export) releaseName(h hint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.busy[h])
	delete(e.busy, h)
}

// plan is the intent of a call, and what it keeps others from. nil is none.
type plan struct {
	s       *Session
	i       intent
	claimed []hint
	known   ident // of a call that comes again: what has the number that it gives
}

func (p *plan) done() {
	if p == nil {
		return
	}
	for _, h := range p.claimed {
		p.s.e.releaseName(h)
	}
}

func (p *plan) claim(ctx context.Context, names ...hint) error {
	if len(names) == 2 && (names[0] == names[1] || less(names[1], names[0])) {
		names[0], names[1] = names[1], names[0]
		if names[0] == names[1] {
			names = names[:1]
		}
	}
	for _, h := range names {
		if err := p.s.e.claimName(ctx, h); err != nil {
			return err
		}
		p.claimed = append(p.claimed, h)
	}
	return nil
}

func less(a, b hint) bool {
	if a.dir.ino != b.dir.ino {
		return a.dir.ino < b.dir.ino
	}
	if a.dir != b.dir {
		return a.dir.sec < b.dir.sec || a.dir.sec == b.dir.sec && a.dir.nsec < b.dir.nsec
	}
	return a.name < b.name
}

// plan notes what a request is about to change; nil if nothing is recorded. Of a call
// that comes for the second time it returns what was noted.
func (s *Session) plan(ctx context.Context, r *rpc.Request, c *change, req any) (p *plan, err error) {
	if !s.kept() || c == nil || len(c.touched) == 0 {
		return nil, nil
	}
	p = &plan{s: s}
	defer func() {
		if err != nil {
			p.done()
			p = nil
		}
	}()
	if err := p.claim(ctx, c.names(req)...); err != nil {
		return p, err
	}
	if r.Again && len(r.Noted) > 0 {
		if err := rpc.Decode(r.Noted, &p.i); err != nil {
			return p, err
		}
		return p, s.mayBegin()
	}
	p.i.on = c.touched[0].n.id
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
		return p, err
	}
	p.i.since = fsproto.Time{Sec: now.Sec, Nsec: uint32(now.Nsec)}
	if err := p.look(c, req); err != nil {
		return p, err
	}
	note, err := rpc.Encode(nil, &p.i)
	if err != nil {
		return p, err
	}
	r.Note(note)
	return p, s.mayBegin()
}

// mayBegin refuses changes when what is noted is not kept any more: the next process, which
// is sent the call again, would make it for the second time.
func (s *Session) mayBegin() error {
	if s.e.cfg.Keep.Store.Frozen() {
		return errClosed
	}
	return nil
}

// names are those that only one call at a time may change; an append changes one without
// a name.
func (c *change) names(req any) []hint {
	switch req := req.(type) {
	case *fsproto.WriteReq:
		if req.Flags&fsproto.WriteAppend != 0 {
			return []hint{{dir: c.touched[0].n.id}}
		}
	case *fsproto.RenameReq:
		if c.dir != nil && c.newDir != nil {
			return []hint{{c.dir.id, c.name}, {c.newDir.id, req.NewName}}
		}
	default:
		if c.dir != nil {
			return []hint{{c.dir.id, c.name}}
		}
	}
	return nil
}

// look adds how things are before the change. What cannot be found, the handler will not
// find either.
func (p *plan) look(c *change, req any) error {
	s := p.s
	switch req := req.(type) {
	case *fsproto.WriteReq:
		if req.Flags&fsproto.WriteAppend == 0 {
			return nil
		}
		h, err := s.handle(req.Handle)
		if err != nil {
			return nil
		}
		defer s.done(h)
		st, err := h.f.Stat()
		p.i.size = st.Size
		return err
	case *fsproto.RenameReq:
		p.i.was = s.identAt(req.Parent, req.Name)
		p.i.other = s.identAt(req.NewParent, req.NewName)
		if c.newDir != nil {
			p.i.to = c.newDir.id
		}
	case *fsproto.UnlinkReq:
		p.i.was = s.identAt(req.Parent, req.Name)
	case *fsproto.SetxattrReq:
		p.i.size = s.hasXattr(req.Node, req.Name)
	case *fsproto.RemovexattrReq:
		p.i.size = s.hasXattr(req.Node, req.Name)
	default:
		if parent := parentOf(req); parent != 0 {
			p.i.was = s.identAt(parent, c.name)
		}
	}
	return nil
}

// identAt returns what a name leads to, zero if there is nothing, or it cannot be found
// out.
func (s *Session) identAt(parent fsproto.Node, name string) ident {
	d, err := s.dir(parent)
	if err != nil {
		return ident{}
	}
	defer d.done()
	id, _ := d.identOf(name)
	return id
}

// identOf returns what entry name of directory o is now, with its attributes.
func (o object) identOf(name string) (id ident, st beneath.Stat) {
	st, err := o.p.StatAt(name)
	if err == nil {
		id, err = identOf(&st, o.handleAt(name))
	}
	if err != nil {
		return ident{}, st
	}
	return id, st
}

func (s *Session) hasXattr(num fsproto.Node, name string) uint64 {
	o, err := s.node(num)
	if err != nil {
		return 0
	}
	defer o.done()
	if _, err := o.p.Getxattr(name, nil); err != nil {
		return 0
	}
	return 1
}

// errUndecided says that it cannot be told whether a change was made. The client is
// told so, too.
var errUndecided = fmt.Errorf("the daemon was killed in the middle of this change, and a program on the server has changed the same since; whether it was made cannot be told: %w",
	&rpc.Error{Code: rpc.CodeOf(syscall.EIO), Detail: []byte(fsproto.Undecided)})

// decide finds out about a change that may have been made before. If it was, res is
// filled in.
func (p *plan) decide(c call, req, res any) (made bool, err error) {
	if p == nil || len(c.Noted) == 0 {
		return false, nil
	}
	s, expired := p.s, p.s.expired(c.Slot)
	switch req := req.(type) {
	case *fsproto.CreateReq:
		p.know(req.NewNode)
		return false, nil // createOrOpen does
	case *fsproto.MkdirReq:
		return p.decideMade(c, req.Parent, req.Name, req.NewNode, entry{kind: unix.S_IFDIR, mode: req.Mode, umask: req.Umask}, res)
	case *fsproto.MknodReq:
		e := entry{kind: req.Mode & fsproto.ModeType, mode: req.Mode, umask: req.Umask}
		switch e.kind {
		case 0:
			e.kind = unix.S_IFREG
		case unix.S_IFCHR, unix.S_IFBLK:
			e.major, e.minor = req.RdevMajor, req.RdevMinor
		}
		return p.decideMade(c, req.Parent, req.Name, req.NewNode, e, res)
	case *fsproto.SymlinkReq:
		return p.decideMade(c, req.Parent, req.Name, req.NewNode, entry{kind: unix.S_IFLNK, target: string(req.Target)}, res)
	case *fsproto.LinkReq:
		return p.decideLink(req, res.(*fsproto.CreateNodeRes))
	case *fsproto.UnlinkReq:
		return p.decideUnlink(req, res.(*fsproto.UnlinkRes))
	case *fsproto.RenameReq:
		return p.decideRename(req, res.(*fsproto.RenameRes))
	case *fsproto.WriteReq:
		if req.Flags&fsproto.WriteAppend != 0 && !expired {
			return p.decideAppend(c, req, res.(*fsproto.WriteRes))
		}
	case *fsproto.SetxattrReq:
		if req.Flags&fsproto.XattrCreate != 0 && p.i.size == 0 && s.hasXattr(req.Node, req.Name) == 1 {
			return p.decideXattr(req, res.(*fsproto.AttrRes))
		}
	case *fsproto.RemovexattrReq:
		if p.i.size == 1 && s.hasXattr(req.Node, req.Name) == 0 {
			return s.attrAfter(req.Node, res.(*fsproto.AttrRes))
		}
	}
	if expired {
		return false, errUndecided
	}
	return false, nil
}

// decideXattr looks whether an attribute that was to be made is the call's, where the kernel
// leaves the value as it is given.
func (p *plan) decideXattr(req *fsproto.SetxattrReq, res *fsproto.AttrRes) (bool, error) {
	o, err := p.s.node(req.Node)
	if err != nil {
		return false, err
	}
	defer o.done()
	value := make([]byte, len(req.Value)+1)
	n, err := o.p.Getxattr(req.Name, value)
	if err != nil && !isErrno(err, syscall.ERANGE) {
		return false, err
	}
	if strings.HasPrefix(req.Name, "user.") && (err != nil || !bytes.Equal(value[:n], req.Value)) {
		return false, errUndecided
	}
	return true, o.attr(&res.Attr)
}

func (s *Session) attrAfter(num fsproto.Node, res *fsproto.AttrRes) (bool, error) {
	o, err := s.node(num)
	if err != nil {
		return false, err
	}
	defer o.done()
	return true, o.attr(&res.Attr)
}

// entry is what a call makes.
type entry struct {
	kind, mode, umask uint32 // the mode as it is asked for
	target            string // of a symbolic link
	major, minor      uint32 // of a device
}

// is reports whether entry name of directory d, of the same kind, is as a call with the
// rights of c would have made it. Set-id bits are inherited and dropped.
func (e *entry) is(c call, d object, name string, st *beneath.Stat) bool {
	owner := uint32(unix.Geteuid())
	if c.as != nil {
		owner = c.as.UID()
	}
	if st.Uid != owner || st.Rdev_major != e.major || st.Rdev_minor != e.minor {
		return false
	}
	if e.kind == unix.S_IFLNK {
		p, err := d.p.Walk(name)
		if err != nil {
			return false
		}
		defer p.Close()
		target, err := p.Readlink(len(e.target) + 1)
		return err == nil && string(target) == e.target
	}
	is, asked := uint32(st.Mode)&fsproto.ModePerm&^setIDs, d.mode(e.mode, e.umask)&^setIDs
	return is == asked || is&^asked == 0 && d.p.HasDefaultACL() // which takes bits away
}

// know notes what has the number that a call gives.
func (p *plan) know(chosen fsproto.Node) {
	if n := p.s.nodeOf(chosen); n != nil && chosen != 0 {
		p.known = n.id
	}
}

// made reports whether a call has made an entry that is there now.
func (p *plan) made(c call, d object, name string, id ident, st *beneath.Stat, e entry) (bool, error) {
	switch {
	case id == (ident{}), p.i.was != (ident{}), uint32(st.Mode)&unix.S_IFMT != e.kind:
		return false, nil
	case id == p.known:
		return true, nil
	}
	birth, sure := st.Btime, st.Mask&unix.STATX_BTIME != 0
	if !sure {
		birth = st.Ctime // it was born before that
	}
	at, ended := time.Unix(birth.Sec, int64(birth.Nsec)), p.s.e.cfg.Keep.Ended
	switch {
	case at.Before(time.Unix(p.i.since.Sec, int64(p.i.since.Nsec))):
		return false, nil
	case !ended.IsZero() && at.After(ended):
		if sure {
			return false, nil
		}
		return false, errUndecided
	case e.is(c, d, name, st):
		return true, nil
	}
	return false, errUndecided
}

func (p *plan) decideMade(c call, parent fsproto.Node, name string, chosen fsproto.Node, e entry, res any) (bool, error) {
	d, err := p.s.dir(parent)
	if err != nil {
		return false, err
	}
	defer d.done()
	p.know(chosen)
	id, st := d.identOf(name)
	if made, err := p.made(c, d, name, id, &st, e); !made {
		return false, err
	}
	return true, p.s.enterNew(d, name, chosen, res.(*fsproto.CreateNodeRes))
}

func (p *plan) decideLink(req *fsproto.LinkReq, res *fsproto.CreateNodeRes) (bool, error) {
	n := p.s.nodeOf(req.Node)
	d, err := p.s.dir(req.Parent)
	if err != nil {
		return false, err
	}
	defer d.done()
	if id, _ := d.identOf(req.Name); n == nil || p.i.was != (ident{}) || id != n.id {
		return false, nil
	}
	return true, p.s.enterNew(d, req.Name, 0, res)
}

func (p *plan) decideUnlink(req *fsproto.UnlinkReq, res *fsproto.UnlinkRes) (bool, error) {
	d, err := p.s.dir(req.Parent)
	if err != nil {
		return false, err
	}
	defer d.done()
	if id, _ := d.identOf(req.Name); p.i.was == (ident{}) || id == p.i.was {
		return false, nil
	}
	p.s.e.renamed(p.i.was, hint{d.n.id, req.Name}, hint{})
	p.s.tellOf(p.i.was, &res.Node, &res.Attr)
	return true, d.attr(&res.Parent)
}

// tellOf fills in what a reply tells of a node after a change, if it can be reached.
func (s *Session) tellOf(id ident, num *fsproto.Node, a *fsproto.Attr) {
	n := s.e.find(id)
	if n == nil {
		return
	}
	p, err := s.e.acquire(n)
	if err != nil {
		s.e.unref(n)
		return
	}
	v := victim{o: object{s: s, n: n, p: p}, has: true}
	defer v.done()
	v.after(num, a)
}

func (p *plan) decideRename(req *fsproto.RenameReq, res *fsproto.RenameRes) (bool, error) {
	s := p.s
	from, err := s.dir(req.Parent)
	if err != nil {
		return false, err
	}
	defer from.done()
	to, err := s.dir(req.NewParent)
	if err != nil {
		return false, err
	}
	defer to.done()
	exchange := req.Flags&fsproto.RenameExchange != 0
	src, _ := from.identOf(req.Name)
	dst, _ := to.identOf(req.NewName)
	was, other := p.i.was, p.i.other
	switch {
	case was == (ident{}), src == was && dst == other:
		return false, nil // it was not made, or comes to nothing
	case dst == was && (exchange && src == other || !exchange && src != was):
	default:
		return false, errUndecided
	}
	at, newAt := hint{from.n.id, req.Name}, hint{to.n.id, req.NewName}
	s.e.renamed(was, at, newAt)
	if other != (ident{}) {
		back := hint{}
		if exchange {
			back = at
		}
		s.e.renamed(other, newAt, back)
	}
	s.tellOf(was, &res.Node, &res.Attr)
	if other != (ident{}) {
		s.tellOf(other, &res.Replaced, &res.ReplacedAttr)
	}
	if err := from.attr(&res.Parent); err != nil {
		return true, err
	}
	return true, to.attr(&res.NewParent)
}

// decideAppend looks for the bytes where they would begin, and adds those that are
// missing.
func (p *plan) decideAppend(c call, req *fsproto.WriteReq, res *fsproto.WriteRes) (bool, error) {
	s := p.s
	h, err := s.handle(req.Handle)
	if err != nil {
		return false, err
	}
	defer s.done(h)
	st, err := h.f.Stat()
	if err != nil {
		return false, err
	}
	if st.Size == p.i.size || len(c.Data) == 0 {
		return false, nil
	}
	there := make([]byte, min(uint64(len(c.Data)), st.Size-min(st.Size, p.i.size)))
	path := h.r.n.path // it is held while h is open
	f, err := s.e.openAgain(path, func() (*beneath.File, error) { return path.Open(unix.O_RDONLY) })
	if err != nil {
		return false, err
	}
	n, err := f.ReadAt(there, int64(p.i.size))
	f.Close()
	if err != nil {
		return false, err
	}
	if n == 0 || n < len(there) || !bytes.Equal(there, c.Data[:n]) {
		return false, errUndecided
	}
	if rest := c.Data[n:]; len(rest) > 0 {
		m, err := h.f.WriteAt(rest, int64(p.i.size)+int64(n), 0)
		if err != nil && m == 0 {
			s.log.Warn("an append that was cut off could not be completed", "err", err)
		}
		n += m
	}
	res.Count, res.Offset = uint32(n), p.i.size
	return true, h.attr(&res.Attr)
}

// undecided is a call of another process of which it is not known whether it was
// executed. Others that change the same wait until done is closed.
type undecided struct {
	on      []ident
	done    chan struct{}
	expired bool // the client did not come in time; guarded by Export.mu
}

// await returns when no call is undecided about what c changes.
func (e *Export) awaitDecided(ctx context.Context, c *change) error {
	for i := range c.touched {
		for {
			e.mu.Lock()
			list := e.undecided[c.touched[i].n.id]
			e.mu.Unlock()
			if len(list) == 0 {
				break
			}
			e.reached("waits")
			select {
			case <-list[0].done:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// holdUndecided makes others wait for the calls of a session that have begun a change.
func (s *Session) holdUndecided(calls map[rpc.Dep][]byte) {
	e := s.e
	for d, note := range calls {
		var i intent
		if len(note) == 0 || rpc.Decode(note, &i) != nil {
			continue
		}
		u := &undecided{on: []ident{i.on}, done: make(chan struct{})}
		if i.to != (ident{}) && i.to != i.on {
			u.on = append(u.on, i.to)
		}
		s.undecided[d] = u
		e.mu.Lock()
		for _, id := range u.on {
			e.undecided[id] = append(e.undecided[id], u)
		}
		e.mu.Unlock()
	}
	if len(s.undecided) > 0 {
		s.giveUp = time.AfterFunc(decideWithin, func() { s.letGo(nil) })
	}
}

// letGo lets others go on that wait for a call, or with nil for any.
func (s *Session) letGo(d *rpc.Dep) {
	s.mu.Lock()
	var calls []*undecided
	for dep, u := range s.undecided {
		if d == nil || dep == *d {
			calls = append(calls, u)
		}
	}
	s.mu.Unlock()
	e := s.e
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, u := range calls {
		select {
		case <-u.done:
			continue
		default:
		}
		u.expired = d == nil
		close(u.done)
		for _, id := range u.on {
			if list := without(e.undecided[id], u); len(list) > 0 {
				e.undecided[id] = list
			} else {
				delete(e.undecided, id)
			}
		}
	}
}

func without(list []*undecided, u *undecided) (rest []*undecided) {
	for _, other := range list {
		if other != u {
			rest = append(rest, other)
		}
	}
	return rest
}

// expired reports whether others have been let go on before a call came again.
func (s *Session) expired(d rpc.Dep) bool {
	s.mu.Lock()
	u := s.undecided[d]
	s.mu.Unlock()
	if u == nil {
		return false
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	return u.expired
}

package export

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// What a killed process has made of a call, told by its intent (intent.go).

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

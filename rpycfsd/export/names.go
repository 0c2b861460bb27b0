package export

import (
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"golang.org/x/sys/unix"
)

func (s *Session) lookup(_ call, req *fsproto.LookupReq, res *fsproto.LookupRes) error {
	d, err := s.dir(req.Parent)
	if err != nil {
		return err
	}
	defer d.done()
	switch err = s.enterHeld(d, req.Name, &res.Entry); {
	case err == nil:
		res.Exists = true
	case !isErrno(err, syscall.ENOENT):
		return err
	}
	return d.attr(&res.Parent)
}

// makeIn runs a call that makes entry name of a directory, and answers with it.
func (s *Session) makeIn(parent fsproto.Node, name string, chosen fsproto.Node, res *fsproto.CreateNodeRes, do func(object) error) error {
	if err := s.mayChoose(chosen); err != nil {
		return err
	}
	d, err := s.dir(parent)
	if err != nil {
		return err
	}
	defer d.done()
	if err := do(d); err != nil {
		return err
	}
	return s.enterNew(d, name, chosen, res)
}

// mkdir makes a directory. As on Linux, set-id bits in the mode are passed over
// and the parent's set-group-id bit is inherited.
func (s *Session) mkdir(_ call, req *fsproto.MkdirReq, res *fsproto.CreateNodeRes) error {
	return s.makeIn(req.Parent, req.Name, req.NewNode, res, func(d object) error {
		return d.p.Mkdir(req.Name, d.mode(req.Mode&^setIDs, req.Umask))
	})
}

// mknod makes regular files, FIFOs and sockets; devices where the kernel decides
// about that by who is calling.
func (s *Session) mknod(c call, req *fsproto.MknodReq, res *fsproto.CreateNodeRes) error {
	return s.makeIn(req.Parent, req.Name, req.NewNode, res, func(d object) error {
		kind := req.Mode & fsproto.ModeType
		switch kind {
		case 0, fsproto.ModeRegular, fsproto.ModeFIFO, fsproto.ModeSocket:
		case fsproto.ModeChar, fsproto.ModeBlock:
			if c.as != nil {
				break
			}
			fallthrough
		case fsproto.ModeDir:
			if _, err := d.p.StatAt(req.Name); err == nil {
				return syscall.EEXIST // found out before the rights
			}
			return syscall.EPERM
		default:
			return syscall.EINVAL
		}
		if s.e.restricted() && req.Mode&setIDs != 0 {
			return syscall.EPERM
		}
		return d.p.Mknod(req.Name, kind|d.mode(req.Mode, req.Umask), req.RdevMajor, req.RdevMinor)
	})
}

func (s *Session) symlink(_ call, req *fsproto.SymlinkReq, res *fsproto.CreateNodeRes) error {
	return s.makeIn(req.Parent, req.Name, req.NewNode, res, func(d object) error {
		return d.p.Symlink(string(req.Target), req.Name)
	})
}

func (s *Session) link(_ call, req *fsproto.LinkReq, res *fsproto.CreateNodeRes) error {
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	return s.makeIn(req.Parent, req.Name, 0, res, func(d object) error {
		return d.p.Link(o.p, req.Name)
	})
}

// victim is an entry that a call is about to remove or rename.
type victim struct {
	o   object
	has bool // the export knows its node, and o is to be done
	id  ident
	at  hint
}

// victim looks at an entry before a call changes it. That there is none, the
// call itself will tell.
func (s *Session) victim(d object, name string) victim {
	v := victim{at: hint{d.n.id, name}}
	st, err := d.p.StatAt(name)
	if err != nil || s.e.within(&st) != nil {
		return v
	}
	if v.id, err = identOf(&st, d.handleAt(name)); err != nil {
		return v
	}
	n := s.e.find(v.id)
	if n == nil {
		return v
	}
	s.e.remember(n, v.at)
	p, err := s.e.acquire(n)
	if err != nil {
		s.e.unref(n)
		return v
	}
	v.o, v.has = object{s: s, n: n, p: p}, true
	return v
}

func (v victim) done() {
	if v.has {
		v.o.done()
	}
}

// after fills in what a reply tells of the entry's node: the session's number
// and the attributes afterwards.
func (v victim) after(num *fsproto.Node, a *fsproto.Attr) {
	if !v.has {
		return
	}
	st, err := v.o.p.Stat()
	if err != nil {
		return
	}
	*num, *a = v.o.s.numberOf(v.o.n), attrOf(&st)
}

func (s *Session) unlink(_ call, req *fsproto.UnlinkReq, res *fsproto.UnlinkRes) error {
	return s.remove(req, res, func(d object) error { return d.p.Unlink(req.Name) })
}

func (s *Session) rmdir(_ call, req *fsproto.UnlinkReq, res *fsproto.UnlinkRes) error {
	return s.remove(req, res, func(d object) error { return d.p.Rmdir(req.Name) })
}

func (s *Session) remove(req *fsproto.UnlinkReq, res *fsproto.UnlinkRes, do func(object) error) error {
	d, err := s.dir(req.Parent)
	if err != nil {
		return err
	}
	defer d.done()
	v := s.victim(d, req.Name)
	defer v.done()
	if err := do(d); err != nil {
		return err
	}
	s.e.renamed(v.id, v.at, hint{})
	v.after(&res.Node, &res.Attr)
	return d.attr(&res.Parent)
}

// rename moves an entry, or exchanges two.
func (s *Session) rename(_ call, req *fsproto.RenameReq, res *fsproto.RenameRes) error {
	from, err := s.dir(req.Parent)
	if err != nil {
		return err
	}
	defer from.done()
	to, err := s.dir(req.NewParent)
	if err != nil {
		return err
	}
	defer to.done()
	moved, replaced := s.victim(from, req.Name), s.victim(to, req.NewName)
	defer moved.done()
	defer replaced.done()
	if err := from.p.Rename(req.Name, to.p, req.NewName, renameFlags(req.Flags)); err != nil {
		return err
	}
	if moved.id != replaced.id { // two names of one inode: rename does nothing
		s.e.renamed(moved.id, moved.at, replaced.at)
		exchanged := hint{}
		if req.Flags&fsproto.RenameExchange != 0 {
			exchanged = moved.at
		}
		s.e.renamed(replaced.id, replaced.at, exchanged)
	}
	moved.after(&res.Node, &res.Attr)
	replaced.after(&res.Replaced, &res.ReplacedAttr)
	if err := from.attr(&res.Parent); err != nil {
		return err
	}
	return to.attr(&res.NewParent)
}

func renameFlags(flags uint32) (kernel uint) {
	if flags&fsproto.RenameNoReplace != 0 {
		kernel |= unix.RENAME_NOREPLACE
	}
	if flags&fsproto.RenameExchange != 0 {
		kernel |= unix.RENAME_EXCHANGE
	}
	return kernel
}

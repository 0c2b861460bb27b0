package export

import (
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"golang.org/x/sys/unix"
)

// createTries bounds how often create starts again when somebody else makes and
// removes the name at the same time.
const createTries = 32

// create makes and opens a file, or opens an existing one.
func (s *Session) create(c call, req *fsproto.CreateReq, res *fsproto.CreateRes) error {
	d, err := s.dirToCreate(c, req.Parent, req.Handle, req.Mode, req.Flags, req.NewNode)
	if err != nil {
		return err
	}
	defer d.done()
	return s.createHandle(c, d, req.Handle, req.NewNode, req.Flags, res, func() (*node, *beneath.File, error) {
		return s.createOrOpen(c, d, req)
	})
}

// tmpfile makes and opens a file that has no name. Without OpenExclusive it can
// be given one by link.
func (s *Session) tmpfile(c call, req *fsproto.TmpfileReq, res *fsproto.CreateRes) error {
	d, err := s.dirToCreate(c, req.Parent, req.Handle, req.Mode, req.Flags, req.NewNode)
	if err != nil {
		return err
	}
	defer d.done()
	return s.createHandle(c, d, req.Handle, req.NewNode, req.Flags, res, func() (*node, *beneath.File, error) {
		flags := openFlags(req.Flags &^ fsproto.OpenTruncate)
		if req.Flags&fsproto.OpenExclusive != 0 {
			flags |= unix.O_EXCL
		}
		f, err := d.p.Tmpfile(flags, d.mode(req.Mode, req.Umask))
		if err != nil {
			return nil, nil, err
		}
		return s.adopt(f, hint{})
	})
}

// dirToCreate returns the directory for a file that may be made, or that this very call
// has made already.
func (s *Session) dirToCreate(c call, parent fsproto.Node, num fsproto.Handle, mode, flags uint32, chosen fsproto.Node) (object, error) {
	if h := s.openedBy(c, num); h != nil {
		s.done(h)
		return s.dir(parent)
	}
	if c.Again {
		s.unchoose(chosen)
	}
	if err := s.mayCreate(mode, flags, chosen); err != nil {
		return object{}, err
	}
	return s.dir(parent)
}

// mayCreate checks what can be checked before anything is made. Set-id bits are
// refused by a privileged daemon: the file would be its own.
func (s *Session) mayCreate(mode, flags uint32, chosen fsproto.Node) error {
	if flags&fsproto.OpenDir != 0 {
		return syscall.EINVAL
	}
	if s.e.restricted() && mode&setIDs != 0 {
		return syscall.EPERM
	}
	return s.mayChoose(chosen)
}

// unchoose takes a number back that this very call has given, to something that is not
// there any more.
func (s *Session) unchoose(chosen fsproto.Node) {
	s.mu.Lock()
	nodes := s.dropNumber(chosen)
	s.mu.Unlock()
	s.e.unrefAll(nodes...)
}

// mode is the mode of a new entry of d: under a default ACL the umask counts for
// nothing. The daemon's own umask is 0.
func (d object) mode(mode, umask uint32) uint32 {
	mode &= fsproto.ModePerm
	if umask &= 0o777; umask&mode == 0 || d.p.HasDefaultACL() {
		return mode
	}
	return mode &^ umask
}

// createHandle opens what open makes, under a handle number, and fills in the
// reply. open returns a node with its descriptor acquired.
func (s *Session) createHandle(c call, d object, num fsproto.Handle, chosen fsproto.Node, flags uint32, res *fsproto.CreateRes, open func() (*node, *beneath.File, error)) error {
	if h := s.openedBy(c, num); h != nil {
		defer s.done(h)
		return s.tellCreated(d, h.r.n, h.f, chosen, res)
	}
	if err := s.reserve(num); err != nil {
		return err
	}
	n, f, err := open()
	if err != nil {
		s.abandon(num)
		return err
	}
	if err := s.tellCreated(d, n, f, chosen, res); err != nil {
		f.Close()
		s.e.release(n)
		s.abandon(num)
		return err
	}
	return s.settle(c, num, n, f, writes(flags))
}

// tellCreated fills in the reply to a create of f in d.
func (s *Session) tellCreated(d object, n *node, f *beneath.File, chosen fsproto.Node, res *fsproto.CreateRes) error {
	st, err := f.Stat()
	if err == nil {
		err = s.introduce(n, &st, chosen, d.checked, true, &res.Entry)
	}
	if err == nil {
		err = d.attr(&res.Parent)
	}
	return err
}

func (s *Session) createOrOpen(c call, d object, req *fsproto.CreateReq) (n *node, f *beneath.File, err error) {
	if n, f, err = s.openMade(c, d, req); n != nil || err != nil {
		return n, f, err
	}
	for range createTries {
		err = syscall.EEXIST
		if !s.readOnly { // otherwise admit has seen that the name exists
			flags := openFlags(req.Flags &^ (fsproto.OpenTruncate | fsproto.OpenNoAtime))
			f, err = d.p.Create(req.Name, flags, d.mode(req.Mode, req.Umask))
		}
		if err == nil {
			if n, f, err = s.adopt(f, hint{d.n.id, req.Name}); err == nil {
				c.madeFile(d, req.Name, n)
			}
			return n, f, err
		}
		if !isErrno(err, syscall.EEXIST) || req.Flags&fsproto.OpenExclusive != 0 {
			return nil, nil, err
		}
		n, f, err = s.createOpen(c, d, req)
		if !isErrno(err, syscall.ENOENT) {
			return n, f, err
		}
		if s.readOnly {
			return nil, nil, syscall.EROFS
		}
	}
	return nil, nil, err
}

// openMade opens a file that this very call has made already; nil if it has not. Its
// mode says nothing about who has made it.
func (s *Session) openMade(c call, d object, req *fsproto.CreateReq) (*node, *beneath.File, error) {
	if c.plan == nil || len(c.Noted) == 0 {
		return nil, nil, nil
	}
	id, st := d.identOf(req.Name)
	made, err := c.plan.made(c, d, req.Name, id, &st, entry{kind: unix.S_IFREG, mode: req.Mode, umask: req.Umask})
	if err != nil && req.Flags&fsproto.OpenExclusive == 0 {
		err = nil // who made it is all the same
	}
	if !made {
		return nil, nil, err
	}
	p, err := d.p.Walk(req.Name)
	if err != nil {
		return nil, nil, err
	}
	n, _, err := s.internPath(p, hint{d.n.id, req.Name})
	if err != nil {
		return nil, nil, err
	}
	f, err := s.e.openAgain(n.path, func() (*beneath.File, error) {
		return n.path.Open(openFlags(req.Flags &^ (fsproto.OpenTruncate | fsproto.OpenNoAtime)))
	})
	if err != nil {
		s.e.release(n)
		return nil, nil, err
	}
	return n, f, nil
}

// createOpen opens an entry that a create has found.
func (s *Session) createOpen(c call, d object, req *fsproto.CreateReq) (*node, *beneath.File, error) {
	p, err := d.p.Walk(req.Name)
	if err != nil {
		return nil, nil, err
	}
	n, _, err := s.internPath(p, hint{d.n.id, req.Name})
	if err != nil {
		return nil, nil, err
	}
	f, err := s.openFile(c, object{s: s, n: n, p: n.path}, req.Flags)
	if err != nil {
		s.e.release(n)
		return nil, nil, err
	}
	return n, f, nil
}

// adopt returns the node of a file that was just made, with its descriptor
// acquired. It closes f if it fails.
func (s *Session) adopt(f *beneath.File, at hint) (*node, *beneath.File, error) {
	p, err := f.Path()
	if err == nil {
		var n *node
		if n, _, err = s.internPath(p, at); err == nil {
			return n, f, nil
		}
	}
	f.Close()
	return nil, nil, err
}

// internPath returns the node that p refers to, with its descriptor acquired,
// and its attributes. It takes p over.
func (s *Session) internPath(p *beneath.Path, at hint) (n *node, st beneath.Stat, err error) {
	st, err = p.Stat()
	if err == nil {
		n, err = s.e.intern(&st, at, p.Handle)
	}
	if err != nil {
		p.Close()
		return nil, st, err
	}
	s.e.install(n, p)
	return n, st, nil
}

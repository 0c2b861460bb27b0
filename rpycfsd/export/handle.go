package export

import (
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/identity"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// handle is an open file or directory. While it is open its node keeps its
// descriptor.
type handle struct {
	num    fsproto.Handle
	f      *beneath.File // nil: it is gone, see gone
	r      *ref
	writes bool         // open for writing
	as     *identity.ID // who opened it; nil: the daemon
	cell   mapped.Cell
	by     rpc.Dep // the call that opened it, if that was another process's
	kept   bool    // another process has opened it

	locks     atomic.Pointer[lockTable] // set before anything is locked through it
	lockUsers lockUsers
	lost      atomic.Bool // locks that were set through it are gone: EIO

	pos sync.Mutex // held by what moves f's position

	// Guarded by Session.mu. The table counts as a user.
	users  int
	closed bool
}

func (h *handle) attr(a *fsproto.Attr) error {
	st, err := h.f.Stat()
	if err == nil {
		*a = attrOf(&st)
	}
	return err
}

// mayWrite returns errno unless h is open for writing.
func (h *handle) mayWrite(errno syscall.Errno) error {
	if !h.writes {
		return errno
	}
	return nil
}

// handle returns an open file or directory, which stays open until done. EBADF
// if there is none, EIO if it has lost locks.
func (s *Session) handle(num fsproto.Handle) (*handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handles[num]
	if h == nil {
		return nil, syscall.EBADF
	}
	if h.lost.Load() {
		return nil, syscall.EIO
	}
	if h.f == nil { // it could not be found again after a restart
		return nil, syscall.ESTALE
	}
	h.users++
	return h, nil
}

// handleOf returns an open file for a handler that runs as its opener. EBADF if
// it is somebody else's by now.
func (s *Session) handleOf(c call, num fsproto.Handle) (*handle, error) {
	h, err := s.handle(num)
	if err == nil && h.as != c.as {
		s.done(h)
		return nil, syscall.EBADF
	}
	return h, err
}

// done ends the use of h.
func (s *Session) done(h *handle) {
	s.mu.Lock()
	h.users--
	last := h.users == 0
	s.mu.Unlock()
	if last {
		s.finish(h)
	}
}

// dismiss takes h out of the table's hands with mu held, and reports whether the
// caller must finish it.
func (s *Session) dismiss(h *handle) bool {
	if h.closed {
		return false
	}
	h.closed = true
	h.users--
	return h.users == 0
}

// finish closes h, which has left the table and has no users. Its locks go
// first, so that who waits for them is served.
func (s *Session) finish(h *handle) {
	if t := h.locks.Load(); t != nil {
		t.dismiss(h, syscall.EBADF, false)
	}
	s.e.unput(h.cell, h.f)
	s.e.handles.Add(-1)
	if h.writes {
		s.e.closed(s, h.r.n)
	}
	s.e.leases.opened(h.r, h.writes, -1)
	s.mu.Lock()
	h.r.opens--
	nodes := s.dropRef(h.r)
	s.mu.Unlock()
	for _, n := range nodes {
		s.e.unref(n)
	}
	if h.f == nil {
		s.e.unref(h.r.n)
		return
	}
	s.e.release(h.r.n)
}

// reserve takes a handle number for an open that is about to be done. EINVAL
// for 0, EEXIST for one in use, EMFILE and ENFILE at the limits of the session
// and the export. It ends with settle or abandon.
func (s *Session) reserve(num fsproto.Handle) error {
	if s.e.handles.Add(1) > s.e.maxHandles {
		s.e.handles.Add(-1)
		return syscall.ENFILE
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, used := s.handles[num]
	var err error
	switch {
	case s.closed:
		err = errClosed
	case num == 0:
		err = syscall.EINVAL
	case used:
		err = syscall.EEXIST
	case len(s.handles) >= s.e.cfg.MaxHandles:
		err = syscall.EMFILE
	}
	if err != nil {
		s.e.handles.Add(-1)
		return err
	}
	s.handles[num] = nil
	return nil
}

// openedBy returns the file that this very call has opened already, in use; nil if it has
// not, or the file is gone: then it is to be opened again.
func (s *Session) openedBy(c call, num fsproto.Handle) *handle {
	if !c.Again {
		return nil
	}
	s.mu.Lock()
	h := s.handles[num]
	if h == nil || h.by != c.Slot {
		s.mu.Unlock()
		return nil
	}
	if h.f != nil {
		h.users++
		s.mu.Unlock()
		return h
	}
	delete(s.handles, num)
	last := s.dismiss(h)
	s.mu.Unlock()
	if last {
		s.finish(h)
	}
	return nil
}

// abandon gives a reserved number back.
func (s *Session) abandon(num fsproto.Handle) {
	s.e.handles.Add(-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.handles[num]; ok && h == nil {
		delete(s.handles, num)
	}
}

// settle makes f the open file behind a reserved number, opened by who called. It takes over a
// reference of n with its descriptor acquired, and f; also when it fails, which
// it does only if the session was closed meanwhile.
func (s *Session) settle(c call, num fsproto.Handle, n *node, f *beneath.File, writes bool) error {
	cell := s.recordHandle(c, num, n, f, writes)
	s.mu.Lock()
	r := s.refs[n]
	if s.closed || r == nil {
		delete(s.handles, num)
		s.mu.Unlock()
		s.e.unput(cell, f)
		s.e.handles.Add(-1)
		s.e.release(n)
		if r == nil {
			return syscall.ESTALE // forgotten while it was being opened
		}
		return errClosed
	}
	r.opens++
	s.e.leases.opened(r, writes, 1)
	s.handles[num] = &handle{num: num, f: f, r: r, writes: writes, as: c.as, cell: cell, users: 1}
	s.mu.Unlock()
	return nil
}

// openFlags translates the flags of an open that go to the kernel. Appending is
// decided by each write. O_DIRECT concerns the client's buffers, not ours, and
// O_EXCL, O_DIRECTORY the opening only.
func openFlags(flags uint32) int {
	kernel := int(flags & fsproto.OpenAccess) // O_RDONLY, O_WRONLY, O_RDWR
	for ours, theirs := range map[uint32]int{
		fsproto.OpenTruncate: unix.O_TRUNC, fsproto.OpenSync: unix.O_SYNC,
		fsproto.OpenDataSync: unix.O_DSYNC, fsproto.OpenNoAtime: unix.O_NOATIME,
	} {
		if flags&ours != 0 {
			kernel |= theirs
		}
	}
	return kernel
}

// openAgain opens what has been open before, for whom it was. The mode may deny that by
// now, or always have, to all but who made the file: the daemon is bound by it if it is
// an ordinary user's, who as the owner gives himself the right for that moment.
func (e *Export) openAgain(p *beneath.Path, open func() (*beneath.File, error)) (f *beneath.File, err error) {
	e.asDaemon(func() {
		if f, err = open(); isErrno(err, syscall.EACCES) {
			f, err = openOwn(p, open)
		}
	})
	return f, err
}

// openOwn opens p against its mode. EACCES if it is not the daemon's own, or setting the
// mode could take a set-id bit away.
func openOwn(p *beneath.Path, open func() (*beneath.File, error)) (*beneath.File, error) {
	st, err := p.Stat()
	if err != nil {
		return nil, err
	}
	mode := uint32(st.Mode) & fsproto.ModePerm
	if int(st.Uid) != unix.Geteuid() || mode&setIDs != 0 {
		return nil, syscall.EACCES
	}
	if err := p.Chmod(mode | 0o600); err != nil {
		return nil, err
	}
	f, err := open()
	if errMode := p.Chmod(mode); err == nil && errMode != nil {
		f.Close()
		return nil, errMode
	}
	return f, err
}

func writes(flags uint32) bool { return flags&fsproto.OpenAccess != fsproto.OpenRead }

// mayOpen refuses what is no regular file, and writing and truncating where
// nothing can be changed, in the order that open(2) does.
func (s *Session) mayOpen(n *node, flags uint32) error {
	switch {
	case n.kind == unix.S_IFLNK:
		return syscall.ELOOP
	case flags&fsproto.OpenDir != 0 && !n.isDir():
		return syscall.ENOTDIR
	case n.isDir():
		return syscall.EISDIR
	case n.kind != unix.S_IFREG:
		return syscall.ENXIO
	case s.readOnly && (writes(flags) || flags&fsproto.OpenTruncate != 0):
		return syscall.EROFS
	}
	return nil
}

// openFile opens o, a regular file.
func (s *Session) openFile(c call, o object, flags uint32) (*beneath.File, error) {
	if err := s.mayOpen(o.n, flags); err != nil {
		return nil, err
	}
	if flags&fsproto.OpenTruncate != 0 {
		if err := s.e.dropSetID(o.p, c.killsPriv(flags&fsproto.OpenKillPriv != 0)); err != nil {
			return nil, err
		}
	}
	kernel := openFlags(flags)
	f, err := o.p.Open(kernel)
	if isErrno(err, syscall.EPERM) && kernel&unix.O_NOATIME != 0 && c.as == nil {
		kernel &^= unix.O_NOATIME // it needs the file's owner
		f, err = o.p.Open(kernel)
	}
	if isErrno(err, syscall.EPERM) && flags&fsproto.OpenAppend != 0 {
		f, err = o.p.Open(kernel | unix.O_APPEND) // the file can only be appended to
	}
	if isErrno(err, syscall.EACCES) && flags == fsproto.OpenRead|fsproto.OpenExec && c.as != nil {
		return s.openProgram(o)
	}
	return f, err
}

// openProgram opens a program that the caller may execute but not read, for
// execve(2), of which the client's kernel does the reading. EACCES if the caller
// may not execute it either.
func (s *Session) openProgram(o object) (f *beneath.File, err error) {
	if err := o.p.Access(unix.X_OK); err != nil {
		return nil, err
	}
	s.e.asDaemon(func() { f, err = o.p.Open(unix.O_RDONLY) })
	return f, err
}

func (s *Session) open(c call, req *fsproto.OpenReq, res *fsproto.OpenRes) error {
	return s.openNode(c, req, res, func(o object) (*beneath.File, error) { return s.openFile(c, o, req.Flags) })
}

func (s *Session) opendir(c call, req *fsproto.OpenReq, res *fsproto.OpenRes) error {
	return s.openNode(c, req, res, func(o object) (*beneath.File, error) {
		switch {
		case !o.n.isDir():
			return nil, syscall.ENOTDIR
		case writes(req.Flags), req.Flags&fsproto.OpenTruncate != 0:
			return nil, syscall.EISDIR
		}
		return o.p.OpenDir()
	})
}

// openNode opens a node that the session knows.
func (s *Session) openNode(c call, req *fsproto.OpenReq, res *fsproto.OpenRes, open func(object) (*beneath.File, error)) error {
	if h := s.openedBy(c, req.Handle); h != nil {
		defer s.done(h)
		return h.attr(&res.Attr)
	}
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	if err := s.reserve(req.Handle); err != nil {
		o.done()
		return err
	}
	f, err := open(o)
	if err == nil {
		var st beneath.Stat
		if st, err = f.Stat(); err != nil {
			f.Close()
		}
		res.Attr = attrOf(&st)
	}
	if err != nil {
		s.abandon(req.Handle)
		o.done()
		return err
	}
	if err := s.settle(c, req.Handle, o.n, f, writes(req.Flags)); err != nil {
		return err
	}
	res.Shared = s.sharesFile(o.n)
	return nil
}

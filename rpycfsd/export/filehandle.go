package export

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"golang.org/x/sys/unix"
)

// A file handle, little-endian:
//
//	version  u8      1
//	length   u8      of the kernel's handle, at most 64, 0 for none
//	type     i32     of the kernel's handle
//	fsid     u64     file system
//	ino      u64     inode number
//	sec      i64     birth time, or a hash of the kernel's handle
//	nsec     u32     birth time, or 0xffffffff
//	kernel   length  the kernel's handle: directories, with privilege
//	mac      16      HMAC-SHA256 over a label, the identities of the export's
//	                 and the user's root, and all of the above
const (
	handleVersion = 1
	handleHead    = 1 + 1 + 4 + 8 + 8 + 8 + 4
	handleMAC     = 16
)

// seal makes the file handle of n for users whose root is root.
func (e *Export) seal(n *node, root ident) fsproto.FileHandle {
	kernel := n.kernel
	b := make([]byte, 0, handleHead+len(kernel.Data)+handleMAC)
	b = append(b, handleVersion, byte(len(kernel.Data)))
	b = binary.LittleEndian.AppendUint32(b, uint32(kernel.Type))
	b = binary.LittleEndian.AppendUint64(b, e.fsid)
	b = binary.LittleEndian.AppendUint64(b, n.id.ino)
	b = binary.LittleEndian.AppendUint64(b, uint64(n.id.sec))
	b = binary.LittleEndian.AppendUint32(b, n.id.nsec)
	b = append(b, kernel.Data...)
	return append(b, e.mac(b, root)...)
}

func (e *Export) mac(body []byte, root ident) []byte {
	h := hmac.New(sha256.New, e.cfg.Key[:])
	b := append(make([]byte, 0, 80), "rpycfs file handle 1\x00"...)
	for _, id := range []ident{e.root.id, root} {
		b = binary.LittleEndian.AppendUint64(b, id.ino)
		b = binary.LittleEndian.AppendUint64(b, uint64(id.sec))
		b = binary.LittleEndian.AppendUint32(b, id.nsec)
	}
	h.Write(b)
	h.Write(body)
	return h.Sum(nil)[:handleMAC]
}

// unseal returns what a file handle says, or ESTALE unless this export made it
// for users whose root is root. The device is the export's own.
func (e *Export) unseal(fh fsproto.FileHandle, root ident) (ident, beneath.KernelHandle, error) {
	if len(fh) < handleHead+handleMAC || len(fh) > fsproto.MaxFileHandle {
		return ident{}, beneath.KernelHandle{}, syscall.ESTALE
	}
	body, mac := fh[:len(fh)-handleMAC], fh[len(fh)-handleMAC:]
	if !hmac.Equal(mac, e.mac(body, root)) || body[0] != handleVersion ||
		int(body[1]) != len(body)-handleHead || binary.LittleEndian.Uint64(body[6:]) != e.fsid {
		return ident{}, beneath.KernelHandle{}, syscall.ESTALE
	}
	id := ident{
		dev:  e.dev,
		ino:  binary.LittleEndian.Uint64(body[14:]),
		sec:  int64(binary.LittleEndian.Uint64(body[22:])),
		nsec: binary.LittleEndian.Uint32(body[30:]),
	}
	kernel := beneath.KernelHandle{Type: int32(binary.LittleEndian.Uint32(body[2:])), Data: string(body[handleHead:])}
	return id, kernel, nil
}

// resolve finds a node again. With a parent and a name it is whatever that entry
// is now, if it is the same inode. A handle alone is enough for nodes that the
// export knows, and, with privilege, for directories, where it can be checked
// that they are beneath the root. It is never enough for an unknown file: the
// kernel finds files outside the root too, and does not tell.
func (s *Session) resolve(_ call, req *fsproto.ResolveReq, res *fsproto.EntryRes) error {
	id, kernel, err := s.e.unseal(req.FileHandle, s.root.id)
	if err != nil {
		return err
	}
	if req.Volatile {
		return s.resolveName(req, id, &res.Entry)
	}
	n := s.e.find(id)
	if n == nil {
		s.e.asDaemon(func() { n, err = s.openHandle(id, kernel) })
		if err != nil {
			return err
		}
	}
	p, err := s.e.acquire(n)
	if err != nil {
		s.e.unref(n)
		return err
	}
	defer s.e.release(n)
	checked, err := s.find(n, p)
	if err != nil {
		return err
	}
	st, err := p.Stat()
	if err != nil {
		return err
	}
	return s.introduce(n, &st, 0, checked, false, &res.Entry)
}

func (s *Session) resolveName(req *fsproto.ResolveReq, id ident, en *fsproto.Entry) error {
	d, err := s.dir(req.Parent)
	if err != nil {
		return err
	}
	defer d.done()
	st, err := d.p.StatAt(req.Name)
	if isErrno(err, syscall.ENOENT) {
		return syscall.ESTALE
	}
	if err != nil {
		return err
	}
	now, err := identOf(&st, d.handleAt(req.Name))
	if err != nil {
		return err
	}
	if id.dev = now.dev; id != now {
		return syscall.ESTALE
	}
	return s.enter(d, req.Name, &st, 0, false, en)
}

// openHandle returns the node of a directory that only its kernel handle leads
// to, with a reference for the caller, who checks where it is.
func (s *Session) openHandle(id ident, kernel beneath.KernelHandle) (*node, error) {
	if kernel.Data == "" || !s.e.priv.ByHandle {
		return nil, syscall.ESTALE
	}
	p, err := s.e.rootDir.OpenHandle(kernel)
	if err != nil {
		return nil, syscall.ESTALE
	}
	defer p.Close()
	st, err := p.Stat()
	if err != nil {
		return nil, err
	}
	now, err := identOf(&st, p.Handle)
	if err != nil || now != id || st.Mode&unix.S_IFMT != unix.S_IFDIR || s.e.within(&st) != nil {
		return nil, syscall.ESTALE
	}
	return s.e.intern(&st, hint{}, p.Handle)
}

// handleAt asks for the kernel's handle of an entry of o.
func (o object) handleAt(name string) handleFunc {
	return func() (beneath.KernelHandle, error) { return o.p.HandleAt(name) }
}

// handleOf is handleAt for an entry that was seen with attributes st. ESTALE if it is
// another one by now.
func (o object) handleOf(name string, st *beneath.Stat) handleFunc {
	return func() (beneath.KernelHandle, error) {
		h, err := o.p.HandleAt(name)
		if err != nil {
			return h, err
		}
		now, err := o.p.StatAt(name)
		if err == nil && (now.Ino != st.Ino || now.Btime != st.Btime) {
			err = syscall.ESTALE
		}
		return h, err
	}
}

// enter makes entry name of directory d, whose attributes are st, known to the
// session.
func (s *Session) enter(d object, name string, st *beneath.Stat, chosen fsproto.Node, force bool, en *fsproto.Entry) error {
	n, err := s.e.intern(st, hint{d.n.id, name}, d.handleOf(name, st))
	if err != nil {
		return err
	}
	defer s.e.unref(n)
	return s.introduce(n, st, chosen, d.checked, force, en)
}

// enterHeld is enter for an entry that is likely to be used next: its descriptor
// is left in the cache, so that an open finds this very file although another
// has been renamed over it meanwhile. Where there are no descriptors left it is
// known without.
func (s *Session) enterHeld(d object, name string, en *fsproto.Entry) error {
	st, err := d.p.StatAt(name)
	if err != nil {
		return err
	}
	at := hint{d.n.id, name}
	id, err := identOf(&st, d.handleAt(name))
	if err != nil {
		return err
	}
	n := s.e.hold(id, at, st.Nlink)
	if n == nil {
		p, err := d.p.Walk(name)
		if isErrno(err, syscall.EMFILE, syscall.ENFILE) {
			return s.enter(d, name, &st, 0, false, en)
		}
		if err != nil {
			return err
		}
		if n, st, err = s.internPath(p, at); err != nil {
			return err
		}
	}
	defer s.e.release(n)
	return s.introduce(n, &st, 0, d.checked, false, en)
}

// enterNew is enter for an entry that the call has made.
func (s *Session) enterNew(d object, name string, chosen fsproto.Node, res *fsproto.CreateRes) error {
	st, err := d.p.StatAt(name)
	if err == nil {
		err = s.enter(d, name, &st, chosen, true, &res.Entry)
	}
	if err == nil {
		err = d.attr(&res.Parent)
	}
	return err
}

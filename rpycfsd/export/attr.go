package export

import (
	"math"
	"slices"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"golang.org/x/sys/unix"
)

// attrOf translates attributes. The change counter is the change time, which
// Linux moves with every change of data or attributes, in nanoseconds.
func attrOf(st *beneath.Stat) fsproto.Attr {
	a := fsproto.Attr{
		Ino: st.Ino, Size: st.Size, Blocks: st.Blocks, BlockSize: st.Blksize,
		Mode: uint32(st.Mode), Nlink: st.Nlink, UID: st.Uid, GID: st.Gid,
		RdevMajor: st.Rdev_major, RdevMinor: st.Rdev_minor,
		Atime: timeOf(st.Atime), Mtime: timeOf(st.Mtime), Ctime: timeOf(st.Ctime),
		Change: uint64(st.Ctime.Sec)*1e9 + uint64(st.Ctime.Nsec),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		a.Btime = timeOf(st.Btime)
		a.Flags |= fsproto.AttrHasBtime
	}
	return a
}

func timeOf(t unix.StatxTimestamp) fsproto.Time { return fsproto.Time{Sec: t.Sec, Nsec: t.Nsec} }

// attr fills in the attributes of o as they are now.
func (o object) attr(a *fsproto.Attr) error {
	st, err := o.p.Stat()
	if err == nil {
		*a = attrOf(&st)
	}
	return err
}

func (s *Session) getattr(_ call, req *fsproto.GetattrReq, res *fsproto.AttrRes) error {
	if req.Handle != 0 {
		h, err := s.handle(req.Handle)
		if err != nil {
			return err
		}
		defer s.done(h)
		return h.attr(&res.Attr)
	}
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	return o.attr(&res.Attr)
}

const (
	setIDs   = unix.S_ISUID | unix.S_ISGID
	setNow   = fsproto.SetAtimeNow | fsproto.SetMtimeNow
	setTimes = fsproto.SetAtime | fsproto.SetMtime | setNow
	setOwner = fsproto.SetUID | fsproto.SetGID
)

// setattr changes size, owner, mode and times, in this order. What would be
// refused to a privileged daemon's users is refused before anything is changed.
func (s *Session) setattr(c call, req *fsproto.SetattrReq, res *fsproto.AttrRes) error {
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	if err := s.maySetattr(o, req); err != nil {
		return err
	}
	if req.Mask&fsproto.SetSize != 0 {
		if err := s.setSize(c, o, req); err != nil {
			return err
		}
	}
	if req.Mask&setOwner != 0 {
		if err := o.p.Chown(idOr(req.Mask&fsproto.SetUID, req.UID), idOr(req.Mask&fsproto.SetGID, req.GID)); err != nil {
			return err
		}
	}
	if req.Mask&fsproto.SetMode != 0 {
		if err := o.p.Chmod(req.Mode & fsproto.ModePerm); err != nil {
			return err
		}
	}
	if req.Mask&setTimes != 0 {
		atime := timespec(req.Atime, req.Mask&fsproto.SetAtime, req.Mask&fsproto.SetAtimeNow)
		mtime := timespec(req.Mtime, req.Mask&fsproto.SetMtime, req.Mask&fsproto.SetMtimeNow)
		if err := o.p.Utimes(atime, mtime); err != nil {
			return err
		}
	}
	return o.attr(&res.Attr)
}

// idOr returns an id to set, or -1 to leave it.
func idOr(wanted, id uint32) int {
	if wanted == 0 {
		return -1
	}
	return int(id)
}

func timespec(t fsproto.Time, set, now uint32) unix.Timespec {
	switch {
	case now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case set != 0:
		return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)}
	}
	return unix.Timespec{Nsec: unix.UTIME_OMIT}
}

// maySetattr refuses what makes no sense (EINVAL) and, where the kernel would
// allow a privileged daemon everything, what it refuses an ordinary owner: a
// change of owner, of group to one that is not the daemon's, and set-id bits
// that are not there yet (EPERM).
func (s *Session) maySetattr(o object, req *fsproto.SetattrReq) error {
	both := func(a, b uint32) bool { return req.Mask&a != 0 && req.Mask&b != 0 }
	switch {
	case both(fsproto.SetAtime, fsproto.SetAtimeNow), both(fsproto.SetMtime, fsproto.SetMtimeNow),
		both(fsproto.SetUID, fsproto.SetUID) && req.UID == math.MaxUint32,
		both(fsproto.SetGID, fsproto.SetGID) && req.GID == math.MaxUint32,
		req.Mask&fsproto.SetSize != 0 && req.Size > math.MaxInt64:
		return syscall.EINVAL
	}
	if !s.e.restricted() || req.Mask&(setOwner|fsproto.SetMode) == 0 {
		return nil
	}
	st, err := o.p.Stat()
	if err != nil {
		return err
	}
	switch {
	case req.Mask&fsproto.SetUID != 0 && req.UID != st.Uid,
		req.Mask&fsproto.SetGID != 0 && req.GID != st.Gid && !ownGroup(req.GID),
		req.Mask&fsproto.SetMode != 0 && req.Mode&setIDs&^uint32(st.Mode) != 0:
		return syscall.EPERM
	}
	return nil
}

// ownGroup reports whether the daemon is in a group.
func ownGroup(gid uint32) bool {
	groups, err := unix.Getgroups()
	return int(gid) == unix.Getegid() || (err == nil && slices.Contains(groups, int(gid)))
}

// setSize truncates or extends through the open file that the request names, by
// its rights, or else by those of the permission bits.
func (s *Session) setSize(c call, o object, req *fsproto.SetattrReq) error {
	kill := c.killsPriv(req.Mask&fsproto.SetKillPriv != 0)
	if req.Handle == 0 {
		if err := s.e.dropSetID(o.p, kill); err != nil {
			return err
		}
		return o.p.Truncate(int64(req.Size))
	}
	h, err := s.handle(req.Handle)
	if err != nil {
		return err
	}
	defer s.done(h)
	if h.r.n != o.n {
		return syscall.EINVAL
	}
	if err := h.mayWrite(syscall.EINVAL); err != nil {
		return err
	}
	if err := s.e.dropSetID(h.f, kill); err != nil {
		return err
	}
	return h.f.Truncate(int64(req.Size))
}

// dropSetID clears the set-id bits of a file that is about to be changed. The
// kernel does so unless the daemon has CAP_FSETID; then it must be done here,
// and before the change, whether the client asks for it or not: otherwise a
// client could put a program of its own behind another user's set-id bit. With
// the rights of others it is done only if asked for, where root is the opener and
// the client knows that somebody else writes.
func (e *Export) dropSetID(f interface {
	Stat() (beneath.Stat, error)
	Chmod(mode uint32) error
}, asked bool) error {
	if !asked && (!e.priv.KeepsSetID || e.pool != nil) {
		return nil
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	mode := uint32(st.Mode)
	if mode&unix.S_IFMT != unix.S_IFREG || mode&setIDs == 0 {
		return nil
	}
	keep := mode &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		keep &^= unix.S_ISGID // without group execution it marks mandatory locking
	}
	if keep == mode {
		return nil
	}
	return f.Chmod(keep & fsproto.ModePerm)
}

// access asks the kernel about whom it runs as, and knows what is read-only. The
// answer tells about all three rights, so that it need not be asked again.
func (s *Session) access(_ call, req *fsproto.AccessReq, res *fsproto.AttrRes) error {
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	if err := s.mayAccess(o, req.Mask); err != nil {
		return err
	}
	granted := fsproto.AccessKnown | req.Mask
	for _, bit := range []uint8{fsproto.AccessRead, fsproto.AccessWrite, fsproto.AccessExec} {
		if req.Mask&bit == 0 && s.mayAccess(o, bit) == nil {
			granted |= bit
		}
	}
	if err := o.attr(&res.Attr); err != nil {
		return err
	}
	res.Attr.Access = granted
	return nil
}

// mayAccess returns why not all rights of mask are there.
func (s *Session) mayAccess(o object, mask uint8) error {
	if err := o.p.Access(uint32(mask)); err != nil {
		return err
	}
	if mask&fsproto.AccessWrite != 0 && s.readOnly {
		switch o.n.kind {
		case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
			return syscall.EROFS
		}
	}
	return nil
}

func (s *Session) statfs(_ call, req *fsproto.StatfsReq, res *fsproto.StatfsRes) error {
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	fs, err := o.p.Statfs()
	if err != nil {
		return err
	}
	*res = fsproto.StatfsRes{
		Blocks: fs.Blocks, BlocksFree: fs.Bfree, BlocksAvail: fs.Bavail,
		Files: fs.Files, FilesFree: fs.Ffree,
		BlockSize: uint32(fs.Bsize), FragmentSize: uint32(fs.Frsize), NameLen: uint32(fs.Namelen),
	}
	return nil
}

func (s *Session) syncfs(_ call, req *fsproto.SyncfsReq, _ *fsproto.Empty) error {
	d, err := s.dir(req.Node)
	if err != nil {
		return err
	}
	defer d.done()
	return d.p.Syncfs()
}

func (s *Session) readlink(_ call, req *fsproto.ReadlinkReq, res *fsproto.ReadlinkRes) error {
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	if o.n.kind != unix.S_IFLNK {
		return syscall.EINVAL
	}
	if res.Target, err = o.p.Readlink(fsproto.MaxPath); err != nil {
		return err
	}
	return o.attr(&res.Attr)
}

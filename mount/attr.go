package mount

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// IDs says how owners and permission bits of the daemon's files are shown. The
// zero value shows everything as it is.
type IDs struct {
	// Self shows what belongs to the identity under which the daemon serves
	// this session as LocalUID and LocalGID, and translates back in chown.
	Self               bool
	LocalUID, LocalGID uint32

	// UID and GID, if set, are shown as the owner of everything.
	UID, GID *uint32
	// Umask, if set, replaces the permission bits that are shown with
	// 0777 &^ *Umask.
	Umask *uint32
}

// idMap is IDs with the daemon's identity filled in.
type idMap struct {
	IDs
	remoteUID, remoteGID uint32
}

func (ids IDs) bind(uid, gid uint32) idMap { return idMap{IDs: ids, remoteUID: uid, remoteGID: gid} }

// show returns what the kernel is told of an owner.
func show(id, remote, local uint32, self bool, force *uint32) uint32 {
	switch {
	case force != nil:
		return *force
	case self && id == remote:
		return local
	}
	return id
}

func (m *idMap) uid(id uint32) uint32 { return show(id, m.remoteUID, m.LocalUID, m.Self, m.UID) }
func (m *idMap) gid(id uint32) uint32 { return show(id, m.remoteGID, m.LocalGID, m.Self, m.GID) }

func (m *idMap) mode(mode uint32) uint32 {
	if m.Umask == nil {
		return mode
	}
	return mode&fsproto.ModeType | 0o777&^*m.Umask
}

// unshow translates an owner given by a local program to the daemon's. With a
// forced owner, setting the one that is shown already changes nothing.
func unshow(id, remote, local uint32, self bool, force *uint32) (remoteID uint32, change bool) {
	switch {
	case force != nil && id == *force:
		return 0, false
	case self && id == local:
		return remote, true
	}
	return id, true
}

func (m *idMap) remoteUIDOf(id uint32) (uint32, bool) {
	return unshow(id, m.remoteUID, m.LocalUID, m.Self, m.UID)
}

func (m *idMap) remoteGIDOf(id uint32) (uint32, bool) {
	return unshow(id, m.remoteGID, m.LocalGID, m.Self, m.GID)
}

// fillAttr translates attributes for the kernel.
func (fs *FS) fillAttr(out *fuse.Attr, a *fsproto.Attr) {
	*out = fuse.Attr{
		Ino:       a.Ino,
		Size:      a.Size,
		Blocks:    a.Blocks,
		Atime:     uint64(a.Atime.Sec),
		Atimensec: a.Atime.Nsec,
		Mtime:     uint64(a.Mtime.Sec),
		Mtimensec: a.Mtime.Nsec,
		Ctime:     uint64(a.Ctime.Sec),
		Ctimensec: a.Ctime.Nsec,
		Mode:      fs.ids.mode(a.Mode),
		Nlink:     a.Nlink,
		Owner:     fuse.Owner{Uid: fs.ids.uid(a.UID), Gid: fs.ids.gid(a.GID)},
		Rdev:      encodeDev(a.RdevMajor, a.RdevMinor),
		Blksize:   a.BlockSize,
	}
}

func (fs *FS) fillAttrOut(out *fuse.AttrOut, a *fsproto.Attr) {
	fs.fillAttr(&out.Attr, a)
	out.SetTimeout(fs.cfg.AttrTimeout)
}

// fillEntry tells the kernel of a node, valid for the time-outs less age, or for
// this one request.
func (fs *FS) fillEntry(out *fuse.EntryOut, e *fsproto.Entry, age time.Duration, keep bool) {
	out.NodeId = uint64(e.Node)
	if keep {
		out.SetEntryTimeout(max(0, fs.cfg.EntryTimeout-age))
		out.SetAttrTimeout(max(0, fs.cfg.AttrTimeout-age))
	}
	fs.fillAttr(&out.Attr, &e.Attr)
}

// encodeDev is the kernel's new_encode_dev: 12 bits of major, 20 of minor.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// decodeDev is the kernel's new_decode_dev.
func decodeDev(dev uint32) (major, minor uint32) {
	return dev >> 8 & 0xfff, dev&0xff | dev>>12&0xfff00
}

func sxTime(t fsproto.Time) fuse.SxTime { return fuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec} }

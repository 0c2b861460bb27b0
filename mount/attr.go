package mount

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/idname"
)

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
		Owner:     fuse.Owner{Uid: fs.ids.show(idname.User, a.UID), Gid: fs.ids.show(idname.Group, a.GID)},
		Rdev:      encodeDev(a.RdevMajor, a.RdevMinor),
		Blksize:   a.BlockSize,
	}
}

// fillAttrOut tells the kernel attributes; for asked see fillEntry.
func (fs *FS) fillAttrOut(out *fuse.AttrOut, node fsproto.Node, a *fsproto.Attr, asked bool) {
	fs.access.saw(node, a)
	fs.fillAttr(&out.Attr, fs.behind.correct(node, a))
	if asked || fs.leases == nil {
		out.SetTimeout(fs.attrTimeout(node, a))
	}
}

// attrTimeout returns how long the kernel may believe attributes.
func (fs *FS) attrTimeout(node fsproto.Node, a *fsproto.Attr) time.Duration {
	return fs.leases.timeout(fs.cfg.AttrTimeout, node, a.Lease)
}

// nameTimeout returns how long the kernel may believe a name in a directory, or that
// there is none (of unleased), if the reply told of this lease on the directory.
func (fs *FS) nameTimeout(unleased time.Duration, dir fsproto.Node, name string, lease uint64) time.Duration {
	if !fs.guard.mayKeep(dir, name) || fs.leases != nil && fs.nodes.contended(dir, false) {
		return 0
	}
	return fs.leases.timeout(unleased, dir, lease)
}

// fillEntry tells the kernel of a node under a name that it may believe for keep.
// The reply that told of it was made age ago. asked says that the kernel has asked for
// it: it passes over attributes then that a recall has overtaken on their way to it.
// Those in replies to a change it takes as they are, so they are not to be believed:
// under a lease it will ask for them, and get those that are kept.
func (fs *FS) fillEntry(out *fuse.EntryOut, e *fsproto.Entry, asked bool, keep, age time.Duration) {
	fs.access.saw(e.Node, &e.Attr)
	out.NodeId = uint64(e.Node)
	out.SetEntryTimeout(max(0, keep-age))
	if asked && keep > age && e.Attr.IsDir() {
		fs.nodes.keeps(e.Node)
	}
	if asked || fs.leases == nil {
		out.SetAttrTimeout(max(0, fs.attrTimeout(e.Node, &e.Attr)-age))
	}
	fs.fillAttr(&out.Attr, fs.behind.correct(e.Node, &e.Attr))
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

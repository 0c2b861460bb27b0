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

func (fs *FS) fillAttrOut(out *fuse.AttrOut, node fsproto.Node, a *fsproto.Attr) {
	fs.access.saw(node, a)
	fs.fillAttr(&out.Attr, a)
	out.SetTimeout(fs.cfg.AttrTimeout)
}

// fillEntry tells the kernel of a node, valid for the time-outs less age, or for
// this one request.
func (fs *FS) fillEntry(out *fuse.EntryOut, e *fsproto.Entry, age time.Duration, keep bool) {
	fs.access.saw(e.Node, &e.Attr)
	out.NodeId = uint64(e.Node)
	if keep {
		out.SetEntryTimeout(max(0, fs.entryTimeout-age))
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

package mount

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// injecting answers the requests of the injector's threads, and leaves all others to
// what it wraps. Of a thread's requests, those that only look and concern what exists
// are left to it, too, and no other change than the expected one gets anywhere.
type injecting struct{ counted }

// injectedHandle is the number of what a thread opens. Nothing is open at the daemon.
const injectedHandle = 1 << 63

func (c injecting) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if j := c.inject.of(h); j != nil {
		if st, ok := j.lookup(fsproto.Node(h.NodeId), name, out); ok {
			return st
		}
	}
	return c.counted.Lookup(cancel, h, name, out)
}

func (c injecting) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if j := c.inject.of(&in.InHeader); j != nil && in.NodeId == uint64(c.inject.void.node) {
		c.inject.void.fillAttr(&out.Attr)
		return fuse.OK
	}
	return c.counted.GetAttr(cancel, in, out)
}

func (c injecting) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	j := c.inject.of(&in.InHeader)
	if j == nil {
		return c.counted.SetAttr(cancel, in, out)
	}
	const others = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_SIZE
	if in.Valid&others != 0 || !j.itself(reqSetAttr, in.NodeId) {
		return fuse.EIO
	}
	c.show(j.node, j.attr)
	c.leases.keep(j.node, j.attr, j.clock)
	c.fillAttrOut(out, j.node, j.attr, false)
	return fuse.OK
}

func (c injecting) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if j := c.inject.of(&in.InHeader); j != nil {
		return j.making(reqMkdir, in.NodeId, name, out)
	}
	return c.counted.Mkdir(cancel, in, name, out)
}

func (c injecting) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if j := c.inject.of(&in.InHeader); j != nil {
		return j.making(reqMknod, in.NodeId, name, out)
	}
	return c.counted.Mknod(cancel, in, name, out)
}

func (c injecting) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if j := c.inject.of(h); j != nil {
		return j.making(reqSymlink, h.NodeId, name, out)
	}
	return c.counted.Symlink(cancel, h, target, name, out)
}

func (c injecting) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if j := c.inject.of(h); j != nil {
		return j.removing(reqUnlink, h.NodeId, name)
	}
	return c.counted.Unlink(cancel, h, name)
}

func (c injecting) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if j := c.inject.of(h); j != nil {
		return j.removing(reqRmdir, h.NodeId, name)
	}
	return c.counted.Rmdir(cancel, h, name)
}

func (c injecting) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	j := c.inject.of(&in.InHeader)
	if j == nil {
		return c.counted.Rename(cancel, in, oldName, newName)
	}
	exchange := in.Flags == fsproto.RenameExchange
	if in.Flags != 0 && !exchange || exchange != j.exchanges() ||
		!j.change(reqRename, entryName{fsproto.Node(in.NodeId), oldName}, entryName{fsproto.Node(in.Newdir), newName}) {
		return fuse.EIO
	}
	return fuse.OK
}

func (c injecting) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	j := c.inject.of(&in.InHeader)
	if j == nil {
		return c.counted.Open(cancel, in, out)
	}
	if in.Flags&(syscall.O_ACCMODE|syscall.O_TRUNC) != syscall.O_WRONLY || !j.itself(reqOpen, in.NodeId) {
		return fuse.EIO
	}
	out.Fh, out.OpenFlags = injectedHandle, fuse.FOPEN_NOFLUSH|fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// Access is asked when a thread enters the root, to open a directory by its handle.
func (c injecting) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	if c.inject.of(&in.InHeader) == nil {
		return c.counted.Access(cancel, in)
	}
	return fuse.OK
}

// Flush is not asked for by kernels that know FOPEN_NOFLUSH (5.16).
func (c injecting) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	if in.Fh == injectedHandle {
		return fuse.OK
	}
	return c.counted.Flush(cancel, in)
}

// Release does not say which thread it is for.
func (c injecting) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	if in.Fh != injectedHandle {
		c.counted.Release(cancel, in)
	}
}

func (c injecting) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if c.inject.of(&in.InHeader) != nil {
		return fuse.EIO
	}
	return c.counted.Create(cancel, in, name, out)
}

func (c injecting) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	if c.inject.of(&in.InHeader) != nil {
		return fuse.EIO
	}
	return c.counted.Tmpfile(cancel, in, out)
}

func (c injecting) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if c.inject.of(&in.InHeader) != nil {
		return fuse.EIO
	}
	return c.counted.Link(cancel, in, name, out)
}

func (c injecting) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if in.Fh == injectedHandle {
		return 0, fuse.EIO
	}
	return c.counted.Writev(cancel, in, data)
}

func (c injecting) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if c.inject.of(&in.InHeader) != nil {
		return fuse.EIO
	}
	return c.counted.SetXAttr(cancel, in, attr, data)
}

func (c injecting) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	if c.inject.of(h) != nil {
		return fuse.EIO
	}
	return c.counted.RemoveXAttr(cancel, h, attr)
}

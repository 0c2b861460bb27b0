package mount

import (
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// requestKind is a kind of request of the kernel, one for each method that answers
// some.
type requestKind uint8

const (
	reqLookup requestKind = iota
	reqGetAttr
	reqStatx
	reqSetAttr
	reqAccess
	reqStatFs
	reqReadlink
	reqIoctl
	reqMkdir
	reqMknod
	reqSymlink
	reqLink
	reqUnlink
	reqRmdir
	reqRename
	reqOpen
	reqCreate
	reqTmpfile
	reqRead
	reqWrite
	reqFlush
	reqFsync
	reqRelease
	reqFallocate
	reqLseek
	reqCopyFileRange
	reqOpenDir
	reqReadDir
	reqReadDirPlus
	reqFsyncDir
	reqReleaseDir
	reqGetXAttr
	reqSetXAttr
	reqListXAttr
	reqRemoveXAttr
	reqGetLk
	reqSetLk
	reqSetLkw
	reqForget
	requestKinds
)

// requestNames are what Status calls them: spelled like the system call, or as in
// fuse(4).
var requestNames = [requestKinds]string{
	reqLookup:        "lookup",
	reqGetAttr:       "getattr",
	reqStatx:         "statx",
	reqSetAttr:       "setattr",
	reqAccess:        "access",
	reqStatFs:        "statfs",
	reqReadlink:      "readlink",
	reqIoctl:         "ioctl",
	reqMkdir:         "mkdir",
	reqMknod:         "mknod",
	reqSymlink:       "symlink",
	reqLink:          "link",
	reqUnlink:        "unlink",
	reqRmdir:         "rmdir",
	reqRename:        "rename",
	reqOpen:          "open",
	reqCreate:        "create",
	reqTmpfile:       "tmpfile",
	reqRead:          "read",
	reqWrite:         "write",
	reqFlush:         "flush",
	reqFsync:         "fsync",
	reqRelease:       "release",
	reqFallocate:     "fallocate",
	reqLseek:         "lseek",
	reqCopyFileRange: "copy_file_range",
	reqOpenDir:       "opendir",
	reqReadDir:       "readdir",
	reqReadDirPlus:   "readdirplus",
	reqFsyncDir:      "fsyncdir",
	reqReleaseDir:    "releasedir",
	reqGetXAttr:      "getxattr",
	reqSetXAttr:      "setxattr",
	reqListXAttr:     "listxattr",
	reqRemoveXAttr:   "removexattr",
	reqGetLk:         "getlk",
	reqSetLk:         "setlk",
	reqSetLkw:        "setlkw",
	reqForget:        "forget",
}

// requestCount counts requests of one kind that have been answered.
type requestCount struct {
	here   atomic.Uint64 // without a call to the daemon
	called atomic.Uint64 // with one or more
}

// calling notes that a call is about to be begun on behalf of a request; every call
// that a request waits for, or that it leaves to be made at once, comes after one.
// It must be called from the request's own goroutine. Others read requests from then on.
//
// The note is kept in the padding of the request's header, which the kernel leaves
// 0 and go-fuse does not look at: nothing else that a handler gets belongs to one
// request alone.
func (fs *FS) calling(h *fuse.InHeader) {
	fs.readers.handOver(h)
	h.Padding = 1
}

// counted is an FS as go-fuse sees it: each method counts the request that it has
// answered and does nothing else, so that the FS can call its own methods without
// counting. The counts are two for each kind, and a request adds to one of them.
type counted struct{ *FS }

// answered counts a request at its end.
func (c counted) answered(kind requestKind, h *fuse.InHeader) {
	if n := &c.requests[kind]; h.Padding == 0 {
		n.here.Add(1)
	} else {
		n.called.Add(1)
	}
}

// Forget has no answer; the call that tells the daemon is made later, for many at
// once, and counts for none of them.
func (c counted) Forget(nodeid, nlookup uint64) {
	c.requests[reqForget].here.Add(1)
	c.FS.Forget(nodeid, nlookup)
}

// Read counts the bytes, too.
func (c counted) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	defer c.answered(reqRead, &in.InHeader)
	result, st := c.FS.Read(cancel, in, buf)
	if result != nil {
		c.bytesRead.Add(uint64(result.Size()))
	}
	return result, st
}

// Writev is how go-fuse passes on all that is written; it counts the bytes, too.
func (c counted) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	defer c.answered(reqWrite, &in.InHeader)
	n, st := c.FS.Writev(cancel, in, data)
	c.bytesWritten.Add(uint64(n))
	return n, st
}

func (c counted) ReleaseDir(in *fuse.ReleaseIn) {
	defer c.answered(reqReleaseDir, &in.InHeader)
	c.FS.ReleaseDir(in)
}

func (c counted) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer c.answered(reqLookup, h)
	return c.FS.Lookup(cancel, h, name, out)
}

func (c counted) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer c.answered(reqGetAttr, &in.InHeader)
	return c.FS.GetAttr(cancel, in, out)
}

func (c counted) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	defer c.answered(reqStatx, &in.InHeader)
	return c.FS.Statx(cancel, in, out)
}

func (c counted) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer c.answered(reqSetAttr, &in.InHeader)
	return c.FS.SetAttr(cancel, in, out)
}

func (c counted) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	defer c.answered(reqAccess, &in.InHeader)
	return c.FS.Access(cancel, in)
}

func (c counted) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	defer c.answered(reqStatFs, h)
	return c.FS.StatFs(cancel, h, out)
}

func (c counted) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	defer c.answered(reqReadlink, h)
	return c.FS.Readlink(cancel, h)
}

func (c counted) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	defer c.answered(reqIoctl, &in.InHeader)
	return c.FS.Ioctl(cancel, in, inbuf, out, outbuf)
}

func (c counted) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	defer c.answered(reqMkdir, &in.InHeader)
	return c.FS.Mkdir(cancel, in, name, out)
}

func (c counted) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	defer c.answered(reqMknod, &in.InHeader)
	return c.FS.Mknod(cancel, in, name, out)
}

func (c counted) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	defer c.answered(reqSymlink, h)
	return c.FS.Symlink(cancel, h, target, name, out)
}

func (c counted) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	defer c.answered(reqLink, &in.InHeader)
	return c.FS.Link(cancel, in, name, out)
}

func (c counted) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	defer c.answered(reqUnlink, h)
	return c.FS.Unlink(cancel, h, name)
}

func (c counted) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	defer c.answered(reqRmdir, h)
	return c.FS.Rmdir(cancel, h, name)
}

func (c counted) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	defer c.answered(reqRename, &in.InHeader)
	return c.FS.Rename(cancel, in, oldName, newName)
}

func (c counted) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer c.answered(reqOpen, &in.InHeader)
	return c.FS.Open(cancel, in, out)
}

func (c counted) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer c.answered(reqCreate, &in.InHeader)
	return c.FS.Create(cancel, in, name, out)
}

func (c counted) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	defer c.answered(reqTmpfile, &in.InHeader)
	return c.FS.Tmpfile(cancel, in, out)
}

func (c counted) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	defer c.answered(reqFlush, &in.InHeader)
	return c.FS.Flush(cancel, in)
}

func (c counted) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer c.answered(reqFsync, &in.InHeader)
	return c.FS.Fsync(cancel, in)
}

func (c counted) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	defer c.answered(reqRelease, &in.InHeader)
	c.FS.Release(cancel, in)
}

func (c counted) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	defer c.answered(reqFallocate, &in.InHeader)
	return c.FS.Fallocate(cancel, in)
}

func (c counted) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	defer c.answered(reqLseek, &in.InHeader)
	return c.FS.Lseek(cancel, in, out)
}

func (c counted) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	defer c.answered(reqCopyFileRange, &in.InHeader)
	return c.FS.CopyFileRange(cancel, in)
}

func (c counted) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer c.answered(reqOpenDir, &in.InHeader)
	return c.FS.OpenDir(cancel, in, out)
}

func (c counted) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer c.answered(reqReadDir, &in.InHeader)
	return c.FS.ReadDir(cancel, in, out)
}

func (c counted) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer c.answered(reqReadDirPlus, &in.InHeader)
	return c.FS.ReadDirPlus(cancel, in, out)
}

func (c counted) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer c.answered(reqFsyncDir, &in.InHeader)
	return c.FS.FsyncDir(cancel, in)
}

func (c counted) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	defer c.answered(reqGetXAttr, h)
	return c.FS.GetXAttr(cancel, h, attr, dest)
}

func (c counted) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	defer c.answered(reqSetXAttr, &in.InHeader)
	return c.FS.SetXAttr(cancel, in, attr, data)
}

func (c counted) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	defer c.answered(reqListXAttr, h)
	return c.FS.ListXAttr(cancel, h, dest)
}

func (c counted) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	defer c.answered(reqRemoveXAttr, h)
	return c.FS.RemoveXAttr(cancel, h, attr)
}

func (c counted) GetLk(cancel <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	defer c.answered(reqGetLk, &in.InHeader)
	return c.FS.GetLk(cancel, in, out)
}

func (c counted) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	defer c.answered(reqSetLk, &in.InHeader)
	return c.FS.SetLk(cancel, in)
}

func (c counted) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	defer c.answered(reqSetLkw, &in.InHeader)
	return c.FS.SetLkw(cancel, in)
}

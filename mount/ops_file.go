package mount

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// openFlags translates the flags of open(2) that the daemon must know.
//
// O_DIRECT stays here: it keeps the kernel's cache out of the way, and says
// nothing about how the daemon should use its own disk. O_SYNC and O_DSYNC come
// again with every write, and are obeyed there.
func openFlags(flags uint32) (uint32, fuse.Status) {
	out := flags & syscall.O_ACCMODE
	if out == syscall.O_ACCMODE {
		return 0, fuse.EINVAL // neither reading nor writing: for ioctls only
	}
	for _, f := range [...]struct{ linux, ours uint32 }{
		{syscall.O_EXCL, fsproto.OpenExclusive},
		{syscall.O_TRUNC, fsproto.OpenTruncate},
		{syscall.O_APPEND, fsproto.OpenAppend},
		{syscall.O_NOATIME, fsproto.OpenNoAtime},
		{syscall.O_DIRECTORY, fsproto.OpenDir},
		{fuse.FMODE_EXEC, fsproto.OpenExec},
	} {
		if flags&f.linux != 0 {
			out |= f.ours
		}
	}
	return out, fuse.OK
}

// kernelFlags says how the kernel shall treat an open file.
//
// Appending goes around its cache: the kernel would place the data by the size
// that it remembers. So does who reads and writes a file, for another client may come to
// share it, and who shares it with one that may write: no call back can make the kernel's
// cache right for a read that is under way.
func (fs *FS) kernelFlags(flags uint32, around bool) (out uint32) {
	around = around || flags&syscall.O_ACCMODE == syscall.O_RDWR && fs.mayGoAround()
	if around || flags&(syscall.O_APPEND|syscall.O_DIRECT) != 0 {
		out |= fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	}
	return out
}

// mayGoAround reports whether a file that nobody shares may be opened around the kernel's
// cache: there is a store for it, and it can be mapped.
func (fs *FS) mayGoAround() bool { return fs.store != nil && fs.mapsAround }

// opened records an open file and fills in what the kernel is told. If the daemon is
// not told of it before it has to be, req is what it is to be told. around says that the
// kernel's cache is not to be used in any case, a are the attributes that came with it.
func (fs *FS) opened(h fsproto.Handle, node fsproto.Node, flags uint32, around bool, req *fsproto.OpenReq, a *fsproto.Attr, out *fuse.OpenOut) {
	out.Fh = uint64(h)
	out.OpenFlags = fs.kernelFlags(flags, around)
	fs.nodes.opened(node, 1)
	f := &file{node: node, direct: out.OpenFlags&fuse.FOPEN_DIRECT_IO != 0, late: late{req: req, op: fsproto.Open}}
	f.stored.Store(f.direct && fs.store != nil && flags&syscall.O_DIRECT == 0)
	f.quiet = flags&syscall.O_ACCMODE == syscall.O_RDONLY && fs.mayBeQuiet()
	quiet := f.quiet
	fs.behind.opened(f, flags, a)
	fs.handles.addFile(h, f)
	switch {
	case !quiet:
	case fs.locks.hasRanges(node):
		fs.handles.loud(f)
	default: // who locks it from now on sees that it is
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	}
}

// Open opens a file that the kernel knows. One that has lost its last name is
// opened only for who has just looked it up: others come by a name that the
// kernel remembers, and shall look again what it means now.
func (fs *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	flags, st := openFlags(in.Flags)
	if !st.Ok() {
		return st
	}
	if fs.protects && (flags&fsproto.OpenAccess != fsproto.OpenRead || flags&fsproto.OpenTruncate != 0) {
		return fuse.EROFS
	}
	if in.Mode&fuse.OPEN_KILL_SUIDGID != 0 {
		flags |= fsproto.OpenKillPriv
	}
	req := fsproto.OpenReq{Node: fsproto.Node(in.NodeId), Handle: fs.newHandle(), Flags: flags}
	fs.seeClosesFirst(cancel, &in.InHeader)
	if fs.openHere(req.Node, flags) || fs.readNow(cancel, &in.InHeader, req.Node, flags) {
		fs.opened(req.Handle, req.Node, in.Flags, false, &req, new(fsproto.Attr), out)
		if fs.stillHere(req.Node) {
			out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
			return fuse.OK
		}
		fs.closeFile(&in.InHeader, out.Fh)
		req.Handle = fs.newHandle()
	}
	fs.readers.handOver(&in.InHeader)
	outdated := fs.nodes.outdated(req.Node)
	if flags&fsproto.OpenTruncate != 0 {
		defer fs.sizes.begin(req.Node)()
		defer fs.store.changing(req.Node)(written{}, nil)
		fs.distrust(req.Node)
	}
	st, done := fs.aloneIf(flags&fsproto.OpenTruncate != 0, cancel, &in.InHeader, req.Node)
	if !st.Ok() {
		return st
	}
	req.Flags = fs.behind.wants(flags)
	var res fsproto.OpenRes
	st = call(fs, cancel, &in.InHeader, fsproto.Open, &req, &res)
	if flags&fsproto.OpenTruncate != 0 {
		fs.nodes.touch(req.Node)
	}
	if !st.Ok() {
		done(nil)
		return st
	}
	done(&res.Attr)
	if outdated && res.Attr.Nlink == 0 {
		fs.release(req.Handle)
		fs.ahead.stale(req.Node)
		return fuse.Status(syscall.ESTALE)
	}
	sure := fs.refresh(req.Node, &res.Attr)
	fs.opened(req.Handle, req.Node, in.Flags, res.Shared || !sure && fs.mayGoAround(), nil, &res.Attr, out)
	if flags&fsproto.OpenTruncate == 0 {
		if fs.keeps(req.Node, &res.Attr) {
			out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
		}
		fs.granted(req.Node, flags, &res)
	}
	return fuse.OK
}

// Create makes a file and opens it, or opens the one that somebody else has
// made since the kernel looked.
func (fs *FS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return fs.withSpace(cancel, func() fuse.Status { return fs.create(cancel, in, name, out) })
}

func (fs *FS) create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	flags, st := openFlags(in.Flags)
	if !st.Ok() {
		return st
	}
	if st := nameStatus(name); !st.Ok() {
		return st
	}
	if in.OpenFlags&fuse.OPEN_KILL_SUIDGID != 0 {
		flags |= fsproto.OpenKillPriv
	}
	req := fsproto.CreateReq{
		Parent: fsproto.Node(in.NodeId), Name: name, Mode: in.Mode & fsproto.ModePerm, Umask: in.Umask & 0o777,
		Flags: fs.behind.wants(flags), NewNode: fs.newNode(), Handle: fs.newHandle(),
	}
	defer fs.naming.begin()()
	defer fs.nodes.changing(req.Parent)()
	fs.whole.making(req.Parent, name)
	var res fsproto.CreateRes
	st = call(fs, cancel, &in.InHeader, fsproto.Create, &req, &res)
	fs.nodes.touch(req.Parent, res.Entry.Node)
	if !st.Ok() {
		return st
	}
	fs.hot.made(req.Parent, name, res.Entry.Node)
	if flags&fsproto.OpenTruncate != 0 {
		fs.store.drop(res.Entry.Node)
	}
	delayable := res.Entry.Attr.Lease & fsproto.LeaseWrite
	res.Entry.Attr.Lease &^= fsproto.LeaseWrite
	if st := fs.introduce(&out.EntryOut, &res.Entry, false, req.Parent, name, res.Parent.Lease); !st.Ok() {
		return st
	}
	res.Entry.Attr.Lease |= delayable
	fs.opened(req.Handle, res.Entry.Node, in.Flags, false, nil, &res.Entry.Attr, &out.OpenOut)
	if res.Entry.Node == req.NewNode {
		fs.behind.made(req.NewNode)
	}
	return fuse.OK
}

// Tmpfile makes a file without a name and opens it.
func (fs *FS) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	const tmpfileBit = 0o20000000 // O_TMPFILE is this bit and O_DIRECTORY
	flags, st := openFlags(in.Flags &^ (tmpfileBit | syscall.O_DIRECTORY))
	if !st.Ok() {
		return st
	}
	req := fsproto.TmpfileReq{
		Parent: fsproto.Node(in.NodeId), Mode: in.Mode & fsproto.ModePerm, Umask: in.Umask & 0o777,
		Flags: flags, NewNode: fs.newNode(), Handle: fs.newHandle(),
	}
	defer fs.naming.begin()()
	var res fsproto.CreateRes
	if st := call(fs, cancel, &in.InHeader, fsproto.Tmpfile, &req, &res); !st.Ok() {
		return st
	}
	if st := fs.introduce(&out.EntryOut, &res.Entry, false, req.Parent, "", 0); !st.Ok() {
		return st
	}
	fs.opened(req.Handle, res.Entry.Node, in.Flags, false, nil, &res.Entry.Attr, &out.OpenOut)
	return fuse.OK
}

// unleased is how often a read is tried for the kernel's cache while others are changing
// the file: pages that come without a lease are believed until they have been dropped,
// and if the kernel believes that the file is longer, it takes what is missing for
// zeros.
const unleased = 5

// wholePages reports whether a read can be for the kernel's cache. Mappings of a file that
// is open without it come by it all the same.
func wholePages(in *fuse.ReadIn) bool {
	return in.Offset%pageSize == 0 && in.Size%pageSize == 0
}

// Read reads from the connection straight into the buffer that go-fuse writes
// to the kernel.
func (fs *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	node := fsproto.Node(in.NodeId)
	f := fs.handles.file(in.Fh)
	cached := f == nil || !f.direct || wholePages(in)
	if cached {
		defer fs.nodes.reading(node)()
	}
	size := min(int(in.Size), len(buf), fsproto.MaxData)
	stored := f != nil && f.stored.Load()
	want := wanted{from: in.Offset, size: size}
	if stored {
		n, here, w := fs.store.read(node, in.Offset, buf[:size])
		if here {
			return inPlace(buf[:n]), fuse.OK
		}
		want, stored = w, w.f != nil
	}
	if f != nil && !f.direct {
		if n, here := fs.readHere(node, in.Offset, buf[:size]); here {
			return inPlace(buf[:n]), fuse.OK
		}
	}
	clock := fs.nodes.clock.read()
	into := buf[:size]
	if want.from != in.Offset || want.size != size {
		b := aheads.Get().(*[maxAhead]byte)
		defer aheads.Put(b)
		into = b[:want.size]
	}
	req := fsproto.ReadReq{Handle: fsproto.Handle(in.Fh), Offset: want.from, Size: uint32(want.size)}
	var res fsproto.AttrRes
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Read.Info, 0)
	defer ctx.end()
	fs.calling(&in.InHeader)
	err := fs.sizes.wait(ctx, node)
	if err == nil {
		err = fs.behind.settle(ctx, node)
	}
	if err == nil {
		err = fs.toldOf(ctx, in.Fh)
	}
	if err != nil {
		return nil, errno(err)
	}
	var n int
	for range unleased {
		if n, err = rpc.CallWith(ctx, fs.peer, fsproto.Read, &req, &res, rpc.Extra{Into: into}); err != nil {
			return nil, errno(err)
		}
		if !cached || fs.leases == nil || fs.leases.holds(node, res.Attr.Lease) {
			break
		}
		time.Sleep(afterwards)
	}
	fs.leases.keep(node, &res.Attr, clock)
	if cached && fs.leases != nil && !fs.leases.holds(node, res.Attr.Lease) {
		fs.notices.invalidate(node) // nobody would call back for these pages
	}
	if stored {
		fs.store.fill(want, into[:n], res.Attr.Lease)
	}
	if want.from != in.Offset || want.size != size {
		n = copy(buf[:size], into[min(int(in.Offset-want.from), n):n])
	}
	return inPlace(buf[:n]), fuse.OK
}

// inPlace is data that lies where the reply to the kernel wants it. go-fuse would copy
// its own fuse.ReadResultData there.
type inPlace []byte

func (p inPlace) Bytes([]byte) ([]byte, fuse.Status) { return p, fuse.OK }
func (p inPlace) Size() int                          { return len(p) }
func (p inPlace) Done()                              {}

// Writev is asked first by go-fuse; from /dev/fuse the data is in one piece,
// and in more it would be joined for Write.
func (fs *FS) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) != 1 {
		return 0, fuse.ENOSYS
	}
	return fs.Write(cancel, in, data[0])
}

// Write sends the kernel's data on without copying it.
func (fs *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f := fs.handles.file(in.Fh)
	if f == nil {
		return 0, fuse.EBADF
	}
	req := fsproto.WriteReq{Handle: fsproto.Handle(in.Fh), Offset: in.Offset, Flags: writeFlags(in)}
	if st := fs.lateError(f); !st.Ok() {
		return 0, st
	}
	if st, done := fs.writeBehind(cancel, in, f, &req, data); done {
		return uint32(len(data)), st
	}
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Write.Info, 0)
	defer ctx.end()
	fs.calling(&in.InHeader)
	alone, err := fs.behind.alone(ctx, f.node)
	if err != nil {
		return 0, errno(err)
	}
	var w written
	defer func() { alone(w.attr) }()
	changed := fs.store.changing(f.node)
	st := fs.withSpace(cancel, func() fuse.Status {
		var err error
		if w, err = fs.write(ctx, f.node, req, data); w.n > 0 {
			return fuse.OK // the next write meets the error
		}
		return errno(err)
	})
	if !f.stored.Load() {
		w.lease = 0 // it is in the kernel's cache
	}
	changed(w, data)
	fs.nodes.touch(f.node)
	if !st.Ok() {
		if in.WriteFlags&fuse.WRITE_CACHE != 0 {
			fs.unwritten.note(len(data), st)
		}
		return 0, st
	}
	switch {
	case f.direct && in.WriteFlags&fuse.WRITE_CACHE == 0:
		// What mappings have read meanwhile; and the kernel may be about to move the end.
		fs.drop(f.node)
	case w.at != in.Offset && w.n > 0:
		fs.notices.invalidate(f.node) // somebody else's data lies where the kernel put this
	}
	return w.n, fuse.OK
}

// splitWrite is the size from which a write travels in two halves side by side:
// while the daemon copies one into its cache the other is on its way. A program
// has only one write under way at a time.
const splitWrite = 256 << 10

// written says how much of the beginning of data was written, where, and under which
// lease the file is as it was but for that.
type written struct {
	n     uint32
	at    uint64
	lease uint64
	attr  *fsproto.Attr // after it; nil: they are not known
}

// write sends data. The error belongs to the first byte that was not written.
func (fs *FS) write(ctx context.Context, node fsproto.Node, req fsproto.WriteReq, data []byte) (written, error) {
	if len(data) < splitWrite || req.Flags&fsproto.WriteAppend != 0 {
		return fs.writeOnce(ctx, node, req, data)
	}
	half := len(data) / 2 &^ 4095
	second := make(chan result, 1)
	go func() {
		req := req
		req.Offset += uint64(half)
		w, err := fs.writeOnce(ctx, node, req, data[half:])
		second <- result{w, err}
	}()
	w, err := fs.writeOnce(ctx, node, req, data[:half])
	r := <-second
	if err != nil || w.n < uint32(half) {
		w.lease, w.attr = 0, nil // of the second half something may have been written
		return w, err
	}
	return written{n: w.n + r.n, at: w.at, lease: min(w.lease, r.lease)}, r.err
}

type result struct {
	written
	err error
}

func (fs *FS) writeOnce(ctx context.Context, node fsproto.Node, req fsproto.WriteReq, data []byte) (written, error) {
	var res fsproto.WriteRes
	x := rpc.Extra{Data: data, Left: func(any, error) {
		fs.store.drop(node)
		fs.notices.invalidate(node)
	}}
	if _, err := rpc.CallWith(ctx, fs.peer, fsproto.Write, &req, &res, x); err != nil {
		fs.undecided.note(fsproto.Write.Name, err)
		return written{at: req.Offset}, err
	}
	if uint64(res.Count) > uint64(len(data)) {
		return written{at: req.Offset}, syscall.EIO
	}
	fs.wrote(node, &res.Attr)
	return written{res.Count, res.Offset, res.Attr.Lease, &res.Attr}, nil
}

// writeFlags looks at the flags that the file has now, which fcntl(2) may have
// changed since it was opened. Pages that mmap has dirtied go where they belong.
func writeFlags(in *fuse.WriteIn) (out uint32) {
	if in.Flags&syscall.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		out |= fsproto.WriteAppend
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		out |= fsproto.WriteKillPriv
	}
	switch {
	case in.Flags&syscall.O_SYNC == syscall.O_SYNC:
		out |= fsproto.WriteSync
	case in.Flags&syscall.O_DSYNC != 0:
		out |= fsproto.WriteDataSync
	}
	return out
}

// Fsync waits until the file is on the daemon's disk.
func (fs *FS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if st := fs.toldFor(cancel, &in.InHeader, in.Fh); !st.Ok() {
		return st
	}
	req := fsproto.FsyncReq{Handle: fsproto.Handle(in.Fh), DataOnly: in.FsyncFlags&1 != 0}
	return fs.fsyncBehind(cancel, &in.InHeader, &req)
}

// Release closes a file after its last descriptor. Nobody waits for it.
func (fs *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	node, h := fsproto.Node(in.NodeId), fsproto.Handle(in.Fh)
	f := fs.handles.file(in.Fh)
	if !fs.closeFile(&in.InHeader, in.Fh) {
		return
	}
	if f != nil && f.delayed != nil && !fs.locks.hasAny(node) {
		fs.releaseSoon(h)
		return
	}
	fs.calling(&in.InHeader)
	if fs.locks != nil {
		fs.seeCloses(fs.locks.ctx, node)
		defer fs.locks.closing(node, h)()
	}
	fs.release(h)
}

// closeFile forgets an open file on behalf of a request, and reports whether the daemon
// has to be told.
func (fs *FS) closeFile(h *fuse.InHeader, fh uint64) bool {
	f := fs.handles.removeFile(fh)
	if f == nil {
		return true
	}
	fs.nodes.opened(f.node, -1)
	if f.delayed != nil {
		if fs.behind.busy(f.node) {
			fs.readers.handOver(h)
			_ = fs.behind.settle(fs.link.ctx, f.node)
		}
		f.delayed.closed()
	}
	return fs.closeLate(h, &f.late)
}

// release closes a handle at the daemon. It is not cut short: what is left over
// would stay open until the session ends.
func (fs *FS) release(h fsproto.Handle) {
	fs.backlog.begin()
	defer fs.backlog.end(1)
	err := fs.link.behind(&fsproto.Release.Info, func(ctx context.Context) error {
		return rpc.Call(ctx, fs.peer, fsproto.Release, &fsproto.ReleaseReq{Handle: h}, &fsproto.Empty{})
	})
	if err != nil {
		fs.log.Debug("release", "handle", uint64(h), "err", err)
	}
}

// Fallocate knows the modes that the kernel lets through to FUSE.
func (fs *FS) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if in.Mode&^(fsproto.FallocKeepSize|fsproto.FallocPunchHole|fsproto.FallocZeroRange) != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	req := fsproto.FallocateReq{Handle: fsproto.Handle(in.Fh), Mode: in.Mode, Offset: in.Offset, Length: in.Length}
	st, done := fs.aloneIf(true, cancel, &in.InHeader, fsproto.Node(in.NodeId))
	if !st.Ok() {
		return st
	}
	defer fs.store.changing(fsproto.Node(in.NodeId))(written{}, nil)
	var res fsproto.AttrRes
	st = callWithSpace(fs, cancel, &in.InHeader, fsproto.Fallocate, &req, &res)
	fs.nodes.touch(fsproto.Node(in.NodeId))
	if !st.Ok() {
		done(nil)
		return st
	}
	done(&res.Attr)
	return fuse.OK
}

// Lseek finds data and holes; the kernel does the rest of lseek(2) itself.
func (fs *FS) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != uint32(fsproto.SeekData) && in.Whence != uint32(fsproto.SeekHole) {
		return fuse.EINVAL
	}
	if off, here := fs.seekHere(in); here {
		if off < 0 {
			return fuse.Status(syscall.ENXIO)
		}
		out.Offset = uint64(off)
		return fuse.OK
	}
	if st := fs.toldFor(cancel, &in.InHeader, in.Fh); !st.Ok() {
		return st
	}
	if st := fs.settleFor(cancel, &in.InHeader, fsproto.Node(in.NodeId)); !st.Ok() {
		return st
	}
	req := fsproto.LseekReq{Handle: fsproto.Handle(in.Fh), Offset: in.Offset, Whence: uint8(in.Whence)}
	var res fsproto.LseekRes
	st := call(fs, cancel, &in.InHeader, fsproto.Lseek, &req, &res)
	out.Offset = res.Offset
	return st
}

// maxCopy is the most that one reply can tell of, in whole pages. The kernel
// tells the program how much was copied, and the program asks again.
const maxCopy = 1<<32 - 1<<12

// CopyFileRange copies at the daemon. The kernel sends it for two files of this
// mount only.
func (fs *FS) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if in.Flags != 0 {
		return 0, fuse.EINVAL
	}
	if st := fs.toldFor(cancel, &in.InHeader, in.FhIn); !st.Ok() {
		return 0, st
	}
	req := fsproto.CopyReq{
		From: fsproto.Handle(in.FhIn), FromOffset: in.OffIn,
		To: fsproto.Handle(in.FhOut), ToOffset: in.OffOut, Length: min(in.Len, maxCopy),
	}
	if st := fs.settleFor(cancel, &in.InHeader, fsproto.Node(in.NodeId)); !st.Ok() {
		return 0, st
	}
	st, done := fs.aloneIf(true, cancel, &in.InHeader, fsproto.Node(in.NodeIdOut))
	if !st.Ok() {
		return 0, st
	}
	defer fs.store.changing(fsproto.Node(in.NodeIdOut))(written{}, nil)
	var res fsproto.CopyRes
	st = callWithSpace(fs, cancel, &in.InHeader, fsproto.CopyFileRange, &req, &res)
	fs.nodes.touch(fsproto.Node(in.NodeIdOut))
	if !st.Ok() {
		done(nil)
		return 0, st
	}
	done(&res.Attr)
	if res.Count > req.Length {
		return 0, fuse.EIO
	}
	return uint32(res.Count), fuse.OK
}

package mount

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/idname"
	"github.com/rpycfs/rpycfs/internal/mounts"
	"github.com/rpycfs/rpycfs/rpc"
)

// call makes a call for a request of the kernel and maps its error.
func call[Req, Res any](fs *FS, cancel <-chan struct{}, h *fuse.InHeader, op *rpc.Op[Req, Res], req *Req, res *Res) fuse.Status {
	ctx := fs.begin(cancel, h, &op.Info, 0)
	defer ctx.end()
	return errno(callAs(ctx, fs, h, op, req, res))
}

// callBriefly is call, but if the daemon is out of reach it ends soon and is not told
// to the caller: away is set then.
func callBriefly[Req, Res any](fs *FS, cancel <-chan struct{}, h *fuse.InHeader, op *rpc.Op[Req, Res], req *Req, res *Res) (st fuse.Status, away bool) {
	if !fs.link.connected() {
		return fuse.OK, true
	}
	ctx := fs.begin(cancel, h, &op.Info, brief)
	defer ctx.end()
	err := callAs(ctx, fs, h, op, req, res)
	return errno(err), errors.Is(err, errApart) || errors.Is(err, errTimedOut)
}

// callAs makes a call with the credential of whose request it is for, and sees
// to it that the owners in the reply can be shown.
func callAs[Req, Res any](ctx context.Context, fs *FS, h *fuse.InHeader, op *rpc.Op[Req, Res], req *Req, res *Res) error {
	if fs.protects && op.Access == rpc.Change {
		return syscall.EROFS
	}
	fs.readers.handOver(h)
	if op.Slotted() && op.Number != fsproto.Create.Number {
		fs.hurryReleases()
	}
	cred, err := fs.creds.of(ctx, h)
	if err != nil {
		return err
	}
	fs.calling(h)
	x := rpc.Extra{Cred: cred.number()}
	if op.Slotted() {
		x.Left = func(res any, err error) {
			cred.release(false)
			fs.leftBehind(req, res, err)
		}
	}
	_, err = rpc.CallWith(ctx, fs.peer, op, req, res, x)
	cred.release(errors.Is(err, rpc.ErrLeft))
	if errors.Is(err, syscall.ESTALE) {
		fs.ahead.stale(fsproto.Node(h.NodeId))
	}
	fs.undecided.note(op.Name, err)
	if err == nil {
		fs.ids.learn(ctx, res)
	}
	return err
}

// nameStatus refuses names that the protocol does not carry. The kernel sends
// "." and ".." to servers of NFS exports only, which this is not.
func nameStatus(names ...string) fuse.Status {
	for _, name := range names {
		if len(name) > fsproto.MaxName {
			return fuse.Status(syscall.ENAMETOOLONG)
		}
		if !fsproto.ValidName(name) {
			return fuse.EINVAL
		}
	}
	return fuse.OK
}

// Lookup finds an entry. That there is none is remembered by the kernel too.
func (fs *FS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if st := nameStatus(name); !st.Ok() {
		return st
	}
	return fs.makeRoom(cancel, func() fuse.Status { return fs.lookup(cancel, h, name, out) })
}

func (fs *FS) lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if fs.lacks(fsproto.Node(h.NodeId), name, out) || fs.lookupHere(cancel, h, name, out) {
		return fuse.OK
	}
	defer fs.naming.begin()()
	req := fsproto.LookupReq{Parent: fsproto.Node(h.NodeId), Name: name}
	var res fsproto.LookupRes
	clock := fs.nodes.clock.read()
	if st := call(fs, cancel, h, fsproto.Lookup, &req, &res); !st.Ok() {
		return st
	}
	if !res.Exists {
		res.Entry.Node = 0
	}
	hot := fs.hot.found(req.Parent, name, res.Entry.Node) && !fs.leases.valid(req.Parent, res.Parent.Lease)
	if !res.Exists {
		fs.listWhole(req.Parent, res.Parent.Lease)
		keep := fs.nameTimeout(fs.negativeTimeout, req.Parent, name, res.Parent.Lease)
		if keep <= 0 || hot {
			return fuse.ENOENT
		}
		out.SetEntryTimeout(keep) // with NodeId 0
		return fuse.OK
	}
	fs.current(cancel, h, &res.Entry, clock)
	st := fs.introduce(out, &res.Entry, true, req.Parent, name, res.Parent.Lease)
	if hot {
		out.SetEntryTimeout(0)
	}
	fs.leases.keep(res.Entry.Node, &res.Entry.Attr, clock)
	return st
}

// lacks tells the kernel that there is no such entry, if that is known.
func (fs *FS) lacks(dir fsproto.Node, name string, out *fuse.EntryOut) bool {
	lease := fs.whole.lacking(dir, name)
	if !fs.leases.valid(dir, lease) {
		return false
	}
	keep := fs.nameTimeout(fs.negativeTimeout, dir, name, lease)
	if keep <= 0 {
		return false
	}
	out.SetEntryTimeout(keep) // with NodeId 0
	return true
}

// introduce tells the kernel of a node that a reply has named, and counts the
// reference that the kernel takes with it. lease is the one on the directory that the
// reply tells of.
func (fs *FS) introduce(out *fuse.EntryOut, e *fsproto.Entry, asked bool, parent fsproto.Node, name string, lease uint64) fuse.Status {
	if !introducible(e.Node) {
		return fuse.EIO
	}
	fs.nodes.note(e, parent, name)
	fs.trimmer.check()
	fs.nodes.looked(e.Node)
	if asked {
		fs.show(e.Node, &e.Attr)
	} else {
		fs.keepOwn(e.Node, &e.Attr)
		fs.told(e.Node, &e.Attr)
	}
	fs.fillEntry(out, e, asked, fs.nameTimeout(fs.entryTimeout, parent, name, lease), 0)
	return fuse.OK
}

// introducible reports whether a number can be a node's that a reply names: others are
// not the daemon's to give, or go-fuse's own.
func introducible(n fsproto.Node) bool {
	return n != 0 && n != fsproto.RootNode && uint64(n) != ^uint64(0)
}

// Forget takes references of the kernel back.
func (fs *FS) Forget(nodeid, nlookup uint64) {
	if f, last := fs.nodes.forget(fsproto.Node(nodeid), nlookup); last {
		fs.store.forget(f.Node)
		fs.whole.forget(f.Node)
		fs.ahead.drop(f.Node)
		fs.backlog.begin()
		if !fs.forgets.add(f) {
			fs.backlog.end(1)
		}
	}
}

// GetAttr reads attributes, through the open file if the kernel names one: it
// may have no name any more.
func (fs *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	req := fsproto.GetattrReq{Node: fsproto.Node(in.NodeId)}
	if in.Flags()&fuse.FUSE_GETATTR_FH != 0 && fs.handles.isTold(in.Fh()) {
		req.Handle = fsproto.Handle(in.Fh())
	}
	defer fs.nodes.asking(req.Node)()
	res, st := fs.getattr(cancel, &in.InHeader, &req)
	if !st.Ok() {
		return st
	}
	fs.fillAttrOut(out, req.Node, &res.Attr, true)
	return fuse.OK
}

// getattr returns attributes: those that are kept, or the daemon's. Those of the root
// are always at hand, because programs that want nothing of the mount ask for them: who
// lists the directory above it, or unmounts it.
func (fs *FS) getattr(cancel <-chan struct{}, h *fuse.InHeader, req *fsproto.GetattrReq) (res fsproto.AttrRes, st fuse.Status) {
	if st := fs.settleFor(cancel, h, req.Node); !st.Ok() {
		return res, st
	}
	clock := fs.nodes.clock.read()
	a, here := fs.attrHere(req.Node)
	if !here {
		if attr, then, ok := fs.ahead.attrOf(req.Node); ok {
			a, clock, here = attr, then, true
		}
	}
	switch {
	case here:
		res.Attr = a
	case req.Node == fsproto.RootNode:
		var away bool
		if st, away = callBriefly(fs, cancel, h, fsproto.Getattr, req, &res); away {
			return fsproto.AttrRes{Attr: fs.root.get()}, fuse.OK
		}
	default:
		st = call(fs, cancel, h, fsproto.Getattr, req, &res)
	}
	if !st.Ok() {
		return res, st
	}
	fs.show(req.Node, &res.Attr)
	fs.leases.keep(req.Node, &res.Attr, clock)
	if req.Node == fsproto.RootNode {
		fs.root.put(&res.Attr)
	}
	return res, fuse.OK
}

// lastAttr are attributes that were told last.
type lastAttr struct{ last atomic.Pointer[fsproto.Attr] }

func (l *lastAttr) put(a *fsproto.Attr) { l.last.Store(new(*a)) }

func (l *lastAttr) get() fsproto.Attr { return *l.last.Load() }

// Statx is sent by kernels from 6.6 on when a program asks for the birth time.
func (fs *FS) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	req := fsproto.GetattrReq{Node: fsproto.Node(in.NodeId)}
	if in.GetattrFlags&fuse.FUSE_GETATTR_FH != 0 && fs.handles.isTold(in.Fh) {
		req.Handle = fsproto.Handle(in.Fh)
	}
	defer fs.nodes.asking(req.Node)()
	res, st := fs.getattr(cancel, &in.InHeader, &req)
	if !st.Ok() {
		return st
	}
	fs.access.saw(req.Node, &res.Attr)
	fs.fillStatx(&out.Statx, fs.behind.correct(req.Node, &res.Attr))
	out.SetTimeout(fs.attrTimeout(req.Node, &res.Attr))
	return fuse.OK
}

func (fs *FS) fillStatx(out *fuse.Statx, a *fsproto.Attr) {
	*out = fuse.Statx{
		Mask:      unix.STATX_BASIC_STATS,
		Blksize:   a.BlockSize,
		Nlink:     a.Nlink,
		Uid:       fs.ids.show(idname.User, a.UID),
		Gid:       fs.ids.show(idname.Group, a.GID),
		Mode:      uint16(fs.ids.mode(a.Mode)),
		Ino:       a.Ino,
		Size:      a.Size,
		Blocks:    a.Blocks,
		Atime:     sxTime(a.Atime),
		Mtime:     sxTime(a.Mtime),
		Ctime:     sxTime(a.Ctime),
		RdevMajor: a.RdevMajor,
		RdevMinor: a.RdevMinor,
	}
	if a.Flags&fsproto.AttrHasBtime != 0 {
		out.Mask |= unix.STATX_BTIME
		out.Btime = sxTime(a.Btime)
	}
}

// SetAttr changes attributes.
func (fs *FS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Setattr.Info, 0)
	defer ctx.end()
	req := setattrReq(in)
	err := fs.setOwner(ctx, in, &req)
	if err != nil {
		return errno(err)
	}
	defer fs.nodes.changing(req.Node)() // a directory is locked meanwhile
	if req.Mask&fsproto.SetSize != 0 {
		defer fs.sizes.begin(req.Node)()
		defer fs.store.changing(req.Node)(written{}, nil)
	}
	if a, taken := fs.behind.setattr(&req); taken {
		fs.nodes.touch(req.Node)
		fs.access.drop(req.Node)
		fs.nodes.update(req.Node, func(n *node) { n.may = 0 })
		fs.fillAttrOut(out, req.Node, &a, false)
		return fuse.OK
	}
	fs.readers.handOver(&in.InHeader)
	alone, err := fs.behind.alone(ctx, req.Node)
	if err != nil {
		return errno(err)
	}
	fs.distrust(req.Node)
	var res fsproto.AttrRes
	err = callAs(ctx, fs, &in.InHeader, fsproto.Setattr, &req, &res)
	fs.nodes.touch(req.Node)
	fs.nodes.update(req.Node, func(n *node) { n.may = 0 })
	if err != nil {
		alone(nil)
		return errno(err)
	}
	alone(&res.Attr)
	fs.keepOwn(req.Node, &res.Attr)
	if req.Mask&fsproto.SetSize == 0 {
		fs.told(req.Node, &res.Attr)
	}
	fs.fillAttrOut(out, req.Node, &res.Attr, false)
	return fuse.OK
}

// setOwner sets the owner in req to what the daemon calls the one in the
// kernel's request.
func (fs *FS) setOwner(ctx context.Context, in *fuse.SetAttrIn, req *fsproto.SetattrReq) error {
	for _, o := range [...]struct {
		valid, bit uint32
		kind       idname.Kind
		here       uint32
		there      *uint32
	}{
		{fuse.FATTR_UID, fsproto.SetUID, idname.User, in.Uid, &req.UID},
		{fuse.FATTR_GID, fsproto.SetGID, idname.Group, in.Gid, &req.GID},
	} {
		if in.Valid&o.valid == 0 {
			continue
		}
		id, change, err := fs.ids.unshow(ctx, o.kind, o.here)
		if err != nil {
			return err
		}
		if change {
			*o.there = id
			req.Mask |= o.bit
		}
	}
	return nil
}

// setattrReq translates all but the owner.
func setattrReq(in *fuse.SetAttrIn) fsproto.SetattrReq {
	req := fsproto.SetattrReq{Node: fsproto.Node(in.NodeId)}
	if fh, ok := in.GetFh(); ok {
		req.Handle = fsproto.Handle(fh)
	}
	if in.Valid&fuse.FATTR_MODE != 0 {
		req.Mask |= fsproto.SetMode
		req.Mode = in.Mode & fsproto.ModePerm
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		req.Mask |= fsproto.SetSize
		req.Size = in.Size
		if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
			req.Mask |= fsproto.SetKillPriv
		}
	}
	if in.Valid&fuse.FATTR_ATIME_NOW != 0 {
		req.Mask |= fsproto.SetAtimeNow
	} else if in.Valid&fuse.FATTR_ATIME != 0 {
		req.Mask |= fsproto.SetAtime
		req.Atime = fsproto.Time{Sec: int64(in.Atime), Nsec: in.Atimensec}
	}
	if in.Valid&fuse.FATTR_MTIME_NOW != 0 {
		req.Mask |= fsproto.SetMtimeNow
	} else if in.Valid&fuse.FATTR_MTIME != 0 {
		req.Mask |= fsproto.SetMtime
		req.Mtime = fsproto.Time{Sec: int64(in.Mtime), Nsec: in.Mtimensec}
	}
	return req
}

// Access asks the daemon, which alone decides about rights. The kernel asks for
// access(2) and chdir(2), and only where it does not check permissions itself.
func (fs *FS) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	fs.nodes.entered(fsproto.Node(in.NodeId))
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Access.Info, 0)
	defer ctx.end()
	cred, err := fs.creds.of(ctx, &in.InHeader)
	if err != nil {
		return errno(err)
	}
	defer cred.release(false)
	req := fsproto.AccessReq{Node: fsproto.Node(in.NodeId), Mask: uint8(in.Mask & 7)}
	if may, then := fs.access.get(req.Node, cred, req.Mask); may && !fs.nodes.changedSince(req.Node, then) {
		return fuse.OK
	}
	fs.calling(&in.InHeader)
	if err := fs.behind.settle(ctx, req.Node); err != nil {
		return errno(err)
	}
	asked, clock := time.Now(), fs.nodes.clock.read()
	var res fsproto.AttrRes
	if _, err := rpc.CallWith(ctx, fs.peer, fsproto.Access, &req, &res, rpc.Extra{Cred: cred.number()}); err != nil {
		return errno(err)
	}
	fs.access.put(req.Node, cred, &res.Attr, clock, asked)
	return fuse.OK
}

// StatFs tells about the file system that holds the node; while the daemon is out of
// reach, what it has told last: df(1) looks at all mounts of a machine.
func (fs *FS) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	req := fsproto.StatfsReq{Node: fsproto.Node(h.NodeId)}
	res, here := fs.space.get(fs.nodes.clock.read())
	if !here {
		clock := fs.nodes.clock.read()
		last, known := fs.space.last()
		var st fuse.Status
		away := false
		if known {
			st, away = callBriefly(fs, cancel, h, fsproto.Statfs, &req, &res)
		} else {
			st = call(fs, cancel, h, fsproto.Statfs, &req, &res)
		}
		switch {
		case away:
			res = last
		case !st.Ok():
			return st
		default:
			fs.space.put(res, clock, fs.leases != nil)
		}
	}
	*out = fuse.StatfsOut{
		Blocks: res.Blocks, Bfree: res.BlocksFree, Bavail: res.BlocksAvail,
		Files: res.Files, Ffree: res.FilesFree,
		Bsize: res.BlockSize, Frsize: res.FragmentSize, NameLen: min(res.NameLen, fsproto.MaxName),
	}
	return fuse.OK
}

// Readlink reads the target of a symbolic link.
func (fs *FS) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	req := fsproto.ReadlinkReq{Node: fsproto.Node(h.NodeId)}
	var res fsproto.ReadlinkRes
	if st := call(fs, cancel, h, fsproto.Readlink, &req, &res); !st.Ok() {
		return nil, st
	}
	return res.Target, fuse.OK
}

// Ioctl knows one, on the root: rpycfs sync, because the kernel passes no
// syncfs(2) on to FUSE. ENOSYS for others would make the kernel stop asking.
func (fs *FS) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, _ []byte, _ *fuse.IoctlOut, _ []byte) fuse.Status {
	if in.Cmd != mounts.IoctlSync || in.NodeId != uint64(fsproto.RootNode) {
		return fuse.Status(syscall.ENOTTY)
	}
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Syncfs.Info, 0)
	defer ctx.end()
	fs.calling(&in.InHeader)
	if err := fs.behind.settleAll(ctx); err != nil {
		return errno(err)
	}
	return call(fs, cancel, &in.InHeader, fsproto.Syncfs, &fsproto.SyncfsReq{Node: fsproto.RootNode}, &fsproto.Empty{})
}

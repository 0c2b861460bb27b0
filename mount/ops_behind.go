package mount

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// What requests have to do with what is written behind.

// writeBehind delays a write, and reports whether it has been dealt with. Appends are
// placed by the server, O_SYNC asks for more, and who wrote into a mapping is told by
// the kernel.
func (fs *FS) writeBehind(cancel <-chan struct{}, in *fuse.WriteIn, f *file, req *fsproto.WriteReq, data []byte) (st fuse.Status, done bool) {
	if f.delayed == nil || in.WriteFlags&fuse.WRITE_CACHE != 0 || req.Flags&^fsproto.WriteKillPriv != 0 || len(data) > fsproto.MaxData {
		return fuse.OK, false
	}
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Write.Info, 0)
	defer ctx.end()
	fs.readers.handOver(&in.InHeader)
	changed := fs.store.changing(f.node)
	taken, lease, err := f.delayed.write(ctx, req, data)
	w := written{at: in.Offset}
	if taken {
		w.n = uint32(len(data))
		if f.stored.Load() {
			w.lease = lease
		}
	}
	changed(w, data)
	if taken {
		fs.nodes.touch(f.node)
		if f.direct {
			fs.drop(f.node) // what mappings have read meanwhile
		}
	}
	return errno(err), taken || err != nil
}

// lateError tells, once for each open file, of what was answered and cannot be written.
func (f *file) lateError() fuse.Status {
	if err := f.delayed.failure(); err != nil && f.lateTold.CompareAndSwap(false, true) {
		return lateErrno(err)
	}
	return fuse.OK
}

// flushBehind waits until what was written to a file that is being closed is on the
// server, and tells what is not.
func (fs *FS) flushBehind(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	if fs.behind == nil {
		return fuse.OK
	}
	f := fs.handles.file(in.Fh)
	if f == nil || f.delayed == nil {
		return fuse.OK
	}
	if fs.behind.busy(f.node) {
		ctx := fs.begin(cancel, &in.InHeader, &fsproto.Write.Info, dying)
		defer ctx.end()
		fs.calling(&in.InHeader)
		if err := fs.behind.settle(ctx, f.node); err != nil {
			return errno(err)
		}
	}
	if err := f.delayed.failure(); err != nil {
		return lateErrno(err)
	}
	return fuse.OK
}

// settleFor waits until nothing of a file is on its way that was before. The file is
// named by what it is open as, or by its node; in the first case it tells, too, what was
// answered and cannot be written.
func (fs *FS) settleFor(cancel <-chan struct{}, h *fuse.InHeader, fh uint64, node fsproto.Node) fuse.Status {
	if fs.behind == nil {
		return fuse.OK
	}
	var f *file
	if fh != 0 {
		if f = fs.handles.file(fh); f == nil {
			return fuse.OK
		}
		node = f.node
	}
	if fs.behind.busy(node) {
		ctx := fs.begin(cancel, h, &fsproto.Write.Info, 0)
		defer ctx.end()
		fs.calling(h)
		if err := fs.behind.settle(ctx, node); err != nil {
			return errno(err)
		}
	}
	if f != nil && f.delayed != nil {
		if err := f.delayed.failure(); err != nil {
			return lateErrno(err)
		}
	}
	return fuse.OK
}

// aloneIf is behind.alone for a request; if the call changes nothing, it only waits.
func (fs *FS) aloneIf(changes bool, cancel <-chan struct{}, h *fuse.InHeader, node fsproto.Node) (st fuse.Status, done func(*fsproto.Attr)) {
	done = func(*fsproto.Attr) {}
	if !changes {
		return fs.settleFor(cancel, h, 0, node), done
	}
	if fs.behind == nil {
		return fuse.OK, done
	}
	ctx := fs.begin(cancel, h, &fsproto.Write.Info, 0)
	defer ctx.end()
	fs.readers.handOver(h)
	done, err := fs.behind.alone(ctx, node)
	return errno(err), done
}

// current sees to it that the kernel is not told of attributes that a lookup has found
// before what was on its way had arrived. The clock was read before the lookup.
func (fs *FS) current(cancel <-chan struct{}, h *fuse.InHeader, e *fsproto.Entry, clock uint64) {
	if fs.behind == nil {
		return
	}
	if !fs.behind.busy(e.Node) {
		if a, here := fs.attrHere(e.Node); here && fs.nodes.changedSince(e.Node, clock) {
			e.Attr = a
		}
		return
	}
	if res, st := fs.getattr(cancel, h, &fsproto.GetattrReq{Node: e.Node}); st.Ok() {
		e.Attr = res.Attr
	}
}

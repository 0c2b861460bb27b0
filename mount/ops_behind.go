package mount

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
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
	changed := fs.store.changing(f.node)
	taken, lease, err := f.delayed.write(ctx, &in.InHeader, req, data)
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

// lateError tells a write, once for each open file, of what was answered and cannot be
// written.
func (fs *FS) lateError(f *file) fuse.Status {
	if err := fs.behind.failure(f); err != nil && f.lateTold.CompareAndSwap(false, true) {
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
	f.delayed.flush()
	if fs.behind.busy(f.node) {
		ctx := fs.begin(cancel, &in.InHeader, &fsproto.Write.Info, dying)
		defer ctx.end()
		fs.calling(&in.InHeader)
		if err := fs.behind.settle(ctx, f.node); err != nil {
			return errno(err)
		}
	}
	if err := fs.behind.failure(f); err != nil {
		return lateErrno(err)
	}
	return fuse.OK
}

// fsyncBehind makes an fsync behind what is on its way to the file, and tells what was
// answered before and cannot be written.
func (fs *FS) fsyncBehind(cancel <-chan struct{}, h *fuse.InHeader, req *fsproto.FsyncReq) fuse.Status {
	ctx := fs.begin(cancel, h, &fsproto.Fsync.Info, 0)
	defer ctx.end()
	fs.calling(h)
	f := fs.handles.file(uint64(req.Handle))
	if f == nil || f.delayed == nil {
		if f != nil {
			if err := fs.behind.settle(ctx, f.node); err != nil {
				return errno(err)
			}
			if err := fs.behind.failure(f); err != nil {
				return lateErrno(err)
			}
		}
		return errno(rpc.Call(ctx, fs.peer, fsproto.Fsync, req, &fsproto.AttrRes{}))
	}
	for {
		after, err := f.delayed.following(ctx)
		if err != nil {
			return errno(err)
		}
		_, err = rpc.CallWith(ctx, fs.peer, fsproto.Fsync, req, &fsproto.AttrRes{}, rpc.Extra{After: after})
		if ctx.Err() == nil { // a failure may be being dealt with
			if err := fs.behind.settle(ctx, f.node); err != nil {
				return errno(err)
			}
			if err := fs.behind.failure(f); err != nil {
				return lateErrno(err)
			}
		}
		if len(after) == 0 || !errors.Is(err, syscall.ECANCELED) {
			return errno(err)
		}
	}
}

// following returns what a call has to name that is to be made behind all that is on its
// way of the file.
func (d *delayed) following(ctx context.Context) ([]rpc.Dep, error) {
	d.b.mu.Lock()
	d.hurry = d.last
	d.send()
	var last *delay
	if n := len(d.queue); n > 0 && !d.broken {
		last = d.queue[n-1]
	}
	broken := d.broken
	d.b.mu.Unlock()
	switch {
	case broken:
		return nil, d.b.settle(ctx, d.node)
	case last == nil:
		return nil, nil
	}
	if err := awaitEnd(ctx, last.started); err != nil {
		return nil, err
	}
	if last.dep.Seq == 0 { // it has failed
		return nil, d.b.settle(ctx, d.node)
	}
	return []rpc.Dep{last.dep}, nil
}

// settleFor waits until nothing of a file is on its way that was before.
func (fs *FS) settleFor(cancel <-chan struct{}, h *fuse.InHeader, node fsproto.Node) fuse.Status {
	if !fs.behind.busy(node) {
		return fuse.OK
	}
	ctx := fs.begin(cancel, h, &fsproto.Write.Info, 0)
	defer ctx.end()
	fs.calling(h)
	return errno(fs.behind.settle(ctx, node))
}

// aloneIf is behind.alone for a request; if the call changes nothing, it only waits.
func (fs *FS) aloneIf(changes bool, cancel <-chan struct{}, h *fuse.InHeader, node fsproto.Node) (st fuse.Status, done func(*fsproto.Attr)) {
	done = func(*fsproto.Attr) {}
	if !changes {
		return fs.settleFor(cancel, h, node), done
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

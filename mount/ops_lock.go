package mount

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// lockOf translates a lock of the kernel's.
func lockOf(in *fuse.LkIn) (fsproto.Lock, fuse.Status) {
	l := fsproto.Lock{
		Kind: fsproto.LockPosix, Owner: in.Owner, PID: in.Lk.Pid,
		Start: in.Lk.Start, End: min(in.Lk.End, fsproto.LockEnd),
	}
	switch in.Lk.Typ {
	case syscall.F_RDLCK:
		l.Type = fsproto.LockRead
	case syscall.F_WRLCK:
		l.Type = fsproto.LockWrite
	case syscall.F_UNLCK:
		l.Type = fsproto.LockUnlock
	default:
		return l, fuse.EINVAL
	}
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		l.Kind, l.Start, l.End = fsproto.LockFlock, 0, fsproto.LockEnd
	}
	return l, fuse.OK
}

// GetLk tells which lock is in the way of one.
func (fs *FS) GetLk(cancel <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	l, st := lockOf(in)
	if !st.Ok() {
		return st
	}
	if st := fs.toldFor(cancel, &in.InHeader, in.Fh); !st.Ok() {
		return st
	}
	if st := fs.settleFor(cancel, &in.InHeader, fsproto.Node(in.NodeId)); !st.Ok() {
		return st
	}
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Getlk.Info, 0)
	defer ctx.end()
	fs.calling(&in.InHeader)
	fs.seeCloses(ctx, fsproto.Node(in.NodeId))
	if err := fs.locks.undoing.wait(ctx, fsproto.Node(in.NodeId)); err != nil {
		return errno(err)
	}
	req := fsproto.GetlkReq{Handle: fsproto.Handle(in.Fh), Lock: l}
	var res fsproto.GetlkRes
	if err := rpc.Call(ctx, fs.peer, fsproto.Getlk, &req, &res); err != nil {
		return errno(err)
	}
	out.Lk = fuse.FileLock{Typ: syscall.F_UNLCK}
	if res.Conflict {
		out.Lk = fuse.FileLock{Typ: syscall.F_RDLCK, Start: res.Lock.Start, End: res.Lock.End, Pid: res.Lock.PID}
		if res.Lock.Type == fsproto.LockWrite {
			out.Lk.Typ = syscall.F_WRLCK
		}
	}
	return fuse.OK
}

// SetLk sets a lock or takes one away, and does not wait.
func (fs *FS) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	l, st := lockOf(in)
	if !st.Ok() {
		return st
	}
	if st := fs.toldFor(cancel, &in.InHeader, in.Fh); !st.Ok() {
		return st
	}
	if st := fs.settleFor(cancel, &in.InHeader, fsproto.Node(in.NodeId)); !st.Ok() {
		return st
	}
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Setlk.Info, 0)
	defer ctx.end()
	fs.calling(&in.InHeader)
	fs.seeCloses(ctx, fsproto.Node(in.NodeId))
	req := fsproto.SetlkReq{Handle: fsproto.Handle(in.Fh), Lock: l}
	if l.Type == fsproto.LockUnlock {
		return errno(fs.unlock(ctx, fsproto.Node(in.NodeId), &req))
	}
	node := fs.asked(in, &l)
	granted := false
	defer func() { fs.locks.answered(node, &l, granted) }()
	for deadline, again := time.Now().Add(closingLimit), false; ; again = true {
		res, err := fs.setlk(ctx, node, req)
		switch {
		case err != nil:
			return errno(err)
		case !res.Refused:
			var st fuse.Status
			st, granted = fs.locked(ctx, node, in, &l)
			return st
		case time.Now().After(deadline) || !fs.locks.awaitClosing(ctx, node, &res.Holder, again):
			return fuse.EAGAIN
		}
	}
}

// asked notes that a lock is about to be asked for.
func (fs *FS) asked(in *fuse.LkIn, l *fsproto.Lock) fsproto.Node {
	node := fsproto.Node(in.NodeId)
	fs.locks.asked(node, fs.nodes.parentOf(node), fsproto.Handle(in.Fh), l)
	return node
}

// unlock takes locks away.
func (fs *FS) unlock(ctx context.Context, node fsproto.Node, req *fsproto.SetlkReq) error {
	changes := fs.locks.unlocking(node, &req.Lock)
	err := rpc.Call(ctx, fs.peer, fsproto.Setlk, req, &fsproto.SetlkRes{})
	if err == nil && req.Lock.Start == 0 && req.Lock.End == fsproto.LockEnd {
		fs.locks.unlocked(node, &req.Lock, changes)
	}
	return err
}

// setlk asks for a lock. If a request is given up, its process being killed, the
// call goes on, and a lock that it gets is taken away again. Others are not asked for
// before that is done: they could be the same owner's.
func (fs *FS) setlk(ctx context.Context, node fsproto.Node, req fsproto.SetlkReq) (*fsproto.SetlkRes, error) {
	if err := fs.locks.undoing.wait(ctx, node); err != nil {
		fs.callbacks.forget(req.Wait)
		return nil, err
	}
	type answer struct {
		res *fsproto.SetlkRes
		err error
	}
	answers, left := make(chan answer), make(chan func(), 1)
	fs.locks.settling.Go(func() {
		a := answer{res: new(fsproto.SetlkRes)}
		a.err = rpc.Call(fs.locks.ctx, fs.peer, fsproto.Setlk, &req, a.res)
		select {
		case answers <- a:
		case <-ctx.Done():
			defer (<-left)()
			fs.callbacks.forget(req.Wait)
			if a.err == nil && !a.res.Refused {
				fs.undoSetlk(node, req)
			}
		}
	})
	select {
	case a := <-answers:
		return a.res, a.err
	case <-ctx.Done():
		left <- fs.locks.undoing.begin(node)
		return nil, ctx.Err()
	}
}

// undoLater is undoSetlk, when the daemon can be reached.
func (fs *FS) undoLater(node fsproto.Node, req fsproto.SetlkReq) {
	done := fs.locks.undoing.begin(node)
	fs.locks.settling.Go(func() {
		defer done()
		fs.undoSetlk(node, req)
	})
}

// undoSetlk gives back a lock that is set or queued and that nobody waits for any more:
// its owner, who may live on, has again what it had before.
func (fs *FS) undoSetlk(node fsproto.Node, req fsproto.SetlkReq) {
	ctx := fs.locks.ctx
	if req.Wait != 0 {
		var gone fsproto.CancellkRes
		err := rpc.Call(ctx, fs.peer, fsproto.Cancellk, &fsproto.CancellkReq{Wait: req.Wait}, &gone)
		if err == nil && gone.Removed {
			return // it was never set
		}
	}
	for {
		before := fs.locks.before(node, req.Lock)
		for _, l := range before {
			_ = rpc.Call(ctx, fs.peer, fsproto.Setlk, &fsproto.SetlkReq{Handle: req.Handle, Lock: l}, &fsproto.SetlkRes{})
		}
		if slices.Equal(fs.locks.before(node, req.Lock), before) {
			return // nothing was unlocked meanwhile, and set again here
		}
	}
}

// SetLkw sets a lock and waits for it. Any signal ends the waiting: the kernel
// asks again where the signal's handler wants that (SA_RESTART).
func (fs *FS) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	l, st := lockOf(in)
	if !st.Ok() {
		return st
	}
	if l.Type == fsproto.LockUnlock {
		return fs.SetLk(cancel, in)
	}
	if st := fs.toldFor(cancel, &in.InHeader, in.Fh); !st.Ok() {
		return st
	}
	if st := fs.settleFor(cancel, &in.InHeader, fsproto.Node(in.NodeId)); !st.Ok() {
		return st
	}
	if l.Kind == fsproto.LockPosix && asksOFD(in.Pid) {
		l.Kind = fsproto.LockOFD
	}
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Setlk.Info, locking)
	defer ctx.end()
	fs.calling(&in.InHeader)
	fs.seeCloses(ctx, fsproto.Node(in.NodeId))
	node := fs.asked(in, &l)
	granted := false
	defer func() { fs.locks.answered(node, &l, granted) }()
	for {
		err := fs.setlkw(ctx, cancel, in, l)
		switch {
		case err == nil:
			var st fuse.Status
			st, granted = fs.locked(ctx, node, in, &l)
			return st
		case errors.Is(err, syscall.ECANCELED):
			continue // the daemon has forgotten the queue, but not the open file
		}
		return errno(err)
	}
}

// setlkw is one waiting for a lock.
func (fs *FS) setlkw(ctx context.Context, cancel <-chan struct{}, in *fuse.LkIn, l fsproto.Lock) error {
	number, told := fs.callbacks.wait()
	req := fsproto.SetlkReq{Handle: fsproto.Handle(in.Fh), Lock: l, Wait: number}
	node := fsproto.Node(in.NodeId)
	res, err := fs.setlk(ctx, node, req)
	switch {
	case err != nil && ctx.Err() != nil:
		return err // setlk forgets the number
	case err == nil && res.Refused:
		err = syscall.EAGAIN // not what a daemon does with one that waits
	}
	if err != nil || !res.Queued {
		fs.callbacks.forget(number)
		return err
	}
	select {
	case e := <-told:
		return grantError(e)
	case <-fs.peer.Context().Done():
		return rpc.ErrGone
	case <-ctx.Done(): // the daemon is out of reach
		fs.callbacks.forget(number)
		fs.undoLater(node, req)
		return ctx.Err()
	case <-cancel:
	}
	var gone fsproto.CancellkRes
	if err := rpc.Call(ctx, fs.peer, fsproto.Cancellk, &fsproto.CancellkReq{Wait: number}, &gone); err != nil {
		fs.callbacks.forget(number)
		fs.undoLater(node, req)
		return err
	}
	if gone.Removed {
		fs.callbacks.forget(number)
		return syscall.EINTR
	}
	select { // what came first was the grant, which is being told
	case e := <-told:
		return grantError(e)
	case <-fs.peer.Context().Done():
		return rpc.ErrGone
	case <-ctx.Done():
		fs.callbacks.forget(number)
		fs.undoLater(node, req)
		return ctx.Err()
	}
}

// locked is the end of a request whose lock is set. It reports whether its owner is told.
func (fs *FS) locked(ctx context.Context, node fsproto.Node, in *fuse.LkIn, l *fsproto.Lock) (fuse.Status, bool) {
	fs.watchCloses(node, l, in.Pid)
	st := fs.freshen(ctx, node)
	if !st.Ok() {
		fs.undoLater(node, fsproto.SetlkReq{Handle: fsproto.Handle(in.Fh), Lock: *l})
	}
	return st, st.Ok()
}

func grantError(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// freshen drops what the kernel and we have cached of a file that was just locked, and
// of the names beside it: others may have changed them under their locks. It
// ends before the program is told of its lock.
//
// That cannot deadlock: a program that waits for a lock holds none of the
// kernel's, and those that the kernel takes here are held by requests that are
// answered without this one. They may take as long as the daemon, so that a
// program that is being killed waits no longer.
func (fs *FS) freshen(ctx context.Context, node fsproto.Node) fuse.Status {
	fs.store.drop(node) // a lock that was granted while we were away overtakes the word that leases are lost
	dir := fs.locks.dirOf(node)
	fs.ahead.drop(dir)
	names, wait := fs.guard.stale(dir)
	done := make(chan struct{})
	fs.locks.settling.Go(func() {
		defer close(done)
		for _, name := range names {
			fs.lookAnew(dir, name)
		}
		fs.notices.kernel.InodeNotify(uint64(node), 0, 0)
	})
	var slept <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		slept = t.C
	}
	for done != nil || slept != nil {
		select {
		case <-done:
			done = nil
		case <-slept:
			slept = nil
		case <-ctx.Done():
			return fuse.EINTR
		}
	}
	fs.guard.cleaned(dir)
	return fuse.OK
}

// Flush is close(2) on one descriptor. It waits until the daemon's kernel has taken what
// was written, and tells what it has not. It ends the range locks that the closing
// process has on the file, through whatever descriptor.
func (fs *FS) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	st := fs.flushBehind(cancel, in)
	fs.flushLocks(cancel, in)
	return st
}

func (fs *FS) flushLocks(cancel <-chan struct{}, in *fuse.FlushIn) {
	if fs.locks == nil {
		return
	}
	req := fsproto.SetlkReq{Handle: fsproto.Handle(in.Fh), Lock: fsproto.Lock{
		Kind: fsproto.LockPosix, Type: fsproto.LockUnlock, Owner: in.LockOwner, End: fsproto.LockEnd,
	}}
	if !fs.locks.mayHave(fsproto.Node(in.NodeId), &req.Lock) {
		return
	}
	ctx := fs.begin(cancel, &in.InHeader, &fsproto.Setlk.Info, dying)
	defer ctx.end()
	fs.calling(&in.InHeader)
	err := fs.toldOf(ctx, in.Fh) // the locks were set through another one
	if err == nil {
		err = fs.unlock(ctx, fsproto.Node(in.NodeId), &req)
	}
	if err != nil {
		fs.log.Debug("unlock at close", "err", err) // a lost lock shows with the next use
	}
	if ctx.Err() != nil { // nobody waits any more
		done := fs.locks.undoing.begin(fsproto.Node(in.NodeId))
		fs.locks.settling.Go(func() {
			defer done()
			_ = fs.unlock(fs.locks.ctx, fsproto.Node(in.NodeId), &req)
		})
	}
}

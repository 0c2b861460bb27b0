package mount

import (
	"cmp"
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// How what is written behind is sent.

// add adds a change to the queue. mu is held.
func (d *delayed) add(e *delay) {
	d.last++
	e.number, e.since, e.started = d.last, time.Now(), make(chan struct{})
	if len(d.queue) == 0 {
		d.b.pending.Add(1)
	}
	d.queue = append(d.queue, e)
	d.b.bytes += len(e.data)
	d.b.changes++
}

// send begins the calls that need not wait. mu is held.
func (d *delayed) send() {
	for !d.broken && d.began < len(d.queue) {
		e := d.queue[d.began]
		last := d.began == len(d.queue)-1
		if e.number > d.hurry && last {
			if e.set != nil {
				d.sendLater()
				return
			}
			if d.flying >= apiece && len(e.data) < joinable {
				return
			}
		}
		var before *delay
		if d.began > 0 && !d.queue[d.began-1].done {
			before = d.queue[d.began-1]
		}
		d.began++
		d.flying++
		go d.call(e, before)
	}
}

// sendLater sees to it that a change of attributes does not wait for long. mu is held.
func (d *delayed) sendLater() {
	if d.timer != nil {
		return
	}
	d.timer = time.AfterFunc(joinFor, func() {
		d.b.mu.Lock()
		defer d.b.mu.Unlock()
		d.timer = nil
		d.hurry = d.last
		d.send()
	})
}

var errBefore = errors.New("a change before this one has failed")

// call makes the call for a change. before is the change before it, which may have been
// answered.
func (d *delayed) call(e, before *delay) {
	x := rpc.Extra{Data: e.data, Reserved: true, Stream: d.stream}
	if before != nil {
		<-before.started
		if before.dep.Seq == 0 {
			close(e.started)
			d.answered(e, nil, 0, errBefore)
			return
		}
		x.After = []rpc.Dep{before.dep}
	}
	x.Placed = func(dep rpc.Dep) {
		e.dep = dep
		close(e.started)
	}
	a, n, err := d.b.fs.make(e, x, e.write.Offset, e.data)
	if e.dep.Seq == 0 {
		close(e.started)
	}
	d.answered(e, a, n, err)
}

// make makes a delayed change, or what is left of it. It returns how much was written.
func (fs *FS) make(e *delay, x rpc.Extra, at uint64, data []byte) (a *fsproto.Attr, n int, err error) {
	if e.set != nil {
		var res fsproto.AttrRes
		err = fs.link.behind(&fsproto.Setattr.Info, func(ctx context.Context) error {
			_, err := rpc.CallWith(ctx, fs.peer, fsproto.Setattr, e.set, &res, x)
			return err
		})
		return &res.Attr, 0, err
	}
	req := e.write
	req.Offset, x.Data = at, data
	var res fsproto.WriteRes
	err = fs.link.behind(&fsproto.Write.Info, func(ctx context.Context) error {
		_, err := rpc.CallWith(ctx, fs.peer, fsproto.Write, &req, &res, x)
		return err
	})
	if err == nil && uint64(res.Count) > uint64(len(data)) {
		err = syscall.EIO
	}
	return &res.Attr, int(res.Count), err
}

// answered takes the answer to a call.
func (d *delayed) answered(e *delay, a *fsproto.Attr, n int, err error) {
	b := d.b
	if err == nil {
		b.fs.wrote(d.node, a)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d.flying--
	e.done, e.err = err == nil && n == len(e.data), err
	if e.done {
		d.answer(e, a)
	} else {
		d.broken = true
	}
	if d.broken {
		if d.flying == 0 {
			go d.repair()
		}
		return
	}
	d.pop()
	d.send()
}

// answer keeps the attributes after a change. mu is held.
func (d *delayed) answer(e *delay, a *fsproto.Attr) {
	if e.number > d.afters {
		d.after, d.afters = *a, e.number
	}
}

// pop takes what has ended off the queue. mu is held.
func (d *delayed) pop() {
	b := d.b
	some := false
	for len(d.queue) > 0 && d.queue[0].done {
		e := d.queue[0]
		b.bytes -= len(e.data)
		b.changes--
		b.adapt(time.Since(e.since))
		e.free()
		d.ended = e.number
		d.queue[0] = nil
		d.queue = d.queue[1:]
		d.began = max(0, d.began-1)
		some = true
	}
	if !some {
		return
	}
	if len(d.queue) == 0 {
		d.queue, d.broken = nil, d.broken && d.err != nil
		b.fs.nodes.touch(d.node) // what was asked meanwhile may be older
		if d.err == nil {
			b.fs.keepOwn(d.node, &d.after)
		}
		b.pending.Add(-1)
	}
	keep := d.wait[:0]
	for _, w := range d.wait {
		if w.number <= d.ended {
			close(w.ended)
		} else {
			keep = append(keep, w)
		}
	}
	d.wait = keep
	if b.room != nil && !b.full(0) {
		close(b.room)
		b.room = nil
	}
}

// adapt takes note of how long a change was on its way. mu is held.
func (b *behind) adapt(took time.Duration) {
	switch {
	case took > behindFor:
		b.limit = max(minBehind, b.limit-b.limit/16)
	case took < behindFor/2 && b.room != nil:
		b.limit = min(maxBehind, b.limit+b.limit/16)
	}
}

// repair makes the changes again, one by one, that have failed or may have been left out.
func (d *delayed) repair() {
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.timer != nil && d.timer.Stop() {
		d.timer = nil
	}
	for len(d.queue) > 0 {
		e := d.queue[0]
		for _, e := range d.queue[1:] {
			e.done = false
		}
		first := d.err
		leave := first != nil && (e.set == nil || b.fs.peer.Context().Err() != nil)
		b.mu.Unlock()
		if leave {
			b.fs.lostWrite(d.node, len(e.data), first)
		} else if a, err := d.again(e); err != nil {
			b.fs.lostWrite(d.node, len(e.data), err)
			b.mu.Lock()
			d.err = cmp.Or(d.err, err)
			b.mu.Unlock()
		} else {
			b.fs.wrote(d.node, a)
			b.mu.Lock()
			d.afters = 0
			d.answer(e, a)
			b.mu.Unlock()
		}
		b.mu.Lock()
		e.done = true
		d.pop()
	}
	d.began = 0
}

// again makes one change again.
func (d *delayed) again(e *delay) (a *fsproto.Attr, err error) {
	fs := d.b.fs
	for at := 0; ; {
		var n int
		fs.withSpace(nil, func() fuse.Status {
			a, n, err = fs.make(e, rpc.Extra{Reserved: true}, e.write.Offset+uint64(at), e.data[at:])
			return errno(err)
		})
		if at += n; err != nil || at == len(e.data) {
			return a, err
		}
		if n == 0 {
			return a, syscall.EIO
		}
	}
}

// lostWrite tells of what a program was told was written, and cannot be.
func (fs *FS) lostWrite(node fsproto.Node, n int, err error) {
	fs.unwritten.note(n, lateErrno(err))
	fs.log.Warn("what was answered cannot be written", "node", uint64(node), "bytes", n, "err", err)
	fs.nodes.touch(node)
	fs.store.drop(node)
	fs.notices.invalidate(node)
}

// lateErrno maps the error of a delayed change for who is told of it at fsync or close.
func lateErrno(err error) fuse.Status {
	if errors.Is(err, rpc.ErrGone) {
		return fuse.EIO
	}
	return errno(err)
}

// failure returns the error of what was answered and could not be done, if there is one
// of an open file.
func (b *behind) failure(f *file) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.files[f.node]
	if d == nil {
		return nil
	}
	return d.err
}

package mount

import (
	"context"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// While a lease holds, a file that was opened for reading before can be opened again
// without asking: what may be done with it has not changed, and most who open a file
// that the kernel has in its cache read nothing else. The daemon is told when it has to
// do something with the open file, and before a recall is answered: the file may be
// about to lose its name.
//
// Where calls carry credentials every open is asked for.

// late is an open that the daemon has not been told of yet. The zero value is one that
// it knows.
type late struct {
	req *fsproto.OpenReq // nil: it knows
	op  *rpc.Op[fsproto.OpenReq, fsproto.OpenRes]

	mu      sync.Mutex
	known   bool     // it has been told, or need not be any more
	telling *telling // under way
}

// telling is one attempt to tell the daemon.
type telling struct {
	done chan struct{}
	err  error // once done is closed
}

// tell sees to it that the daemon knows of an open file. If ctx ends first, it will
// all the same.
func (fs *FS) tell(ctx context.Context, l *late) error {
	if l == nil || l.req == nil {
		return nil
	}
	l.mu.Lock()
	if l.known {
		l.mu.Unlock()
		return nil
	}
	t := l.telling
	if t == nil {
		t = &telling{done: make(chan struct{})}
		l.telling = t
		go fs.tellNow(l, t)
	}
	l.mu.Unlock()
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (fs *FS) tellNow(l *late, t *telling) {
	t.err = rpc.Call(context.Background(), fs.peer, l.op, l.req, &fsproto.OpenRes{})
	l.mu.Lock()
	l.known = t.err == nil
	l.telling = nil
	l.mu.Unlock()
	if t.err == nil {
		fs.handles.told(l.req)
	}
	close(t.done)
}

// tellAll tells the daemon of all open files of a node. What fails will fail again
// when it is needed.
func (fs *FS) tellAll(ctx context.Context, node fsproto.Node) {
	for _, l := range fs.handles.late(node) {
		if err := fs.tell(ctx, l); err != nil {
			fs.log.Debug("open before a recall", "node", uint64(node), "err", err)
		}
	}
}

// closeLate ends an open file and reports whether the daemon has to be told of that.
func (fs *FS) closeLate(l *late) bool {
	if l.req == nil {
		return true
	}
	l.mu.Lock()
	for l.telling != nil {
		t := l.telling
		l.mu.Unlock()
		<-t.done
		l.mu.Lock()
	}
	knew := l.known
	l.known = true
	l.mu.Unlock()
	fs.handles.told(l.req)
	return knew
}

// mayOpen is which opens for reading of a node have been granted while the lease holds.
type mayOpen uint8

const (
	mayRead mayOpen = 1 << iota
	mayExec
)

// opening returns the bit that stands for open flags; 0: none does.
func opening(flags uint32) mayOpen {
	switch flags {
	case fsproto.OpenRead, fsproto.OpenDir:
		return mayRead
	case fsproto.OpenRead | fsproto.OpenExec:
		return mayExec
	}
	return 0
}

// openHere reports whether an open can be granted without asking.
func (fs *FS) openHere(id fsproto.Node, flags uint32) (here bool) {
	bit := opening(flags)
	if fs.leases == nil || fs.creds != nil || bit == 0 {
		return false
	}
	fs.nodes.update(id, func(n *node) { here = n.seen.leased && n.may&bit != 0 })
	return here
}

// granted notes that the daemon has granted an open, by a reply that tells of a lease.
func (fs *FS) granted(id fsproto.Node, flags uint32, res *fsproto.OpenRes) {
	bit := opening(flags)
	if fs.leases == nil || fs.creds != nil || bit == 0 {
		return
	}
	valid := fs.leases.valid(id, res.Attr.Lease) && !res.Shared
	fs.nodes.update(id, func(n *node) {
		if !n.seen.leased || !valid {
			n.may = 0
		}
		if valid {
			n.may |= bit
		}
	})
}

// stillHere reports whether an open that was granted here, and is in the table, was
// granted in time: a recall that came before does not know of it.
func (fs *FS) stillHere(id fsproto.Node) (here bool) {
	fs.nodes.update(id, func(n *node) { here = n.seen.leased })
	return here
}

// toldOf is tell for the file or directory that is open under a number.
func (fs *FS) toldOf(ctx context.Context, fh uint64) error {
	return fs.tell(ctx, fs.handles.lateOf(fh))
}

// toldFor is toldOf for a request that needs the daemon to know of an open file.
func (fs *FS) toldFor(cancel <-chan struct{}, h *fuse.InHeader, fh uint64) fuse.Status {
	if fs.handles.isTold(fh) {
		return fuse.OK
	}
	ctx := begin(cancel, h, &fsproto.Open.Info)
	defer ctx.end()
	calling(h)
	return errno(fs.toldOf(ctx, fh))
}

package mount

import (
	"context"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// A recall is answered when the kernel has dropped what it concerns. To drop a name
// the kernel takes the lock of the directory, to drop data it waits for pages that
// are being read or written; requests hold those until the daemon has answered them,
// and the daemon may be waiting for this very recall. So a notification that does not
// return at once is left behind, to end when it can. For names there is another way,
// which takes no lock: the kernel's epoch, which makes it look up every name anew.

const (
	// stuckAfter is how long a notification is waited for.
	stuckAfter = 50 * time.Millisecond
	// maxStuck is how many of a recall are waited for.
	maxStuck = 4
	// contendedFor is how long names of a directory are not believed after one was
	// recalled while this mount was changing others there.
	contendedFor = 2 * time.Second
	// arriving is how long ago the kernel may have been told of a node that it does
	// not know: the reply can still be on its way to it.
	arriving = 100 * time.Millisecond
	// settling is how long requests under way are waited for.
	settling = 5 * time.Millisecond
	// afterwards is how long it is waited between two looks.
	afterwards = 100 * time.Microsecond
)

// recall drops what the daemon takes back.
func (fs *FS) recall(ctx context.Context, req *fsproto.RecallReq) {
	if req.All {
		fs.behind.recalledAll(req.Lease)
	}
	fs.leases.recalled(req)
	if fs.device == nil { // not mounted yet
		return
	}
	r := recalling{fs: fs, ctx: ctx}
	if req.All {
		fs.access.dropAll()
		fs.ahead.dropAll()
		r.epoch()
		for _, node := range fs.nodes.all() {
			r.within(func() { fs.notices.drop(node, 0) })
		}
	}
	for i := range req.Nodes {
		r.node(&req.Nodes[i])
	}
}

// recalling is one recall while it is being answered.
type recalling struct {
	fs    *FS
	ctx   context.Context
	stuck int
	anew  bool // the epoch has been raised
}

func (r *recalling) node(n *fsproto.Recalled) {
	fs := r.fs
	if n.What != 0 {
		fs.behind.recalled(r.ctx, n.Node, n.Lease)
	}
	if n.What&^fsproto.RecallWrite != 0 {
		fs.access.drop(n.Node)
		fs.nodes.update(n.Node, func(n *node) { n.seen.leased = false })
		fs.tellAll(r.ctx, n.Node)
		off := int64(attrOnly)
		fs.store.drop(n.Node)
		fs.ahead.drop(n.Node)
		if n.What&fsproto.RecallData != 0 || fs.nodes.isDir(n.Node) {
			off = 0
		}
		// The kernel passes over attributes in replies that come after this.
		fs.notices.drop(n.Node, attrOnly)
		fs.settle(n.Node)
		r.within(func() { fs.dropKnown(n.Node, off) })
	}
	switch {
	case n.What&fsproto.RecallNames != 0:
		if !r.epoch() {
			for _, name := range fs.nodes.namesIn(n.Node) {
				r.name(n.Node, name)
			}
		}
	case fs.device.epochs() && len(n.Names) > 0 && fs.nodes.contended(n.Node, true):
		// None of its names is believed, but those that a rename has brought, or a
		// listing that was under way when that began.
		fs.notices.forgetNames(n.Node, n.Names)
		if fs.nodes.believes(n.Node, n.Names) {
			r.epoch()
		}
	case fs.device.epochs() && len(n.Names) > 0 && fs.nodes.isChanging(n.Node):
		fs.nodes.contend(n.Node)
		r.epoch()
		fs.notices.forgetNames(n.Node, n.Names)
	default:
		for _, name := range n.Names {
			if !r.name(n.Node, name) {
				fs.nodes.contend(n.Node)
				r.epoch()
			}
		}
	}
}

// name drops one name, and reports whether the kernel has.
func (r *recalling) name(dir fsproto.Node, name string) bool {
	return r.within(func() { r.fs.lookAnew(dir, name) })
}

// epoch makes the kernel look up every name anew, once for the whole recall.
func (r *recalling) epoch() bool {
	if !r.anew {
		r.anew = r.fs.device.incEpoch()
		if r.anew {
			r.fs.epochs.Add(1)
		}
	}
	return r.anew
}

// within runs a notification and reports whether it has returned. It goes on if not.
func (r *recalling) within(notify func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		notify()
	}()
	if r.stuck >= maxStuck {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	t := time.NewTimer(stuckAfter)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		r.stuck++
		return false
	}
}

// settle waits until reads and questions for attributes of a node that are under way have
// been answered, if they are soon. What they bring is of before the recall: a read whose
// pages were dropped meanwhile could find the file shorter, and be filled up with zeros,
// and one that waits for attributes would go by the old size if they are passed over.
func (fs *FS) settle(id fsproto.Node) {
	for end := time.Now().Add(settling); time.Now().Before(end); time.Sleep(afterwards) {
		if s := fs.nodes.seen(id); s.asking == 0 && s.reading == 0 {
			return
		}
	}
}

// dropKnown drops a node. The kernel passes over one that it does not know; if it was
// told of it a moment ago, the reply may not have got there.
func (fs *FS) dropKnown(id fsproto.Node, off int64) {
	s := fs.nodes.seen(id)
	for fs.notices.drop(id, off) == fuse.ENOENT && fs.nodes.toldWithin(id, arriving) {
		time.Sleep(afterwards)
	}
	if off == attrOnly {
		return
	}
	fs.nodes.update(id, func(n *node) {
		if int32(s.reads-n.seen.dropped) > 0 {
			n.seen.dropped = s.reads
		}
	})
}

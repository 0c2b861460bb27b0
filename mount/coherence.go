package mount

import (
	"context"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// The kernel fills the rest of a page behind the end of a file with zeros. When
// it then learns that the file has grown, by attributes or by an append of our
// own, those zeros would be read as data. So pages are dropped before the kernel
// is told, from within the request that tells it, and every read that the daemon
// has answered before is waited for: it holds the page's lock until the kernel
// has its reply. Waiting is safe because who holds a page waits for a READ or
// WRITE request only, which others answer. There are two exceptions:
//
//   - a change of size holds back write-back of mapped pages, which dropping them
//     would wait for. The kernel drops pages itself there.
//   - a write through the cache, O_APPEND set by fcntl(2) among them, holds the
//     pages that it writes. The notifier drops them afterwards.

// seen is what the kernel has of a node.
//
// It passes over attributes in a reply if others of the node came while the
// request was under way. So of two replies with different ones, one shortly after
// the other, it is not known here which of them the kernel has.
type seen struct {
	change  uint64        // change counter of the attributes that it was told last
	sure    bool          // and it has those
	leased  bool          // and nobody else has changed the node since
	told    time.Duration // when that was, since the table was made; 0: never
	reads   uint32        // READ requests so far; it wraps
	reading int32         // those under way
	asking  int32         // requests for attributes under way
	dropped uint32        // reads, when all pages that they brought had been dropped
}

// reading counts a READ request, before it is sent to the daemon, until the function
// that it returns is called.
func (t *nodeTable) reading(id fsproto.Node) (done func()) {
	t.update(id, func(n *node) {
		n.seen.reads++
		n.seen.reading++
	})
	return func() { t.update(id, func(n *node) { n.seen.reading-- }) }
}

// asking counts a request for attributes until the function that it returns is called.
func (t *nodeTable) asking(id fsproto.Node) (done func()) {
	t.update(id, func(n *node) { n.seen.asking++ })
	return func() { t.update(id, func(n *node) { n.seen.asking-- }) }
}

// seen returns what the kernel has of a node.
func (t *nodeTable) seen(id fsproto.Node) (s seen) {
	t.update(id, func(n *node) { s = n.seen })
	return s
}

// newer reports whether the kernel was told of attributes later than a.
func (t *nodeTable) newer(id fsproto.Node, a *fsproto.Attr) bool { return t.seen(id).change > a.Change }

// show prepares the kernel for attributes that it is about to be told: if they
// are others than before, pages that were read before do not outlive them.
func (fs *FS) show(id fsproto.Node, a *fsproto.Attr) {
	if fs.nodes.seen(id).change != a.Change {
		fs.drop(id)
	}
	now := time.Since(fs.nodes.made)
	fs.nodes.update(id, func(n *node) {
		s := &n.seen
		if s.leased && s.change > a.Change {
			s.sure = false // a reply that was overtaken
			return
		}
		if lately := s.told != 0 && now-s.told < fs.cfg.AttrTimeout; !lately {
			s.sure = true
		} else if s.change != a.Change {
			s.sure = false
		}
		s.change, s.told = a.Change, now
		s.leased = fs.leases.valid(id, a.Lease)
	})
}

// told is show for the reply to a change, which the kernel takes in any case.
func (fs *FS) told(id fsproto.Node, a *fsproto.Attr) {
	fs.show(id, a)
	fs.nodes.update(id, func(n *node) { n.seen.sure = n.seen.change == a.Change })
}

// wrote notes what a change of a file's data by this mount has made of it. The pages
// that the kernel has are as good as before.
func (fs *FS) wrote(id fsproto.Node, a *fsproto.Attr) {
	leased := fs.leases.valid(id, a.Lease)
	fs.nodes.update(id, func(n *node) {
		if s := &n.seen; s.leased && leased {
			s.change = max(s.change, a.Change)
		} else {
			s.leased = false
		}
	})
	if fs.leases != nil && !fs.leases.holds(id, a.Lease) {
		fs.notices.invalidate(id) // nobody would call back for the pages that were written
	}
}

// keeps reports whether the pages that the kernel has of a file that is being opened
// are good. If not, it drops them by itself when it is told so.
func (fs *FS) keeps(id fsproto.Node, a *fsproto.Attr) (keep bool) {
	leased := fs.leases.valid(id, a.Lease)
	fs.nodes.update(id, func(n *node) {
		s := &n.seen
		keep = leased && s.leased && s.change == a.Change
		s.change, s.leased = a.Change, leased
	})
	return keep
}

// drop drops all pages of a file that the kernel may have, and waits for it. It
// costs nothing where nobody has read since the last time.
func (fs *FS) drop(id fsproto.Node) {
	s := fs.nodes.seen(id)
	if s.reads == s.dropped {
		return
	}
	fs.notices.drop(id, 0)
	fs.nodes.update(id, func(n *node) {
		if int32(s.reads-n.seen.dropped) > 0 {
			n.seen.dropped = s.reads
		}
	})
}

// refresh makes the kernel ask for the attributes of a file that is being opened
// if those that it has are out of date, or may be: who opens a file sees what others
// had written when they closed it. Pages are dropped by the kernel itself. It reports
// whether the kernel is sure not to have others than it was told last: if it is not, it
// may go on with the old size, for it passes over the new one if a recall comes by.
func (fs *FS) refresh(id fsproto.Node, a *fsproto.Attr) (sure bool) {
	s := fs.nodes.seen(id)
	if !s.sure || s.change != a.Change {
		fs.notices.drop(id, attrOnly)
	}
	return s.sure
}

// attrOnly is the offset that leaves the pages alone.
const attrOnly = -1

// drop makes the kernel forget attributes, and pages from an offset on. It waits
// until that is done. ENOENT: the kernel does not have the inode.
func (n *notifier) drop(node fsproto.Node, off int64) fuse.Status {
	st := n.kernel.InodeNotify(uint64(node), off, 0)
	if !st.Ok() && st != fuse.ENOENT {
		n.log.Debug("invalidate", "node", uint64(node), "status", st)
	}
	return st
}

// attrHere returns the attributes of a node if they need not be asked for: the kernel
// wants them anew when it has read from the file.
func (fs *FS) attrHere(id fsproto.Node) (a fsproto.Attr, here bool) {
	k, here := fs.leases.kept(id)
	if here {
		s := fs.nodes.seen(id)
		here = s.leased && s.change == k.Change && !fs.nodes.changedSince(id, k.clock)
	}
	return k.Attr, here
}

// keepOwn keeps the attributes in the reply to a change of our own, unless a later one
// has been answered already.
func (fs *FS) keepOwn(id fsproto.Node, a *fsproto.Attr) {
	if !fs.nodes.newer(id, a) {
		fs.leases.keep(id, a, fs.nodes.clock.read())
	}
}

// distrust makes the kernel ask for the attributes of a node that is about to be
// changed from here: others may see the change before the reply is here.
func (fs *FS) distrust(id fsproto.Node) {
	if fs.leases != nil {
		fs.nodes.touch(id)
		fs.notices.drop(id, attrOnly)
	}
}

// pending knows the files for which something is under way that others have to wait for.
// It may be used by several goroutines.
type pending struct {
	mu    sync.Mutex
	under map[fsproto.Node]*pendingFile
}

type pendingFile struct {
	n    int
	done chan struct{} // closed when n is 0
}

// begin notes that something is under way until the function that it returns is called.
func (c *pending) begin(id fsproto.Node) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under == nil {
		c.under = make(map[fsproto.Node]*pendingFile)
	}
	s := c.under[id]
	if s == nil {
		s = &pendingFile{done: make(chan struct{})}
		c.under[id] = s
	}
	s.n++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if s.n--; s.n == 0 {
			delete(c.under, id)
			close(s.done)
		}
	}
}

// wait returns when nothing that is under way now is so any more, or ctx has ended.
func (c *pending) wait(ctx context.Context, id fsproto.Node) error {
	c.mu.Lock()
	s := c.under[id]
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

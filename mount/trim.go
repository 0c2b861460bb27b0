package mount

import (
	"context"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// The daemon knows a bounded number of nodes for a session. The kernel forgets
// nodes when it is short of memory, which may be much later; so it is asked to
// forget some that are not in use when there are many.

const (
	// firstLimit is how many nodes the kernel may have: three quarters of the leases
	// that a daemon gives, so that it need not take back those that are in use.
	firstLimit = 3 << 16
	// trimWait is how long a lookup that the daemon refused waits for room.
	trimWait = 5 * time.Second
)

// pruner is the part of fuse.Server that makes the kernel forget nodes.
type pruner interface {
	PruneNotify(nodes []uint64) fuse.Status
	EntryNotify(parent uint64, name string) fuse.Status
}

// trimmer makes the kernel forget nodes, from a goroutine of its own: on older
// kernels that waits for requests in the directories concerned.
type trimmer struct {
	nodes  *nodeTable
	limit  atomic.Int64
	kernel pruner
	wake   chan struct{} // capacity 1
	quit   chan struct{}
	done   chan struct{}
}

func newTrimmer(nodes *nodeTable) *trimmer {
	t := &trimmer{nodes: nodes, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	t.limit.Store(firstLimit)
	return t
}

// start is called at most once.
func (t *trimmer) start(k pruner) {
	t.kernel = k
	go t.run()
}

// stop ends the worker if it was started.
func (t *trimmer) stop() {
	if t.kernel != nil {
		close(t.quit)
		<-t.done
	}
}

// check is called when nodes have been added.
func (t *trimmer) check() {
	if t.nodes.count.Load() > t.limit.Load() {
		t.trim()
	}
}

// refused is called when the daemon knows as many nodes as it will.
func (t *trimmer) refused() {
	t.limit.Store(min(t.limit.Load(), t.nodes.count.Load()*3/4))
	t.trim()
}

func (t *trimmer) trim() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *trimmer) run() {
	defer close(t.done)
	for {
		select {
		case <-t.wake:
		case <-t.quit:
			return
		}
		t.forgetUnused(t.nodes.unused(int(t.nodes.count.Load() / 3)))
	}
}

// forgetUnused makes the kernel drop nodes, except those that it finds in use.
// Kernels before 6.18 drop entries only, and those of directories although
// somebody works in them: they stay.
func (t *trimmer) forgetUnused(unused []unusedNode) {
	const batch = 512
	ids := make([]uint64, 0, batch)
	for i := 0; i < len(unused); i += batch {
		part := unused[i:min(i+batch, len(unused))]
		ids = ids[:0]
		for _, n := range part {
			ids = append(ids, uint64(n.id))
		}
		if t.kernel.PruneNotify(ids) != fuse.ENOSYS {
			continue
		}
		for _, n := range part {
			if n.name != "" && !n.dir {
				t.kernel.EntryNotify(uint64(n.parent), n.name)
			}
		}
	}
}

// unusedNode is a node that is not open.
type unusedNode struct {
	id, parent fsproto.Node
	name       string
	dir        bool
}

// unused returns about so many nodes of no particular order. Directories are among them
// only if there are not so many others: with one the kernel loses its listing, and who
// walks through a large tree again needs nothing else.
func (t *nodeTable) unused(most int) (list []unusedNode) {
	for _, dirs := range []bool{false, true} {
		left := max(0, most-len(list))
		for i := range t.shards {
			s := &t.shards[i]
			each := left/nodeShards + 1
			s.mu.Lock()
			for id, n := range s.nodes {
				if each == 0 {
					break
				}
				if n.dir == dirs && n.opens == 0 && id != fsproto.RootNode {
					list = append(list, unusedNode{id, n.parent, n.name, n.dir})
					each--
				}
			}
			s.mu.Unlock()
		}
		if len(list) >= most {
			break
		}
	}
	return list
}

// makeRoom runs a lookup, again and again while the daemon knows too many nodes
// and the kernel forgets some.
func (fs *FS) makeRoom(cancel <-chan struct{}, lookup func() fuse.Status) fuse.Status {
	st := lookup()
	if st != fuse.Status(syscall.ENFILE) {
		return st
	}
	wait, stop := context.WithTimeout(context.Background(), trimWait)
	defer stop()
	for st == fuse.Status(syscall.ENFILE) {
		sent := fs.forgets.sent()
		fs.ahead.dropAll()
		fs.trimmer.refused()
		select {
		case <-sent:
		case <-cancel:
			return st
		case <-wait.Done():
			return st
		}
		st = lookup()
	}
	return st
}

package mount

import (
	"log/slog"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// kernel is the part of fuse.Server that sends notifications.
type kernel interface {
	InodeNotify(node uint64, off, length int64) fuse.Status
	EntryNotify(parent uint64, name string) fuse.Status
}

// notifier tells the kernel that what it holds of a node is out of date. It has
// a goroutine of its own: the kernel takes locks for it that a request under
// way may hold. A node that waits already is not queued twice, so the queue is
// no longer than the kernel's own list of inodes.
type notifier struct {
	log    *slog.Logger
	wake   chan struct{} // capacity 1
	quit   chan struct{}
	done   chan struct{}
	kernel kernel

	mu      sync.Mutex
	waiting map[fsproto.Node]struct{}
	names   map[dirName]struct{} // to be dropped when their directories' locks are free
}

type dirName struct {
	dir  fsproto.Node
	name string
}

func newNotifier(log *slog.Logger) *notifier {
	return &notifier{
		log: log, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		waiting: make(map[fsproto.Node]struct{}), names: make(map[dirName]struct{}),
	}
}

// start is called at most once.
func (n *notifier) start(k kernel) {
	n.kernel = k
	go n.run()
}

// stop ends the worker if it was started. It is called once, after start.
func (n *notifier) stop() {
	if n.kernel == nil {
		return
	}
	close(n.quit)
	<-n.done
}

// invalidate drops attributes and data of a node from the kernel, soon.
func (n *notifier) invalidate(node fsproto.Node) {
	n.mu.Lock()
	n.waiting[node] = struct{}{}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// forgetNames drops names of a directory from the kernel, when it can.
func (n *notifier) forgetNames(dir fsproto.Node, names []string) {
	n.mu.Lock()
	for _, name := range names {
		n.names[dirName{dir, name}] = struct{}{}
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notifier) run() {
	defer close(n.done)
	for {
		select {
		case <-n.wake:
		case <-n.quit:
			return
		}
		n.mu.Lock()
		batch, names := n.waiting, n.names
		n.waiting, n.names = make(map[fsproto.Node]struct{}), make(map[dirName]struct{})
		n.mu.Unlock()
		for of := range names {
			n.kernel.EntryNotify(uint64(of.dir), of.name)
		}
		for node := range batch {
			n.drop(node, 0)
		}
	}
}

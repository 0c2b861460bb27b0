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
// goroutines of its own, one for nodes and one for names: the kernel takes locks for it
// that a request under way may hold. A node that waits already is not queued twice, so
// the queue is no longer than the kernel's own list of inodes.
type notifier struct {
	log       *slog.Logger
	wake      chan struct{} // capacity 1
	wakeNames chan struct{} // capacity 1
	quit      chan struct{}
	running   sync.WaitGroup
	kernel    kernel
	lookAnew  func(dir fsproto.Node, name string)

	mu      sync.Mutex
	waiting map[fsproto.Node]struct{}
	names   map[entryName]struct{} // to be dropped when their directories' locks are free
}

func newNotifier(log *slog.Logger) *notifier {
	return &notifier{
		log: log, wake: make(chan struct{}, 1), wakeNames: make(chan struct{}, 1), quit: make(chan struct{}),
		waiting: make(map[fsproto.Node]struct{}), names: make(map[entryName]struct{}),
	}
}

// start is called at most once.
func (n *notifier) start(k kernel, lookAnew func(dir fsproto.Node, name string)) {
	n.kernel, n.lookAnew = k, lookAnew
	n.running.Go(func() { n.run(n.wake, n.dropNodes) })
	n.running.Go(func() { n.run(n.wakeNames, n.dropNames) })
}

// stop ends the workers if they were started. It is called once, after start.
func (n *notifier) stop() {
	if n.kernel == nil {
		return
	}
	close(n.quit)
	n.running.Wait()
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
		n.names[entryName{dir, name}] = struct{}{}
	}
	n.mu.Unlock()
	select {
	case n.wakeNames <- struct{}{}:
	default:
	}
}

func (n *notifier) run(wake <-chan struct{}, drop func()) {
	for {
		select {
		case <-wake:
			drop()
		case <-n.quit:
			return
		}
	}
}

func (n *notifier) dropNodes() {
	n.mu.Lock()
	batch := n.waiting
	n.waiting = make(map[fsproto.Node]struct{})
	n.mu.Unlock()
	for node := range batch {
		n.drop(node, 0)
	}
}

func (n *notifier) dropNames() {
	n.mu.Lock()
	batch := n.names
	n.names = make(map[entryName]struct{})
	n.mu.Unlock()
	for of := range batch {
		n.lookAnew(of.dir, of.name)
	}
}

package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/lockrange"
	"github.com/rpycfs/rpycfs/rpc"
)

// Waiting for holders that are closing; see lockKeeper.awaitClosing.
const (
	closingLimit = 5 * time.Second
	closingPause = time.Millisecond
)

// lockKeeper knows which owners may have locks at the daemon, so that a close by
// anybody else costs no call. It is nil where locks are the kernel's alone.
type lockKeeper struct {
	guard    *guard
	ctx      context.Context // ends with the mount
	cancel   context.CancelFunc
	settling sync.WaitGroup // work that no request waits for
	undoing  pending        // taking away locks that were given up

	mu       sync.Mutex
	nodes    map[fsproto.Node]*nodeLocks
	watching map[fsproto.Node]map[ownerKey]*lockOwner // with fds
}

// nodeLocks are the owners that may have locks on one node.
type nodeLocks struct {
	dir     fsproto.Node // whose names are guarded
	owners  map[ownerKey]*lockOwner
	closing map[fsproto.Handle]chan struct{} // closed when the handle is
}

// ownerKey names an owner: the kernel's numbers for range locks and for flock
// locks are not told apart by themselves.
type ownerKey struct {
	flock bool
	id    uint64
}

// lockOwner is an owner that may have locks on a node.
type lockOwner struct {
	pid     uint32
	via     map[fsproto.Handle]bool // that it has locked through
	pending int                     // calls for a lock
	changes uint64                  // rises with each of them
	held    lockrange.Ranges        // that the caller was told of and has not unlocked since
	gone    chan struct{}           // closed when it has no locks any more
	fds     map[int]bool            // its descriptors of the file, if closing one is to be seen (closes.go)
}

func newLockKeeper(g *guard) *lockKeeper {
	k := &lockKeeper{guard: g, nodes: make(map[fsproto.Node]*nodeLocks), watching: make(map[fsproto.Node]map[ownerKey]*lockOwner)}
	ctx, cancel := context.WithCancel(context.Background())
	k.ctx, k.cancel = rpc.Leaving(ctx), cancel
	return k
}

func (k *lockKeeper) stop() {
	k.cancel()
	k.settling.Wait()
}

func rangeOf(l *fsproto.Lock) lockrange.Range {
	return lockrange.Range{Start: int64(l.Start), End: int64(l.End), Write: l.Type == fsproto.LockWrite}
}

func keyOf(l *fsproto.Lock) ownerKey { return ownerKey{l.Kind == fsproto.LockFlock, l.Owner} }

// asked notes that an owner is about to ask for a lock; answered follows.
func (k *lockKeeper) asked(node, dir fsproto.Node, h fsproto.Handle, l *fsproto.Lock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.nodes[node]
	if n == nil {
		n = &nodeLocks{dir: dir, owners: make(map[ownerKey]*lockOwner), closing: make(map[fsproto.Handle]chan struct{})}
		k.nodes[node] = n
		k.guard.begin(dir)
	}
	o := n.owners[keyOf(l)]
	if o == nil {
		o = &lockOwner{via: make(map[fsproto.Handle]bool), gone: make(chan struct{})}
		n.owners[keyOf(l)] = o
	}
	if l.Kind == fsproto.LockFlock && !slices.Contains(o.held, rangeOf(l)) {
		o.held = nil // flock(2) lets go first of what it changes
	}
	o.via[h] = true
	o.pid = l.PID
	o.pending++
	o.changes++
}

// answered notes that a call for a lock has ended. An owner that came with it
// and got nothing is forgotten again.
func (k *lockKeeper) answered(node fsproto.Node, l *fsproto.Lock, granted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, o := k.find(node, l)
	if o == nil {
		return
	}
	o.pending--
	if granted {
		o.held = o.held.Set(rangeOf(l), true)
	}
	if !granted && o.pending == 0 && o.changes == 1 {
		k.drop(node, n, keyOf(l))
	}
}

func (k *lockKeeper) find(node fsproto.Node, l *fsproto.Lock) (*nodeLocks, *lockOwner) {
	n := k.nodes[node]
	if n == nil {
		return nil, nil
	}
	return n, n.owners[keyOf(l)]
}

// drop forgets an owner; mu is held.
func (k *lockKeeper) drop(node fsproto.Node, n *nodeLocks, key ownerKey) {
	close(n.owners[key].gone)
	delete(n.owners, key)
	delete(k.watching[node], key)
	if len(k.watching[node]) == 0 {
		delete(k.watching, node)
	}
	if len(n.owners) == 0 {
		delete(k.nodes, node)
		k.guard.end(n.dir)
	}
}

// dirOf returns the directory whose names are guarded for a lock of node.
func (k *lockKeeper) dirOf(node fsproto.Node) fsproto.Node {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := k.nodes[node]; n != nil {
		return n.dir
	}
	return 0
}

// mayHave reports whether an owner may have locks.
func (k *lockKeeper) mayHave(node fsproto.Node, l *fsproto.Lock) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, o := k.find(node, l)
	return o != nil
}

// unlocking notes that an owner is about to unlock a range, which is not given back to it
// any more. It returns what unlocked needs to know.
func (k *lockKeeper) unlocking(node fsproto.Node, l *fsproto.Lock) (changes uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, o := k.find(node, l)
	if o == nil {
		return 0
	}
	o.held = o.held.Set(rangeOf(l), false)
	return o.changes
}

// before returns what sets a lock's range as the owner had it, as far as its process was told.
func (k *lockKeeper) before(node fsproto.Node, l fsproto.Lock) (list []fsproto.Lock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var had lockrange.Ranges
	if _, o := k.find(node, &l); o != nil {
		had = o.held
	}
	held, free := had.Within(rangeOf(&l))
	set := func(r lockrange.Range, kind uint8) {
		l.Type, l.Start, l.End = kind, uint64(r.Start), uint64(r.End)
		list = append(list, l)
	}
	for _, r := range free {
		set(r, fsproto.LockUnlock)
	}
	for _, r := range held {
		if r.Write {
			set(r, fsproto.LockWrite)
		} else {
			set(r, fsproto.LockRead)
		}
	}
	return list
}

// unlocked notes that an owner has unlocked everything. It may have locked anew
// since it had made so many changes.
func (k *lockKeeper) unlocked(node fsproto.Node, l *fsproto.Lock, changes uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n, o := k.find(node, l); o != nil && o.pending == 0 && o.changes == changes {
		k.drop(node, n, keyOf(l))
	}
}

// hasAny reports whether anybody here may have locks on a file.
func (k *lockKeeper) hasAny(node fsproto.Node) bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.nodes[node] != nil
}

// closing notes that a handle is about to be closed at the daemon. The function
// that it returns is called when that is done.
func (k *lockKeeper) closing(node fsproto.Node, h fsproto.Handle) (closed func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.nodes[node]
	if n == nil || !n.uses(h) {
		return func() {}
	}
	done := make(chan struct{})
	n.closing[h] = done
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(n.closing, h)
		k.dropVia(node, n, h)
		close(done)
	}
}

func (n *nodeLocks) uses(h fsproto.Handle) bool {
	for _, o := range n.owners {
		if o.via[h] {
			return true
		}
	}
	return false
}

// dropVia forgets the owners that have locked through h; mu is held.
func (k *lockKeeper) dropVia(node fsproto.Node, n *nodeLocks, h fsproto.Handle) {
	for key, o := range n.owners {
		if o.via[h] {
			k.drop(node, n, key)
		}
	}
}

// lost forgets the owners that have lost their locks with a handle.
func (k *lockKeeper) lost(node fsproto.Node, h fsproto.Handle) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := k.nodes[node]; n != nil {
		k.dropVia(node, n, h)
	}
}

// awaitClosing waits until a lock of this mount's that is in the way has gone
// with its file, and reports whether to try again. The kernel answers close(2)
// and exit(2) before this process is told of the closing, while on a local disk
// the locks have gone by then.
func (k *lockKeeper) awaitClosing(ctx context.Context, node fsproto.Node, holder *fsproto.Lock, again bool) bool {
	if holder.Owner == 0 {
		return false // another client's, or a program's on the server
	}
	closing := k.closingOf(node, holder)
	if closing == nil && again {
		return false
	}
	limit := closingLimit
	if closing == nil {
		limit = closingPause // its closing may be on the way here
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-closing:
	case <-t.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// closingOf returns what is closed when the holder has gone, or nil if it is not
// about to go.
func (k *lockKeeper) closingOf(node fsproto.Node, holder *fsproto.Lock) <-chan struct{} {
	k.mu.Lock()
	n, o := k.find(node, holder)
	if o == nil {
		k.mu.Unlock()
		return nil
	}
	for h := range o.via {
		if done := n.closing[h]; done != nil {
			k.mu.Unlock()
			return done
		}
	}
	pid, gone := o.pid, o.gone
	k.mu.Unlock()
	if exited(pid) {
		return gone
	}
	return nil
}

// exited reports whether a process has ended, though somebody may still have to
// ask how.
func exited(pid uint32) bool {
	if pid == 0 {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	_, state, _ := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" "))
	return len(state) > 0 && (state[0] == 'Z' || state[0] == 'X')
}

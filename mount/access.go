package mount

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
)

// maxAccess bounds the nodes, and the callers per node, of accessCache.
const (
	maxAccess        = 4096
	maxAccessCallers = 16
)

// accessCache remembers what callers may do with nodes, as access(2) was
// answered, for as long as attributes are good: under a lease on the node, until it is
// recalled. It knows no more than that something is allowed: a refusal is asked for
// again, so that a right just given counts at once. What is known of a node goes with
// any change of the node that is seen.
type accessCache struct {
	lasts  time.Duration // without a lease
	leases *leases
	now    func() time.Time

	size  atomic.Int64 // len(nodes), to be read without mu
	mu    sync.Mutex
	nodes map[fsproto.Node]*allowed
	until time.Time // nothing that is known lasts longer
}

// allowed is what callers may do with a node whose Attr.Change is change.
type allowed struct {
	change  uint64
	callers map[*credential]allowance // nil is everybody, where there are no credentials
}

type allowance struct {
	bits  uint8  // fsproto.Access…
	clock uint64 // of the node table, before the daemon was asked
	until time.Time
}

func newAccessCache(lasts time.Duration) *accessCache {
	return &accessCache{lasts: lasts, now: time.Now, nodes: make(map[fsproto.Node]*allowed)}
}

// get reports whether a caller may do all of mask, and the node table's clock
// when that was found out.
func (a *accessCache) get(node fsproto.Node, cred *credential, mask uint8) (may bool, clock uint64) {
	if a.size.Load() == 0 {
		return false, 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.nodes[node]
	if n == nil {
		return false, 0
	}
	c, ok := n.callers[cred]
	return ok && a.now().Before(c.until) && mask&^c.bits == 0, c.clock
}

// put remembers the answer for a caller. asked is when the daemon was asked,
// clock the node table's clock then.
func (a *accessCache) put(node fsproto.Node, cred *credential, attr *fsproto.Attr, clock uint64, asked time.Time) {
	if attr.Access&fsproto.AccessKnown == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// Under mu: a recall makes the lease void first, and then calls drop.
	lasts := a.leases.timeout(a.lasts, node, attr.Lease)
	if lasts <= 0 {
		return
	}
	n := a.nodes[node]
	if n == nil || n.change != attr.Change {
		if len(a.nodes) >= maxAccess {
			clear(a.nodes)
		}
		n = &allowed{change: attr.Change, callers: make(map[*credential]allowance)}
		a.nodes[node] = n
	}
	if len(n.callers) >= maxAccessCallers {
		clear(n.callers)
	}
	until := asked.Add(lasts)
	n.callers[cred] = allowance{attr.Access, clock, until}
	if until.After(a.until) {
		a.until = until
	}
	a.size.Store(int64(len(a.nodes)))
}

// drop forgets what is known of a node.
func (a *accessCache) drop(node fsproto.Node) {
	if a.size.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.nodes, node)
	a.size.Store(int64(len(a.nodes)))
}

// dropAll forgets everything.
func (a *accessCache) dropAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.nodes)
	a.size.Store(0)
}

// saw takes notice of a node's attributes.
func (a *accessCache) saw(node fsproto.Node, attr *fsproto.Attr) {
	if a.size.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.nodes[node]; n != nil && n.change != attr.Change {
		delete(a.nodes, node)
	}
	if !a.now().Before(a.until) {
		clear(a.nodes)
	}
	a.size.Store(int64(len(a.nodes)))
}

package mount

import (
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
)

// While the daemon's lease on a node holds, the kernel believes what it was told of
// it: attributes, data, listing, and for every name in a directory which node it is,
// or that there is none. The daemon calls back before that changes (Recall). A reply
// that was overtaken by a recall is passed on, but not believed any longer than the
// request that it answers.

// leaseTime is how long the kernel may believe what a lease covers.
const leaseTime = time.Hour

// maxAttrs bounds the nodes of which attributes are kept.
const maxAttrs = 1 << 15

// maxVoid bounds the nodes of which it is known since when leases are void.
const maxVoid = 1 << 16

// leases knows which leases are void. It is nil where the daemon gives none.
type leases struct {
	lasts  time.Duration // at most, for what a lease covers
	events uint8         // fsproto.Events…: how the daemon learns of changes on the server
	why    string        // it does not do so in a better way

	mu    sync.Mutex
	void  map[fsproto.Node]uint64   // leases on it below are void
	floor uint64                    // the same for all nodes
	attrs map[fsproto.Node]keptAttr // of what was read: the kernel wants to know its time of access

	recalls, all uint64 // for status: nodes, everything
}

// keptAttr are attributes, and the node table's clock before they were asked for.
type keptAttr struct {
	fsproto.Attr
	clock uint64
}

func newLeases(lasts time.Duration) *leases {
	return &leases{lasts: lasts, void: make(map[fsproto.Node]uint64), attrs: make(map[fsproto.Node]keptAttr)}
}

// valid reports whether what a reply tells is so until the daemon calls back.
func (l *leases) valid(node fsproto.Node, lease uint64) bool {
	return lease&fsproto.LeaseBrief == 0 && l.holds(node, lease)
}

// holds reports whether a lease that a reply tells of, brief or not, still holds.
func (l *leases) holds(node fsproto.Node, lease uint64) bool {
	if l == nil || lease == 0 {
		return false
	}
	lease &^= fsproto.LeaseBrief
	l.mu.Lock()
	defer l.mu.Unlock()
	return lease >= l.floor && lease >= l.void[node]
}

// timeout returns how long the kernel may believe something that a reply tells: without
// leases and with a brief one for as long as unleased says, else while the lease
// holds.
func (l *leases) timeout(unleased time.Duration, node fsproto.Node, lease uint64) time.Duration {
	switch {
	case l == nil || unleased <= 0:
		return unleased
	case !l.holds(node, lease):
		return 0
	case lease&fsproto.LeaseBrief != 0:
		return unleased
	}
	return l.lasts
}

// recalled makes leases void.
func (l *leases) recalled(req *fsproto.RecallReq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if req.All {
		l.all++
		l.floor = max(l.floor, req.Lease)
	}
	for i := range req.Nodes {
		n := &req.Nodes[i]
		l.recalls++
		if n.What == fsproto.RecallWrite {
			continue
		}
		if len(l.void) >= maxVoid {
			for _, lease := range l.void {
				l.floor = max(l.floor, lease)
			}
			clear(l.void)
		}
		l.void[n.Node] = max(l.void[n.Node], n.Lease)
	}
}

// keep keeps attributes that a reply has told to a call that began at this clock.
func (l *leases) keep(node fsproto.Node, a *fsproto.Attr, clock uint64) {
	if l == nil || !l.valid(node, a.Lease) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for other := range l.attrs {
		if len(l.attrs) < maxAttrs {
			break
		}
		delete(l.attrs, other)
	}
	l.attrs[node] = keptAttr{*a, clock}
}

// kept returns attributes that still hold, if there are any.
func (l *leases) kept(node fsproto.Node) (a keptAttr, ok bool) {
	if l == nil {
		return a, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok = l.attrs[node]
	if ok && (a.Lease < l.floor || a.Lease < l.void[node]) {
		delete(l.attrs, node)
		ok = false
	}
	return a, ok
}

// status fills in what is known of leases.
func (l *leases) status(s *Status) {
	s.Events = "off"
	if l == nil {
		return
	}
	s.Events, s.EventsWhy = [...]string{"none", "inotify", "fanotify"}[l.events], l.why
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Recalls, s.RecalledAll = l.recalls, l.all
}

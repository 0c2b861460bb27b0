package mount

import (
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
)

func TestAccessCache(t *testing.T) {
	a := newAccessCache(time.Second)
	now := time.Now()
	a.now = func() time.Time { return now }
	one, other := &credential{}, &credential{}
	attr := &fsproto.Attr{Change: 5, Access: fsproto.AccessKnown | fsproto.AccessRead | fsproto.AccessExec}
	may := func(want bool, node fsproto.Node, cred *credential, mask uint8) {
		t.Helper()
		if got, _ := a.get(node, cred, mask); got != want {
			t.Errorf("node %d, mask %d: %t", node, mask, got)
		}
	}
	may(false, 7, one, 0)
	a.put(7, one, &fsproto.Attr{Change: 5, Access: fsproto.AccessRead}, 1, now) // says nothing
	may(false, 7, one, fsproto.AccessRead)
	a.put(7, one, attr, 1, now)
	for mask := range uint8(8) {
		may(mask&fsproto.AccessWrite == 0, 7, one, mask)
	}
	may(false, 7, other, fsproto.AccessRead) // what one may says nothing of the other
	may(false, 7, nil, fsproto.AccessRead)
	may(false, 8, one, fsproto.AccessRead)

	a.saw(7, attr)
	may(true, 7, one, fsproto.AccessRead)
	a.saw(7, &fsproto.Attr{Change: 6})
	may(false, 7, one, fsproto.AccessRead)

	a.put(7, one, attr, 1, now)
	a.put(7, other, &fsproto.Attr{Change: 6, Access: fsproto.AccessKnown}, 1, now)
	may(false, 7, one, fsproto.AccessRead) // the node has changed in between
	may(true, 7, other, 0)

	a.put(7, one, attr, 1, now)
	now = now.Add(time.Second)
	may(false, 7, one, fsproto.AccessRead)
	a.saw(9, attr)
	if len(a.nodes) != 0 || a.size.Load() != 0 {
		t.Error("what is too old is kept")
	}
	for i := range 3 * maxAccess {
		a.put(fsproto.Node(i), one, attr, 1, now)
		a.put(1, &credential{}, attr, 1, now)
	}
	if len(a.nodes) > maxAccess || len(a.nodes[1].callers) > maxAccessCallers {
		t.Errorf("%d nodes, %d callers of one", len(a.nodes), len(a.nodes[1].callers))
	}
}

// TestAccessUnderLease wants to know until the recall what access(2) was told under a
// lease, and nothing of what comes with a lease that has been recalled by then.
func TestAccessUnderLease(t *testing.T) {
	a := newAccessCache(time.Second)
	a.leases = newLeases(time.Hour)
	now := time.Now()
	a.now = func() time.Time { return now }
	may := func(want bool) {
		t.Helper()
		if got, _ := a.get(7, nil, fsproto.AccessRead); got != want {
			t.Errorf("known: %t", got)
		}
	}
	attr := &fsproto.Attr{Change: 5, Access: fsproto.AccessKnown | fsproto.AccessRead, Lease: 3 << 1}
	a.put(7, nil, attr, 1, now)
	now = now.Add(time.Minute)
	may(true)

	a.leases.recalled(&fsproto.RecallReq{Nodes: []fsproto.Recalled{{Node: 7, Lease: attr.Lease + 2}}})
	a.drop(7)
	may(false)
	a.put(7, nil, attr, 1, now)
	may(false)
}

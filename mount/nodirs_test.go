package mount

import (
	"slices"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
)

// TestListings: a directory has one handle at a time, and no more than so many have one.
func TestListings(t *testing.T) {
	var l listings
	if l.get(1) != 0 || l.end(1, 10) {
		t.Error("there is a handle from the beginning")
	}
	if old := l.put(1, 10); old != nil {
		t.Errorf("%d are to be closed for the first one", old)
	}
	if old := l.put(1, 11); !slices.Equal(old, []uint64{10}) || l.get(1) != 11 {
		t.Errorf("%d are to be closed for the second one, it is %d", old, l.get(1))
	}
	if l.end(1, 10) || !l.end(1, 11) || l.get(1) != 0 {
		t.Error("the wrong one has ended")
	}
	closed := 0
	for i := range uint64(2 * maxUnended) {
		closed += len(l.put(fsproto.Node(100+i), 1000+i))
	}
	if len(l.open) != maxUnended || closed != maxUnended {
		t.Errorf("%d are open, %d were closed", len(l.open), closed)
	}
}

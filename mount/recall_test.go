package mount

import (
	"fmt"
	"testing"
	"time"
)

// TestBelieves: where no name is to be believed the kernel may believe those that a
// rename has brought, and none of them once it was made to look up all names anew.
func TestBelieves(t *testing.T) {
	n := newNodeTable()
	n.made = n.made.Add(-time.Hour) // nothing was listed lately
	n.note(entry(9, 1), 1, "dir")
	believes := func(want bool, names ...string) {
		t.Helper()
		if n.believes(9, names) != want {
			t.Errorf("%q are believed: %t", names, !want)
		}
	}
	believes(false, "a")
	moved := n.moving(entryName{9, "a"}, entryName{9, "b"})
	believes(false, "c", "d")
	believes(true, "b")
	believes(true, "c", "a") // it is not there yet
	moved()
	believes(true, "a")
	believes(false, "a", "b")
	for i := range maxMoved {
		n.moving(entryName{9, fmt.Sprint(i)})()
	}
	believes(false, "a")
	n.moving(entryName{9, "0"})()
	believes(false, "a")
	n.moving(entryName{9, "one more"})()
	believes(true, "a") // they are too many to know them
	believes(false, "a", "0")
	n.listedNow(9)
	believes(true, "a")
}

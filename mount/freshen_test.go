package mount

import (
	"context"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
)

// TestFreshen: what was stored of a file is not believed when it has been locked, even if
// nobody has said yet that the lease is void.
func TestFreshen(t *testing.T) {
	w := newStoreWorld()
	w.file = []byte("before")
	w.read(0, 6)
	var k notices
	g := newGuard(0)
	fs := &FS{store: w.s, guard: g, locks: newLockKeeper(g), notices: &notifier{kernel: &k}, nodes: newNodeTable()}
	w.file = []byte("after!")
	if st := fs.freshen(context.Background(), fsproto.Node(9)); !st.Ok() {
		t.Fatal(st)
	}
	if got := string(w.read(0, 6)); got != "after!" {
		t.Errorf("read %q under the lock", got)
	}
	if len(k) != 1 || k[0] != 0 {
		t.Errorf("the kernel was notified with offsets %v", k)
	}
}

package mount

import (
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
)

// TestDirAt: a directory is found by the name that it was seen under last.
func TestDirAt(t *testing.T) {
	n := newNodeTable()
	dir := func(id fsproto.Node) *fsproto.Entry {
		e := entry(id, 1)
		e.Attr.Mode = fsproto.ModeDir
		return e
	}
	at := func(name string, want fsproto.Node) {
		t.Helper()
		if id, _, settled := n.dirAt(entryName{1, name}); id != want || settled != (want != 0) {
			t.Errorf("%s: %d, %t; want %d", name, id, settled, want)
		}
	}
	n.note(dir(5), 1, "a")
	n.note(entry(6, 1), 1, "file")
	at("a", 5)
	at("file", 0)
	n.moved(5, 1, "b") // elsewhere
	at("a", 5)
	at("b", 0)
	n.renamed(5, 1, "b")
	at("a", 0)
	at("b", 5)
	n.note(dir(7), 1, "b") // what it was is gone, but somebody works in there
	n.forget(5, 1)
	at("b", 7)
	n.note(entry(8, 1), 1, "b")
	at("b", 0)
	n.note(dir(7), 1, "c")
	at("c", 7)
	for _, id := range []fsproto.Node{7, 8} {
		n.entered(id)
	}
	if _, entered, _ := n.dirAt(entryName{1, "c"}); !entered {
		t.Error("nobody has entered it")
	}
	n.keeps(7)
	if _, _, settled := n.dirAt(entryName{1, "c"}); settled {
		t.Error("an answer cannot be on its way to the kernel")
	}
	n.made = n.made.Add(-time.Hour)
	at("c", 7)
	n.forget(7, 2)
	at("c", 0)
	if len(n.dirs.at)+len(n.dirs.of) != 0 {
		t.Errorf("there are still %v, %v", n.dirs.at, n.dirs.of)
	}
}

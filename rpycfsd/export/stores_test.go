package export

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"golang.org/x/sys/unix"
)

// Stores into a mapping, of which no event tells, take leases back within a second or
// so, and again as long as the file is mapped; so does a change through a link that
// nobody watches. Our own process makes them here: it gets no events of its own.
func TestStores(t *testing.T) {
	a, _ := twoLeasers(t, Config{}, makeTree)
	nodes := a.believed("f", "g", "d/in")
	f, err := os.OpenFile(a.path("f"), os.O_RDWR, 0)
	must(t, err)
	mem, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	f.Close()
	for range 2 {
		mem[0]++
		if r := a.recalled(); len(r.Nodes) != 1 || r.Nodes[0].Node != nodes[0] || r.Nodes[0].What != recallWhole {
			t.Errorf("recalled %+v", r)
		}
		a.believed("f")
	}
	must(t, unix.Munmap(mem))
	hot := a.e.lookAtFiles(nil)
	if len(hot) > 0 {
		t.Errorf("%d files are being written", len(hot))
	}
	a.e.unrefAll(hot...)
	a.recalledAll()

	a.believed("d/in")
	a.e.unrefAll(a.e.lookAtFiles(nil)...)
	must(t, os.Chmod(a.path("d/in"), 0o600))
	if r := a.recalled(); len(r.Nodes) != 1 || r.Nodes[0].Node != nodes[2] {
		t.Errorf("recalled %+v", r)
	}
	if !a.holds(nodes[1]) {
		t.Error("a lease on a file that nobody has changed is gone")
	}
}

// What sessions do to files themselves is not taken for a program's doing.
func TestOwnWritesAreNoStores(t *testing.T) {
	a, _ := twoLeasers(t, Config{}, makeTree)
	num := a.believed("f")[0]
	h := a.open(num, fsproto.OpenWrite)
	for range 3 {
		a.e.unrefAll(a.e.lookAtFiles(nil)...)
		_, err := a.write(fsproto.WriteReq{Handle: h}, "new")
		must(t, err)
	}
	a.e.unrefAll(a.e.lookAtFiles(nil)...)
	a.quiet()
	if !a.holds(num) {
		t.Error("the lease is gone")
	}
}

// BenchmarkLookAtFiles is one look, of two in a second, at as much as there can be.
func BenchmarkLookAtFiles(b *testing.B) {
	dir := b.TempDir()
	e := openExport(b, Config{Path: dir})
	for i := range 1000 {
		os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o666)
	}
	a := newLeaser(b, e, dir)
	for i := range 1000 {
		num := a.leased(fmt.Sprint(i))[0]
		if i < storesOpen {
			a.open(num, fsproto.OpenRead)
		}
	}
	for b.Loop() {
		e.unrefAll(e.lookAtFiles(nil)...)
	}
}

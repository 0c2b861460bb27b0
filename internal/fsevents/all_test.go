package fsevents

import (
	"slices"
	"testing"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

// TestWatchAll: while everything is wanted, events of directories that nobody watches
// come as well, with a handle that leads there.
func TestWatchAll(t *testing.T) {
	for _, m := range methods() {
		t.Run(m.String(), func(t *testing.T) {
			f := newFixture(t, m)
			f.child.do("mkdir d")
			f.sync()
			ok := f.w.WatchAll(true)
			if ok != (m == Fanotify) {
				t.Fatalf("everything: %t", ok)
			}
			if !ok {
				return
			}
			f.child.do("mkdir d/sub")
			got := f.await("d/sub", func(e Event) bool { return e.Name == "sub" })
			e := got[len(got)-1]
			if !e.Unasked || e.Kind != Create || !e.IsDir {
				t.Errorf("event %+v", e)
			}
			h, ok := e.Dir.KernelHandle()
			if !ok {
				t.Fatal("no handle")
			}
			root, err := f.root.OpenDir()
			must(t, err)
			defer root.Close()
			p, err := root.OpenHandle(h)
			must(t, err)
			defer p.Close()
			path, err := p.KernelPath()
			must(t, err)
			if path != f.dir+"/d" {
				t.Errorf("the handle leads to %s", path)
			}
			f.child.do("mkdir e")
			if got := f.sync(); len(got) == 0 || got[len(got)-1].Unasked {
				t.Errorf("of what is watched: %+v", got)
			}
			f.w.WatchAll(false)
			f.child.do("mkdir d/again")
			if got := f.sync(); slices.ContainsFunc(got, func(e Event) bool { return e.Name == "again" }) {
				t.Errorf("afterwards: %+v", got)
			}
		})
	}
}

// TestKernelPath: of what was removed and of the root of a file system.
func TestKernelPath(t *testing.T) {
	dir := t.TempDir()
	root, err := beneath.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	must(t, root.Mkdir("d\nx", 0o700))
	p, err := root.Walk("d\nx")
	must(t, err)
	defer p.Close()
	if path, err := p.KernelPath(); err != nil || path != dir+"/d\nx" {
		t.Errorf("%q, %v", path, err)
	}
	must(t, root.Rmdir("d\nx"))
	if path, err := p.KernelPath(); err != nil || path != dir+"/d\nx (deleted)" {
		t.Errorf("%q, %v", path, err)
	}
}

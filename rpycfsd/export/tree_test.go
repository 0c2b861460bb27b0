package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/fsevents"
)

// makeDeep makes 3 directories with 3 in each, and 4 files in all of them.
func makeDeep(dir string) {
	for i := range 3 {
		for j := range 3 {
			os.MkdirAll(filepath.Join(dir, fmt.Sprint("d", i), fmt.Sprint("e", j)), 0o755)
		}
	}
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		for i := range 4 {
			text := strings.Repeat(path, i)
			if err := os.WriteFile(filepath.Join(path, fmt.Sprint("f", i)), []byte(text), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestTree: who walks the tree needs no other call, and may believe what it was told.
func TestTree(t *testing.T) {
	for _, method := range []fsevents.Method{fsevents.None, fsevents.Fanotify, fsevents.Inotify, fsevents.FanotifyDirs} {
		a, _ := twoLeasers(t, Config{events: method}, makeDeep)
		res := do(a.env, fsproto.Tree, fsproto.TreeReq{Dirs: []fsproto.Node{fsproto.RootNode}, First: fsproto.MaxData / 2, Size: fsproto.MaxData / 2, Below: true})
		if len(res.Dirs) != 13 {
			t.Fatalf("%v: %d directories", method, len(res.Dirs))
		}
		var walk func(n fsproto.Node)
		at, files := 0, 0
		walk = func(n fsproto.Node) {
			d := res.Dirs[at]
			if at++; d.Node != n || d.Failed || !d.End || !a.holds(n) {
				t.Fatalf("%v: in place of %d there is %+v", method, n, d)
			}
			for i := range d.Entries {
				e := &d.Entries[i]
				if !e.Known || !a.holds(e.Entry.Node) || e.Entry.Attr.Lease == 0 {
					t.Fatalf("%v: no lease on %s", method, e.Name)
				}
				if brief := e.Entry.Attr.Lease&fsproto.LeaseBrief != 0; brief && a.e.eventsKnown() && (!e.Entry.Attr.IsDir() || !a.e.piecemeal) {
					t.Errorf("%v: a brief lease on %s", method, e.Name)
				}
				if e.Entry.Attr.IsDir() {
					walk(e.Entry.Node)
				} else {
					files++
				}
			}
			if brief := d.Dir.Lease&fsproto.LeaseBrief != 0; brief != !a.e.eventsKnown() {
				t.Errorf("%v: brief lease on a directory: %t", method, brief)
			}
		}
		walk(fsproto.RootNode)
		if files != 13*4 || at != 13 {
			t.Errorf("%v: %d files, %d directories", method, files, at)
		}
	}
}

// eventsKnown reports whether changes by programs are told.
func (e *Export) eventsKnown() bool {
	method, _ := e.watcher.Method()
	return method != fsevents.None
}

// TestTreeBudget: a reply is no longer than asked for, tells of all that it has given
// numbers to, and goes on from what it did not come to.
func TestTreeBudget(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, makeDeep)
	told := map[fsproto.Node]bool{fsproto.RootNode: true}
	listed := map[fsproto.Node]bool{}
	next := []fsproto.Node{fsproto.RootNode}
	calls := 0
	for len(next) > 0 {
		const size = 3000
		res := do(v, fsproto.Tree, fsproto.TreeReq{Dirs: next, First: size, Size: size, Below: true})
		if calls++; calls > 20 {
			t.Fatal("it does not come to an end")
		}
		got := 0
		for i := range res.Dirs {
			d := &res.Dirs[i]
			got += fsproto.TreeDirSize
			if !d.End || listed[d.Node] {
				t.Errorf("%d is told in part, or twice", d.Node)
			}
			listed[d.Node] = true
			next = slices.DeleteFunc(next, func(n fsproto.Node) bool { return n == d.Node })
			for j := range d.Entries {
				e := &d.Entries[j]
				got += fsproto.DirentSize(len(e.Name), e.Known, len(e.Entry.FileHandle))
				told[e.Entry.Node] = true
				if e.Entry.Attr.IsDir() {
					next = append(next, e.Entry.Node)
				}
			}
		}
		for n := range listed {
			next = slices.DeleteFunc(next, func(m fsproto.Node) bool { return n == m })
		}
		if got > 2*size {
			t.Errorf("%d bytes", got)
		}
	}
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if len(v.s.numbers) != len(told) || len(listed) != 13 {
		t.Errorf("%d numbers, %d told; %d directories", len(v.s.numbers), len(told), len(listed))
	}
}

// TestTreeFirst: the first directory is what is wanted: it fails as readdir does, and is
// told in part and goes on there if it is too long; others are passed over.
func TestTreeFirst(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, func(dir string) {
		makeDeep(dir)
		for i := range 100 {
			os.WriteFile(filepath.Join(dir, "d0", fmt.Sprint("g", i)), nil, 0o644)
		}
	})
	file, d0, d1 := v.lookup("f0").Node, v.lookup("d0").Node, v.lookup("d1").Node
	fail(v, fsproto.Tree, fsproto.TreeReq{Dirs: []fsproto.Node{file}, First: 4096, Size: 4096}, syscall.ENOTDIR)
	fail(v, fsproto.Tree, fsproto.TreeReq{Dirs: []fsproto.Node{4711}, First: 4096, Size: 4096}, syscall.ESTALE)
	fail(v, fsproto.Tree, fsproto.TreeReq{Dirs: []fsproto.Node{d1}, First: 10}, syscall.EINVAL)
	res := do(v, fsproto.Tree, fsproto.TreeReq{Dirs: []fsproto.Node{d1, file, d0}, First: 4096, Size: 4096})
	if len(res.Dirs) != 2 || !res.Dirs[0].End || len(res.Dirs[0].Entries) != 7 || !res.Dirs[1].Failed {
		t.Errorf("%d directories: %+v", len(res.Dirs), res.Dirs[0].Dir)
	}
	res = do(v, fsproto.Tree, fsproto.TreeReq{Dirs: []fsproto.Node{d0, d1}, First: 4096, Size: 4096, Below: true})
	if len(res.Dirs) != 1 || res.Dirs[0].End || len(res.Dirs[0].Entries) < 10 {
		t.Fatalf("%d directories", len(res.Dirs))
	}
	for _, dirs := range [][]fsproto.Node{{d0, d1}, {4711, d0, d1}} { // none of them is wanted more than the others
		got := do(v, fsproto.Tree, fsproto.TreeReq{Dirs: dirs, Size: 4096}).Dirs
		if last := len(got) - 1; last != len(dirs)-2 || got[last].Node != d1 || !got[last].End {
			t.Errorf("of %v come %d", dirs, len(got))
		}
	}
	names := map[string]bool{}
	for _, e := range res.Dirs[0].Entries {
		names[e.Name] = true
	}
	h := newHandle()
	do(v, fsproto.Opendir, fsproto.OpenReq{Node: d0, Handle: h, Flags: fsproto.OpenDir})
	last := res.Dirs[0].Entries[len(res.Dirs[0].Entries)-1].Cookie
	for _, e := range do(v, fsproto.Readdir, fsproto.ReaddirReq{Handle: h, Cookie: last, Size: 1 << 20}).Entries {
		if names[e.Name] {
			t.Errorf("%s is listed twice", e.Name)
		}
		names[e.Name] = true
	}
	v.release(h)
	if len(names) != 107 {
		t.Errorf("%d names", len(names))
	}
}

// TestReadfile: parts of files come with a lease; what is no file, shared or cannot be
// opened does not come.
func TestReadfile(t *testing.T) {
	a, b := twoLeasers(t, Config{}, func(dir string) {
		makeTree(dir)
		os.WriteFile(filepath.Join(dir, "long"), []byte(strings.Repeat("0123456789", 1000)), 0o644)
	})
	f, g, long, d := a.lookup("f").Node, a.lookup("g").Node, a.lookup("long").Node, a.lookup("d").Node
	b.open(b.lookup("g").Node, fsproto.OpenWrite)
	a.recalledAll()
	res := do(a.env, fsproto.Readfile, fsproto.ReadfileReq{Parts: []fsproto.FilePart{
		{Node: f, Size: 100}, {Node: g, Size: 100}, {Node: d, Size: 100}, {Node: 4711, Size: 100},
		{Node: long, Size: 15}, {Node: long, Offset: 9990, Size: 100}, {Node: long, Offset: 20000, Size: 10},
	}})
	want := []string{"old content", "-", "-", "-", "012345678901234", "0123456789", ""}
	for i, p := range res.Parts {
		got := "-"
		if p.Read {
			got = string(p.Data)
			if p.Attr.Lease == 0 || p.Attr.Ino == 0 {
				t.Errorf("part %d: no lease, or no attributes", i)
			}
		}
		if got != want[i] {
			t.Errorf("part %d: %q, want %q", i, got, want[i])
		}
	}
	fail(a.env, fsproto.Readfile, fsproto.ReadfileReq{Parts: []fsproto.FilePart{{Node: 4711, Size: 1}}}, syscall.ESTALE)

	// While somebody else makes a change there is no lease, and what changes later is recalled.
	release := a.holding()
	done := begin(func() { b.write(fsproto.WriteReq{Handle: b.open(b.lookup("f").Node, fsproto.OpenWrite)}, "new") })
	if r := a.recalled(); r.Nodes[0].Node != f {
		t.Errorf("recalled %+v", r)
	}
	release()
	ends(t, done, "write")
}

// TestRewound: a directory that was first read at its end is listed from its beginning
// all the same.
func TestRewound(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, makeDeep)
	list := func(h fsproto.Handle, cookie uint64) []fsproto.Dirent {
		t.Helper()
		return do(v, fsproto.Readdir, fsproto.ReaddirReq{Handle: h, Cookie: cookie, Size: 1 << 16}).Entries
	}
	open := func() fsproto.Handle {
		t.Helper()
		h := newHandle()
		do(v, fsproto.Opendir, fsproto.OpenReq{Node: fsproto.RootNode, Handle: h, Flags: fsproto.OpenDir})
		return h
	}
	h := open()
	all := list(h, 0)
	last := all[len(all)-1].Cookie
	v.release(h)
	h = open()
	defer v.release(h)
	if got := list(h, last); len(got) != 0 {
		t.Errorf("%d entries after the last one", len(got))
	}
	for range 2 {
		if got := list(h, 0); len(got) != len(all) {
			t.Errorf("%d entries, want %d", len(got), len(all))
		}
	}
}

// Who waits for a turn when the connection ends has not failed.
func TestTurnEnds(t *testing.T) {
	v := newEnv(t, Config{}, Identity{Name: "user"}, nil)
	for range aheadCalls {
		if _, err := v.s.turn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.EOF)
	if _, err := v.s.turn(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("it fails with %v", err)
	}
}

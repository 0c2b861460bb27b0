package mount

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rpycfs/rpycfs/fsproto"
)

// aheadFS is an FS that fetches nothing.
func aheadFS(t testing.TB) *FS {
	t.Helper()
	fs := &FS{nodes: newNodeTable(), leases: newLeases(leaseTime), entryTimeout: time.Second, negativeTimeout: time.Second}
	fs.store = newStore(fs.leases.valid)
	fs.ahead = newAhead(fs)
	fs.ahead.off.Store(true)
	fs.forgets = newForgetQueue(func(context.Context, []fsproto.Forgotten) error { return nil }, slog.New(slog.DiscardHandler))
	t.Cleanup(fs.forgets.stop)
	t.Cleanup(fs.ahead.stop)
	fs.nodes.note(entry(fsproto.RootNode, 1), fsproto.RootNode, "")
	return fs
}

// listed makes a listing come: of names that end in "/" if they are directories, whose
// nodes are numbered from first on, and whose inodes from 1000 downwards.
func (a *ahead) listed(w *walk, dir, first fsproto.Node, lease uint64, names ...string) *listing {
	d := fsproto.TreeDir{Node: dir, End: true, Dir: fsproto.Attr{Mode: fsproto.ModeDir, Lease: lease}}
	size := fsproto.TreeDirSize
	for i, name := range names {
		size += fsproto.DirentSize(len(name), true, 0)
		e := entry(first+fsproto.Node(i), 1)
		e.Attr.Mode, e.Attr.Size, e.Attr.Lease = fsproto.ModeRegular, 100, lease
		if n := len(name) - 1; name[n] == '/' {
			name, e.Attr.Mode = name[:n], fsproto.ModeDir
		}
		a.fs.nodes.note(e, dir, name)
		d.Entries = append(d.Entries, fsproto.Dirent{Name: name, Cookie: uint64(i + 1), Ino: uint64(1000 - i), Known: true, Entry: *e})
	}
	a.mu.Lock()
	gone := a.put(w, &d, size, a.fs.nodes.clock.read(), time.Now())
	l := a.dirs[dir]
	a.mu.Unlock()
	a.forget(gone)
	return l
}

// TestMeter: whatever is asked for within what is left, at most half of it is in vain.
func TestMeter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m meter
		const most = 1 << 20
		for range 100 {
			if left := m.left(firstAhead, most); left > 0 && rapid.Bool().Draw(t, "fetch") {
				m.fetched += rapid.IntRange(1, left).Draw(t, "bytes")
			} else if unused := m.fetched - m.used; unused > 0 {
				m.used += rapid.IntRange(0, unused).Draw(t, "used")
			}
			if m.fetched-m.used > max(firstAhead, m.used) || m.fetched-m.used > most {
				t.Fatalf("%d bytes fetched, %d used", m.fetched, m.used)
			}
		}
	})
}

// TestWalkOrder: a walk is followed in the order in which it goes.
func TestWalkOrder(t *testing.T) {
	fs := aheadFS(t)
	l := fs.ahead.listed(newWalk(false), 1, 10, 5, "c", "a", "d", "b")
	for _, c := range []struct {
		steps []int
		want  uint8
	}{
		{[]int{0, 1, 2, 3}, fsproto.TreeAsListed},
		{[]int{1, 3, 0, 2}, fsproto.TreeByName},
		{[]int{3, 2, 1, 0}, fsproto.TreeByInode},
		{nil, fsproto.TreeAsListed},
	} {
		w := newWalk(false)
		for i := 1; i < len(c.steps); i++ {
			w.learn(l, c.steps[i-1], c.steps[i])
		}
		if w.order != c.want {
			t.Errorf("%v: order %d, want %d", c.steps, w.order, c.want)
		}
	}
}

// TestNext: what comes next is below where a walk is, then beside what leads there, and
// nothing that is at hand, asked for or visited.
func TestNext(t *testing.T) {
	fs := aheadFS(t)
	a, w := fs.ahead, newWalk(false)
	a.listed(w, 1, 10, 5, "b/", "a/", "f", "d/", "c/") // 10, 11, 13, 14
	a.listed(w, 11, 20, 5, "x/", "y/")                 // 20, 21
	a.listed(w, 13, 30, 5, "p/", "q/")                 // 30, 31
	a.pending[31], w.visited[10] = new(fetching), true // 31 is under way
	for order, want := range [][]fsproto.Node{{20, 21, 30, 14}, {20, 21, 14, 30}, {14, 30, 21, 20}} {
		w.of(1).at, w.order = 11, uint8(order)
		if w.order == fsproto.TreeByInode {
			w.of(1).at = 1
		}
		if got := a.nextOf(w, w.latest, 10, 1<<20, new(int)); !slices.Equal(got, want) {
			t.Errorf("order %d: %v, want %v", order, got, want)
		}
	}
	w.of(1).at, w.order = 11, 0
	if got := a.nextOf(w, w.latest, 3, 1<<20, new(int)); !slices.Equal(got, []fsproto.Node{20, 21, 30}) {
		t.Errorf("the first three: %v", got)
	}
}

// TestNextFiles: files come in the order of the walk, up to a directory that is not at hand.
func TestNextFiles(t *testing.T) {
	fs := aheadFS(t)
	a, w := fs.ahead, newWalk(false)
	a.listed(w, 1, 10, 5, "f0", "a/", "f1", "b/", "f2") // files 10, 12, 14
	a.listed(w, 11, 20, 5, "g0", "g1")
	nodes := func(parts []fsproto.FilePart) (list []fsproto.Node) {
		for _, p := range parts {
			list = append(list, p.Node)
		}
		return list
	}
	c := w.of(1)
	c.fileIn, c.file, w.follows[0] = 1, 0, 4
	if got := nodes(a.nextFiles(w, 1<<20)); !slices.Equal(got, []fsproto.Node{20, 21, 12}) {
		t.Errorf("%v", got)
	}
	w.visited[13] = true // what is in it was read already
	if got := nodes(a.nextFiles(w, 1<<20)); !slices.Equal(got, []fsproto.Node{20, 21, 12, 14}) {
		t.Errorf("%v", got)
	}
	if got := nodes(a.nextFiles(w, 2*(100+fileCost))); len(got) != 2 {
		t.Errorf("%v for the bytes of two", got)
	}
	c.fileIn, c.file, w.follows[0] = 11, 1, -3 // in no order
	if got := nodes(a.nextFiles(w, 1<<20)); !slices.Contains(got, 20) {
		t.Errorf("%v", got)
	}
}

// TestAheadBounded: listings take up no more than they may, and give their references back.
func TestAheadBounded(t *testing.T) {
	fs := aheadFS(t)
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("some-name-%d", i)
	}
	for i := range fsproto.Node(200) {
		fs.ahead.listed(newWalk(false), 1_000_000+i, 10_000+1000*i, 5, names...)
		if fs.ahead.size > maxListed {
			t.Fatalf("%d bytes", fs.ahead.size)
		}
	}
	if n := fs.nodes.len(); n >= 200_000 || n < 10_000 {
		t.Errorf("%d nodes", n)
	}
	fs.ahead.dropAll()
	if n := fs.nodes.len(); n != 1 || fs.ahead.size != 0 || fs.ahead.order.Len() != 0 {
		t.Errorf("%d nodes, %d bytes", n, fs.ahead.size)
	}
}

// TestAheadLookup: a name is found in a listing while nothing of it can have changed.
func TestAheadLookup(t *testing.T) {
	fs := aheadFS(t)
	a, w := fs.ahead, newWalk(false)
	w.visits, w.last, w.of(1).at = 2, time.Now(), 1
	again := func() { a.listed(w, 1, 10, 5, "a", "b") }
	finds := func(what, name string, want fsproto.Node, ok bool) {
		t.Helper()
		f, found := a.find(1, name, 1)
		var got fsproto.Node
		if f.entry != nil {
			got = f.entry.Node
			fs.Forget(uint64(got), 1)
		}
		if found != ok || got != want {
			t.Errorf("%s: %s is %d, %t; want %d, %t", what, name, got, found, want, ok)
		}
	}
	finds("nothing is at hand", "a", 0, false)
	again()
	finds("listed", "b", 11, true)
	finds("listed", "c", 0, true)
	w.visits = 1
	finds("no walk", "c", 0, false)
	w.visits, w.of(1).at = 2, 7
	finds("the walk is elsewhere", "c", 0, false)
	w.of(1).at = 1
	fs.nodes.touch(11)
	finds("the node was changed from here", "b", 0, false)
	finds("another one", "a", 10, true)
	done := fs.nodes.changing(1)
	finds("an entry is being changed", "a", 0, false)
	done()
	again()
	fs.nodes.touch(1)
	finds("an entry was changed", "a", 0, false)
	again()
	fs.leases.recalled(&fsproto.RecallReq{Nodes: []fsproto.Recalled{{Node: 10, Lease: 6}}})
	finds("the node was recalled", "a", 0, false)
	finds("another one", "b", 11, true)
	fs.leases.recalled(&fsproto.RecallReq{Nodes: []fsproto.Recalled{{Node: 1, Lease: 6}}})
	finds("the directory was recalled", "b", 0, false)
	a.listed(w, 1, 10, 7, "a", "b")
	finds("listed again", "b", 11, true)
	a.stale(11)
	a.listed(w, 1, 10, 7, "a", "b")
	finds("the daemon did not find a node there", "b", 0, false)
}

// TestStoreTake: what is taken is given up, and is not there while the file is changed or
// its lease is void.
func TestStoreTake(t *testing.T) {
	w := newStoreWorld()
	fill := func() {
		want := w.s.want(9)
		want.size = 5001
		w.s.fill(want, make([]byte, 5000), w.lease)
		w.lease++
	}
	buf := make([]byte, 8192)
	takes := func(what string, off uint64, n int, here bool) {
		t.Helper()
		if got, ok := w.s.take(9, off, buf); got != n || ok != here {
			t.Errorf("%s: %d bytes, %t; want %d, %t", what, got, ok, n, here)
		}
	}
	takes("nothing there", 0, 0, false)
	fill()
	takes("all", 0, 5000, true)
	takes("again", 0, 0, false)
	if w.s.size() != 0 {
		t.Errorf("%d bytes are kept", w.s.size())
	}
	fill()
	done := w.s.changing(9)
	takes("while it is changed", 0, 0, false)
	done(written{}, nil)
	takes("after a change", 0, 0, false)
	fill()
	w.recall()
	takes("after a recall", 0, 0, false)
	want := w.s.want(9)
	w.s.drop(9)
	want.size = 10
	w.s.fill(want, make([]byte, 9), w.lease)
	takes("what came after it was dropped", 0, 0, false)
}

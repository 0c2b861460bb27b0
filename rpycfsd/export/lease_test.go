package export

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// makeTree makes what the tests of leases work on.
func makeTree(dir string) {
	for _, name := range []string{"d", "e", "d/empty"} {
		os.Mkdir(filepath.Join(dir, name), 0o777)
	}
	for _, name := range []string{"f", "g", "d/in", "other"} {
		os.WriteFile(filepath.Join(dir, name), []byte("old content"), 0o666)
	}
}

// leaseChange is a change by b and what others are called back for: of each path
// what, and which names.
type leaseChange struct {
	name  string
	make  func(b *leaser)
	what  map[string]uint8
	names map[string][]string
}

var leaseChanges = []leaseChange{
	{"write", func(b *leaser) {
		_, err := b.write(fsproto.WriteReq{Handle: b.open(b.lookup("f").Node, fsproto.OpenWrite)}, "new")
		must(b.t, err)
	}, map[string]uint8{"f": recallWhole}, nil},
	{"truncate", func(b *leaser) {
		do(b.env, fsproto.Setattr, fsproto.SetattrReq{Node: b.lookup("f").Node, Mask: fsproto.SetSize})
	}, map[string]uint8{"f": recallWhole}, nil},
	{"chmod", func(b *leaser) {
		do(b.env, fsproto.Setattr, fsproto.SetattrReq{Node: b.lookup("d").Node, Mask: fsproto.SetMode, Mode: 0o700})
	}, map[string]uint8{"d": recallAttr}, nil},
	{"open with truncation", func(b *leaser) {
		b.open(b.lookup("f").Node, fsproto.OpenWrite|fsproto.OpenTruncate)
	}, map[string]uint8{"f": recallWhole}, nil},
	{"create", func(b *leaser) { b.create("new", fsproto.OpenWrite) },
		map[string]uint8{".": recallAttr}, map[string][]string{".": {"new"}}},
	{"create with truncation", func(b *leaser) { b.create("f", fsproto.OpenWrite|fsproto.OpenTruncate) },
		map[string]uint8{".": recallAttr, "f": recallWhole}, map[string][]string{".": {"f"}}},
	{"mkdir", func(b *leaser) {
		do(b.env, fsproto.Mkdir, fsproto.MkdirReq{Parent: b.lookup("d").Node, Name: "new", Mode: 0o777})
	}, map[string]uint8{"d": recallAttr}, map[string][]string{"d": {"new"}}},
	{"mknod", func(b *leaser) {
		do(b.env, fsproto.Mknod, fsproto.MknodReq{Parent: b.lookup("d").Node, Name: "new", Mode: fsproto.ModeFIFO | 0o600})
	}, map[string]uint8{"d": recallAttr}, map[string][]string{"d": {"new"}}},
	{"symlink", func(b *leaser) {
		do(b.env, fsproto.Symlink, fsproto.SymlinkReq{Parent: b.lookup("d").Node, Name: "new", Target: []byte("f")})
	}, map[string]uint8{"d": recallAttr}, map[string][]string{"d": {"new"}}},
	{"link", func(b *leaser) {
		do(b.env, fsproto.Link, fsproto.LinkReq{Node: b.lookup("f").Node, Parent: b.lookup("d").Node, Name: "new"})
	}, map[string]uint8{"d": recallAttr, "f": recallAttr}, map[string][]string{"d": {"new"}}},
	{"unlink", func(b *leaser) {
		do(b.env, fsproto.Unlink, fsproto.UnlinkReq{Parent: b.lookup("d").Node, Name: "in"})
	}, map[string]uint8{"d": recallAttr, "d/in": recallAttr}, map[string][]string{"d": {"in"}}},
	{"rmdir", func(b *leaser) {
		do(b.env, fsproto.Rmdir, fsproto.UnlinkReq{Parent: b.lookup("d").Node, Name: "empty"})
	}, map[string]uint8{"d": recallAttr, "d/empty": recallAttr}, map[string][]string{"d": {"empty"}}},
	{"rename", func(b *leaser) {
		do(b.env, fsproto.Rename, fsproto.RenameReq{
			Parent: b.lookup("d").Node, Name: "in", NewParent: b.lookup("e").Node, NewName: "out",
		})
	}, map[string]uint8{"d": recallAttr, "e": recallAttr, "d/in": recallAttr}, map[string][]string{"d": {"in"}, "e": {"out"}}},
	{"rename onto another", func(b *leaser) {
		do(b.env, fsproto.Rename, fsproto.RenameReq{
			Parent: b.lookup("d").Node, Name: "in", NewParent: fsproto.RootNode, NewName: "f",
		})
	}, map[string]uint8{"d": recallAttr, ".": recallAttr, "d/in": recallAttr, "f": recallAttr},
		map[string][]string{"d": {"in"}, ".": {"f"}}},
	{"exchange", func(b *leaser) {
		do(b.env, fsproto.Rename, fsproto.RenameReq{
			Parent: fsproto.RootNode, Name: "f", NewParent: fsproto.RootNode, NewName: "g", Flags: fsproto.RenameExchange,
		})
	}, map[string]uint8{".": recallAttr, "f": recallAttr, "g": recallAttr}, map[string][]string{".": {"f", "g"}}},
	{"fallocate", func(b *leaser) {
		h := b.open(b.lookup("f").Node, fsproto.OpenWrite)
		do(b.env, fsproto.Fallocate, fsproto.FallocateReq{Handle: h, Length: 1 << 16})
	}, map[string]uint8{"f": recallWhole}, nil},
	{"copy_file_range", func(b *leaser) {
		from, to := b.open(b.lookup("g").Node, fsproto.OpenRead), b.open(b.lookup("f").Node, fsproto.OpenWrite)
		do(b.env, fsproto.CopyFileRange, fsproto.CopyReq{From: from, To: to, Length: 4})
	}, map[string]uint8{"f": recallWhole}, nil},
	{"setxattr", func(b *leaser) {
		do(b.env, fsproto.Setxattr, fsproto.SetxattrReq{Node: b.lookup("f").Node, Name: "user.x", Value: []byte("1")})
	}, map[string]uint8{"f": recallAttr}, nil},
	{"removexattr", func(b *leaser) {
		try(b.env, fsproto.Removexattr, fsproto.RemovexattrReq{Node: b.lookup("f").Node, Name: "user.x"})
	}, map[string]uint8{"f": recallAttr}, nil},
}

// Each change calls back who has leases on what it changes, for that and nothing else,
// and not the session that makes it.
func TestChangesRecall(t *testing.T) {
	for _, c := range leaseChanges {
		t.Run(c.name, func(t *testing.T) {
			a, b := twoLeasers(t, Config{}, makeTree)
			paths := []string{"d", "e", "f", "g", "other", "d/in", "d/empty"}
			nodes := a.leased(paths...)
			mine := b.leased(paths...)
			c.make(b)
			got := a.recalledAll()
			for i, path := range append(paths, ".") {
				num := fsproto.RootNode
				if path != "." {
					num = nodes[i]
				}
				if r := got[num]; r.What != c.what[path] || !slices.Equal(r.Names, c.names[path]) {
					t.Errorf("%s: recalled %#x %q, want %#x %q", path, r.What, r.Names, c.what[path], c.names[path])
				}
				if isDir := path != "f" && path != "g" && path != "other" && path != "d/in"; a.holds(num) != (isDir || c.what[path] == 0) {
					t.Errorf("%s: lease %t after the change", path, a.holds(num))
				}
				// Where files are watched by their directories, one that leaves its only
				// name is taken back from everybody.
				strays := b.e.piecemeal && c.what[path] == recallAttr && c.names != nil
				if path != "." && !b.holds(mine[i]) && !strays {
					t.Errorf("%s: the session's own lease is gone", path)
				}
			}
			if !b.e.piecemeal {
				b.quiet()
			}
		})
	}
}

// Every operation that changes something is entered before it begins.
func TestEveryChangeIsEntered(t *testing.T) {
	exceptions := map[string]string{
		"tmpfile": "what it makes nobody knows, and no directory has it as an entry",
	}
	a, _ := twoLeasers(t, Config{}, makeTree)
	f, d := a.lookup("f").Node, a.lookup("d").Node
	h := a.open(f, fsproto.OpenReadWrite)
	values := map[string]any{
		"Node": f, "Parent": d, "NewParent": fsproto.RootNode, "Name": "in", "NewName": "g",
		"Handle": h, "From": h, "To": h,
	}
	tried := 0
	for _, m := range methods {
		if m.op.Access != rpc.Change {
			continue
		}
		tried++
		req := m.op.NewReq()
		v := reflect.ValueOf(req).Elem()
		for name, value := range values {
			if field := v.FieldByName(name); field.IsValid() {
				field.Set(reflect.ValueOf(value))
			}
		}
		c, err := a.s.beginChange(context.Background(), req, false)
		must(t, err)
		if (c == nil) != (exceptions[m.op.Name] != "") {
			t.Errorf("%s: entered %t; exception: %q", m.op.Name, c != nil, exceptions[m.op.Name])
		}
		c.end()
	}
	if tried < 10 {
		t.Errorf("only %d operations change something", tried)
	}
}

func TestChangeWaitsForTheAnswer(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	h := b.open(b.lookup("f").Node, fsproto.OpenWrite)
	a.leased("f")
	release := a.holding()
	defer release()
	done := begin(func() {
		if _, err := b.write(fsproto.WriteReq{Handle: h}, "new content"); err != nil {
			t.Error(err)
		}
	})
	a.recalled()
	waits(t, done, "a write")
	b.content("f", "old content")
	release()
	ends(t, done, "a write")
	b.content("f", "new content")
}

// What is given while a change waits for an answer is taken back before the change is
// made, too, until the change has waited often enough.
func TestChangeTakesBackWhatIsGivenMeanwhile(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	h := b.open(b.lookup("f").Node, fsproto.OpenWrite)
	num := a.leased("f")[0]
	release := a.holding()
	done := begin(func() {
		if _, err := b.write(fsproto.WriteReq{Handle: h}, "new content"); err != nil {
			t.Error(err)
		}
	})
	for n := range recallRounds + 1 {
		got := a.recalled()
		again := do(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: num}).Attr.Lease
		if given := again >= got.Nodes[0].Lease; given != (n < recallRounds) {
			t.Errorf("recall %d: number %d, lease %d", n, got.Nodes[0].Lease, again)
		}
		next := a.holding()
		waits(t, done, "a write")
		b.content("f", "old content")
		release()
		release = next
	}
	release()
	ends(t, done, "a write")
	b.content("f", "new content")
}

// What is given while a change waits, and taken back by another change, is gone before
// either of them is made.
func TestChangeWaitsForWhatOthersTakeBack(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	h := b.open(b.lookup("f").Node, fsproto.OpenWrite)
	num := a.leased("f")[0]
	release := a.holding()
	defer release()
	l := &b.e.leases
	enter := func() (*change, []*recall) {
		c := &change{s: b.s}
		c.file(h, recallWhole)
		return c, l.begin(c)
	}
	one, first := enter()
	do(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: num})
	if !a.holds(num) {
		t.Fatal("no lease is given while a change waits")
	}
	two, second := enter()
	if _, _, err := l.repeat(one, false); err != nil || one.made {
		t.Error("made, while a lease is there that the other change takes back")
	}
	release()
	must(t, l.await(context.Background(), append(first, second...)))
	for _, c := range []*change{one, two} {
		if _, _, err := l.repeat(c, false); err != nil || !c.made {
			t.Error("not made when all have answered")
		}
		c.end()
	}
}

// A file that several sessions have open, and one for writing, is shared.
func TestShared(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	open := func(l *leaser, flags uint32) (h fsproto.Handle, shared bool) {
		h = newHandle()
		return h, do(l.env, fsproto.Open, fsproto.OpenReq{Node: l.lookup("f").Node, Handle: h, Flags: flags}).Shared
	}
	check := func(what string, l *leaser, flags uint32, want bool) fsproto.Handle {
		t.Helper()
		h, got := open(l, flags)
		if got != want {
			t.Errorf("%s: shared: %v", what, got)
		}
		return h
	}
	r1 := check("alone", a, fsproto.OpenRead, false)
	r2 := check("all read", b, fsproto.OpenRead, false)
	w := check("others read", b, fsproto.OpenWrite, true)
	a.recalled()
	check("others write", a, fsproto.OpenRead, true)
	for _, h := range []fsproto.Handle{r2, w} {
		do(b.env, fsproto.Release, fsproto.ReleaseReq{Handle: h})
	}
	check("others have closed it", a, fsproto.OpenWrite, false)
	do(a.env, fsproto.Release, fsproto.ReleaseReq{Handle: r1})
}

// Nobody is asked who has forgotten the node, also while he is being asked.
func TestForgottenIsNotAsked(t *testing.T) {
	a, b := twoLeasers(t, Config{recallTimeout: time.Hour}, makeTree)
	h := b.open(b.lookup("f").Node, fsproto.OpenWrite)
	en := a.lookup("f")
	forget := fsproto.ForgetReq{Nodes: []fsproto.Forgotten{{Node: en.Node, Stamp: en.Stamp}}}
	do(a.env, fsproto.Forget, forget)
	_, err := b.write(fsproto.WriteReq{Handle: h}, "one")
	must(t, err)
	a.quiet()

	en = a.lookup("f")
	forget.Nodes[0] = fsproto.Forgotten{Node: en.Node, Stamp: en.Stamp}
	defer a.holding()()
	done := begin(func() { b.write(fsproto.WriteReq{Handle: h}, "two") })
	a.recalled()
	waits(t, done, "a write")
	do(a.env, fsproto.Forget, forget)
	ends(t, done, "a write")
}

// Leases are given only by replies that nothing can have overtaken.
func TestGrantsAreRefused(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	num := a.lookup("f").Node
	get := func() uint64 {
		return do(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: num}).Attr.Lease
	}
	other := b.lookup("f").Node
	c, err := b.s.beginChange(context.Background(), &fsproto.SetattrReq{Node: other}, false)
	must(t, err)
	looks := begin(func() { get() })
	waits(t, looks, "a look at a file that somebody else is changing")
	var beside fsproto.AttrRes
	a.s.grantAll(a.e.leases.now(), false, &fsproto.GetattrReq{Node: num}, &beside)
	if beside.Attr.Lease != 0 {
		t.Error("lease given while somebody else changes the file")
	}
	c.end()
	ends(t, looks, "a look at a file that somebody else has changed")

	began := a.e.leases.now()
	do(b.env, fsproto.Setattr, fsproto.SetattrReq{Node: other, Mask: fsproto.SetMode, Mode: 0o600})
	var late fsproto.AttrRes
	a.s.grantAll(began, false, &fsproto.GetattrReq{Node: num}, &late)
	if late.Attr.Lease != 0 {
		t.Error("lease given by a reply from before a change")
	}
	if get() == 0 {
		t.Error("no lease after the change")
	}

	own, err := a.s.beginChange(context.Background(), &fsproto.SetattrReq{Node: num}, false)
	must(t, err)
	if get() != 0 {
		t.Error("lease given by a look at a file that the session itself is changing")
	}
	give := func(began uint64, changes bool, num fsproto.Node) uint64 {
		var res fsproto.AttrRes
		a.s.grantAll(began, changes, &fsproto.GetattrReq{Node: num}, &res)
		return res.Attr.Lease
	}
	if give(a.e.leases.now(), true, num) == 0 {
		t.Error("the session's own change kept it from a lease")
	}
	own.end()

	d := a.lookup("d").Node
	began = a.e.leases.now()
	do(a.env, fsproto.Setattr, fsproto.SetattrReq{Node: d, Mask: fsproto.SetMode, Mode: 0o700})
	if give(began, false, d) == 0 {
		t.Error("a change of the session's own that has ended kept it from a lease")
	}
}

// A reply that the recall has overtaken is told by its number, whatever is recalled.
func TestNumbersTellWhatIsVoid(t *testing.T) {
	a, b := twoLeasers(t, Config{MaxLeases: 4}, func(dir string) {
		makeTree(dir)
		for i := range 20 {
			os.WriteFile(filepath.Join(dir, fmt.Sprint("n", i)), nil, 0o666)
		}
	})
	given := make(map[fsproto.Node]uint64)
	for i := range 20 {
		en := a.lookup(fmt.Sprint("n", i))
		given[en.Node] = en.Attr.Lease
	}
	en := a.lookup("f")
	given[en.Node] = en.Attr.Lease
	do(b.env, fsproto.Setattr, fsproto.SetattrReq{Node: b.lookup("f").Node, Mask: fsproto.SetMode, Mode: 0o600})
	recalled := a.recalledAll()
	if len(recalled) < 17 {
		t.Errorf("%d nodes recalled", len(recalled))
	}
	for num, r := range recalled {
		if r.Lease <= given[num] {
			t.Errorf("node %d: lease %d, recall %d", num, given[num], r.Lease)
		}
	}
	if again := do(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: en.Node}).Attr.Lease; again < recalled[en.Node].Lease {
		t.Errorf("new lease %d, recall before it %d", again, recalled[en.Node].Lease)
	}
}

// At the limit those leases go that were given longest ago.
func TestColdestLeasesGo(t *testing.T) {
	a, _ := twoLeasers(t, Config{MaxLeases: 4}, func(dir string) {
		for i := range 8 {
			os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o666)
		}
	})
	var nodes []fsproto.Node
	for i := range 8 {
		nodes = append(nodes, a.lookup(fmt.Sprint(i)).Node)
	}
	got := slices.Sorted(maps.Keys(a.recalledAll()))
	if want := slices.Sorted(slices.Values(nodes[:5])); !slices.Equal(got, want) {
		t.Errorf("recalled %v, want %v", got, want)
	}
	for i, num := range nodes {
		if a.holds(num) != (i >= 5) {
			t.Errorf("lease on file %d: %t", i, a.holds(num))
		}
	}
	if !a.holds(fsproto.RootNode) {
		t.Error("the warmest lease is gone")
	}
}

// Two sessions write one file: neither waits for the other, whose kernel may hold
// pages until its own write is answered. Each is called back for what it missed.
func TestTwoWriters(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	ha, hb := a.open(a.lookup("f").Node, fsproto.OpenWrite), b.open(b.lookup("f").Node, fsproto.OpenWrite)
	fa := a.leased("f")[0]
	a.recalledAll() // for the opens
	defer a.holding()()
	ca, err := a.s.beginChange(context.Background(), &fsproto.WriteReq{Handle: ha}, false)
	must(t, err)
	var cb *change
	done := begin(func() { cb, err = b.s.beginChange(context.Background(), &fsproto.WriteReq{Handle: hb}, false) })
	ends(t, done, "b's write")
	must(t, err)
	if len(a.calls) > 0 {
		t.Error("a was called back while it was writing")
	}
	cb.end()
	var res fsproto.AttrRes
	a.s.grantAll(a.e.leases.now(), true, &fsproto.GetattrReq{Node: fa}, &res)
	if res.Attr.Lease != 0 {
		t.Error("a got a lease although it has missed a change")
	}
	ca.end()
	got := a.recalled()
	if len(got.Nodes) != 1 || got.Nodes[0].Node != fa || got.Nodes[0].What != recallWhole {
		t.Errorf("a was called back for %+v", got)
	}
	if a.holds(fa) {
		t.Error("a has its lease still")
	}
}

// A session that begins to write while another change waits is called back for that one
// afterwards, too; one that only opens the file is at once.
func TestWriterMeanwhile(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	ha, hb := a.open(a.lookup("f").Node, fsproto.OpenWrite), b.open(b.lookup("f").Node, fsproto.OpenWrite)
	fa := a.leased("f")[0]
	l := &b.e.leases
	enter := func() (*change, []*recall) {
		c := &change{s: b.s}
		c.file(hb, recallWhole)
		return c, l.begin(c)
	}
	cb, waits := enter()
	must(t, l.await(context.Background(), waits))
	do(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: fa})
	if !a.holds(fa) {
		t.Fatal("no lease is given while a change waits")
	}
	ca, err := a.s.beginChange(context.Background(), &fsproto.WriteReq{Handle: ha}, false)
	must(t, err)
	if _, _, err := l.repeat(cb, false); err != nil || !cb.made {
		t.Fatal("a write waits for another")
	}
	cb.end()
	ca.end()
	if a.holds(fa) {
		t.Error("a has its lease still, and has missed a change")
	}

	fa = a.leased("f")[0]
	open, err := a.s.beginChange(context.Background(), &fsproto.OpenReq{Node: fa, Flags: fsproto.OpenWrite}, false)
	must(t, err)
	cb, waits = enter()
	if len(waits) == 0 {
		t.Error("a is not called back while it opens the file")
	}
	must(t, l.await(context.Background(), waits))
	cb.end()
	open.end()
}

// More names than a recall holds make it one of the whole directory.
func TestManyNames(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	num := a.leased("d")[0]
	dir := b.lookup("d").Node
	release := a.holding()
	defer release()
	mkdir := func(i int) <-chan struct{} {
		return begin(func() {
			try(b.env, fsproto.Mkdir, fsproto.MkdirReq{Parent: dir, Name: fmt.Sprint("n", i), Mode: 0o777})
		})
	}
	done := []<-chan struct{}{mkdir(0)}
	if first := a.recalled(); len(first.Nodes) != 1 || !slices.Equal(first.Nodes[0].Names, []string{"n0"}) {
		t.Errorf("first recall %+v", first)
	}
	if !a.holds(num) {
		t.Error("the lease on the directory went with one name")
	}
	for i := range fsproto.MaxRecallName + 1 {
		done = append(done, mkdir(i+1))
	}
	if !eventually(t, soon, func() bool { return !a.holds(num) }) {
		t.Error("the lease on the directory is there")
	}
	release()
	second := a.recalled()
	if r := second.Nodes[0]; len(second.Nodes) != 1 || r.What&fsproto.RecallNames == 0 || len(r.Names) != 0 {
		t.Errorf("second recall %+v", second)
	}
	for _, d := range done {
		ends(t, d, "mkdir")
	}
}

// A lease costs little beside the node and what the session knows of it anyway.
func TestLeaseSize(t *testing.T) {
	const sessions, nodes = 50, 200
	l := leases{max: 1 << 20, clock: 1, sessions: make(map[*Session]struct{})}
	var each int
	for range nodes {
		n := &node{}
		for range sessions {
			r := &ref{s: &Session{recalls: recaller{peer: &rpc.Peer{}}}, n: n}
			if l.grant(r, 1, 1, false) == 0 {
				t.Fatal("no lease")
			}
		}
		each = int(reflect.TypeFor[lease]().Size()) + cap(n.holders)*int(reflect.TypeFor[*ref]().Size())/sessions
	}
	if each > 200 {
		t.Errorf("%d bytes per lease", each)
	}
}

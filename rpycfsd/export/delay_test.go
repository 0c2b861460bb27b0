package export

import (
	"slices"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
)

// delaying opens a file for writing with the wish to delay, and reports whether a may.
func (a *leaser) delaying(num fsproto.Node, flags uint32) (h fsproto.Handle, may bool) {
	a.t.Helper()
	h = newHandle()
	res := do(a.env, fsproto.Open, fsproto.OpenReq{Node: num, Handle: h, Flags: flags})
	return h, res.Attr.Lease&fsproto.LeaseWrite != 0
}

// Who alone has a file may delay changes of it. Everybody else who looks at it, by
// whatever call, waits until that one has been called back.
func TestDelay(t *testing.T) {
	for name, look := range map[string]func(b *leaser, f fsproto.Node, h fsproto.Handle){
		"getattr": func(b *leaser, f fsproto.Node, _ fsproto.Handle) {
			do(b.env, fsproto.Getattr, fsproto.GetattrReq{Node: f})
		},
		"access": func(b *leaser, f fsproto.Node, _ fsproto.Handle) {
			do(b.env, fsproto.Access, fsproto.AccessReq{Node: f})
		},
		"lookup": func(b *leaser, _ fsproto.Node, _ fsproto.Handle) { b.lookup("f") },
		"open":   func(b *leaser, f fsproto.Node, _ fsproto.Handle) { b.open(f, fsproto.OpenRead) },
		"listxattr": func(b *leaser, f fsproto.Node, _ fsproto.Handle) {
			do(b.env, fsproto.Listxattr, fsproto.NodeReq{Node: f})
		},
		"readdir": func(b *leaser, _ fsproto.Node, h fsproto.Handle) {
			do(b.env, fsproto.Readdir, fsproto.ReaddirReq{Handle: h, Size: 64 << 10, Entries: true})
		},
		"rename": func(b *leaser, _ fsproto.Node, _ fsproto.Handle) {
			do(b.env, fsproto.Rename, fsproto.RenameReq{Parent: fsproto.RootNode, Name: "f", NewParent: fsproto.RootNode, NewName: "g"})
		},
		"setattr": func(b *leaser, f fsproto.Node, _ fsproto.Handle) {
			do(b.env, fsproto.Setattr, fsproto.SetattrReq{Node: f, Mask: fsproto.SetSize})
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := twoLeasers(t, Config{}, makeTree)
			fb := b.lookup("f").Node
			dir := newHandle()
			do(b.env, fsproto.Opendir, fsproto.OpenReq{Node: fsproto.RootNode, Handle: dir, Flags: fsproto.OpenDir})
			fa := a.leased("f")[0]
			h, may := a.delaying(fa, fsproto.OpenWrite|fsproto.OpenDelay)
			if !may {
				t.Fatal("a may not delay")
			}
			b.recalledAll() // what b has looked up was called back by the open
			release := a.holding()
			done := begin(func() { look(b, fb, dir) })
			got := a.recalled()
			if !slices.ContainsFunc(got.Nodes, func(r fsproto.Recalled) bool { return r.Node == fa }) {
				t.Errorf("a was called back for %+v", got)
			}
			waits(t, done, name)
			do(a.env, fsproto.Write, fsproto.WriteReq{Handle: h}) // what was delayed waits for nobody
			release()
			ends(t, done, name)
		})
	}
}

// The right is not given where others have the file or a lease on it, nor to who has not
// asked, and ends with the last open file.
func TestDelayNotGiven(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	fa := a.leased("f")[0]
	if _, may := a.delaying(fa, fsproto.OpenRead|fsproto.OpenDelay); may {
		t.Error("given to who reads")
	}
	h, may := a.delaying(fa, fsproto.OpenWrite)
	if may {
		t.Error("given to who has not asked")
	}
	do(a.env, fsproto.Release, fsproto.ReleaseReq{Handle: h})
	hb := b.open(b.lookup("f").Node, fsproto.OpenRead)
	if h, may = a.delaying(fa, fsproto.OpenWrite|fsproto.OpenDelay); may {
		t.Error("given although b has the file open")
	}
	do(a.env, fsproto.Release, fsproto.ReleaseReq{Handle: h})
	do(b.env, fsproto.Release, fsproto.ReleaseReq{Handle: hb})
	if h, may = a.delaying(fa, fsproto.OpenWrite|fsproto.OpenDelay); !may {
		t.Error("not given when b has closed it")
	}
	a.recalledAll()
	do(a.env, fsproto.Release, fsproto.ReleaseReq{Handle: h})
	b.lookup("f")
	a.quiet()
	if n := a.e.leases.delayers.Load(); n != 0 {
		t.Errorf("%d files with a right that nobody has", n)
	}
}

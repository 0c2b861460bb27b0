package export

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
)

// Who changes a name waits for others who are changing it, and calls back for what they
// have made of it.
func TestChangesOfOneName(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	b.leased("d", "d/in")
	moved, d := b.leased("other")[0], b.lookup("d").Node
	rename := fsproto.RenameReq{Parent: fsproto.RootNode, Name: "other", NewParent: d, NewName: "in"}
	unlink := fsproto.UnlinkReq{Parent: a.lookup("d").Node, Name: "in"}

	c, err := b.s.beginChange(context.Background(), &rename, false)
	must(t, err)
	done := begin(func() { do(a.env, fsproto.Unlink, unlink) })
	waits(t, done, "unlink while something is moved there")
	b.recalledAll()
	must(t, os.Rename(filepath.Join(b.dir, "other"), filepath.Join(b.dir, "d", "in")))
	c.end()
	ends(t, done, "unlink")
	got := b.recalledAll()
	if !slices.Equal(got[d].Names, []string{"in"}) {
		t.Errorf("who has moved something there was called back for %+v, not for the name", got)
	}
	if b.holds(moved) {
		t.Error("who has moved it has a lease on what was unlinked")
	}
}

func TestOvertaken(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	l := &a.e.leases
	for _, c := range []struct {
		what string
		by   func()
		want error
	}{
		{"in vain", func() {
			try(b.env, fsproto.Mkdir, fsproto.MkdirReq{Parent: b.lookup("d").Node, Name: "in", Mode: 0o777})
		}, nil},
		{"of another name", func() {
			do(b.env, fsproto.Mkdir, fsproto.MkdirReq{Parent: b.lookup("d").Node, Name: "new", Mode: 0o777})
		}, nil},
		{"of the name", func() {
			do(b.env, fsproto.Rename, fsproto.RenameReq{Parent: fsproto.RootNode, Name: "f", NewParent: b.lookup("d").Node, NewName: "in"})
		}, errOvertaken},
	} {
		unlink := a.s.changeOf(&fsproto.UnlinkReq{Parent: a.lookup("d").Node, Name: "in"})
		must(t, l.await(context.Background(), l.begin(unlink)))
		c.by()
		if _, _, err := l.repeat(unlink, false); err != c.want {
			t.Errorf("after a change %s: %v, want %v", c.what, err, c.want)
		}
		unlink.end()
	}
}

// Who moves something to where it has no lease is called back for the name all the same:
// its kernel goes on to believe what it did where the name was before.
func TestMovedIsCalledBack(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	b.leased("d", "d/in")
	e := b.lookup("e").Node
	b.s.e.leases.mu.Lock()
	b.s.e.leases.end(b.s.numbers[e].r)
	b.s.e.leases.mu.Unlock()
	other, err := a.s.beginChange(context.Background(), &fsproto.MkdirReq{Parent: a.lookup("e").Node, Name: "new"}, false)
	must(t, err)
	res := do(b.env, fsproto.Rename, fsproto.RenameReq{Parent: b.lookup("d").Node, Name: "in", NewParent: e, NewName: "out"})
	other.end()
	if res.NewParent.Lease != 0 {
		t.Fatal("a lease was given while another changes the directory")
	}
	b.recalledAll()
	do(a.env, fsproto.Unlink, fsproto.UnlinkReq{Parent: a.lookup("e").Node, Name: "out"})
	if got := b.recalledAll()[e]; !slices.Equal(got.Names, []string{"out"}) {
		t.Errorf("called back for %+v", got)
	}
}

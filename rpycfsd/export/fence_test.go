package export

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// fences makes a, which has leases on file f as num and on the root, the session that
// does not answer while b changes the file. The change must succeed.
func fences(t *testing.T, a, b *leaser, num fsproto.Node) {
	t.Helper()
	h := b.open(b.lookup("f").Node, fsproto.OpenWrite)
	done := begin(func() {
		if _, err := b.write(fsproto.WriteReq{Handle: h}, "new content"); err != nil {
			t.Error(err)
		}
	})
	ends(t, done, "a write")
	if a.holds(num) || a.holds(fsproto.RootNode) {
		t.Error("the session has leases still")
	}
}

// getattr asks aside, and fails the test if there is no lease.
func getattr(a *leaser, num fsproto.Node) <-chan struct{} {
	return begin(func() {
		res, err := try(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: num})
		if err != nil || res.Attr.Lease == 0 {
			a.t.Errorf("getattr: lease %d, %v", res.Attr.Lease, err)
		}
	})
}

// Who does not answer in time is not waited for, and is not served until it has
// answered that it lost everything.
func TestFence(t *testing.T) {
	a, b := twoLeasers(t, Config{recallTimeout: while}, makeTree)
	release := a.holding()
	defer release()
	num := a.leased("f")[0]
	fences(t, a, b, num)
	if first := a.recalled(); first.All || len(first.Nodes) != 1 {
		t.Errorf("first recall %+v", first)
	}
	if second := a.recalled(); !second.All || len(second.Nodes) != 0 {
		t.Errorf("second recall %+v", second)
	}
	served := getattr(a, num)
	waits(t, served, "a call of a fenced session")
	if _, err := b.write(fsproto.WriteReq{Handle: b.open(b.lookup("f").Node, fsproto.OpenWrite)}, "more"); err != nil {
		t.Error(err)
	}
	release()
	ends(t, served, "a call of the session")
	a.quiet()
}

// Who is not connected is not waited for at all.
func TestFenceOfWhoIsAway(t *testing.T) {
	a, b := twoLeasers(t, Config{recallTimeout: time.Hour}, makeTree)
	num := a.leased("f")[0]
	a.link.Cut()
	if !eventually(t, soon, func() bool { return !a.link.Server.Connected() }) {
		t.Fatal("still connected")
	}
	fences(t, a, b, num)
	release := a.holding()
	defer release()
	a.link.Connect()
	if req := a.recalled(); !req.All {
		t.Errorf("recall %+v", req)
	}
	served := getattr(a, num)
	waits(t, served, "a call of a fenced session")
	release()
	ends(t, served, "a call of the session")
}

// The connection is lost while an answer is waited for.
func TestFenceOfWhoLeaves(t *testing.T) {
	a, b := twoLeasers(t, Config{recallTimeout: time.Hour}, makeTree)
	num := a.leased("f")[0]
	defer a.holding()()
	cut := begin(func() {
		a.recalled()
		a.link.Cut()
	})
	fences(t, a, b, num)
	ends(t, cut, "cutting")
}

// A call that waits for the fence ends with the session.
func TestCloseOfAFencedSession(t *testing.T) {
	a, b := twoLeasers(t, Config{recallTimeout: while}, makeTree)
	defer a.holding()()
	num := a.leased("f")[0]
	fences(t, a, b, num)
	a.recalled()
	a.recalled()
	done := begin(func() {
		_, err := try(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: num})
		want(t, err, rpc.ErrGone)
	})
	waits(t, done, "a call of a fenced session")
	closed := begin(a.s.Close)
	ends(t, closed, "closing")
	ends(t, done, "the call")
}

// When a session ends nobody has answered for its client: what waits for that is not done.
func TestEndOfAFencedSession(t *testing.T) {
	a, b := twoLeasers(t, Config{recallTimeout: while}, makeTree)
	defer a.holding()()
	num := a.leased("f")[0]
	fences(t, a, b, num)
	var calls sync.WaitGroup
	for i := range 20 {
		calls.Go(func() {
			req := fsproto.MkdirReq{Parent: fsproto.RootNode, Name: fmt.Sprint("late", i), NewNode: fsproto.ClientChosen | fsproto.Node(1000+i)}
			err := rpc.Call(t.Context(), a.link.Client, fsproto.Mkdir, &req, &fsproto.CreateNodeRes{})
			want(t, err, rpc.ErrGone)
		})
	}
	waits(t, begin(calls.Wait), "calls of a fenced session")
	a.link.Server.End(nil)
	a.link.Client.End(nil)
	calls.Wait()
	if made, _ := filepath.Glob(filepath.Join(a.dir, "late*")); len(made) > 0 {
		t.Errorf("%d changes were made by a session that had ended", len(made))
	}
}

// Lost events take everything from everybody.
func TestOverflowFencesAll(t *testing.T) {
	a, b := twoLeasers(t, Config{}, makeTree)
	num, other := a.leased("f")[0], b.leased("f")[0]
	began := a.e.leases.now()
	a.e.leases.overflow(false)
	for _, l := range []*leaser{a, b} {
		if req := l.recalled(); !req.All {
			t.Errorf("recall %+v", req)
		}
	}
	if a.holds(num) || b.holds(other) || a.holds(fsproto.RootNode) {
		t.Error("leases are left")
	}
	ends(t, getattr(a, num), "a call")
	var late fsproto.AttrRes
	a.s.grantAll(began, false, &fsproto.GetattrReq{Node: num}, &late)
	if late.Attr.Lease != 0 {
		t.Error("lease given by a reply from before the loss")
	}
}

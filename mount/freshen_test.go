package mount

import (
	"context"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
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

// stuckKernel does not answer before it may.
type stuckKernel struct {
	notices
	may chan struct{}
}

func (k *stuckKernel) InodeNotify(uint64, int64, int64) fuse.Status {
	<-k.may
	return fuse.OK
}

// TestLockedTooLate: a lock is given back if its request ends before it can be told of it,
// and nothing that its owner had before.
func TestLockedTooLate(t *testing.T) {
	set := make(chan fsproto.Lock, 3)
	mux := new(rpc.Mux)
	rpc.Handle(mux, fsproto.Setlk, func(_ context.Context, _ *rpc.Request, req *fsproto.SetlkReq, _ *fsproto.SetlkRes) error {
		set <- req.Lock
		return nil
	})
	_, peer := rpctest.Pair(t, mux, nil)
	k := stuckKernel{may: make(chan struct{})}
	g := newGuard(0)
	fs := &FS{peer: peer, guard: g, locks: newLockKeeper(g), notices: &notifier{kernel: &k}, nodes: newNodeTable()}
	lock := func(kind uint8, start, end uint64) fsproto.Lock {
		return fsproto.Lock{Kind: fsproto.LockFlock, Type: kind, Owner: 1, Start: start, End: end}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, had := range []bool{false, true} {
		l := lock(fsproto.LockWrite, 0, fsproto.LockEnd)
		want := lock(fsproto.LockUnlock, 0, fsproto.LockEnd)
		if had {
			fs.locks.asked(9, 1, 5, &l)
			fs.locks.answered(9, &l, true)
			want = l
		}
		fs.locks.asked(9, 1, 5, &l)
		st, told := fs.locked(ctx, 9, &fuse.LkIn{Fh: 5}, &l)
		fs.locks.answered(9, &l, told)
		if st != fuse.EINTR || told {
			t.Errorf("had %v: %v, told %v", had, st, told)
		}
		if err := fs.locks.undoing.wait(t.Context(), 9); err != nil {
			t.Fatal(err)
		}
		if got := <-set; got != want {
			t.Errorf("had %v: then %+v was set, want %+v", had, got, want)
		}
	}
	close(k.may)
	fs.locks.stop()
	if len(set) > 0 {
		t.Errorf("then %+v was set", <-set)
	}
}

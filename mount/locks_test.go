package mount

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// TestGuard: names told before the first lock in a directory are taken back, and
// none is told with a time-out while a file there has locks.
func TestGuard(t *testing.T) {
	g := newGuard(time.Hour)
	for _, name := range []string{"b", "a", "b"} {
		if !g.mayKeep(5, name) {
			t.Errorf("%s may not be kept in a directory without locks", name)
		}
	}
	g.mayKeep(6, "other")
	if names, _ := g.stale(5); names != nil {
		t.Errorf("%q are stale without a lock", names)
	}
	g.begin(5)
	g.begin(5)
	if g.mayKeep(5, "c") || !g.mayKeep(6, "c") {
		t.Error("the wrong directory is guarded")
	}
	if names, wait := g.stale(5); !slices.Equal(names, []string{"a", "b"}) || wait != 0 {
		t.Errorf("stale are %q, wait %v", names, wait)
	}
	g.cleaned(5)
	if names, _ := g.stale(5); names != nil {
		t.Errorf("%q are stale once taken back", names)
	}
	g.end(5)
	g.end(5)
	if g.mayKeep(5, "d") {
		t.Error("a name may be kept right after the last lock")
	}
	g.dirs[5].until = time.Now()
	if !g.mayKeep(5, "d") {
		t.Error("the guard does not end")
	}
	g.begin(5)
	if names, _ := g.stale(5); !slices.Contains(names, "d") {
		t.Errorf("stale are %q, without what was told between two locks", names)
	}
	var none *guard
	if !none.mayKeep(5, "x") {
		t.Error("without locks at the daemon nothing is guarded")
	}
}

// TestGuardBounds: names that could not be remembered have to be waited for, and
// directories without locks make room.
func TestGuardBounds(t *testing.T) {
	g := newGuard(time.Hour)
	for i := range recentNames {
		g.mayKeep(5, strconv.Itoa(i))
	}
	g.mayKeep(6, "one too many")
	g.begin(5)
	names, wait := g.stale(5)
	if len(names) != recentNames-1 || wait <= 0 || wait > time.Hour {
		t.Errorf("%d names are stale, wait %v", len(names), wait)
	}
	for i := range 2 * guardedDirs {
		g.begin(fsproto.Node(100 + i))
		g.end(fsproto.Node(100 + i))
	}
	if n := len(g.dirs); n > guardedDirs {
		t.Errorf("%d directories are guarded", n)
	}
	if g.mayKeep(5, "x") {
		t.Error("a directory with a lock has made room")
	}
}

func testLock(owner uint64, pid int) *fsproto.Lock {
	return &fsproto.Lock{Owner: owner, End: fsproto.LockEnd, PID: uint32(pid)}
}

// TestLockKeeper: an owner is remembered as long as it may have locks.
func TestLockKeeper(t *testing.T) {
	k := newLockKeeper(newGuard(time.Second))
	defer k.stop()
	l := testLock(1, os.Getpid())
	may := func() bool { return k.mayHave(7, l) }
	k.asked(7, 5, 70, l)
	if k.answered(7, l, false); may() {
		t.Error("an owner that got nothing is remembered")
	}
	k.asked(7, 5, 70, l)
	k.answered(7, l, true)
	changes := k.unlocking(7, l)
	k.asked(7, 5, 71, l) // while it unlocks
	if k.unlocked(7, l, changes); !may() {
		t.Error("an owner that locks meanwhile is forgotten")
	}
	k.answered(7, l, true)
	if k.unlocked(7, l, changes); !may() {
		t.Error("an owner that has locked meanwhile is forgotten")
	}
	if k.dirOf(7) != 5 {
		t.Errorf("names of %d are guarded", k.dirOf(7))
	}
	closed := k.closing(7, 72) // another handle of the file
	if closed(); !may() {
		t.Error("another handle's closing has ended the locks")
	}
	if k.awaitClosing(context.Background(), 7, l, true) {
		t.Error("a holder that lives is waited for")
	}
	closed = k.closing(7, 71)
	done := k.closingOf(7, l)
	if done == nil {
		t.Fatal("a handle that is being closed is not waited for")
	}
	closed()
	if <-done; may() || len(k.nodes) != 0 {
		t.Error("a closed handle's owner is remembered")
	}
	k.asked(7, 5, 70, l)
	if k.lost(7, 70); len(k.nodes) != 0 {
		t.Error("lost locks are remembered")
	}
	k.answered(7, l, true) // too late
	if k.awaitClosing(context.Background(), 7, &fsproto.Lock{}, false) {
		t.Error("another client's lock is waited for")
	}
}

// TestExited: a process that has ended counts as such before it is waited for.
func TestExited(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := uint32(cmd.Process.Pid)
	for end := time.Now().Add(20 * time.Second); !exited(pid); {
		if time.Now().After(end) {
			t.Fatal("a zombie does not count as ended")
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !exited(pid) || exited(uint32(os.Getpid())) || exited(0) {
		t.Error("the wrong processes have ended")
	}
}

// TestCallbacks: a wait ends once, whatever the daemon says.
func TestCallbacks(t *testing.T) {
	c := NewCallbacks()
	grant := func(g ...fsproto.LockGrant) {
		if err := c.lkGranted(context.Background(), nil, &fsproto.LkGrantedReq{Grants: g}, nil); err != nil {
			t.Error(err)
		}
	}
	first, told := c.wait()
	second, never := c.wait()
	grant(fsproto.LockGrant{Wait: 99}, fsproto.LockGrant{Wait: first, Errno: uint32(syscall.EDEADLK)}, fsproto.LockGrant{Wait: first})
	if e := <-told; e != syscall.EDEADLK {
		t.Errorf("told %v", e)
	}
	c.forget(second)
	grant(fsproto.LockGrant{Wait: second})
	if len(told)+len(never) != 0 || len(c.waits) != 0 {
		t.Error("a wait ends twice, or after it was given up")
	}
	if err := c.locksLost(context.Background(), nil, &fsproto.LocksLostReq{Handles: []fsproto.Handle{1}}, nil); err != nil {
		t.Errorf("before there is a mount: %v", err)
	}
}

func TestLockOf(t *testing.T) {
	in := &fuse.LkIn{Owner: 9, Lk: fuse.FileLock{Start: 3, End: 1<<64 - 1, Typ: syscall.F_WRLCK, Pid: 4}}
	l, st := lockOf(in)
	if want := (fsproto.Lock{Kind: fsproto.LockPosix, Type: fsproto.LockWrite, Owner: 9, Start: 3, End: fsproto.LockEnd, PID: 4}); l != want || !st.Ok() {
		t.Errorf("%+v, %v", l, st)
	}
	in.LkFlags = fuse.LK_FLOCK
	if l, _ = lockOf(in); l.Kind != fsproto.LockFlock || l.Start != 0 {
		t.Errorf("flock is %+v", l)
	}
	in.Lk.Typ = 77
	if _, st = lockOf(in); st != fuse.EINVAL {
		t.Errorf("type 77: %v", st)
	}
	if asksOFD(uint32(os.Getpid())) || asksOFD(0) {
		t.Error("this process waits for no lock")
	}
}

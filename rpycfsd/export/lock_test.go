package export

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
	"golang.org/x/sys/unix"
)

// lockPatience bounds every wait for something that should happen soon.
const lockPatience = 30 * time.Second

// locker is a client that locks.
type locker struct {
	*env
	link    *rpctest.Session
	granted chan fsproto.LockGrant
	lost    chan fsproto.Handle
	waits   uint64
}

// newLocker attaches a new session to the export of v.
func (v *env) newLocker() *locker {
	v.t.Helper()
	l := &locker{granted: make(chan fsproto.LockGrant, 4*maxLockWaits), lost: make(chan fsproto.Handle, 1000)}
	var server, client rpc.Mux
	s := v.session(Identity{})
	s.Register(&server)
	rpc.Handle(&client, fsproto.LkGranted, func(_ context.Context, _ *rpc.Request, req *fsproto.LkGrantedReq, _ *fsproto.Empty) error {
		for _, g := range req.Grants {
			l.granted <- g
		}
		return nil
	})
	rpc.Handle(&client, fsproto.LocksLost, func(_ context.Context, _ *rpc.Request, req *fsproto.LocksLostReq, _ *fsproto.Empty) error {
		for _, h := range req.Handles {
			l.lost <- h
		}
		return nil
	})
	l.link = rpctest.New(v.t, rpc.Config{Root: &server}, rpc.Config{Root: &client})
	l.env = &env{t: v.t, dir: v.dir, e: v.e, s: s, client: l.link.Client}
	do(l.env, fsproto.Attach, fsproto.AttachReq{})
	return l
}

func newLockEnv(t *testing.T) *env {
	return newEnv(t, Config{}, Identity{}, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("0123456789"), 0o644))
	})
}

func (l *locker) openFile(flags uint32) fsproto.Handle {
	l.t.Helper()
	return l.open(l.lookup("file").Node, flags)
}

const all = fsproto.LockEnd

func lock(kind, typ uint8, owner, start, end uint64) fsproto.Lock {
	return fsproto.Lock{Kind: kind, Type: typ, Owner: owner, Start: start, End: end, PID: uint32(owner)}
}

func posix(typ uint8, owner, start, end uint64) fsproto.Lock {
	return lock(fsproto.LockPosix, typ, owner, start, end)
}

// set asks for a lock without waiting and reports whether it was granted.
func (l *locker) set(h fsproto.Handle, k fsproto.Lock) bool {
	l.t.Helper()
	return !do(l.env, fsproto.Setlk, fsproto.SetlkReq{Handle: h, Lock: k}).Refused
}

// want checks that a lock is granted, or refused.
func (l *locker) want(granted bool, h fsproto.Handle, k fsproto.Lock) {
	l.t.Helper()
	if got := l.set(h, k); got != granted {
		l.t.Errorf("%+v: granted is %t", k, got)
	}
}

// queue asks for a lock that has to be waited for.
func (l *locker) queue(h fsproto.Handle, k fsproto.Lock) uint64 {
	l.t.Helper()
	l.waits++
	if !do(l.env, fsproto.Setlk, fsproto.SetlkReq{Handle: h, Lock: k, Wait: l.waits}).Queued {
		l.t.Fatalf("%+v: not queued", k)
	}
	return l.waits
}

// told returns the next grant.
func (l *locker) told() fsproto.LockGrant {
	l.t.Helper()
	select {
	case g := <-l.granted:
		return g
	case <-time.After(lockPatience):
		l.t.Fatal("nothing was granted")
	}
	panic("unreachable")
}

func (l *locker) isTold(wait uint64, errno syscall.Errno) {
	l.t.Helper()
	if g := l.told(); g != (fsproto.LockGrant{Wait: wait, Errno: uint32(errno)}) {
		l.t.Errorf("told %+v, want wait %d with %v", g, wait, errno)
	}
}

// notTold checks that nothing was granted up to now: a call that the daemon
// makes afterwards comes first.
func (l *locker) notTold() {
	l.t.Helper()
	select {
	case g := <-l.granted:
		l.t.Errorf("told %+v too early", g)
	default:
	}
}

// foreign is a program on the server: an open file of its own.
func (v *env) foreign(flags int) *os.File {
	v.t.Helper()
	f, err := os.OpenFile(v.path("file"), flags, 0)
	must(v.t, err)
	v.t.Cleanup(func() { f.Close() })
	return f
}

func ofd(f *os.File, typ int16, start, end int64) error {
	k := unix.Flock_t{Type: typ, Start: start}
	if end != all {
		k.Len = end - start + 1
	}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &k)
}

// TestLockModel makes random range operations of four owners, and the same ones
// with the kernel's own locks on another file: grants, refusals and what F_GETLK
// finds are the same at every step, and so are the locks that local programs see.
func TestLockModel(t *testing.T) {
	v := newLockEnv(t)
	oracle := filepath.Join(t.TempDir(), "oracle")
	must(t, os.WriteFile(oracle, nil, 0o644))
	const owners = 4
	var handles [owners + 1]fsproto.Handle
	var files [owners + 1]*os.File
	clients := []*locker{v.newLocker(), v.newLocker()}
	for i := range handles {
		handles[i] = clients[i%2].openFile(fsproto.OpenReadWrite)
		f, err := os.OpenFile(oracle, os.O_RDWR, 0)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		files[i] = f
	}
	local := v.foreign(os.O_RDWR)
	kernelTypes := map[uint8]int16{fsproto.LockRead: unix.F_RDLCK, fsproto.LockWrite: unix.F_WRLCK, fsproto.LockUnlock: unix.F_UNLCK}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	point := func() uint64 {
		if r.IntN(12) == 0 {
			return all
		}
		return r.Uint64N(24)
	}
	for step := range 1500 {
		i := r.IntN(owners)
		a, b := point(), point()
		k := posix([]uint8{fsproto.LockRead, fsproto.LockWrite, fsproto.LockUnlock}[r.IntN(3)], uint64(i+1), min(a, b), max(a, b))
		got := clients[i%2].set(handles[i], k)
		err := ofd(files[i], kernelTypes[k.Type], int64(k.Start), int64(k.End))
		if want := err == nil; got != want || err != nil && !errors.Is(err, syscall.EAGAIN) {
			t.Fatalf("step %d, %+v: granted %t, the kernel says %v", step, k, got, err)
		}
		probe := posix(uint8(r.IntN(2)), owners+1, min(point(), k.Start), k.End)
		want := unix.Flock_t{Type: kernelTypes[probe.Type], Start: int64(probe.Start)}
		if probe.End != all {
			want.Len = int64(probe.End - probe.Start + 1)
		}
		seen := want
		must(t, unix.FcntlFlock(files[owners].Fd(), unix.F_OFD_GETLK, &want))
		must(t, unix.FcntlFlock(local.Fd(), unix.F_OFD_GETLK, &seen))
		if want.Type != seen.Type || want.Type != unix.F_UNLCK && (want.Start != seen.Start || want.Len != seen.Len) {
			t.Fatalf("step %d, %+v: a local program sees %+v, want %+v", step, probe, seen, want)
		}
		res := do(clients[0].env, fsproto.Getlk, fsproto.GetlkReq{Handle: handles[owners], Lock: probe})
		end := int64(all)
		if want.Len != 0 {
			end = want.Start + want.Len - 1
		}
		if res.Conflict != (want.Type != unix.F_UNLCK) || res.Conflict &&
			(kernelTypes[res.Lock.Type] != want.Type || int64(res.Lock.Start) != want.Start || int64(res.Lock.End) != end) {
			t.Fatalf("step %d, %+v: getlk finds %+v, the kernel %+v", step, probe, res, want)
		}
	}
}

// TestLockQueue grants in order, and only what can be granted.
func TestLockQueue(t *testing.T) {
	v := newLockEnv(t)
	a, b := v.newLocker(), v.newLocker()
	ha, hb := a.openFile(fsproto.OpenReadWrite), b.openFile(fsproto.OpenReadWrite)
	a.want(true, ha, posix(fsproto.LockWrite, 1, 0, all))
	first := b.queue(hb, posix(fsproto.LockWrite, 2, 0, 9))
	second := b.queue(hb, posix(fsproto.LockRead, 3, 5, 20))
	third := b.queue(hb, posix(fsproto.LockRead, 4, 10, 30))
	a.want(true, ha, posix(fsproto.LockUnlock, 1, 0, 4))
	b.notTold()
	a.want(true, ha, posix(fsproto.LockRead, 1, 5, all)) // a downgrade lets readers in
	b.isTold(second, 0)
	b.isTold(third, 0)
	a.want(true, ha, posix(fsproto.LockUnlock, 1, 0, all))
	b.notTold() // second is in the way of first now
	b.want(true, hb, posix(fsproto.LockUnlock, 3, 0, all))
	b.isTold(first, 0)
}

// TestLockDeadlock: EDEADLK for owners that are processes, over files and
// sessions, at once or when the queue moves; never for open files.
func TestLockDeadlock(t *testing.T) {
	v := newLockEnv(t)
	a, b := v.newLocker(), v.newLocker()
	ha, hb := a.openFile(fsproto.OpenReadWrite), b.openFile(fsproto.OpenReadWrite)
	a.want(true, ha, posix(fsproto.LockWrite, 1, 0, 0))
	b.want(true, hb, posix(fsproto.LockWrite, 2, 1, 1))
	b.want(true, hb, posix(fsproto.LockWrite, 3, 2, 2))
	a.queue(ha, posix(fsproto.LockWrite, 1, 1, 1)) // 1 waits for 2
	b.queue(hb, posix(fsproto.LockWrite, 2, 2, 2)) // 2 for 3
	fail(b.env, fsproto.Setlk, fsproto.SetlkReq{Handle: hb, Lock: posix(fsproto.LockRead, 3, 0, 0), Wait: 99}, syscall.EDEADLK)
	b.want(false, hb, posix(fsproto.LockRead, 3, 0, 0)) // who does not wait is only refused

	c := v.newLocker()
	hc := c.openFile(fsproto.OpenReadWrite)
	c.want(true, hc, lock(fsproto.LockOFD, fsproto.LockWrite, 1, 100, 100))
	c.want(true, hc, lock(fsproto.LockOFD, fsproto.LockWrite, 2, 101, 101))
	c.queue(hc, lock(fsproto.LockOFD, fsproto.LockWrite, 1, 101, 101))
	c.queue(hc, lock(fsproto.LockOFD, fsproto.LockWrite, 2, 100, 100))
}

// TestLockCancel ends waiting, exactly once, whatever comes first.
func TestLockCancel(t *testing.T) {
	v := newLockEnv(t)
	a, b := v.newLocker(), v.newLocker()
	ha, hb := a.openFile(fsproto.OpenReadWrite), b.openFile(fsproto.OpenReadWrite)
	k := posix(fsproto.LockWrite, 1, 0, all)
	a.want(true, ha, k)
	w := b.queue(hb, k)
	if !do(b.env, fsproto.Cancellk, fsproto.CancellkReq{Wait: w}).Removed {
		t.Error("a queued lock was not removed")
	}
	if do(b.env, fsproto.Cancellk, fsproto.CancellkReq{Wait: w}).Removed {
		t.Error("removed twice")
	}
	w = b.queue(hb, k)
	a.want(true, ha, posix(fsproto.LockUnlock, 1, 0, all))
	if do(b.env, fsproto.Cancellk, fsproto.CancellkReq{Wait: w}).Removed {
		t.Error("a granted lock was removed from the queue")
	}
	b.isTold(w, 0)
	a.want(false, ha, k)
	for range 200 { // both at once
		b.want(true, hb, posix(fsproto.LockUnlock, 1, 0, all))
		a.want(true, ha, k)
		w := b.queue(hb, k)
		done := make(chan error, 1)
		go func() {
			_, err := try(a.env, fsproto.Setlk, fsproto.SetlkReq{Handle: ha, Lock: posix(fsproto.LockUnlock, 1, 0, all)})
			done <- err
		}()
		if do(b.env, fsproto.Cancellk, fsproto.CancellkReq{Wait: w}).Removed {
			must(t, <-done)
			b.notTold()
			a.want(true, ha, k) // nobody has it
			a.want(true, ha, posix(fsproto.LockUnlock, 1, 0, all))
		} else {
			must(t, <-done)
			b.isTold(w, 0)
		}
	}
}

// TestLockForeign: programs on the server and clients exclude each other, in
// range locks and in flock, which know nothing of one another.
func TestLockForeign(t *testing.T) {
	v := newLockEnv(t)
	a := v.newLocker()
	h := a.openFile(fsproto.OpenReadWrite)
	f := v.foreign(os.O_RDWR)
	must(t, ofd(f, unix.F_WRLCK, 0, 4))
	a.want(false, h, posix(fsproto.LockRead, 1, 4, 9))
	a.want(true, h, posix(fsproto.LockWrite, 1, 5, 9))
	want(t, ofd(f, unix.F_RDLCK, 9, 9), syscall.EAGAIN)
	res := do(a.env, fsproto.Getlk, fsproto.GetlkReq{Handle: h, Lock: posix(fsproto.LockRead, 1, 0, all)})
	if !res.Conflict || res.Lock.Start != 0 || res.Lock.End != 4 || res.Lock.PID != 0 || res.Lock.Type != fsproto.LockWrite {
		t.Errorf("the local lock is shown as %+v", res)
	}
	w := a.queue(h, posix(fsproto.LockRead, 1, 0, 4))
	must(t, ofd(f, unix.F_UNLCK, 0, 4))
	a.isTold(w, 0)

	flock := func(typ uint8) fsproto.Lock { return lock(fsproto.LockFlock, typ, 7, 0, all) }
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_SH))
	a.want(true, h, flock(fsproto.LockRead))
	a.want(false, h, flock(fsproto.LockWrite)) // and the shared one is lost, as in Linux
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	w = a.queue(h, flock(fsproto.LockWrite))
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_UN))
	a.isTold(w, 0)
	want(t, unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), syscall.EAGAIN)
	a.release(h)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	must(t, ofd(f, unix.F_WRLCK, 0, all))
}

// TestLockHandles: owners that share a handle do not share locks, a lock for
// reading keeps nobody from running the file, and one owner's locks move to the
// handle that allows more.
func TestLockHandles(t *testing.T) {
	v := newLockEnv(t)
	a := v.newLocker()
	must(t, os.WriteFile(v.path("file"), []byte("#!/bin/sh\nexit 0\n"), 0))
	must(t, os.Chmod(v.path("file"), 0o755))
	ro, shared := a.openFile(fsproto.OpenRead), a.openFile(fsproto.OpenRead)
	before := descriptors(t)
	a.want(true, ro, posix(fsproto.LockRead, 1, 0, 9))
	a.want(true, ro, posix(fsproto.LockRead, 2, 0, 9)) // a forked child
	must(t, exec.Command(v.path("file")).Run())
	fail(a.env, fsproto.Setlk, fsproto.SetlkReq{Handle: ro, Lock: posix(fsproto.LockWrite, 1, 0, 9)}, syscall.EBADF)
	f := v.foreign(os.O_RDWR)
	want(t, ofd(f, unix.F_WRLCK, 0, 9), syscall.EAGAIN)
	a.want(true, ro, posix(fsproto.LockUnlock, 1, 0, all))
	want(t, ofd(f, unix.F_WRLCK, 0, 9), syscall.EAGAIN)
	a.want(true, ro, posix(fsproto.LockUnlock, 2, 0, all))
	must(t, ofd(f, unix.F_WRLCK, 0, 9))
	must(t, ofd(f, unix.F_UNLCK, 0, 9))
	f.Close()
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors after all locks have gone, %d before", n, before)
	}

	a.want(true, shared, posix(fsproto.LockRead, 1, 0, 9))
	rw, wo := a.openFile(fsproto.OpenReadWrite), a.openFile(fsproto.OpenWrite)
	a.want(true, rw, posix(fsproto.LockWrite, 1, 5, 9))
	f = v.foreign(os.O_RDWR)
	must(t, ofd(f, unix.F_RDLCK, 0, 4))
	want(t, ofd(f, unix.F_RDLCK, 5, 9), syscall.EAGAIN)
	must(t, ofd(f, unix.F_UNLCK, 0, 4))
	a.want(true, shared, posix(fsproto.LockUnlock, 1, 0, 4))
	must(t, ofd(f, unix.F_WRLCK, 0, 4))
	must(t, ofd(f, unix.F_UNLCK, 0, 4))
	fail(a.env, fsproto.Setlk, fsproto.SetlkReq{Handle: wo, Lock: posix(fsproto.LockRead, 3, 0, 9)}, syscall.EBADF)
	a.release(rw) // the owner's locks go with the handle, all of them
	must(t, ofd(f, unix.F_WRLCK, 0, all))
	must(t, ofd(f, unix.F_UNLCK, 0, all))

	a.want(true, shared, posix(fsproto.LockRead, 4, 0, 9))
	a.want(true, wo, posix(fsproto.LockWrite, 4, 0, 1)) // needs a description for both
	must(t, ofd(f, unix.F_RDLCK, 2, 9))
	want(t, ofd(f, unix.F_RDLCK, 0, 1), syscall.EAGAIN)
}

// TestLockEnds: a closed handle and a session that is over free what they had,
// and end what they waited for.
func TestLockEnds(t *testing.T) {
	v := newLockEnv(t)
	a, b := v.newLocker(), v.newLocker()
	ha, other, hb := a.openFile(fsproto.OpenReadWrite), a.openFile(fsproto.OpenReadWrite), b.openFile(fsproto.OpenReadWrite)
	k := posix(fsproto.LockWrite, 1, 0, all)
	a.want(true, ha, k)
	w := b.queue(hb, k)
	gone := a.queue(other, posix(fsproto.LockRead, 5, 0, 0))
	a.release(other)
	a.isTold(gone, syscall.EBADF)
	a.release(ha)
	b.isTold(w, 0)
	ha = a.openFile(fsproto.OpenReadWrite)
	w = a.queue(ha, k)
	b.s.Close()
	a.isTold(w, 0)
	if n := len(v.e.lockGraph.edges); n != 0 {
		t.Errorf("%d owners wait for ever", n)
	}
}

// TestLockLost: the locks of a client that was away are gone, its handles fail,
// and it is told once it is back.
func TestLockLost(t *testing.T) {
	v := newLockEnv(t)
	a, b := v.newLocker(), v.newLocker()
	ha, clean, hb := a.openFile(fsproto.OpenReadWrite), a.openFile(fsproto.OpenReadWrite), b.openFile(fsproto.OpenReadWrite)
	k := posix(fsproto.LockWrite, 1, 0, 9)
	a.want(true, ha, k)
	b.want(true, hb, posix(fsproto.LockWrite, 2, 50, 50))
	waiting := a.queue(clean, posix(fsproto.LockWrite, 3, 50, 50))
	w := b.queue(hb, k)
	a.link.Cut()
	a.s.LoseLocks()
	b.isTold(w, 0)
	a.link.Connect()
	a.isTold(waiting, syscall.ECANCELED)
	select {
	case h := <-a.lost:
		if h != ha {
			t.Errorf("handle %d is told as lost, not %d", h, ha)
		}
	case <-time.After(lockPatience):
		t.Fatal("the client was not told")
	}
	_, err := a.read(ha, 0, 1)
	want(t, err, syscall.EIO)
	_, err = a.write(fsproto.WriteReq{Handle: ha}, "x")
	want(t, err, syscall.EIO)
	fail(a.env, fsproto.Setlk, fsproto.SetlkReq{Handle: ha, Lock: k}, syscall.EIO)
	if _, err := a.read(clean, 0, 1); err != nil {
		t.Errorf("a handle without locks fails: %v", err)
	}
	a.release(ha)
	b.want(true, hb, posix(fsproto.LockUnlock, 2, 0, all))
}

// TestLockGrantSurvivesCut: a grant comes exactly once over whatever connection.
func TestLockGrantSurvivesCut(t *testing.T) {
	v := newLockEnv(t)
	a, b := v.newLocker(), v.newLocker()
	ha, hb := a.openFile(fsproto.OpenReadWrite), b.openFile(fsproto.OpenReadWrite)
	for range 20 {
		k := posix(fsproto.LockWrite, 1, 0, 9)
		a.want(true, ha, k)
		w := b.queue(hb, k)
		b.link.Cut()
		a.want(true, ha, posix(fsproto.LockUnlock, 1, 0, all))
		b.link.Connect()
		b.isTold(w, 0)
		b.want(true, hb, posix(fsproto.LockUnlock, 1, 0, all))
		b.notTold()
	}
}

// TestLockHostile: a client that locks and waits as much as it may keeps nobody
// from locking, and gets no more than its share.
func TestLockHostile(t *testing.T) {
	v := newEnv(t, Config{MaxLocks: 1000}, Identity{}, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	})
	must(t, os.WriteFile(v.path("other"), nil, 0o644))
	bad, good := v.newLocker(), v.newLocker()
	h := bad.openFile(fsproto.OpenReadWrite)
	for i := range uint64(v.e.cfg.MaxLocks) {
		bad.want(true, h, posix(fsproto.LockWrite, 1, 2*i, 2*i))
	}
	fail(bad.env, fsproto.Setlk, fsproto.SetlkReq{Handle: h, Lock: posix(fsproto.LockWrite, 1, all, all)}, syscall.ENOLCK)
	fail(bad.env, fsproto.Setlk, fsproto.SetlkReq{Handle: h, Lock: posix(fsproto.LockWrite, 2, all, all)}, syscall.ENOLCK)
	for i := range uint64(maxLockWaits) {
		if i == 1 {
			fail(bad.env, fsproto.Setlk, fsproto.SetlkReq{Handle: h, Lock: posix(fsproto.LockWrite, 9, 0, 0), Wait: 1}, syscall.EEXIST)
		}
		bad.queue(h, posix(fsproto.LockWrite, 10+i, 0, all))
	}
	fail(bad.env, fsproto.Setlk, fsproto.SetlkReq{Handle: h, Lock: posix(fsproto.LockWrite, 9, 0, all), Wait: 1 << 40}, syscall.ENOLCK)
	node := good.lookup("other").Node
	own := good.open(node, fsproto.OpenReadWrite)
	began := time.Now()
	for i := range uint64(100) {
		bad.want(true, h, posix(fsproto.LockUnlock, 1, 2*i, 2*i)) // tries a thousand waits again
		good.want(true, own, posix(fsproto.LockWrite, 1, i, i))
	}
	t.Logf("100 locks beside it took %v", time.Since(began))
	if took := time.Since(began); took > lockPatience {
		t.Errorf("100 locks beside a hostile client took %v", took)
	}
	bad.want(true, h, posix(fsproto.LockUnlock, 1, 0, all))
	for i := range uint64(200) { // each in turn, first come first served
		bad.isTold(i+1, 0)
		bad.want(true, h, posix(fsproto.LockUnlock, 10+i, 0, all))
	}
	fail(bad.env, fsproto.Setlk, fsproto.SetlkReq{Handle: fsproto.Handle(1 << 60), Lock: posix(fsproto.LockRead, 1, 0, 0)}, syscall.EBADF)
	if err := badLock(bad); !errors.Is(err, rpc.ErrBadRequest) {
		t.Errorf("a lock from 5 to 4: %v", err)
	}
}

func badLock(l *locker) error {
	_, err := try(l.env, fsproto.Setlk, fsproto.SetlkReq{Handle: 1, Lock: posix(fsproto.LockRead, 1, 5, 4)})
	return err
}

// TestLockFilesBounded: descriptions for owners that share a handle are bounded
// like open files.
func TestLockFilesBounded(t *testing.T) {
	v := newEnv(t, Config{MaxHandles: 8}, Identity{}, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	})
	a := v.newLocker()
	h := a.openFile(fsproto.OpenReadWrite)
	for i := range uint64(9) {
		a.want(true, h, posix(fsproto.LockRead, i+1, 0, 9))
	}
	fail(a.env, fsproto.Setlk, fsproto.SetlkReq{Handle: h, Lock: posix(fsproto.LockRead, 100, 0, 9)}, syscall.ENOLCK)
	a.release(h)
	if n := v.e.handles.Load(); n != 0 {
		t.Errorf("%d open files are counted with none open", n)
	}
}

// TestLockAgainstMode: several owners lock a file through a handle that the mode would not
// allow by now, also for a daemon that is bound by it (tools/test-as-user.sh), and the mode
// stays what it is.
func TestLockAgainstMode(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	})
	a := v.newLocker()
	h := a.openFile(fsproto.OpenReadWrite)
	path := filepath.Join(v.dir, "file")
	for _, mode := range []os.FileMode{0o444, 0} {
		must(t, os.Chmod(path, mode))
		for i := range uint64(3) {
			a.want(true, h, posix(fsproto.LockWrite, i+1, 10*i, 10*i+9))
			a.want(true, h, lock(fsproto.LockOFD, fsproto.LockWrite, i+100, 10*i+100, 10*i+109))
		}
		a.want(false, h, posix(fsproto.LockRead, 9, 0, 9))
		for i := range uint64(3) {
			a.want(true, h, posix(fsproto.LockUnlock, i+1, 0, 1000))
			a.want(true, h, lock(fsproto.LockOFD, fsproto.LockUnlock, i+100, 0, 1000))
		}
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode() != mode {
			t.Errorf("the mode is %v, not %v", info.Mode(), mode)
		}
	}
}

package conformance

import (
	"math"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ofd sets an open file description lock on length bytes, 0: to the end of all.
func ofd(f *os.File, typ int16, start, length int64) error {
	k := unix.Flock_t{Type: typ, Start: start, Len: length}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &k)
}

// posixLock sets a lock of this process.
func posixLock(f *os.File, typ int16, start, length int64) error {
	k := unix.Flock_t{Type: typ, Start: start, Len: length}
	return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &k)
}

// lockAt checks which lock is in the way of one for writing from start on.
func (t *T) lockAt(f *os.File, start int64, typ int16, at, length int64) {
	t.Helper()
	k := unix.Flock_t{Type: unix.F_WRLCK, Start: start}
	t.ok(unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &k))
	if k.Type != typ || typ != unix.F_UNLCK && (k.Start != at || k.Len != length) {
		t.Errorf("in the way of a lock from %d on: type %d at %d, %d long; want type %d at %d, %d long",
			start, k.Type, k.Start, k.Len, typ, at, length)
	}
}

func lockRanges(t *T) {
	a, b := t.open("f", os.O_CREATE|os.O_RDWR), t.open("f", os.O_RDWR)
	t.ok(ofd(a, unix.F_WRLCK, 0, 10))
	t.ok(ofd(a, unix.F_WRLCK, 10, 10)) // joins
	t.lockAt(b, 0, unix.F_WRLCK, 0, 20)
	t.fails(ofd(b, unix.F_RDLCK, 19, 5), syscall.EAGAIN)
	t.ok(ofd(b, unix.F_RDLCK, 20, 5))
	t.ok(ofd(a, unix.F_UNLCK, 5, 5)) // splits
	t.lockAt(b, 0, unix.F_WRLCK, 0, 5)
	t.lockAt(b, 5, unix.F_WRLCK, 10, 10)
	t.ok(ofd(a, unix.F_RDLCK, 12, 3)) // downgrades a part
	t.ok(ofd(b, unix.F_RDLCK, 12, 3))
	t.fails(ofd(a, unix.F_WRLCK, 12, 1), syscall.EAGAIN)
	t.lockAt(b, 11, unix.F_WRLCK, 10, 2)
	t.ok(ofd(a, unix.F_WRLCK, 30, 0))
	t.fails(ofd(b, unix.F_RDLCK, math.MaxInt64, 1), syscall.EAGAIN)
	t.ok(ofd(a, unix.F_UNLCK, 0, 0))
	t.lockAt(b, 0, unix.F_UNLCK, 0, 0)
}

func lockErrors(t *T) {
	t.write("f", "")
	r, w := t.open("f", os.O_RDONLY), t.open("f", os.O_WRONLY)
	t.fails(ofd(r, unix.F_WRLCK, 0, 1), syscall.EBADF)
	t.fails(ofd(w, unix.F_RDLCK, 0, 1), syscall.EBADF)
	t.fails(ofd(r, unix.F_RDLCK, -5, 1), syscall.EINVAL)
	t.fails(posixLock(r, unix.F_WRLCK, 0, 1), syscall.EBADF)
	t.ok(unix.Flock(int(r.Fd()), unix.LOCK_EX|unix.LOCK_NB)) // whatever it is open for
	t.fails(unix.Flock(int(w.Fd()), unix.LOCK_SH|unix.LOCK_NB), syscall.EAGAIN)
}

// lockClose: closing any descriptor of a file ends the process's locks on it, and
// no others.
func lockClose(t *T) {
	a, b := t.open("f", os.O_CREATE|os.O_RDWR), t.open("f", os.O_RDWR)
	t.ok(posixLock(a, unix.F_WRLCK, 0, 10))
	t.ok(ofd(a, unix.F_RDLCK, 20, 10))
	t.fails(ofd(b, unix.F_RDLCK, 0, 1), syscall.EAGAIN)
	c, err := os.Open(t.path("f"))
	t.ok(err)
	t.ok(c.Close())
	t.ok(ofd(b, unix.F_WRLCK, 0, 10))
	t.fails(ofd(b, unix.F_WRLCK, 20, 1), syscall.EAGAIN)
	t.ok(a.Close())
	t.ok(ofd(b, unix.F_WRLCK, 20, 10))
}

// lockFlock: a lock changes its type by being lost first, and is one with that of
// a duplicate.
func lockFlock(t *T) {
	a, b := t.open("f", os.O_CREATE|os.O_RDWR), t.open("f", os.O_RDWR)
	t.ok(unix.Flock(int(a.Fd()), unix.LOCK_EX))
	t.fails(unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB), syscall.EAGAIN)
	t.ok(ofd(b, unix.F_WRLCK, 0, 0)) // knows nothing of flock
	t.ok(unix.Flock(int(a.Fd()), unix.LOCK_SH))
	t.ok(unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
	t.fails(unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB), syscall.EAGAIN)
	t.ok(unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	t.ok(unix.Flock(int(b.Fd()), unix.LOCK_UN))
	dup, err := unix.Dup(int(a.Fd()))
	t.ok(err)
	t.ok(unix.Flock(dup, unix.LOCK_EX|unix.LOCK_NB))
	t.ok(unix.Close(dup))
	t.fails(unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB), syscall.EAGAIN)
	t.ok(unix.Flock(int(a.Fd()), unix.LOCK_UN))
	t.ok(unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
}

// lockWaits: who waits gets the lock when it is free.
func lockWaits(t *T) {
	a, b := t.open("f", os.O_CREATE|os.O_RDWR), t.open("f", os.O_RDWR)
	for _, flock := range []bool{false, true} {
		set := func(f *os.File, typ int16) error {
			how := map[int16]int{unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[typ]
			if flock {
				return retryEINTR(func() error { return unix.Flock(int(f.Fd()), how) })
			}
			k := unix.Flock_t{Type: typ}
			return retryEINTR(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &k) })
		}
		t.ok(set(a, unix.F_WRLCK))
		got := make(chan error, 1)
		go func() { got <- set(b, unix.F_WRLCK) }()
		select {
		case err := <-got:
			t.Errorf("a lock that is held was got: %v", err)
		default:
		}
		t.ok(set(a, unix.F_UNLCK))
		select {
		case err := <-got:
			t.ok(err)
		case <-time.After(30 * time.Second):
			t.Fatal("a lock that is free was not got")
		}
		t.ok(set(b, unix.F_UNLCK))
	}
}

func retryEINTR(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}

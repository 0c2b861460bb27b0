package beneath

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Lock is a lock of the kernel on the bytes from Start to End, both included.
// End math.MaxInt64 is the largest possible offset.
type Lock struct {
	Type       int16 // unix.F_RDLCK, F_WRLCK, F_UNLCK
	Start, End int64
}

func (l *Lock) flock() unix.Flock_t {
	k := unix.Flock_t{Type: l.Type, Start: l.Start}
	if l.End != math.MaxInt64 {
		k.Len = l.End - l.Start + 1
	}
	return k
}

// SetLock sets or takes away an open file description lock (F_OFD_SETLK). It
// does not wait: EAGAIN if another lock is in the way, EBADF if f is not open
// for what the lock needs.
func (f *File) SetLock(l Lock) error {
	k := l.flock()
	err := unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &k)
	if err == unix.EACCES { // POSIX allows either
		return unix.EAGAIN
	}
	return err
}

// GetLock returns the first lock of anybody else that is in the way of l
// (F_OFD_GETLK), and false if there is none.
func (f *File) GetLock(l Lock) (Lock, bool, error) {
	k := l.flock()
	if err := unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_GETLK, &k); err != nil || k.Type == unix.F_UNLCK {
		return Lock{}, false, err
	}
	found := Lock{Type: k.Type, Start: k.Start, End: math.MaxInt64}
	if k.Len > 0 {
		found.End = k.Start + k.Len - 1
	}
	return found, true, nil
}

// Flock is flock(2) with LOCK_SH, LOCK_EX or LOCK_UN. It does not wait: EAGAIN
// if another lock is in the way; one that f had is lost then.
func (f *File) Flock(how int) error {
	return retry(func() error { return unix.Flock(f.fd, how|unix.LOCK_NB) })
}

// AccessMode returns O_RDONLY, O_WRONLY or O_RDWR.
func (f *File) AccessMode() (int, error) {
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	return flags & unix.O_ACCMODE, err
}

// Reopen opens the same file once more with an access mode, as an open file
// description of its own. The kernel asks for the rights again.
func (f *File) Reopen(access int) (*File, error) {
	fd, err := openat(unix.AT_FDCWD, proc(f.fd), access|openFlags, 0)
	if err != nil {
		return nil, err
	}
	return &File{fd}, nil
}

// Locks returns the locks that stand through f itself, as the kernel lists them
// (proc_pid_fdinfo(5)): those of ranges, and the type of a flock(2), F_UNLCK for none.
func (f *File) Locks() (ranges []Lock, flock int16, err error) {
	flock = unix.F_UNLCK
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(f.fd))
	if err != nil {
		return nil, flock, err
	}
	for line := range strings.Lines(string(text)) {
		// lock:	1: OFDLCK ADVISORY  WRITE -1 fe:00:1234 0 EOF
		fields := strings.Fields(line)
		if len(fields) != 9 || fields[0] != "lock:" {
			continue
		}
		l := Lock{Type: unix.F_RDLCK, End: math.MaxInt64}
		if fields[4] == "WRITE" {
			l.Type = unix.F_WRLCK
		}
		switch fields[2] {
		case "FLOCK":
			flock = l.Type
			continue
		case "OFDLCK":
		default:
			continue
		}
		if l.Start, err = strconv.ParseInt(fields[7], 10, 64); err == nil && fields[8] != "EOF" {
			l.End, err = strconv.ParseInt(fields[8], 10, 64)
		}
		if err != nil {
			return nil, flock, fmt.Errorf("%q: %w", line, err)
		}
		ranges = append(ranges, l)
	}
	return ranges, flock, nil
}

package export

import (
	"math"
	"syscall"

	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/lockrange"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"golang.org/x/sys/unix"
)

// lockFile is the open file description through which an owner's locks stand on
// the server's file, where local programs see them. Locks of one description do
// not exclude each other, so no two owners share one: the first owner who locks
// through a handle uses the handle's own, others get one opened for them, with
// the same access mode, so that a lock for reading never makes a program busy.
// lockTable.mu guards it.
type lockFile struct {
	f           *beneath.File
	read, write bool        // what f is open for
	own         *handle     // whose description it is; nil: opened for the owner
	cell        mapped.Cell // with it the keeper has one that was opened for the owner
	flock       bool
}

// lockUsers are the owners that use a handle's own description; lockTable.mu
// guards them.
type lockUsers struct{ ranges, flock bool }

func (u *lockUsers) of(flock bool) *bool {
	if flock {
		return &u.flock
	}
	return &u.ranges
}

// suits reports whether a lock can be set through f. Where f is not open for
// reading, a lock for writing stands in for one for reading.
func (f *lockFile) suits(flock, write bool) bool {
	return f != nil && (flock || f.write || !write && f.read)
}

// set sets or takes away a lock in the kernel. EAGAIN if a local program's is
// in the way.
func (f *lockFile) set(r lockrange.Range, lock bool) error {
	if !lock && f.own != nil && f.own.cell.Frozen() || f.cell.Frozen() {
		return nil // the next process goes on with it
	}
	if f.flock {
		how := unix.LOCK_UN
		switch {
		case lock && r.Write:
			how = unix.LOCK_EX
		case lock:
			how = unix.LOCK_SH
		}
		return f.f.Flock(how)
	}
	k := beneath.Lock{Type: unix.F_UNLCK, Start: r.Start, End: r.End}
	switch {
	case lock && (r.Write || !f.read):
		k.Type = unix.F_WRLCK
	case lock:
		k.Type = unix.F_RDLCK
	}
	return f.f.SetLock(k)
}

// everything is the range of all bytes.
var everything = lockrange.Range{Start: 0, End: math.MaxInt64}

// close takes all locks away and gives the description up.
func (f *lockFile) close(s *Session) {
	if f.own == nil {
		if !f.cell.IsZero() { // the keeper has it too
			if err := f.set(everything, false); err != nil {
				s.log.Error("cannot unlock a file", "err", err)
			}
		}
		s.e.unput(f.cell, f.f)
		s.locks.dropFile()
		return
	}
	if err := f.set(everything, false); err != nil {
		s.log.Error("cannot unlock a file", "err", err)
	}
	*f.own.lockUsers.of(f.flock) = false
}

// openLockFile returns a description for an owner that locks through h, open
// for reading too if keep is set.
func (s *Session) openLockFile(h *handle, flock, keep bool) (*lockFile, error) {
	mode, err := h.f.AccessMode()
	if err != nil {
		return nil, err
	}
	f := &lockFile{f: h.f, own: h, flock: flock, read: mode != unix.O_WRONLY, write: mode != unix.O_RDONLY}
	if used := h.lockUsers.of(flock); !*used && (f.read || !keep) {
		*used = true
		return f, nil
	}
	if keep && !f.read {
		mode, f.read = unix.O_RDWR, true
	}
	if !s.locks.addFile() {
		return nil, syscall.ENOLCK
	}
	f.own = nil
	f.f, err = s.e.openAgain(h.r.n.path, func() (*beneath.File, error) { return h.f.Reopen(mode) })
	if err != nil {
		s.log.Debug("no description for a lock", "err", err)
		s.locks.dropFile()
		return nil, syscall.ENOLCK
	}
	if s.kept() {
		f.cell = s.e.put(recLockFile, &lockFileRec{s.key}, f.f)
	}
	return f, nil
}

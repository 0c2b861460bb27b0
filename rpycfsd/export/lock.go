package export

import (
	"cmp"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/lockrange"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// lockWant checks a request's lock.
func (s *Session) lockWant(h *handle, l *fsproto.Lock) (*lockWant, error) {
	flock := l.Kind == fsproto.LockFlock
	q := &lockWant{
		Range: lockrange.Range{Start: int64(l.Start), End: int64(l.End), Write: l.Type == fsproto.LockWrite},
		key:   lockKey{s, flock, l.Owner},
		kind:  l.Kind, pid: l.PID, lock: l.Type != fsproto.LockUnlock, h: h,
	}
	if h.r.n.isDir() || flock && (l.Start != 0 || l.End != fsproto.LockEnd) {
		return nil, syscall.EINVAL
	}
	return q, nil
}

// mayLock returns EBADF unless h is open for what a range lock needs, as
// fcntl(2) does.
func (q *lockWant) mayLock() error {
	if !q.lock || q.key.flock {
		return nil
	}
	mode, err := q.h.f.AccessMode()
	if err == nil && (q.Write && mode == unix.O_RDONLY || !q.Write && mode == unix.O_WRONLY) {
		err = syscall.EBADF
	}
	return err
}

// setlk sets a lock, takes one away, or queues it.
func (s *Session) setlk(r call, req *fsproto.SetlkReq, res *fsproto.SetlkRes) error {
	h, err := s.handle(req.Handle)
	if err != nil {
		return err
	}
	defer s.done(h)
	q, err := s.lockWant(h, &req.Lock)
	if err == nil {
		err = q.mayLock()
	}
	if err != nil {
		return err
	}
	s.locks.setPeer(r.Peer)
	t := s.e.lockTable(h)
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.lost.Load() { // since it was found
		return syscall.EIO
	}
	return t.setlk(q, r.Slot, req, res)
}

func (t *lockTable) setlk(q *lockWant, by rpc.Dep, req *fsproto.SetlkReq, res *fsproto.SetlkRes) error {
	before := t.byKey[q.key]
	blocker, weaker, err := t.attempt(q)
	if weaker && before != nil {
		defer t.wake(before)
	}
	switch {
	case !isErrno(err, syscall.EAGAIN):
		return err // nil: it is set
	case req.Wait != 0:
		res.Queued = true
		return t.enqueue(q, req.Wait, by, blocker)
	}
	res.Refused, res.Holder = true, t.holder(q)
	return nil
}

// holder describes who is in the way.
func (t *lockTable) holder(q *lockWant) fsproto.Lock {
	if o, r := t.conflict(q); o != nil {
		return o.describe(q.key.s, r)
	}
	return fsproto.Lock{Kind: q.kind, Type: fsproto.LockWrite, Start: uint64(q.Start), End: uint64(q.End)}
}

// getlk tells which lock is in the way of one.
func (s *Session) getlk(_ call, req *fsproto.GetlkReq, res *fsproto.GetlkRes) error {
	h, err := s.handle(req.Handle)
	if err != nil {
		return err
	}
	defer s.done(h)
	q, err := s.lockWant(h, &req.Lock)
	if err != nil || q.key.flock || !q.lock {
		return cmp.Or(err, error(syscall.EINVAL))
	}
	t := s.e.lockTable(h)
	t.mu.Lock()
	defer t.mu.Unlock()
	if o, r := t.conflict(q); o != nil {
		res.Conflict, res.Lock = true, o.describe(s, r)
		return nil
	}
	return t.foreignLock(q, res)
}

// foreignLock looks for a local program's lock. Its process means nothing to
// the client.
func (t *lockTable) foreignLock(q *lockWant, res *fsproto.GetlkRes) error {
	f := q.h.f
	if o := t.byKey[q.key]; o != nil {
		f = o.file.f
	}
	k := beneath.Lock{Type: unix.F_RDLCK, Start: q.Start, End: q.End}
	if q.Write {
		k.Type = unix.F_WRLCK
	}
	found, ok, err := f.GetLock(k)
	if err != nil || !ok {
		return err
	}
	res.Conflict = true
	res.Lock = fsproto.Lock{
		Kind: fsproto.LockPosix, Type: lockType(found.Type == unix.F_WRLCK),
		Start: uint64(found.Start), End: uint64(found.End),
	}
	return nil
}

// cancellk ends the waiting for a lock, unless it was granted or has failed: the
// client is told of that by lk_granted then.
func (s *Session) cancellk(_ call, req *fsproto.CancellkReq, res *fsproto.CancellkRes) error {
	if w := s.locks.wait(req.Wait); w != nil {
		res.Removed = w.t.cancel(w)
	}
	return nil
}

// LoseLocks drops the locks of a session whose client was away for too long.
// Handles through which it had some fail with EIO from now on, but for their
// release: what they protected may have been changed by others.
func (s *Session) LoseLocks() {
	s.mu.Lock()
	var open []*handle
	for _, h := range s.handles {
		if h != nil && h.locks.Load() != nil {
			open = append(open, h)
		}
	}
	s.mu.Unlock()
	var lost []fsproto.Handle
	for _, h := range open {
		lost = append(lost, h.locks.Load().dismiss(h, syscall.ECANCELED, true)...)
	}
	if len(lost) > 0 {
		s.log.Warn("locks lost: the client was away for longer than the grace", "files", len(lost))
	}
	s.locks.lost(lost)
}

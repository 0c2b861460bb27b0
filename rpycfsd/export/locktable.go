package export

import (
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/lockrange"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"github.com/rpycfs/rpycfs/rpc"
)

// maxLockWaits bounds the locks that are queued, or that the client has not been
// told of, of one session and on one file. Beyond it the answer is ENOLCK.
const maxLockWaits = 1024

// Locks of local programs end without a word. What waits for one asks again
// after a while, at first soon.
const (
	minLockPause = time.Millisecond
	maxLockPause = 25 * time.Millisecond
	// foreignCost is the pause that each of the export's waits of this kind
	// adds to maxLockPause, so that many of them take no more of a processor.
	foreignCost = 50 * time.Microsecond
)

// lockKey names an owner of locks. Range locks and flock locks do not know of
// each other.
type lockKey struct {
	s     *Session
	flock bool
	id    uint64
}

// lockOwner is an owner that has locks on one file. lockTable.mu guards it.
type lockOwner struct {
	key      lockKey
	kind     uint8  // fsproto.Lock…, of the latest lock
	pid      uint32 // that asked for it
	ranges   lockrange.Ranges
	file     *lockFile
	via      map[*handle]bool // that it has locked through
	cell     mapped.Cell
	recorded *lockFile   // file of the record
	blocked  []*lockWait // waits that this owner is in the way of
}

// lockWant is a lock that is asked for.
type lockWant struct {
	lockrange.Range
	key  lockKey
	kind uint8
	pid  uint32
	lock bool // set, not take away
	h    *handle
}

// lockWait is a lock that is queued.
//
//	setlk ──▶ queued ──owner in the way lets go, or the timer──▶ tried again ──▶ granted, or failed
//	            ▲                                                    │
//	            └──────────────── another one is in the way ─────────┘
//	queued ──cancellk, release, session lost or over──▶ gone
type lockWait struct {
	lockWant
	t       *lockTable
	number  uint64     // of the client's choice
	turn    uint64     // who waits longest is tried first
	blocker *lockOwner // nil: a local program
	cell    mapped.Cell
}

// lockTable holds the locks of all sessions on one file. Conflicts between
// sessions are decided here; what is granted here is then set in the kernel,
// which decides about local programs.
//
// mu is held across those calls. They do not wait, and nothing but locking this
// file needs mu.
type lockTable struct {
	e *Export

	mu      sync.Mutex
	owners  []*lockOwner // in the order of their first lock, as the kernel lists them
	byKey   map[lockKey]*lockOwner
	ranges  int // of all owners
	waits   map[*lockWait]bool
	turn    uint64
	foreign []*lockWait // that a local program is in the way of
	pause   time.Duration
	timer   *time.Timer // runs while there are foreign ones
}

// lockTable returns the table of n's locks, with which h is from now on
// unlocked when it is closed.
func (e *Export) lockTable(h *handle) *lockTable {
	if t := h.locks.Load(); t != nil {
		return t
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := h.r.n
	if n.locks == nil {
		n.locks = &lockTable{e: e, byKey: make(map[lockKey]*lockOwner), waits: make(map[*lockWait]bool)}
	}
	h.locks.Store(n.locks)
	return n.locks
}

// has reports whether an owner has locks.
func (t *lockTable) has(key lockKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[key] != nil
}

// conflict returns the first owner whose locks are in the way, and its range.
func (t *lockTable) conflict(q *lockWant) (*lockOwner, lockrange.Range) {
	for _, o := range t.owners {
		if o.key != q.key && o.key.flock == q.key.flock {
			if r, found := o.ranges.Conflict(q.Range); found {
				return o, r
			}
		}
	}
	return nil, lockrange.Range{}
}

// attempt sets or takes away a lock. EAGAIN if another is in the way: that of
// the owner returned, or a local program's. weaker reports that locks others
// may wait for have gone: the caller wakes them.
func (t *lockTable) attempt(q *lockWant) (blocker *lockOwner, weaker bool, err error) {
	o := t.byKey[q.key]
	if o == nil {
		if !q.lock {
			return nil, false, nil
		}
		o = &lockOwner{key: q.key, via: make(map[*handle]bool)}
	}
	weaker = !q.lock || q.key.flock || !q.Write
	if q.lock {
		if blocker, _ = t.conflict(q); blocker != nil {
			return blocker, t.dropFlock(q), syscall.EAGAIN
		}
		if err := t.prepare(o, q); err != nil {
			return nil, false, err
		}
	}
	next := o.ranges.Set(q.Range, q.lock)
	grown := len(next) - len(o.ranges)
	if grown > 0 && (t.ranges+grown > t.e.cfg.MaxLocks || !q.key.s.locks.addRanges(grown)) {
		t.vacate(o)
		return nil, false, syscall.ENOLCK
	}
	if err := o.file.set(q.Range, q.lock); err != nil {
		q.key.s.locks.addRanges(-max(grown, 0))
		weaker = isErrno(err, syscall.EAGAIN) && t.dropFlock(q)
		t.vacate(o)
		return nil, weaker, err
	}
	if grown < 0 {
		q.key.s.locks.addRanges(grown)
	}
	t.commit(o, q, next)
	return nil, weaker, nil
}

// commit records what the kernel has granted.
func (t *lockTable) commit(o *lockOwner, q *lockWant, next lockrange.Ranges) {
	t.ranges += len(next) - len(o.ranges)
	o.ranges = next
	if q.lock {
		known := o.kind == q.kind && o.pid == q.pid && o.via[q.h] && o.recorded == o.file
		o.kind, o.pid, o.via[q.h] = q.kind, q.pid, true
		if t.byKey[o.key] == nil {
			t.byKey[o.key] = o
			t.owners = append(t.owners, o)
		}
		if !known {
			o.recorded = o.file
			t.recordOwner(o)
		}
	}
	t.vacate(o)
}

// dropFlock takes away the lock that a flock(2) would have changed into another
// type and could not: the change is not atomic, and the old lock is lost.
func (t *lockTable) dropFlock(q *lockWant) bool {
	o := t.byKey[q.key]
	if !q.key.flock || o == nil || len(o.ranges) == 0 {
		return false
	}
	t.unlock(o)
	return true
}

// prepare sees to it that o has a description through which the lock can be
// set, and moves the locks for reading that it has there. They are recorded with the new
// one before the old one is given up.
func (t *lockTable) prepare(o *lockOwner, q *lockWant) error {
	if o.file.suits(q.key.flock, q.Write) {
		return nil
	}
	f, err := q.key.s.openLockFile(q.h, q.key.flock, len(o.ranges) > 0)
	if err != nil {
		return err
	}
	for _, r := range o.ranges {
		if err := f.set(r, true); err != nil {
			f.close(q.key.s)
			return err
		}
	}
	old := o.file
	o.file = f
	if old != nil {
		o.recorded = f
		t.recordOwner(o)
		old.close(q.key.s)
	}
	return nil
}

// unlock takes all locks of o away. Who waits for them is woken by the caller.
func (t *lockTable) unlock(o *lockOwner) {
	t.ranges -= len(o.ranges)
	o.key.s.locks.addRanges(-len(o.ranges))
	o.ranges = nil
	t.vacate(o)
}

// vacate removes an owner that has no locks.
func (t *lockTable) vacate(o *lockOwner) {
	if len(o.ranges) > 0 {
		return
	}
	o.cell.Free()
	o.cell, o.recorded = mapped.Cell{}, nil
	if o.file != nil {
		o.file.close(o.key.s)
		o.file = nil
	}
	clear(o.via)
	if t.byKey[o.key] == o {
		delete(t.byKey, o.key)
		t.owners = slices.DeleteFunc(t.owners, func(x *lockOwner) bool { return x == o })
	}
}

// enqueue queues a lock that could not be set. EDEADLK if that would never end.
func (t *lockTable) enqueue(q *lockWant, number uint64, by rpc.Dep, blocker *lockOwner) error {
	if len(t.waits) >= maxLockWaits {
		return syscall.ENOLCK
	}
	w := &lockWait{lockWant: *q, t: t, number: number, turn: t.turn}
	if s := q.key.s; s.kept() {
		w.cell = s.e.put(recLockWait, &lockWaitRec{session: s.key, number: number, by: by}, nil)
	}
	if err := q.key.s.locks.addWait(w); err != nil {
		w.cell.Free()
		return err
	}
	if err := t.hang(w, blocker); err != nil {
		q.key.s.locks.removeWait(w)
		return err
	}
	t.turn++
	t.waits[w] = true
	return nil
}

// hang makes w wait for an owner, or for local programs.
func (t *lockTable) hang(w *lockWait, blocker *lockOwner) error {
	if blocker == nil {
		t.foreign = append(t.foreign, w)
		t.e.foreign.Add(1)
		if t.timer == nil {
			t.pause = minLockPause
			t.timer = time.AfterFunc(t.pause, t.retryForeign)
		}
		return nil
	}
	if err := t.e.lockGraph.add(w, blocker); err != nil {
		return err
	}
	w.blocker = blocker
	blocker.blocked = append(blocker.blocked, w)
	return nil
}

// unhang undoes hang.
func (t *lockTable) unhang(w *lockWait) {
	list := &t.foreign
	if w.blocker != nil {
		list = &w.blocker.blocked
	}
	*list = slices.DeleteFunc(*list, func(x *lockWait) bool { return x == w })
	t.unhung(w)
}

// unhung accounts for a wait that has left its list.
func (t *lockTable) unhung(w *lockWait) {
	if w.blocker == nil {
		t.e.foreign.Add(-1)
	} else {
		t.e.lockGraph.remove(w)
	}
	w.blocker = nil
}

// wake tries the locks again that waited for o, and so on for those whom that
// makes let go.
func (t *lockTable) wake(o *lockOwner) {
	for queue := []*lockOwner{o}; len(queue) > 0; queue = queue[1:] {
		o := queue[0]
		var free, blocked []*lockWait
		for _, w := range o.blocked {
			if _, still := o.ranges.Conflict(w.Range); still {
				blocked = append(blocked, w)
			} else {
				free = append(free, w)
			}
		}
		o.blocked = blocked
		queue = append(queue, t.tryAgain(free)...)
	}
}

// tryAgain tries queued locks that have left their list, who waits longest
// first. It returns the owners that have let go of something thereby.
func (t *lockTable) tryAgain(waits []*lockWait) (weaker []*lockOwner) {
	slices.SortFunc(waits, func(a, b *lockWait) int { return int(int64(a.turn - b.turn)) })
	for _, w := range waits {
		t.unhung(w)
		before := t.byKey[w.key]
		blocker, weak, err := t.attempt(&w.lockWant)
		if weak && before != nil {
			weaker = append(weaker, before)
		}
		if isErrno(err, syscall.EAGAIN) {
			if err = t.hang(w, blocker); err == nil {
				continue
			}
		}
		t.end(w, err)
	}
	return weaker
}

// retryForeign tries the locks again that waited for local programs.
func (t *lockTable) retryForeign() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = nil
	waits := t.foreign
	t.foreign = nil
	if len(waits) == 0 {
		return
	}
	t.pause = min(2*t.pause, maxLockPause+time.Duration(t.e.foreign.Load())*foreignCost)
	t.timer = time.AfterFunc(t.pause, t.retryForeign)
	for _, o := range t.tryAgain(waits) {
		t.wake(o)
	}
}

// end tells the client that the waiting is over.
func (t *lockTable) end(w *lockWait, err error) {
	delete(t.waits, w)
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		errno = syscall.EIO
	}
	w.key.s.locks.granted(w, uint32(errno))
}

// cancel ends a wait unless it has ended.
func (t *lockTable) cancel(w *lockWait) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.waits[w] {
		return false
	}
	t.unhang(w)
	delete(t.waits, w)
	w.key.s.locks.removeWait(w)
	return true
}

// dismiss drops what was locked and is waited for through h; errno ends the
// waits. With lose it marks the handles through which the owners had locked, and
// returns them.
func (t *lockTable) dismiss(h *handle, errno syscall.Errno, lose bool) (lost []fsproto.Handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.waits {
		if w.h == h {
			t.unhang(w)
			t.end(w, errno)
		}
	}
	for _, o := range slices.Clone(t.owners) {
		if o.via[h] {
			for via := range o.via {
				if lose && via.loseLocks() {
					lost = append(lost, via.num)
				}
			}
			t.unlock(o)
			t.wake(o)
		}
	}
	return lost
}

// describe is what the client of s is told of a lock that is in the way.
func (o *lockOwner) describe(s *Session, r lockrange.Range) fsproto.Lock {
	l := fsproto.Lock{Kind: o.kind, Type: lockType(r.Write), Start: uint64(r.Start), End: uint64(r.End)}
	if o.key.s == s {
		l.Owner, l.PID = o.key.id, o.pid
	}
	return l
}

func lockType(write bool) uint8 {
	if write {
		return fsproto.LockWrite
	}
	return fsproto.LockRead
}

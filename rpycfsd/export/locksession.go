package export

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"github.com/rpycfs/rpycfs/rpc"
)

// sessionLocks is what a session has of locks on all files, and what its client
// is to be told of them.
type sessionLocks struct {
	e      *Export
	ctx    context.Context // ends with the session
	cancel context.CancelFunc
	sender sync.WaitGroup

	mu      sync.Mutex
	peer    *rpc.Peer // who locks here
	waits   map[uint64]*lockWait
	ranges  int
	files   int // descriptions that were opened for locks
	notices []lockNotice
	sending bool
}

// lockNotice is something to tell: the end of a wait, or handles that have lost
// their locks.
type lockNotice struct {
	grant fsproto.LockGrant
	lost  []fsproto.Handle
	cell  mapped.Cell // the wait's
}

func (l *sessionLocks) init(e *Export) {
	l.e, l.waits = e, make(map[uint64]*lockWait)
	l.ctx, l.cancel = context.WithCancel(context.Background())
}

// close stops telling.
func (l *sessionLocks) close() {
	l.mu.Lock()
	l.cancel()
	l.mu.Unlock()
	l.sender.Wait()
}

// setPeer tells who is to be told.
func (l *sessionLocks) setPeer(p *rpc.Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peer = p
}

// addRanges counts ranges, unless those would be too many.
func (l *sessionLocks) addRanges(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > 0 && l.ranges+n > l.e.cfg.MaxLocks {
		return false
	}
	l.ranges += n
	return true
}

// addFile counts a description as an open file, unless there are too many.
func (l *sessionLocks) addFile() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files >= l.e.cfg.MaxHandles {
		return false
	}
	if l.e.handles.Add(1) > l.e.maxHandles {
		l.e.handles.Add(-1)
		return false
	}
	l.files++
	return true
}

func (l *sessionLocks) dropFile() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files--
	l.e.handles.Add(-1)
}

// addWait enters a wait under its number. Grants that the client has not taken
// count as waits.
func (l *sessionLocks) addWait(w *lockWait) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.waits[w.number] != nil:
		return syscall.EEXIST
	case len(l.waits)+len(l.notices) >= maxLockWaits:
		return syscall.ENOLCK
	}
	l.waits[w.number] = w
	return nil
}

func (l *sessionLocks) removeWait(w *lockWait) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waits, w.number)
	w.cell.Free()
}

func (l *sessionLocks) wait(number uint64) *lockWait {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waits[number]
}

// granted ends a wait.
func (l *sessionLocks) granted(w *lockWait, errno uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waits, w.number)
	l.tell(lockNotice{grant: fsproto.LockGrant{Wait: w.number, Errno: errno}, cell: w.cell})
}

// lost tells of handles whose locks are gone.
func (l *sessionLocks) lost(handles []fsproto.Handle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(handles) > 0 {
		n := min(len(handles), fsproto.MaxLost)
		l.tell(lockNotice{lost: handles[:n:n]})
		handles = handles[n:]
	}
}

// tell queues a notice. There is one goroutine for them, while there are any;
// mu is held.
func (l *sessionLocks) tell(n lockNotice) {
	if l.ctx.Err() != nil {
		n.cell.Free()
		return
	}
	l.notices = append(l.notices, n)
	if !l.sending {
		l.sending = true
		l.sender.Go(l.send)
	}
}

// send makes the calls. Each is executed once, however often the connection is
// lost meanwhile: it has a slot.
func (l *sessionLocks) send() {
	for {
		peer, grants, lost, cells := l.next()
		var err error
		switch {
		case len(grants) > 0:
			err = rpc.Call(l.ctx, peer, fsproto.LkGranted, &fsproto.LkGrantedReq{Grants: grants}, &fsproto.Empty{})
		case len(lost) > 0:
			err = rpc.Call(l.ctx, peer, fsproto.LocksLost, &fsproto.LocksLostReq{Handles: lost}, &fsproto.Empty{})
		default:
			freeAll(cells)
			return
		}
		if err != nil && l.ctx.Err() == nil {
			l.e.log.Debug("the client was not told of its locks", "err", err)
		}
		freeAll(cells)
	}
}

func freeAll(cells []mapped.Cell) {
	for _, cell := range cells {
		cell.Free()
	}
}

// next takes the notices for one call.
func (l *sessionLocks) next() (peer *rpc.Peer, grants []fsproto.LockGrant, lost []fsproto.Handle, cells []mapped.Cell) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.notices) > 0 && l.notices[0].lost != nil {
		lost = l.notices[0].lost
		l.notices = l.notices[1:]
		return l.peer, nil, lost, nil
	}
	for len(l.notices) > 0 && l.notices[0].lost == nil && len(grants) < fsproto.MaxGrants {
		grants = append(grants, l.notices[0].grant)
		cells = append(cells, l.notices[0].cell)
		l.notices = l.notices[1:]
	}
	l.sending = len(grants) > 0 && l.ctx.Err() == nil
	if !l.sending {
		for _, n := range l.notices {
			n.cell.Free()
		}
		l.notices = nil
		grants = nil
	}
	return l.peer, grants, nil, cells
}

// lockGraph tells which owner of POSIX locks waits for which, on all files.
// Owners of OFD and flock locks are not in it: they are no processes, and Linux
// finds no deadlocks of theirs either (fcntl(2), "Open file description locks").
type lockGraph struct {
	mu    sync.Mutex
	edges map[lockKey]map[*lockWait]lockKey
}

// maxLockChain bounds how many owners are looked at for a deadlock.
const maxLockChain = 4096

// add enters that w waits for an owner. EDEADLK if that one waits for w's owner,
// directly or through others.
func (g *lockGraph) add(w *lockWait, blocker *lockOwner) error {
	if w.kind != fsproto.LockPosix {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reaches(blocker.key, w.key) {
		return fmt.Errorf("each waits for the other: %w", syscall.EDEADLK)
	}
	if g.edges[w.key] == nil {
		g.edges[w.key] = make(map[*lockWait]lockKey)
	}
	g.edges[w.key][w] = blocker.key
	return nil
}

// reaches follows the edges; mu is held.
func (g *lockGraph) reaches(from, to lockKey) bool {
	if len(g.edges[from]) == 0 {
		return false // as nearly always
	}
	seen := map[lockKey]bool{from: true}
	for todo := []lockKey{from}; len(todo) > 0 && len(seen) < maxLockChain; todo = todo[1:] {
		for _, next := range g.edges[todo[0]] {
			if next == to {
				return true
			}
			if !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	return false
}

func (g *lockGraph) remove(w *lockWait) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.edges[w.key], w)
	if len(g.edges[w.key]) == 0 {
		delete(g.edges, w.key)
	}
}

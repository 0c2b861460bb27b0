package export

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/identity"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// What may wait for the listener of one watch: events, and their bytes. All queues
// together have a budget; one gets a sixteenth of what is left of it, but never so
// little that no event fits.
const (
	maxWatchQueue     = 4096
	maxWatchQueueSize = 2 << 20
	minWatchQueueSize = 32 << 10
	watchQueueBudget  = 64 << 20
)

// watch is a directory that a session is told of.
//
//	watch ──▶ telling ──released, listener fails, session ends──▶ stopped ──pump ends──▶ freed
//	             └────directory is gone────▶ last event ──told──────▲
type watch struct {
	s         *Session
	n         *node // the directory; a reference and its descriptor are held
	path      string
	recursive bool
	as        *identity.ID // whose rights decide; nil: the daemon's
	listener  rpc.Ref
	peer      *rpc.Peer
	ctx       context.Context
	cancel    context.CancelFunc

	may  map[string]right // the pump's: of directories beneath
	next uint64           // the pump's: number of the next event

	mu      sync.Mutex // comes after watches.mu
	self    rpc.Ref
	events  []*fsproto.WatchEvent
	size    int                            // of events
	last    map[string]*fsproto.WatchEvent // the last one that waits about a path
	running bool                           // there is a pump
	ending  bool                           // the last event waits
	stopped bool
}

// right is whether the caller may read and search a directory.
type right struct {
	yes bool
	at  time.Time
}

// watch begins to tell the client of a directory.
func (s *Session) watch(c call, req *fsproto.WatchReq, res *fsproto.WatchRes) error {
	if req.Listener == 0 {
		return fmt.Errorf("%w: no listener", rpc.ErrBadRequest)
	}
	n, err := s.e.descend(s.root, req.Path)
	if err != nil {
		return err
	}
	if c.as != nil {
		if err := n.path.Access(unix.R_OK | unix.X_OK); err != nil {
			s.e.release(n)
			return err
		}
	}
	s.unkeep()
	w := &watch{
		s: s, n: n, recursive: req.Recursive, as: c.as, listener: req.Listener, peer: c.Peer,
		may: make(map[string]right), next: 1, last: make(map[string]*fsproto.WatchEvent),
	}
	w.ctx, w.cancel = context.WithCancel(c.Peer.Context())
	s.e.asDaemon(func() { err = s.e.watches.add(w) })
	if err != nil {
		return err
	}
	ref, err := c.Peer.Export(new(rpc.Mux), w.stop)
	if err != nil {
		w.stop()
		return err
	}
	if !w.named(ref) {
		c.Peer.Revoke(ref)
	}
	res.Watch = ref
	res.Events, res.Why = s.e.watches.by()
	return nil
}

// named keeps the client's reference, unless the watch is over already.
func (w *watch) named(ref rpc.Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.self = ref
	return !w.stopped
}

// covers returns a place as the listener knows it; no: it is not told of it.
func (w *watch) covers(p place) (rel string, ok bool) {
	if !p.in {
		return "", false
	}
	rel, ok = beyond(p.path, w.path)
	return rel, ok && (w.recursive || strings.IndexByte(rel, '/') < 0)
}

// offer queues a fact if the watch covers it. It never waits.
func (w *watch) offer(f *fact) {
	rel, in := w.covers(f.at)
	old, from := w.covers(f.from)
	if !in && !from {
		return
	}
	ev := &fsproto.WatchEvent{Kind: f.kind, Time: f.time, By: f.by, Path: rel, OldPath: old}
	ev.Flags = flag(f.isDir, fsproto.WatchIsDir) | flag(in, fsproto.WatchHasPath) | flag(from, fsproto.WatchHasOld)
	if f.attr != nil && in {
		ev.Flags, ev.Attr = ev.Flags|fsproto.WatchHasAttr, *f.attr
	}
	if f.was != nil && (from || f.kind != fsproto.WatchRename) {
		ev.Flags, ev.OldAttr = ev.Flags|fsproto.WatchHasOldAttr, *f.was
	}
	if len(rel) > fsproto.MaxPath || len(old) > fsproto.MaxPath || len(f.by) > fsproto.MaxUserName {
		ev = nil // it cannot be said
	}
	w.push(ev)
}

func flag(set bool, bit uint32) uint32 {
	if set {
		return bit
	}
	return 0
}

// push queues an event; nil, or one that finds no place, is an overflow, behind which
// it goes on.
func (w *watch) push(ev *fsproto.WatchEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || w.ending || ev != nil && w.merge(ev) {
		return
	}
	if ev == nil || len(w.events) >= maxWatchQueue || w.size+eventSize(ev) > w.s.e.watches.limit() {
		w.clear()
		ev = &fsproto.WatchEvent{Kind: fsproto.WatchOverflow, Time: now()}
	}
	w.append(ev)
}

// merge joins a modify of a file with the last event about it, if that waits and is
// one by the same. mu is held.
func (w *watch) merge(ev *fsproto.WatchEvent) bool {
	last := w.last[ev.Path]
	if ev.Kind != fsproto.WatchModify || last == nil || last.Kind != ev.Kind || last.By != ev.By {
		return false
	}
	last.Time, last.Attr = ev.Time, ev.Attr
	last.Flags = last.Flags&^fsproto.WatchHasAttr | ev.Flags&fsproto.WatchHasAttr
	return true
}

// append queues ev and sees that somebody delivers it. mu is held.
func (w *watch) append(ev *fsproto.WatchEvent) {
	w.events = append(w.events, ev)
	w.count(eventSize(ev))
	switch {
	case ev.Kind == fsproto.WatchRename && ev.Flags&fsproto.WatchIsDir != 0:
		clear(w.last) // the same path may be another file's
	case ev.Kind == fsproto.WatchRename:
		w.last[ev.OldPath] = ev
		fallthrough
	default:
		w.last[ev.Path] = ev
	}
	if !w.running {
		w.running = true
		w.s.pumps.Go(w.pump)
	}
}

// clear drops what waits. mu is held.
func (w *watch) clear() {
	w.count(-w.size)
	w.events = nil
	clear(w.last)
}

// count notes that so many bytes more wait. mu is held.
func (w *watch) count(n int) {
	w.size += n
	w.s.e.watches.queued.Add(int64(n))
}

// eventSize is about what a queued event takes, in bytes.
func eventSize(ev *fsproto.WatchEvent) int { return 512 + len(ev.Path) + len(ev.OldPath) }

// end queues the last event.
func (w *watch) end(errno syscall.Errno) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped && !w.ending {
		w.ending = true
		w.append(&fsproto.WatchEvent{Kind: fsproto.WatchEnd, Time: now(), Error: uint32(rpc.CodeOf(errno))})
	}
}

// stop ends the watch. A delivery that is under way still holds its place.
func (w *watch) stop() {
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		return
	}
	w.stopped = true
	w.clear()
	self, running := w.self, w.running
	w.mu.Unlock()
	w.cancel()
	w.s.e.watches.remove(w)
	if self != 0 {
		w.peer.Revoke(self)
	}
	if !running {
		w.free()
	}
}

// free gives back what the watch holds.
func (w *watch) free() {
	w.s.e.watches.free(w)
	w.s.e.release(w.n)
}

// pump delivers while there is something. A listener that fails ends the watch.
func (w *watch) pump() {
	for {
		events, last := w.take()
		if events == nil {
			return
		}
		if err := w.deliver(events); err != nil || last {
			if err != nil && w.ctx.Err() == nil {
				w.s.log.Debug("a watch has ended", "err", err)
			}
			w.stop()
		}
	}
}

// take takes the events of one delivery. If there are none, the pump has ended.
func (w *watch) take() (events []fsproto.WatchEvent, last bool) {
	w.mu.Lock()
	n, size := 0, 0
	for n < len(w.events) && n < fsproto.MaxWatchEvents && size < fsproto.MaxWatchBatch {
		ev := w.events[n]
		size += eventSize(ev)
		for _, path := range []string{ev.Path, ev.OldPath} {
			if w.last[path] == ev {
				delete(w.last, path)
			}
		}
		w.count(-eventSize(ev))
		events = append(events, *ev)
		n++
	}
	if w.events = w.events[n:]; len(w.events) == 0 {
		w.events = nil
	}
	if n > 0 {
		last = events[n-1].Kind == fsproto.WatchEnd
		w.mu.Unlock()
		return events, last
	}
	w.running = false
	stopped := w.stopped
	w.mu.Unlock()
	if stopped {
		w.free()
	}
	return nil, false
}

// deliver calls the listener with those events that the caller may know of.
func (w *watch) deliver(events []fsproto.WatchEvent) error {
	req := fsproto.WatchEventsReq{First: w.next}
	for i := range events {
		if ev := &events[i]; w.permit(ev) {
			req.Events = append(req.Events, *ev)
		}
	}
	if len(req.Events) == 0 {
		return w.ctx.Err()
	}
	w.next += uint64(len(req.Events))
	_, err := rpc.CallWith(w.ctx, w.peer, fsproto.WatchEvents, &req, &fsproto.Empty{}, rpc.Extra{Object: w.listener})
	return err
}

// permit takes out of an event what happened in directories that the caller may not
// read and search, and reports whether something is left.
func (w *watch) permit(ev *fsproto.WatchEvent) bool {
	if w.as == nil || ev.Kind == fsproto.WatchOverflow || ev.Kind == fsproto.WatchEnd {
		return true
	}
	if ev.Flags&fsproto.WatchHasPath != 0 && !w.mayKnow(ev.Path) {
		ev.Flags &^= fsproto.WatchHasPath | fsproto.WatchHasAttr
		ev.Path, ev.Attr = "", fsproto.Attr{}
	}
	if ev.Flags&fsproto.WatchHasOld != 0 && !w.mayKnow(ev.OldPath) {
		ev.Flags &^= fsproto.WatchHasOld | fsproto.WatchHasOldAttr
		ev.OldPath, ev.OldAttr = "", fsproto.Attr{}
	}
	return ev.Flags&(fsproto.WatchHasPath|fsproto.WatchHasOld) != 0
}

// maxRights bounds the directories of which a watch remembers whether the caller may
// look into them, for as long as something is believed to be beneath the root.
const maxRights = 1024

// mayKnow reports whether the caller may read and search the directory of an entry,
// and search those above it up to the watched one. Of one that has gone, what was known
// last counts; of one that was not known, nothing is told.
func (w *watch) mayKnow(path string) bool {
	dir, _ := parent(path)
	known, ok := w.may[dir]
	if ok && time.Since(known.at) < recheckAfter {
		return known.yes
	}
	err := w.s.e.runAs(w.ctx, *w.as, func() error {
		p, err := walkDown(w.n.path, dir)
		if err != nil {
			return err
		}
		defer p.Close()
		return p.Access(unix.R_OK | unix.X_OK)
	})
	if ok && isErrno(err, unix.ENOENT) {
		return known.yes
	}
	if len(w.may) >= maxRights {
		clear(w.may)
	}
	w.may[dir] = right{err == nil, time.Now()}
	return err == nil
}

func now() fsproto.Time {
	t := time.Now()
	return fsproto.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// errMoved says that a directory is not where it was.
var errMoved = errors.New("no longer at its path")

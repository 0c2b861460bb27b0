package export

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/fsevents"
	"golang.org/x/sys/unix"
)

// Watches. Whoever watches a directory is told what clients do, by what their calls
// have done (watchcall.go), and what programs on the server do, by what the kernel
// tells (foreign). Both become facts about paths of the export, which are queued for
// every watch that covers them. While nobody watches, nobody pays for it.
//
// Where the kernel tells of the whole file system, that is asked for while somebody
// watches, and directories are found by their handles (watchplace.go). Otherwise each
// directory is watched by itself (watchtree.go).

// DefaultWatches bounds the watches of one user, in all sessions; all users together
// have watchesOfAll times that.
const (
	DefaultWatches = 64
	watchesOfAll   = 16
)

// maxRemembered bounds the entries whose attributes are remembered, for the next event
// about them.
const maxRemembered = 4096

// authorTime is how long a change is taken for that of a client, where the kernel does
// not tell it from others.
const authorTime = time.Second

// watches are all watches of an export.
type watches struct {
	e     *Export
	whole bool         // the kernel tells of the whole file system
	own   bool         // it tells of our own changes as well
	on    atomic.Int32 // watches
	// queued counts the bytes of all queues.
	queued atomic.Int64

	tree sync.Mutex // orders what follows directories; held across system calls, before mu

	mu      sync.Mutex // guards memory only; comes after Session.mu
	all     map[*watch]struct{}
	users   map[string]int             // of places taken, by users
	places  map[fsevents.Object]placed // whole: a cache
	moves   uint64                     // counts what may have put places out of date
	tracked map[fsevents.Object]string // not whole: where the directories are that are watched
	objects map[string]fsevents.Object // the same the other way round
	found   map[string]time.Time       // created, as a listing told before the event
	known   map[string]*fsproto.Attr   // as last told
	authors map[string]author          // own: who made changes lately
}

// author is a user who has changed something.
type author struct {
	by string
	at time.Time
}

// fact is something that has happened.
type fact struct {
	kind  uint8 // Watch…
	isDir bool
	by    string // "": a program on the server
	time  fsproto.Time
	at    place         // where it is now, or was; nowhere: moved out
	from  place         // where it was before a rename; nowhere: moved in
	attr  *fsproto.Attr // now; nil: not known
	was   *fsproto.Attr // before
}

func (h *watches) init(e *Export) {
	h.e = e
	h.all, h.users = make(map[*watch]struct{}), make(map[string]int)
	h.places = make(map[fsevents.Object]placed)
	h.tracked, h.objects = make(map[fsevents.Object]string), make(map[string]fsevents.Object)
	h.found, h.known, h.authors = make(map[string]time.Time), make(map[string]*fsproto.Attr), make(map[string]author)
}

// by tells how changes by programs on the server are learned of, and why not better.
func (h *watches) by() (uint8, string) {
	method, why := h.e.watcher.Method()
	why = why[:min(len(why), fsproto.MaxName)]
	switch method {
	case fsevents.Fanotify:
		return fsproto.EventsFanotify, ""
	case fsevents.None:
		return fsproto.EventsNone, why
	}
	return fsproto.EventsInotify, why
}

// limit is how much may wait in one queue at this moment, in bytes.
func (h *watches) limit() int {
	return int(max(minWatchQueueSize, min(maxWatchQueueSize, (watchQueueBudget-h.queued.Load())/16)))
}

// add begins a watch. It fails at a limit, or if the directory is nowhere.
func (h *watches) add(w *watch) error {
	at := h.e.placeOf(w.n.path)
	w.path = at.path
	err := h.enter(w, at.in)
	if err != nil {
		w.cancel()
		h.e.release(w.n)
		return err
	}
	if err = h.track(w); err == nil && !h.stands(w) {
		err = fmt.Errorf("%w: %w", errMoved, syscall.ESTALE)
	}
	if err != nil {
		w.stop()
	}
	return err
}

// enter gives a watch its place.
func (h *watches) enter(w *watch, in bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	user, limit := w.s.id.Name, h.e.cfg.MaxWatches
	total := 0
	for _, n := range h.users {
		total += n
	}
	switch {
	case w.s.unwatched:
		return errClosed
	case !in:
		return syscall.ESTALE
	case h.users[user] >= limit:
		return syscall.EMFILE
	case total >= watchesOfAll*limit:
		return syscall.ENFILE
	}
	h.users[user]++
	h.all[w] = struct{}{}
	if h.on.Add(1) == 1 {
		h.e.watcher.WatchAll(true)
	}
	return nil
}

// remove ends that a watch is told of anything.
func (h *watches) remove(w *watch) {
	h.mu.Lock()
	delete(h.all, w)
	last := h.on.Add(-1) == 0
	if last {
		h.e.watcher.WatchAll(false)
		clear(h.places)
		clear(h.known)
		clear(h.authors)
		clear(h.found)
	}
	untrack := len(h.tracked) > 0
	h.mu.Unlock()
	if untrack {
		h.e.done.Go(h.untrack)
	}
}

// free gives the place of a watch back.
func (h *watches) free(w *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	user := w.s.id.Name
	if h.users[user]--; h.users[user] == 0 {
		delete(h.users, user)
	}
}

// closeWatches ends the watches of a session.
func (s *Session) closeWatches() {
	h := &s.e.watches
	var own []*watch
	h.mu.Lock()
	s.unwatched = true
	for w := range h.all {
		if w.s == s {
			own = append(own, w)
		}
	}
	h.mu.Unlock()
	for _, w := range own {
		w.stop()
	}
	s.pumps.Wait()
}

// wanted reports whether some watch covers one of the places.
func (h *watches) wanted(places ...place) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.all {
		for _, p := range places {
			if _, ok := w.covers(p); ok {
				return true
			}
		}
	}
	return false
}

// publish tells of a fact, and follows directories that come, move and go.
func (h *watches) publish(f *fact) {
	if f.kind != fsproto.WatchCreate || !h.discovered(f.at) {
		h.tell(f)
	}
	if f.isDir {
		h.follow(f)
	}
}

// tell queues a fact for every watch that covers it.
func (h *watches) tell(f *fact) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.isDir && f.kind == fsproto.WatchRename {
		h.moves++
		clear(h.places)
		clear(h.known)
	}
	h.remember(f)
	for w := range h.all {
		w.offer(f)
	}
}

// remember keeps the attributes of what the fact is about, and adds those that were
// kept to it. mu is held.
func (h *watches) remember(f *fact) {
	before := f.at
	if f.kind == fsproto.WatchRename {
		before = f.from
	}
	if f.was == nil && before.in {
		f.was = h.known[before.path]
	}
	if before.in {
		delete(h.known, before.path)
	}
	if f.attr == nil || !f.at.in {
		return
	}
	if len(h.known) >= maxRemembered {
		clear(h.known)
	}
	h.known[f.at.path] = f.attr
}

// follow looks after the watches that the coming, moving or going of a directory
// concerns.
func (h *watches) follow(f *fact) {
	if f.kind != fsproto.WatchRename && f.kind != fsproto.WatchDelete && f.kind != fsproto.WatchCreate {
		return
	}
	if !h.whole {
		h.regrow(f)
	}
	if f.kind == fsproto.WatchCreate {
		return
	}
	h.mu.Lock()
	var doubtful []*watch
	for w := range h.all {
		for _, p := range []place{f.at, f.from} {
			if _, above := beyond(w.path, p.path); above && p.in {
				doubtful = append(doubtful, w)
				break
			}
		}
	}
	h.mu.Unlock()
	for _, w := range doubtful {
		if !h.stands(w) {
			w.end(syscall.ENOENT)
		}
	}
}

// stands reports whether the directory of a watch is still at its path.
func (h *watches) stands(w *watch) bool {
	p, err := h.e.openPlace(w.path)
	if err != nil {
		return false
	}
	defer p.Close()
	st, err := p.Stat()
	if err != nil {
		return false
	}
	id, err := identOf(&st, p.Handle)
	return err == nil && id == w.n.id
}

// foreign is told of an event by the kernel.
func (h *watches) foreign(ev *fsevents.Event) {
	switch {
	case h.on.Load() == 0:
	case ev.Kind&fsevents.Overflow != 0:
		h.overflow()
	case ev.Kind&fsevents.Rename != 0:
		h.moved(ev)
	case ev.Name == "" || fsproto.ValidName(ev.Name):
		h.changed(ev)
	}
}

// overflow says that events have been lost.
func (h *watches) overflow() {
	h.mu.Lock()
	h.moves++
	clear(h.places)
	clear(h.known)
	all := slices.Collect(maps.Keys(h.all))
	h.mu.Unlock()
	for _, w := range all {
		w.push(nil)
	}
	if !h.whole {
		h.retrack()
	}
	for _, w := range all {
		if !h.stands(w) {
			w.end(syscall.ENOENT)
		}
	}
}

// moved tells of a rename by a program on the server.
func (h *watches) moved(ev *fsevents.Event) {
	f := fact{kind: fsproto.WatchRename, isDir: ev.IsDir, time: now()}
	if fsproto.ValidName(ev.Name) {
		f.from = h.where(ev.Dir).entry(ev.Name)
	}
	if fsproto.ValidName(ev.NewName) {
		f.at = h.where(ev.NewDir).entry(ev.NewName)
	}
	if !f.at.in && !f.from.in {
		return
	}
	if h.wanted(f.at, f.from) {
		f.by = h.authorOf(f.at, f.from)
		f.attr = h.look(f.at, ev.Target)
	}
	h.publish(&f)
}

// kindsOfEvent are the kinds that one event of the kernel's may join, in the order in
// which they are told.
var kindsOfEvent = []struct {
	kernel fsevents.Kind
	kind   uint8
}{
	{fsevents.Create, fsproto.WatchCreate}, {fsevents.Modify, fsproto.WatchModify}, {fsevents.Attrib, fsproto.WatchAttrib},
	{fsevents.CloseWrite, fsproto.WatchCloseWrite}, {fsevents.Delete, fsproto.WatchDelete},
}

// changed tells of anything else that one has done.
func (h *watches) changed(ev *fsevents.Event) {
	at := h.where(ev.Dir).entry(ev.Name)
	if !at.in {
		return
	}
	if wanted := h.wanted(at); !wanted && !(ev.IsDir && ev.Kind&fsevents.Delete != 0) {
		return // the removal of a directory above is looked at all the same
	}
	by, attr, t := h.authorOf(at), h.look(at, ev.Target), now()
	for _, k := range kindsOfEvent {
		if ev.Kind&k.kernel == 0 {
			continue
		}
		f := fact{kind: k.kind, isDir: ev.IsDir, by: by, time: t, at: at, attr: attr}
		if k.kind == fsproto.WatchDelete {
			f.attr = nil
		}
		h.publish(&f)
	}
}

// look returns the attributes of what is at a place, nil if there is nothing, or
// something else than the object of an event.
func (h *watches) look(at place, target fsevents.Object) *fsproto.Attr {
	if !at.in {
		return nil
	}
	p, err := h.e.openPlace(at.path)
	if err != nil {
		return nil
	}
	defer p.Close()
	if want, ok := target.KernelHandle(); ok && target != "" {
		if is, err := p.EventHandle(); err == nil && is != want {
			return nil
		}
	}
	return attrAt(p)
}

// attrAt returns the attributes of p, nil if they cannot be had.
func attrAt(p *beneath.Path) *fsproto.Attr {
	st, err := p.Stat()
	if err != nil {
		return nil
	}
	a := attrOf(&st)
	return &a
}

// authorOf returns who has changed something at one of the places lately.
func (h *watches) authorOf(places ...place) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range places {
		if a, ok := h.authors[p.path]; ok && p.in && time.Since(a.at) < authorTime {
			return a.by
		}
	}
	return ""
}

// note remembers the author of a change that the kernel is going to tell of.
func (h *watches) note(f *fact) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.authors) >= maxRemembered {
		clear(h.authors)
	}
	for _, p := range []place{f.at, f.from} {
		if p.in {
			h.authors[p.path] = author{f.by, time.Now()}
		}
	}
}

// isDirAttr reports whether attributes are a directory's.
func isDirAttr(a *fsproto.Attr) bool { return a != nil && a.Mode&unix.S_IFMT == unix.S_IFDIR }

package export

import (
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/fsevents"
	"golang.org/x/sys/unix"
)

// Where the kernel tells of directories one by one, those that some watch covers are
// watched, and those above them, whose moving away ends a watch. A directory is listed
// after its watch stands: what the listing shows of a new one, no event needs to have
// told. Of one that was moved to where it is watched, only what was made since is told;
// what else happened in it before its watch stood is missed.

// maxTracked bounds the directories that are watched one by one.
const maxTracked = 1 << 16

// track watches what a new watch needs.
func (h *watches) track(w *watch) error {
	if m, _ := h.by(); h.whole || m == fsproto.EventsNone {
		return nil
	}
	h.tree.Lock()
	defer h.tree.Unlock()
	for dir := w.path; dir != ""; {
		dir, _ = parent(dir)
		if err := h.trackDir(dir); err != nil && !isErrno(err, unix.EACCES) {
			return err
		}
	}
	return h.grow(w.path, nil)
}

// grow watches a directory, and those below it that are needed. made, if not nil, is
// told of what is found there. tree is held.
func (h *watches) grow(top string, made func(place, *fsproto.Attr)) error {
	for todo := []string{top}; len(todo) > 0; {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		needed, below := h.needed(dir)
		if !needed {
			continue
		}
		err := h.trackDir(dir)
		if isErrno(err, unix.ENOENT, unix.ENOTDIR, unix.EXDEV, unix.ELOOP) || isErrno(err, unix.EACCES) && (dir != top || made != nil) {
			continue // gone meanwhile, or nothing that could be served
		}
		if err != nil {
			return err
		}
		if !below && made == nil {
			continue
		}
		subdirs, err := h.list(dir, made)
		if err != nil {
			return err
		}
		todo = append(todo, subdirs...)
	}
	return nil
}

// list returns the directories in one, and tells made of all that is there.
func (h *watches) list(dir string, made func(place, *fsproto.Attr)) (subdirs []string, err error) {
	p, err := h.e.openPlace(dir)
	if err != nil {
		return nil, nil // gone meanwhile
	}
	defer p.Close()
	f, err := p.OpenDir()
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	buf := make([]byte, listBuffer)
	for {
		names, end, err := f.Dirents(buf, nil)
		if end || isErrno(err, unix.ENOENT) { // or removed meanwhile
			return subdirs, nil
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			at := place{dir, true}.entry(name.Name)
			st, err := p.StatAt(name.Name)
			if err != nil || h.e.within(&st) != nil {
				continue
			}
			a := attrOf(&st)
			if made != nil {
				made(at, &a)
			}
			if a.IsDir() {
				subdirs = append(subdirs, at.path)
			}
		}
	}
}

// trackDir watches one directory. tree is held.
func (h *watches) trackDir(dir string) error {
	p, err := h.e.openPlace(dir)
	if err != nil {
		return err
	}
	defer p.Close()
	return h.trackPath(dir, p)
}

func (h *watches) trackPath(dir string, p *beneath.Path) error {
	st, err := p.Stat()
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	if err := h.e.within(&st); err != nil {
		return err
	}
	h.mu.Lock()
	full := len(h.tracked) >= h.e.cfg.maxTracked
	h.mu.Unlock()
	if full {
		return fmt.Errorf("%d directories are watched: %w", h.e.cfg.maxTracked, unix.ENOSPC)
	}
	h.e.watching.Lock()
	defer h.e.watching.Unlock()
	o, err := h.e.watcher.Watch(p)
	if err != nil {
		return err
	}
	if old := h.place(o, dir); old != "" {
		h.e.unwatchObject(old)
	}
	return nil
}

// tracks reports whether some watch needs a directory.
func (h *watches) tracks(o fsevents.Object) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.tracked[o]
	return ok
}

// unwatch ends to watch directories. tree is held.
func (h *watches) unwatch(dropped []fsevents.Object) {
	h.e.watching.Lock()
	defer h.e.watching.Unlock()
	for _, o := range dropped {
		h.e.unwatchObject(o)
	}
}

// place enters where a directory is that is watched, and returns the one that was
// there, if it was another.
func (h *watches) place(o fsevents.Object, dir string) (old fsevents.Object) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if before, ok := h.tracked[o]; ok {
		delete(h.objects, before)
	}
	if old = h.objects[dir]; old == o {
		old = ""
	}
	delete(h.tracked, old)
	h.tracked[o], h.objects[dir] = dir, o
	return old
}

// needed reports whether a directory has to be watched for some watch, and whether
// those below it have to be as well.
func (h *watches) needed(dir string) (needed, below bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.neededBy(dir)
}

// neededBy is needed with mu held.
func (h *watches) neededBy(dir string) (needed, below bool) {
	for w := range h.all {
		if _, beneath := beyond(dir, w.path); beneath && w.recursive {
			return true, true
		}
		_, above := beyond(w.path, dir)
		needed = needed || above
	}
	return needed, false
}

// untrack ends the watches of directories that are needed no longer.
func (h *watches) untrack() {
	h.tree.Lock()
	defer h.tree.Unlock()
	h.dropUnneeded()
}

// dropUnneeded is untrack with tree held.
func (h *watches) dropUnneeded() {
	h.drop(func(dir string) bool {
		needed, _ := h.neededBy(dir)
		return !needed
	})
}

// drop ends the watches of those directories that gone, which is called with mu held,
// reports. tree is held.
func (h *watches) drop(gone func(dir string) bool) {
	var dropped []fsevents.Object
	h.mu.Lock()
	for o, dir := range h.tracked {
		if gone(dir) {
			delete(h.tracked, o)
			delete(h.objects, dir)
			dropped = append(dropped, o)
		}
	}
	h.mu.Unlock()
	h.unwatch(dropped)
}

// retrack watches everything anew that is needed, after events were lost.
func (h *watches) retrack() {
	h.mu.Lock()
	before := h.tracked
	h.tracked, h.objects = make(map[fsevents.Object]string), make(map[string]fsevents.Object)
	all := slices.Collect(maps.Keys(h.all))
	h.mu.Unlock()
	for _, w := range all {
		if err := h.track(w); err != nil {
			w.end(endErrno(err))
		}
	}
	h.tree.Lock()
	defer h.tree.Unlock()
	h.unwatch(slices.Collect(maps.Keys(before)))
}

// endErrno is why a watch cannot go on.
func endErrno(err error) syscall.Errno {
	if isErrno(err, unix.ENOSPC, unix.EMFILE, unix.ENFILE) {
		return unix.ENOSPC
	}
	return unix.EIO
}

// regrow follows a directory that came, moved or went.
func (h *watches) regrow(f *fact) {
	h.tree.Lock()
	defer h.tree.Unlock()
	switch f.kind {
	case fsproto.WatchCreate:
		h.regrowAt(f.at, h.discover)
	case fsproto.WatchRename:
		h.retire(f.at)
		h.shift(f.from, f.at)
		h.regrowAt(f.at, h.bornSince(f.attr))
		h.regrowAt(f.from, nil) // of an exchange
	case fsproto.WatchDelete:
		h.retire(f.at)
	}
}

// regrowAt is grow for a place. If it fails, the watches end that need it.
func (h *watches) regrowAt(at place, made func(place, *fsproto.Attr)) {
	if !at.in {
		return
	}
	if err := h.grow(at.path, made); err != nil {
		h.fail(at, err)
	}
}

// bornSince returns what is told of the entries below a directory that was moved, whose
// attributes are a: those made after that, before it was watched, are discovered. Its
// ctime is when it was moved.
func (h *watches) bornSince(a *fsproto.Attr) func(place, *fsproto.Attr) {
	if a == nil {
		return nil
	}
	return func(at place, child *fsproto.Attr) {
		b, moved := child.Btime, a.Ctime
		if child.Flags&fsproto.AttrHasBtime != 0 && (b.Sec > moved.Sec || b.Sec == moved.Sec && b.Nsec >= moved.Nsec) {
			h.discover(at, child)
		}
	}
}

// fail ends the watches that cannot follow a directory.
func (h *watches) fail(at place, err error) {
	h.e.log.Warn("a watch ends: a directory cannot be watched; see fs.fanotify.max_user_marks, fs.inotify.max_user_watches and the limit of open files", "err", err)
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.all {
		if _, ok := w.covers(at); ok && w.recursive {
			w.end(endErrno(err))
		}
	}
}

// discover tells that something is in a directory that has just been made, unless that
// was told.
func (h *watches) discover(at place, a *fsproto.Attr) {
	h.mu.Lock()
	known := h.known[at.path]
	told := known != nil && known.Ino == a.Ino
	if len(h.found) >= maxRemembered {
		clear(h.found)
	}
	if !told {
		h.found[at.path] = time.Now()
	}
	h.mu.Unlock()
	if !told {
		h.tell(&fact{kind: fsproto.WatchCreate, isDir: a.IsDir(), by: h.authorOf(at), time: now(), at: at, attr: a})
	}
}

// discovered reports, once, whether an entry's creation was told when a listing showed
// it, so that it is not told again.
func (h *watches) discovered(at place) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.found[at.path]
	delete(h.found, at.path)
	return ok && time.Since(t) < authorTime
}

// retire forgets the directories from a place on downwards: what is there now is
// another one, or nothing. tree is held.
func (h *watches) retire(at place) {
	h.drop(func(dir string) bool {
		_, below := beyond(dir, at.path)
		return below && at.in
	})
}

// shift moves the directories below a place to another. tree is held.
func (h *watches) shift(from, to place) {
	if !to.in {
		h.retire(from)
		return
	}
	type move struct {
		o   fsevents.Object
		new string
	}
	var moved []move
	h.mu.Lock()
	for o, dir := range h.tracked {
		if rel, below := beyond(dir, from.path); below && from.in {
			moved = append(moved, move{o, to.entry(rel).path})
			delete(h.objects, dir)
		}
	}
	for _, m := range moved {
		h.tracked[m.o], h.objects[m.new] = m.new, m.o
	}
	h.mu.Unlock()
	h.dropUnneeded()
}

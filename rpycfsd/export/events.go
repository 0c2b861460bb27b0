package export

import (
	"fmt"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/fsevents"
	"golang.org/x/sys/unix"
)

// What programs on the server change, nobody asks for. Where the kernel tells of it
// for the whole file system, every node is watched from when it becomes known
// (watch), and leases on it are called back when something has happened to it.
//
// Otherwise objects are watched one by one (cover.go). Events then name a directory
// and an entry, and which node that is, or was, is found out here. Where it cannot be
// decided more is taken back than need be.

// watchChanges begins to learn of changes by programs on the server.
func (e *Export) watchChanges(root *beneath.Path) error {
	w, err := fsevents.Open(fsevents.Config{Root: root, Want: e.cfg.events, Log: e.log, Handle: e.happened})
	if err != nil {
		return fmt.Errorf("cannot find out how changes are learned of: %w", err)
	}
	method, _ := w.Method()
	e.watches.whole, e.watches.own = method == fsevents.Fanotify, w.Own()
	e.watcher = w
	e.piecemeal = method == fsevents.FanotifyDirs || method == fsevents.Inotify
	e.leases.blind = method == fsevents.None
	return nil
}

// eventsBy tells how changes by programs on the server are learned of, and why not
// better.
func (e *Export) eventsBy() (uint8, string) {
	method, why := e.watcher.Method()
	switch method {
	case fsevents.Fanotify:
		return fsproto.EventsFanotify, ""
	case fsevents.FanotifyDirs:
		return fsproto.EventsFanotify, cut(why)
	case fsevents.Inotify:
		return fsproto.EventsInotify, cut(why)
	}
	return fsproto.EventsNone, cut(why)
}

// cut shortens a text to what a reply holds.
func cut(s string) string { return s[:min(len(s), fsproto.MaxName)] }

// watch begins to watch a node that is becoming known by its kernel handle, where
// that is how nodes are watched; mu is held.
func (e *Export) watch(n *node, h beneath.KernelHandle) {
	if o, ok := e.watcher.WatchHandle(h); ok {
		n.object = o
		e.objects[o] = n
		n.watched = 1
	}
}

// unwatch ends that, or what cover began; mu is held.
func (e *Export) unwatch(n *node) {
	if n.object == "" || e.objects[n.object] != n {
		return
	}
	delete(e.objects, n.object)
	if e.piecemeal {
		e.ended = append(e.ended, n.object)
	} else {
		e.watcher.Unwatch(n.object)
	}
}

// happened is told of changes.
func (e *Export) happened(events []fsevents.Event) {
	for i := range events {
		if !events[i].Unasked {
			e.tell(&events[i])
		}
	}
	for i := range events {
		e.watches.foreign(&events[i])
	}
}

// tell takes back what an event puts out of date.
func (e *Export) tell(ev *fsevents.Event) {
	if ev.Kind&fsevents.Overflow != 0 {
		e.log.Warn("changes on the server's disk came too fast; clients are told to forget what they have cached")
		method, _ := e.watcher.Method()
		e.leases.overflow(method == fsevents.None)
		return
	}
	dir, newDir, target := e.watchedNode(ev.Dir), e.watchedNode(ev.NewDir), e.watchedNode(ev.Target)
	defer e.unrefAll(dir, newDir, target)
	const names = fsevents.Create | fsevents.Delete | fsevents.Rename
	const data = fsevents.Modify | fsevents.CloseWrite
	var waits []*recall
	take := func(n *node, what uint8, name string) {
		if n != nil {
			waits = append(waits, e.leases.foreign(n, what, name)...)
		}
	}
	if ev.Kind&names != 0 {
		take(dir, recallAttr, ev.Name)
		take(newDir, recallAttr, ev.NewName)
	}
	if target != nil && ev.Kind&(fsevents.Rename|fsevents.Delete) != 0 {
		e.renamed(target.id, hintAt(dir, ev.Name), hintAt(newDir, ev.NewName))
	}
	at := entryAt{dir, ev.Name}
	itself := ev.Name == "" && ev.NewName == ""
	if itself && target == nil {
		target = dir
	}
	what := recallAttr
	if ev.Kind&data != 0 {
		what = recallWhole
	}
	if target != nil {
		take(target, what, "")
		if ev.Kind&fsevents.DeleteSelf != 0 && itself {
			e.gone(target)
		}
	}
	switch {
	case e.piecemeal && !itself: // the target is told only if it is watched itself
		if newDir != nil {
			e.tellEntry(newDir, ev.NewName, what)
		}
		if dir != nil {
			e.tellEntry(dir, ev.Name, what)
		}
	case target == nil:
		e.leases.unknown()
	}
	e.tellForeign(ev, at, entryAt{newDir, ev.NewName}, target, waits)
}

// hintAt is a name in a directory that may not be known.
func hintAt(dir *node, name string) hint {
	if dir == nil {
		return hint{}
	}
	return hint{dir.id, name}
}

// foreignKinds are the events of an Event that stands for several, in an order in which
// they may have come.
var foreignKinds = []struct {
	kind fsevents.Kind
	what uint8
}{
	{fsevents.Create, fsproto.EventCreate},
	{fsevents.Rename, fsproto.EventRename},
	{fsevents.Modify, fsproto.EventModify},
	{fsevents.Attrib, fsproto.EventAttrib},
	{fsevents.CloseWrite, fsproto.EventClose},
	{fsevents.Delete, fsproto.EventDelete},
	{fsevents.DeleteSelf, fsproto.EventDelete},
}

// tellForeign tells the sessions what a program on the server has done.
func (e *Export) tellForeign(ev *fsevents.Event, at, to entryAt, target *node, waits []*recall) {
	h := happening{node: target, kind: unix.S_IFREG}
	if ev.IsDir {
		h.kind = unix.S_IFDIR
	}
	for _, k := range foreignKinds {
		if ev.Kind&k.kind == 0 {
			continue
		}
		h.what, h.to, h.at = k.what, entryAt{}, []entryAt{at}
		switch {
		case k.kind == fsevents.Rename:
			h.to = to
		case at.name == "" && target != nil && target.isDir() && k.what != fsproto.EventDelete:
			h.at = e.placesOf(target)
		case at.name == "":
			h.at = nil // who watches the directory is not told of the number of links either
		}
		e.tellOthers(nil, &h, waits)
	}
}

// watchedNode returns the node that events call o, with a reference, or nil.
func (e *Export) watchedNode(o fsevents.Object) *node {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.objects[o]
	if n != nil {
		n.refs++
	}
	return n
}

func (e *Export) unrefAll(nodes ...*node) {
	for _, n := range nodes {
		if n != nil {
			e.unref(n)
		}
	}
}

// tellEntry takes back what was told of the node that an entry leads to, and of the
// one that it led to before.
func (e *Export) tellEntry(dir *node, name string, what uint8) {
	at := hint{dir.id, name}
	now, links := e.entryNow(dir, name)
	e.mu.Lock()
	was := e.byName[at]
	if was != nil {
		was.refs++
	}
	e.mu.Unlock()
	defer e.unrefAll(now, was)
	if was != nil {
		e.leases.foreign(was, what, "")
	}
	if now == nil {
		e.leases.unknown()
	} else if now != was {
		e.leases.foreign(now, what, "")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if was != nil && was != now {
		was.unnamed(at)
		e.record(was)
		e.moved(was, at, hint{})
	}
	if now != nil {
		e.name(now, at)
		e.found(now, at, links)
	}
}

// entryNow returns the node that an entry leads to, with a reference, and its number
// of links. nil if no session knows it, or it cannot be found out.
func (e *Export) entryNow(dir *node, name string) (*node, uint32) {
	e.keep(dir)
	p, err := e.acquire(dir)
	if err != nil {
		e.unref(dir)
		return nil, 0
	}
	defer e.release(dir)
	st, err := p.StatAt(name)
	if err != nil || e.within(&st) != nil {
		return nil, 0
	}
	id, err := identOf(&st, func() (beneath.KernelHandle, error) { return p.HandleAt(name) })
	if err != nil {
		return nil, 0
	}
	return e.find(id), st.Nlink
}

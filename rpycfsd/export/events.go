package export

import (
	"fmt"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/fsevents"
	"golang.org/x/sys/unix"
)

// What programs on the server change, nobody asks for. Where the kernel tells of it
// for the whole file system, every node is watched from when it becomes known, and
// leases on it are called back when something has happened to it.

// watchChanges begins to learn of changes by programs on the server.
func (e *Export) watchChanges(root *beneath.Path) error {
	w, err := fsevents.Open(fsevents.Config{Root: root, Log: e.log, Handle: e.happened})
	if err != nil {
		return fmt.Errorf("cannot find out how changes are learned of: %w", err)
	}
	e.watcher = w
	return nil
}

// eventsBy tells how changes by programs on the server are learned of, and why not
// better.
func (e *Export) eventsBy() (uint8, string) {
	method, why := e.watcher.Method()
	if method == fsevents.Fanotify {
		return fsproto.EventsFanotify, ""
	}
	return fsproto.EventsNone, why
}

// watch begins to watch a node that is becoming known by its kernel handle; mu is
// held.
func (e *Export) watch(n *node, h beneath.KernelHandle) {
	if o, ok := e.watcher.WatchHandle(h); ok {
		n.object = o
		e.objects[o] = n
	}
}

// unwatch ends that; mu is held.
func (e *Export) unwatch(n *node) {
	if n.object != "" && e.objects[n.object] == n {
		delete(e.objects, n.object)
		e.watcher.Unwatch(n.object)
	}
}

// happened is told of changes.
func (e *Export) happened(events []fsevents.Event) {
	for i := range events {
		e.tell(&events[i])
	}
}

// tell takes back what an event puts out of date.
func (e *Export) tell(ev *fsevents.Event) {
	if ev.Kind&fsevents.Overflow != 0 {
		e.log.Warn("changes on the server's disk came too fast; clients are told to forget what they have cached")
		e.leases.overflow()
		return
	}
	e.mu.Lock()
	dir, newDir, target := e.objects[ev.Dir], e.objects[ev.NewDir], e.objects[ev.Target]
	e.mu.Unlock()
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
	at := place{dir, ev.Name}
	if ev.Name == "" && ev.NewName == "" && target == nil {
		target = dir
	}
	switch {
	case target == nil:
		e.leases.unknown()
	case ev.Kind&data != 0:
		take(target, recallWhole, "")
	default:
		take(target, recallAttr, "")
	}
	e.tellForeign(ev, at, place{newDir, ev.NewName}, target, waits)
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
func (e *Export) tellForeign(ev *fsevents.Event, at, to place, target *node, waits []*recall) {
	h := happening{node: target, kind: unix.S_IFREG}
	if ev.IsDir {
		h.kind = unix.S_IFDIR
	}
	for _, k := range foreignKinds {
		if ev.Kind&k.kind == 0 {
			continue
		}
		h.what, h.to, h.at = k.what, place{}, []place{at}
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

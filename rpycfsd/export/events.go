package export

import (
	"fmt"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/fsevents"
)

// What programs on the server change, nobody asks for. Where the kernel tells of it
// for the whole file system, every node is watched from when it becomes known, and
// leases on it are called back when something has happened to it.

// watchChanges begins to learn of changes by programs on the server.
func (e *Export) watchChanges(root *beneath.Path) error {
	w, err := fsevents.Open(fsevents.Config{Root: root, Want: e.cfg.events, Log: e.log, Handle: e.happened})
	if err != nil {
		return fmt.Errorf("cannot find out how changes are learned of: %w", err)
	}
	method, _ := w.Method()
	e.watches.whole, e.watches.own = method == fsevents.Fanotify, w.Own()
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
		e.leases.overflow()
		return
	}
	e.mu.Lock()
	dir, newDir, target := e.objects[ev.Dir], e.objects[ev.NewDir], e.objects[ev.Target]
	e.mu.Unlock()
	const names = fsevents.Create | fsevents.Delete | fsevents.Rename
	const data = fsevents.Modify | fsevents.CloseWrite
	if ev.Kind&names != 0 {
		if dir != nil {
			e.leases.foreign(dir, recallAttr, ev.Name)
		}
		if newDir != nil {
			e.leases.foreign(newDir, recallAttr, ev.NewName)
		}
	}
	if ev.Name == "" && ev.NewName == "" && target == nil {
		target = dir
	}
	switch {
	case target == nil:
		e.leases.unknown()
	case ev.Kind&data != 0:
		e.leases.foreign(target, recallWhole, "")
	default:
		e.leases.foreign(target, recallAttr, "")
	}
}

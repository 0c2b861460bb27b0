package fsproto

import (
	"strings"

	"github.com/rpycfs/rpycfs/rpc"
)

// Limits of a watch.
const (
	MaxWatchEvents = 256      // events in one delivery
	MaxWatchBatch  = 64 << 10 // bytes of events after which a delivery takes no more
	MaxUserName    = 256      // bytes of a user's name
)

// WatchReq asks to be told what happens to directory Path, seen from the user's
// root, to its entries, and with Recursive to all that is below. No component may be a
// symbolic link. It may come before attach. Errors: EMFILE and ENFILE at the limits
// of watches of the user and of all, ENOSPC if the kernel cannot watch so many
// directories, EACCES if the caller may not read and search the directory.
type WatchReq struct {
	Listener  rpc.Ref // has the method watch_events
	Path      []string
	Recursive bool
}

// Fields lists the fields of m.
func (m *WatchReq) Fields(c *rpc.Codec) {
	c.Ref(&m.Listener)
	rpc.List(c, &m.Path, MaxPath/2, 5, name)
	c.Bool(&m.Recursive)
}

// WatchRes answers that the watch stands: what happens from now on is told.
// Releasing the reference ends it.
type WatchRes struct {
	Watch  rpc.Ref // has no methods
	Events uint8   // Events…: how changes by programs on the server are learned of; EventsNone: not at all
	Why    string  // why not better; for people
}

// Fields lists the fields of m.
func (m *WatchRes) Fields(c *rpc.Codec) {
	c.Ref(&m.Watch)
	c.U8(&m.Events)
	if m.Events > EventsFanotify {
		c.Fail(rpc.ErrValue)
	}
	c.String(&m.Why, MaxName)
}

// Kinds of WatchEvent.
const (
	WatchCreate     uint8 = iota + 1 // an entry was made, by link(2) too
	WatchModify                      // content or size changed
	WatchAttrib                      // mode, owner, times or extended attributes changed
	WatchDelete                      // an entry was removed
	WatchRename                      // an entry was moved; what was at the new place is gone
	WatchCloseWrite                  // closed by who could write
	WatchOverflow                    // events were lost here: look at everything anew
	WatchEnd                         // the last event: the watch has ended
	watchKindEnd
)

// Flags of WatchEvent.
const (
	WatchIsDir      uint32 = 1 << iota // what changed is a directory
	WatchHasPath                       // Path is set; not: overflow, end, or moved to where nothing is watched
	WatchHasOld                        // OldPath is set: moved from there, within what is watched
	WatchHasAttr                       // Attr is set
	WatchHasOldAttr                    // OldAttr is set
	watchFlagsEnd
)

// WatchEvent is one thing that happened. Paths are relative to the watched
// directory, with "/" between their names; that directory itself is "".
type WatchEvent struct {
	Kind    uint8
	Flags   uint32 // Watch… bits
	Time    Time   // when the server learned of it
	By      string // name of the user whose client did it; "": a program on the server
	Path    string // with WatchHasPath
	OldPath string // with WatchHasOld, of a rename
	Attr    Attr   // with WatchHasAttr: of what is there, as they were when the server looked, right after
	OldAttr Attr   // with WatchHasOldAttr: as the server knew them before; it need not have known them
	Error   uint32 // of an end: an error number, ENOENT if the directory is not at its path any more
}

// Fields lists the fields of e.
func (e *WatchEvent) Fields(c *rpc.Codec) {
	c.U8(&e.Kind)
	if e.Kind == 0 || e.Kind >= watchKindEnd {
		c.Fail(rpc.ErrValue)
	}
	c.Flags(&e.Flags, watchFlagsEnd-1)
	e.Time.Fields(c)
	c.String(&e.By, MaxUserName)
	if e.Flags&WatchHasPath != 0 {
		watchPath(c, &e.Path)
	}
	if e.Flags&WatchHasOld != 0 {
		watchPath(c, &e.OldPath)
	}
	if e.Flags&WatchHasAttr != 0 {
		e.Attr.Fields(c)
	}
	if e.Flags&WatchHasOldAttr != 0 {
		e.OldAttr.Fields(c)
	}
	c.U32(&e.Error)
}

// watchPath is names with "/" between them, or "".
func watchPath(c *rpc.Codec, v *string) {
	c.String(v, MaxPath)
	if !validPath(*v) {
		c.Fail(rpc.ErrValue)
	}
}

func validPath(s string) bool {
	for s != "" {
		first, rest, more := strings.Cut(s, "/")
		if !ValidName(first) || more && rest == "" {
			return false
		}
		s = rest
	}
	return true
}

// watchEventLeast is the smallest encoded size of an event, in bytes.
const watchEventLeast = 1 + 4 + 12 + 4 + 4

// WatchEventsReq hands events to a listener, in the order in which they happened. The
// server makes one call at a time, and the next one when this is answered.
type WatchEventsReq struct {
	First  uint64 // number of the first event, from 1 on; numbers have no gaps
	Events []WatchEvent
}

// Fields lists the fields of m.
func (m *WatchEventsReq) Fields(c *rpc.Codec) {
	c.U64(&m.First)
	rpc.List(c, &m.Events, MaxWatchEvents, watchEventLeast, func(c *rpc.Codec, e *WatchEvent) { e.Fields(c) })
}

package fsproto

import "github.com/rpycfs/rpycfs/rpc"

// Events tell what others have done, for programs that wait for it (inotify(7)). They
// come after the change, and after what the client had cached of it was recalled.
// Nothing depends on them: some may be left out, and a client may pass over all.

// What has happened (Event.What).
const (
	EventCreate uint8 = iota + 1 // Name was made in Dir
	EventDelete                  // Name was removed from Dir
	EventRename                  // Name in Dir became NewName in NewDir
	EventModify                  // the bytes or the size of Node changed
	EventAttrib                  // other attributes of Node did
	EventClose                   // Node was closed by who could write
	eventEnd
)

// Event is one change. Nodes that the client does not know are 0, and directories
// that it does not know have no name here: a rename from or to one has one side only.
// Of what happened to a node itself, Dir and Name are one way to it.
type Event struct {
	What     uint8  // Event…
	Kind     uint32 // file type bits of the node's mode; 0: not known
	Node     Node
	Dir      Node
	Name     string // with Dir
	NewDir   Node   // of a rename
	NewName  string // with NewDir
	Replaced Node   // by a rename; with Exchange, what went to Name in Dir
	Exchange bool   // of a rename
}

// eventLeast is the size of an encoded Event without names, in bytes.
const eventLeast = 1 + 4 + 4*8 + 2*4 + 1

// Fields lists the fields of e.
func (e *Event) Fields(c *rpc.Codec) {
	c.U8(&e.What)
	if e.What == 0 || e.What >= eventEnd {
		c.Fail(rpc.ErrValue)
	}
	c.U32(&e.Kind)
	if e.Kind&^ModeType != 0 {
		c.Fail(rpc.ErrValue)
	}
	c.U64((*uint64)(&e.Node))
	c.U64((*uint64)(&e.Dir))
	nameIn(c, e.Dir, &e.Name)
	c.U64((*uint64)(&e.NewDir))
	nameIn(c, e.NewDir, &e.NewName)
	c.U64((*uint64)(&e.Replaced))
	c.Bool(&e.Exchange)
}

// nameIn is a name in a directory, and empty without one.
func nameIn(c *rpc.Codec, dir Node, v *string) {
	c.String(v, MaxName)
	if (dir == 0) != (*v == "") || dir != 0 && !ValidName(*v) {
		c.Fail(rpc.ErrValue)
	}
}

// EventsReq tells of changes in their order. Lost says that others before them are
// missing.
type EventsReq struct {
	Lost   bool
	Events []Event
}

// Fields lists the fields of m.
func (m *EventsReq) Fields(c *rpc.Codec) {
	c.Bool(&m.Lost)
	rpc.List(c, &m.Events, MaxEvents, eventLeast, func(c *rpc.Codec, e *Event) { e.Fields(c) })
}

package chatproto

import (
	"time"

	"github.com/rpycfs/rpycfs/rpc"
)

// Empty says nothing.
type Empty struct{}

// Fields lists the fields of m: none.
func (m *Empty) Fields(*rpc.Codec) {}

// ChatAttachReq hands over the listener that the server calls. A session may
// attach several listeners; each has a feed of its own.
type ChatAttachReq struct {
	Listener rpc.Ref  // has the methods chat_deliver and chat_cut
	Device   DeviceID // which of the user's devices this is; zero: none
}

// Fields lists the fields of m.
func (m *ChatAttachReq) Fields(c *rpc.Codec) {
	c.Ref(&m.Listener)
	c.Fixed(m.Device[:])
}

// ChatAttachRes answers with the chat session. The feed begins with event 1,
// at this moment.
type ChatAttachRes struct{ Session rpc.Ref }

// Fields lists the fields of m.
func (m *ChatAttachRes) Fields(c *rpc.Codec) { c.Ref(&m.Session) }

// Kinds of Event, and what their bodies are.
const (
	EventMessage  uint8 = 1 // Message: an entry of a room that the user is in
	EventPresence uint8 = 2 // Presence: of any user
	EventRoom     uint8 = 3 // RoomState: a room that the user came into, as it was before the entry that records it; or one that changed, as it is
	EventGone     uint8 = 4 // RoomGone: a room that the user is no longer in
	EventMark     uint8 = 5 // Mark: the user has read, in whichever session
	EventTyping   uint8 = 6 // TypingEvent
	EventDevices  uint8 = 7 // DevicesEvent: a user's list of devices has changed
	EventMail     uint8 = 8 // Mail: between devices of the user
	EventNotice   uint8 = 9 // Notice: from the server to all
)

// NewEventBody returns an empty message of the kind's type, or nil for a kind
// that is not defined.
func NewEventBody(kind uint8) rpc.Message {
	switch kind {
	case EventMessage:
		return new(Message)
	case EventPresence:
		return new(Presence)
	case EventRoom:
		return new(RoomState)
	case EventGone:
		return new(RoomGone)
	case EventMark:
		return new(Mark)
	case EventTyping:
		return new(TypingEvent)
	case EventDevices:
		return new(DevicesEvent)
	case EventMail:
		return new(Mail)
	case EventNotice:
		return new(Notice)
	}
	return nil
}

// Event is one thing that happened. Kinds that the receiver does not know are
// passed over.
type Event struct {
	Kind uint8  // Event… constant
	Body []byte // encoding of the message that belongs to the kind, at most MaxEvent
}

// Fields lists the fields of e.
func (e *Event) Fields(c *rpc.Codec) {
	c.U8(&e.Kind)
	c.Bytes(&e.Body, MaxEvent)
}

// DeliverReq hands events to a listener, in the order in which they happened.
// The reply lets the server send the next ones.
type DeliverReq struct {
	First  uint64 // number of the first event in the feed; the others follow without a gap
	Events []Event
}

// Fields lists the fields of m.
func (m *DeliverReq) Fields(c *rpc.Codec) {
	c.U64(&m.First)
	rpc.List(c, &m.Events, MaxEvents, 5, func(c *rpc.Codec, e *Event) { e.Fields(c) })
}

// CutReq tells a listener that events were dropped because it did not take them
// in time. The feed stands still until the client asks for a snapshot; what was
// said meanwhile is in the history.
type CutReq struct {
	First uint64 // number of the first event that was dropped
}

// Fields lists the fields of m.
func (m *CutReq) Fields(c *rpc.Codec) { c.U64(&m.First) }

// Values of Presence.State.
const (
	Offline uint8 = iota
	Away          // said so, or the connection is lost
	Online
)

// Presence tells whether a user is there. A user with several sessions is as
// present as the most present of them.
type Presence struct {
	User  string
	State uint8  // Offline, Away or Online
	Text  string // why away; may be empty
	Since int64  // server's clock, microseconds since 1970 UTC
}

// Fields lists the fields of p.
func (p *Presence) Fields(c *rpc.Codec) {
	c.String(&p.User, MaxUser)
	c.U8(&p.State)
	c.String(&p.Text, MaxAwayText)
	c.I64(&p.Since)
	if p.State > Online {
		c.Fail(rpc.ErrValue)
	}
}

// RoomGone tells that the user is no longer a member of a room.
type RoomGone struct{ Room RoomID }

// Fields lists the fields of m.
func (m *RoomGone) Fields(c *rpc.Codec) { c.U64((*uint64)(&m.Room)) }

// Mark tells how far the user has read a room.
type Mark struct {
	Room   RoomID
	Read   uint64 // sequence number up to which all is read
	Last   uint64 // sequence number of the newest entry that Unread takes into account
	Unread uint32 // messages of others after Read; MaxUnread: that many or more
}

// MaxUnread is where unread messages are no longer counted.
const MaxUnread = 1000

// Fields lists the fields of m.
func (m *Mark) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Room))
	c.U64(&m.Read)
	c.U64(&m.Last)
	c.U32(&m.Unread)
}

// TypingFor is how long a TypingEvent holds.
const TypingFor = 5 * time.Second

// TypingEvent tells that a user is typing in a room.
type TypingEvent struct {
	Room RoomID
	User string
}

// Fields lists the fields of m.
func (m *TypingEvent) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Room))
	c.String(&m.User, MaxUser)
}

// DevicesEvent tells that a user's list of devices has a new version.
type DevicesEvent struct {
	User    string
	Version uint64
}

// Fields lists the fields of m.
func (m *DevicesEvent) Fields(c *rpc.Codec) {
	c.String(&m.User, MaxUser)
	c.U64(&m.Version)
}

// Notice is a word of the server to everybody, such as that it is about to stop.
type Notice struct{ Text string }

// Fields lists the fields of m.
func (m *Notice) Fields(c *rpc.Codec) { c.String(&m.Text, MaxNotice) }

// SnapshotReq asks for everything that events change. It also sets going a feed
// that was cut.
type SnapshotReq struct{}

// Fields lists the fields of m: none.
func (m *SnapshotReq) Fields(*rpc.Codec) {}

// SnapshotRes is how things stand after all events before Next. Users is without
// any event from Next on; Rooms may contain some of those already.
type SnapshotRes struct {
	User  string // who the session belongs to
	Next  uint64 // number of the first event of the feed that is not contained
	Users []Presence
	Rooms []RoomState // rooms that the user is in, direct ones included
}

// Fields lists the fields of m.
func (m *SnapshotRes) Fields(c *rpc.Codec) {
	c.String(&m.User, MaxUser)
	c.U64(&m.Next)
	rpc.List(c, &m.Users, MaxUsers, 17, func(c *rpc.Codec, p *Presence) { p.Fields(c) })
	rpc.List(c, &m.Rooms, MaxRooms, 60, func(c *rpc.Codec, r *RoomState) { r.Fields(c) })
}

// SetAwayReq makes this session away, or present again.
type SetAwayReq struct {
	Away bool
	Text string // why; only with Away
}

// Fields lists the fields of m.
func (m *SetAwayReq) Fields(c *rpc.Codec) {
	c.Bool(&m.Away)
	c.String(&m.Text, MaxAwayText)
}

package chat

import (
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Event is something that happened: *Message, *Presence, *RoomChanged,
// *RoomGone, *ReadMark, *Typing, *Notice, *Connection, *Warning or *Failed.
type Event interface{ event() }

// Message is an entry of a room's log, or one that waits in the outbox.
type Message struct {
	Room     chatproto.RoomID // 0: a direct message that waits, and whose room is not known yet
	RoomName string           // the room's name; @user for a direct room
	Seq      uint64           // from 1, without a gap; 0 while pending
	ID       chatproto.ID     // chosen by the client that said it
	Kind     uint8            // chatproto.Kind…; never KindSealed of a message that could be opened
	From     string           // who was authenticated when it was said
	Target   string           // who was invited or removed
	Text     string           // what was said, or the new topic; harmful characters included
	Time     time.Time        // server's clock; zero while pending
	Sent     time.Time        // clock of who said it, advisory; zero: not said
	Sealed   bool             // it was sealed to the members' devices
	Closed   bool             // sealed, and this device has no key for it: Text is empty
	Refused  bool             // of a sealed room and not genuine: not to be shown as said or done
	Device   chatproto.DeviceID
	Warnings []string // about a sealed entry, to be shown with it
	Pending  bool     // in the outbox: not acknowledged yet
}

// Said reports whether m is something that a user said, not a record of what
// was done in the room.
func (m *Message) Said() bool {
	return m.Kind == chatproto.KindText || m.Kind == chatproto.KindAction || m.Kind == chatproto.KindSealed
}

// Presence tells whether a user is there.
type Presence struct {
	User  string
	State uint8  // chatproto.Offline, Away or Online
	Text  string // why away; may be empty
	Since time.Time
}

// RoomInfo is a room as this user sees it.
type RoomInfo struct {
	ID      chatproto.RoomID
	Kind    uint8  // chatproto.Room…
	Name    string // empty for direct ones
	Topic   string
	Owner   string // may remove members and set the retention; empty: nobody
	Peer    string // the other user of a direct room
	Members int
	First   uint64 // sequence number of the oldest entry that is kept
	Last    uint64 // sequence number of the newest entry; 0: none yet
	Read    uint64 // sequence number up to which this user has read
	Unread  int    // messages of others after Read; chatproto.MaxUnread: that many or more
	Member  bool   // this user is a member
}

// Title is the name under which Client.Room finds the room: its name, or @user
// for a direct one.
func (r *RoomInfo) Title() string {
	if r.Kind == chatproto.RoomDirect {
		return "@" + r.Peer
	}
	return r.Name
}

// RoomChanged tells that the user came into a room or that it changed.
type RoomChanged struct {
	Room RoomInfo
	New  bool // the user was not in it before
}

// RoomGone tells that the user is no longer in a room.
type RoomGone struct{ Room RoomInfo }

// ReadMark tells how far the user has read a room, on whatever device.
type ReadMark struct {
	Room     chatproto.RoomID
	RoomName string
	Read     uint64
	Unread   int
}

// Typing tells that a user is typing. It holds for TypingFor.
type Typing struct {
	Room     chatproto.RoomID
	RoomName string
	User     string
}

// Notice is a word of the server to everybody.
type Notice struct{ Text string }

// Connection tells that the connection was lost or stands again. What was
// missed meanwhile follows as ordinary events.
type Connection struct{ Status Status }

// Warning is about the safety of a sealed room, or about entries that could not
// be shown. A person should see it.
type Warning struct {
	Room     chatproto.RoomID // 0: about no room in particular
	RoomName string
	User     string // whom it is about; may be empty
	Text     string // one line
}

// Failed tells that a message of the outbox was refused for good. It is no
// longer in the outbox.
type Failed struct {
	Message Message
	Err     error
}

func (*Message) event()     {}
func (*Presence) event()    {}
func (*RoomChanged) event() {}
func (*RoomGone) event()    {}
func (*ReadMark) event()    {}
func (*Typing) event()      {}
func (*Notice) event()      {}
func (*Connection) event()  {}
func (*Warning) event()     {}
func (*Failed) event()      {}

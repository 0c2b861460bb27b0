package chatproto

import "github.com/rpycfs/rpycfs/rpc"

// Kinds of room.
const (
	RoomPublic  uint8 = 1 // everybody sees it and may join
	RoomPrivate uint8 = 2 // members only; members invite
	RoomSealed  uint8 = 3 // private, and what is said is sealed to the members' devices
	RoomDirect  uint8 = 4 // two users; made when the first of them speaks
)

// RoomInfo describes a room.
type RoomInfo struct {
	Room    RoomID
	Kind    uint8  // Room… constant
	Name    string // empty for direct ones
	Topic   string // empty in sealed rooms, whose topic is sealed too
	Owner   string // may remove members and set the retention; empty: nobody
	Peer    string // the other user of a direct room
	Members uint32
	First   uint64 // sequence number of the oldest entry that is kept
	Last    uint64 // sequence number of the newest entry; 0: none yet
	Epoch   uint64 // newest key epoch of a sealed room; 0: none yet
	Member  bool   // the asking user is a member
}

// Fields lists the fields of r.
func (r *RoomInfo) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&r.Room))
	c.U8(&r.Kind)
	c.String(&r.Name, MaxRoomName)
	c.String(&r.Topic, MaxTopic)
	c.String(&r.Owner, MaxUser)
	c.String(&r.Peer, MaxUser)
	c.U32(&r.Members)
	c.U64(&r.First)
	c.U64(&r.Last)
	c.U64(&r.Epoch)
	c.Bool(&r.Member)
	if r.Kind < RoomPublic || r.Kind > RoomDirect {
		c.Fail(rpc.ErrValue)
	}
}

// RoomState is a room as one of its members sees it.
type RoomState struct {
	Info   RoomInfo
	Read   uint64 // sequence number up to which the user has read
	Unread uint32 // messages of others after Read, up to Info.Last; MaxUnread: that many or more
}

// Fields lists the fields of r.
func (r *RoomState) Fields(c *rpc.Codec) {
	r.Info.Fields(c)
	c.U64(&r.Read)
	c.U32(&r.Unread)
}

// Kinds of Message. Text and action are said by users; sealed holds one of them
// for the members' devices only; the others are the room's own record of what
// was done, and carry the signed statement for it in sealed rooms.
const (
	KindText   uint8 = 1  // Body is the text
	KindAction uint8 = 2  // Body is what the user does ("/me")
	KindSealed uint8 = 3  // Body is sealed; the server cannot read it
	KindCreate uint8 = 4  // the room was made
	KindJoin   uint8 = 5  // From came in
	KindLeave  uint8 = 6  // From left
	KindInvite uint8 = 7  // From brought Target in
	KindRemove uint8 = 8  // From put Target out
	KindTopic  uint8 = 9  // Body is the new topic
	KindKeys   uint8 = 10 // From made a new key epoch; Body is its number, u64
)

// Message is one entry of a room's log. Sequence numbers of a room have no gap;
// entries never change.
type Message struct {
	Room   RoomID
	Seq    uint64 // from 1
	ID     ID     // made by the client that caused the entry
	Kind   uint8  // Kind… constant
	From   string // set by the server: who was authenticated
	Target string // who was invited or removed
	Time   int64  // server's clock, microseconds since 1970 UTC
	Sent   int64  // the client's clock, advisory; 0: not said
	Body   []byte
}

// Fields lists the fields of m.
func (m *Message) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Room))
	c.U64(&m.Seq)
	c.Fixed(m.ID[:])
	c.U8(&m.Kind)
	c.String(&m.From, MaxUser)
	c.String(&m.Target, MaxUser)
	c.I64(&m.Time)
	c.I64(&m.Sent)
	c.Bytes(&m.Body, MaxBody)
	if m.Kind < KindText || m.Kind > KindKeys {
		c.Fail(rpc.ErrValue)
	}
}

const messageSize = 61 // smallest encoding of a Message, in bytes

func message(c *rpc.Codec, m *Message) { m.Fields(c) }

// ListRoomsReq asks for the rooms that the user may know of, ordered by folded
// name, direct rooms left out.
type ListRoomsReq struct {
	After string // name after which to go on; empty: from the beginning
}

// Fields lists the fields of m.
func (m *ListRoomsReq) Fields(c *rpc.Codec) { c.String(&m.After, MaxRoomName) }

// ListRoomsRes answers with a page of rooms.
type ListRoomsRes struct {
	Rooms []RoomInfo
	More  bool // there are more after the last one
}

// Fields lists the fields of m.
func (m *ListRoomsRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Rooms, MaxPage, 54, func(c *rpc.Codec, r *RoomInfo) { r.Fields(c) })
	c.Bool(&m.More)
}

// CreateRoomReq makes a room with the user as its owner and only member.
type CreateRoomReq struct {
	ID    ID // of the entry that records it
	Kind  uint8
	Name  string
	Topic string // must be empty for sealed rooms
	Proof []byte // sealed rooms: signed statement
}

// Fields lists the fields of m.
func (m *CreateRoomReq) Fields(c *rpc.Codec) {
	c.Fixed(m.ID[:])
	c.U8(&m.Kind)
	c.String(&m.Name, MaxRoomName)
	c.String(&m.Topic, MaxTopic)
	c.Bytes(&m.Proof, MaxProof)
	if m.Kind < RoomPublic || m.Kind > RoomSealed {
		c.Fail(rpc.ErrValue)
	}
}

// JoinRoomReq makes the user a member of a public room. A member already in is
// let in again without an entry.
type JoinRoomReq struct {
	ID   ID
	Name string
}

// Fields lists the fields of m.
func (m *JoinRoomReq) Fields(c *rpc.Codec) {
	c.Fixed(m.ID[:])
	c.String(&m.Name, MaxRoomName)
}

// OpenRoomReq asks for the reference of a room that the user is in.
type OpenRoomReq struct{ Room RoomID }

// Fields lists the fields of m.
func (m *OpenRoomReq) Fields(c *rpc.Codec) { c.U64((*uint64)(&m.Room)) }

// OpenDirectReq asks for the room of the user and another one, and makes it if
// they have none. With oneself it is a notebook.
type OpenDirectReq struct{ User string }

// Fields lists the fields of m.
func (m *OpenDirectReq) Fields(c *rpc.Codec) { c.String(&m.User, MaxUser) }

// RoomRes answers with a room and its reference. A session that opens a room
// again gets the same reference.
type RoomRes struct {
	Room RoomState
	Ref  rpc.Ref
}

// Fields lists the fields of m.
func (m *RoomRes) Fields(c *rpc.Codec) {
	m.Room.Fields(c)
	c.Ref(&m.Ref)
}

// SayReq says something in a room.
type SayReq struct {
	ID    ID
	Kind  uint8  // KindText or KindAction; KindSealed in sealed rooms
	Sent  int64  // the client's clock, microseconds since 1970 UTC; 0: not said
	Epoch uint64 // sealed rooms: the key epoch that Body is sealed with
	Body  []byte
}

// Fields lists the fields of m.
func (m *SayReq) Fields(c *rpc.Codec) {
	c.Fixed(m.ID[:])
	c.U8(&m.Kind)
	c.I64(&m.Sent)
	c.U64(&m.Epoch)
	c.Bytes(&m.Body, MaxBody)
	if m.Kind < KindText || m.Kind > KindSealed {
		c.Fail(rpc.ErrValue)
	}
}

// SayRes tells what became of it; it is on the server's disk.
type SayRes struct {
	Seq  uint64
	Time int64 // server's clock, microseconds since 1970 UTC
}

// Fields lists the fields of m.
func (m *SayRes) Fields(c *rpc.Codec) {
	c.U64(&m.Seq)
	c.I64(&m.Time)
}

// WhisperReq says something to one user, in the room of the two. It waits for
// who is not there, unless Now is set.
type WhisperReq struct {
	User string
	Now  bool // CodeOffline if the user is not there; nothing is stored then
	Say  SayReq
}

// Fields lists the fields of m.
func (m *WhisperReq) Fields(c *rpc.Codec) {
	c.String(&m.User, MaxUser)
	c.Bool(&m.Now)
	m.Say.Fields(c)
}

// WhisperRes tells what became of it.
type WhisperRes struct {
	Room  RoomID
	Said  SayRes
	State uint8 // presence of the other user
}

// Fields lists the fields of m.
func (m *WhisperRes) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Room))
	m.Said.Fields(c)
	c.U8(&m.State)
	if m.State > Online {
		c.Fail(rpc.ErrValue)
	}
}

// HistoryReq asks for a page of a room's log: the entries right before Before,
// or right after After. One of them is 0, or both: the newest entries.
type HistoryReq struct {
	Before, After uint64
	Limit         uint32 // at most so many entries; 0 and more than MaxPage mean MaxPage
}

// Fields lists the fields of m.
func (m *HistoryReq) Fields(c *rpc.Codec) {
	c.U64(&m.Before)
	c.U64(&m.After)
	c.U32(&m.Limit)
}

// HistoryRes answers with entries in the order of their sequence numbers.
// Fewer than asked for do not mean the end: First and Last tell.
type HistoryRes struct {
	First, Last uint64 // sequence numbers of the room's oldest and newest entry
	Messages    []Message
}

// Fields lists the fields of m.
func (m *HistoryRes) Fields(c *rpc.Codec) {
	c.U64(&m.First)
	c.U64(&m.Last)
	rpc.List(c, &m.Messages, MaxPage, messageSize, message)
}

// SearchReq looks for texts in the rooms that the user is in, newest first.
// Sealed rooms hold no text that the server could search.
type SearchReq struct {
	Room          RoomID // in this room only; 0: in all
	From          string // said by this user; empty: by anybody
	After, Before int64  // server's clock, microseconds; After <= time < Before; 0: no bound
	Terms         []string
	Cursor        uint64 // from an earlier reply; 0: from the newest
	Limit         uint32 // as in HistoryReq
}

// Fields lists the fields of m.
func (m *SearchReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Room))
	c.String(&m.From, MaxUser)
	c.I64(&m.After)
	c.I64(&m.Before)
	rpc.List(c, &m.Terms, MaxTerms, 4, func(c *rpc.Codec, s *string) { c.String(s, MaxTerm) })
	c.U64(&m.Cursor)
	c.U32(&m.Limit)
}

// SearchRes answers with entries that hold all the terms. A term of several
// words is a phrase. The server bounds its work: fewer entries than asked for,
// or none, do not mean the end, a cursor of 0 does.
type SearchRes struct {
	Messages []Message
	Cursor   uint64 // to go on with; 0: there is no more
}

// Fields lists the fields of m.
func (m *SearchRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Messages, MaxPage, messageSize, message)
	c.U64(&m.Cursor)
}

// SetTopicReq sets a room's topic. Not in sealed rooms, where it is said sealed.
type SetTopicReq struct {
	ID    ID
	Topic string
}

// Fields lists the fields of m.
func (m *SetTopicReq) Fields(c *rpc.Codec) {
	c.Fixed(m.ID[:])
	c.String(&m.Topic, MaxTopic)
}

// MemberReq brings a user into a room, which any member may, or puts one out,
// which only the owner may.
type MemberReq struct {
	ID    ID
	User  string
	Proof []byte // sealed rooms: signed statement
}

// Fields lists the fields of m.
func (m *MemberReq) Fields(c *rpc.Codec) {
	c.Fixed(m.ID[:])
	c.String(&m.User, MaxUser)
	c.Bytes(&m.Proof, MaxProof)
}

// LeaveReq ends the user's membership. The reference is revoked with it.
type LeaveReq struct {
	ID    ID
	Proof []byte // sealed rooms: signed statement
}

// Fields lists the fields of m.
func (m *LeaveReq) Fields(c *rpc.Codec) {
	c.Fixed(m.ID[:])
	c.Bytes(&m.Proof, MaxProof)
}

// MarkReadReq says how far the user has read. It never goes back.
type MarkReadReq struct{ Seq uint64 }

// Fields lists the fields of m.
func (m *MarkReadReq) Fields(c *rpc.Codec) { c.U64(&m.Seq) }

// TypingReq tells the others that the user is typing.
type TypingReq struct{}

// Fields lists the fields of m: none.
func (m *TypingReq) Fields(*rpc.Codec) {}

// MembersReq asks who is in the room, ordered by name.
type MembersReq struct{}

// Fields lists the fields of m: none.
func (m *MembersReq) Fields(*rpc.Codec) {}

// MembersRes answers with the members.
type MembersRes struct{ Users []string }

// Fields lists the fields of m.
func (m *MembersRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Users, MaxMembers, 4, func(c *rpc.Codec, s *string) { c.String(s, MaxUser) })
}

// SetRetentionReq sets how much of the room is kept. Only the owner may.
type SetRetentionReq struct {
	Count uint64 // entries; 0: all
	Age   uint64 // seconds; 0: for ever
}

// Fields lists the fields of m.
func (m *SetRetentionReq) Fields(c *rpc.Codec) {
	c.U64(&m.Count)
	c.U64(&m.Age)
}

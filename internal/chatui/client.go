// Package chatui is the terminal interface of the chat: rooms on the left,
// messages on the right, a line to type in below.
//
// The model lives on Bubble Tea's one goroutine and never waits: what asks the
// server runs in a command and comes back as a message, and what is said goes
// through the client's outbox. Everything that others have written passes
// package clean before it is shown.
package chatui

import (
	"context"
	"iter"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Client is what the interface needs of a chat client. Methods without a
// context do not wait for the server.
type Client interface {
	User() string
	Status() chat.Status
	Err() error
	Events(ctx context.Context) iter.Seq[chat.Event]
	Users() []chat.Presence
	Rooms() []chat.RoomInfo
	Pending() []chat.Message
	ListRooms(ctx context.Context) ([]chat.RoomInfo, error)

	Room(name string) (Room, error)
	Join(ctx context.Context, name string) (Room, error)
	Create(ctx context.Context, name string, kind uint8, topic string) (Room, error)
	Direct(ctx context.Context, user string) (Room, error)
	Whisper(ctx context.Context, user, text string) error
	SetAway(ctx context.Context, away bool, text string) error
	Search(ctx context.Context, text string, from chat.Cursor, limit int) ([]chat.Message, chat.Cursor, error)

	Devices(ctx context.Context, user string) ([]chat.Device, error)
	Fingerprint(ctx context.Context, user string) (string, error)
	Verify(ctx context.Context, user string) error
	Enrolled(ctx context.Context) error
	EnrolRequest(ctx context.Context) (code string, err error)
	Enrol(ctx context.Context, code string) (chat.Device, error)
	Revoke(ctx context.Context, id chatproto.DeviceID) (rotated bool, err error)
	Recovery() (string, error)
	Recover(ctx context.Context, key string) error
}

// Room is what the interface needs of a room.
type Room interface {
	Info() chat.RoomInfo
	Send(text string) (chatproto.ID, error)
	SendAct(text string) (chatproto.ID, error)
	History(ctx context.Context, before uint64, n int) ([]chat.Message, error)
	Members(ctx context.Context) ([]string, error)
	SetTopic(ctx context.Context, topic string) error
	Invite(ctx context.Context, user string) error
	Remove(ctx context.Context, user string) error
	Leave(ctx context.Context) error
	MarkRead(ctx context.Context, seq uint64) error
	Typing(ctx context.Context) error
}

// library makes a Client of the chat library's.
type library struct{ *chat.Client }

var (
	_ Client = library{}
	_ Room   = (*chat.Room)(nil)
)

// room keeps a nil *chat.Room from becoming a Room that is not nil.
func room(r *chat.Room, err error) (Room, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (l library) Room(name string) (Room, error) { return room(l.Client.Room(name)) }

func (l library) Join(ctx context.Context, name string) (Room, error) {
	return room(l.Client.Join(ctx, name))
}

func (l library) Create(ctx context.Context, name string, kind uint8, topic string) (Room, error) {
	return room(l.Client.Create(ctx, name, kind, topic))
}

func (l library) Direct(ctx context.Context, user string) (Room, error) {
	return room(l.Client.Direct(ctx, user))
}

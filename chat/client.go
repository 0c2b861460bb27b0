package chat

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Errors of this package; those of the service are chatproto's.
var (
	// ErrQueued means that a message was put into the outbox and goes out when
	// the connection is back.
	ErrQueued = errors.New("not connected; the message waits in the outbox")
	// ErrNoState means that sealed rooms need Config.State.
	ErrNoState = errors.New("sealed rooms need a state directory")
	// ErrClosed means that the client has been closed.
	ErrClosed = errors.New("the chat client is closed")
)

// TypingFor is how long a Typing event holds.
const TypingFor = 5 * time.Second

// Start tells where the events of a room begin when the client attaches for the
// first time.
type Start uint8

const (
	FromNow    Start = iota // with what is said from now on
	FromUnread              // with the first entry that the user has not read
)

// Config describes a chat client. It is not changed once Dial has it.
type Config struct {
	// Address is host:port, or unix:PATH.
	Address string
	// Auth logs in.
	Auth *auth.Client
	// State is a directory for the outbox, the keys and the history of sealed
	// rooms; it is made if need be. "" keeps nothing: the outbox is in memory
	// and sealed rooms cannot be used.
	State string
	// Device is the name of this device that others see; "" is the host's name.
	Device string
	// Start is where the events of rooms begin.
	Start Start
	// Since names rooms (as Client.Room does) whose events begin after a
	// sequence number.
	Since map[string]uint64
	// Offline makes Dial succeed although the server cannot be reached: what is
	// said goes into the outbox.
	Offline bool
	// NoEvents is for programs that never call Events.
	NoEvents bool
	// Log receives what goes wrong; nil discards.
	Log *slog.Logger
}

// Status tells how the client stands.
type Status struct {
	Connected bool
	Since     time.Time // of Connected being what it is
	LastError error     // why there is no connection
	NextTry   time.Time // while not connected
	Outbox    int       // messages that wait
}

// Device is a device of a user.
type Device struct {
	ID      chatproto.DeviceID
	Name    string
	Added   time.Time
	Revoked bool
	This    bool // it is the calling one
}

// Cursor is where a search goes on. The zero value begins.
type Cursor struct {
	server uint64
}

// Client is a chat client. Its methods are safe for concurrent use.
type Client struct{}

func Dial(ctx context.Context, cfg Config) (*Client, error)  { return nil, errors.ErrUnsupported }
func (c *Client) Close() error                               { return nil }
func (c *Client) User() string                               { return "" }
func (c *Client) Status() Status                             { return Status{} }
func (c *Client) Err() error                                 { return nil } // why the client gave up for good (password refused…), nil while it goes on
func (c *Client) Events(ctx context.Context) iter.Seq[Event] { return func(func(Event) bool) {} }
func (c *Client) Users() []Presence                          { return nil }
func (c *Client) Rooms() []RoomInfo                          { return nil }
func (c *Client) ListRooms(ctx context.Context) ([]RoomInfo, error) {
	return nil, errors.ErrUnsupported
}
func (c *Client) Pending() []Message              { return nil } // what waits in the outbox, in order
func (c *Client) Flush(ctx context.Context) error { return nil } // waits until the outbox is empty

func (c *Client) Join(ctx context.Context, name string) (*Room, error) {
	return nil, errors.ErrUnsupported
}
func (c *Client) Create(ctx context.Context, name string, kind uint8, topic string) (*Room, error) {
	return nil, errors.ErrUnsupported
}
func (c *Client) Room(name string) (*Room, error) { return nil, chatproto.ErrNoRoom } // name, @user or decimal ID; a room that the user is in
func (c *Client) Direct(ctx context.Context, user string) (*Room, error) {
	return nil, errors.ErrUnsupported
}
func (c *Client) Whisper(ctx context.Context, user, text string) error { return errors.ErrUnsupported }
func (c *Client) SetAway(ctx context.Context, away bool, text string) error {
	return errors.ErrUnsupported
}
func (c *Client) Search(ctx context.Context, text string, from Cursor, limit int) ([]Message, Cursor, error) {
	return nil, Cursor{}, errors.ErrUnsupported
}
func (c *Client) Devices(ctx context.Context, user string) ([]Device, error)   { return nil, ErrNoState }
func (c *Client) Fingerprint(ctx context.Context, user string) (string, error) { return "", ErrNoState }
func (c *Client) Verify(ctx context.Context, user string) error                { return ErrNoState }
func (c *Client) EnrolRequest(ctx context.Context) (code string, err error)    { return "", ErrNoState }
func (c *Client) Enrol(ctx context.Context, code string) error                 { return ErrNoState }
func (c *Client) Revoke(ctx context.Context, id chatproto.DeviceID) error      { return ErrNoState }
func (c *Client) Recovery(ctx context.Context) (string, error)                 { return "", ErrNoState }
func (c *Client) Recover(ctx context.Context, key string) error                { return ErrNoState }

// Done reports that Cursor has no more to give.
func (c Cursor) Done() bool { return false }

package e2ee

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// KV is where an engine keeps its state; keys are short ASCII, values opaque and
// secret. Several processes may share one KV. Its methods are safe for concurrent
// use.
type KV interface {
	// Get returns the value of key; nil, nil means that there is none.
	Get(key string) ([]byte, error)
	// Update runs fn once, while no other Update runs in any process, and makes
	// what it put last on disk before it returns: all of it, or nothing if fn or
	// Update returns an error. fn calls nothing but the methods of tx.
	Update(fn func(tx Tx) error) error
	// List returns all keys that begin with prefix, with their values.
	List(prefix string) (map[string][]byte, error)
}

// Tx is what an update sees of a KV. It is valid until the update ends.
type Tx interface {
	Get(key string) ([]byte, error) // as KV.Get, before what this update puts
	Put(key string, value []byte)   // nil deletes
}

// Server is what an engine asks of the chat server. Nothing that it answers is
// believed. Errors of the service are *chatproto.Error; any error of another
// type is taken for a lost connection and handed to the caller.
type Server interface {
	// Devices returns all lists of a user's devices from version from on, in
	// order; none: there are none.
	Devices(ctx context.Context, user string, from uint64) ([][]byte, error)
	PutDevices(ctx context.Context, version uint64, list []byte) error

	Mail(ctx context.Context) ([]chatproto.Mail, error)
	PutMail(ctx context.Context, m chatproto.Mail) error
	DropMail(ctx context.Context, id chatproto.ID) error

	// Keys returns epochs of a room from number from on with the boxes of one
	// device, in order. It may return fewer than there are, but not none.
	Keys(ctx context.Context, room chatproto.RoomID, device chatproto.DeviceID, from uint64) ([]chatproto.KeyEpoch, error)
	PutKeys(ctx context.Context, room chatproto.RoomID, req *chatproto.PutKeysReq) error
	AddKeys(ctx context.Context, room chatproto.RoomID, keys []chatproto.SealedKey) error

	// History returns entries of a room's log right after number after, in order.
	// It may return fewer than there are, but not none.
	History(ctx context.Context, room chatproto.RoomID, after uint64) ([]chatproto.Message, error)
}

// Errors that callers tell apart.
var (
	ErrNotEnrolled = errors.New("this device is not enrolled: enter a code from it on another device, or the recovery key here")
	ErrRevoked     = errors.New("this device has been revoked")
	ErrNotHolder   = errors.New("only a device that holds the recovery key can do that: the first one, or one where it was entered")
	ErrCode        = errors.New("no new device waits with that code")
	ErrRecovery    = errors.New("that is not a recovery key: mistyped")
	ErrRecoveryOld = errors.New("the recovery key is of another user, or has been replaced")
	ErrNoDevices   = errors.New("the user has no device for sealed rooms yet")
	ErrNotMember   = errors.New("no member of the room has proven that you belong to it")
	ErrUnproven    = errors.New("who belongs to the room is not proven")
	ErrTooMany     = errors.New("too many members or devices")
	ErrUnknownUser = errors.New("nothing is known of that user's keys")
	ErrNoSuch      = errors.New("no such device")
	ErrBusy        = errors.New("the room changes too fast; try again")
)

// Refusal is the error of an answer that an honest server would not have given.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return r.Reason }

func refuse(format string, args ...any) error { return &Refusal{fmt.Sprintf(format, args...)} }

// Status tells what Receive made of an entry.
type Status uint8

// Values of Status.
const (
	Accepted Status = 1 // genuine; a sealed text is open
	NoKey    Status = 2 // genuine, but this device has no key to open it (said before it came, or not sealed to it)
	Refused  Status = 3 // not genuine: must not be shown as said or done; a warning tells why
)

// Opened is what has become of an entry of a sealed room.
type Opened struct {
	Status   Status
	Kind     uint8              // of a sealed entry: KindText, KindAction or KindTopic if open, otherwise 0; of others the entry's own kind
	Text     string             // text, action or topic of an open entry
	Device   chatproto.DeviceID // that signed it; zero: none did
	Warnings []string           // to be shown to the person with the entry, even if Accepted
}

// Device is one device of a user.
type Device struct {
	ID      chatproto.DeviceID
	Name    string
	Added   time.Time
	Revoked time.Time // zero: it is in use
	Holder  bool      // holds the recovery key: may enrol and revoke devices
	This    bool      // is the engine's own
}

// Change is a notice about a user's keys, to be shown in all rooms shared with
// that user.
type Change struct {
	User string
	Text string
}

// Options of Open; the zero value is for programs.
type Options struct {
	Name   string           // of this device, shown to others; at most 64 bytes, unprintable characters are dropped
	Random io.Reader        // nil: crypto/rand
	Now    func() time.Time // nil: time.Now
}

// Engine seals and opens for one device of one user. Its methods are safe for
// concurrent use, also by engines of several processes on the same KV.
type Engine struct {
	kv     KV
	user   string
	device *deviceKeys
	name   string
	random io.Reader
	now    func() time.Time

	keysSize int // of header and boxes in one request, in bytes

	mu    sync.Mutex
	fresh map[chatproto.RoomID]bool // rooms whose members' lists were fetched since Open
	asked map[epochKey]bool         // epochs that the server had no box of
}

type epochKey struct {
	room  chatproto.RoomID
	epoch uint64
}

// Open returns the engine of a user on this device. At first use it makes the
// device's keys and stores them in kv.
func Open(kv KV, user string, opts Options) (*Engine, error) {
	e := &Engine{
		kv: kv, user: user, name: printable(opts.Name), random: opts.Random, now: opts.Now, keysSize: chatproto.MaxKeysSize,
		fresh: make(map[chatproto.RoomID]bool), asked: make(map[epochKey]bool),
	}
	if e.random == nil {
		e.random = rand.Reader
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.name == "" {
		e.name = "unnamed"
	}
	if user == "" || len(user) > chatproto.MaxUser {
		return nil, fmt.Errorf("e2ee: user name of %d bytes", len(user))
	}
	var err error
	e.device, err = e.loadDevice()
	return e, err
}

// DeviceID returns the name of this device.
func (e *Engine) DeviceID() chatproto.DeviceID { return e.device.id }

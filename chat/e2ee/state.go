package e2ee

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// Keys of the KV. Users are in hexadecimal, numbers of fixed width.
const (
	keyDevice  = "device"  // deviceSecrets
	keySeed    = "seed"    // the recovery seed, on its holders
	keyNewSeed = "newseed" // the one that a rotation is about to bring in force
	keyPending = "pending" // code of a request that waits for its answer
	keyNotices = "notices" // notices not yet fetched
	keyRooms   = "room/"   // + room: roomState
)

func keyPin(user string) string                  { return fmt.Sprintf("pin/%x", user) }
func keyList(user string, version uint64) string { return fmt.Sprintf("list/%x/%016x", user, version) }
func keyRoom(r chatproto.RoomID) string          { return fmt.Sprintf(keyRooms+"%016x", uint64(r)) }
func keyMembers(r chatproto.RoomID) string       { return fmt.Sprintf("members/%016x", uint64(r)) }
func keyEntry(r chatproto.RoomID, s uint64) string {
	return fmt.Sprintf("entry/%016x/%016x", uint64(r), s)
}
func keySeen(r chatproto.RoomID, h hash) string    { return fmt.Sprintf("seen/%016x/%x", uint64(r), h) }
func keyDone(r chatproto.RoomID, h hash) string    { return fmt.Sprintf("done/%016x/%x", uint64(r), h) }
func keyGone(r chatproto.RoomID, u string) string  { return fmt.Sprintf("gone/%016x/%x", uint64(r), u) }
func keyEpochs(r chatproto.RoomID) string          { return fmt.Sprintf("epoch/%016x/", uint64(r)) }
func keyEpoch(r chatproto.RoomID, n uint64) string { return keyEpochs(r) + fmt.Sprintf("%016x", n) }
func keyCount(r chatproto.RoomID, u string, d chatproto.DeviceID) string {
	return fmt.Sprintf("count/%016x/%x/%x", uint64(r), u, d)
}
func keyRest(r chatproto.RoomID) string { return fmt.Sprintf("rest/%016x", uint64(r)) }
func keyOwn(r chatproto.RoomID) string  { return fmt.Sprintf("own/%016x", uint64(r)) }
func keyOut(r chatproto.RoomID, id chatproto.ID) string {
	return fmt.Sprintf("out/%016x/%x", uint64(r), id)
}

// stored limits the lists of what this side has stored itself.
const stored = 1 << 20

// deviceSecrets is the value of keyDevice.
type deviceSecrets struct{ Sign, Box hash }

func (m *deviceSecrets) Fields(c *rpc.Codec) {
	c.Fixed(m.Sign[:])
	c.Fixed(m.Box[:])
}

// single is a value of one hash or number.
type single struct{ Hash hash }

func (m *single) Fields(c *rpc.Codec) { c.Fixed(m.Hash[:]) }

// number is a value of one or two numbers.
type number struct{ A, B uint64 }

func (m *number) Fields(c *rpc.Codec) {
	c.U64(&m.A)
	c.U64(&m.B)
}

// pin is what is known of a user's identity.
type pin struct {
	Version    uint64 // newest list
	List       hash   // of that list
	Identities []hash // all that the user has had, newest last
	Verified   hash   // the identity that a person has compared; zero: none
}

func (m *pin) Fields(c *rpc.Codec) {
	c.U64(&m.Version)
	c.Fixed(m.List[:])
	rpc.List(c, &m.Identities, stored, 32, func(c *rpc.Codec, h *hash) { c.Fixed(h[:]) })
	c.Fixed(m.Verified[:])
}

// identity returns the newest one.
func (m *pin) identity() hash { return m.Identities[len(m.Identities)-1] }

// notices is the value of keyNotices.
type notices struct{ List []Change }

func (m *notices) Fields(c *rpc.Codec) {
	rpc.List(c, &m.List, stored, 8, func(c *rpc.Codec, n *Change) {
		c.String(&n.User, stored)
		c.String(&n.Text, stored)
	})
}

// roomState is how far a room's log has been taken in.
type roomState struct {
	Room    hash     // its identity; zero: not proven yet
	Name    string   // as its maker signed it; empty: the beginning was not there to see
	First   uint64   // number of the first entry that was seen
	Last    uint64   // number of the last entry
	Chain   hash     // up to Last; zero: not known, because entries are missing
	Members hash     // membership chain
	Owner   string   // empty: not known
	Epoch   uint64   // newest that is valid; 0: none
	Header  hash     // of that epoch
	Top     uint64   // newest that the log names, valid or not
	Adopt   bool     // entries are missing: members are taken from the epoch of the next message
	Partial bool     // that has happened
	Left    []string // who left while Adopt
}

func (m *roomState) Fields(c *rpc.Codec) {
	c.Fixed(m.Room[:])
	c.String(&m.Name, stored)
	c.U64(&m.First)
	c.U64(&m.Last)
	c.Fixed(m.Chain[:])
	c.Fixed(m.Members[:])
	c.String(&m.Owner, stored)
	c.U64(&m.Epoch)
	c.Fixed(m.Header[:])
	c.U64(&m.Top)
	c.Bool(&m.Adopt)
	c.Bool(&m.Partial)
	rpc.List(c, &m.Left, stored, 4, func(c *rpc.Codec, s *string) { c.String(s, stored) })
}

// member is a proven member of a room.
type member struct {
	User      string
	Since     uint64 // entry that brought it in
	By        string // whose statement that was
	Device    chatproto.DeviceID
	Confirmed bool   // an epoch since then has named it
	Floor     uint64 // newest version of its list that the log has named
}

func (m *member) Fields(c *rpc.Codec) {
	c.String(&m.User, stored)
	c.U64(&m.Since)
	c.String(&m.By, stored)
	c.Fixed(m.Device[:])
	c.Bool(&m.Confirmed)
	c.U64(&m.Floor)
}

// members are in the order in which they came.
type members struct{ List []member }

func (m *members) Fields(c *rpc.Codec) {
	rpc.List(c, &m.List, stored, 41, func(c *rpc.Codec, x *member) { x.Fields(c) })
}

// get returns a member, or nil.
func (m *members) get(user string) *member {
	for i := range m.List {
		if m.List[i].User == user {
			return &m.List[i]
		}
	}
	return nil
}

// entryRecord is what was made of an entry.
type entryRecord struct {
	Hash     hash
	Chain    hash // up to it; zero: not known
	Status   Status
	Device   chatproto.DeviceID
	Warnings []string
}

func (m *entryRecord) Fields(c *rpc.Codec) {
	c.Fixed(m.Hash[:])
	c.Fixed(m.Chain[:])
	c.U8((*uint8)(&m.Status))
	c.Fixed(m.Device[:])
	rpc.List(c, &m.Warnings, stored, 4, func(c *rpc.Codec, s *string) { c.String(s, stored) })
}

// epochRecord is a valid epoch.
type epochRecord struct {
	Header []byte // body, as signed
	Key    hash   // zero: this device has none
}

func (m *epochRecord) Fields(c *rpc.Codec) {
	c.Bytes(&m.Header, stored)
	c.Fixed(m.Key[:])
}

// ownRecord counts what this device seals in a room.
type ownRecord struct {
	Last    uint64   // newest counter in use
	GivenUp []uint64 // counters that will not be used, rising
}

func (m *ownRecord) Fields(c *rpc.Codec) {
	c.U64(&m.Last)
	rpc.List(c, &m.GivenUp, stored, 8, func(c *rpc.Codec, n *uint64) { c.U64(n) })
}

// work is one optimistic transaction: what it has read is compared once more
// when it is committed, so that no lock is held while the server is asked.
type work struct {
	kv   KV
	read map[string][]byte
	put  map[string][]byte
}

// errRaced means that another engine has changed what a work has read.
var errRaced = errors.New("e2ee: changed meanwhile")

// transact runs fn until nothing that it has read was changed meanwhile.
func (e *Engine) transact(fn func(w *work) error) error {
	for range 64 {
		w := &work{kv: e.kv, read: make(map[string][]byte), put: make(map[string][]byte)}
		if err := fn(w); err != nil {
			return err
		}
		if err := w.commit(); !errors.Is(err, errRaced) {
			return err
		}
	}
	return ErrBusy
}

// load reads key into m; false: there is none.
func (w *work) load(key string, m rpc.Message) (bool, error) {
	b, put := w.put[key]
	if !put {
		var read bool
		if b, read = w.read[key]; !read {
			var err error
			if b, err = w.kv.Get(key); err != nil {
				return false, fmt.Errorf("e2ee: reading the state: %w", err)
			}
			w.read[key] = b
		}
	}
	if b == nil {
		return false, nil
	}
	if err := rpc.Decode(b, m); err != nil {
		return false, fmt.Errorf("e2ee: the state is damaged at %s: %w", key, err)
	}
	return true, nil
}

// store writes m under key, unless that is there already: a work that changes
// nothing costs no update.
func (w *work) store(key string, m rpc.Message) error {
	b, err := encode(m)
	if err != nil {
		return fmt.Errorf("e2ee: %s: %w", key, err)
	}
	_, changed := w.put[key]
	if was, read := w.read[key]; !changed && read && was != nil && bytes.Equal(was, b) {
		return nil
	}
	w.put[key] = b
	return nil
}

func (w *work) drop(key string) { w.put[key] = nil }

func (w *work) commit() error {
	if len(w.put) == 0 {
		return nil
	}
	return w.kv.Update(func(tx Tx) error {
		for key, b := range w.read {
			now, err := tx.Get(key)
			if err != nil {
				return err
			}
			if (now == nil) != (b == nil) || !bytes.Equal(now, b) {
				return errRaced
			}
		}
		for key, b := range w.put {
			tx.Put(key, b)
		}
		return nil
	})
}

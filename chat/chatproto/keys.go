package chatproto

import "github.com/rpycfs/rpycfs/rpc"

// What the server keeps for sealed rooms is opaque to it: lists of devices,
// headers of key epochs and boxes are made, signed, checked and opened by the
// clients (package chat/e2ee). The server only sees to it that versions and
// epochs follow one another, and that everybody writes for himself.

// GetDevicesReq asks for the signed lists of a user's devices.
type GetDevicesReq struct {
	User string
	From uint64 // lowest version wanted
}

// Fields lists the fields of m.
func (m *GetDevicesReq) Fields(c *rpc.Codec) {
	c.String(&m.User, MaxUser)
	c.U64(&m.From)
}

// GetDevicesRes answers with lists in the order of their versions, without a
// gap; empty: there are none from that version on.
type GetDevicesRes struct {
	Lists [][]byte
	More  bool // there are more after the last one
}

// Fields lists the fields of m.
func (m *GetDevicesRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Lists, MaxLists, 4, func(c *rpc.Codec, b *[]byte) { c.Bytes(b, MaxList) })
	c.Bool(&m.More)
}

// PutDevicesReq adds a list to the user's own. CodeConflict unless Version is
// one above the newest. Sealed rooms of the user need a new key epoch after it.
type PutDevicesReq struct {
	Version uint64
	List    []byte
}

// Fields lists the fields of m.
func (m *PutDevicesReq) Fields(c *rpc.Codec) {
	c.U64(&m.Version)
	c.Bytes(&m.List, MaxList)
}

// Mail is a letter from one device of a user to the user's others.
type Mail struct {
	ID   ID
	From DeviceID
	To   DeviceID // zero: to all of the user's devices
	Time int64    // server's clock, microseconds since 1970 UTC
	Body []byte
}

// Fields lists the fields of m.
func (m *Mail) Fields(c *rpc.Codec) {
	c.Fixed(m.ID[:])
	c.Fixed(m.From[:])
	c.Fixed(m.To[:])
	c.I64(&m.Time)
	c.Bytes(&m.Body, MaxMail)
}

// GetMailReq asks for the letters that wait for the user.
type GetMailReq struct{}

// Fields lists the fields of m: none.
func (m *GetMailReq) Fields(*rpc.Codec) {}

// GetMailRes answers with them, oldest first. They stay until they are dropped
// or a day old.
type GetMailRes struct{ Mails []Mail }

// Fields lists the fields of m.
func (m *GetMailRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Mails, MaxMails, 60, func(c *rpc.Codec, l *Mail) { l.Fields(c) })
}

// PutMailReq posts a letter to the user's own devices. The server sets its time.
type PutMailReq struct{ Mail Mail }

// Fields lists the fields of m.
func (m *PutMailReq) Fields(c *rpc.Codec) { m.Mail.Fields(c) }

// DropMailReq removes a letter.
type DropMailReq struct{ ID ID }

// Fields lists the fields of m.
func (m *DropMailReq) Fields(c *rpc.Codec) { c.Fixed(m.ID[:]) }

// SealedKey is the key of an epoch, sealed to one device.
type SealedKey struct {
	Epoch  uint64
	Device DeviceID
	Box    []byte
}

// Fields lists the fields of k.
func (k *SealedKey) Fields(c *rpc.Codec) {
	c.U64(&k.Epoch)
	c.Fixed(k.Device[:])
	c.Bytes(&k.Box, MaxBox)
}

func sealedKey(c *rpc.Codec, k *SealedKey) { k.Fields(c) }

// KeyEpoch is a key epoch as one device sees it.
type KeyEpoch struct {
	Epoch  uint64
	Header []byte // signed by the device that made it
	Box    []byte // the key, sealed to the asking device; empty: it has none
}

// Fields lists the fields of k.
func (k *KeyEpoch) Fields(c *rpc.Codec) {
	c.U64(&k.Epoch)
	c.Bytes(&k.Header, MaxHeader)
	c.Bytes(&k.Box, MaxBox)
}

// GetKeysReq asks for the key epochs of a sealed room.
type GetKeysReq struct {
	Device DeviceID // whose boxes are wanted
	From   uint64   // lowest epoch wanted
}

// Fields lists the fields of m.
func (m *GetKeysReq) Fields(c *rpc.Codec) {
	c.Fixed(m.Device[:])
	c.U64(&m.From)
}

// GetKeysRes answers with epochs in order, without a gap.
type GetKeysRes struct {
	Epochs []KeyEpoch
	More   bool // there are more after the last one
}

// Fields lists the fields of m.
func (m *GetKeysRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Epochs, MaxEpochs, 16, func(c *rpc.Codec, k *KeyEpoch) { k.Fields(c) })
	c.Bool(&m.More)
}

// PutKeysReq begins a key epoch. CodeConflict unless Epoch is one above the
// newest. An entry of the room records it.
type PutKeysReq struct {
	ID     ID
	Epoch  uint64
	Header []byte
	Keys   []SealedKey // of this epoch; together with Header at most MaxKeysSize
}

// Fields lists the fields of m.
func (m *PutKeysReq) Fields(c *rpc.Codec) {
	c.Fixed(m.ID[:])
	c.U64(&m.Epoch)
	c.Bytes(&m.Header, MaxHeader)
	rpc.List(c, &m.Keys, MaxSealed, 28, sealedKey)
}

// AddKeysReq adds boxes to epochs: for a device that was enrolled later, or for
// the rest of the devices of an epoch that its maker could not name in one
// request. A box that is there already stays.
type AddKeysReq struct{ Keys []SealedKey }

// Fields lists the fields of m.
func (m *AddKeysReq) Fields(c *rpc.Codec) { rpc.List(c, &m.Keys, MaxSealed, 28, sealedKey) }

package e2ee

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// The messages of this file are what clients say to each other through the
// server. All are canonical: whatever decodes has no other encoding. Integers
// are little-endian; a string or bytes has a u32 length in front; hash is 32
// bytes of SHA-256, key 32 bytes.

// Domains keep a signature, hash or key of one use from being taken for
// another's.
const (
	domainList      = "rpycfs chat device list v1"
	domainRotation  = "rpycfs chat identity rotation v1"
	domainStatement = "rpycfs chat room statement v1"
	domainHeader    = "rpycfs chat epoch header v1"
	domainSealed    = "rpycfs chat sealed message v1"
	domainEntry     = "rpycfs chat log entry v1"
	domainChain     = "rpycfs chat log chain v1"
	domainMembers   = "rpycfs chat membership chain v1"
	domainCommit    = "rpycfs chat epoch key commitment v1"
	domainText      = "rpycfs chat text key v1"
	domainIdentity  = "rpycfs chat identity key v1"
	domainRecovery  = "rpycfs chat recovery box key v1"
	domainPseudo    = "rpycfs chat recovery device v1"
	domainChecksum  = "rpycfs chat recovery key checksum v1"
	domainRequest   = "rpycfs chat enrolment request v1"
	domainAnswer    = "rpycfs chat enrolment answer v1"
	domainDigits    = "rpycfs chat fingerprint v1"
	domainSafety    = "rpycfs chat safety number v1"
)

const (
	format       = 1   // first byte of everything signed
	maxListed    = 200 // devices in a list, revoked ones included
	maxName      = 64  // bytes of a device's name
	maxOverhead  = 512 // bytes that a sealed body may have beside its text
	maxLists     = 4096
	maxStatement = chatproto.MaxProof - 128
)

// hash is a SHA-256 or a public key.
type hash [32]byte

// signed wraps everything that is signed:
//
//	u8     format, 1
//	bytes  body: one of the messages below
//	64     Ed25519 signature of domain ‖ 0 ‖ context ‖ body
//	bytes  lists that change the identity: 64 bytes, signature of the body by
//	       the identity before, otherwise empty
//
// The hash of a signed message is that of its body.
type signed struct {
	Body []byte
	Sig  [64]byte
	Old  []byte
	max  int // of Body
}

func (m *signed) Fields(c *rpc.Codec) {
	f := uint8(format)
	c.U8(&f)
	c.Bytes(&m.Body, m.max)
	c.Fixed(m.Sig[:])
	c.Bytes(&m.Old, 64)
	if f != format || len(m.Old) != 0 && len(m.Old) != 64 {
		c.Fail(rpc.ErrValue)
	}
}

// listDevice is one device in a list:
//
//	string  name, printable, at most 64 bytes
//	key     Ed25519, which signs what the device says
//	key     X25519, to which room keys are sealed
//	i64     when it was added, microseconds since 1970 UTC by its enroller's clock
//	i64     when it was revoked; 0: it is not
//	bool    it holds the recovery key
type listDevice struct {
	Name           string
	Sign, Box      hash
	Added, Revoked int64
	Holder         bool
}

const listDeviceSize = 85

func (d *listDevice) Fields(c *rpc.Codec) {
	c.String(&d.Name, maxName)
	c.Fixed(d.Sign[:])
	c.Fixed(d.Box[:])
	c.I64(&d.Added)
	c.I64(&d.Revoked)
	c.Bool(&d.Holder)
	if d.Name != printable(d.Name) || d.Name == "" {
		c.Fail(rpc.ErrValue)
	}
}

// deviceList is a version of a user's list of devices, signed by the identity:
//
//	string  user
//	u64     version, from 1
//	hash    of the version before; zero in the first
//	key     identity, Ed25519
//	key     recovery box, X25519, to which room keys are sealed as well
//	list    devices; those of the version before come first, in the same order
type deviceList struct {
	User     string
	Version  uint64
	Prev     hash
	Identity hash
	Recovery hash
	Devices  []listDevice
}

func (l *deviceList) Fields(c *rpc.Codec) {
	c.String(&l.User, chatproto.MaxUser)
	c.U64(&l.Version)
	c.Fixed(l.Prev[:])
	c.Fixed(l.Identity[:])
	c.Fixed(l.Recovery[:])
	rpc.List(c, &l.Devices, maxListed, listDeviceSize, func(c *rpc.Codec, d *listDevice) { d.Fields(c) })
	if l.User == "" || l.Version == 0 || (l.Version == 1) != (l.Prev == hash{}) || len(l.Devices) == 0 {
		c.Fail(rpc.ErrValue)
	}
}

// statement proves one change of a room's membership. It is signed by a device
// of the actor and is the proof of the request, hence the body of the entry:
//
//	key     room: drawn at random by the statement that makes the room, and its
//	        identity; the server's number is not trusted
//	string  name of the room; only in the statement that makes it
//	hash    seen: membership chain (see entryHash) as the actor knew it; zero in
//	        the first
//	u8      action: chatproto.KindCreate, KindInvite, KindRemove or KindLeave
//	string  actor
//	16      device of the actor
//	u64     version of the actor's list in which that device is found
//	string  target: who is invited or removed; otherwise empty
//	key     identity of who is invited, as the actor knows it; otherwise zero
//	16      client-made id of the entry
type statement struct {
	Room     hash
	Name     string
	Seen     hash
	Action   uint8
	Actor    string
	Device   chatproto.DeviceID
	Version  uint64
	Target   string
	Identity hash
	ID       chatproto.ID
}

func (s *statement) Fields(c *rpc.Codec) {
	c.Fixed(s.Room[:])
	c.String(&s.Name, chatproto.MaxRoomName)
	c.Fixed(s.Seen[:])
	c.U8(&s.Action)
	c.String(&s.Actor, chatproto.MaxUser)
	c.Fixed(s.Device[:])
	c.U64(&s.Version)
	c.String(&s.Target, chatproto.MaxUser)
	c.Fixed(s.Identity[:])
	c.Fixed(s.ID[:])
	create, invite := s.Action == chatproto.KindCreate, s.Action == chatproto.KindInvite
	switch {
	case !create && !invite && s.Action != chatproto.KindRemove && s.Action != chatproto.KindLeave,
		create != (s.Name != ""), create != (s.Seen == hash{}), invite != (s.Identity != hash{}),
		(invite || s.Action == chatproto.KindRemove) != (s.Target != ""), s.Actor == "":
		c.Fail(rpc.ErrValue)
	}
}

// recipient is a member to whose devices an epoch's key is sealed: to all that
// are not revoked in that version of the list, and to its recovery box.
//
//	string  user
//	u64     version of the user's list
//	hash    of that list
type recipient struct {
	User    string
	Version uint64
	List    hash
}

const recipientSize = 44

func (r *recipient) Fields(c *rpc.Codec) {
	c.String(&r.User, chatproto.MaxUser)
	c.U64(&r.Version)
	c.Fixed(r.List[:])
}

// header begins a key epoch. It is signed by a device of the maker:
//
//	key     room
//	u64     epoch
//	hash    of the last header that was valid; zero: none
//	hash    members: membership chain as the maker knew it
//	hash    commitment to the key: of the key, the room and the epoch
//	string  maker, who is one of the recipients
//	16      device of the maker, in the version of the list named there
//	16      client-made id of the entry
//	list    recipients, ordered by user
type header struct {
	Room       hash
	Epoch      uint64
	Prev       hash
	Members    hash
	Commit     hash
	Maker      string
	Device     chatproto.DeviceID
	ID         chatproto.ID
	Recipients []recipient
}

func (h *header) Fields(c *rpc.Codec) {
	c.Fixed(h.Room[:])
	c.U64(&h.Epoch)
	c.Fixed(h.Prev[:])
	c.Fixed(h.Members[:])
	c.Fixed(h.Commit[:])
	c.String(&h.Maker, chatproto.MaxUser)
	c.Fixed(h.Device[:])
	c.Fixed(h.ID[:])
	rpc.List(c, &h.Recipients, chatproto.MaxMembers, recipientSize, func(c *rpc.Codec, r *recipient) { r.Fields(c) })
	for i := range h.Recipients {
		if i > 0 && h.Recipients[i-1].User >= h.Recipients[i].User {
			c.Fail(rpc.ErrValue)
		}
	}
	if h.Epoch == 0 || h.recipient(h.Maker) == nil {
		c.Fail(rpc.ErrValue)
	}
}

// recipient returns the line of a user, or nil.
func (h *header) recipient(user string) *recipient {
	for i := range h.Recipients {
		if h.Recipients[i].User == user {
			return &h.Recipients[i]
		}
	}
	return nil
}

// sealedText is a message. It is signed by its device with a context of room,
// sender and client-made id (see textContext); all of it but the text is
// associated data of the encryption too.
//
//	u64    epoch
//	16     device
//	u64    counter: one more than in the device's message before in this room
//	u32    given up: so many counters right before this one will never be used
//	u64    number of the last entry that the sender knew; 0: it does not say
//	hash   chain over all entries up to that one (see entryHash); zero with 0
//	24     nonce
//	bytes  XChaCha20-Poly1305 of a plainText, under a key derived from the epoch's
type sealedText struct {
	Epoch   uint64
	Device  chatproto.DeviceID
	Counter uint64
	GivenUp uint32
	PrevSeq uint64
	Prev    hash
	Nonce   [24]byte
	Text    []byte
}

func (m *sealedText) Fields(c *rpc.Codec) {
	c.U64(&m.Epoch)
	c.Fixed(m.Device[:])
	c.U64(&m.Counter)
	c.U32(&m.GivenUp)
	c.U64(&m.PrevSeq)
	c.Fixed(m.Prev[:])
	c.Fixed(m.Nonce[:])
	c.Bytes(&m.Text, chatproto.MaxText+maxOverhead)
	if m.Epoch == 0 || m.Counter == 0 || uint64(m.GivenUp) >= m.Counter || m.PrevSeq == 0 && m.Prev != (hash{}) {
		c.Fail(rpc.ErrValue)
	}
}

// textContext binds a sealed text to its place:
//
//	key     room
//	string  sender
//	16      client-made id
type textContext struct {
	Room hash
	From string
	ID   chatproto.ID
}

func (m *textContext) Fields(c *rpc.Codec) {
	c.Fixed(m.Room[:])
	c.String(&m.From, chatproto.MaxUser)
	c.Fixed(m.ID[:])
}

// plainText is what is encrypted:
//
//	u8      chatproto.KindText, KindAction or KindTopic
//	string  text, or topic, which may be empty
type plainText struct {
	Kind uint8
	Text string
}

func (m *plainText) Fields(c *rpc.Codec) {
	c.U8(&m.Kind)
	c.String(&m.Text, chatproto.MaxText)
	if m.check() != nil {
		c.Fail(rpc.ErrValue)
	}
}

func (m *plainText) check() error {
	switch m.Kind {
	case chatproto.KindText, chatproto.KindAction:
		return chatproto.CheckText(m.Text, chatproto.MaxText)
	case chatproto.KindTopic:
		if m.Text == "" {
			return nil
		}
		return chatproto.CheckText(m.Text, chatproto.MaxTopic)
	}
	return chatproto.ErrText
}

// request is the letter of a device that wants to be enrolled:
//
//	u8      1
//	string  name of the device
//	key     Ed25519
//	key     X25519
//	32      HMAC-SHA-256 of user ‖ all above, under a key derived from the code
type request struct {
	Name      string
	Sign, Box hash
	MAC       hash
}

func (m *request) Fields(c *rpc.Codec) {
	kind := uint8(1)
	c.U8(&kind)
	c.String(&m.Name, maxName)
	c.Fixed(m.Sign[:])
	c.Fixed(m.Box[:])
	c.Fixed(m.MAC[:])
	if kind != 1 || m.Name == "" || m.Name != printable(m.Name) {
		c.Fail(rpc.ErrValue)
	}
}

// answer is the letter that tells a device that it was enrolled, and whose it is:
//
//	u8    2
//	key   identity of the user
//	u64   version of the list that names the device
//	hash  of that list
//	16    the device
//	32    HMAC-SHA-256 of user ‖ all above, under a key derived from the code
type answer struct {
	Identity hash
	Version  uint64
	List     hash
	Device   chatproto.DeviceID
	MAC      hash
}

func (m *answer) Fields(c *rpc.Codec) {
	kind := uint8(2)
	c.U8(&kind)
	c.Fixed(m.Identity[:])
	c.U64(&m.Version)
	c.Fixed(m.List[:])
	c.Fixed(m.Device[:])
	c.Fixed(m.MAC[:])
	if kind != 2 {
		c.Fail(rpc.ErrValue)
	}
}

// printable returns s without what is not printable, at most maxName bytes.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	for len(s) > maxName {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

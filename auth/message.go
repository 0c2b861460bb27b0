package auth

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
)

// A handshake message on the wire:
//
//	u16 length of the body, little-endian | u8 kind | body
//
// The body is encoded with rpc.Codec. maxBody holds a signature by the largest
// RSA key that is allowed, with that key.
const (
	headerSize = 3
	maxBody    = 4096
	maxScram   = 512 // bytes of one SCRAM message
	nonceSize  = 32
	macSize    = 32
)

// kind is the type of a handshake message.
type kind uint8

const (
	kindClientHello kind = 1 // client: version, features, nonce, purpose, session, epoch, user
	kindServerHello kind = 2 // server: version, features, nonce
	kindKey         kind = 3 // client: SSHSIG signature
	kindKeyRefused  kind = 4 // server: empty; another key or a password may follow
	kindScram       kind = 5 // both: a message of SCRAM
	kindProof       kind = 6 // client: HMAC with the session's secret
	kindGranted     kind = 7 // server: session, secret, slots
	kindResumed     kind = 8 // server: empty
	kindRefused     kind = 9 // server: reason, version, wait; same layout in every version
)

// message is a handshake message.
type message interface {
	rpc.Message
	kind() kind
}

// messageOf lists every message, for tests and fuzz targets that range over them.
var messageOf = map[kind]func() message{
	kindClientHello: func() message { return new(clientHello) },
	kindServerHello: func() message { return new(serverHello) },
	kindKey:         func() message { return new(keyMessage) },
	kindKeyRefused:  func() message { return new(keyRefused) },
	kindScram:       func() message { return new(scramMessage) },
	kindProof:       func() message { return new(proofMessage) },
	kindGranted:     func() message { return new(granted) },
	kindResumed:     func() message { return new(resumed) },
	kindRefused:     func() message { return new(refused) },
}

// clientHello opens the conversation. The version comes first in every version
// of the protocol.
type clientHello struct {
	version  uint16
	features uint64 // unknown bits are ignored
	nonce    [nonceSize]byte
	purpose  Purpose
	session  SessionID // zero for NewSession
	epoch    uint32    // 0 for NewSession, otherwise the epoch that is asked for
	user     string    // empty unless NewSession
}

func (*clientHello) kind() kind { return kindClientHello }

// Fields lists the fields in wire order.
func (m *clientHello) Fields(c *rpc.Codec) {
	c.U16(&m.version)
	c.U64(&m.features)
	c.Fixed(m.nonce[:])
	c.U8((*uint8)(&m.purpose))
	c.Fixed(m.session[:])
	c.U32(&m.epoch)
	c.String(&m.user, MaxUserName)
	if !m.valid() {
		c.Fail(rpc.ErrValue)
	}
}

// valid reports whether the fields fit the purpose, so that every hello has one
// form.
func (m *clientHello) valid() bool {
	switch m.purpose {
	case NewSession:
		return m.session == SessionID{} && m.epoch == 0 && m.user != ""
	case Resume, Join:
		return m.epoch != 0 && m.user == ""
	}
	return false
}

// serverHello answers clientHello.
type serverHello struct {
	version  uint16
	features uint64
	nonce    [nonceSize]byte
}

func (*serverHello) kind() kind { return kindServerHello }

// Fields lists the fields in wire order.
func (m *serverHello) Fields(c *rpc.Codec) {
	c.U16(&m.version)
	c.U64(&m.features)
	c.Fixed(m.nonce[:])
}

// keyMessage tries one ssh key.
type keyMessage struct{ signature []byte }

func (*keyMessage) kind() kind { return kindKey }

// Fields lists the fields in wire order.
func (m *keyMessage) Fields(c *rpc.Codec) { c.Bytes(&m.signature, maxBody) }

// keyRefused says that this key does not log in this user; not why.
type keyRefused struct{}

func (*keyRefused) kind() kind { return kindKeyRefused }

// Fields lists no fields.
func (*keyRefused) Fields(*rpc.Codec) {}

// scramMessage carries a message of RFC 5802.
type scramMessage struct{ text string }

func (*scramMessage) kind() kind { return kindScram }

// Fields lists the fields in wire order.
func (m *scramMessage) Fields(c *rpc.Codec) { c.String(&m.text, maxScram) }

// proofMessage proves that the client holds the session's secret.
type proofMessage struct{ mac [macSize]byte }

func (*proofMessage) kind() kind { return kindProof }

// Fields lists the fields in wire order.
func (m *proofMessage) Fields(c *rpc.Codec) { c.Fixed(m.mac[:]) }

// granted ends a successful log-in.
type granted struct{ Grant }

func (*granted) kind() kind { return kindGranted }

// Fields lists the fields in wire order.
func (m *granted) Fields(c *rpc.Codec) {
	c.Fixed(m.Session[:])
	c.Fixed(m.Secret[:])
	c.U32(&m.Slots)
}

// resumed ends a successful resumption or join.
type resumed struct{}

func (*resumed) kind() kind { return kindResumed }

// Fields lists no fields.
func (*resumed) Fields(*rpc.Codec) {}

// refused ends the conversation.
type refused struct {
	reason  reason
	version uint16
	wait    uint32 // milliseconds
}

func (*refused) kind() kind { return kindRefused }

// Fields lists the fields in wire order.
func (m *refused) Fields(c *rpc.Codec) {
	c.U8((*uint8)(&m.reason))
	c.U16(&m.version)
	c.U32(&m.wait)
}

// refusal returns the error that the message stands for.
func (m *refused) refusal() error {
	return &Refusal{Version: m.version, Wait: time.Duration(m.wait) * time.Millisecond, reason: m.reason}
}

func newRefused(r reason, wait time.Duration) *refused {
	ms := min(wait.Milliseconds(), math.MaxUint32)
	return &refused{reason: r, version: Version, wait: uint32(ms)}
}

// appendMessage appends the frame of m to dst.
func appendMessage(dst []byte, m message) ([]byte, error) {
	start := len(dst)
	dst, err := rpc.Encode(append(dst, 0, 0, byte(m.kind())), m)
	if err != nil {
		return nil, err
	}
	n := len(dst) - start - headerSize
	if n > maxBody {
		return nil, fmt.Errorf("handshake message of %d bytes: %w", n, rpc.ErrTooLong)
	}
	binary.LittleEndian.PutUint16(dst[start:], uint16(n))
	return dst, nil
}

// send writes messages with one Write.
func send(w io.Writer, messages ...message) error {
	var b []byte
	for _, m := range messages {
		var err error
		if b, err = appendMessage(b, m); err != nil {
			return err
		}
	}
	_, err := w.Write(b)
	return err
}

// readFrame reads one message without decoding its body.
func readFrame(r io.Reader) (kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, noEOF(err)
	}
	n := int(binary.LittleEndian.Uint16(header[:]))
	if n > maxBody {
		return 0, nil, protocolError("handshake message of %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, noEOF(err)
	}
	return kind(header[2]), body, nil
}

// receive reads the next message, which must be one of want. A refusal by the
// peer, and a first message in another protocol version, become errors.
func receive(r io.Reader, want ...message) (message, error) {
	k, body, err := readFrame(r)
	if err != nil {
		return nil, err
	}
	for _, m := range want {
		if m.kind() == k {
			return m, decodeBody(body, m)
		}
	}
	return nil, protocolError("unexpected handshake message %d", k)
}

// decodeBody decodes strictly, after a look at the version where there is one.
func decodeBody(body []byte, m message) error {
	switch m.(type) {
	case *clientHello, *serverHello:
		if len(body) >= 2 {
			if v := binary.LittleEndian.Uint16(body); v != Version {
				return &Refusal{Version: v, reason: reasonVersion}
			}
		}
	}
	if err := rpc.Decode(body, m); err != nil {
		return protocolError("handshake message %d: %w", m.kind(), err)
	}
	return nil
}

// noEOF makes a clean end of the stream an error: a handshake never ends so.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// A frame is a header of 16 bytes, then meta, then payload:
//
//	0  u32 length   of all that follows this field: 12 + meta + payload
//	4  u32 meta     length of meta
//	8  u32 tag      pairs a reply with its call, on one stream
//	12 u16 method   operation number; 0 unless kind is call
//	14 u8  kind
//	15 u8  flags    of a call: which fields its meta starts with; of both: flagAsk, flagCompressed
//	16 u32 raw      only with flagCompressed, see there
const (
	headerSize = 16
	rawSize    = 4
)

// Kinds of frames.
const (
	kindCall   uint8 = 1 // meta: call fields, request; payload: the operation's data
	kindReply  uint8 = 2 // meta: reply; payload: the operation's data
	kindError  uint8 = 3 // meta: u32 code, u64 error id, bytes detail
	kindCancel uint8 = 4 // empty: the caller no longer waits for call tag
	kindPing   uint8 = 5 // empty: answer with a pong of the same tag
	kindPong   uint8 = 6 // empty
)

// Flags of a call: the fields that stand before the request in meta, in this
// order.
const (
	flagDeadline uint8 = 1 << iota // u32 remaining time in milliseconds
	flagSlot                       // u32 slot, u32 sequence
	flagAfter                      // u8 count 1…4, then u32 slot, u32 sequence each
	flagObject                     // u64 object reference
	flagCred                       // u32 credential
	flagsEnd
)

// Flags of calls and replies, where both sides know FeatureCompress.
const (
	// flagCompressed: the payload, or the meta of a reply that has none, is a frame of
	// zstd (RFC 8878) without a dictionary. It gets raw bytes long.
	flagCompressed uint8 = 1 << 5
	// flagAsk: data for the sender of this is better sent compressed.
	flagAsk uint8 = 1 << 6
)

// Limits of the protocol, in bytes. They hold before anything is allocated.
const (
	// MaxPayload bounds the payload of a frame.
	MaxPayload = 1 << 20
	// MaxRequest bounds the meta of a call.
	MaxRequest = 128 << 10
	// MaxReply bounds the meta of a reply.
	MaxReply = 1<<20 + 64<<10
	// MaxSlotReply bounds the reply to a call that occupies a slot: it is kept
	// until the slot's next call.
	MaxSlotReply = 4 << 10
	// MaxAfter bounds the calls that a call may depend on.
	MaxAfter = 4

	// headroom is kept before a payload for header and meta, so that a frame
	// goes out in one write without being copied together.
	headroom = 512
)

// errProtocol ends a connection whose peer broke the framing.
var errProtocol = errors.New("rpc: protocol violation")

type header struct {
	length, meta, tag uint32
	method            uint16
	kind, flags       uint8
	compressed, ask   bool
	raw               uint32 // with compressed: how long the payload, or without one the meta, gets
}

// payload returns how many bytes of payload arrive.
func (h *header) payload() int { return int(h.length) - (headerSize - 4) - h.rawSize() - int(h.meta) }

func (h *header) rawSize() int {
	if h.compressed {
		return rawSize
	}
	return 0
}

// metaSize and payloadSize return how many bytes there are of both at last.
func (h *header) metaSize() int {
	if h.compressed && h.payload() == 0 {
		return int(h.raw)
	}
	return int(h.meta)
}

func (h *header) payloadSize() int {
	if n := h.payload(); !h.compressed || n == 0 {
		return n
	}
	return int(h.raw)
}

func putHeader(b []byte, kind, flags uint8, method uint16, tag uint32, meta, payload int) {
	binary.LittleEndian.PutUint32(b[0:], uint32(headerSize-4+meta+payload))
	binary.LittleEndian.PutUint32(b[4:], uint32(meta))
	binary.LittleEndian.PutUint32(b[8:], tag)
	binary.LittleEndian.PutUint16(b[12:], method)
	b[14] = kind
	b[15] = flags
}

// control returns a frame of only a header.
func control(kind uint8, tag uint32) []byte {
	b := make([]byte, headerSize)
	putHeader(b, kind, 0, 0, tag, 0, 0)
	return b
}

// parseHeader reads a header and checks every length against its limit. compress says
// whether the flags are known that go with FeatureCompress.
func parseHeader(b []byte, compress bool) (header, error) {
	h := header{
		length: binary.LittleEndian.Uint32(b[0:]), meta: binary.LittleEndian.Uint32(b[4:]),
		tag: binary.LittleEndian.Uint32(b[8:]), method: binary.LittleEndian.Uint16(b[12:]),
		kind: b[14], flags: b[15],
	}
	maxMeta, maxPayload := uint32(0), 0
	switch h.kind {
	case kindCall:
		maxMeta, maxPayload = MaxRequest, MaxPayload
	case kindReply:
		maxMeta, maxPayload = MaxReply, MaxPayload
	case kindError:
		maxMeta = 16 + MaxErrorDetail
	case kindCancel, kindPing, kindPong:
	default:
		return h, fmt.Errorf("%w: frame of kind %d", errProtocol, h.kind)
	}
	if compress && (h.kind == kindCall || h.kind == kindReply) {
		h.compressed, h.ask = h.flags&flagCompressed != 0, h.flags&flagAsk != 0
		h.flags &^= flagCompressed | flagAsk
	}
	least := uint32(headerSize - 4 + h.rawSize())
	switch {
	case h.length < least || h.meta > maxMeta || h.length-least < h.meta || h.payload() > maxPayload:
		return h, fmt.Errorf("%w: frame of kind %d with length %d, meta %d", errProtocol, h.kind, h.length, h.meta)
	case h.kind != kindCall && (h.method != 0 || h.flags != 0) || h.flags >= flagsEnd:
		return h, fmt.Errorf("%w: frame of kind %d with method %d, flags %#x", errProtocol, h.kind, h.method, h.flags)
	}
	return h, nil
}

// parseRaw reads what follows the header of a compressed frame: it promises more than
// arrives, and no more than may arrive otherwise.
func (h *header) parseRaw(b []byte) error {
	h.raw = binary.LittleEndian.Uint32(b)
	part, most := h.payload(), MaxPayload
	if part == 0 && h.kind == kindReply {
		part, most = int(h.meta), MaxReply
	}
	if part == 0 || int64(h.raw) > int64(most) || int64(h.raw) <= int64(part) {
		return fmt.Errorf("%w: frame of kind %d with %d bytes that get %d", errProtocol, h.kind, part, h.raw)
	}
	return nil
}

// Dep names a call of the same session by slot and sequence number.
type Dep struct{ Slot, Seq uint32 }

func (d *Dep) fields(c *Codec) {
	c.U32(&d.Slot)
	c.U32(&d.Seq)
}

// callFields are what stands before the request in the meta of a call. The
// deadline comes first: a call that is sent again has it renewed in place.
type callFields struct {
	flags  uint8
	millis uint32
	dep    Dep
	after  [MaxAfter]Dep
	nafter uint8
	object Ref
	cred   uint32
}

func (f *callFields) fields(c *Codec) {
	if f.flags&flagDeadline != 0 {
		c.U32(&f.millis)
	}
	if f.flags&flagSlot != 0 {
		f.dep.fields(c)
	}
	if f.flags&flagAfter != 0 {
		c.U8(&f.nafter)
		if f.nafter == 0 || f.nafter > MaxAfter {
			c.Fail(ErrValue)
			return
		}
		for i := range f.after[:f.nafter] {
			f.after[i].fields(c)
		}
	}
	if f.flags&flagObject != 0 {
		c.Ref(&f.object)
	}
	if f.flags&flagCred != 0 {
		c.U32(&f.cred)
	}
}

// remaining turns a deadline into the wire's milliseconds, rounded up; a passed
// one is 0.
func remaining(deadline time.Time) uint32 {
	left := time.Until(deadline)
	if left <= 0 {
		return 0
	}
	return uint32(min((left+time.Millisecond-1)/time.Millisecond, 1<<32-1))
}

func (e *Error) fields(c *Codec) {
	c.U32((*uint32)(&e.Code))
	c.U64(&e.ID)
	c.Bytes(&e.Detail, MaxErrorDetail)
}

// discard reads and drops n bytes.
func discard(r io.Reader, n int) error {
	_, err := io.CopyN(io.Discard, r, int64(n))
	return err
}

package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Errors of decoding. All of them mean that the peer sent something that the
// protocol does not allow; none is retried.
var (
	ErrShort    = errors.New("rpc: message ends early")
	ErrTrailing = errors.New("rpc: bytes after the end of a message")
	ErrTooLong  = errors.New("rpc: field longer than its limit")
	ErrValue    = errors.New("rpc: field has a value outside its range")
)

// Message is one request or reply. Fields lists its fields once, in wire order;
// whether that writes or reads them is decided by the codec.
type Message interface {
	Fields(c *Codec)
}

// Codec writes a message to bytes or reads one from bytes. All integers are
// little-endian and of fixed size, so that every message has exactly one
// encoding. Decoding is strict: the first error sticks, and later calls leave
// their fields alone. A Codec is not safe for concurrent use.
type Codec struct {
	buf      []byte
	off      int
	decoding bool
	aliased  bool // a decoded slice refers to buf
	err      error
}

// Encode appends the encoding of m to dst.
func Encode(dst []byte, m Message) ([]byte, error) {
	c := Codec{buf: dst}
	m.Fields(&c)
	return c.buf, c.err
}

// Decode reads m from the whole of b. Byte slices in m refer to b afterwards.
func Decode(b []byte, m Message) error {
	c := Codec{buf: b, decoding: true}
	m.Fields(&c)
	return c.finish()
}

// Decoding reports the direction, for the rare field whose check differs.
func (c *Codec) Decoding() bool { return c.decoding }

// Fail makes the codec report err unless an earlier error stands.
func (c *Codec) Fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// finish returns the first error, or ErrTrailing when bytes are left over.
func (c *Codec) finish() error {
	if c.err == nil && c.decoding && c.off != len(c.buf) {
		c.err = ErrTrailing
	}
	return c.err
}

// take returns the next n bytes to be decoded, or nil after an error.
func (c *Codec) take(n int) []byte {
	if c.err != nil {
		return nil
	}
	if len(c.buf)-c.off < n {
		c.err = ErrShort
		return nil
	}
	b := c.buf[c.off : c.off+n : c.off+n]
	c.off += n
	return b
}

// U8 is one byte.
func (c *Codec) U8(v *uint8) {
	if !c.decoding {
		c.buf = append(c.buf, *v)
	} else if b := c.take(1); b != nil {
		*v = b[0]
	}
}

// U16 is two bytes, little-endian.
func (c *Codec) U16(v *uint16) {
	if !c.decoding {
		c.buf = binary.LittleEndian.AppendUint16(c.buf, *v)
	} else if b := c.take(2); b != nil {
		*v = binary.LittleEndian.Uint16(b)
	}
}

// U32 is four bytes, little-endian.
func (c *Codec) U32(v *uint32) {
	if !c.decoding {
		c.buf = binary.LittleEndian.AppendUint32(c.buf, *v)
	} else if b := c.take(4); b != nil {
		*v = binary.LittleEndian.Uint32(b)
	}
}

// U64 is eight bytes, little-endian.
func (c *Codec) U64(v *uint64) {
	if !c.decoding {
		c.buf = binary.LittleEndian.AppendUint64(c.buf, *v)
	} else if b := c.take(8); b != nil {
		*v = binary.LittleEndian.Uint64(b)
	}
}

// I64 is eight bytes, two's complement, little-endian.
func (c *Codec) I64(v *int64) {
	u := uint64(*v)
	c.U64(&u)
	*v = int64(u)
}

// Bool is one byte, 0 or 1; anything else is refused.
func (c *Codec) Bool(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	c.U8(&b)
	if b > 1 {
		c.Fail(ErrValue)
	}
	*v = b == 1
}

// Flags is a U32 of which only the bits of known may be set.
func (c *Codec) Flags(v *uint32, known uint32) {
	c.U32(v)
	if *v&^known != 0 {
		c.Fail(fmt.Errorf("%w: unknown flags %#x", ErrValue, *v&^known))
	}
}

// Fixed is len(b) bytes without a length in front.
func (c *Codec) Fixed(b []byte) {
	if !c.decoding {
		c.buf = append(c.buf, b...)
	} else if s := c.take(len(b)); s != nil {
		copy(b, s)
	}
}

// Bytes is a U32 length, at most max, and that many bytes. A decoded slice
// refers to the codec's input; it is never nil after a successful decode.
func (c *Codec) Bytes(v *[]byte, max int) {
	n := c.length(len(*v), max)
	if !c.decoding {
		if c.err == nil {
			c.buf = append(c.buf, *v...)
		}
	} else if b := c.take(n); b != nil {
		*v = b
		c.aliased = true
	}
}

// String is like Bytes; a decoded string is a copy. Any bytes are allowed.
func (c *Codec) String(v *string, max int) {
	n := c.length(len(*v), max)
	if !c.decoding {
		if c.err == nil {
			c.buf = append(c.buf, *v...)
		}
	} else if b := c.take(n); b != nil {
		*v = string(b)
	}
}

// length carries a length or count and checks it against its limit.
func (c *Codec) length(n, max int) int {
	if n > max || n > math.MaxInt32 {
		c.Fail(ErrTooLong)
		return 0
	}
	u := uint32(n)
	c.U32(&u)
	if c.decoding && uint64(u) > uint64(max) {
		c.Fail(ErrTooLong)
		return 0
	}
	return int(u)
}

// List is a U32 count, at most max, and that many elements. least is the
// smallest encoding of one element in bytes (at least 1): the count is checked
// against what remains of the input before anything is allocated.
func List[T any](c *Codec, s *[]T, max, least int, each func(*Codec, *T)) {
	n := c.length(len(*s), max)
	if c.decoding {
		if c.err != nil {
			return
		}
		if n > (len(c.buf)-c.off)/least {
			c.Fail(ErrShort)
			return
		}
		*s = make([]T, n)
	}
	for i := range *s {
		if c.err != nil {
			return
		}
		each(c, &(*s)[i])
	}
}

package rpc

import (
	"encoding/binary"
	"io"
)

// joiner sits between yamux and TLS. yamux writes its 12-byte header and the
// body separately, which would be two TLS records; the joiner writes them as
// one and flushes the transport after each. Only yamux's sender writes to it.
type joiner struct {
	Transport
	buf  *buffer // a header that waits for its body; nil if none does
	body int     // length of that body
}

// yamux's header: version, type, flags (2), stream (4), length (4), big-endian.
const (
	muxHeader   = 12
	muxTypeData = 0
)

// maxRecord is the most that one TLS record carries.
const maxRecord = 16 << 10

func newJoiner(t Transport) *joiner { return &joiner{Transport: t} }

func (j *joiner) Write(p []byte) (int, error) {
	if j.buf == nil {
		if len(p) == muxHeader && p[1] == muxTypeData {
			j.body = int(binary.BigEndian.Uint32(p[8:]))
		}
		if j.body > 0 {
			j.buf = newBuffer(maxRecord)
			j.buf.b = append(j.buf.b[:0], p...)
			return len(p), nil
		}
		if _, err := j.Transport.Write(p); err != nil {
			return 0, err
		}
		return len(p), j.Flush()
	}
	if len(p) != j.body {
		return 0, io.ErrShortWrite
	}
	first := min(len(p), maxRecord-muxHeader)
	_, err := j.Transport.Write(append(j.buf.b, p[:first]...))
	j.buf.free()
	j.buf, j.body = nil, 0
	if err == nil && first < len(p) {
		_, err = j.Transport.Write(p[first:])
	}
	if err != nil {
		return 0, err
	}
	return len(p), j.Flush()
}

package rpc

import "sync"

// buffer is a pooled byte slice. Whoever gets it from newBuffer frees it once;
// one that escaped to somebody of unknown speed is left to the collector.
type buffer struct {
	b     []byte
	class int
}

// classes are the pooled capacities in bytes: a small call, a listing or small
// payload, a read-ahead, and a full payload or reply with its headroom.
var classes = [...]int{1 << 10, 16 << 10, 144 << 10, max(MaxPayload, MaxReply) + headroom}

var pools [len(classes)]sync.Pool

// newBuffer returns a buffer with len(b) == n. Its content is arbitrary.
func newBuffer(n int) *buffer {
	for i, size := range classes {
		if n > size {
			continue
		}
		if buf, _ := pools[i].Get().(*buffer); buf != nil {
			buf.b = buf.b[:n]
			return buf
		}
		return &buffer{b: make([]byte, n, size), class: i}
	}
	return &buffer{b: make([]byte, n), class: -1}
}

// free gives the buffer back. The caller keeps no slice of it.
func (b *buffer) free() {
	if b != nil && b.class >= 0 {
		b.b = b.b[:0]
		pools[b.class].Put(b)
	}
}

// written frees a buffer that was a frame.
func (b *buffer) written() { b.free() }

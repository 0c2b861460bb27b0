// Package bufconn puts a buffer between TLS and the socket. TLS writes each
// record with a system call of its own and reads with small ones; a megabyte
// would cost 64 writes. Over a buffer it costs a few.
package bufconn

import (
	"bufio"
	"errors"
	"net"
	"sync"
)

// ErrLimit means that the peer sent more than LimitReads allows.
var ErrLimit = errors.New("bufconn: peer sent more than it may before it is known")

// Size of each direction's buffer, in bytes.
const Size = 64 << 10

// Conn is a net.Conn with buffered reads, and buffered writes while Hold is in
// effect. Reads and writes may run side by side; each alone follows the rules
// of net.Conn.
type Conn struct {
	net.Conn
	r    *bufio.Reader
	left int64 // bytes that may still be read; < 0: no limit

	mu   sync.Mutex // held across a write to the socket: writes keep their order
	w    *bufio.Writer
	hold bool
}

// New wraps c. Writes go straight through until Hold is called, as a handshake
// needs them.
func New(c net.Conn) *Conn {
	b := &Conn{Conn: c, left: -1}
	b.r = bufio.NewReaderSize((*source)(b), 4<<10)
	return b
}

// LimitReads lets n more bytes be read from the socket until Hold is called;
// then reads fail with ErrLimit. It is called before the first read.
func (c *Conn) LimitReads(n int64) { c.left = n }

// source is where the read buffer comes from: the socket under the limit.
type source Conn

func (s *source) Read(p []byte) (int, error) {
	if s.left < 0 {
		return s.Conn.Read(p)
	}
	if s.left == 0 {
		return 0, ErrLimit
	}
	n, err := s.Conn.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

// Read reads from the buffer, filling it when it is empty.
func (c *Conn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Write writes p, or keeps it until Flush.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hold {
		return c.Conn.Write(p)
	}
	return c.w.Write(p)
}

// Hold makes writes stay in the buffer until it is full or Flush is called,
// enlarges the read buffer and lifts the limit of LimitReads. It is called between handshake and first use, while
// nobody reads.
func (c *Conn) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = true
	c.left = -1
	c.w = bufio.NewWriterSize(c.Conn, Size)
	c.r = bufio.NewReaderSize(c.r, Size)
}

// Flush writes out what is held.
func (c *Conn) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hold {
		return nil
	}
	return c.w.Flush()
}

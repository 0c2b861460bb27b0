// Package bufconn puts a buffer between TLS and the socket. TLS writes each
// record with a system call of its own and reads with small ones; a megabyte
// would cost 64 writes. Over a buffer it costs a few.
package bufconn

import (
	"bufio"
	"net"
	"sync"
)

// Size of each direction's buffer, in bytes.
const Size = 256 << 10

// Conn is a net.Conn with buffered reads, and buffered writes while Hold is in
// effect. Reads and writes may run side by side; each alone follows the rules
// of net.Conn.
type Conn struct {
	net.Conn
	r *bufio.Reader

	mu   sync.Mutex // held across a write to the socket: writes keep their order
	w    *bufio.Writer
	hold bool
}

// New wraps c. Writes go straight through until Hold is called, as a handshake
// needs them.
func New(c net.Conn) *Conn {
	return &Conn{Conn: c, r: bufio.NewReaderSize(c, 4<<10)}
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

// Hold makes writes stay in the buffer until it is full or Flush is called, and
// enlarges the read buffer. It is called between handshake and first use, while
// nobody reads.
func (c *Conn) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = true
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

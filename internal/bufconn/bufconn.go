// Package bufconn puts a buffer between TLS and the socket. TLS writes each
// record with a system call of its own and reads with small ones; a megabyte
// would cost 64 writes. Over a buffer it costs a few. A connection has buffers
// only while traffic makes use of them: an idle one costs next to nothing.
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

// The read buffer is given up after so many reads in a row of which none
// brought more than a small one's bytes: a connection that carried a burst and
// is kept alive by pings has none.
const (
	patience = 4
	small    = 4 << 10
)

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, Size) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, Size) }}
)

// Conn is a net.Conn with buffered reads, and buffered writes while Hold is in
// effect. Reads and writes may run side by side; each alone follows the rules
// of net.Conn.
type Conn struct {
	net.Conn
	left  int64         // bytes that may still be read; < 0: no limit
	r     *bufio.Reader // nil until reads come back full
	quiet int           // small reads in a row that r was used for

	mu   sync.Mutex    // held across a write to the socket: writes keep their order
	w    *bufio.Writer // nil while nothing is held
	hold bool
}

// New wraps c. Writes go straight through until Hold is called, as a handshake
// needs them.
func New(c net.Conn) *Conn { return &Conn{Conn: c, left: -1} }

// LimitReads lets n more bytes be read from the socket until Hold is called;
// then reads fail with ErrLimit. It is called before the first read.
func (c *Conn) LimitReads(n int64) { c.left = n }

// Read reads from the buffer, or from the socket when nothing is buffered.
func (c *Conn) Read(p []byte) (int, error) {
	if c.left >= 0 {
		return c.readLimited(p)
	}
	if c.r != nil && c.r.Buffered() == 0 && c.quiet >= patience {
		c.r.Reset(nil)
		readers.Put(c.r)
		c.r = nil
	}
	if c.r == nil {
		n, err := c.Conn.Read(p)
		if n == len(p) && n > 0 { // there is more than the caller has room for
			c.r, c.quiet = readers.Get().(*bufio.Reader), 0
			c.r.Reset(c.Conn)
		}
		return n, err
	}
	buffered := c.r.Buffered() > 0
	n, err := c.r.Read(p)
	switch {
	case buffered:
	case n+c.r.Buffered() > small:
		c.quiet = 0
	default:
		c.quiet++
	}
	return n, err
}

func (c *Conn) readLimited(p []byte) (int, error) {
	if c.left == 0 {
		return 0, ErrLimit
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// Write writes p, or keeps it until Flush.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hold {
		return c.Conn.Write(p)
	}
	if c.w == nil {
		c.w = writers.Get().(*bufio.Writer)
		c.w.Reset(c.Conn)
	}
	return c.w.Write(p)
}

// Hold makes writes stay in the buffer until it is full or Flush is called, and
// lifts the limit of LimitReads. It is called between handshake and first use,
// while nobody reads.
func (c *Conn) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = true
	c.left = -1
}

// Flush writes out what is held.
func (c *Conn) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.w == nil {
		return nil
	}
	if err := c.w.Flush(); err != nil {
		return err // the writer stays, and fails from now on
	}
	c.w.Reset(nil)
	writers.Put(c.w)
	c.w = nil
	return nil
}

package rpc

import (
	"bufio"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/yamux"
)

// Role is what a stream is for. It is the first byte on the stream, sent by the
// side that opens it.
type Role uint8

const (
	// RoleControl carries small calls of the client.
	RoleControl Role = 1
	// RoleBulk carries the client's calls with file data.
	RoleBulk Role = 2
	// RoleCallback carries the server's calls.
	RoleCallback Role = 3
)

// The largest single write to a stream that shares its connection, in bytes: a
// small call waits behind at most one of each other stream. It is smaller on
// streams without bulk, because the multiplexer keeps a buffer of the largest
// write that it has seen.
const (
	bulkFragment  = 64 << 10
	smallFragment = 4<<10 - muxHeader
)

// bufferSize is that of a link's buffers, in bytes. They are borrowed: a link on
// which nothing moves has none.
const bufferSize = 64 << 10

var (
	readerPool = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}
	writerPool = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}
)

// link is a stream with frames on it. Any goroutine may send; whoever finds the
// link idle writes its own frame, others leave theirs in a queue that is emptied
// by it or by a goroutine, so that many small frames share one write and one
// flush.
type link struct {
	peer *Peer
	conn *conn
	role Role
	rw   io.ReadWriteCloser
	dst  io.Writer     // where w writes to
	r    *bufio.Reader // the reader's, while it has read more than a header
	w    *bufio.Writer // who is busy writes to it; nil while nothing is buffered

	pinged atomic.Int64 // when the outstanding ping was sent, by clock; 0: none

	mu     sync.Mutex
	idle   sync.Cond // signalled when busy ends, the queue is taken, or err is set
	queue  []frame   // waiting to be written
	queued int       // what queue costs, see frame.cost
	spare  []frame   // an empty slice to swap with queue
	busy   bool      // somebody writes, or a goroutine that will has been started
	err    error     // the link is dead
}

// maxQueued is what may wait to be written before no more calls are taken in, in
// bytes. A peer that reads its answers never comes near.
const maxQueued = 1 << 20

// frame is a message on its way out: head, and data behind it if not nil.
// owner, if not nil, is told once when neither is needed any more.
type frame struct {
	head     []byte
	data     []byte
	owner    interface{ written() }
	compress bool // data, or what else is long in it, may be compressed
}

// cost is what a frame that waits is counted as, in bytes. Of a large one the
// rest is drawn from the peer's share.
func (f frame) cost() int { return 128 + min(len(f.head), MaxSlotReply) }

// enqueue adds f to the queue. l.mu is held.
func (l *link) enqueue(f frame) {
	l.queue = append(l.queue, f)
	l.queued += f.cost()
}

// newLink returns a link over rw whose frames are written to dst.
func newLink(c *conn, role Role, rw io.ReadWriteCloser, dst io.Writer) *link {
	l := &link{peer: c.peer, conn: c, role: role, rw: rw, dst: dst}
	l.idle.L = &l.mu
	return l
}

// newStreamLink returns a link over a stream of a shared connection.
func newStreamLink(c *conn, role Role, s *yamux.Stream) *link {
	size := smallFragment
	if role == RoleBulk {
		size = bulkFragment
	}
	return newLink(c, role, s, fragmenter{s, size})
}

// fragmenter cuts large writes into fragments.
type fragmenter struct {
	w    io.Writer
	size int
}

func (f fragmenter) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		m, err := f.w.Write(p[:min(len(p), f.size)])
		n += m
		if err != nil {
			return n, err
		}
		p = p[m:]
	}
	return n, nil
}

// send writes f, now or soon. It returns before f is written if somebody else
// is writing; f.owner is told. Errors end the connection and are seen there.
func (l *link) send(f frame) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		f.end()
		return
	}
	if l.busy {
		l.enqueue(f)
		l.mu.Unlock()
		return
	}
	l.busy = true
	l.mu.Unlock()

	err := l.write(f)
	if err == nil {
		// Whoever is about to send as well comes first: one flush for all.
		runtime.Gosched()
		err = l.writeQueue()
	}
	l.next(err)
}

// queueFrame leaves f for the next kick or send.
func (l *link) queueFrame(f frame) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		f.end()
		return
	}
	l.enqueue(f)
	l.mu.Unlock()
}

// keepUp waits while too much waits to be written: who does not take the answers
// gets to ask no more. It is for the reader.
func (l *link) keepUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.queued > maxQueued && l.err == nil {
		if l.busy {
			l.idle.Wait()
			continue
		}
		l.mu.Unlock()
		l.kick()
		l.mu.Lock()
	}
}

// kick writes what queueFrame has left, unless somebody is about to anyway.
func (l *link) kick() {
	l.mu.Lock()
	if l.busy || len(l.queue) == 0 || l.err != nil {
		l.mu.Unlock()
		return
	}
	l.busy = true
	l.mu.Unlock()
	l.next(l.writeQueue())
}

// next passes the right to write on to a goroutine if there is more, else ends
// it. Whoever closes the connection waits for that in settle.
func (l *link) next(err error) {
	if err != nil {
		l.fail(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && len(l.queue) > 0 {
		go l.empty()
		return
	}
	l.busy = false
	l.idle.Broadcast()
}

// empty writes what is queued. It has the right to write.
func (l *link) empty() { l.next(l.writeQueue()) }

// writeQueue writes what is queued, more of what arrives meanwhile, and flushes
// once nothing is left.
func (l *link) writeQueue() error {
	for {
		l.mu.Lock()
		if l.err != nil {
			l.mu.Unlock()
			return l.err
		}
		batch := l.queue
		l.queue, l.spare, l.queued = l.spare[:0], nil, 0
		l.idle.Broadcast()
		l.mu.Unlock()
		if len(batch) == 0 {
			l.giveBack(batch)
			return l.flush()
		}
		var err error
		for i := range batch {
			if err == nil {
				err = l.write(batch[i])
			} else {
				batch[i].end()
			}
			batch[i] = frame{}
		}
		l.giveBack(batch)
		if err != nil {
			return err
		}
	}
}

func (l *link) giveBack(batch []frame) {
	l.mu.Lock()
	if cap(batch) > cap(l.spare) {
		l.spare = batch[:0]
	}
	l.mu.Unlock()
}

// write puts f into the buffer; data larger than the buffer goes straight out.
func (l *link) write(f frame) error {
	if l.w == nil {
		l.w = writerPool.Get().(*bufio.Writer)
		l.w.Reset(l.dst)
	}
	l.conn.compression.mark(f.head)
	if s := l.shrink(&f); s != nil {
		f.end()
		f = frame{head: s.b, owner: s}
	}
	_, err := l.w.Write(f.head)
	if err == nil && len(f.data) > 0 {
		_, err = l.w.Write(f.data)
	}
	f.end()
	return err
}

// flush sends what is buffered and gives the buffer back. After an error the
// link is dead, and the buffer is left to the collector.
func (l *link) flush() error {
	if l.w == nil {
		return nil
	}
	if err := l.w.Flush(); err != nil {
		return err
	}
	l.w.Reset(nil)
	writerPool.Put(l.w)
	l.w = nil
	return nil
}

// idleReader gives the read buffer back, which is empty.
func (l *link) idleReader() {
	if l.r == nil {
		return
	}
	l.r.Reset(nil)
	readerPool.Put(l.r)
	l.r = nil
}

func (f frame) end() {
	if f.owner != nil {
		f.owner.written()
	}
}

// fail marks the link dead, drops what is queued and ends the connection.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	queue := l.queue
	l.queue, l.queued = nil, 0
	l.idle.Broadcast()
	l.mu.Unlock()
	for _, f := range queue {
		f.end()
	}
	l.conn.close(err)
}

// settle waits until nobody writes; the link must be dead or draining.
func (l *link) settle() {
	l.mu.Lock()
	for l.busy {
		l.idle.Wait()
	}
	l.mu.Unlock()
}

package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync"
)

// The bare multiplexer: what request ids on one TLS connection cost at the
// least. No cancellation, no limits, no methods, no errors of the other side.
//
//	frame: length u32 (of what follows the id), id u64, bytes

const muxHeader = 4 + 8

// coalescer joins frames that are queued while a write is under way into one
// write. Whoever finds no writer at work becomes the writer.
type coalescer struct {
	c     io.Writer
	yield bool // let callers that are ready to run add their frames first

	mu      sync.Mutex
	out     []byte // queued
	spare   []byte // the buffer that was written last
	writing bool
	err     error
}

// send queues a frame and sees to it that it is written.
func (w *coalescer) send(id uint64, p []byte) error {
	w.mu.Lock()
	w.out = appendFrame(w.out, id, p)
	if w.writing {
		defer w.mu.Unlock()
		return w.err
	}
	w.writing = true
	w.mu.Unlock()
	if w.yield {
		runtime.Gosched()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.out) > 0 && w.err == nil {
		b := w.out
		w.out = w.spare[:0]
		w.mu.Unlock()
		_, err := w.c.Write(b)
		w.mu.Lock()
		w.spare = b
		w.err = err
	}
	w.writing = false
	return w.err
}

func appendFrame(dst []byte, id uint64, p []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(p)))
	dst = binary.LittleEndian.AppendUint64(dst, id)
	return append(dst, p...)
}

type waiter struct {
	into []byte
	err  error
	done chan struct{}
}

// muxClient calls over one connection.
type muxClient struct {
	c   *tls.Conn
	w   coalescer
	all sync.Pool // of *waiter

	mu      sync.Mutex
	last    uint64
	pending map[uint64]*waiter
}

func dialMux(addr string, conf *tls.Config, yield bool) (*muxClient, error) {
	c, err := tls.Dial("tcp", addr, conf)
	if err != nil {
		return nil, err
	}
	m := &muxClient{c: c, w: coalescer{c: c, yield: yield}, pending: make(map[uint64]*waiter)}
	m.all.New = func() any { return &waiter{done: make(chan struct{}, 1)} }
	go m.read()
	return m, nil
}

// Echo sends p and reads the answer into into.
func (m *muxClient) Echo(p, into []byte) error {
	w := m.all.Get().(*waiter)
	w.into = into
	m.mu.Lock()
	m.last++
	id := m.last
	m.pending[id] = w
	m.mu.Unlock()
	if err := m.w.send(id, p); err != nil {
		return err
	}
	<-w.done
	err := w.err
	m.all.Put(w)
	return err
}

func (m *muxClient) read() {
	r := bufio.NewReaderSize(m.c, 64<<10)
	for {
		err := m.readOne(r)
		if err != nil {
			m.fail(err)
			return
		}
	}
}

func (m *muxClient) readOne(r *bufio.Reader) error {
	h, err := r.Peek(muxHeader)
	if err != nil {
		return err
	}
	n, id := int(binary.LittleEndian.Uint32(h)), binary.LittleEndian.Uint64(h[4:])
	r.Discard(muxHeader)
	m.mu.Lock()
	w := m.pending[id]
	delete(m.pending, id)
	m.mu.Unlock()
	if w == nil || n != len(w.into) {
		return io.ErrUnexpectedEOF
	}
	_, w.err = io.ReadFull(r, w.into)
	w.done <- struct{}{}
	return nil
}

func (m *muxClient) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, w := range m.pending {
		delete(m.pending, id)
		w.err = err
		w.done <- struct{}{}
	}
}

// Close ends the connection.
func (m *muxClient) Close() error { return m.c.Close() }

// serveMux answers each frame with itself, on the reader's goroutine, and
// writes when nothing more has been received.
func serveMux(c net.Conn) {
	r := bufio.NewReaderSize(c, 64<<10)
	var in, out []byte
	for {
		h, err := r.Peek(muxHeader)
		if err != nil {
			return
		}
		n, id := int(binary.LittleEndian.Uint32(h)), binary.LittleEndian.Uint64(h[4:])
		if n > maxCall {
			return
		}
		r.Discard(muxHeader)
		if cap(in) < n {
			in = make([]byte, n)
		}
		if _, err := io.ReadFull(r, in[:n]); err != nil {
			return
		}
		out = appendFrame(out, id, in[:n])
		if r.Buffered() > 0 && len(out) < 64<<10 {
			continue
		}
		if _, err := c.Write(out); err != nil {
			return
		}
		out = out[:0]
	}
}

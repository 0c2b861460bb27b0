package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// Transport is an authenticated connection. Flush sends what Write has kept
// back; a Transport that keeps nothing back returns nil. Close ends it at once,
// also for a Write that blocks.
type Transport interface {
	net.Conn
	Flush() error
	// Features returns the feature bits that both sides have (FeatureCompress). Those of
	// the main connection go for the ones that join it, too.
	Features() uint64
}

// conn is one connection of a session in one epoch: the main one with its
// streams, and the connections that joined it.
type conn struct {
	peer  *Peer
	epoch uint32
	net   *line
	mux   *yamux.Session

	compression compression

	ctx     context.Context         // ends when close is called
	cancel  context.CancelCauseFunc // of ctx
	links   [RoleCallback + 1]*link // by role; guarded by peer.mu
	bulk    bool                    // the bulk stream is being opened or stands; guarded by peer.mu
	ready   bool                    // calls may be sent; guarded by peer.mu
	extra   []*link                 // joined connections; guarded by peer.mu
	lanes   [lanes]lane             // by stream of calls; guarded by peer.mu
	turn    atomic.Uint32           // picks among joined links
	wg      sync.WaitGroup          // all goroutines of the connection
	once    sync.Once
	cause   error
	closed  chan struct{} // close was called
	stopped chan struct{} // everything has ended
}

// Serve runs the session over t in the given epoch until the connection fails,
// and returns why. An epoch not above the newest one is refused. A connection
// of an older epoch is ended first, and nothing that it carried is executed
// afterwards. t is closed in any case.
func (p *Peer) Serve(t Transport, epoch uint32) error {
	c := &conn{peer: p, epoch: epoch, closed: make(chan struct{}), stopped: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancelCause(p.ctx)
	c.net = newLine(t)
	c.compression.begin(p.cfg.Compress, t, p.RTT)
	defer close(c.stopped)
	if err := p.supersede(c); err != nil {
		t.Close()
		return err
	}
	err := c.open()
	if err == nil {
		c.start()
		err = c.watchMain()
	}
	c.close(err)
	c.wg.Wait()
	p.dismiss()
	p.mu.Lock()
	for _, call := range p.calls {
		if call.link != nil && call.link.conn == c {
			call.link = nil
		}
	}
	if p.conn == c {
		for _, l := range p.lines() {
			p.heard = max(p.heard, l.heard.Load())
		}
		p.conn = nil
	}
	if c.ready {
		p.turns.Add(1)
	}
	p.stateChanged()
	p.mu.Unlock()
	return c.cause
}

// supersede makes c the newest connection once the one before has ended.
func (p *Peer) supersede(c *conn) error {
	for {
		p.mu.Lock()
		switch old := p.conn; {
		case p.ended != nil:
			err := p.ended
			p.mu.Unlock()
			return errors.Join(ErrGone, err)
		case c.epoch <= p.epoch:
			defer p.mu.Unlock()
			return fmt.Errorf("rpc: connection of epoch %d in epoch %d", c.epoch, p.epoch)
		case old == nil:
			p.conn, p.epoch = c, c.epoch
			p.stateChanged()
			p.mu.Unlock()
			return nil
		default:
			p.mu.Unlock()
			old.close(errors.New("superseded by a newer connection"))
			<-old.stopped
		}
	}
}

// start runs the links and sends again what was unanswered.
func (c *conn) start() {
	for _, l := range c.links {
		if l != nil {
			c.run(l)
		}
	}
	c.peer.resend(c)
}

func (c *conn) run(l *link) {
	c.wg.Go(func() { c.close(l.read()) })
}

// ServeJoined adds a connection, without a multiplexer, to the session's
// connection of the same epoch, for which it waits if that is still opening. It
// returns when either ends. t is closed.
func (p *Peer) ServeJoined(t Transport, epoch uint32) error {
	defer t.Close()
	c, err := p.awaitReady(epoch)
	if err != nil {
		return err
	}
	n := newLine(t)
	l := newLink(c, RoleBulk, n, flusher{t})
	p.mu.Lock()
	if len(c.extra) >= maxExtra || c.isClosed() {
		p.mu.Unlock()
		return fmt.Errorf("rpc: the connection of epoch %d has ended or has %d others joined", epoch, maxExtra)
	}
	c.extra = append(c.extra, l)
	c.wg.Add(1) // the connection waits until t is closed
	p.mu.Unlock()
	defer c.wg.Done()
	c.run(l)
	c.watchJoined(n, l)
	t.Close()
	return c.cause
}

// awaitReady returns the connection of an epoch once it is ready for calls.
func (p *Peer) awaitReady(epoch uint32) (*conn, error) {
	late := time.NewTimer(p.cfg.PingTimeout)
	defer late.Stop()
	for {
		p.mu.Lock()
		c, changed := p.conn, ensure(&p.changed)
		newer, ended := p.epoch > epoch, p.ended
		ready := c != nil && c.epoch == epoch && c.ready
		p.mu.Unlock()
		switch {
		case ended != nil:
			return nil, errors.Join(ErrGone, ended)
		case ready:
			return c, nil
		case newer:
			return nil, fmt.Errorf("rpc: joined connection of epoch %d is too late", epoch)
		}
		select {
		case <-changed:
		case <-late.C:
			return nil, fmt.Errorf("rpc: no connection of epoch %d to join", epoch)
		}
	}
}

// stateChanged wakes who waits in awaitReady; p.mu is held.
func (p *Peer) stateChanged() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// maxExtra bounds the connections that may join a connection.
const maxExtra = 8

// flusher flushes the transport after each write of a link's buffer.
type flusher struct{ t Transport }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.t.Write(p)
	if err == nil {
		err = f.t.Flush()
	}
	return n, err
}

// context ends with the connection.
func (c *conn) context() context.Context { return c.ctx }

func (c *conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// close ends the connection; the first cause stands.
func (c *conn) close(cause error) {
	c.once.Do(func() {
		if cause == nil {
			cause = io.EOF
		}
		c.cause = cause
		c.net.Close() // before anything learns of it and is answered
		c.cancel(cause)
		close(c.closed)
		c.wg.Add(1)
		go func() {
			defer c.wg.Done()
			c.peer.mu.Lock()
			mux := c.mux
			c.peer.mu.Unlock()
			if mux != nil {
				mux.Close()
			}
			for _, l := range c.allLinks() {
				l.fail(cause)
				l.settle()
			}
		}()
	})
}

func (c *conn) allLinks() []*link {
	c.peer.mu.Lock()
	defer c.peer.mu.Unlock()
	var all []*link
	for _, l := range c.links {
		if l != nil {
			all = append(all, l)
		}
	}
	return append(all, c.extra...)
}

// drain waits until everything queued has been written.
func (c *conn) drain() {
	for _, l := range c.allLinks() {
		l.kick()
		l.settle()
	}
}

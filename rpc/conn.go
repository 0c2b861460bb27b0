package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
}

// Window is the flow-control window of each stream on a shared connection, in
// bytes. One stream carries at most a window per round trip.
const Window = 8 << 20

// ErrIdle is why a connection ended on which nothing arrived any more.
var ErrIdle = errors.New("rpc: nothing heard from the other side")

// conn is one connection of a session in one epoch: the main one with its
// streams, and the connections that joined it.
type conn struct {
	peer  *Peer
	epoch uint32
	net   *line
	mux   *yamux.Session

	ctx     context.Context         // ends when close is called
	cancel  context.CancelCauseFunc // of ctx
	links   [RoleCallback + 1]*link // by role
	ready   bool                    // calls may be sent; guarded by peer.mu
	extra   []*link                 // joined connections; guarded by peer.mu
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
		p.conn = nil
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

// open makes the multiplexer and the streams.
func (c *conn) open() error {
	cfg := yamux.DefaultConfig()
	cfg.AcceptBacklog = 16
	cfg.EnableKeepAlive = false // our own ping runs on the control stream
	cfg.ConnectionWriteTimeout = 30 * time.Second
	cfg.StreamOpenTimeout = 0 // open has its own
	cfg.MaxStreamWindowSize = Window
	cfg.LogOutput = nil
	cfg.Logger = yamuxLog{c.peer.cfg.Log}
	start := yamux.Server
	if c.peer.cfg.Client {
		start = yamux.Client
	}
	mux, err := start(newJoiner(c.net), cfg)
	if err != nil {
		return err
	}
	c.peer.mu.Lock()
	c.mux = mux
	c.peer.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.peer.ctx, c.peer.cfg.PingTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.net.Close() })
	defer stop()
	if c.peer.cfg.Client {
		err = errors.Join(c.openStream(RoleControl), c.openStream(RoleBulk))
		if err == nil {
			err = c.acceptStreams(ctx, RoleCallback)
		}
	} else {
		err = c.openStream(RoleCallback)
		if err == nil {
			err = c.acceptStreams(ctx, RoleControl, RoleBulk)
		}
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: streams did not open", ErrIdle)
	}
	return err
}

func (c *conn) openStream(role Role) error {
	s, err := c.mux.OpenStream()
	if err != nil {
		return err
	}
	if _, err := s.Write([]byte{byte(role)}); err != nil {
		return err
	}
	c.setLink(newStreamLink(c, role, s))
	return nil
}

func (c *conn) setLink(l *link) {
	c.peer.mu.Lock()
	c.links[l.role] = l
	c.peer.mu.Unlock()
}

// acceptStreams takes one stream of each role; anything else is a violation.
func (c *conn) acceptStreams(ctx context.Context, roles ...Role) error {
	for range roles {
		s, err := c.mux.AcceptStreamWithContext(ctx)
		if err != nil {
			return err
		}
		var b [1]byte
		if _, err := io.ReadFull(s, b[:]); err != nil {
			return err
		}
		role := Role(b[0])
		wanted := false
		for _, r := range roles {
			wanted = wanted || r == role
		}
		if !wanted || c.links[role] != nil {
			return fmt.Errorf("%w: stream of role %d", errProtocol, role)
		}
		c.setLink(newStreamLink(c, role, s))
	}
	return nil
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

// pingLink is the stream for this side's pings.
func (c *conn) pingLink() *link {
	if c.peer.cfg.Client {
		return c.links[RoleControl]
	}
	return c.links[RoleCallback]
}

// watchMain pings over the main connection until it is closed. It ends the
// connection of a peer that opens more streams than the protocol has; one
// goroutine waits for both.
func (c *conn) watchMain() error {
	l := c.pingLink()
	for {
		tick, stop := context.WithTimeout(c.ctx, c.peer.cfg.PingInterval)
		_, err := c.mux.AcceptStreamWithContext(tick)
		stop()
		switch {
		case c.ctx.Err() != nil:
			return context.Cause(c.ctx)
		case err == nil:
			return fmt.Errorf("%w: one stream too many", errProtocol)
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		if err := c.ping(c.net, l); err != nil {
			return err
		}
		if !c.peer.worked.Swap(false) {
			c.peer.dismiss()
		}
	}
}

// watchJoined pings over a joined connection until everything is closed.
func (c *conn) watchJoined(n *line, l *link) {
	tick := time.NewTicker(c.peer.cfg.PingInterval)
	defer tick.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-tick.C:
			if err := c.ping(n, l); err != nil {
				c.close(err)
				return
			}
		}
	}
}

// ping sends a ping, which measures the round trip, unless one is under way. It
// returns an error when the network connection has fallen silent.
func (c *conn) ping(n *line, l *link) error {
	now, limit := time.Now().UnixNano(), c.peer.cfg.PingTimeout
	if now-n.heard.Load() > int64(limit) {
		return fmt.Errorf("%w for %v", ErrIdle, limit)
	}
	if l.pinged.CompareAndSwap(0, now) {
		// Not from here: a write that blocks must not keep the clock from
		// being watched.
		l.post(frame{head: control(kindPing, 0)})
	}
	return nil
}

// post sends f without ever waiting for a write.
func (l *link) post(f frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.queue = append(l.queue, f)
	if !l.busy {
		l.busy = true
		go l.empty()
	}
}

func (l *link) pong() {
	if sent := l.pinged.Swap(0); sent != 0 {
		l.peer.rtt.Store(time.Now().UnixNano() - sent)
	}
}

// control returns a frame of only a header.
func control(kind uint8, tag uint32) []byte {
	b := make([]byte, headerSize)
	putHeader(b, kind, 0, 0, tag, 0, 0)
	return b
}

// line is a network connection that notes when something arrives on it.
type line struct {
	Transport
	heard atomic.Int64 // Unix nanoseconds
}

func newLine(t Transport) *line {
	n := &line{Transport: t}
	n.heard.Store(time.Now().UnixNano())
	return n
}

func (n *line) Read(p []byte) (int, error) {
	k, err := n.Transport.Read(p)
	if k > 0 {
		n.heard.Store(time.Now().UnixNano())
	}
	return k, err
}

// yamuxLog passes the multiplexer's messages on at debug level: whatever
// matters ends the connection and is reported there.
type yamuxLog struct{ log *slog.Logger }

func (y yamuxLog) Print(v ...any)                 { y.log.Debug(fmt.Sprint(v...)) }
func (y yamuxLog) Printf(format string, v ...any) { y.log.Debug(fmt.Sprintf(format, v...)) }
func (y yamuxLog) Println(v ...any)               { y.log.Debug(fmt.Sprintln(v...)) }

package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// started is what the clock of connections counts from. Unlike the time of day it is
// not set, and it stands still while the machine sleeps.
var started = time.Now()

// clock returns nanoseconds since started, never 0.
func clock() int64 { return int64(time.Since(started)) + 1 }

// ErrIdle is why a connection ended on which nothing arrived any more.
var ErrIdle = errors.New("rpc: nothing heard from the other side")

// pingLink is the stream for this side's pings.
func (c *conn) pingLink() *link {
	if c.peer.cfg.Client {
		return c.links[RoleControl]
	}
	return c.links[RoleCallback]
}

// watchMain pings over the main connection until it is closed, takes the bulk
// stream, and ends the connection of a peer that opens more streams than the
// protocol has.
func (c *conn) watchMain() error {
	l := c.pingLink()
	for {
		tick, stop := context.WithTimeout(c.ctx, c.peer.cfg.PingInterval)
		s, err := c.mux.AcceptStreamWithContext(tick)
		stop()
		switch {
		case c.ctx.Err() != nil:
			return context.Cause(c.ctx)
		case err == nil:
			if err := c.acceptBulk(s); err != nil {
				return err
			}
			continue
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
	limit := c.peer.cfg.PingTimeout
	if clock()-n.heard.Load() > int64(limit) {
		return fmt.Errorf("%w for %v", ErrIdle, limit)
	}
	l.ping()
	return nil
}

// ping sends a ping unless one is under way.
func (l *link) ping() {
	if l.pinged.CompareAndSwap(0, clock()) {
		// Not from here: a write that blocks must not keep the clock from
		// being watched.
		l.post(frame{head: control(kindPing, 0)})
	}
}

// pinged is a network connection and the link for pings over it.
type pinged struct {
	*line
	*link
}

// lines returns the network connections that stand. p.mu is held.
func (p *Peer) lines() (all []pinged) {
	if p.conn == nil || !p.conn.ready {
		return nil
	}
	all = append(all, pinged{p.conn.net, p.conn.pingLink()})
	for _, l := range p.conn.extra {
		all = append(all, pinged{l.rw.(*line), l})
	}
	return all
}

// Heard returns when something last arrived from the other side; the zero time
// before that.
func (p *Peer) Heard() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	heard := p.heard
	for _, l := range p.lines() {
		heard = max(heard, l.heard.Load())
	}
	if heard == 0 {
		return time.Time{}
	}
	return started.Add(time.Duration(heard))
}

// Quiet returns for how long the other side has not answered a ping, and nothing
// else has arrived, and pings it if no ping is under way. While there is no
// connection that is the time since something last arrived.
func (p *Peer) Quiet() time.Duration {
	p.mu.Lock()
	lines, heard := p.lines(), p.heard
	p.mu.Unlock()
	if len(lines) == 0 {
		return time.Duration(clock() - heard)
	}
	quiet := int64(math.MaxInt64)
	for _, l := range lines {
		l.ping()
		quiet = min(quiet, clock()-max(l.heard.Load(), l.pinged.Load()))
	}
	return time.Duration(quiet)
}

// post sends f without ever waiting for a write.
func (l *link) post(f frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		f.end()
		return
	}
	l.enqueue(f)
	if !l.busy {
		l.busy = true
		go l.empty()
	}
}

func (l *link) pong() {
	if sent := l.pinged.Swap(0); sent != 0 {
		l.peer.rtt.Store(clock() - sent)
	}
}

// line is a network connection that notes when something arrives on it.
type line struct {
	Transport
	heard atomic.Int64 // by clock
}

func newLine(t Transport) *line {
	n := &line{Transport: t}
	n.heard.Store(clock())
	return n
}

func (n *line) Read(p []byte) (int, error) {
	k, err := n.Transport.Read(p)
	if k > 0 {
		n.heard.Store(clock())
	}
	return k, err
}

package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

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
	l.enqueue(f)
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

package rpc

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/hashicorp/yamux"
)

// Window is the flow-control window of each stream on a shared connection, in
// bytes. One stream carries at most a window per round trip.
const Window = 8 << 20

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
	mine, other := RoleCallback, RoleControl
	if c.peer.cfg.Client {
		mine, other = other, mine
	}
	s, err := c.openStream(mine)
	if err == nil {
		c.setLink(newStreamLink(c, mine, s))
		err = c.acceptStream(ctx, other)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: streams did not open", ErrIdle)
	}
	return err
}

// openStream opens a stream and says what it is for.
func (c *conn) openStream(role Role) (*yamux.Stream, error) {
	s, err := c.mux.OpenStream()
	if err == nil {
		_, err = s.Write([]byte{byte(role)})
	}
	return s, err
}

// setLink makes l the link of its role, unless the connection is closed.
func (c *conn) setLink(l *link) bool {
	c.peer.mu.Lock()
	defer c.peer.mu.Unlock()
	if c.isClosed() {
		return false
	}
	c.links[l.role] = l
	return true
}

// acceptStream takes the other side's first stream, which has this role.
func (c *conn) acceptStream(ctx context.Context, role Role) error {
	s, err := c.mux.AcceptStreamWithContext(ctx)
	if err != nil {
		return err
	}
	l, err := c.acceptLink(s, role)
	if err == nil {
		c.setLink(l)
	}
	return err
}

// acceptLink makes a link of a stream that begins with this role; anything else
// is a violation.
func (c *conn) acceptLink(s *yamux.Stream, role Role) (*link, error) {
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return nil, err
	}
	if Role(b[0]) != role {
		return nil, fmt.Errorf("%w: stream of role %d", errProtocol, b[0])
	}
	return newStreamLink(c, role, s), nil
}

// openBulk opens the bulk stream, once; until it stands the control stream
// carries payloads. Most sessions never need it. peer.mu is held.
func (c *conn) openBulk() {
	if c.bulk || c.isClosed() {
		return
	}
	c.bulk = true
	c.wg.Go(func() {
		s, err := c.openStream(RoleBulk)
		if err == nil {
			err = c.runLink(newStreamLink(c, RoleBulk, s))
		}
		c.close(err)
	})
}

// acceptBulk takes the client's bulk stream, once.
func (c *conn) acceptBulk(s *yamux.Stream) error {
	c.peer.mu.Lock()
	allowed := !c.peer.cfg.Client && !c.bulk
	c.bulk = true
	c.peer.mu.Unlock()
	if !allowed {
		return fmt.Errorf("%w: one stream too many", errProtocol)
	}
	c.wg.Go(func() {
		l, err := c.acceptLink(s, RoleBulk)
		if err == nil {
			err = c.runLink(l)
		}
		c.close(err)
	})
	return nil
}

// runLink runs a link that came later than the first ones.
func (c *conn) runLink(l *link) error {
	if !c.setLink(l) {
		return nil
	}
	return l.read()
}

// yamuxLog passes the multiplexer's messages on at debug level: whatever
// matters ends the connection and is reported there.
type yamuxLog struct{ log *slog.Logger }

func (y yamuxLog) Print(v ...any)                 { y.log.Debug(fmt.Sprint(v...)) }
func (y yamuxLog) Printf(format string, v ...any) { y.log.Debug(fmt.Sprintf(format, v...)) }
func (y yamuxLog) Println(v ...any)               { y.log.Debug(fmt.Sprintln(v...)) }

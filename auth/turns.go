package auth

import (
	"net"
	"runtime"
	"sync"
)

// turns lets few handshakes compute at a time, so that those of a flood leave half of
// the processors to who has logged in. The zero value is ready. It is safe for
// concurrent use.
type turns struct {
	once sync.Once
	free chan struct{}
}

// take waits for a turn.
func (t *turns) take() *turn {
	t.once.Do(func() { t.free = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)) })
	u := &turn{free: t.free}
	u.again()
	return u
}

// turn is one handshake's. While it waits for its client, others have their turns.
// Who holds one waits for nothing else, but a write, which the socket takes at once:
// a handshake is shorter than what it buffers.
type turn struct {
	free chan struct{}
	held bool
}

func (t *turn) again() {
	t.free <- struct{}{}
	t.held = true
}

func (t *turn) give() {
	if t.held {
		t.held = false
		<-t.free
	}
}

// turnConn is a connection whose reads give the turn away until they return.
type turnConn struct {
	net.Conn
	turn *turn
}

func (c turnConn) Read(p []byte) (int, error) {
	c.turn.give()
	defer c.turn.again()
	return c.Conn.Read(p)
}

package e2e

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// proxy passes TCP connections on to a daemon, records every byte of both
// directions if asked to, and cuts or stalls connections.
type proxy struct {
	port   int
	target string
	record bool

	listener net.Listener
	wait     sync.WaitGroup
	gate     sync.RWMutex // held while the connections are stalled

	mu    sync.Mutex
	conns map[net.Conn]bool
	bytes [][]byte // one recording per connection and direction
	done  bool
	down  bool // lets nothing pass
}

func newProxy(t testing.TB, target int, record bool) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{
		port: l.Addr().(*net.TCPAddr).Port, target: fmt.Sprintf("127.0.0.1:%d", target),
		record: record, listener: l, conns: make(map[net.Conn]bool),
	}
	p.wait.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wait.Go(func() { p.pass(c) })
	}
}

// pass copies both ways until one side ends.
func (p *proxy) pass(c net.Conn) {
	d, err := net.Dial("tcp", p.target)
	if err != nil {
		c.Close()
		return
	}
	if !p.add(c, d) {
		return
	}
	p.wait.Go(func() { p.copy(d, c) })
	p.copy(c, d)
	p.remove(c, d)
}

func (p *proxy) copy(to, from net.Conn) {
	var tape *recorder
	if p.record {
		tape = &recorder{}
		_, _ = io.Copy(to, io.TeeReader(from, tape))
	} else {
		_, _ = io.Copy(gated{p, to}, from)
	}
	to.Close()
	from.Close()
	if tape != nil {
		p.mu.Lock()
		p.bytes = append(p.bytes, tape.b)
		p.mu.Unlock()
	}
}

type recorder struct{ b []byte }

func (r *recorder) Write(b []byte) (int, error) {
	r.b = append(r.b, b...)
	return len(b), nil
}

// gated writes to a connection unless it is stalled.
type gated struct {
	p  *proxy
	to net.Conn
}

func (g gated) Write(b []byte) (int, error) {
	g.p.gate.RLock()
	defer g.p.gate.RUnlock()
	return g.to.Write(b)
}

// stall lets the connections stand still, as a network does that loses
// everything, until it is called with false. Whoever stalls must end it.
func (p *proxy) stall(still bool) {
	if still {
		p.gate.Lock()
	} else {
		p.gate.Unlock()
	}
}

// add takes the two halves of a connection into the proxy's care, or closes them
// if the proxy lets nothing pass.
func (p *proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.done || p.down {
			c.Close()
		} else {
			p.conns[c] = true
		}
	}
	return !p.done && !p.down
}

func (p *proxy) remove(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// cut breaks every connection as a lost network does, without a proper end, and
// returns how many there were.
func (p *proxy) cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	return len(p.conns) / 2
}

// block cuts every connection and lets no new one pass, until it is called with
// false.
func (p *proxy) block(down bool) {
	p.mu.Lock()
	p.down = down
	p.mu.Unlock()
	if down {
		p.cut()
	}
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	p.done = true
	p.mu.Unlock()
	p.cut()
	p.wait.Wait()
}

// recorded returns what has passed, one recording per connection and direction.
// All connections must have ended.
func (p *proxy) recorded() [][]byte {
	p.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

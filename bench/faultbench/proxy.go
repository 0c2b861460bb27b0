package main

import (
	"io"
	"net"
	"sync"
	"time"
)

// proxy passes connections on to a server, and breaks them in the ways of networks.
type proxy struct {
	target   string
	listener net.Listener
	gate     sync.RWMutex // held while nothing passes

	mu    sync.Mutex
	pairs map[*pair]struct{}
}

// pair are the two halves of a connection.
type pair struct{ client, server *net.TCPConn }

func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{target: target, listener: l, pairs: make(map[*pair]struct{})}
	go p.accept()
	return p, nil
}

func (p *proxy) port() string {
	_, port, _ := net.SplitHostPort(p.listener.Addr().String())
	return port
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.pass(c.(*net.TCPConn))
	}
}

// pass serves one connection. One that the server does not take is reset.
func (p *proxy) pass(c *net.TCPConn) {
	p.gate.RLock() // a network that loses everything connects nobody
	p.gate.RUnlock()
	d, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		reset(c)
		return
	}
	both := &pair{c, d.(*net.TCPConn)}
	p.mu.Lock()
	p.pairs[both] = struct{}{}
	p.mu.Unlock()
	var ends sync.WaitGroup
	ends.Go(func() { p.copy(both.server, both.client) })
	ends.Go(func() { p.copy(both.client, both.server) })
	ends.Wait()
	p.mu.Lock()
	delete(p.pairs, both)
	p.mu.Unlock()
	both.client.Close()
	both.server.Close()
}

// copy passes one direction on until its end, which it passes on as well. A connection
// that has broken is broken on both sides.
func (p *proxy) copy(to, from *net.TCPConn) {
	if _, err := io.Copy(gated{p, to}, from); err != nil {
		reset(to)
		reset(from)
		return
	}
	to.CloseWrite()
}

// gated writes while the network passes anything on.
type gated struct {
	p  *proxy
	to io.Writer
}

func (g gated) Write(b []byte) (int, error) {
	g.p.gate.RLock()
	defer g.p.gate.RUnlock()
	return g.to.Write(b)
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// each does something to every connection.
func (p *proxy) each(do func(*pair)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for both := range p.pairs {
		do(both)
	}
}

// cut resets all connections.
func (p *proxy) cut() {
	p.each(func(b *pair) { reset(b.client); reset(b.server) })
}

// halfClose ends what comes from the server, and leaves the other direction open.
func (p *proxy) halfClose() {
	p.each(func(b *pair) { b.client.CloseWrite() })
}

// stall lets nothing pass, and nobody hear of it, until the function is called that it
// returns.
func (p *proxy) stall() (heal func()) {
	p.gate.Lock()
	return p.gate.Unlock
}

func (p *proxy) close() {
	p.listener.Close()
	p.cut()
}

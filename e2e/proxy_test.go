package e2e

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy passes TCP connections on to a daemon, records every byte of both directions if
// asked to, and does to connections what networks do.
type proxy struct {
	port   int
	target string
	record bool

	listener net.Listener
	wait     sync.WaitGroup
	gate     sync.RWMutex // held while the connections are stalled
	delay    atomic.Int64 // nanoseconds that everything is late
	hold     atomic.Int64 // nanoseconds that every second new connection is late

	mu       sync.Mutex
	links    map[*link]bool
	bytes    [][]byte // one recording per connection and direction
	accepted int
	done     bool
	down     bool // lets nothing pass
}

// link is a connection through the proxy.
type link struct{ up, down *half }

// half is one direction of it.
type half struct {
	from, to *net.TCPConn
	gate     sync.RWMutex // held while this direction stands still
	void     atomic.Bool  // what comes is thrown away
}

func newProxy(t testing.TB, target int, record bool) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{
		port: l.Addr().(*net.TCPAddr).Port, target: fmt.Sprintf("127.0.0.1:%d", target),
		record: record, listener: l, links: make(map[*link]bool),
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
		p.accepted++
		late := time.Duration(p.hold.Load() * int64(p.accepted%2))
		p.wait.Go(func() {
			time.Sleep(late)
			p.pass(c.(*net.TCPConn))
		})
	}
}

// pass copies both ways until one side ends.
func (p *proxy) pass(c *net.TCPConn) {
	p.gate.RLock()
	d, err := net.Dial("tcp", p.target)
	p.gate.RUnlock()
	if err != nil {
		c.Close()
		return
	}
	server := d.(*net.TCPConn)
	l := &link{up: &half{from: c, to: server}, down: &half{from: server, to: c}}
	if !p.add(l) {
		return
	}
	p.wait.Go(func() { p.copy(l.up) })
	p.copy(l.down)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

func (p *proxy) copy(h *half) {
	var tape []byte
	for b := make([]byte, 32<<10); ; {
		n, err := h.from.Read(b)
		if p.record {
			tape = append(tape, b[:n]...)
		}
		if n > 0 && !p.write(h, b[:n]) || err != nil {
			break
		}
	}
	p.gate.RLock() // an end is not heard of either
	h.to.Close()
	h.from.Close()
	p.gate.RUnlock()
	if p.record {
		p.mu.Lock()
		p.bytes = append(p.bytes, tape)
		p.mu.Unlock()
	}
}

// write passes bytes on, when the connection is to.
func (p *proxy) write(h *half, b []byte) bool {
	time.Sleep(time.Duration(p.delay.Load()))
	p.gate.RLock()
	defer p.gate.RUnlock()
	h.gate.RLock()
	defer h.gate.RUnlock()
	if h.void.Load() {
		return true
	}
	_, err := h.to.Write(b)
	return err == nil
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

// add takes a connection into the proxy's care, or closes it if the proxy lets nothing
// pass.
func (p *proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done || p.down {
		l.up.to.Close()
		l.up.from.Close()
		return false
	}
	p.links[l] = true
	return true
}

// all returns the connections that there are.
func (p *proxy) all() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*link
	for l := range p.links {
		all = append(all, l)
	}
	return all
}

// cut breaks every connection as a lost network does, without a proper end, and
// returns how many there were.
func (p *proxy) cut() int {
	all := p.all()
	for _, l := range all {
		reset(l.up.from)
		reset(l.down.from)
	}
	return len(all)
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// forsake breaks the connections for the daemon only.
func (p *proxy) forsake() {
	for _, l := range p.all() {
		reset(l.up.to)
	}
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

// halfClose ends one direction of every connection; the other one goes on.
func (p *proxy) halfClose(up bool) {
	for _, l := range p.all() {
		h := l.down
		if up {
			h = l.up
		}
		h.void.Store(true)
		_ = h.to.CloseWrite()
	}
}

// late breaks the connections for the clients only. What they had sent last reaches the
// daemon after a while, when they have connected anew.
func (p *proxy) late(while func()) {
	all := p.all()
	for _, l := range all {
		l.up.gate.Lock()
	}
	while()
	for _, l := range all {
		l.down.void.Store(true)
		reset(l.up.from)
	}
	while()
	for _, l := range all {
		l.up.gate.Unlock()
	}
}

// reorder cuts the connections, and for a while lets every second one that is made
// instead wait, so that later ones overtake it.
func (p *proxy) reorder(late time.Duration, while func()) {
	p.hold.Store(int64(late))
	p.cut()
	while()
	p.hold.Store(0)
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

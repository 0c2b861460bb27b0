package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// attemptDelay is how long after one attempt to connect the next begins while
	// that one has no result (RFC 8305, section 5).
	attemptDelay = 250 * time.Millisecond
	// roundDelay is how long after the last attempt all are begun anew: what is lost
	// on its way to a peer is sent again later and later by the kernel.
	roundDelay = time.Second
	// connectLimit bounds one attempt.
	connectLimit = 4 * time.Second
)

// dialer connects to whichever address of the servers answers first, IPv6 and IPv4
// side by side (RFC 8305, "happy eyeballs").
type dialer struct {
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
	connect func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex
	known  map[string][]netip.Addr // by host, as they were found last
	failed []target                // took a connection and did not do with it what they should; the latest last
}

func newDialer() *dialer {
	d := &net.Dialer{KeepAlive: -1} // the session has a ping of its own
	return &dialer{
		lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		connect: d.DialContext, known: make(map[string][]netip.Addr),
	}
}

// target is an address of a server.
type target struct{ server, network, address string }

// dialing is one search for a connection.
type dialing struct {
	*dialer
	ctx    context.Context
	found  chan finding
	tried  chan attempt
	all    []target // in the order of their first attempts
	queue  []target // to be tried, the next first
	asking int      // look-ups under way
	trying int      // attempts under way
	err    error    // the first failure
}

// finding is what a look-up has found.
type finding struct {
	targets []target
	err     error
}

// attempt is an attempt to connect that has ended.
type attempt struct {
	target target
	conn   net.Conn
	err    error
}

// dial connects to one of the servers and tells to which. Those that have failed come
// last. If persistent is set it does
// not wait for the kernel to repeat itself but begins anew each roundDelay, and goes by
// the addresses of before while names are looked up; it ends when all have failed, or
// with ctx.
func (d *dialer) dial(ctx context.Context, servers []string, persistent bool) (net.Conn, target, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &dialing{dialer: d, ctx: ctx, found: make(chan finding), tried: make(chan attempt)}
	for _, s := range servers {
		g.ask(s, persistent)
	}
	next := time.NewTimer(attemptDelay)
	defer next.Stop()
	for {
		if g.trying == 0 && g.try() {
			next.Reset(g.pause())
		}
		if g.trying == 0 && g.asking == 0 && len(g.queue) == 0 {
			return nil, target{}, g.err
		}
		select {
		case f := <-g.found:
			g.asking--
			if g.add(f.targets) {
				next.Reset(attemptDelay)
			}
			g.note(f.err)
		case a := <-g.tried:
			g.trying--
			if a.err == nil {
				return a.conn, a.target, nil
			}
			g.note(a.err)
			if g.try() {
				next.Reset(g.pause())
			}
		case <-next.C:
			if len(g.queue) == 0 && persistent {
				g.queue = slices.Clone(g.all)
			}
			g.try()
			next.Reset(g.pause())
		case <-ctx.Done():
			return nil, target{}, errors.Join(context.Cause(ctx), g.err)
		}
	}
}

// note keeps the first failure.
func (g *dialing) note(err error) {
	if g.err == nil {
		g.err = err
	}
}

// works notes whether a target that took a connection did with it what it should.
func (d *dialer) works(t target, works bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if works {
		d.failed = nil
		return
	}
	d.failed = slices.DeleteFunc(d.failed, func(other target) bool { return other == t })
	d.failed = append(d.failed, t)
}

// ask finds the addresses of a server.
func (g *dialing) ask(server string, remembered bool) {
	if path, ok := strings.CutPrefix(server, "unix:"); ok {
		g.add([]target{{server, "unix", path}})
		return
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		g.note(err)
		return
	}
	g.mu.Lock()
	known := g.known[host]
	g.mu.Unlock()
	if remembered {
		g.add(targets(server, port, known))
	}
	g.asking++
	go func() {
		addrs, err := g.lookup(g.ctx, host)
		if err == nil {
			g.mu.Lock()
			g.known[host] = addrs
			g.mu.Unlock()
		}
		select {
		case g.found <- finding{targets(server, port, addrs), err}:
		case <-g.ctx.Done():
		}
	}()
}

// targets puts the families in turn, IPv6 first, each in the order of the resolver.
func targets(server, port string, addrs []netip.Addr) (list []target) {
	var six, four []target
	for _, a := range addrs {
		a = a.Unmap()
		t := target{server, "tcp", net.JoinHostPort(a.String(), port)}
		if a.Is4() {
			four = append(four, t)
		} else {
			six = append(six, t)
		}
	}
	for len(six)+len(four) > 0 {
		for _, family := range []*[]target{&six, &four} {
			if len(*family) > 0 {
				list = append(list, (*family)[0])
				*family = (*family)[1:]
			}
		}
	}
	return list
}

// add queues targets that are new, and reports whether there were any.
func (g *dialing) add(list []target) (some bool) {
	for _, t := range list {
		if !slices.Contains(g.all, t) {
			g.all = append(g.all, t)
			g.queue = append(g.queue, t)
			some = true
		}
	}
	return some
}

// pause returns how long after an attempt the next begins.
func (g *dialing) pause() time.Duration {
	if len(g.queue) > 0 {
		return attemptDelay
	}
	return roundDelay
}

// try begins the next attempt, if there is one.
func (g *dialing) try() bool {
	if len(g.queue) == 0 {
		return false
	}
	g.mu.Lock()
	t := slices.MinFunc(g.queue, func(a, b target) int {
		return slices.Index(g.dialer.failed, a) - slices.Index(g.dialer.failed, b)
	})
	g.mu.Unlock()
	g.queue = slices.DeleteFunc(g.queue, func(other target) bool { return other == t })
	g.trying++
	go func() {
		ctx, cancel := context.WithTimeout(g.ctx, connectLimit)
		defer cancel()
		c, err := g.connect(ctx, t.network, t.address)
		select {
		case g.tried <- attempt{t, c, err}:
		case <-g.ctx.Done():
			if err == nil {
				c.Close()
			}
		}
	}()
	return true
}

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errRefused = errors.New("refused")

// network is what a dialer meets.
type network struct {
	names   map[string][]netip.Addr
	asks    map[string]time.Duration // how long a look-up takes; 0: none
	answers map[string]time.Duration // when an address answers; less than 0: it refuses; otherwise never

	mu    sync.Mutex
	begun []string // attempts, with their times
	start time.Time
	open  int
}

func (n *network) dialer() *dialer {
	d := newDialer()
	n.start = time.Now()
	d.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
		if err := pause(ctx, n.asks[host]); err != nil {
			return nil, err
		}
		if a := n.names[host]; a != nil {
			return a, nil
		}
		return nil, &net.DNSError{Name: host, IsNotFound: true}
	}
	d.connect = func(ctx context.Context, _, address string) (net.Conn, error) {
		n.mu.Lock()
		n.begun = append(n.begun, fmt.Sprintf("%v %s", time.Since(n.start), address))
		n.mu.Unlock()
		took, ok := n.answers[address]
		if !ok {
			took = time.Hour
		}
		if took < 0 {
			return nil, errRefused
		}
		if err := pause(ctx, took); err != nil {
			return nil, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.open++
		return counted{n, address}, nil
	}
	return d
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// counted is a connection that counts that it is open.
type counted struct {
	n       *network
	address string
}

func (c counted) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.n.open--
	return nil
}

func (counted) Read([]byte) (int, error)         { return 0, nil }
func (counted) Write([]byte) (int, error)        { return 0, nil }
func (counted) LocalAddr() net.Addr              { return nil }
func (counted) RemoteAddr() net.Addr             { return nil }
func (counted) SetDeadline(time.Time) error      { return nil }
func (counted) SetReadDeadline(time.Time) error  { return nil }
func (counted) SetWriteDeadline(time.Time) error { return nil }

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

const soon = 5 * time.Millisecond

func TestDial(t *testing.T) {
	two := map[string][]netip.Addr{"two": addrs("192.0.2.1", "192.0.2.2", "2001:db8::1"), "one": addrs("192.0.2.9"), "mapped": addrs("::ffff:192.0.2.9")}
	for name, c := range map[string]struct {
		network    *network
		servers    []string
		persistent bool
		limit      time.Duration
		want       string // address, or ""
		err        error
		begun      []string
		took       time.Duration
	}{
		"the families in turn": {
			network: &network{names: two, answers: map[string]time.Duration{"192.0.2.2:1": soon}},
			servers: []string{"two:1"}, want: "192.0.2.2:1", took: 500*time.Millisecond + soon,
			begun: []string{"0s [2001:db8::1]:1", "250ms 192.0.2.1:1", "500ms 192.0.2.2:1"},
		},
		"the first that answers": {
			network: &network{names: two, answers: map[string]time.Duration{"[2001:db8::1]:1": 400 * time.Millisecond, "192.0.2.1:1": 200 * time.Millisecond}},
			servers: []string{"two:1"}, want: "[2001:db8::1]:1", took: 400 * time.Millisecond,
			begun: []string{"0s [2001:db8::1]:1", "250ms 192.0.2.1:1"},
		},
		"the next at once after a refusal": {
			network: &network{names: two, answers: map[string]time.Duration{"[2001:db8::1]:1": -1, "192.0.2.1:1": -1, "192.0.2.2:1": soon}},
			servers: []string{"two:1"}, want: "192.0.2.2:1", took: soon,
			begun: []string{"0s [2001:db8::1]:1", "0s 192.0.2.1:1", "0s 192.0.2.2:1"},
		},
		"all refuse": {
			network: &network{names: two, answers: map[string]time.Duration{"[2001:db8::1]:1": -1, "192.0.2.1:1": -1, "192.0.2.2:1": -1}},
			servers: []string{"two:1"}, persistent: true, err: errRefused,
			begun: []string{"0s [2001:db8::1]:1", "0s 192.0.2.1:1", "0s 192.0.2.2:1"},
		},
		"a name that is looked up slowly keeps no other": {
			network: &network{names: two, asks: map[string]time.Duration{"two": time.Minute}, answers: map[string]time.Duration{"192.0.2.9:2": soon}},
			servers: []string{"two:1", "one:2"}, want: "192.0.2.9:2", took: soon, begun: []string{"0s 192.0.2.9:2"},
		},
		"no such name": {network: &network{names: two}, servers: []string{"none:1"}, err: &net.DNSError{Name: "none", IsNotFound: true}},
		"mapped":       {network: &network{names: two, answers: map[string]time.Duration{"192.0.2.9:1": soon}}, servers: []string{"mapped:1"}, want: "192.0.2.9:1", took: soon, begun: []string{"0s 192.0.2.9:1"}},
		"nobody answers, once": {
			network: &network{names: two}, servers: []string{"one:1"}, limit: 3 * time.Second, took: 3 * time.Second, err: context.DeadlineExceeded,
			begun: []string{"0s 192.0.2.9:1"},
		},
		"nobody answers, again and again": {
			network: &network{names: two}, servers: []string{"one:1"}, persistent: true, limit: 2500 * time.Millisecond, took: 2500 * time.Millisecond, err: context.DeadlineExceeded,
			begun: []string{"0s 192.0.2.9:1", "1s 192.0.2.9:1", "2s 192.0.2.9:1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := c.network
				d := n.dialer()
				ctx, cancel := context.WithTimeout(t.Context(), max(c.limit, time.Millisecond)+time.Hour*time.Duration(btoi(c.limit == 0)))
				defer cancel()
				conn, to, err := d.dial(ctx, c.servers, c.persistent)
				if took := time.Since(n.start); took-c.took > 2*time.Millisecond || took < c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				if c.want == "" {
					if err == nil || !errors.Is(err, c.err) && err.Error() != c.err.Error() {
						t.Errorf("%v, want %v", err, c.err)
					}
				} else if err != nil || conn.(counted).address != c.want || !slices.Contains(c.servers, to.server) {
					t.Errorf("%v of %v, %v; want %s", conn, to, err, c.want)
				}
				time.Sleep(time.Hour) // what was begun ends
				n.mu.Lock()
				defer n.mu.Unlock()
				if !slices.Equal(n.begun, c.begun) {
					t.Errorf("attempts %q, want %q", n.begun, c.begun)
				}
				if want := btoi(err == nil); n.open != want {
					t.Errorf("%d connections are open, want %d", n.open, want)
				}
			})
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestDialRemembers: without a resolver the addresses of before are gone by, and new
// ones are when they are known.
func TestDialRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{names: map[string][]netip.Addr{"host": addrs("192.0.2.1")}, answers: map[string]time.Duration{"192.0.2.1:1": soon}}
		d := n.dialer()
		if _, _, err := d.dial(t.Context(), []string{"host:1"}, false); err != nil {
			t.Fatal(err)
		}
		n.asks = map[string]time.Duration{"host": 3 * time.Second}
		n.names["host"] = addrs("192.0.2.1", "192.0.2.2")
		n.answers = map[string]time.Duration{"192.0.2.2:1": soon}
		synctest.Wait()
		start := time.Now()
		c, _, err := d.dial(t.Context(), []string{"host:1"}, true)
		if err != nil || c.(counted).address != "192.0.2.2:1" {
			t.Fatalf("%v, %v", c, err)
		}
		if took := time.Since(start); took < 3*time.Second || took > 3*time.Second+roundDelay+attemptDelay {
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Hour)
		delete(n.names, "host")
		n.answers["192.0.2.1:1"] = soon
		if _, _, err := d.dial(t.Context(), []string{"host:1"}, true); err != nil {
			t.Errorf("without a resolver: %v", err)
		}
	})
}

// TestDialAvoids: who takes connections and does nothing with them comes last.
func TestDialAvoids(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{names: map[string][]netip.Addr{"host": addrs("192.0.2.1", "192.0.2.2")}, answers: map[string]time.Duration{"192.0.2.1:1": soon, "192.0.2.2:1": soon}}
		d := n.dialer()
		for _, want := range []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.1:1"} {
			_, to, err := d.dial(t.Context(), []string{"host:1"}, true)
			if err != nil || to.address != want {
				t.Fatalf("%v, %v; want %s", to, err, want)
			}
			d.works(to, false)
			time.Sleep(time.Minute)
		}
		_, to, err := d.dial(t.Context(), []string{"host:1"}, true)
		d.works(to, true)
		if err != nil || to.address != "192.0.2.2:1" || len(d.failed) > 0 {
			t.Errorf("%v, %v", to, err)
		}
	})
}

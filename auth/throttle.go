package auth

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Slowing down of guesses. A guess is charged to its address, and to its address
// and user together, before it is looked at, so that many at once do not all
// count as the first. The answer then waits for as long as the earlier failures
// ask for, right or wrong alike. A success takes its charge back. Nobody is ever
// locked out, and failures from one address cost another address nothing.
const (
	userFree    = 1 // guesses for one user from one address before the first delay
	addressFree = 16
	firstDelay  = 250 * time.Millisecond
	longDelay   = 8 * time.Second  // for one user from one address
	shortDelay  = 4 * time.Second  // for all users from one address
	forgetAfter = 15 * time.Minute // without a guess
	maxCharged  = 8192             // entries; the longest unused go first
)

// throttle counts failed guesses. The zero value is ready. It is safe for
// concurrent use.
type throttle struct {
	mu      sync.Mutex
	entries map[throttleKey]*list.Element // of *charges
	recent  list.List                     // most recently used first
}

// throttleKey is an address with a user, or alone.
type throttleKey struct {
	address string
	user    string // "" for the address alone
}

type charges struct {
	key   throttleKey
	count int
	last  time.Time
}

// guess charges one guess and returns how long its answer must wait. The user's
// name is not checked before; it is bounded by the hello.
func (t *throttle) guess(address, user string) time.Duration {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	forUser := delayAfter(t.charge(throttleKey{address, user}, now)-userFree, longDelay)
	forAddress := delayAfter(t.charge(throttleKey{address: address}, now)-addressFree, shortDelay)
	return max(forUser, forAddress)
}

// succeeded takes back the charge of a guess that was right, and with it the
// earlier failures for this user from this address.
func (t *throttle) succeeded(address, user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(t.entries[throttleKey{address, user}])
	if e := t.entries[throttleKey{address: address}]; e != nil {
		if c := e.Value.(*charges); c.count > 1 {
			c.count--
		} else {
			t.drop(e)
		}
	}
}

// charge counts one more guess under key and returns the count. Callers hold mu.
func (t *throttle) charge(key throttleKey, now time.Time) int {
	t.forget(now)
	e, ok := t.entries[key]
	if !ok {
		if t.entries == nil {
			t.entries = make(map[throttleKey]*list.Element)
		}
		if len(t.entries) >= maxCharged {
			t.drop(t.recent.Back())
		}
		e = t.recent.PushFront(&charges{key: key})
		t.entries[key] = e
	}
	t.recent.MoveToFront(e)
	c := e.Value.(*charges)
	c.last = now
	c.count++
	return c.count
}

// forget drops what has not been used for long. Callers hold mu.
func (t *throttle) forget(now time.Time) {
	for e := t.recent.Back(); e != nil && now.Sub(e.Value.(*charges).last) > forgetAfter; e = t.recent.Back() {
		t.drop(e)
	}
}

// drop removes an entry, if there is one. Callers hold mu.
func (t *throttle) drop(e *list.Element) {
	if e != nil {
		delete(t.entries, e.Value.(*charges).key)
		t.recent.Remove(e)
	}
}

// delayAfter is firstDelay for the first count beyond what is free, and doubles
// with each more up to longest.
func delayAfter(count int, longest time.Duration) time.Duration {
	if count <= 0 {
		return 0
	}
	d := firstDelay
	for ; count > 1 && d < longest; count-- {
		d *= 2
	}
	return min(d, longest)
}

// addressKey is what limits per address count by: an IPv4 address, the /64 of an
// IPv6 address (one customer has at least that many), or the kind of network for
// connections without addresses.
func addressKey(addr net.Addr) string {
	if addr == nil {
		return "unknown"
	}
	p, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return addr.Network()
	}
	ip := p.Addr().Unmap().WithZone("")
	if ip.Is6() {
		prefix, _ := ip.Prefix(64)
		return prefix.String()
	}
	return ip.String()
}

package mount

import (
	"context"
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

const (
	// callerFor is how long a process is believed to have the groups that it was
	// seen with. A changed user or group id is seen at once.
	callerFor = 100 * time.Millisecond
	// maxCallers bounds the processes that each shard remembers.
	maxCallers   = 1024
	callerShards = 16 // a power of two
)

// credentials names callers to the daemon, in sessions where the daemon acts
// with the rights of the caller. A nil *credentials names nobody: the session's
// own identity acts.
//
// Each credential is registered once per session, and lost connections do not
// matter to that. When there is no room for one more, the number of the one
// that was not used for the longest time goes to the new one. Calls that name a
// number have ended by then; one that was given up before it was known to have
// ended keeps its number for good.
type credentials struct {
	send   func(context.Context, *fsproto.CredReq) error
	groups func(tid, uid, gid uint32) []uint32
	ids    *idMap
	now    func() time.Time

	ctx     context.Context // of registrations; ends in stop
	cancel  context.CancelFunc
	running sync.WaitGroup

	callers [callerShards]callerShard

	mu     sync.Mutex
	known  map[string]*credential // by key
	free   []uint32               // numbers of registrations that failed
	lastID uint32
}

// caller is who makes a request, as the kernel tells.
type caller struct{ tid, uid, gid uint32 }

type callerShard struct {
	mu   sync.RWMutex
	seen map[caller]sighting
}

// sighting is the credential that a caller had until lately.
type sighting struct {
	cred  *credential
	until time.Time
}

// credential is a registered one, or one that is being registered.
type credential struct {
	id    uint32
	key   string
	ready chan struct{} // closed when it can be named, or err is set
	err   error

	uses atomic.Int64 // calls that name it; retired: none ever again
	used atomic.Int64 // when it was looked up last, in ns of the clock
}

// retired is what uses is from when the number of a credential is given away.
const retired = math.MinInt64 / 2

func newCredentials(peer *rpc.Peer, ids *idMap) *credentials {
	c := &credentials{
		send: func(ctx context.Context, req *fsproto.CredReq) error {
			return rpc.Call(ctx, peer, fsproto.Cred, req, &fsproto.Empty{})
		},
		groups: groupsOf, ids: ids, now: time.Now, known: make(map[string]*credential),
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.ctx, c.cancel = rpc.Leaving(ctx), cancel
	for i := range c.callers {
		c.callers[i].seen = make(map[caller]sighting)
	}
	return c
}

// stop ends registrations that are under way.
func (c *credentials) stop() {
	if c != nil {
		c.cancel()
		c.running.Wait()
	}
}

// of returns the credential of who makes a request, for one call that names its
// number. After the call it is given back with release. A caller that was seen
// lately costs neither a system call nor an allocation.
func (c *credentials) of(ctx context.Context, h *fuse.InHeader) (*credential, error) {
	if c == nil {
		return nil, nil
	}
	who := caller{h.Pid, h.Uid, h.Gid}
	cred := c.seen(who)
	if cred == nil {
		req, err := c.describe(ctx, who)
		if err != nil {
			return nil, err
		}
		if cred, err = c.enlist(req); err != nil {
			return nil, err
		}
		c.see(who, cred)
	}
	if err := cred.wait(ctx); err != nil {
		cred.release(false)
		return nil, err
	}
	return cred, nil
}

func (c *credentials) shard(who caller) *callerShard { return &c.callers[who.tid%callerShards] }

// seen takes the credential that the caller had a moment ago, or returns nil.
func (c *credentials) seen(who caller) *credential {
	s := c.shard(who)
	s.mu.RLock()
	at, ok := s.seen[who]
	s.mu.RUnlock()
	if ok && c.now().Before(at.until) && at.cred.take() {
		return at.cred
	}
	return nil
}

func (c *credentials) see(who caller, cred *credential) {
	s := c.shard(who)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) >= maxCallers {
		clear(s.seen)
	}
	s.seen[who] = sighting{cred, c.now().Add(callerFor)}
}

// describe finds out what the caller is to the daemon.
func (c *credentials) describe(ctx context.Context, who caller) (*fsproto.CredReq, error) {
	req := &fsproto.CredReq{UID: who.uid, GID: who.gid, Groups: c.groups(who.tid, who.uid, who.gid)}
	return req, c.ids.sendCred(ctx, req)
}

// key tells credentials apart.
func key(req *fsproto.CredReq) string {
	b := binary.LittleEndian.AppendUint32(nil, req.UID)
	b = binary.LittleEndian.AppendUint32(b, req.GID)
	for _, g := range req.Groups {
		b = binary.LittleEndian.AppendUint32(b, g)
	}
	return string(b)
}

// enlist takes the credential that is described, and has it registered if it is
// new. EAGAIN if calls are under way with as many as the daemon takes.
func (c *credentials) enlist(req *fsproto.CredReq) (*credential, error) {
	k, now := key(req), c.now().UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	if cred := c.known[k]; cred != nil {
		cred.take() // it is not retired: it would not be known then
		cred.used.Store(now)
		return cred, nil
	}
	id, ok := c.number()
	if !ok {
		return nil, syscall.EAGAIN
	}
	cred := &credential{id: id, key: k, ready: make(chan struct{})}
	cred.uses.Store(1)
	cred.used.Store(now)
	c.known[k] = cred
	req.ID = id
	c.running.Go(func() { c.register(cred, req) })
	return cred, nil
}

// number finds a number for a new credential. mu is held.
func (c *credentials) number() (uint32, bool) {
	if n := len(c.free); n > 0 {
		id := c.free[n-1]
		c.free = c.free[:n-1]
		return id, true
	}
	if c.lastID < fsproto.MaxCreds {
		c.lastID++
		return c.lastID, true
	}
	for {
		var coldest *credential
		for _, cred := range c.known {
			if cred.uses.Load() == 0 && (coldest == nil || cred.used.Load() < coldest.used.Load()) {
				coldest = cred
			}
		}
		switch {
		case coldest == nil:
			return 0, false
		case coldest.uses.CompareAndSwap(0, retired):
			delete(c.known, coldest.key)
			return coldest.id, true
		}
	}
}

// register tells the daemon. It does not end with the request that came first:
// others wait for it as well.
func (c *credentials) register(cred *credential, req *fsproto.CredReq) {
	if cred.err = c.send(c.ctx, req); cred.err != nil {
		cred.uses.Add(retired)
		c.mu.Lock()
		delete(c.known, cred.key)
		c.free = append(c.free, cred.id)
		c.mu.Unlock()
	}
	close(cred.ready)
}

// wait waits until the credential can be named.
func (cred *credential) wait(ctx context.Context) error {
	select {
	case <-cred.ready:
		return cred.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take counts one more call that names the credential, unless its number has
// been given away.
func (cred *credential) take() bool {
	if cred.uses.Add(1) > 0 {
		return true
	}
	cred.uses.Add(-1)
	return false
}

// number is what a call names; 0 is the session's own identity.
func (cred *credential) number() uint32 {
	if cred == nil {
		return 0
	}
	return cred.id
}

// release gives the credential back after a call. A change that was given up may
// still be executed when the connection is back; the number must not stand for
// anybody else then.
func (cred *credential) release(givenUp bool) {
	if cred != nil && !givenUp {
		cred.uses.Add(-1)
	}
}

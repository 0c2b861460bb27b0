package export

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// soon is how long is waited for what must happen, and while how long what must not.
const (
	soon  = 10 * time.Second
	while = 30 * time.Millisecond
)

// leaser is an attached session that gets leases, and its client.
type leaser struct {
	*env
	link  *rpctest.Session
	calls chan *fsproto.RecallReq // recalls that have arrived, in order

	mu   sync.Mutex
	hold chan struct{} // not nil: they are answered when it is closed
}

// newLeaser adds a session to an export.
func newLeaser(t testing.TB, e *Export, dir string) *leaser {
	t.Helper()
	a := &leaser{env: &env{t: t, dir: dir, e: e}, calls: make(chan *fsproto.RecallReq, 1<<16)}
	a.s = a.session(Identity{Name: "user"})
	var server, client rpc.Mux
	a.s.Register(&server)
	rpc.Handle(&client, fsproto.Recall, func(ctx context.Context, _ *rpc.Request, req *fsproto.RecallReq, _ *fsproto.Empty) error {
		a.mu.Lock()
		hold := a.hold
		a.mu.Unlock()
		a.calls <- req
		if hold == nil {
			return nil
		}
		select {
		case <-hold:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	a.link = rpctest.New(t, rpc.Config{Root: &server}, rpc.Config{Root: &client})
	a.client = a.link.Client
	do(a.env, fsproto.Attach, fsproto.AttachReq{})
	do(a.env, fsproto.Leases, fsproto.LeasesReq{})
	return a
}

// twoLeasers exports a new directory to two sessions.
func twoLeasers(t *testing.T, cfg Config, prepare func(dir string)) (a, b *leaser) {
	t.Helper()
	cfg.Path = t.TempDir()
	if prepare != nil {
		prepare(cfg.Path)
	}
	e := openExport(t, cfg)
	return newLeaser(t, e, cfg.Path), newLeaser(t, e, cfg.Path)
}

// holding makes recalls wait for an answer until release is called.
func (a *leaser) holding() (release func()) {
	hold := make(chan struct{})
	a.mu.Lock()
	a.hold = hold
	a.mu.Unlock()
	return sync.OnceFunc(func() {
		a.mu.Lock()
		if a.hold == hold { // not those that came after
			a.hold = nil
		}
		a.mu.Unlock()
		close(hold)
	})
}

// recalled returns the next recall.
func (a *leaser) recalled() *fsproto.RecallReq {
	a.t.Helper()
	select {
	case req := <-a.calls:
		return req
	case <-time.After(soon):
		a.t.Fatal("no recall")
		return nil
	}
}

// recalledAll returns what recalls have taken back once none is under way.
func (a *leaser) recalledAll() map[fsproto.Node]fsproto.Recalled {
	a.t.Helper()
	if !eventually(a.t, soon, a.idle) {
		a.t.Fatal("a recall is not answered")
	}
	all := make(map[fsproto.Node]fsproto.Recalled)
	for len(a.calls) > 0 {
		req := <-a.calls
		if req.All {
			a.t.Error("everything was recalled")
		}
		for _, r := range req.Nodes {
			old := all[r.Node]
			r.What |= old.What
			r.Names = slices.Compact(slices.Sorted(slices.Values(append(old.Names, r.Names...))))
			all[r.Node] = r
		}
	}
	return all
}

// idle reports whether no recall is under way.
func (a *leaser) idle() bool {
	a.e.leases.mu.Lock()
	defer a.e.leases.mu.Unlock()
	return !a.s.recalls.sending
}

// quiet fails if anything has been recalled.
func (a *leaser) quiet() {
	a.t.Helper()
	if got := a.recalledAll(); len(got) > 0 {
		a.t.Errorf("recalled: %+v", got)
	}
}

// holds reports whether the session has a lease on a node.
func (a *leaser) holds(num fsproto.Node) bool {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.e.leases.mu.Lock()
	defer a.e.leases.mu.Unlock()
	entry := a.s.numbers[num]
	return entry != nil && entry.r.num != 0
}

// leased looks names up and returns their nodes; on them and on the root there are
// leases then.
func (a *leaser) leased(paths ...string) []fsproto.Node {
	a.t.Helper()
	var nodes []fsproto.Node
	for _, path := range paths {
		en := a.lookup(path)
		if en.Attr.Lease == 0 || !a.holds(en.Node) || !a.holds(fsproto.RootNode) {
			a.t.Fatalf("no lease on %s", path)
		}
		nodes = append(nodes, en.Node)
	}
	return nodes
}

// begin runs f aside; the channel is closed when it has returned.
func begin(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

// waits fails if done is closed within a moment.
func waits(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
		t.Errorf("%s did not wait", what)
	case <-time.After(while):
	}
}

// ends fails unless done is closed soon.
func ends(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(soon):
		t.Fatalf("%s has not ended", what)
	}
}

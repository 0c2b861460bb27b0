package mount

import (
	"context"
	"sync"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// naming knows which calls are under way whose replies name nodes. Two of them
// may name one node, and the kernel may forget it after the reply to the later
// one is there but before the reply to the earlier one is: the stamp would cover
// both, and the daemon give up a node that the kernel is about to be told of. So
// a forget waits for the calls that were under way when it came.
type naming struct {
	mu  sync.Mutex
	now *generation
}

// generation is the calls that began between two waits.
type generation struct {
	calls int
	over  bool          // no more are added
	done  chan struct{} // closed when over and calls is 0
}

func newNaming() *naming { return &naming{now: newGeneration()} }

func newGeneration() *generation { return &generation{done: make(chan struct{})} }

// begin is called before such a call is made; what it returns, when the nodes of
// the reply are in the node table.
func (n *naming) begin() (end func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g := n.now
	g.calls++
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		g.calls--
		g.finish()
	}
}

// finish tells who waits, with naming.mu held.
func (g *generation) finish() {
	if g.over && g.calls == 0 {
		close(g.done)
	}
}

// wait returns when the calls that are under way have ended. One goroutine waits
// at a time.
func (n *naming) wait(ctx context.Context) error {
	n.mu.Lock()
	g := n.now
	n.now = newGeneration()
	g.over = true
	g.finish()
	n.mu.Unlock()
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sendForgets gives nodes up at the daemon, but for those that the kernel has
// been told of again. The kernel waits for no answer, so a failure is only
// logged: the nodes end with the session then.
func (fs *FS) sendForgets(ctx context.Context, nodes []fsproto.Forgotten) error {
	defer fs.backlog.end(len(nodes))
	if err := fs.naming.wait(ctx); err != nil {
		return err
	}
	if nodes = fs.nodes.gone(nodes); len(nodes) == 0 {
		return nil
	}
	return rpc.Call(ctx, fs.peer, fsproto.Forget, &fsproto.ForgetReq{Nodes: nodes}, &fsproto.Empty{})
}

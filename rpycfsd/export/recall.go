package export

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// recall is what a session is called back for about one node, until it has answered.
// It is guarded by leases.mu.
type recall struct {
	r        *ref
	what     fsproto.Recalled
	sent     bool
	finished bool
	done     chan struct{} // closed when it is finished; nil: nobody waits
}

// recaller calls one session back, with one call at a time. It is guarded by
// leases.mu.
type recaller struct {
	peer  *rpc.Peer // nil: the session gets no leases
	count int       // leases

	coldest, warmest *ref

	queue   []*recall
	batch   []*recall // on their way
	sending bool
	closed  bool
	fenced  chan struct{} // closed when the session knows that it has lost everything; nil: it has not
	ctx     context.Context
	cancel  context.CancelFunc
	sender  sync.WaitGroup
}

func (c *recaller) granting() bool { return c.peer != nil && c.fenced == nil && !c.closed }

// link puts r at the warm end of the session's list.
func (c *recaller) link(r *ref) {
	r.warmer, r.colder = nil, c.warmest
	if c.warmest != nil {
		c.warmest.warmer = r
	} else {
		c.coldest = r
	}
	c.warmest = r
}

func (c *recaller) unlink(r *ref) {
	if r.warmer != nil {
		r.warmer.colder = r.colder
	} else {
		c.warmest = r.colder
	}
	if r.colder != nil {
		r.colder.warmer = r.warmer
	} else {
		c.coldest = r.warmer
	}
	r.warmer, r.colder = nil, nil
}

// forgets is set in a daemon that is deliberately broken.
var forgets func() bool

// recall calls the session of r back, soon, and returns what is to be waited for; nil
// if there is nothing to. It ends the lease, except on a directory of which a name
// changes, and where only the right to delay changes is taken back. mu is held.
func (l *leases) recall(r *ref, what uint8, name string) *recall {
	c := &r.s.recalls
	if c.closed {
		return nil
	}
	if r.num == 0 {
		return r.recall // it was called back already, and has no lease since
	}
	if forgets != nil && forgets() {
		l.end(r)
		l.endDelay(r)
		return nil
	}
	w := r.recall
	if w == nil || w.sent {
		w = &recall{r: r, what: fsproto.Recalled{Node: r.num}}
		r.recall = w
		c.queue = append(c.queue, w)
	}
	w.what.Lease = l.clock
	w.what.What |= what
	switch {
	case name == "" || slices.Contains(w.what.Names, name):
	case w.what.What&fsproto.RecallNames == 0 && len(w.what.Names) < fsproto.MaxRecallName:
		w.what.Names = append(w.what.Names, name)
	default:
		w.what.What |= fsproto.RecallNames
	}
	if w.what.What&fsproto.RecallNames != 0 {
		w.what.Names = nil
		l.end(r)
	} else if !r.n.isDir() && w.what.What != fsproto.RecallWrite {
		l.end(r)
	}
	if !c.sending {
		c.sending = true
		c.sender.Go(r.s.sendRecalls)
	}
	return w
}

// finish ends a recall. mu is held.
func (w *recall) finish() {
	if w.finished {
		return
	}
	w.finished = true
	r := w.r
	r.s.e.leases.endDelay(r) // it was given before this began
	if r.recall == w {
		r.recall = nil
		r.n.unhold(r)
	}
	if w.done != nil {
		close(w.done)
	}
}

// await returns when all are answered, or their sessions fenced.
func (l *leases) await(ctx context.Context, waits []*recall) error {
	for _, w := range waits {
		l.mu.Lock()
		if w.finished {
			l.mu.Unlock()
			continue
		}
		if w.done == nil {
			w.done = make(chan struct{})
		}
		done := w.done
		l.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// sendRecalls makes the calls while there are any to make.
func (s *Session) sendRecalls() {
	c, l := &s.recalls, &s.e.leases
	for {
		req, peer := s.nextRecall()
		if req == nil {
			return
		}
		var err error
		if req.All { // until it is answered, or the session ends
			err = rpc.Call(c.ctx, peer, fsproto.Recall, req, &fsproto.Empty{})
		} else {
			err = callInTime(c.ctx, peer, req, l.within)
		}
		if req.All && err != nil && peer.Context().Err() != nil {
			return // the session is over, and nobody has answered: its calls are not to be served
		}
		l.mu.Lock()
		switch {
		case req.All && c.ctx.Err() == nil:
			if err != nil {
				s.log.Warn("the client refuses to be called back; it gets no leases from now on", "err", err)
				c.peer = nil
			}
			close(c.fenced)
			c.fenced = nil
		case err == nil:
			for _, w := range c.batch {
				w.finish()
			}
		case c.ctx.Err() == nil:
			s.log.Warn("the client does not answer; it has lost its leases", "err", err)
			l.fence(s)
		}
		c.batch = nil
		l.mu.Unlock()
	}
}

// errAway says that a session is not connected.
var errAway = errors.New("not connected")

// callInTime makes a call that counts as failed if it takes too long, or if the
// connection is not there or lost meanwhile.
func callInTime(ctx context.Context, peer *rpc.Peer, req *fsproto.RecallReq, within time.Duration) error {
	const step = 50 * time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, within, errors.New("no answer in time"))
	defer cancel()
	ctx, away := context.WithCancelCause(ctx)
	defer away(nil)
	var watch *time.Timer
	watch = time.AfterFunc(time.Hour, func() {
		if !peer.Connected() {
			away(errAway)
			return
		}
		watch.Reset(step)
	})
	defer watch.Stop()
	if !peer.Connected() {
		return errAway
	}
	watch.Reset(step)
	err := rpc.Call(ctx, peer, fsproto.Recall, req, &fsproto.Empty{})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// nextRecall takes what the next call is about; nil if there is nothing.
func (s *Session) nextRecall() (*fsproto.RecallReq, *rpc.Peer) {
	l, c := &s.e.leases, &s.recalls
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.fenced != nil && !c.closed {
		return &fsproto.RecallReq{All: true, Lease: l.clock}, c.peer
	}
	if len(c.queue) == 0 || c.closed {
		c.sending = false
		return nil, nil
	}
	req := &fsproto.RecallReq{}
	for size := 0; len(c.queue) > 0 && len(req.Nodes) < fsproto.MaxRecalls && size < recallBytes; c.queue = c.queue[1:] {
		w := c.queue[0]
		w.sent = true
		c.batch = append(c.batch, w)
		req.Nodes = append(req.Nodes, w.what)
		size += 32
		for _, name := range w.what.Names {
			size += len(name)
		}
	}
	return req, c.peer
}

// fence takes all leases of a session away. Nobody waits for it any longer; it is not
// served until it knows. mu is held.
func (l *leases) fence(s *Session) {
	c := &s.recalls
	if c.peer == nil || c.closed {
		return
	}
	l.clock++
	for c.coldest != nil {
		l.endDelay(c.coldest)
		l.end(c.coldest)
	}
	for _, w := range append(c.batch, c.queue...) {
		w.finish()
	}
	c.queue, c.batch = nil, nil
	if c.fenced == nil {
		c.fenced = make(chan struct{})
	}
	if !c.sending {
		c.sending = true
		c.sender.Go(s.sendRecalls)
	}
}

// fencedFrom returns what is closed when the session may be served again; nil if it
// may be now.
func (s *Session) fencedFrom() <-chan struct{} {
	s.e.leases.mu.Lock()
	defer s.e.leases.mu.Unlock()
	return s.recalls.fenced
}

// closeRecalls ends all that a session has of leases.
func (s *Session) closeRecalls() {
	l, c := &s.e.leases, &s.recalls
	l.mu.Lock()
	l.fence(s)
	c.closed = true
	delete(l.sessions, s)
	if c.cancel != nil {
		c.cancel()
	}
	if c.fenced != nil { // calls that wait for it learn that the session has ended
		close(c.fenced)
		c.fenced = nil
	}
	l.mu.Unlock()
	c.sender.Wait()
}

// leases begins to give the session leases.
func (s *Session) leases(r call, req *fsproto.LeasesReq, res *fsproto.LeasesRes) error {
	l, c := &s.e.leases, &s.recalls
	res.Events, res.Why = s.e.eventsBy()
	settings := uint64(setLeases)
	if req.Events {
		settings |= setEvents
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(settings)
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.peer == nil && !c.closed {
		l.admit(s, r.Peer)
	}
	s.notices.wanted = req.Events
	return nil
}

// admit makes a session one that gets leases. mu is held.
func (l *leases) admit(s *Session, peer *rpc.Peer) {
	c := &s.recalls
	c.peer = peer
	c.ctx, c.cancel = context.WithCancel(context.Background())
	l.sessions[s] = struct{}{}
}

// leaseContext ends with the session's leases.
func (s *Session) leaseContext() context.Context {
	s.e.leases.mu.Lock()
	defer s.e.leases.mu.Unlock()
	if s.recalls.ctx == nil {
		return context.Background()
	}
	return s.recalls.ctx
}

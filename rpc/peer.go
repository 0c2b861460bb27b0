// Package rpc is a symmetric, typed RPC layer: both sides serve methods, both
// sides call. It knows nothing of what the methods do.
//
// A Peer is one side of a session. The session outlives its connections: Serve
// runs one connection until it fails, and the calls that are unanswered then
// wait for the next one. Calls that change something occupy a slot and are
// executed exactly once however often they are sent.
//
// Locks, in order: Peer.mu, then link.mu or slotPool.mu; calleeSlots.mu and
// exports.mu are taken alone. No lock is held while a frame is written, a handler
// runs or a callback of Config is called.
package rpc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Config describes one side of a session. The zero value of each field but
// Root has a default.
type Config struct {
	// Root answers calls on the session itself; it may be nil.
	Root *Mux
	// Client is the side that dials, opens the control and bulk streams and
	// resumes.
	Client bool
	// CallSlots and ServeSlots are the slots for calls of this side and of the
	// other side. ReservedSlots of the CallSlots are kept for calls with
	// Extra.Reserved. Both sides agree on them when the session is made.
	CallSlots, ServeSlots, ReservedSlots uint32
	// MaxHandlers bounds the queries that run at once.
	MaxHandlers int
	// MaxExports bounds the references that the other side holds.
	MaxExports int
	// Share is where the memory of payloads is drawn from; nil is no bound.
	Share *Share
	// Slots remembers what happens in the slots, so that another process can go on with
	// the session; nil: nothing does. From is what it had remembered when this one began.
	Slots SlotLog
	From  Slots
	// Compress says when file data is compressed, where the other side knows it, too.
	Compress Compress
	// PingInterval is how often the other side is pinged, PingTimeout how long
	// nothing at all may arrive before the connection counts as lost.
	PingInterval, PingTimeout time.Duration
	// OnLogout is called, on the connection's reader, when the other side ends
	// the session.
	OnLogout func()
	// Log receives what goes wrong; nil discards.
	Log *slog.Logger
}

// Defaults of Config. Slots bound the changes in flight; the kernel's FUSE keeps
// at most 128 requests in flight by our setting.
const (
	DefaultSlots    = 144
	DefaultReserved = 16
)

func (c *Config) setDefaults() {
	def := func(v *uint32, d uint32) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.CallSlots, DefaultSlots)
	def(&c.ServeSlots, DefaultSlots)
	def(&c.ReservedSlots, min(DefaultReserved, c.CallSlots/4))
	if c.MaxHandlers == 0 {
		c.MaxHandlers = 256
	}
	if c.MaxExports == 0 {
		c.MaxExports = 16384
	}
	if c.PingInterval == 0 {
		c.PingInterval = 5 * time.Second
	}
	if c.PingTimeout == 0 {
		c.PingTimeout = 15 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Peer is one side of a session. Its methods are safe for concurrent use.
type Peer struct {
	cfg     Config
	builtin *Mux

	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc

	out      *callerSlots
	in       calleeSlots
	exports  exports
	handlers chan struct{}  // tokens of running queries
	work     chan *incoming // to an idle worker; nil sends it away
	idle     atomic.Int32   // workers that wait
	worked   atomic.Bool    // a worker was needed since the last ping
	running  tally          // handlers
	left     tally          // calls of this side that nobody waits for
	draining atomic.Bool

	rtt    atomic.Int64 // of the last ping, in nanoseconds
	turns  atomic.Uint32
	wanted chan struct{} // capacity 1
	counts opCounts

	sent, received compressed    // that was compressed
	sentPlain      atomic.Uint64 // messages of which too little was saved

	mu       sync.Mutex
	ended    error         // why the session ended; nil while it lives
	epoch    uint32        // of the newest connection
	conn     *conn         // newest connection, nil while there is none
	heard    int64         // when something last arrived on those before, by the clock
	changed  chan struct{} // closed when conn or its readiness changes; made by who waits
	calls    map[uint32]*call
	lastTag  uint32
	inFlight map[inFlightKey]context.CancelCauseFunc // handlers that can be cancelled
}

type inFlightKey struct {
	link *link
	tag  uint32
}

// NewPeer returns a peer without a connection. End must be called when it is no
// longer needed.
func NewPeer(cfg Config) *Peer {
	cfg.setDefaults()
	p := &Peer{
		cfg:      cfg,
		out:      newCallerSlots(cfg.CallSlots, cfg.ReservedSlots),
		handlers: make(chan struct{}, cfg.MaxHandlers),
		work:     make(chan *incoming),
		wanted:   make(chan struct{}, 1),
		calls:    make(map[uint32]*call),
		inFlight: make(map[inFlightKey]context.CancelCauseFunc),
		counts:   newOpCounts(),
	}
	p.in.max = cfg.ServeSlots
	p.exports.max = cfg.MaxExports
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	p.builtin = p.system()
	p.in.log = cfg.Slots
	p.restore(&cfg.From)
	return p
}

// tally counts what runs. Unlike a sync.WaitGroup it may rise from zero while
// somebody waits.
type tally struct {
	mu   sync.Mutex
	n    int
	zero chan struct{} // closed when n falls to zero; made by who waits
}

func (t *tally) add() {
	t.mu.Lock()
	t.n++
	t.mu.Unlock()
}

func (t *tally) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n--; t.n == 0 && t.zero != nil {
		close(t.zero)
		t.zero = nil
	}
}

// wait returns when nothing runs or ctx has ended.
func (t *tally) wait(ctx context.Context) error {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return nil
	}
	zero := ensure(&t.zero)
	t.mu.Unlock()
	select {
	case <-zero:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Context ends when the session ends; its cause tells why.
func (p *Peer) Context() context.Context { return p.ctx }

// Epoch returns the epoch of the newest connection, 0 before the first.
func (p *Peer) Epoch() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

// Connected reports whether a connection stands at this moment.
func (p *Peer) Connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn != nil
}

// Drop ends the connection that stands, if there is one; the session goes on.
func (p *Peer) Drop(cause error) {
	p.mu.Lock()
	c := p.conn
	p.mu.Unlock()
	if c != nil {
		c.close(cause)
	}
}

// Waiting returns how many calls have no answer yet.
func (p *Peer) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.calls)
}

// Wanted gets a value when a call is made while there is no connection.
func (p *Peer) Wanted() <-chan struct{} { return p.wanted }

// Turns counts how often calls could be sent and could not any more: it is odd while
// they can be. It costs one atomic load.
func (p *Peer) Turns() uint32 { return p.turns.Load() }

// RTT returns the round trip of the last ping, 0 before the first.
func (p *Peer) RTT() time.Duration { return time.Duration(p.rtt.Load()) }

// End ends the session: every call fails with ErrGone and cause, handlers are
// cancelled and waited for, exported objects are released. Only the first
// call's cause counts; all calls return when everything has ended.
func (p *Peer) End(cause error) {
	if cause == nil {
		cause = ErrGone
	}
	p.mu.Lock()
	if p.ended == nil {
		p.ended = cause
		p.stateChanged()
	}
	c := p.conn
	p.mu.Unlock()

	p.cancel(cause)
	if c != nil {
		c.close(cause)
		<-c.stopped
	}
	p.mu.Lock()
	for tag, call := range p.calls {
		delete(p.calls, tag)
		call.finish(errors.Join(ErrGone, cause))
	}
	p.mu.Unlock()
	p.running.wait(context.Background())
	p.left.wait(context.Background())
	p.exports.close()
}

// Drain stops taking in calls, waits until those that run have been answered,
// or ctx ends, and then closes the connection. The session stays. If there is no error
// nothing runs any more.
func (p *Peer) Drain(ctx context.Context) error {
	p.draining.Store(true)
	err := p.running.wait(ctx)
	p.mu.Lock()
	c := p.conn
	p.mu.Unlock()
	if c != nil {
		if err == nil {
			c.drain()
		}
		c.close(errors.New("shutting down"))
		<-c.stopped
	}
	if err == nil {
		err = p.running.wait(ctx) // for a call that was just being taken in
	}
	return err
}

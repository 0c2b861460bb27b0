package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Extra is what a call may carry beside its request.
type Extra struct {
	Object Ref    // whose method is called; 0: the session's root service
	Cred   uint32 // credential that the call is made with; 0: the session's own
	Data   []byte // payload of the request
	Into   []byte // where the payload of the reply goes
	// After names calls of this session that must have succeeded before this
	// one is executed; otherwise it fails with ECANCELED. At most MaxAfter.
	After []Dep
	// Bulk sends the call where payloads go: its reply may be so large that small calls
	// are not to wait behind it.
	Bulk bool
	// Reserved uses a slot that ordinary calls cannot exhaust. It is for the
	// calls that answering a callback needs.
	Reserved bool
	// Started is called with the call's own slot and sequence number before the
	// call is sent, for use in After. Slotted operations only.
	Started func(Dep)
	// Placed is the same when the call has its place on a stream: what is called later
	// with the same Stream comes behind it.
	Placed func(Dep)
	// Stream, if not 0, is a number of the caller's choice: the other side reads calls
	// with the same one in order, so that one which waits for another (After) never takes
	// the room that the other needs. See lane.
	Stream uint32
	// Left is called with the reply, a *Res, or the error of a call that failed with
	// ErrLeft, once it has ended.
	Left func(res any, err error)
}

// bulkSize is the payload from which a call goes on a bulk stream, in bytes.
const bulkSize = 32 << 10

// call is a call of this side until its reply is there. done and writing outlive
// a call in the pool: who has just left the gate may still look at it.
type call struct {
	done    chan struct{} // has room for one; sent by finish
	writing gate          // links that hold head and data
	callState
}

// callState is what a call is about. Fields below the empty line are guarded by
// Peer.mu.
type callState struct {
	head     *buffer // header, call fields, request
	data     []byte
	into     []byte
	deadline time.Time
	bulk     bool
	compress bool
	stream   uint32
	slotted  bool
	dep      Dep
	reserved bool
	codec    Codec

	tag      uint32
	link     *link // where it was sent; nil: nowhere, or the connection is lost
	sent     bool  // it was handed to a link at least once
	filling  bool  // the reader fills meta and into
	finished bool

	kind uint8
	meta *buffer
	n    int   // bytes of payload received
	err  error // the call failed on this side
}

var callPool = sync.Pool{New: func() any {
	return &call{done: make(chan struct{}, 1), writing: gate{zero: make(chan struct{}, 1)}}
}}

// gate counts who is inside, and lets one goroutine wait until nobody is.
type gate struct {
	n    atomic.Int32
	zero chan struct{} // has room for one
}

func (g *gate) enter() { g.n.Add(1) }

func (g *gate) leave() {
	if g.n.Add(-1) == 0 {
		select {
		case g.zero <- struct{}{}:
		default:
		}
	}
}

func (g *gate) wait() {
	for g.n.Load() != 0 {
		<-g.zero
	}
}

// Call calls op with req and waits for res. The error is an *Error if the other
// side failed; ErrGone if the session has ended; the context's cause if ctx
// ended. While a connection is lost the call waits for the next one. A call of
// a slotted operation that may have begun ends with its true reply even if ctx
// is done, as long as the connection stands; see also Leaver.
func Call[Req, Res any](ctx context.Context, p *Peer, op *Op[Req, Res], req *Req, res *Res) error {
	_, err := CallWith(ctx, p, op, req, res, Extra{})
	return err
}

// CallWith is Call with more than a request. It returns the number of bytes of
// the reply's payload. After it has returned, x.Data and x.Into are no longer
// touched.
func CallWith[Req, Res any](ctx context.Context, p *Peer, op *Op[Req, Res], req *Req, res *Res, x Extra) (n int, err error) {
	count := p.counts.of(&op.Info)
	start := count.begin()
	defer func() { count.end(start, err) }()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	c, err := p.prepare(ctx, &op.Info, &x)
	if err != nil {
		return 0, err
	}
	op.reqFields(&c.codec, req)
	c.head.b = c.codec.buf
	if err := c.seal(&op.Info, c.codec.finish()); err != nil {
		p.drop(c)
		return 0, err
	}
	if left, err := p.do(ctx, c, &x); err != nil {
		if left {
			leave(p, op, c, x.Left)
		}
		return 0, err
	}
	n = c.n
	err = c.failure()
	if err == nil {
		op.resFields(&c.codec, res)
		err = c.decoded()
	}
	c.recycle()
	return n, err
}

// prepare makes a call with its slot, and encodes what stands before the
// request. Until do takes over, drop undoes it.
func (p *Peer) prepare(ctx context.Context, op *Info, x *Extra) (*call, error) {
	if len(x.Data) > MaxPayload || len(x.Into) > MaxPayload || len(x.After) > MaxAfter ||
		len(x.Data) > 0 && !op.Has(CarriesData) || len(x.Into) > 0 && !op.Has(ReturnsData) {
		return nil, fmt.Errorf("%w: %s: payload or dependencies out of bounds", ErrBadRequest, op.Name)
	}
	c := callPool.Get().(*call)
	c.data, c.into, c.reserved = x.Data, x.Into, x.Reserved
	c.stream = x.Stream
	c.bulk = x.Bulk || len(x.Data) >= bulkSize || len(x.Into) >= bulkSize || c.stream != 0
	c.slotted, c.compress = op.Slotted(), op.Has(Compresses)
	f := callFields{object: x.Object, cred: x.Cred, nafter: uint8(len(x.After))}
	copy(f.after[:], x.After)
	if deadline, ok := ctx.Deadline(); ok {
		f.flags |= flagDeadline
		c.deadline = deadline
		f.millis = remaining(deadline)
	}
	if len(x.After) > 0 {
		f.flags |= flagAfter
	}
	if x.Object != 0 {
		f.flags |= flagObject
	}
	if x.Cred != 0 {
		f.flags |= flagCred
	}
	if c.slotted {
		f.flags |= flagSlot
		dep, err := p.out.acquire(ctx, p.ctx.Done(), c.reserved)
		if err != nil {
			c.recycle()
			return nil, err
		}
		c.dep, f.dep = dep, dep
	}
	c.head = newBuffer(headerSize)
	c.head.b[15] = f.flags
	c.codec = Codec{buf: c.head.b}
	f.fields(&c.codec)
	return c, nil
}

// seal completes the header once the request has been encoded.
func (c *call) seal(op *Info, err error) error {
	if err == nil && len(c.head.b)-headerSize > MaxRequest {
		err = ErrTooLong
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBadRequest, op.Name, err)
	}
	putHeader(c.head.b, kindCall, c.head.b[15], op.Number, 0, len(c.head.b)-headerSize, len(c.data))
	return nil
}

// drop gives up a call that was never started.
func (p *Peer) drop(c *call) {
	if c.slotted {
		p.out.release(c.dep, c.reserved)
	}
	c.recycle()
}

// do starts the call and waits for its end. After an error the call is gone, or,
// if left is set, goes on in its slot.
func (p *Peer) do(ctx context.Context, c *call, x *Extra) (left bool, err error) {
	if x.Started != nil && c.slotted {
		x.Started(c.dep)
	}
	if err := p.start(c); err != nil {
		p.drop(c)
		return false, err
	}
	if x.Placed != nil && c.slotted {
		x.Placed(c.dep)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if left, err := p.abandon(ctx, c); err != nil {
			return left, err
		}
	}
	return false, p.settle(c)
}

// settle takes a call that has ended out of its slot. After an error it is gone.
func (p *Peer) settle(c *call) error {
	c.writing.wait()
	if c.slotted {
		p.out.release(c.dep, c.reserved)
	}
	if c.err != nil {
		err := c.err
		c.recycle()
		return err
	}
	return nil
}

// leave waits for the end of a call that nobody waits for any more, and tells after.
func leave[Req, Res any](p *Peer, op *Op[Req, Res], c *call, after func(any, error)) {
	p.left.add()
	go func() {
		defer p.left.done()
		<-c.done
		res := new(Res)
		err := p.settle(c)
		if err == nil {
			if err = c.failure(); err == nil {
				op.resFields(&c.codec, res)
				err = c.decoded()
			}
			c.recycle()
		}
		if after != nil {
			after(res, err)
		}
	}()
}

// start registers the call and sends it if there is a connection.
func (p *Peer) start(c *call) error {
	p.mu.Lock()
	if p.ended != nil {
		p.mu.Unlock()
		return fmt.Errorf("%w: %w", ErrGone, p.ended)
	}
	for {
		p.lastTag++
		if _, taken := p.calls[p.lastTag]; !taken {
			break
		}
	}
	c.tag = p.lastTag
	putTag(c.head.b, c.tag)
	p.calls[c.tag] = c
	l, connected := p.assign(c), p.connected()
	p.mu.Unlock()
	if l != nil {
		l.send(c.frame())
	} else if !connected {
		select {
		case p.wanted <- struct{}{}:
		default:
		}
	}
	return nil
}

// connected reports whether calls can be sent. p.mu is held.
func (p *Peer) connected() bool { return p.conn != nil && p.conn.ready }

func putTag(head []byte, tag uint32) { binary.LittleEndian.PutUint32(head[8:], tag) }

// assign picks the link for c and marks it as sent there; nil: it has to wait. p.mu is
// held.
func (p *Peer) assign(c *call) *link {
	if !p.connected() {
		return nil
	}
	l := p.conn.place(c, p.cfg.Client)
	if l == nil {
		return nil
	}
	if c.slotted && !c.sent {
		p.out.commit(c.dep)
		if p.cfg.Slots != nil {
			p.cfg.Slots.Sent(c.dep)
		}
	}
	c.link, c.sent = l, true
	c.writing.enter()
	return l
}

// lanes is how many streams of calls are told apart: those with the same remainder share a
// lane.
const lanes = 64

// lane is where calls of a stream go. While one of them has no answer the others follow
// it. If there is a better link by now, because connections have joined, they wait until
// there is none on the old one.
type lane struct {
	link *link
	n    int  // calls without an answer
	held bool // others wait for these
}

// place returns the link for a call, nil if it has to wait. The peer's mu is held.
func (c *conn) place(call *call, client bool) *link {
	if call.stream == 0 {
		return c.pick(client, call.bulk, 0)
	}
	a, to := &c.lanes[call.stream%lanes], c.pick(client, call.bulk, 1+call.stream%lanes)
	if a.n > 0 && a.link != to {
		a.held = true
	}
	if a.held {
		return nil
	}
	a.link = to
	a.n++
	return to
}

// remove takes a call out of the table that has its answer, or is given up. p.mu is held.
func (p *Peer) remove(c *call) {
	delete(p.calls, c.tag)
	if c.stream == 0 || c.link == nil {
		return
	}
	a := &c.link.conn.lanes[c.stream%lanes]
	if a.n--; a.n == 0 && a.held {
		a.held = false
		p.sendWaiting(func(w *call) bool { return w.stream != 0 && w.stream%lanes == c.stream%lanes })
	}
}

// pick returns the link for a call. The peer's mu is held. A joined connection
// has no multiplexer, whose goroutines cost a small call more than its own
// handling does: the first one carries the small calls, the others payloads.
func (c *conn) pick(client, bulk bool, stream uint32) *link {
	n := len(c.extra)
	switch {
	case !client:
		return c.links[RoleCallback]
	case !bulk && n > 0:
		return c.extra[0]
	case !bulk:
		return c.links[RoleControl]
	case n > 1 && stream != 0:
		return c.extra[1+int(stream)%(n-1)]
	case n > 1:
		return c.extra[1+int(c.turn.Add(1))%(n-1)]
	case c.links[RoleBulk] == nil:
		c.openBulk()
		return c.links[RoleControl]
	}
	return c.links[RoleBulk]
}

func (c *call) frame() frame {
	return frame{head: c.head.b, data: c.data, owner: c, compress: c.compress}
}

// written tells that a link no longer holds head and data.
func (c *call) written() { c.writing.leave() }

// resend sends the calls that no connection has answered on the new one.
func (p *Peer) resend(n *conn) {
	p.mu.Lock()
	n.ready = true
	p.turns.Add(1)
	p.stateChanged()
	p.sendWaiting(func(*call) bool { return true })
	p.mu.Unlock()
}

// sendWaiting sends those calls that are on no link, in the order in which they were made
// and before any that comes later. p.mu is held.
func (p *Peer) sendWaiting(these func(*call) bool) {
	var waiting []*call
	for _, c := range p.calls {
		if c.link == nil && these(c) {
			waiting = append(waiting, c)
		}
	}
	slices.SortFunc(waiting, func(a, b *call) int { return int(int32(a.tag - b.tag)) })
	for _, c := range waiting {
		if !c.deadline.IsZero() {
			binary.LittleEndian.PutUint32(c.head.b[headerSize:], remaining(c.deadline))
		}
		if l := p.assign(c); l != nil {
			l.post(c.frame())
		}
	}
}

// Leaver is a context that also tells when a call is to be left and not only given
// up. Once Left is closed, which may be after the context has ended, the connection
// is not waited for: a call that may have begun goes on in its slot, and a
// connection that is in the middle of the call's data is closed. Extra.Left is told
// of the end of such a call.
type Leaver interface {
	context.Context
	Left() <-chan struct{}
}

// Leaving returns a context under which calls are left as soon as ctx ends.
func Leaving(ctx context.Context) context.Context { return leaving{ctx} }

type leaving struct{ context.Context }

func (l leaving) Left() <-chan struct{} { return l.Done() }

// ErrLeft says that a call goes on, and that Extra.Left will be told of its end.
var ErrLeft = errors.New("the call is left to itself")

// errLeft is why a connection ends that holds the data of a call that was left.
var errLeft = errors.New("rpc: a call was left in the middle of its data")

// leaveLimit is how long a connection may take to let go of a call's data.
const leaveLimit = 10 * time.Millisecond

// abandon ends the waiting for c because ctx has ended. err is nil if the true
// reply has come after all. A slotted call that may have begun goes on in its
// slot: while its connection stands its reply is awaited, unless ctx is a Leaver
// that leaves it; otherwise it is left to itself with a copy of its data.
func (p *Peer) abandon(ctx context.Context, c *call) (left bool, err error) {
	var leave <-chan struct{}
	if l, ok := ctx.(Leaver); ok {
		leave = l.Left()
	}
	var told *link
	for leaving := false; ; {
		p.mu.Lock()
		if c.finished {
			p.mu.Unlock()
			<-c.done
			return false, nil
		}
		l, begun, filling := c.link, c.slotted && c.sent, c.filling
		forget := !begun && !filling
		left := begun && !filling && (l == nil || leaving)
		if forget {
			p.remove(c)
		}
		held := len(c.data) > 0
		if left {
			c.data = slices.Clone(c.data)
		}
		p.mu.Unlock()

		if l != nil && l != told {
			l.post(frame{head: control(kindCancel, c.tag)})
			told = l
		}
		if forget && c.slotted {
			p.out.release(c.dep, c.reserved)
		}
		if forget || left {
			// Nobody reuses head, but data is the caller's.
			if held {
				c.awaitWritten(l, leave, leaving)
			}
			if left {
				return true, fmt.Errorf("%w: %w", ErrLeft, context.Cause(ctx))
			}
			return false, context.Cause(ctx)
		}
		var late <-chan time.Time
		if leaving {
			late = time.After(leaveLimit)
		}
		select {
		case <-c.done:
			return false, nil
		case <-l.conn.stopped:
		case <-leave:
			leaving, leave = true, nil
		case <-late:
			l.conn.close(errLeft)
			<-l.conn.stopped
		}
	}
}

// awaitWritten waits until no link holds the data any more. From when the call is
// left, l has leaveLimit for it.
func (c *call) awaitWritten(l *link, leave <-chan struct{}, leaving bool) {
	written := make(chan struct{})
	go func() {
		c.writing.wait()
		close(written)
	}()
	if !leaving {
		select {
		case <-written:
			return
		case <-leave:
		}
	}
	select {
	case <-written:
		return
	case <-time.After(leaveLimit):
	}
	if l != nil {
		l.conn.close(errLeft)
	}
	<-written
}

// finish ends the call with err, or with the reply that has been filled in.
// Peer.mu is held.
func (c *call) finish(err error) {
	c.finished, c.filling = true, false
	c.err = err
	c.done <- struct{}{}
}

// failure returns the error that came in place of a reply, or nil with the
// codec ready to decode the reply.
func (c *call) failure() error {
	c.codec = Codec{buf: c.meta.b, decoding: true}
	if c.kind == kindReply {
		return nil
	}
	e := new(Error)
	e.fields(&c.codec)
	e.Detail = slices.Clone(e.Detail)
	if err := c.codec.finish(); err != nil {
		return fmt.Errorf("%w: error reply: %w", ErrBadRequest, err)
	}
	return e
}

// decoded checks the end of a reply. What its slices refer to belongs to the
// caller from here on.
func (c *call) decoded() error {
	if c.codec.aliased {
		c.meta = nil
	}
	if err := c.codec.finish(); err != nil {
		return fmt.Errorf("%w: reply: %w", ErrBadRequest, err)
	}
	return nil
}

// recycle returns a finished or unstarted call to the pool.
func (c *call) recycle() {
	c.head.free()
	c.meta.free()
	c.callState = callState{}
	callPool.Put(c)
}

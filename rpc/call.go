package rpc

import (
	"context"
	"encoding/binary"
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
	// Reserved uses a slot that ordinary calls cannot exhaust. It is for the
	// calls that answering a callback needs.
	Reserved bool
	// Started is called with the call's own slot and sequence number before the
	// call is sent, for use in After. Slotted operations only.
	Started func(Dep)
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
	slotted  bool
	dep      Dep
	reserved bool
	codec    Codec

	tag      uint32
	link     *link // where it was sent; nil: nowhere, or the connection is lost
	sent     bool  // it was handed to a link at least once
	filling  bool  // the reader fills meta and into
	awaited  bool  // somebody waits for filling to end
	finished bool
	detached bool // nobody waits for the result

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
// is done, as long as the connection stands.
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
	if err := p.do(ctx, c, &x); err != nil {
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
	c.bulk = len(x.Data) >= bulkSize || len(x.Into) >= bulkSize
	c.slotted = op.Slotted()
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

// do starts the call and waits for its end. After an error the call is gone.
func (p *Peer) do(ctx context.Context, c *call, x *Extra) error {
	if x.Started != nil && c.slotted {
		x.Started(c.dep)
	}
	if err := p.start(c); err != nil {
		p.drop(c)
		return err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if err := p.abandon(ctx, c); err != nil {
			return err
		}
	}
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
	l := p.assign(c)
	p.mu.Unlock()
	if l != nil {
		l.send(c.frame())
	}
	return nil
}

func putTag(head []byte, tag uint32) { binary.LittleEndian.PutUint32(head[8:], tag) }

// assign picks the link for c and marks it as sent there. p.mu is held.
func (p *Peer) assign(c *call) *link {
	if p.conn == nil || !p.conn.ready {
		return nil
	}
	l := p.conn.pick(p.cfg.Client, c.bulk)
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

// pick returns the link for a call. The peer's mu is held. A joined connection
// has no multiplexer, whose goroutines cost a small call more than its own
// handling does: the first one carries the small calls, the others payloads.
func (c *conn) pick(client, bulk bool) *link {
	n := len(c.extra)
	switch {
	case !client:
		return c.links[RoleCallback]
	case !bulk && n > 0:
		return c.extra[0]
	case !bulk:
		return c.links[RoleControl]
	case n > 1:
		return c.extra[1+int(c.turn.Add(1))%(n-1)]
	case c.links[RoleBulk] == nil:
		c.openBulk()
		return c.links[RoleControl]
	}
	return c.links[RoleBulk]
}

func (c *call) frame() frame {
	return frame{head: c.head.b, data: c.data, owner: c}
}

// written tells that a link no longer holds head and data.
func (c *call) written() { c.writing.leave() }

// resend sends the calls that no connection has answered on the new one.
func (p *Peer) resend(n *conn) {
	p.mu.Lock()
	n.ready = true
	p.stateChanged()
	var waiting []*call
	for _, c := range p.calls {
		if c.link == nil {
			waiting = append(waiting, c)
		}
	}
	slices.SortFunc(waiting, func(a, b *call) int { return int(int32(a.tag - b.tag)) })
	links := make([]*link, len(waiting))
	for i, c := range waiting {
		if !c.deadline.IsZero() {
			binary.LittleEndian.PutUint32(c.head.b[headerSize:], remaining(c.deadline))
		}
		links[i] = p.assign(c)
	}
	p.mu.Unlock()
	for i, c := range waiting {
		links[i].send(c.frame())
	}
}

// abandon ends the waiting for c because ctx has ended. It returns nil if the
// true reply has come after all. A slotted call that may have begun goes on in
// its slot: while its connection stands, its reply is awaited; when it is lost,
// the call is left to itself with a copy of its data.
func (p *Peer) abandon(ctx context.Context, c *call) error {
	for {
		p.mu.Lock()
		for c.filling {
			c.awaited = true
			p.filled.Wait()
		}
		if c.finished {
			p.mu.Unlock()
			<-c.done
			return nil
		}
		l, begun := c.link, c.slotted && c.sent
		switch {
		case !begun:
			delete(p.calls, c.tag)
		case l == nil:
			c.detached = true
			c.data = slices.Clone(c.data)
		}
		p.mu.Unlock()

		if l != nil {
			l.send(frame{head: control(kindCancel, c.tag)})
		}
		if !begun && c.slotted {
			p.out.release(c.dep, c.reserved)
		}
		if !begun || l == nil {
			// Nobody reuses head, but data is the caller's.
			if len(c.data) > 0 {
				c.writing.wait()
			}
			return context.Cause(ctx)
		}
		select {
		case <-c.done:
			return nil
		case <-l.conn.stopped:
		}
	}
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

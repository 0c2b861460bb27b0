package rpc

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"time"
)

// read takes frames from the link until it fails. It returns why. It waits for
// a header without a buffer, and borrows one for what follows.
func (l *link) read() error {
	var raw [headerSize]byte
	compression := &l.conn.compression
	for {
		if l.r == nil || l.r.Buffered() == 0 {
			l.idleReader()
			l.kick()
			if _, err := io.ReadFull(l.rw, raw[:]); err != nil {
				return err
			}
			l.r = readerPool.Get().(*bufio.Reader)
			l.r.Reset(l.rw)
		} else if _, err := io.ReadFull(l.r, raw[:]); err != nil {
			return err
		}
		h, err := parseHeader(raw[:], compression.how != CompressOff)
		if err == nil && h.compressed {
			if _, err = io.ReadFull(l.r, raw[:rawSize]); err == nil {
				err = h.parseRaw(raw[:])
			}
		}
		if err != nil {
			return err
		}
		compression.told(&h)
		switch h.kind {
		case kindCall:
			l.keepUp()
			err = l.takeCall(&h)
		case kindReply, kindError:
			err = l.takeReply(&h)
		case kindCancel:
			l.peer.cancelHandler(l, h.tag)
		case kindPing:
			l.keepUp()
			l.queueFrame(frame{head: control(kindPong, h.tag)})
		case kindPong:
			l.pong()
		}
		if err != nil {
			return err
		}
	}
}

// takeReply reads a reply into the call that it belongs to. A reply to a call
// that nobody waits for is dropped.
func (l *link) takeReply(h *header) error {
	p := l.peer
	p.mu.Lock()
	c := p.calls[h.tag]
	if c == nil || c.link != l {
		p.mu.Unlock()
		return discard(l.r, int(h.meta)+h.payload())
	}
	size := h.payloadSize()
	if size > len(c.into) || h.compressed && !c.compress {
		p.mu.Unlock()
		return fmt.Errorf("%w: payload of %d bytes where %d fit, compressed: %t", errProtocol, size, len(c.into), h.compressed)
	}
	c.filling = true
	p.mu.Unlock()

	meta := newBuffer(h.metaSize())
	var err error
	switch {
	case !h.compressed:
		if err = l.fill(meta.b); err == nil {
			err = l.fill(c.into[:size])
		}
	case size == 0:
		err = l.expand(meta.b, int(h.meta))
	default:
		if err = l.fill(meta.b); err == nil {
			err = l.expand(c.into[:size], h.payload())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		c.filling = false // to be sent again
		return err
	}
	c.kind, c.meta, c.n = h.kind, meta, size
	p.remove(c)
	c.finish(nil) // from here on the call is its caller's
	return nil
}

// incoming is a call of the other side while this side handles it.
type incoming struct {
	link   *link
	tag    uint32
	method method
	fields callFields
	meta   *buffer // call fields and request
	start  int     // where the request begins in meta
	data   *buffer
	held   int  // bytes drawn from the share
	drawn  int  // bytes drawn from it for a large reply
	inline bool // handled on the reader, which writes the reply when it is idle
	ctx    context.Context
	cancel func()
	r      Request
	enc    Codec
}

func (in *incoming) slotted() bool { return in.fields.flags&flagSlot != 0 }

// takeCall reads a call and sees to it that it is answered once. Only a breach
// of the framing is an error; anything else is answered with one.
func (l *link) takeCall(h *header) error {
	p := l.peer
	if p.draining.Load() {
		<-l.conn.closed
		return l.conn.cause
	}
	in := &incoming{link: l, tag: h.tag, held: int(h.meta) + h.payloadSize()}
	if h.compressed {
		in.held += h.payload()
	}
	if err := p.cfg.Share.acquire(l.conn.context(), in.held); err != nil {
		return err
	}
	in.meta = newBuffer(int(h.meta))
	if _, err := io.ReadFull(l.r, in.meta.b); err != nil {
		p.discharge(in)
		return err
	}
	refusal := p.parse(in, h)
	if refusal == nil {
		if err := l.takeData(in, h); err != nil {
			p.discharge(in)
			return err
		}
		return p.dispatch(in)
	}
	err := discard(l.r, h.payload())
	if err == nil {
		p.refuse(in, refusal)
	}
	p.discharge(in)
	return err
}

// takeData reads the payload of a call.
func (l *link) takeData(in *incoming, h *header) error {
	in.data = newBuffer(h.payloadSize())
	if !h.compressed {
		return l.fill(in.data.b)
	}
	err := l.expand(in.data.b, h.payload())
	in.held -= h.payload()
	l.peer.cfg.Share.release(h.payload())
	return err
}

// refuse answers a call that is not executed. The slot that it names is used up
// all the same, as the caller counts it; and if the call was executed before, it
// is answered as then: a call may itself have revoked the reference that it was
// made through.
func (p *Peer) refuse(in *incoming, refusal error) {
	l, d := in.link, in.fields.dep
	kind, meta := kindError, p.errorMeta(in, refusal)
	if in.start > 0 && in.slotted() { // the call fields could be read
		execute, again, replay, err := p.in.begin(d, l, in.tag)
		switch {
		case execute:
			p.in.end(d, kind, meta)
		case err != nil:
			meta = p.errorMeta(in, err)
		case again == 0:
			return // it still runs, and will be answered here
		default:
			kind, meta = again, replay
		}
	}
	l.queueFrame(frame{head: metaFrame(kind, in.tag, meta)})
}

// parse decodes the call fields and finds the method.
func (p *Peer) parse(in *incoming, h *header) error {
	dec := Codec{buf: in.meta.b, decoding: true}
	in.fields.flags = h.flags
	in.fields.fields(&dec)
	if dec.err != nil {
		return fmt.Errorf("%w: call fields: %w", ErrBadRequest, dec.err)
	}
	in.start = dec.off
	mux := p.cfg.Root
	if in.fields.object != 0 {
		if mux = p.exports.mux(in.fields.object); mux == nil {
			return ErrNoReference
		}
	} else if p.builtin.Handles(h.method) {
		mux = p.builtin
	}
	if mux != nil {
		in.method = mux.method(h.method)
	}
	switch m := in.method; {
	case m.info == nil:
		return ErrNoMethod
	case h.payload() > 0 && !m.info.Has(CarriesData):
		return fmt.Errorf("%w: %s takes no payload", ErrBadRequest, m.info.Name)
	case h.compressed && !m.info.Has(Compresses):
		return fmt.Errorf("%w: %s takes no compressed payload", ErrBadRequest, m.info.Name)
	case m.info.Slotted() != in.slotted():
		return fmt.Errorf("%w: %s with the wrong kind of slot", ErrBadRequest, m.info.Name)
	}
	return nil
}

// dispatch claims the slot and runs the handler, here or in a goroutine.
func (p *Peer) dispatch(in *incoming) error {
	l := in.link
	if in.slotted() {
		execute, kind, replay, err := p.in.begin(in.fields.dep, l, in.tag)
		if !execute {
			if err != nil {
				kind, replay = kindError, p.errorMeta(in, err)
			}
			if kind != 0 {
				l.queueFrame(frame{head: metaFrame(kind, in.tag, replay)})
			}
			p.discharge(in)
			return nil
		}
	}
	p.running.add()
	if in.method.info.Has(Quick) && in.fields.nafter == 0 {
		in.inline = true
		p.handle(p.ctx, in)
		return nil
	}
	if !in.slotted() {
		select {
		case p.handlers <- struct{}{}:
		case <-l.conn.closed:
			p.running.done()
			p.discharge(in)
			return l.conn.cause
		}
	}
	in.ctx, in.cancel = p.handlerContext(in) // before a cancel frame can follow
	if !p.worked.Load() {
		p.worked.Store(true)
	}
	select {
	case p.work <- in:
	default:
		go p.worker(in)
	}
	return nil
}

// maxIdleWorkers bounds the goroutines that wait for the next call. They are
// kept because their stacks have grown to what handlers need, until no call has
// come for a while.
const maxIdleWorkers = 8

// dismiss lets the idle workers go.
func (p *Peer) dismiss() {
	for {
		select {
		case p.work <- nil:
		default:
			return
		}
	}
}

// worker handles in and the calls that come while it would be idle.
func (p *Peer) worker(in *incoming) {
	for {
		p.handle(in.ctx, in)
		in.cancel()
		if !in.slotted() {
			<-p.handlers
		}
		if p.idle.Add(1) > maxIdleWorkers {
			p.idle.Add(-1)
			return
		}
		select {
		case in = <-p.work:
			p.idle.Add(-1)
			if in == nil {
				return
			}
		case <-p.ctx.Done():
			return
		}
	}
}

// handlerContext returns a context that ends with the session, the deadline, a
// cancel frame and, for queries, the connection.
func (p *Peer) handlerContext(in *incoming) (context.Context, func()) {
	parent := p.ctx
	if !in.slotted() {
		parent = in.link.conn.context()
	}
	ctx, cancel := context.WithCancelCause(parent)
	stop := func() bool { return true }
	if in.fields.flags&flagDeadline != 0 {
		t := time.AfterFunc(time.Duration(in.fields.millis)*time.Millisecond, func() { cancel(context.DeadlineExceeded) })
		stop = t.Stop
	}
	if in.slotted() {
		p.in.setCancel(in.fields.dep, cancel)
		return ctx, func() {
			stop()
			cancel(nil)
		}
	}
	key := inFlightKey{in.link, in.tag}
	p.mu.Lock()
	p.inFlight[key] = cancel
	p.mu.Unlock()
	return ctx, func() {
		p.mu.Lock()
		delete(p.inFlight, key)
		p.mu.Unlock()
		stop()
		cancel(nil)
	}
}

func (p *Peer) cancelHandler(l *link, tag uint32) {
	p.mu.Lock()
	cancel := p.inFlight[inFlightKey{l, tag}]
	p.mu.Unlock()
	if cancel == nil {
		cancel = p.in.canceller(l, tag)
	}
	if cancel != nil {
		cancel(context.Canceled)
	}
}

// handle runs the handler and answers.
func (p *Peer) handle(ctx context.Context, in *incoming) {
	defer p.running.done()
	r := &in.r
	*r = Request{Peer: p, Op: in.method.info, Cred: in.fields.cred, Data: in.data.b, Slot: in.fields.dep, ctx: ctx}
	if in.slotted() && p.cfg.Slots != nil {
		if r.Again, r.Noted = p.in.again(r.Slot); !r.Again {
			r.Noted = nil
		}
	}
	reply := newBuffer(headerSize)
	meta, err := p.invoke(ctx, in, r, reply)
	if err == nil && in.slotted() && len(meta) > MaxSlotReply {
		err = fmt.Errorf("reply of %d bytes does not fit a slot", len(meta))
	}
	if err != nil && p.ctx.Err() != nil {
		err = ErrGone
	}
	if err == nil && len(meta) > MaxSlotReply && !in.inline {
		p.draw(in, len(meta))
	}
	if !in.slotted() && in.link.conn.ctx.Err() != nil {
		// What ended the handler is that its connection ended. Whoever asked
		// asks again on the next one and must not see that.
		r.drop()
		reply.free()
		p.cfg.Share.release(in.drawn)
		p.discharge(in)
		return
	}
	p.counts.of(in.method.info).serve(err)
	kind := kindReply
	if err != nil {
		kind, meta = kindError, p.errorMeta(in, err)
		r.drop()
	}
	p.answer(in, r, kind, meta, reply)
	p.discharge(in)
}

// draw makes a large reply part of the peer's share until it is written, in
// place of the request. It waits until there is room or the connection ends.
func (p *Peer) draw(in *incoming, n int) {
	p.discharge(in)
	in.meta, in.data, in.held = nil, nil, 0
	if n = p.cfg.Share.most(n); p.cfg.Share.acquire(in.link.conn.ctx, n) == nil {
		in.drawn = n
	}
}

// drawnReply is a reply that is part of a share until it is written.
type drawnReply struct {
	*buffer
	share *Share
	n     int
}

func (d *drawnReply) written() {
	d.free()
	d.share.release(d.n)
}

// invoke waits for what the call depends on and runs the handler, which appends
// its reply to the buffer behind room for a header. A panic is an error of this
// call alone.
func (p *Peer) invoke(ctx context.Context, in *incoming, r *Request, reply *buffer) (meta []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			p.cfg.Log.Error("handler panicked", "op", r.Op.Name, "panic", v, "stack", string(debug.Stack()))
			err = ErrInternal
		}
	}()
	if in.fields.nafter > 0 {
		if err := p.in.await(ctx, in.fields.after[:in.fields.nafter]); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if in.fields.flags&flagDeadline != 0 && in.fields.millis == 0 {
		return nil, context.DeadlineExceeded
	}
	in.enc = Codec{buf: reply.b}
	if err := in.method.run(ctx, r, in.meta.b[in.start:], &in.enc); err != nil {
		return nil, err
	}
	reply.b = in.enc.buf
	if n := len(reply.b) - headerSize; n > MaxReply || r.out != nil && n > headroom-headerSize {
		return nil, fmt.Errorf("reply of %d bytes", len(reply.b)-headerSize)
	}
	return reply.b[headerSize:], nil
}

// answer sends the reply, on the link that asked last if the call has a slot.
func (p *Peer) answer(in *incoming, r *Request, kind uint8, meta []byte, reply *buffer) {
	l, tag := in.link, in.tag
	if in.slotted() {
		l, tag = p.in.end(in.fields.dep, kind, meta)
	}
	f := frame{owner: reply}
	switch {
	case kind == kindError:
		f.head = errorFrame(tag, meta) // and reply is freed with it
	case r.out != nil:
		f = r.payloadFrame(tag, meta)
		reply.free()
	default:
		f.head = reply.b
		if in.drawn > 0 {
			f.owner = &drawnReply{reply, p.cfg.Share, in.drawn}
		}
		putHeader(f.head, kindReply, 0, 0, tag, len(meta), 0)
	}
	f.compress = kind == kindReply && in.method.info.Has(Compresses)
	if in.inline && l == in.link {
		l.queueFrame(f)
	} else {
		l.send(f)
	}
}

// payloadFrame puts header and meta right before the payload, in its headroom.
func (r *Request) payloadFrame(tag uint32, meta []byte) frame {
	start := headroom - headerSize - len(meta)
	head := r.out.b[start : headroom+r.n]
	putHeader(head, kindReply, 0, 0, tag, len(meta), r.n)
	copy(head[headerSize:], meta)
	return frame{head: head, owner: r}
}

// written gives back a reply's payload.
func (r *Request) written() { r.drop() }

// errorMeta encodes err, and logs what does not cross the wire.
func (p *Peer) errorMeta(in *incoming, err error) []byte {
	e := Error{Code: CodeOf(err)}
	var own *Error
	if errors.As(err, &own) {
		e.Detail = own.Detail[:min(len(own.Detail), MaxErrorDetail)]
	}
	name := "?"
	if in.method.info != nil {
		name = in.method.info.Name
	}
	if e.Code == CodeInternal {
		var b [8]byte
		rand.Read(b[:])
		e.ID = binary.LittleEndian.Uint64(b[:])
		p.cfg.Log.Error("call failed", "op", name, "err", err, "error_id", fmt.Sprintf("%016x", e.ID))
	} else {
		p.cfg.Log.Debug("call refused", "op", name, "err", err)
	}
	c := Codec{}
	e.fields(&c)
	return c.buf
}

func errorFrame(tag uint32, meta []byte) []byte { return metaFrame(kindError, tag, meta) }

// metaFrame returns a frame without payload.
func metaFrame(kind uint8, tag uint32, meta []byte) []byte {
	b := slices.Grow(make([]byte, headerSize), len(meta))
	putHeader(b, kind, 0, 0, tag, len(meta), 0)
	return append(b, meta...)
}

// discharge gives back what the call held.
func (p *Peer) discharge(in *incoming) {
	in.meta.free()
	in.data.free()
	p.cfg.Share.release(in.held)
}

package rpc

import (
	"context"
	"fmt"
	"slices"
)

// Mux is the set of methods of one object: a session's root service, or an
// object exported with Peer.Export. It is filled before it is used and then
// only read.
type Mux struct {
	methods []method // by number
}

// method is an operation with its handler. There is one per operation and
// object, so it is small: how the handler is called belongs to the operation.
type method struct {
	info    *Info
	handler any // func(context.Context, *Request, *Req, *Res) error
}

func (m method) run(ctx context.Context, r *Request, meta []byte, reply *Codec) error {
	return m.info.invoke(m.handler, ctx, r, meta, reply)
}

// Request is a call as its handler sees it. It is valid until the handler
// returns.
type Request struct {
	Peer *Peer  // who called
	Op   *Info  // the operation
	Cred uint32 // the credential that the caller named; 0 is the session's own
	Data []byte // payload of the request; reused after the handler has returned

	// Slot is the call's, if its operation takes one. Again tells that the call may have
	// been executed already, in part or whole, by a process that has not answered it, and
	// Noted is what the handler has noted there.
	Slot  Dep
	Again bool
	Noted []byte

	ctx  context.Context
	out  *buffer // reply payload, behind headroom for the frame
	n    int     // bytes of it in use
	held int     // bytes drawn from the share for it
}

// Context ends when the call is cancelled, its deadline passes or the session
// ends; for queries also with the connection.
func (r *Request) Context() context.Context { return r.ctx }

// Reply returns a buffer of n bytes (at most MaxPayload) for the payload of the
// reply. What of it is sent is set by SetReply; until then all n bytes are. It
// waits while the peer's share of memory is used up, so no lock may be held
// that answering another call needs.
func (r *Request) Reply(n int) ([]byte, error) {
	if n < 0 || n > MaxPayload || !r.Op.Has(ReturnsData) {
		panic(fmt.Sprintf("rpc: %s: reply payload of %d bytes", r.Op.Name, n))
	}
	r.drop()
	if err := r.Peer.cfg.Share.acquire(r.ctx, n); err != nil {
		return nil, err
	}
	r.held = n
	r.out = newBuffer(headroom + n)
	r.n = n
	return r.out.b[headroom : headroom+n], nil
}

// drop gives up the reply's payload.
func (r *Request) drop() {
	if r.out != nil {
		r.out.free()
		r.Peer.cfg.Share.release(r.held)
		r.out, r.held, r.n = nil, 0, 0
	}
}

// SetReply keeps the first n bytes of the buffer that Reply returned.
func (r *Request) SetReply(n int) {
	if n < 0 || n > r.n {
		panic(fmt.Sprintf("rpc: %s: reply payload cut to %d of %d bytes", r.Op.Name, n, r.n))
	}
	r.n = n
}

// Handle makes m answer op with h. Handlers run concurrently, each in a
// goroutine of its own unless op is Quick; ctx ends when the caller cancels,
// its deadline passes or the session ends. A handler of a slotted operation
// that has begun to change something carries it through whatever ctx says.
// A second handler for the same operation panics.
func Handle[Req, Res any](m *Mux, op *Op[Req, Res], h func(ctx context.Context, r *Request, req *Req, res *Res) error) {
	i, taken := m.search(op.Number)
	if taken {
		panic(fmt.Sprintf("rpc: %s has two handlers", op.Name))
	}
	m.methods = slices.Insert(m.methods, i, method{&op.Info, h})
}

// search returns where the method of this number is, or belongs.
func (m *Mux) search(number uint16) (int, bool) {
	return slices.BinarySearchFunc(m.methods, number, func(m method, number uint16) int { return int(m.info.Number) - int(number) })
}

// method returns the method of this number; its info is nil if there is none.
func (m *Mux) method(number uint16) method {
	if i, ok := m.search(number); ok {
		return m.methods[i]
	}
	return method{}
}

// invoke decodes a request, calls the handler, which belongs to op, and encodes
// what it answers.
func (op *Op[Req, Res]) invoke(handler any, ctx context.Context, r *Request, meta []byte, reply *Codec) error {
	h := handler.(func(context.Context, *Request, *Req, *Res) error)
	// One allocation for all that the message types make escape.
	x := new(struct {
		req Req
		res Res
		dec Codec
	})
	x.dec = Codec{buf: meta, decoding: true}
	op.reqFields(&x.dec, &x.req)
	if err := x.dec.finish(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBadRequest, op.Name, err)
	}
	if err := h(ctx, r, &x.req, &x.res); err != nil {
		return err
	}
	op.resFields(reply, &x.res)
	return reply.finish()
}

// Handles reports whether m answers the operation with this number.
func (m *Mux) Handles(number uint16) bool {
	_, ok := m.search(number)
	return ok
}

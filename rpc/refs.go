package rpc

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
)

// Ref names an object that a peer exported to the other side. It is drawn at
// random, means nothing in another session, and is never used again. 0 is the
// session's root service.
type Ref uint64

// Ref is a U64.
func (c *Codec) Ref(r *Ref) { c.U64((*uint64)(r)) }

// exports are the objects that this side lets the other call.
type exports struct {
	mu      sync.Mutex
	max     int
	objects map[Ref]export
	closed  bool
}

type export struct {
	mux      *Mux
	released func()
}

// Export lets the other side call the methods of m through the returned
// reference, until it releases it, Revoke is called or the session ends;
// released, if not nil, is then called once. ErrBusy if too many objects are
// exported, ErrGone if the session has ended.
func (p *Peer) Export(m *Mux, released func()) (Ref, error) {
	e := &p.exports
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return 0, ErrGone
	case len(e.objects) >= e.max:
		return 0, fmt.Errorf("%w: %d objects exported", ErrBusy, len(e.objects))
	}
	if e.objects == nil {
		e.objects = make(map[Ref]export)
	}
	for {
		var b [8]byte
		rand.Read(b[:])
		ref := Ref(binary.LittleEndian.Uint64(b[:]))
		if _, taken := e.objects[ref]; !taken && ref != 0 {
			e.objects[ref] = export{m, released}
			return ref, nil
		}
	}
}

// Exported returns how many objects the other side can call.
func (p *Peer) Exported() int {
	p.exports.mu.Lock()
	defer p.exports.mu.Unlock()
	return len(p.exports.objects)
}

// Revoke ends an export from this side. Calls through it fail from now on with
// ErrNoReference. It reports whether ref was exported.
func (p *Peer) Revoke(ref Ref) bool {
	p.exports.mu.Lock()
	x, ok := p.exports.objects[ref]
	delete(p.exports.objects, ref)
	p.exports.mu.Unlock()
	if ok && x.released != nil {
		x.released()
	}
	return ok
}

// Release gives up references that the other side exported. Unknown ones are
// passed over.
func (p *Peer) Release(ctx context.Context, refs ...Ref) error {
	for len(refs) > 0 {
		n := min(len(refs), maxRelease)
		if err := Call(ctx, p, opRelease, &releaseReq{refs[:n]}, &empty{}); err != nil {
			return err
		}
		refs = refs[n:]
	}
	return nil
}

func (e *exports) mux(ref Ref) *Mux {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.objects[ref].mux
}

// close drops everything at the end of the session.
func (e *exports) close() {
	e.mu.Lock()
	objects := e.objects
	e.objects, e.closed = nil, true
	e.mu.Unlock()
	for _, x := range objects {
		if x.released != nil {
			x.released()
		}
	}
}

package export

import (
	"context"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// A change that a killed process had begun and not answered is sent again, and the next
// process has to find out whether it was made. So what is about to change, and how it was
// before, is noted with the call (an intent), and looked at again when the call comes for
// the second time:
//
//   - Until then no other call changes the same directory or file, for decideWithin at
//     most, and what concerns one name, or appends to one file, was done one after the
//     other. So what is found differs from what was noted by this call alone, or by a
//     program on the server.
//   - What was made: there was no such entry, and there is one that has the number which
//     the call was to give it, or else was born after the note and before that process had
//     ended, of the kind, owner, mode and target that the call gives. One that was born
//     then and is otherwise may be either's. What was removed or renamed: inodes tell.
//     What was appended: the bytes are where they would have begun, all of them or some,
//     which are then completed.
//   - Other changes come to the same when they are made twice, and are.
//   - Where a program on the server has done what cannot be told apart from the call, the
//     answer is EIO, and the log says why.

// decideWithin is how long others wait for a client to send its undecided calls again.
const decideWithin = 30 * time.Second

// intent is what is noted of a change before it is made.
type intent struct {
	on, to ident // the directory or file; of a rename the other directory
	// was is what the name led to, of a link what it is going to; other is what the new
	// name of a rename led to. Zero: there was no such entry.
	was, other ident
	size       uint64       // of an append: where it begins; of attributes: 1 if it was there
	since      fsproto.Time // by the clock of inodes
}

func (i *intent) Fields(c *rpc.Codec) {
	i.on.Fields(c)
	i.to.Fields(c)
	i.was.Fields(c)
	i.other.Fields(c)
	c.U64(&i.size)
	i.since.Fields(c)
}

// reached is for tests.
func (e *Export) reached(point string) error {
	if e.cfg.reached == nil {
		return nil
	}
	return e.cfg.reached(point)
}

// busyNames are names, and files that are appended to, that a call is changing.
// Export.mu guards it.
type busyNames map[hint]chan struct{}

// claimName returns when nobody else is changing a name. It ends with release.
func (e *Export) claimName(ctx context.Context, h hint) error {
	for {
		e.mu.Lock()
		busy := e.busy[h]
		if busy == nil {
			e.busy[h] = make(chan struct{})
			e.mu.Unlock()
			return nil
		}
		e.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *Export) releaseName(h hint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.busy[h])
	delete(e.busy, h)
}

// plan is the intent of a call, and what it keeps others from. nil is none.
type plan struct {
	s       *Session
	i       intent
	claimed []hint
	known   ident // of a call that comes again: what has the number that it gives
}

func (p *plan) done() {
	if p == nil {
		return
	}
	for _, h := range p.claimed {
		p.s.e.releaseName(h)
	}
}

func (p *plan) claim(ctx context.Context, names ...hint) error {
	if len(names) == 2 && (names[0] == names[1] || less(names[1], names[0])) {
		names[0], names[1] = names[1], names[0]
		if names[0] == names[1] {
			names = names[:1]
		}
	}
	for _, h := range names {
		if err := p.s.e.claimName(ctx, h); err != nil {
			return err
		}
		p.claimed = append(p.claimed, h)
	}
	return nil
}

func less(a, b hint) bool {
	if a.dir.ino != b.dir.ino {
		return a.dir.ino < b.dir.ino
	}
	if a.dir != b.dir {
		return a.dir.sec < b.dir.sec || a.dir.sec == b.dir.sec && a.dir.nsec < b.dir.nsec
	}
	return a.name < b.name
}

// plan notes what a request is about to change; nil if nothing is recorded. Of a call
// that comes for the second time it returns what was noted.
func (s *Session) plan(ctx context.Context, r *rpc.Request, c *change, req any) (p *plan, err error) {
	if !s.kept() || c == nil || len(c.touched) == 0 {
		return nil, nil
	}
	p = &plan{s: s}
	defer func() {
		if err != nil {
			p.done()
			p = nil
		}
	}()
	if err := p.claim(ctx, c.names(req)...); err != nil {
		return p, err
	}
	if r.Again && len(r.Noted) > 0 {
		if err := rpc.Decode(r.Noted, &p.i); err != nil {
			return p, err
		}
		return p, s.mayBegin()
	}
	p.i.on = c.touched[0].n.id
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
		return p, err
	}
	p.i.since = fsproto.Time{Sec: now.Sec, Nsec: uint32(now.Nsec)}
	if err := p.look(c, req); err != nil {
		return p, err
	}
	note, err := rpc.Encode(nil, &p.i)
	if err != nil {
		return p, err
	}
	r.Note(note)
	return p, s.mayBegin()
}

// mayBegin refuses changes when what is noted is not kept any more: the next process, which
// is sent the call again, would make it for the second time.
func (s *Session) mayBegin() error {
	if s.e.cfg.Keep.Store.Frozen() {
		return errClosed
	}
	return nil
}

// names are those that only one call at a time may change; an append changes one without
// a name.
func (c *change) names(req any) []hint {
	switch req := req.(type) {
	case *fsproto.WriteReq:
		if req.Flags&fsproto.WriteAppend != 0 {
			return []hint{{dir: c.touched[0].n.id}}
		}
	case *fsproto.RenameReq:
		if c.dir != nil && c.newDir != nil {
			return []hint{{c.dir.id, c.name}, {c.newDir.id, req.NewName}}
		}
	default:
		if c.dir != nil {
			return []hint{{c.dir.id, c.name}}
		}
	}
	return nil
}

// look adds how things are before the change. What cannot be found, the handler will not
// find either.
func (p *plan) look(c *change, req any) error {
	s := p.s
	switch req := req.(type) {
	case *fsproto.WriteReq:
		if req.Flags&fsproto.WriteAppend == 0 {
			return nil
		}
		h, err := s.handle(req.Handle)
		if err != nil {
			return nil
		}
		defer s.done(h)
		st, err := h.f.Stat()
		p.i.size = st.Size
		return err
	case *fsproto.RenameReq:
		p.i.was = s.identAt(req.Parent, req.Name)
		p.i.other = s.identAt(req.NewParent, req.NewName)
		if c.newDir != nil {
			p.i.to = c.newDir.id
		}
	case *fsproto.UnlinkReq:
		p.i.was = s.identAt(req.Parent, req.Name)
	case *fsproto.SetxattrReq:
		p.i.size = s.hasXattr(req.Node, req.Name)
	case *fsproto.RemovexattrReq:
		p.i.size = s.hasXattr(req.Node, req.Name)
	default:
		if parent := parentOf(req); parent != 0 {
			p.i.was = s.identAt(parent, c.name)
		}
	}
	return nil
}

// identAt returns what a name leads to, zero if there is nothing, or it cannot be found
// out.
func (s *Session) identAt(parent fsproto.Node, name string) ident {
	d, err := s.dir(parent)
	if err != nil {
		return ident{}
	}
	defer d.done()
	id, _ := d.identOf(name)
	return id
}

// identOf returns what entry name of directory o is now, with its attributes.
func (o object) identOf(name string) (id ident, st beneath.Stat) {
	st, err := o.p.StatAt(name)
	if err == nil {
		id, err = identOf(&st, o.handleAt(name))
	}
	if err != nil {
		return ident{}, st
	}
	return id, st
}

func (s *Session) hasXattr(num fsproto.Node, name string) uint64 {
	o, err := s.node(num)
	if err != nil {
		return 0
	}
	defer o.done()
	if _, err := o.p.Getxattr(name, nil); err != nil {
		return 0
	}
	return 1
}

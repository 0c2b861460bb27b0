package export

import (
	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
)

// What calls of clients do, for those who watch. It all stands here, so that no handler
// can forget it: what a call is about to change is looked at before it runs, and told
// of when it has succeeded.

// doing is a call that may change something that is watched. The zero value changes
// nothing.
type doing struct {
	s     *Session
	facts []fact
}

// doing looks at what a request is about to change.
func (s *Session) doing(req any) (d doing) {
	h := &s.e.watches
	if h.on.Load() == 0 {
		return d
	}
	d.s = s
	d.look(req)
	if h.own { // the kernel is going to tell
		for i := range d.facts {
			h.note(&d.facts[i])
		}
		d.facts = nil
	}
	return d
}

// look adds what a request is going to change.
func (d *doing) look(req any) {
	s := d.s
	switch req := req.(type) {
	case *fsproto.SetattrReq:
		if req.Mask&fsproto.SetSize != 0 {
			d.node(req.Node, fsproto.WatchModify)
		}
		if req.Mask&^(fsproto.SetSize|fsproto.SetKillPriv) != 0 {
			d.node(req.Node, fsproto.WatchAttrib)
		}
	case *fsproto.OpenReq:
		if req.Flags&fsproto.OpenTruncate != 0 {
			d.node(req.Node, fsproto.WatchModify)
		}
	case *fsproto.CreateReq:
		at, was := s.entryPlace(req.Parent, req.Name)
		if was == nil {
			d.add(fact{kind: fsproto.WatchCreate, at: at})
		} else if req.Flags&fsproto.OpenTruncate != 0 {
			d.add(fact{kind: fsproto.WatchModify, at: at, was: was})
		}
	case *fsproto.MkdirReq:
		d.made(req.Parent, req.Name)
	case *fsproto.MknodReq:
		d.made(req.Parent, req.Name)
	case *fsproto.SymlinkReq:
		d.made(req.Parent, req.Name)
	case *fsproto.LinkReq:
		d.made(req.Parent, req.Name)
	case *fsproto.UnlinkReq:
		at, was := s.entryPlace(req.Parent, req.Name)
		d.add(fact{kind: fsproto.WatchDelete, at: at, was: was})
	case *fsproto.RenameReq:
		d.rename(req)
	case *fsproto.WriteReq:
		d.file(req.Handle, fsproto.WatchModify)
	case *fsproto.FallocateReq:
		d.file(req.Handle, fsproto.WatchModify)
	case *fsproto.CopyReq:
		d.file(req.To, fsproto.WatchModify)
	case *fsproto.SetxattrReq:
		d.node(req.Node, fsproto.WatchAttrib)
	case *fsproto.RemovexattrReq:
		d.node(req.Node, fsproto.WatchAttrib)
	case *fsproto.ReleaseReq:
		d.file(req.Handle, fsproto.WatchCloseWrite)
	case *fsproto.ReleasesReq:
		for _, h := range req.Handles {
			d.file(h, fsproto.WatchCloseWrite)
		}
	}
}

// add adds what is going to be done.
func (d *doing) add(f fact) {
	f.by = d.s.id.Name
	d.facts = append(d.facts, f)
}

// made adds an entry that does not exist yet.
func (d *doing) made(parent fsproto.Node, name string) {
	at, _ := d.s.entryPlace(parent, name)
	d.add(fact{kind: fsproto.WatchCreate, at: at})
}

// rename adds the one or, in an exchange, two moves. Two names of one file stay as
// they are.
func (d *doing) rename(req *fsproto.RenameReq) {
	from, was := d.s.entryPlace(req.Parent, req.Name)
	to, other := d.s.entryPlace(req.NewParent, req.NewName)
	if was != nil && other != nil && was.Ino == other.Ino {
		return
	}
	d.add(fact{kind: fsproto.WatchRename, at: to, from: from, was: was})
	if req.Flags&fsproto.RenameExchange != 0 {
		d.add(fact{kind: fsproto.WatchRename, at: from, from: to, was: other})
	}
}

// node adds a change of a node.
func (d *doing) node(num fsproto.Node, kind uint8) {
	s := d.s
	s.mu.Lock()
	entry := s.numbers[num]
	if entry == nil {
		s.mu.Unlock()
		return
	}
	n := entry.r.n
	s.e.keep(n)
	s.mu.Unlock()
	defer s.e.unref(n)
	d.change(n, kind)
}

// file adds a change of an open file, or its being closed, if it is open for writing.
func (d *doing) file(num fsproto.Handle, kind uint8) {
	s := d.s
	s.mu.Lock()
	h := s.handles[num]
	if h == nil || !h.writes {
		s.mu.Unlock()
		return
	}
	n := h.r.n
	s.e.keep(n)
	s.mu.Unlock()
	defer s.e.unref(n)
	d.change(n, kind)
}

// closing is a file that is closed because the session ends.
func (s *Session) closing(h *handle) (d doing) {
	if s.e.watches.on.Load() > 0 && !s.e.watches.own && h.writes {
		d.s = s
		d.change(h.r.n, fsproto.WatchCloseWrite)
	}
	return d
}

func (d *doing) change(n *node, kind uint8) {
	at, was := d.s.e.nodePlace(n)
	d.add(fact{kind: kind, at: at, was: was, isDir: n.isDir()})
}

// done tells what was done, and answered with res.
func (d doing) done(res any) {
	if len(d.facts) == 0 {
		return
	}
	h := &d.s.e.watches
	for i := range d.facts {
		f := &d.facts[i]
		f.isDir = f.isDir || isDirAttr(f.was)
		if h.wanted(f.at, f.from) && f.kind != fsproto.WatchDelete {
			if f.attr = answered(res); f.attr == nil {
				f.attr = h.look(f.at, "")
			}
			f.isDir = f.isDir || isDirAttr(f.attr)
		}
		if f.at.in || f.from.in {
			f.time = now()
			h.publish(f)
		}
	}
}

// answered returns the attributes of what was changed, if the reply has them.
func answered(res any) *fsproto.Attr {
	var a fsproto.Attr
	switch res := res.(type) {
	case *fsproto.AttrRes:
		a = res.Attr
	case *fsproto.WriteRes:
		a = res.Attr
	case *fsproto.CreateRes:
		a = res.Entry.Attr
	default:
		return nil
	}
	a.Lease, a.Access = 0, 0 // the caller's
	return &a
}

// placeOfNode is placeOf for a directory that is known, of which it may be remembered.
func (h *watches) placeOfNode(n *node, p *beneath.Path) place {
	if h.whole && n.object != "" {
		return h.where(n.object)
	}
	return h.e.placeOf(p)
}

// entryPlace returns where an entry is, or is to be, and the attributes of what is
// there.
func (s *Session) entryPlace(parent fsproto.Node, name string) (at place, was *fsproto.Attr) {
	d, err := s.dir(parent)
	if err != nil {
		return place{}, nil
	}
	defer d.done()
	if st, err := d.p.StatAt(name); err == nil && s.e.within(&st) == nil {
		a := attrOf(&st)
		was = &a
	}
	return s.e.watches.placeOfNode(d.n, d.p).entry(name), was
}

// nodePlace returns where a node is, by a name that it has if it is a file, and its
// attributes.
func (e *Export) nodePlace(n *node) (at place, was *fsproto.Attr) {
	if n.isDir() {
		e.keep(n)
		p, err := e.acquire(n)
		if err != nil {
			e.unref(n)
			return place{}, nil
		}
		defer e.release(n)
		return e.watches.placeOfNode(n, p), attrAt(p)
	}
	for _, h := range e.hintsOf(n) {
		if at, was := e.hintPlace(n, h); at.in {
			return at, was
		}
	}
	return place{}, nil
}

// hintPlace is nodePlace for a name that n had.
func (e *Export) hintPlace(n *node, h hint) (at place, was *fsproto.Attr) {
	dir := e.find(h.dir)
	if dir == nil {
		return place{}, nil
	}
	d, err := e.acquire(dir)
	if err != nil {
		e.unref(dir)
		return place{}, nil
	}
	defer e.release(dir)
	st, err := d.StatAt(h.name)
	if err != nil {
		return place{}, nil
	}
	id, err := identOf(&st, object{p: d}.handleAt(h.name))
	if err != nil || id != n.id {
		return place{}, nil
	}
	a := attrOf(&st)
	return e.watches.placeOfNode(dir, d).entry(h.name), &a
}

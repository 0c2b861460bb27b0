package export

import (
	"context"

	"github.com/rpycfs/rpycfs/fsproto"
)

// What operations change, and of which nodes their replies tell: both stand here,
// and only here, so that no handler can forget a lease.

const (
	recallWhole = fsproto.RecallAttr | fsproto.RecallData
	recallAttr  = fsproto.RecallAttr
)

// beginChange enters what a request is going to change, and returns when no other
// session has a lease on it any more, nobody else is changing the same names, and, unless
// it is made again, no other change of it is undecided. nil if it changes nothing. What
// cannot be found, the handler will not find either.
func (s *Session) beginChange(ctx context.Context, req any, again bool) (*change, error) {
	for {
		c := s.changeOf(req)
		if c == nil {
			return nil, nil
		}
		if !again {
			if err := s.e.awaitDecided(ctx, c); err != nil {
				c.unref()
				return nil, err
			}
		}
		err := s.e.leases.enter(ctx, c)
		if err == nil {
			return c, nil
		}
		c.end()
		if err != errOvertaken {
			return nil, err
		}
	}
}

// changeOf returns what a request is going to change; nil if that is nothing.
func (s *Session) changeOf(req any) *change {
	c := &change{s: s}
	switch req := req.(type) {
	case *fsproto.SetattrReq:
		what := recallAttr
		if req.Mask&fsproto.SetSize != 0 {
			what = recallWhole
		}
		c.subject = c.node(req.Node, what, "")
	case *fsproto.OpenReq:
		switch {
		case req.Flags&fsproto.OpenTruncate != 0:
			c.subject = c.node(req.Node, recallWhole, "")
		case writes(req.Flags):
			c.opens = true
			c.node(req.Node, recallWhole, "") // others are to know that it is shared
		}
	case *fsproto.CreateReq:
		c.dir, c.name = c.node(req.Parent, recallAttr, req.Name), req.Name
		if req.Flags&fsproto.OpenTruncate != 0 {
			c.subject, _ = c.entry(req.Parent, req.Name, recallWhole)
		}
	case *fsproto.MkdirReq:
		c.dir, c.name = c.node(req.Parent, recallAttr, req.Name), req.Name
	case *fsproto.MknodReq:
		c.dir, c.name = c.node(req.Parent, recallAttr, req.Name), req.Name
	case *fsproto.SymlinkReq:
		c.dir, c.name = c.node(req.Parent, recallAttr, req.Name), req.Name
	case *fsproto.LinkReq:
		c.dir, c.name = c.node(req.Parent, recallAttr, req.Name), req.Name
		c.subject = c.node(req.Node, recallAttr, "")
	case *fsproto.UnlinkReq:
		c.dir, c.name = c.node(req.Parent, recallAttr, req.Name), req.Name
		c.subject, c.kind = c.entry(req.Parent, req.Name, recallAttr)
	case *fsproto.RenameReq:
		c.dir, c.name = c.node(req.Parent, recallAttr, req.Name), req.Name
		c.newDir = c.node(req.NewParent, recallAttr, req.NewName)
		c.subject, c.kind = c.entry(req.Parent, req.Name, recallAttr)
		c.replaced, _ = c.entry(req.NewParent, req.NewName, recallAttr)
	case *fsproto.WriteReq:
		c.subject = c.file(req.Handle, recallWhole)
	case *fsproto.FallocateReq:
		c.subject = c.file(req.Handle, recallWhole)
	case *fsproto.CopyReq:
		c.subject = c.file(req.To, recallWhole)
	case *fsproto.SetxattrReq:
		c.subject = c.node(req.Node, recallAttr, "")
	case *fsproto.RemovexattrReq:
		c.subject = c.node(req.Node, recallAttr, "")
	}
	if len(c.touched) == 0 {
		return nil
	}
	return c
}

// recallRounds is how often a change of a file takes back leases before it is made, if
// they are asked for all the while.
const recallRounds = 4

// awaitChange returns when no change by others of what a request reads is being made.
func (s *Session) awaitChange(ctx context.Context, req any) error {
	var n *node
	s.mu.Lock()
	switch req := req.(type) {
	case *fsproto.ReadReq:
		if h := s.handles[req.Handle]; h != nil {
			n = h.r.n
		}
	case *fsproto.GetattrReq:
		if entry := s.numbers[req.Node]; entry != nil {
			n = entry.r.n
		}
	}
	s.mu.Unlock()
	if n == nil {
		return nil
	}
	over := s.e.leases.beingChanged(n, s)
	if over == nil {
		return nil
	}
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end ends a change; nil is none.
func (c *change) end() {
	if c == nil {
		return
	}
	waits := c.s.e.leases.finish(c)
	c.s.e.leases.await(c.s.leaseContext(), waits) // ends with the session at the latest
	c.unref()
}

func (c *change) unref() {
	for _, t := range c.touched {
		c.s.e.unref(t.n)
	}
}

// node adds a node by its number, and returns it.
func (c *change) node(num fsproto.Node, what uint8, name string) *node {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if entry := s.numbers[num]; entry != nil && !s.closed {
		c.add(entry.r, what, name)
		return entry.r.n
	}
	return nil
}

// file adds the node of an open file, and returns it.
func (c *change) file(num fsproto.Handle, what uint8) *node {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.handles[num]; h != nil {
		c.add(h.r, what, "")
		return h.r.n
	}
	return nil
}

// add adds a node that the session knows, whose mu is held.
func (c *change) add(r *ref, what uint8, name string) {
	c.s.e.keep(r.n)
	c.touched = append(c.touched, touched{n: r.n, own: r, what: what, name: name})
}

// entry adds the node behind a name, if any session knows it, and returns it. kind are
// the type bits of its mode, known or not; 0: there is no such entry.
func (c *change) entry(parent fsproto.Node, name string, what uint8) (n *node, kind uint32) {
	s := c.s
	d, err := s.dir(parent)
	if err != nil {
		return nil, 0
	}
	defer d.done()
	st, err := d.p.StatAt(name)
	if err != nil || s.e.within(&st) != nil {
		return nil, 0
	}
	kind = uint32(st.Mode) & fsproto.ModeType
	id, err := identOf(&st, d.handleAt(name))
	if err != nil {
		return nil, kind
	}
	if n = s.e.find(id); n == nil {
		return nil, kind
	}
	s.mu.Lock()
	own := s.refs[n]
	s.mu.Unlock()
	c.touched = append(c.touched, touched{n: n, own: own, what: what})
	return n, kind
}

// grantAll gives leases on the nodes that a reply tells of, as they were since the
// clock began.
func (s *Session) grantAll(began uint64, changes bool, req, res any) {
	g := granter{s: s, began: began, changes: changes, delay: s.e.spaceToDelay(req)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.e.leases.mu.Lock()
	defer s.e.leases.mu.Unlock()
	if !s.recalls.granting() {
		return
	}
	switch res := res.(type) {
	case *fsproto.AttrRes:
		switch req := req.(type) {
		case *fsproto.GetattrReq:
			if h := s.handles[req.Handle]; h == nil || h.r.main == req.Node {
				g.give(req.Node, &res.Attr)
			}
		case *fsproto.ReadReq:
			if h := s.handles[req.Handle]; h != nil {
				g.give(h.r.main, &res.Attr)
			}
		case *fsproto.SetattrReq:
			g.give(req.Node, &res.Attr)
		case *fsproto.AccessReq:
			g.give(req.Node, &res.Attr)
		case *fsproto.SetxattrReq:
			g.give(req.Node, &res.Attr)
		case *fsproto.RemovexattrReq:
			g.give(req.Node, &res.Attr)
		}
	case *fsproto.OpenRes:
		req := req.(*fsproto.OpenReq)
		g.give(req.Node, &res.Attr)
		g.giveDelay(req.Node, &res.Attr)
	case *fsproto.LookupRes:
		g.give(req.(*fsproto.LookupReq).Parent, &res.Parent)
		if res.Exists {
			g.give(res.Entry.Node, &res.Entry.Attr)
		}
	case *fsproto.CreateRes:
		g.give(parentOf(req), &res.Parent)
		g.give(res.Entry.Node, &res.Entry.Attr)
		g.giveDelay(res.Entry.Node, &res.Entry.Attr)
	case *fsproto.ReaddirRes:
		if h := s.handles[req.(*fsproto.ReaddirReq).Handle]; h != nil {
			g.give(h.r.main, &res.Dir)
		}
		for i := range res.Entries {
			if e := &res.Entries[i]; e.Known {
				g.give(e.Entry.Node, &e.Entry.Attr)
			}
		}
	case *fsproto.WriteRes:
		if h := s.handles[req.(*fsproto.WriteReq).Handle]; h != nil {
			g.give(h.r.main, &res.Attr)
		}
	case *fsproto.UnlinkRes:
		g.give(req.(*fsproto.UnlinkReq).Parent, &res.Parent)
		g.give(res.Node, &res.Attr)
	case *fsproto.RenameRes:
		req := req.(*fsproto.RenameReq)
		g.give(req.Parent, &res.Parent)
		g.give(req.NewParent, &res.NewParent)
		g.hold(req.NewParent)
		if req.Flags&fsproto.RenameExchange != 0 {
			g.hold(req.Parent)
		}
		g.give(res.Node, &res.Attr)
		g.give(res.Replaced, &res.ReplacedAttr)
	case *fsproto.ReadlinkRes:
		g.give(req.(*fsproto.ReadlinkReq).Node, &res.Attr)
	case *fsproto.XattrRes:
		g.give(req.(*fsproto.GetxattrReq).Node, &res.Attr)
	case *fsproto.ListxattrRes:
		g.give(req.(*fsproto.NodeReq).Node, &res.Attr)
	}
}

// grantListed is grantAll for a directory of a tree, as it was since the clock began.
func (s *Session) grantListed(began uint64, dir *fsproto.TreeDir) {
	s.granting(began, func(g *granter) {
		g.give(dir.Node, &dir.Dir)
		for i := range dir.Entries {
			if e := &dir.Entries[i]; e.Known {
				g.give(e.Entry.Node, &e.Entry.Attr)
			}
		}
	})
}

// grantRead is grantAll for what readfile has read of a file.
func (s *Session) grantRead(began uint64, num fsproto.Node, d *fsproto.FileData) {
	s.granting(began, func(g *granter) { g.give(num, &d.Attr) })
}

// granting runs f with what it takes to give leases, if the session gets any.
func (s *Session) granting(began uint64, f func(*granter)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.e.leases.mu.Lock()
	defer s.e.leases.mu.Unlock()
	if s.recalls.granting() {
		f(&granter{s: s, began: began})
	}
}

// parentOf returns the directory in which a request makes an entry; 0: none.
func parentOf(req any) fsproto.Node {
	switch req := req.(type) {
	case *fsproto.CreateReq:
		return req.Parent
	case *fsproto.MkdirReq:
		return req.Parent
	case *fsproto.MknodReq:
		return req.Parent
	case *fsproto.SymlinkReq:
		return req.Parent
	case *fsproto.LinkReq:
		return req.Parent
	}
	return 0
}

// coveredBy returns the nodes that a request names: who asks for something in a
// directory, or about a node, is told of it in the reply.
func coveredBy(req any) []fsproto.Node {
	switch req := req.(type) {
	case *fsproto.LookupReq:
		return []fsproto.Node{req.Parent}
	case *fsproto.GetattrReq:
		return []fsproto.Node{req.Node}
	case *fsproto.SetattrReq:
		return []fsproto.Node{req.Node}
	case *fsproto.AccessReq:
		return []fsproto.Node{req.Node}
	case *fsproto.OpenReq:
		return []fsproto.Node{req.Node}
	case *fsproto.NodeReq:
		return []fsproto.Node{req.Node}
	case *fsproto.GetxattrReq:
		return []fsproto.Node{req.Node}
	case *fsproto.SetxattrReq:
		return []fsproto.Node{req.Node}
	case *fsproto.UnlinkReq:
		return []fsproto.Node{req.Parent}
	case *fsproto.LinkReq:
		return []fsproto.Node{req.Parent, req.Node}
	case *fsproto.RenameReq:
		return []fsproto.Node{req.Parent, req.NewParent}
	}
	if parent := parentOf(req); parent != 0 {
		return []fsproto.Node{parent}
	}
	return nil
}

type granter struct {
	s       *Session
	began   uint64
	changes bool
	delay   bool // who asks may delay changes
}

// give gives a lease, if it can be had, on a node that replies call by this number.
func (g *granter) give(num fsproto.Node, a *fsproto.Attr) {
	entry := g.s.numbers[num]
	if entry == nil || entry.r.main != num {
		return
	}
	a.Lease = g.s.e.leases.grant(entry.r, num, g.began, g.changes)
}

// hold sees to it that the session is called back for names in a directory to which it
// has moved something: its kernel believes them for as long as it did where they were.
func (g *granter) hold(num fsproto.Node) {
	if entry := g.s.numbers[num]; entry != nil && entry.r.main == num && entry.r.num == 0 {
		g.s.e.leases.give(entry.r, num)
	}
}

// giveDelay gives the right to delay changes of a file, a lease on which was given.
func (g *granter) giveDelay(num fsproto.Node, a *fsproto.Attr) {
	if !g.delay || a.Lease == 0 || a.Lease&fsproto.LeaseBrief != 0 {
		return
	}
	if entry := g.s.numbers[num]; entry != nil && g.s.e.leases.mayDelay(entry.r) {
		a.Lease |= fsproto.LeaseWrite
	}
}

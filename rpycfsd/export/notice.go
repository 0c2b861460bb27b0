package export

import (
	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// Sessions that asked for it are told what others have done in directories and to
// files that they know: after the change, and after they have answered what they were
// called back for because of it. Each has a queue of its own, and nobody waits for it.

const (
	// maxNotices bounds the queue of a session. Beyond it changes are left out.
	maxNotices = 4096
	// noticeBytes bounds the names in one call, in bytes.
	noticeBytes = 32 << 10
	// mergeWithin is how far back in the queue a change of a file is looked for that
	// another one adds nothing to.
	mergeWithin = 16
)

// entryAt is an entry of a directory. dir is nil where that is not known.
type entryAt struct {
	dir  *node
	name string
}

// happening is a change that has been made. Nodes that are nil are not known.
type happening struct {
	what     uint8     // fsproto.Event…
	at       []entryAt // of a change of a node itself: the names that it has, the latest first
	to       entryAt   // of a rename
	node     *node
	replaced *node
	kind     uint32 // type bits of node's mode, where node is nil
	exchange bool
}

// notices are what a session is to be told. They are guarded by leases.mu.
type notices struct {
	wanted  bool
	lost    bool // changes were left out
	sending bool
	queue   []notice
}

// notice is one of them, and the recalls that have to be answered before.
type notice struct {
	event fsproto.Event
	waits []*recall
}

// tellOthers tells all sessions but the one that made it of a change. waits are what
// they were called back for after it.
func (e *Export) tellOthers(by *Session, h *happening, waits []*recall) {
	for _, s := range e.leases.listeners(by) {
		if event, ok := s.eventOf(h); ok {
			s.notify(event, waits)
		}
	}
}

// listeners returns the sessions other than by that want to be told of changes.
func (l *leases) listeners(by *Session) (list []*Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.sessions {
		if s != by && s.notices.wanted {
			list = append(list, s)
		}
	}
	return list
}

// eventOf says h in the session's numbers. Not ok: it knows nothing of all that.
func (s *Session) eventOf(h *happening) (event fsproto.Event, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return event, false
	}
	event = fsproto.Event{What: h.what, Kind: h.kind, Node: s.known(h.node), Replaced: s.known(h.replaced), Exchange: h.exchange}
	if h.node != nil {
		event.Kind = h.node.kind
	}
	for _, at := range h.at {
		if event.Dir = s.known(at.dir); event.Dir != 0 {
			event.Name = at.name
			break
		}
	}
	if event.NewDir = s.known(h.to.dir); event.NewDir != 0 {
		event.NewName = h.to.name
	}
	return event, event.Node|event.Replaced|event.Dir|event.NewDir != 0
}

// known returns the session's number for n, 0 if it has none; mu is held.
func (s *Session) known(n *node) fsproto.Node {
	if r := s.refs[n]; n != nil && r != nil {
		return r.main
	}
	return 0
}

// notify puts an event into the session's queue.
func (s *Session) notify(event fsproto.Event, waits []*recall) {
	l, q := &s.e.leases, &s.notices
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.recalls.closed || q.merge(&event, waits) {
		return
	}
	if len(q.queue) >= maxNotices {
		q.lost = true
		return
	}
	q.queue = append(q.queue, notice{event, waits})
	s.sendNoticesSoon()
}

// sendNoticesSoon sees to it that calls are made; leases.mu is held.
func (s *Session) sendNoticesSoon() {
	if q := &s.notices; !q.sending && !s.recalls.closed {
		q.sending = true
		s.recalls.sender.Go(s.sendNotices)
	}
}

// merge reports whether the queue says already what an event says.
func (q *notices) merge(event *fsproto.Event, waits []*recall) bool {
	for i := len(q.queue) - 1; i >= max(0, len(q.queue)-mergeWithin); i-- {
		last := &q.queue[i]
		switch {
		case last.event.What < fsproto.EventModify:
			return false // names have changed their meaning
		case last.event == *event:
			last.waits = append(last.waits, waits...)
			return true
		case last.event.Node == event.Node && last.event.Name == event.Name:
			return false
		}
	}
	return false
}

// sendNotices makes the calls while there are any to make.
func (s *Session) sendNotices() {
	l, c := &s.e.leases, &s.recalls
	for {
		req, waits, peer := s.nextNotices()
		if req == nil {
			return
		}
		err := l.await(c.ctx, waits)
		if err == nil {
			err = rpc.Call(c.ctx, peer, fsproto.Events, req, &fsproto.Empty{})
		}
		if err != nil && peer.Context().Err() != nil {
			return
		}
		if err != nil && c.ctx.Err() == nil {
			s.log.Warn("the client refuses to be told of changes; it is told of none from now on", "err", err)
			l.mu.Lock()
			s.notices = notices{sending: true}
			l.mu.Unlock()
		}
	}
}

// nextNotices takes what the next call is about; nil if there is nothing.
func (s *Session) nextNotices() (req *fsproto.EventsReq, waits []*recall, peer *rpc.Peer) {
	l, q := &s.e.leases, &s.notices
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(q.queue) == 0 && !q.lost || s.recalls.closed || s.recalls.peer == nil {
		q.queue, q.sending = nil, false
		return nil, nil, nil
	}
	req = &fsproto.EventsReq{Lost: q.lost}
	q.lost = false
	for size := 0; len(q.queue) > 0 && len(req.Events) < fsproto.MaxEvents && size < noticeBytes; q.queue = q.queue[1:] {
		n := &q.queue[0]
		req.Events = append(req.Events, n.event)
		waits = append(waits, n.waits...)
		size += len(n.event.Name) + len(n.event.NewName)
	}
	return req, waits, s.recalls.peer
}

// happened returns what a request has done; nil if nothing that others are told of.
// A create that makes a file has said so itself (madeFile).
func (c *change) happened(req any) *happening {
	h := &happening{at: []entryAt{{c.dir, c.name}}, node: c.subject, kind: c.kind, replaced: c.replaced}
	switch req := req.(type) {
	case *fsproto.MkdirReq:
		h.what, h.kind = fsproto.EventCreate, unix.S_IFDIR
	case *fsproto.MknodReq:
		if h.what, h.kind = fsproto.EventCreate, req.Mode&fsproto.ModeType; h.kind == 0 {
			h.kind = unix.S_IFREG
		}
	case *fsproto.SymlinkReq:
		h.what, h.kind = fsproto.EventCreate, unix.S_IFLNK
	case *fsproto.LinkReq:
		h.what = fsproto.EventCreate
	case *fsproto.UnlinkReq:
		h.what = fsproto.EventDelete
	case *fsproto.RenameReq:
		if c.subject != nil && c.subject == c.replaced {
			return nil // two names of one inode: rename does nothing
		}
		h.what, h.to = fsproto.EventRename, entryAt{c.newDir, req.NewName}
		h.exchange = req.Flags&fsproto.RenameExchange != 0
	default:
		if h.what = whatHappens(req, c.created); h.what == 0 || c.subject == nil {
			return nil
		}
		h.at = c.s.e.placesOf(c.subject)
	}
	return h
}

// whatHappens returns what a change of a node itself is to who watches it; as on a
// local disk times that are set both are a change of attributes, the modification
// time alone one of the content, and the access time alone neither.
func whatHappens(req any, made bool) uint8 {
	switch req := req.(type) {
	case *fsproto.WriteReq, *fsproto.FallocateReq, *fsproto.CopyReq:
		return fsproto.EventModify
	case *fsproto.OpenReq:
		return fsproto.EventModify // it truncates, or it would be no change
	case *fsproto.CreateReq:
		if !made && req.Flags&fsproto.OpenTruncate != 0 {
			return fsproto.EventModify
		}
	case *fsproto.SetxattrReq, *fsproto.RemovexattrReq:
		return fsproto.EventAttrib
	case *fsproto.SetattrReq:
		const atime, mtime = fsproto.SetAtime | fsproto.SetAtimeNow, fsproto.SetMtime | fsproto.SetMtimeNow
		switch {
		case req.Mask&fsproto.SetSize != 0:
			return fsproto.EventModify
		case req.Mask&(fsproto.SetMode|setOwner) != 0, req.Mask&atime != 0 && req.Mask&mtime != 0:
			return fsproto.EventAttrib
		case req.Mask&mtime != 0:
			return fsproto.EventModify
		}
	}
	return 0
}

// tell tells the others of a change that was made; nil is none.
func (c *change) tell(req, res any) {
	if c == nil {
		return
	}
	if made, ok := res.(*fsproto.CreateNodeRes); ok && c.subject == nil {
		c.subject = c.s.nodeOf(made.Entry.Node)
	}
	h := c.happened(req)
	if h == nil {
		return
	}
	c.s.e.tellOthers(c.s, h, nil)
	if _, ok := req.(*fsproto.LinkReq); ok && h.node != nil {
		c.s.e.tellOthers(c.s, &happening{what: fsproto.EventAttrib, node: h.node}, nil) // its number of links
	}
}

// nodeOf returns the node behind a number of the session, nil if there is none.
func (s *Session) nodeOf(num fsproto.Node) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	if entry := s.numbers[num]; entry != nil {
		return entry.r.n
	}
	return nil
}

// madeFile tells the others that a file was made.
func (c call) madeFile(d object, name string, n *node) {
	if c.change != nil {
		c.change.created = true
		d.s.e.tellOthers(d.s, &happening{what: fsproto.EventCreate, at: []entryAt{{d.n, name}}, node: n}, nil)
	}
}

// closed tells the others that a file which could be written is closed.
func (e *Export) closed(by *Session, n *node) {
	if n.kind == unix.S_IFREG {
		e.tellOthers(by, &happening{what: fsproto.EventClose, at: e.placesOf(n), node: n}, nil)
	}
}

// placesOf returns names of n in directories that are known.
func (e *Export) placesOf(n *node) (at []entryAt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range n.hints {
		if dir := e.nodes[h.dir]; dir != nil {
			at = append(at, entryAt{dir, h.name})
		}
	}
	return at
}

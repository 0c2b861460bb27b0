package export

import (
	"context"
	"slices"

	"github.com/rpycfs/rpycfs/fsproto"
)

// A session that has a file open for writing, and nobody else has it open or a lease on
// it, may delay its changes (fsproto.LeaseWrite): what its programs were told is done,
// the server may not know yet. So before anybody else is told of the file, or changes
// it, the session is called back; its answer comes behind all that it had delayed.
//
// A change calls back whoever has a lease (lease.begin). Here is what only looks: calls
// that name the file wait before they begin, and those that come upon it by a name are
// made again, as what they have found may be out of date.
//
// The kernel's lease on the server's file (F_SETLEASE) is not taken for it: it belongs to
// the open file description, which the keeper holds as well, so that after the daemon's
// death a program that opens the file would wait for lease-break-time, 45 s. Programs on
// the server see what was delayed when it has arrived.

// minSpace is the space for ordinary users below which nobody may delay changes, in bytes:
// who writes a little on a full disk hears of it by write(2), and not by close(2), to which
// few listen.
const minSpace = 256 << 20

// spaceToDelay reports whether a request asks for the right to delay changes, and there is
// space for what they write.
func (e *Export) spaceToDelay(req any) bool {
	var flags uint32
	switch req := req.(type) {
	case *fsproto.OpenReq:
		flags = req.Flags
	case *fsproto.CreateReq:
		flags = req.Flags
	}
	if flags&fsproto.OpenDelay == 0 {
		return false
	}
	fs, err := e.rootDir.Statfs()
	return err == nil && (fs.Blocks == 0 || fs.Bavail*uint64(fs.Bsize) >= minSpace) // without blocks it does not tell
}

// mayDelay gives the session of r, which has just got a lease on its node, the right to
// delay changes of it, if it can be had. mu is held.
func (l *leases) mayDelay(r *ref) bool {
	n := r.n
	switch {
	case r.num == 0 || r.recall != nil || r.missed != 0 || r.writers == 0 || n.isDir():
		return false
	case len(n.holders) != 1 || n.handles != int(r.handles):
		return false
	case slices.ContainsFunc(n.changers, func(c *change) bool { return c.s != r.s }):
		return false
	}
	if n.delayer == nil {
		n.delayer = r
		l.delayers.Add(1)
	}
	return true
}

// endDelay takes that right away. mu is held.
func (l *leases) endDelay(r *ref) {
	if r.n.delayer == r {
		r.n.delayer = nil
		l.delayers.Add(-1)
	}
}

// calledBack calls back who may delay changes of nodes, other than s.
func (l *leases) calledBack(s *Session, nodes []*node) (waits []*recall) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range nodes {
		if n.delayer == nil || n.delayer.s == s {
			continue
		}
		l.clock++ // above the number of what is taken back
		if w := l.recall(n.delayer, fsproto.RecallWrite, ""); w != nil {
			waits = append(waits, w)
		}
	}
	return waits
}

// awaitDelayed returns when nobody else delays changes of what a request names, and looks
// at.
func (s *Session) awaitDelayed(ctx context.Context, req any) error {
	if s.e.leases.delayers.Load() == 0 {
		return nil
	}
	return s.e.leases.await(ctx, s.e.leases.calledBack(s, s.looksAt(req)))
}

// looksAt returns the files that a request names and does not change. The session keeps
// them.
func (s *Session) looksAt(req any) (nodes []*node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number := func(num fsproto.Node) {
		if entry := s.numbers[num]; entry != nil {
			nodes = append(nodes, entry.r.n)
		}
	}
	handle := func(num fsproto.Handle) {
		if h := s.handles[num]; h != nil {
			nodes = append(nodes, h.r.n)
		}
	}
	switch req := req.(type) {
	case *fsproto.GetattrReq:
		number(req.Node)
	case *fsproto.AccessReq:
		number(req.Node)
	case *fsproto.OpenReq:
		number(req.Node)
	case *fsproto.GetxattrReq:
		number(req.Node)
	case *fsproto.NodeReq:
		number(req.Node)
	case *fsproto.ReadReq:
		handle(req.Handle)
	case *fsproto.LseekReq:
		handle(req.Handle)
	case *fsproto.FsyncReq:
		handle(req.Handle)
	case *fsproto.CopyReq:
		handle(req.From)
	}
	return nodes
}

// lookAgain bounds how often a call is made again that has come upon delayed changes.
const lookAgain = 4

// undelayed makes again what has come by a name upon a file of which others delay
// changes, when they do so no more.
func (s *Session) undelayed(ctx context.Context, req, res any, again func() error) error {
	for range lookAgain {
		if s.e.leases.delayers.Load() == 0 {
			return nil
		}
		waits := s.e.leases.calledBack(s, s.cameUpon(res))
		if len(waits) == 0 {
			return nil
		}
		if err := s.e.leases.await(ctx, waits); err != nil {
			return err
		}
		if req, ok := req.(*fsproto.CreateReq); ok { // it has opened what there was
			h, err := s.handle(req.Handle)
			if err != nil {
				return err
			}
			err = h.attr(&res.(*fsproto.CreateRes).Entry.Attr)
			s.done(h)
			return err
		}
		if err := again(); err != nil {
			return err
		}
	}
	return nil
}

// cameUpon returns the nodes that a reply tells of, and its request did not name.
func (s *Session) cameUpon(res any) (nodes []*node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number := func(num fsproto.Node) {
		if entry := s.numbers[num]; entry != nil {
			nodes = append(nodes, entry.r.n)
		}
	}
	entries := func(list []fsproto.Dirent) {
		for i := range list {
			if e := &list[i]; e.Known {
				number(e.Entry.Node)
			}
		}
	}
	switch res := res.(type) {
	case *fsproto.LookupRes:
		if res.Exists {
			number(res.Entry.Node)
		}
	case *fsproto.CreateRes:
		number(res.Entry.Node)
	case *fsproto.EntryRes:
		number(res.Entry.Node)
	case *fsproto.ReaddirRes:
		entries(res.Entries)
	case *fsproto.TreeRes:
		for i := range res.Dirs {
			entries(res.Dirs[i].Entries)
		}
	}
	return nodes
}

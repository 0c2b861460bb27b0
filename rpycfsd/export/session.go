package export

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/identity"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// Identity is the authenticated user of a session.
type Identity struct {
	Name     string
	Root     string // subtree of the export that the user sees; "" or "/": all
	ReadOnly bool

	RunAs        uint8       // whose rights decide; RunAsDaemon if, and only if, the export has it
	Account      identity.ID // with RunAsAccount: the user's
	NoRootSquash bool        // with RunAsCaller: root is root
}

// Session is what one client has of an export. Handlers run concurrently.
//
//	NewSession ──▶ detached ──attach──▶ attached ──Close──▶ closed
//	                  └──────────────Close──────────────────▶
//
// Before attach only attach, cred and watch are answered, after Close nothing is.
type Session struct {
	e        *Export
	id       Identity
	log      *slog.Logger
	readOnly bool
	root     *node        // the user's root
	own      *identity.ID // behind credential 0; nil: the daemon's own rights
	key      uint64       // of its records; 0: it has none

	mu      sync.Mutex
	closed  bool
	calls   int  // running; the last one of a closed session gives up the roots
	top     *ref // the attached root
	refs    map[*node]*ref
	numbers map[fsproto.Node]*number
	next    fsproto.Node // the next number of the server's choice
	stamp   uint64
	handles map[fsproto.Handle]*handle
	creds   map[uint32]*identity.ID

	settings  uint64 // set… bits
	undecided map[rpc.Dep]*undecided
	giveUp    *time.Timer // of waiting for those
	fleeting  bool        // not to be known to the next process
	attached  mapped.Cell
	credCells map[uint32]mapped.Cell

	locks   sessionLocks
	recalls recaller
	turns   chan struct{} // of calls that look ahead
	notices notices       // guarded by leases.mu

	pumps     sync.WaitGroup // of its watches
	unwatched bool           // there will be no more; guarded by watches.mu
}

// ref is what a session knows of a node. It exists while the session has a
// number for the node or has it open. s and n never change, the others are guarded
// by Session.mu.
type ref struct {
	s       *Session
	n       *node
	main    fsproto.Node   // the number that replies use; 0: none
	aliases []fsproto.Node // numbers of the client's choice beside main
	opens   int            // handles
	checked time.Time      // when it was last known to be beneath the root
	fh      fsproto.FileHandle

	lease // guarded by leases.mu
}

// number is what a node number stands for, and the stamp of the last reply that
// named it.
type number struct {
	r     *ref
	stamp uint64
	cell  mapped.Cell
}

// NewSession begins a session of a user. It fails if the user's root does not
// exist, is no directory, or has a symbolic link in it.
func (e *Export) NewSession(id Identity) (*Session, error) {
	own, err := e.ownRights(id)
	if err != nil {
		return nil, err
	}
	s := &Session{
		e: e, id: id, log: e.log.With("user", id.Name), readOnly: id.ReadOnly || e.cfg.ReadOnly,
		refs: make(map[*node]*ref), numbers: make(map[fsproto.Node]*number), next: fsproto.RootNode + 1,
		turns:   make(chan struct{}, aheadCalls),
		handles: make(map[fsproto.Handle]*handle), credCells: make(map[uint32]mapped.Cell), undecided: make(map[rpc.Dep]*undecided), own: own, creds: map[uint32]*identity.ID{0: own},
	}
	s.locks.init(e)
	var names []string
	for name := range strings.SplitSeq(id.Root, "/") {
		if name != "" {
			names = append(names, name)
		}
	}
	root, err := e.descend(e.root, names)
	if err != nil {
		return nil, err
	}
	s.root = root
	return s, nil
}

// descend walks down from a node whose descriptor is held, and returns the
// directory with its descriptor acquired. No component may be a symbolic link
// (ELOOP).
func (e *Export) descend(from *node, names []string) (*node, error) {
	e.keep(from)
	p, err := e.acquire(from)
	if err != nil {
		e.unref(from)
		return nil, err
	}
	for _, name := range names {
		next, path, err := e.step(p, from, name)
		e.release(from)
		if err != nil {
			return nil, err
		}
		from, p = next, e.install(next, path)
	}
	return from, nil
}

// step is one component of descend.
func (e *Export) step(p *beneath.Path, at *node, name string) (*node, *beneath.Path, error) {
	next, err := p.Walk(name)
	if err != nil {
		return nil, nil, err
	}
	st, err := next.Stat()
	if err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
		case unix.S_IFLNK:
			err = syscall.ELOOP
		default:
			err = syscall.ENOTDIR
		}
	}
	var n *node
	if err == nil {
		n, err = e.intern(&st, hint{at.id, name}, next.Handle)
	}
	if err != nil {
		next.Close()
		return nil, nil, err
	}
	return n, next, nil
}

// Close ends the session: its numbers and open files are given up. Handlers that
// are still running finish with what they hold.
func (s *Session) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	var closing []*handle
	for _, h := range s.handles {
		if h != nil && s.dismiss(h) {
			closing = append(closing, h)
		}
	}
	var nodes []*node
	for num := range s.numbers {
		nodes = append(nodes, s.dropNumber(num)...)
	}
	clear(s.handles)
	s.attached.Free()
	for _, cell := range s.credCells {
		cell.Free()
	}
	idle := s.calls == 0
	s.mu.Unlock()
	if s.giveUp != nil {
		s.giveUp.Stop()
	}
	s.letGo(nil)
	s.locks.close()
	s.closeRecalls()
	s.closeWatches()
	for _, h := range closing {
		d := s.closing(h)
		s.finish(h)
		d.done(nil)
	}
	for _, n := range nodes {
		s.e.unref(n)
	}
	if idle {
		s.leave()
	}
}

// leave gives up the roots of a closed session that no call runs in.
func (s *Session) leave() {
	if s.top != nil {
		s.e.release(s.top.n)
	}
	s.e.release(s.root)
}

// end ends a call that begin has counted.
func (s *Session) end() {
	s.mu.Lock()
	s.calls--
	last := s.closed && s.calls == 0
	s.mu.Unlock()
	if last {
		s.leave()
	}
}

// attach makes a directory below the user's root node 1. EBUSY the second time.
func (s *Session) attach(c call, req *fsproto.AttachReq, res *fsproto.AttachRes) error {
	if c.Again && s.isAttached() {
		return s.tellAttached(s.top.n, res)
	}
	n, err := s.e.descend(s.root, req.Path)
	if err != nil {
		if isErrno(err, syscall.ELOOP) {
			s.log.Warn("attach refused: symbolic link in the path", "path", req.Path)
		}
		return err
	}
	if err := s.setTop(n, strings.Join(req.Path, "/")); err != nil {
		s.e.release(n)
		return err
	}
	return s.tellAttached(n, res)
}

// isAttached reports whether there is an attached root; it stays what it is.
func (s *Session) isAttached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.top != nil
}

// tellAttached fills in the reply to attach. n is the attached root, whose descriptor is
// held.
func (s *Session) tellAttached(n *node, res *fsproto.AttachRes) error {
	st, err := n.path.Stat()
	if err != nil {
		return err
	}
	res.Flags, res.RunAs = fsproto.ExportVolatile, s.id.RunAs
	res.UID, res.GID = uint32(unix.Geteuid()), uint32(unix.Getegid())
	if s.own != nil {
		res.UID, res.GID = s.own.UID(), s.own.GID()
	}
	if s.readOnly {
		res.Flags |= fsproto.ExportReadOnly
	}
	return s.introduce(n, &st, 0, time.Now(), true, &res.Entry)
}

// setTop makes n, which a path leads to from the user's root, the attached root unless
// there is one.
func (s *Session) setTop(n *node, path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if s.top != nil {
		return syscall.EBUSY
	}
	s.e.keep(n)
	s.top = &ref{s: s, n: n, main: fsproto.RootNode}
	s.refs[n] = s.top
	s.recordAttached(path)
	s.enterNumber(fsproto.RootNode, s.top, false)
	return nil
}

// introduce names n in a reply and fills in en. chosen is the number that the client wants for it, 0 for none. checked
// tells when n was known to be beneath the root. ENFILE if the session knows too
// many nodes, unless force is set.
func (s *Session) introduce(n *node, st *beneath.Stat, chosen fsproto.Node, checked time.Time, force bool, en *fsproto.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	r := s.refs[n]
	if r == nil {
		if len(s.refs) >= s.e.cfg.MaxNodes && !force {
			return syscall.ENFILE
		}
		r = &ref{s: s, n: n}
		s.refs[n] = r
		s.e.keep(n)
	}
	if checked.After(r.checked) {
		r.checked = checked
	}
	s.assign(r, chosen)
	s.stamp++
	s.attached.SetWord(wordStamp, s.stamp)
	s.numbers[r.main].setStamp(s.stamp)
	if chosen != 0 && s.numbers[chosen] != nil && s.numbers[chosen].r == r {
		s.numbers[chosen].setStamp(s.stamp)
	}
	if r.fh == nil {
		r.fh = s.e.seal(n, s.root.id)
	}
	*en = fsproto.Entry{Node: r.main, Stamp: s.stamp, FileHandle: r.fh, Attr: attrOf(st)}
	return nil
}

// crowded reports whether the session knows so many nodes that the rest is kept
// for lookups: listings give names alone then.
func (s *Session) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.refs) >= s.e.cfg.MaxNodes-s.e.cfg.MaxNodes/4
}

// assign gives r a number if it has none, and makes it answer to chosen. A
// number that stands for something else already is passed over.
func (s *Session) assign(r *ref, chosen fsproto.Node) {
	free := chosen != 0 && s.numbers[chosen] == nil
	switch {
	case r.main == 0 && free:
		r.main = chosen
	case r.main == 0:
		r.main = s.next
		s.next++
		s.attached.SetWord(wordNext, uint64(s.next))
	case free:
		r.aliases = append(r.aliases, chosen)
		s.enterNumber(chosen, r, true)
		return
	default:
		return
	}
	s.enterNumber(r.main, r, false)
}

// forget gives up numbers that no later reply has named. Giving up the number
// that replies use gives up the client's own numbers for the node with it.
func (s *Session) forget(_ call, req *fsproto.ForgetReq, _ *fsproto.Empty) error {
	var nodes []*node
	s.mu.Lock()
	for _, f := range req.Nodes {
		if num := s.numbers[f.Node]; num != nil && num.stamp <= f.Stamp && f.Node != fsproto.RootNode {
			nodes = append(nodes, s.dropNumber(f.Node)...)
		}
	}
	s.mu.Unlock()
	for _, n := range nodes {
		s.e.unref(n)
	}
	return nil
}

// dropNumber removes a number with mu held. It returns the node if the session
// does not know it any longer: the caller gives the reference back.
func (s *Session) dropNumber(num fsproto.Node) []*node {
	entry := s.numbers[num]
	if entry == nil {
		return nil
	}
	r := entry.r
	delete(s.numbers, num)
	entry.cell.Free()
	if num == r.main {
		for _, alias := range r.aliases {
			s.numbers[alias].cell.Free()
			delete(s.numbers, alias)
		}
		r.main, r.aliases = 0, nil
	} else {
		r.aliases = slices.DeleteFunc(r.aliases, func(a fsproto.Node) bool { return a == num })
	}
	return s.dropRef(r)
}

// dropRef removes r, with mu held, if it has neither number nor open file.
func (s *Session) dropRef(r *ref) []*node {
	if r.main != 0 || r.opens > 0 || s.refs[r.n] != r {
		return nil
	}
	delete(s.refs, r.n)
	s.e.leases.forget(r)
	return []*node{r.n}
}

// numberOf returns the session's number for n, 0 if it has none.
func (s *Session) numberOf(n *node) fsproto.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.refs[n]; r != nil {
		return r.main
	}
	return 0
}

// mayChoose checks a number that the client chose, before anything is done
// under it: 0 leaves the choice to the server.
func (s *Session) mayChoose(num fsproto.Node) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case num != 0 && num&fsproto.ClientChosen == 0:
		return syscall.EINVAL
	case s.numbers[num] != nil:
		return syscall.EEXIST
	case len(s.refs) >= s.e.cfg.MaxNodes:
		return syscall.ENFILE
	}
	return nil
}

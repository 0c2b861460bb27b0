package export

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"golang.org/x/sys/unix"
)

// Leases. A session that has a lease on a node may believe what it was told of it
// until it is called back. A call that changes something calls back all others that
// have a lease on what it changes, and waits for their answers before it begins; one
// that does not answer in time is fenced: it has lost all its leases, and no call of
// its is served until it has answered that it knows.
//
// A lease is given with a reply (methods.go, grant), and only if nothing can have
// changed since the call began: every change takes a number at its beginning and at
// its end, and leaves the last one at the node.
//
// A session's own change of a file is not called back for, and while it runs the
// session is not called back for changes of others either: its kernel may hold the
// pages that it would have to drop until the change is answered. It is called back
// when that is over (ref.missed).

const (
	// recallTimeout is how long a session may take to answer a recall.
	recallTimeout = 10 * time.Second
	// fenceTimeout is how long calls of a fenced session wait for its answer.
	fenceTimeout = 30 * time.Second
	// DefaultLeases bounds the leases of one session. The coldest are called back.
	DefaultLeases = 1 << 18
	// recallBytes bounds the names in one recall, in bytes.
	recallBytes = 32 << 10
)

// leases is who has a lease on what. mu guards memory only, and what says so in node
// and ref; it comes after Session.mu and Export.mu.
type leases struct {
	max    int           // of one session
	within time.Duration // that a session has to answer a recall

	mu    sync.Mutex
	clock uint64 // rises with every beginning and end of a change
	lost  uint64 // the clock when a node that is not known any more last changed
	all   uint64 // the clock when changes may have been missed
	blind bool   // changes by programs on the server are not told at all

	sessions map[*Session]struct{} // that get leases

	delayers atomic.Int32 // nodes of which a session may delay changes; changed under mu
}

// leased is what a node has of leases, guarded by leases.mu.
type leased struct {
	holders  []*ref    // that have a lease, or have not answered a recall yet
	changers []*change // that are under way
	changed  uint64    // the clock at the last change
	by       *Session  // whose that was; nil: a program's on the server
	others   uint64    // the clock at the last change by anybody else
	watched  uint64    // the clock since when changes of it are told; 0: they are not
	looked   looked    // without having been told of a change
	handles  int       // of all sessions
	writers  int       // those open for writing
	delayer  *ref      // may delay its changes of the file; nil: nobody may
	in       *node     // of a file: the directory with its only name; also guarded by Export.mu, and referenced
}

// lease is what a ref has of leases, guarded by leases.mu.
type lease struct {
	num     fsproto.Node // that the client knows the node by; 0: there is no lease
	at      int          // index in node.holders, if num or recall is set
	recall  *recall      // the last one, while it is not answered
	handles int32        // of the session
	writers int32        // those open for writing
	busy    int          // changes of the file by this session that are under way
	missed  uint8        // what the session is to be called back for afterwards

	colder, warmer *ref // in the session's list, if num is set
}

// firstClock is where the clock begins: above all that an earlier process of this boot
// has told, as it rises less than once in a nanosecond.
func firstClock() uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 1
	}
	return uint64(now.Nano()) + 1
}

// now returns the clock, for a call that begins.
func (l *leases) now() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clock
}

// since returns the clock at the last change of n by others than s.
func (n *node) since(s *Session) uint64 {
	if n.by == s {
		return n.others
	}
	return n.changed
}

// contested reports whether others than s are changing n. A change of a file that is
// still waiting for recalls will take back what is given meanwhile. For a call that
// changes nothing itself, it is also so if s is changing a file: others may see the
// change before s has its answer.
func (n *node) contested(s *Session, changes bool) bool {
	return slices.ContainsFunc(n.changers, func(c *change) bool {
		if c.s == s {
			return !changes && !n.isDir()
		}
		return c.closed || n.isDir()
	})
}

// beingChanged returns what is closed when a change of n by others than s, that is being
// made now, has been; nil if there is none.
func (l *leases) beingChanged(n *node, s *Session) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range n.changers {
		if c.s != s && c.made {
			return c.ended()
		}
	}
	return nil
}

// grant gives the session of r a lease on its node, which it knows as num, and
// returns the lease's number. 0 if the node may have changed since the clock began.
// changes says whether the call is one that changes something. mu is held.
func (l *leases) grant(r *ref, num fsproto.Node, began uint64, changes bool) uint64 {
	n, c := r.n, &r.s.recalls
	if n.delayer != nil && n.delayer != r {
		return 0
	}
	if began < l.all || n.since(r.s) > began || n.contested(r.s, changes) || r.missed != 0 || !c.granting() {
		return 0
	}
	l.give(r, num)
	if l.blind || !n.covered(began) {
		return l.clock | fsproto.LeaseBrief
	}
	return l.clock
}

// give makes the session of r one that is called back for its node. mu is held.
func (l *leases) give(r *ref, num fsproto.Node) {
	c := &r.s.recalls
	if r.num != 0 {
		c.unlink(r)
	} else {
		c.count++
		r.n.hold(r)
	}
	r.num = num
	c.link(r)
	if c.count > l.max {
		l.clock++ // above the number of what is taken back
		l.recall(c.coldest, fsproto.RecallAttr|fsproto.RecallData|fsproto.RecallNames, "")
	}
}

// covered reports whether all changes of n since the clock began are told: of itself,
// or of the directory where it has its only name.
func (n *node) covered(began uint64) bool {
	if n.watched != 0 && n.watched <= began {
		return true
	}
	return n.in != nil && n.in.watched != 0 && n.in.watched <= began
}

// hold enters r among the holders, where an unanswered recall may have left it.
func (n *node) hold(r *ref) {
	if r.recall == nil {
		r.at = len(n.holders)
		n.holders = append(n.holders, r)
	}
}

// unhold removes r from the holders if it has neither a lease nor a recall.
func (n *node) unhold(r *ref) {
	if r.num != 0 || r.recall != nil {
		return
	}
	last := len(n.holders) - 1
	n.holders[r.at] = n.holders[last]
	n.holders[r.at].at = r.at
	n.holders[last] = nil
	n.holders = n.holders[:last]
}

// end takes the lease of r away without a recall. mu is held.
func (l *leases) end(r *ref) {
	if r.num == 0 {
		return
	}
	r.s.recalls.unlink(r)
	r.s.recalls.count--
	r.num = 0
	r.n.unhold(r)
}

// forget ends what r has of leases: its session does not know the node any longer.
func (l *leases) forget(r *ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(r)
	l.endDelay(r)
	if c := r.recall; c != nil {
		r.recall = nil
		r.n.unhold(r)
		c.finish()
	}
}

// change is a call of a session that changes nodes.
type change struct {
	s       *Session
	touched []touched
	skipped []*ref        // that were not called back because of a change of their own
	opens   bool          // it only opens a file for writing
	closed  bool          // leases on files that it changes are not given any more
	made    bool          // it is being made
	futile  bool          // it has turned out to change nothing
	late    bool          // another has changed one of its names since it began
	over    chan struct{} // closed when it has been, if anybody waits for that

	// For telling the others (notice.go). References are held as long as touched has
	// them; nil is not known.
	dir, newDir *node
	name        string // in dir
	subject     *node  // what it happens to
	kind        uint32 // type bits of its mode, if there was an entry
	replaced    *node  // by a rename
	created     bool   // a create has made a file
}

// touched is what a change does to a node: Recall… bits, and to a directory's entry.
type touched struct {
	n    *node // a reference is held
	own  *ref  // what the session knows of it; nil: nothing
	what uint8
	name string
}

// busies reports whether the session is not called back for a node while it makes the
// change: its kernel holds pages of a file until a change of its data or attributes is
// answered, but not until an open is.
func (c *change) busies(t *touched) bool { return t.own != nil && !t.n.isDir() && !c.opens }

// alike reports whether both concern one name.
func (c *change) alike(other *change) bool {
	for i := range c.touched {
		for j := range other.touched {
			t, u := &c.touched[i], &other.touched[j]
			if t.n == u.n && t.name == u.name && t.name != "" {
				return true
			}
		}
	}
	return false
}

// errOvertaken says that another change has made something else of a name: of what is
// there now, and by who has made it, nobody was called back.
var errOvertaken = errors.New("the name has changed meanwhile")

// enter enters a change, and returns when it is to be made, or with errOvertaken. It has
// to be ended in any case. Changes of one name are made one after the other.
func (l *leases) enter(ctx context.Context, c *change) error {
	waits := l.begin(c)
	for n := 1; ; n++ {
		if err := l.await(ctx, waits); err != nil {
			return err
		}
		var before <-chan struct{}
		var err error
		if waits, before, err = l.repeat(c, n >= recallRounds); err != nil || c.made {
			return err
		}
		if before == nil {
			continue
		}
		select {
		case <-before:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin enters a change and returns the recalls that have to be answered before it
// may be made.
func (l *leases) begin(c *change) (waits []*recall) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	for i := range c.touched {
		t := &c.touched[i]
		t.n.changers = append(t.n.changers, c)
		if c.busies(t) {
			t.own.busy++
		}
		// Backwards, as an entry that goes is replaced by the last one.
		for j := len(t.n.holders) - 1; j >= 0; j-- {
			r := t.n.holders[j]
			switch {
			case r.s == c.s:
			case r.busy > 0 && t.n.delayer != r:
				r.missed |= t.what
				c.skipped = append(c.skipped, r)
			default:
				if w := l.recall(r, t.what, t.name); w != nil {
					waits = append(waits, w)
				}
			}
		}
	}
	return waits
}

// repeat returns recalls of leases on files that were given since those before, whoever
// has taken them back, and what is closed when a change of the same name that is being
// made has been. None: the change may be made. The last time no more are given.
func (l *leases) repeat(c *change, last bool) (waits []*recall, before <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.late {
		return nil, nil, errOvertaken
	}
	l.clock++ // above the numbers of what is taken back
	for i := range c.touched {
		t := &c.touched[i]
		if t.n.isDir() {
			for _, other := range t.n.changers {
				if other != c && other.made && c.alike(other) {
					before = other.ended()
				}
			}
			continue
		}
		for j := len(t.n.holders) - 1; j >= 0; j-- {
			r := t.n.holders[j]
			switch {
			case r.s == c.s:
			case r.busy > 0 && t.n.delayer != r: // since begin
				r.missed |= t.what
				c.skipped = append(c.skipped, r)
			default:
				if w := l.recall(r, t.what, ""); w != nil {
					waits = append(waits, w)
				}
			}
		}
	}
	c.made = len(waits) == 0 && before == nil
	c.closed = c.made || last
	return waits, before, nil
}

// ended returns what is closed when the change has ended. leases.mu is held.
func (c *change) ended() <-chan struct{} {
	if c.over == nil {
		c.over = make(chan struct{})
	}
	return c.over
}

// finish ends a change, made or not. It returns recalls of sessions whose own changes
// ran beside it and have ended before: they have to be answered before this one is.
func (l *leases) finish(c *change) (waits []*recall) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range c.skipped {
		if r.busy == 0 && r.recall != nil {
			waits = append(waits, r.recall)
		}
	}
	if c.over != nil {
		close(c.over)
	}
	l.clock++
	for i := range c.touched {
		t := &c.touched[i]
		n := t.n
		at := slices.Index(n.changers, c)
		n.changers = slices.Delete(n.changers, at, at+1)
		if c.made && !c.futile && t.name != "" {
			for _, other := range n.changers {
				other.late = other.late || c.alike(other)
			}
		}
		if n.by != c.s {
			n.by, n.others = c.s, n.changed
		}
		n.changed = l.clock
		r := t.own
		if !c.busies(t) {
			continue
		}
		if r.busy--; r.busy == 0 && r.missed != 0 {
			l.recall(r, r.missed, "")
			r.missed = 0
		}
	}
	return waits
}

// opened counts handles of a session on a node.
func (l *leases) opened(r *ref, writes bool, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := r.n
	n.handles += by
	r.handles += int32(by)
	if writes {
		n.writers += by
		r.writers += int32(by)
		if r.writers == 0 {
			l.endDelay(r)
		}
	}
}

// sharesFile reports whether s and others have a file open, and one of them may write.
func (s *Session) sharesFile(n *node) bool {
	s.mu.Lock()
	r := s.refs[n]
	s.mu.Unlock()
	if r == nil || n.isDir() {
		return false
	}
	s.e.leases.mu.Lock()
	defer s.e.leases.mu.Unlock()
	return n.writers > int(r.writers) || r.writers > 0 && n.handles > int(r.handles)
}

// watched notes that changes of n are told from now on, or (false) no more.
func (l *leases) watched(n *node, are bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	n.watched = 0
	if are {
		n.watched = l.clock
	}
}

// isCovered reports whether changes of n are told now.
func (l *leases) isCovered(n *node) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return n.covered(l.clock)
}

// move notes in which directory a file has its only name; nil: that is not known. If
// changes of it have not been told so far, or are not any longer, what was believed
// of it is taken back. Export.mu is held.
func (l *leases) move(n, in *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := n.covered(l.clock)
	n.in = in
	if n.covered(l.clock) != was {
		l.foreignLocked(n, recallWhole, "")
	}
}

// foreign tells of a change that was made on the server, by none of the sessions. It
// returns the recalls that it causes.
func (l *leases) foreign(n *node, what uint8, name string) (waits []*recall) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.foreignLocked(n, what, name)
}

func (l *leases) foreignLocked(n *node, what uint8, name string) (waits []*recall) {
	l.clock++
	if n.by != nil {
		n.by, n.others = nil, n.changed
	}
	n.changed = l.clock
	for i := len(n.holders) - 1; i >= 0; i-- {
		if w := l.recall(n.holders[i], what, name); w != nil {
			waits = append(waits, w)
		}
	}
	return waits
}

// known sets what a node that has just become known has to be believed to have been
// changed at; dropped notes that one is not known any more.
func (l *leases) known(n *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n.changed = l.lost
}

func (l *leases) dropped(n *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = max(l.lost, n.changed)
}

// unknown notes a change of something that no session knows, but may be about to.
func (l *leases) unknown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	l.lost = l.clock
}

// overflow notes that changes have been missed: nothing of what was given is good.
// Blind says that there will be no more events.
func (l *leases) overflow(blind bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	l.all, l.blind = l.clock, l.blind || blind
	for s := range l.sessions {
		l.fence(s)
		if s.notices.wanted {
			s.notices.lost = true
			s.sendNoticesSoon()
		}
	}
}

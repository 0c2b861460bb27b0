package mount

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// errUnasked says that the kernel did not look up a name whose node a call is about: it
// had another one in its cache.
var errUnasked = errors.New("the kernel has not looked the name up")

// errStale says that what was to be told is not so any more.
var errStale = errors.New("it has changed again")

// injection is one system call of the injector, and how the requests are answered that
// the kernel makes of it. What differs from that is refused with EIO; no change gets to
// the daemon.
type injection struct {
	by     *injector
	event  *fsproto.Event
	call   func() error // makes the system call
	done   chan struct{}
	err    error         // when done is closed
	thread *injectThread // that makes it
	clock  uint64
	held   []fsproto.Node // references to be given back

	// What the requests are about. They do not change while the call is made.
	kind  requestKind   // the change that is made
	shown []*shown      // what is found under names; other names are not looked up
	node  fsproto.Node  // of a change of a node itself
	attr  *fsproto.Attr // what it is like afterwards
	made  *shown        // by a create
	drop  []*shown      // names that the kernel must not keep

	mu       sync.Mutex
	walking  bool // the way to a directory is being looked up: answered like anybody's
	asked    map[*shown]bool
	unasked  bool // a change came, of a name that was not looked up
	answered bool // the change has been answered
}

// shown is what stands under a name, as the kernel is to see it.
type shown struct {
	dir     fsproto.Node
	name    string
	entry   *fsproto.Entry // nil: nothing
	unknown bool           // a node that exists for the call only
	gone    bool           // the daemon does not have the node any more
	keep    bool           // it is so, and may be believed
	lease   uint64         // on the directory, with keep
}

// entryName names an entry of a directory.
type entryName struct {
	dir  fsproto.Node
	name string
}

func (in *injector) newInjection(e *fsproto.Event) *injection {
	return &injection{
		by: in, event: e, done: make(chan struct{}), asked: make(map[*shown]bool),
		clock: in.fs.nodes.clock.read(),
	}
}

// make makes the call and says what has become of it.
func (j *injection) make() error {
	err := j.call()
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.unasked:
		return errUnasked
	case err != nil:
		return err
	case !j.answered:
		return fmt.Errorf("the kernel did not ask for it: %w", syscall.EPROTO)
	}
	return nil
}

// clean gives back what the call needed, and takes away what it may have left.
func (j *injection) clean() {
	for _, s := range j.drop {
		j.by.fs.notices.kernel.EntryNotify(uint64(s.dir), s.name)
	}
	for _, n := range j.held {
		j.by.fs.Forget(uint64(n), 1)
	}
}

// walk says whether names on the way to a directory are being looked up.
func (j *injection) walk(on bool) {
	j.mu.Lock()
	j.walking = on
	j.mu.Unlock()
}

// lookup answers for a name; not ok: it is answered like anybody's.
func (j *injection) lookup(dir fsproto.Node, name string, out *fuse.EntryOut) (st fuse.Status, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if dir == fsproto.RootNode && name == j.by.void.name {
		j.by.void.fill(out)
		return fuse.OK, true
	}
	for _, s := range j.shown {
		if s.dir != dir || s.name != name {
			continue
		}
		j.asked[s] = true
		if s.entry == nil {
			return fuse.ENOENT, true
		}
		return j.by.fs.reveal(s, out, true), true
	}
	return fuse.EIO, !j.walking
}

// change reports whether a change of entries is the expected one. All its names must
// have been looked up: the directory has been locked since.
func (j *injection) change(kind requestKind, names ...entryName) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if kind != j.kind || len(names) != len(j.shown) {
		return false
	}
	for i, s := range j.shown {
		if s.dir != names[i].dir || s.name != names[i].name {
			return false
		}
		j.unasked = j.unasked || !j.asked[s]
	}
	j.answered = !j.unasked
	return j.answered
}

// exchanges reports whether two names are exchanged.
func (j *injection) exchanges() bool { return j.event != nil && j.event.Exchange }

// making answers a request that makes an entry.
func (j *injection) making(kind requestKind, dir uint64, name string, out *fuse.EntryOut) fuse.Status {
	if !j.change(kind, entryName{fsproto.Node(dir), name}) {
		return fuse.EIO
	}
	if j.made.keep {
		e := j.made.entry
		j.by.fs.leases.keep(e.Node, &e.Attr, j.clock)
	}
	return j.by.fs.reveal(j.made, out, false)
}

// removing answers a request that removes one.
func (j *injection) removing(kind requestKind, dir uint64, name string) fuse.Status {
	if !j.change(kind, entryName{fsproto.Node(dir), name}) {
		return fuse.EIO
	}
	return fuse.OK
}

// itself reports whether a request about a node is the expected one, and that nothing
// of what is known of it has been overtaken by a change of our own.
func (j *injection) itself(kind requestKind, node uint64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if kind != j.kind {
		return false
	}
	if fsproto.Node(node) != j.node || j.by.fs.nodes.changedSince(j.node, j.clock) {
		j.unasked = true
		return false
	}
	j.answered = true
	return true
}

// reveal fills in what the kernel is told of a name; for asked see fillEntry.
func (fs *FS) reveal(s *shown, out *fuse.EntryOut, asked bool) fuse.Status {
	e := s.entry
	if !s.unknown && !fs.nodes.again(e.Node) {
		return fuse.EIO
	}
	if s.keep {
		fs.nodes.looked(e.Node)
		fs.show(e.Node, &e.Attr)
		fs.fillEntry(out, e, asked, fs.nameTimeout(fs.entryTimeout, s.dir, s.name, s.lease), 0)
		return fuse.OK
	}
	if !s.unknown {
		fs.show(e.Node, &e.Attr)
	}
	out.NodeId = uint64(e.Node)
	fs.fillAttr(&out.Attr, &e.Attr)
	return fuse.OK
}

// void is a directory that only the injector gets to, below the root. Under names in it
// it calls what it knows no other name of, and there it makes happen one half of a
// rename whose other half is in a directory that is not known here.
type void struct {
	node fsproto.Node
	name string // not to be guessed
}

// voidEntry is the name that is used there.
const voidEntry = "x"

func newVoid(fs *FS) void {
	var b [16]byte
	rand.Read(b[:])
	return void{node: fs.newNode(), name: ".rpycfs-" + hex.EncodeToString(b[:])}
}

func (v *void) fill(out *fuse.EntryOut) {
	out.NodeId = uint64(v.node)
	v.fillAttr(&out.Attr)
	out.SetAttrTimeout(leaseTime)
}

func (v *void) fillAttr(out *fuse.Attr) {
	*out = fuse.Attr{Ino: uint64(v.node), Mode: syscall.S_IFDIR | 0o700, Nlink: 2, Owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}}
}

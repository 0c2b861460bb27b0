package export

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/fsevents"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"golang.org/x/sys/unix"
)

// ident tells inodes apart, reused inode numbers included.
type ident struct {
	dev, ino uint64
	sec      int64  // birth time, or a hash of the kernel's handle
	nsec     uint32 // noBirth with the hash
}

const noBirth = ^uint32(0)

// hint is a name that a node had.
type hint struct {
	dir  ident
	name string
}

// maxHints bounds the names that are remembered of a node.
const maxHints = 4

// node is an inode that is in use. Fields in the first block never change; the
// others are guarded by Export.mu.
type node struct {
	id     ident
	kind   uint32               // type bits of the mode
	kernel beneath.KernelHandle // of a directory, with privilege
	handle beneath.KernelHandle // what the kernel calls it
	object fsevents.Object      // what events call it; "": they do not tell of it

	cell  mapped.Cell   // its record
	refs  int           // sessions that know it, calls and open files that use it
	hints []hint        // the latest first
	locks *lockTable    // nil: nobody has asked for a lock
	path  *beneath.Path // nil: must be found again
	users int           // of path: calls and open files; all are counted in refs
	used  time.Time     // when users last became 0
	place *list.Element // in Export.idle: path is set and users is 0

	leased // guarded by leases.mu
}

func (n *node) isDir() bool { return n.kind == unix.S_IFDIR }

func device(st *beneath.Stat) uint64 { return unix.Mkdev(st.Dev_major, st.Dev_minor) }

// handleFunc asks the kernel for its handle of an object.
type handleFunc func() (beneath.KernelHandle, error)

// identOf returns the identity of an object. Where the file system keeps no
// birth time, the kernel's handle stands in for it: it holds a generation.
func identOf(st *beneath.Stat, get handleFunc) (ident, error) {
	id := ident{dev: device(st), ino: st.Ino, sec: st.Btime.Sec, nsec: st.Btime.Nsec}
	if st.Mask&unix.STATX_BTIME != 0 {
		return id, nil
	}
	kernel, err := get()
	if err != nil && !isErrno(err, unix.EOPNOTSUPP, unix.EOVERFLOW) {
		return id, err
	}
	sum := sha256.Sum256([]byte(kernel.Data))
	id.sec, id.nsec = int64(binary.LittleEndian.Uint64(sum[:])), noBirth
	return id, nil
}

// intern returns the node of an object with a reference for the caller, and
// remembers the name that led to it, unless that is empty.
func (e *Export) intern(st *beneath.Stat, at hint, get handleFunc) (*node, error) {
	if err := e.within(st); err != nil {
		return nil, err
	}
	id, err := identOf(st, get)
	if err != nil {
		return nil, err
	}
	if n := e.met(id, at, st.Nlink); n != nil {
		return n, nil
	}
	n := &node{id: id, kind: uint32(st.Mode) & unix.S_IFMT}
	kernel, err := get()
	if err != nil && !isErrno(err, unix.EOPNOTSUPP, unix.EOVERFLOW) {
		return nil, err
	}
	n.handle = kernel
	if n.isDir() && e.priv.ByHandle {
		n.kernel = kernel
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nodes[id] == nil {
		e.nodes[id] = n
		e.leases.known(n)
		e.watch(n, kernel)
		e.enclose(n, at, st.Nlink)
		if at.name == "" {
			e.record(n)
		}
	}
	return e.metLocked(id, at, st.Nlink), nil
}

// met returns the node with an identity, a reference for the caller taken and
// the name remembered, or nil. It has so many links.
func (e *Export) met(id ident, at hint, links uint32) *node {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.metLocked(id, at, links)
}

func (e *Export) metLocked(id ident, at hint, links uint32) *node {
	n := e.nodes[id]
	if n != nil {
		n.refs++
		e.name(n, at)
		e.found(n, at, links)
	}
	return n
}

// find returns the node with an identity and a reference for the caller, or nil.
func (e *Export) find(id ident) *node {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.nodes[id]
	if n != nil {
		n.refs++
	}
	return n
}

// keep takes a reference of a node that somebody else holds one of.
func (e *Export) keep(n *node) {
	e.mu.Lock()
	n.refs++
	e.mu.Unlock()
}

// unref gives a reference back.
func (e *Export) unref(n *node) {
	e.mu.Lock()
	unused := e.drop(n)
	e.mu.Unlock()
	closeAll(unused)
}

// drop gives a reference back with mu held, and returns what is to be closed.
func (e *Export) drop(n *node) []*beneath.Path {
	if n.refs--; n.refs > 0 {
		return nil
	}
	delete(e.nodes, n.id)
	n.cell.Free()
	e.unwatch(n)
	e.leases.dropped(n)
	for _, at := range n.hints {
		e.unname(n, at)
	}
	unused := []*beneath.Path{e.forgetPath(n)}
	if n.in != nil {
		unused = append(unused, e.drop(n.in)...)
	}
	return unused
}

// name puts a name in front of the hints; mu is held.
func (e *Export) name(n *node, h hint) {
	if h.name == "" || (len(n.hints) > 0 && n.hints[0] == h) {
		return
	}
	n.unnamed(h)
	if len(n.hints) == maxHints {
		e.unname(n, n.hints[maxHints-1])
		n.hints = n.hints[:maxHints-1]
	}
	n.hints = slices.Insert(n.hints, 0, h)
	e.record(n)
}

func (n *node) unnamed(h hint) {
	n.hints = slices.DeleteFunc(n.hints, func(o hint) bool { return o == h })
}

// hintsOf returns a copy of what is known of n's names.
func (e *Export) hintsOf(n *node) []hint {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(n.hints)
}

// renamed moves what is known of an entry from one name to another; a name that
// is empty is none.
func (e *Export) renamed(id ident, from, to hint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := e.nodes[id]; n != nil {
		n.unnamed(from)
		if e.name(n, to); to.name == "" {
			e.record(n)
		}
		e.moved(n, from, to)
	}
}

// remember notes a name of n.
func (e *Export) remember(n *node, at hint) {
	e.mu.Lock()
	e.name(n, at)
	e.mu.Unlock()
}

package mount

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
)

// node is what this side knows of a node that the kernel refers to.
type node struct {
	lookups uint64 // references of the kernel and of fetched listings
	stamp   uint64 // newest stamp seen, for forget
	ino     uint64
	dir     bool
	entered bool // it may be somebody's working directory

	// changed is the clock's reading when a request of our own last changed
	// the node or, for a directory, its entries.
	changed uint64

	seen   seen          // what the kernel has of the node
	looked time.Duration // when a lookup told of it last, since the table was made
	kept   time.Duration // of a directory: when an answer let the kernel believe its name last; 0: never
	opens  int           // open files
	may    mayOpen       // while seen.leased

	changes   int           // requests of our own under way that change its entries
	listed    time.Duration // when a listing told the kernel last of entries to be believed
	contended time.Duration // until when its names are not believed, since the table was made
	moves     int           // renames of our own that bring names into it and are under way
	moved     movedNames    // what such have brought, which the kernel may believe

	// For finding the node again at a restarted daemon. Parent and name are
	// hints: the file may have been renamed elsewhere or have other names.
	handle fsproto.FileHandle
	parent fsproto.Node
	name   string
}

// nodeShards is the number of locks that the nodes share; a power of two.
const nodeShards = 64

// nodeTable holds the nodes that the kernel knows. Its clock rises with every
// change that a request of our own makes, so that a listing fetched earlier is
// known to be older.
type nodeTable struct {
	clock  clock
	made   time.Time
	count  atomic.Int64
	shards [nodeShards]nodeShard
	dirs   *dirNames
	former former
}

type nodeShard struct {
	mu    sync.Mutex
	nodes map[fsproto.Node]*node
}

func newNodeTable() *nodeTable {
	t := &nodeTable{made: time.Now(), dirs: newDirNames()}
	for i := range t.shards {
		t.shards[i].nodes = make(map[fsproto.Node]*node)
	}
	return t
}

func (t *nodeTable) shard(n fsproto.Node) *nodeShard { return &t.shards[uint64(n)%nodeShards] }

// note adds one reference to the node of an entry that a reply has named, found
// as name in parent ("" if that is unknown).
func (t *nodeTable) note(e *fsproto.Entry, parent fsproto.Node, name string) {
	s := t.shard(e.Node)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[e.Node]
	if n == nil {
		n = &node{dir: e.Attr.IsDir()}
		s.nodes[e.Node] = n
		t.count.Add(1)
	}
	n.lookups++
	n.stamp = max(n.stamp, e.Stamp)
	n.ino = e.Attr.Ino
	if !bytes.Equal(n.handle, e.FileHandle) {
		n.handle = bytes.Clone(e.FileHandle)
	}
	if name == "" {
		return
	}
	if at := (entryName{parent, name}); n.dir {
		t.dirs.seen(e.Node, at)
	} else if n.parent != parent || n.name != name {
		t.dirs.taken(at)
	}
	n.parent, n.name = parent, name
}

// again adds a reference to a node that the kernel knows. It reports whether it does.
func (t *nodeTable) again(id fsproto.Node) (known bool) {
	t.update(id, func(n *node) { n.lookups, known = n.lookups+1, true })
	return known
}

// placeOf returns the name that a node was last seen under; "" if none.
func (t *nodeTable) placeOf(id fsproto.Node) (parent fsproto.Node, name string) {
	t.update(id, func(n *node) { parent, name = n.parent, n.name })
	if name == "" {
		at := t.former.of(id)
		return at.dir, at.name
	}
	return parent, name
}

// looked notes that a lookup tells the kernel of a node.
func (t *nodeTable) looked(id fsproto.Node) {
	t.update(id, func(n *node) { n.looked = time.Since(t.made) })
}

// opened adds to the number of the node's open files.
func (t *nodeTable) opened(id fsproto.Node, by int) { t.update(id, func(n *node) { n.opens += by }) }

// justLooked is how long after a lookup an open may come that belongs to it.
const justLooked = 500 * time.Millisecond

// outdated reports whether an open that comes now found the node by a name that
// the kernel had in its cache, and by nothing else.
func (t *nodeTable) outdated(id fsproto.Node) (old bool) {
	t.update(id, func(n *node) { old = n.opens == 0 && time.Since(t.made)-n.looked > justLooked })
	return old
}

// moved updates the hints of a node after a rename.
func (t *nodeTable) moved(of, parent fsproto.Node, name string) {
	t.update(of, func(n *node) { n.parent, n.name = parent, name })
	t.former.moved(of, entryName{parent, name})
}

// renamed is moved for what the kernel has renamed itself.
func (t *nodeTable) renamed(of, parent fsproto.Node, name string) {
	t.moved(of, parent, name)
	t.update(of, func(n *node) {
		if n.dir {
			t.dirs.seen(of, entryName{parent, name})
		}
	})
}

// touch records that a request of our own has changed the nodes.
func (t *nodeTable) touch(nodes ...fsproto.Node) {
	now := t.clock.next()
	for _, id := range nodes {
		t.update(id, func(n *node) { n.changed = max(n.changed, now) })
	}
}

// changedSince reports whether a request of our own has changed the node after
// the clock read then.
func (t *nodeTable) changedSince(id fsproto.Node, then uint64) (changed bool) {
	t.update(id, func(n *node) { changed = n.changed > then })
	return changed
}

// changing notes that a request of our own is about to change entries of directories,
// whose locks the kernel holds until the function that it returns is called.
func (t *nodeTable) changing(dirs ...fsproto.Node) (done func()) {
	for _, dir := range dirs {
		t.update(dir, func(n *node) { n.changes++ })
	}
	return func() {
		for _, dir := range dirs {
			t.update(dir, func(n *node) { n.changes = max(0, n.changes-1) })
		}
	}
}

// isChanging reports whether entries of a directory are being changed.
func (t *nodeTable) isChanging(dir fsproto.Node) (changing bool) {
	t.update(dir, func(n *node) { changing = n.changes > 0 })
	return changing
}

// moving is changing for a rename: what it brings under these names keeps the time for
// which it was to be believed where it was before.
func (t *nodeTable) moving(brings ...entryName) (done func()) {
	dirs := make([]fsproto.Node, len(brings))
	for i, e := range brings {
		dirs[i] = e.dir
	}
	changed := t.changing(dirs...)
	for _, e := range brings {
		t.update(e.dir, func(n *node) {
			n.moves++
			n.moved.add(e.name)
		})
	}
	return func() {
		for _, e := range brings {
			t.update(e.dir, func(n *node) { n.moves = max(0, n.moves-1) })
		}
		changed()
	}
}

// movedNames are names that renames have brought into a directory. Once they are too many,
// "" stands for all there are.
type movedNames map[string]struct{}

const maxMoved = 64

func (m *movedNames) add(name string) {
	switch {
	case m.any([]string{name}):
		return
	case *m == nil:
		*m = make(movedNames)
	case len(*m) >= maxMoved:
		clear(*m)
		name = ""
	}
	(*m)[name] = struct{}{}
}

// any reports whether one of these names may be among them.
func (m *movedNames) any(names []string) bool {
	if _, all := (*m)[""]; all {
		return true
	}
	return slices.ContainsFunc(names, func(name string) bool {
		_, is := (*m)[name]
		return is
	})
}

// believes reports whether the kernel may believe one of these names in a directory although
// it should believe none, because a listing or a rename has brought it. It is made to look
// all of them up anew, then.
func (t *nodeTable) believes(dir fsproto.Node, names []string) (may bool) {
	listed := t.listedWithin(dir, arriving)
	t.update(dir, func(n *node) {
		may = listed || n.moved.any(names)
		if may && n.moves == 0 {
			n.moved = nil
		}
	})
	return may
}

// contended reports whether the names of a directory are not to be believed now, and
// extends that if it is so.
func (t *nodeTable) contended(dir fsproto.Node, extend bool) (contended bool) {
	now := time.Since(t.made)
	t.update(dir, func(n *node) {
		if contended = n.contended > now; contended && extend {
			n.contended = now + contendedFor
		}
	})
	return contended
}

// contend begins the time in which names of a directory are not believed.
func (t *nodeTable) contend(dir fsproto.Node) {
	now := time.Since(t.made)
	t.update(dir, func(n *node) { n.contended = now + contendedFor })
}

// listedNow notes that a listing tells the kernel of entries to be believed;
// listedWithin reports whether that was lately.
func (t *nodeTable) listedNow(dir fsproto.Node) {
	now := time.Since(t.made)
	t.update(dir, func(n *node) { n.listed = now })
}

func (t *nodeTable) listedWithin(dir fsproto.Node, d time.Duration) (lately bool) {
	now := time.Since(t.made)
	t.update(dir, func(n *node) { lately = n.listed != 0 && now-n.listed < d })
	return lately
}

// isDir reports whether a node that the kernel knows is a directory.
func (t *nodeTable) isDir(id fsproto.Node) (dir bool) {
	t.update(id, func(n *node) { dir = n.dir })
	return dir
}

// toldWithin reports whether the kernel was told of a node lately.
func (t *nodeTable) toldWithin(id fsproto.Node, d time.Duration) (lately bool) {
	now := time.Since(t.made)
	t.update(id, func(n *node) { lately = n.seen.told != 0 && now-n.seen.told < d })
	return lately
}

// keeps notes that an answer lets the kernel believe the name of a directory.
func (t *nodeTable) keeps(id fsproto.Node) {
	now := time.Since(t.made)
	t.update(id, func(n *node) { n.kept = now })
}

// entered notes that somebody is about to make a directory his working directory.
func (t *nodeTable) entered(id fsproto.Node) { t.update(id, func(n *node) { n.entered = n.dir }) }

// dirAt returns the directory that the kernel has under a name, whether somebody has
// entered it, and whether no answer that lets the kernel believe the name can still be on
// its way.
func (t *nodeTable) dirAt(at entryName) (id fsproto.Node, entered, settled bool) {
	id = t.dirs.find(at)
	now := time.Since(t.made)
	t.update(id, func(n *node) { entered, settled = n.entered, n.kept == 0 || now-n.kept > takenIn })
	return id, entered, settled
}

// all returns the nodes that the kernel may know.
func (t *nodeTable) all() (ids []fsproto.Node) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for id := range s.nodes {
			ids = append(ids, id)
		}
		s.mu.Unlock()
	}
	return ids
}

// namesIn returns the names in a directory by which nodes were found.
func (t *nodeTable) namesIn(dir fsproto.Node) (names []string) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, n := range s.nodes {
			if n.parent == dir && n.name != "" {
				names = append(names, n.name)
			}
		}
		s.mu.Unlock()
	}
	return names
}

// inoOf returns the inode number of a node.
func (t *nodeTable) inoOf(id fsproto.Node) (ino uint64) {
	t.update(id, func(n *node) { ino = n.ino })
	return ino
}

// inoOfParent returns the inode number of the directory that the node was last
// seen in, or 0.
func (t *nodeTable) inoOfParent(id fsproto.Node) (ino uint64) {
	t.update(t.parentOf(id), func(n *node) { ino = n.ino })
	return ino
}

// parentOf returns the directory that the node was last seen in, or 0.
func (t *nodeTable) parentOf(id fsproto.Node) (parent fsproto.Node) {
	t.update(id, func(n *node) { parent = n.parent })
	return parent
}

// update calls f for a known node, under its lock.
func (t *nodeTable) update(id fsproto.Node, f func(*node)) {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[id]; n != nil {
		f(n)
	}
}

// forget takes references away. When the last one is gone it returns what to
// tell the daemon. The root stays.
func (t *nodeTable) forget(id fsproto.Node, lookups uint64) (f fsproto.Forgotten, last bool) {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[id]
	if n == nil || id == fsproto.RootNode {
		return f, false
	}
	if n.lookups > lookups {
		n.lookups -= lookups
		return f, false
	}
	if n.dir && n.name != "" {
		t.former.add(id, entryName{n.parent, n.name})
		t.dirs.forget(id)
	}
	delete(s.nodes, id)
	t.count.Add(-1)
	return fsproto.Forgotten{Node: id, Stamp: n.stamp}, true
}

// gone returns those that are forgotten still. Another reply may have named one
// meanwhile; what it forgets later covers this, too.
func (t *nodeTable) gone(forgotten []fsproto.Forgotten) (still []fsproto.Forgotten) {
	for _, f := range forgotten {
		again := false
		t.update(f.Node, func(n *node) {
			again = true
			n.stamp = max(n.stamp, f.Stamp)
		})
		if !again {
			still = append(still, f)
		}
	}
	return still
}

// len counts the nodes, for tests and status.
func (t *nodeTable) len() (n int) {
	for i := range t.shards {
		t.shards[i].mu.Lock()
		n += len(t.shards[i].nodes)
		t.shards[i].mu.Unlock()
	}
	return n
}

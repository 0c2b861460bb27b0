package mount

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

func TestHotNames(t *testing.T) {
	h := newHotNames()
	for range 2 {
		if h.found(1, "a", 5) {
			t.Error("a name that nobody has changed is hot")
		}
	}
	h.made(1, "a", 0)
	if h.found(1, "a", 0) {
		t.Error("a name that we have removed is hot")
	}
	if h.found(2, "a", 0) || h.found(1, "b", 7) {
		t.Error("the same name elsewhere, or another one, is hot")
	}
	for range 2 {
		if !h.found(1, "a", 6) {
			t.Error("a name that somebody else has made is not hot")
		}
	}
	h.mu.Lock()
	h.slot(1, "a").changed = time.Now().Add(-hotFor)
	h.mu.Unlock()
	if h.found(1, "a", 6) {
		t.Error("a name stays hot")
	}
}

// notices collects notifications of inodes.
type notices []int64

func (k *notices) InodeNotify(_ uint64, off, _ int64) fuse.Status {
	*k = append(*k, off)
	return fuse.OK
}

func (k *notices) EntryNotify(uint64, string) fuse.Status { return fuse.OK }

// TestShow: pages are dropped before the kernel is told of another state of a
// file, if it may have any.
func TestShow(t *testing.T) {
	var k notices
	fs := &FS{cfg: Config{AttrTimeout: time.Hour}, nodes: newNodeTable(), notices: newNotifier(slog.New(slog.DiscardHandler))}
	pass := func() { fs.nodes.made = fs.nodes.made.Add(-time.Hour) }
	pass()
	fs.notices.kernel = &k
	fs.nodes.note(entry(9, 1), 1, "nine")
	attr := func(change uint64) *fsproto.Attr { return &fsproto.Attr{Change: change} }
	wants := func(what string, want ...int64) {
		t.Helper()
		if len(k) != len(want) || len(want) > 0 && k[0] != want[0] {
			t.Errorf("%s: notified with offsets %v, want %v", what, k, want)
		}
		k = nil
	}
	fs.show(9, attr(1))
	wants("nothing was read")
	fs.nodes.reading(9)()
	fs.show(9, attr(1))
	wants("nothing has changed")
	fs.refresh(9, attr(1))
	wants("opened unchanged")
	fs.refresh(9, attr(2))
	wants("opened after a change", attrOnly)
	fs.show(9, attr(2))
	wants("changed after a read", 0)
	fs.refresh(9, attr(2))
	wants("opened while the kernel may have either", attrOnly)
	fs.show(9, attr(2))
	fs.refresh(9, attr(2))
	wants("told again, too early to be sure", attrOnly)
	pass()
	fs.show(9, attr(2))
	fs.refresh(9, attr(2))
	wants("told again, later")
	fs.show(9, attr(3))
	wants("changed, but not read since")
	if fs.refresh(9, attr(3)) || len(k) != 1 {
		t.Error("sure of what was told right after something else")
	}
	k = nil
	fs.told(9, attr(3))
	if !fs.refresh(9, attr(3)) {
		t.Error("not sure of what the reply to a change has told")
	}
	fs.drop(9)
	wants("appended, but not read since")
	fs.nodes.reading(9)()
	fs.drop(9)
	wants("appended after a read", 0)
	if !fs.nodes.newer(9, attr(2)) || fs.nodes.newer(9, attr(3)) || fs.nodes.newer(8, attr(1)) {
		t.Error("newer does not compare with what was told last")
	}
}

// TestOutdated: a removed file is opened by who has just looked it up, or where
// it is open already.
func TestOutdated(t *testing.T) {
	nodes := newNodeTable()
	nodes.note(entry(9, 1), 1, "nine")
	age := func(by time.Duration) { nodes.made = nodes.made.Add(-by) }
	age(time.Hour)
	if !nodes.outdated(9) {
		t.Error("known from a listing: not outdated")
	}
	nodes.looked(9)
	if nodes.outdated(9) {
		t.Error("outdated right after a lookup")
	}
	age(justLooked)
	if !nodes.outdated(9) {
		t.Error("not outdated long after the lookup")
	}
	nodes.opened(9, 1)
	if nodes.outdated(9) {
		t.Error("outdated while it is open")
	}
	nodes.opened(9, -1)
	if !nodes.outdated(9) {
		t.Error("not outdated when it is closed")
	}
}

// TestForgetOvertakes: two calls name a node. The reply to the later one is
// there and forgotten before the reply to the earlier one: the node stays.
func TestForgetOvertakes(t *testing.T) {
	fs := &FS{nodes: newNodeTable(), naming: newNaming()} // without a daemon to tell
	earlier := fs.naming.begin()
	begun := fs.naming.now
	fs.nodes.note(entry(9, 10), 1, "nine")
	f, last := fs.nodes.forget(9, 1)
	if !last {
		t.Fatal("not forgotten")
	}
	sent := make(chan error, 1)
	go func() { sent <- fs.sendForgets(t.Context(), []fsproto.Forgotten{f}) }()
	for waits := false; !waits; {
		fs.naming.mu.Lock()
		waits = fs.naming.now != begun
		fs.naming.mu.Unlock()
	}
	select {
	case err := <-sent:
		t.Fatal("sent without waiting: ", err)
	default:
	}
	fs.nodes.note(entry(9, 9), 1, "nine")
	earlier()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if f, last := fs.nodes.forget(9, 1); !last || f.Stamp != 10 {
		t.Errorf("forgotten later with %+v, %t, want the stamp that was seen", f, last)
	}
	if still := fs.nodes.gone([]fsproto.Forgotten{f}); len(still) != 1 {
		t.Error("a node that nobody has named again is kept")
	}
}

// fakePruner is a kernel that forgets nodes, or one that knows entries only.
type fakePruner struct {
	old   bool
	nodes map[uint64]bool
	names map[string]bool
}

func (p *fakePruner) PruneNotify(nodes []uint64) fuse.Status {
	if p.old {
		return fuse.ENOSYS
	}
	for _, n := range nodes {
		p.nodes[n] = true
	}
	return fuse.OK
}

func (p *fakePruner) EntryNotify(_ uint64, name string) fuse.Status {
	p.names[name] = true
	return fuse.OK
}

// TestTrim: what is open stays, and with kernels that know no better so do
// directories.
func TestTrim(t *testing.T) {
	nodes := newNodeTable()
	for i := range fsproto.Node(1000) {
		e := entry(i+2, 1)
		if i == 0 {
			e.Attr.Mode = fsproto.ModeDir
		}
		nodes.note(e, 1, fmt.Sprint(i))
	}
	nodes.opened(3, 1)
	trim := newTrimmer(nodes)
	k := &fakePruner{nodes: map[uint64]bool{}, names: map[string]bool{}}
	trim.kernel = k
	trim.forgetUnused(nodes.unused(2000))
	if len(k.nodes) != 999 || !k.nodes[2] || k.nodes[3] || len(k.names) != 0 {
		t.Errorf("%d nodes and %d names forgotten", len(k.nodes), len(k.names))
	}
	k.old, k.nodes = true, map[uint64]bool{}
	trim.forgetUnused(nodes.unused(2000))
	if len(k.nodes) != 0 || len(k.names) != 998 {
		t.Errorf("%d nodes and %d names forgotten by an old kernel", len(k.nodes), len(k.names))
	}
	some := nodes.unused(100)
	if n := len(some); n < 100 || n > 100+nodeShards {
		t.Errorf("%d nodes of 100", n)
	}
	if slices.ContainsFunc(some, func(n unusedNode) bool { return n.dir }) {
		t.Error("a directory is forgotten though there are enough files")
	}
	trim.limit.Store(1000)
	trim.check()
	if len(trim.wake) != 0 {
		t.Error("trims at the limit")
	}
	trim.refused()
	if len(trim.wake) != 1 || trim.limit.Load() != 750 {
		t.Errorf("does not trim when the daemon refuses, or to %d", trim.limit.Load())
	}
}

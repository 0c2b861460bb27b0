package mount

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// injectedFS is an FS with a thread of its injector that makes the call j, and the
// daemon's count of changes that got there.
func injectedFS(t *testing.T) (c injecting, thread *injectThread, changes *int) {
	t.Helper()
	changes = new(int)
	mux, calls := fakeDaemon(func() { *changes++ }), NewCallbacks()
	rpc.Handle(mux, fsproto.Leases, func(context.Context, *rpc.Request, *fsproto.LeasesReq, *fsproto.LeasesRes) error { return nil })
	rpc.Handle(mux, fsproto.Unlink, func(context.Context, *rpc.Request, *fsproto.UnlinkReq, *fsproto.UnlinkRes) error {
		*changes++
		return nil
	})
	rpc.Handle(mux, fsproto.Rename, func(context.Context, *rpc.Request, *fsproto.RenameReq, *fsproto.RenameRes) error {
		*changes++
		return nil
	})
	rpc.Handle(mux, fsproto.Setattr, func(context.Context, *rpc.Request, *fsproto.SetattrReq, *fsproto.AttrRes) error {
		*changes++
		return nil
	})
	_, client := rpctest.Pair(t, mux, calls.Mux())
	fs, err := Attach(context.Background(), client, Config{Callbacks: calls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fs.OnUnmount)
	thread = &injectThread{slot: &fs.inject.threads[0], tid: 77}
	thread.slot.Store(thread)
	return injecting{counted{fs}}, thread, changes
}

func header(node fsproto.Node, tid uint32) fuse.InHeader {
	h := fuse.InHeader{NodeId: uint64(node)}
	h.Pid = tid
	return h
}

// TestInjectionRefuses: what a thread asks for that is not what it is to ask for gets
// nowhere, and what others ask for at the same time is theirs.
func TestInjectionRefuses(t *testing.T) {
	c, thread, changes := injectedFS(t)
	in := c.inject
	j := in.newInjection(&fsproto.Event{What: fsproto.EventDelete, Dir: fsproto.RootNode, Name: "gone"})
	j.remove(in.unknown(syscall.S_IFREG))

	all := func(tid uint32) map[string]fuse.Status {
		root, made := header(fsproto.RootNode, tid), new(fuse.EntryOut)
		return map[string]fuse.Status{
			"unlink other": c.Unlink(nil, &root, "other"),
			"rmdir":        c.Rmdir(nil, &root, "gone"),
			"mkdir":        c.Mkdir(nil, &fuse.MkdirIn{InHeader: root}, "gone", made),
			"mknod":        c.Mknod(nil, &fuse.MknodIn{InHeader: root, Mode: syscall.S_IFREG}, "gone", made),
			"symlink":      c.Symlink(nil, &root, "to", "gone", made),
			"link":         c.Link(nil, &fuse.LinkIn{InHeader: root}, "gone", made),
			"create":       c.Create(nil, &fuse.CreateIn{InHeader: root}, "gone", new(fuse.CreateOut)),
			"tmpfile":      c.Tmpfile(nil, &fuse.CreateIn{InHeader: root}, new(fuse.CreateOut)),
			"rename":       c.Rename(nil, &fuse.RenameIn{InHeader: root, Newdir: 1}, "gone", "else"),
			"setattr":      c.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: root}}, new(fuse.AttrOut)),
			"open":         c.Open(nil, &fuse.OpenIn{InHeader: root, Flags: syscall.O_WRONLY}, new(fuse.OpenOut)),
			"setxattr":     c.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: root}, "user.x", nil),
			"removexattr":  c.RemoveXAttr(nil, &root, "user.x"),
			"look up":      c.Lookup(nil, &root, "other", made),
		}
	}
	for _, call := range []*injection{nil, j} {
		thread.now.Store(call)
		for what, st := range all(thread.tid) {
			if st != fuse.EIO {
				t.Errorf("%s: %v", what, st)
			}
		}
	}
	root := header(fsproto.RootNode, thread.tid)
	if st := c.Unlink(nil, &root, "gone"); st != fuse.EIO || j.answered || !j.unasked {
		t.Errorf("a name that was not looked up was removed: %v", st)
	}
	if *changes != 0 {
		t.Fatalf("%d changes got to the daemon", *changes)
	}
	other := header(fsproto.RootNode, thread.tid+1)
	if st := c.Unlink(nil, &other, "gone"); !st.Ok() || *changes != 1 {
		t.Errorf("somebody else's: %v, %d changes", st, *changes)
	}
}

// TestInjectionAnswers: what a thread is to ask for is answered, and only here.
func TestInjectionAnswers(t *testing.T) {
	c, thread, changes := injectedFS(t)
	in := c.inject
	j := in.newInjection(&fsproto.Event{What: fsproto.EventRename, Dir: fsproto.RootNode, Name: "a", NewDir: 0})
	j.rename(in.unknown(syscall.S_IFREG), nil)
	thread.now.Store(j)
	root, void := header(fsproto.RootNode, thread.tid), header(in.void.node, thread.tid)
	out := new(fuse.EntryOut)
	if st := c.Lookup(nil, &root, in.void.name, out); !st.Ok() || out.NodeId != uint64(in.void.node) {
		t.Errorf("the void is %v, node %d", st, out.NodeId)
	}
	*out = fuse.EntryOut{}
	if st := c.Lookup(nil, &root, "a", out); !st.Ok() || out.NodeId == 0 || out.EntryTimeout() != 0 || out.AttrTimeout() != 0 {
		t.Errorf("what is moved: %v, %+v", st, out)
	}
	if st := c.Lookup(nil, &void, voidEntry, out); st != fuse.ENOENT {
		t.Errorf("where it is moved to: %v", st)
	}
	if st := c.Rename(nil, &fuse.RenameIn{InHeader: root, Newdir: uint64(in.void.node)}, "a", voidEntry); !st.Ok() || !j.answered {
		t.Errorf("rename: %v", st)
	}
	if *changes != 0 {
		t.Errorf("%d changes got to the daemon", *changes)
	}
	other := header(fsproto.RootNode, thread.tid+1)
	if st := c.Lookup(nil, &other, in.void.name, out); out.NodeId == uint64(in.void.node) && st.Ok() {
		t.Error("others find the void")
	}
}

// TestInjectorQueue: it is bounded, and who gives up takes nothing more.
func TestInjectorQueue(t *testing.T) {
	c, _, _ := injectedFS(t)
	in := c.inject
	req := &fsproto.EventsReq{Lost: true, Events: make([]fsproto.Event, maxInjections+5)}
	in.add(req)
	if len(in.queue) != maxInjections || in.lost.Load() != 6 {
		t.Errorf("%d wait, %d lost", len(in.queue), in.lost.Load())
	}
	in.giveUp(fmt.Errorf("tried in vain: %w", syscall.EIO))
	in.add(req)
	if len(in.queue) != 0 || in.state() != "off: tried in vain: input/output error" {
		t.Errorf("%d wait, %q", len(in.queue), in.state())
	}
	(*injector)(nil).add(req)
}

// TestWatches reads what the kernel shows of a descriptor of inotify.
func TestWatches(t *testing.T) {
	w, err := newWatches("0:39")
	if err != nil {
		t.Fatal(err)
	}
	w.nodes = make(map[fsproto.Node]struct{})
	w.add([]byte(`pos:	0
flags:	04000
inotify wd:4 ino:64 sdev:28 mask:fff ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:000000000500000000000000
inotify wd:3 ino:64 sdev:27 mask:fff ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:0000000006000000
inotify wd:3 ino:64 sdev:27 mask:fff ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:00
inotify wd:3 ino:64 sdev:27
inotify wd:2 ino:64 sdev:27 mask:fff ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:000000006400000000000000
inotify wd:1 ino:1 sdev:27 mask:fff ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:000000800700000000000000
`))
	if len(w.nodes) != 2 || !w.any(100) || !w.any(5, fsproto.ClientChosen|7) || w.any(5, 6, 0) {
		t.Errorf("%v", w.nodes)
	}
	for _, n := range []fsproto.Node{1, fsproto.ClientChosen | 9, 1 << 40} {
		h := handleOf(n)
		if back, ok := nodeOf(h.Bytes()); !ok || back != n || h.Type() != fuseHandle {
			t.Errorf("node %d: handle %x", n, h.Bytes())
		}
	}
	if _, err := newWatches(""); err == nil {
		t.Error("no device is one")
	}
}

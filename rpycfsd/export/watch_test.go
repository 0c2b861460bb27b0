package export

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/fsevents"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
	"golang.org/x/sys/unix"
)

// watcher is a client that watches.
type watcher struct {
	t    *testing.T
	v    *env // its session
	ref  rpc.Ref
	hold chan struct{} // not nil: deliveries wait until it is closed

	mu     sync.Mutex
	events []fsproto.WatchEvent
	next   uint64 // number of the next event
	news   chan struct{}
}

// listen exports a listener to v's server.
func listen(v *env) (*watcher, rpc.Ref) {
	v.t.Helper()
	w := &watcher{t: v.t.(*testing.T), v: v, next: 1, news: make(chan struct{}, 1)}
	mux := new(rpc.Mux)
	rpc.Handle(mux, fsproto.WatchEvents, w.take)
	ref, err := v.client.Export(mux, nil)
	must(v.t, err)
	return w, ref
}

func (w *watcher) take(ctx context.Context, _ *rpc.Request, req *fsproto.WatchEventsReq, _ *fsproto.Empty) error {
	if w.hold != nil {
		select {
		case <-w.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.mu.Lock()
	if req.First != w.next || len(req.Events) == 0 {
		w.t.Errorf("%d events from %d on, want %d", len(req.Events), req.First, w.next)
	}
	w.next += uint64(len(req.Events))
	w.events = append(w.events, req.Events...)
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
	return nil
}

// watch watches a directory in a session of its own.
func (v *env) watch(path string, recursive bool) *watcher {
	v.t.Helper()
	u := *v
	u.s = v.session(Identity{Name: "watcher", RunAs: v.s.id.RunAs, Account: v.s.id.Account})
	u.client = connect(v.t.(*testing.T), u.s)
	u.cred = 0
	return u.watchHere(path, recursive)
}

// watchHere watches a directory in v's session.
func (v *env) watchHere(path string, recursive bool) *watcher {
	v.t.Helper()
	w, ref := listen(v)
	w.ref = do(v, fsproto.Watch, fsproto.WatchReq{Listener: ref, Path: names(path), Recursive: recursive}).Watch
	return w
}

func names(path string) []string {
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// until returns the events up to the first that stop wants, which it takes away.
func (w *watcher) until(stop func(*fsproto.WatchEvent) bool) []fsproto.WatchEvent {
	w.t.Helper()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	for {
		w.mu.Lock()
		i := slices.IndexFunc(w.events, func(ev fsproto.WatchEvent) bool { return stop(&ev) })
		if i >= 0 {
			before := w.events[:i:i]
			w.events = w.events[i+1:]
			w.mu.Unlock()
			return before
		}
		w.mu.Unlock()
		select {
		case <-w.news:
		case <-late.C:
			w.t.Fatalf("no such event; there were %q", describe(w.events))
		}
	}
}

// kind stops at an event of a kind.
func kind(k uint8) func(*fsproto.WatchEvent) bool {
	return func(ev *fsproto.WatchEvent) bool { return ev.Kind == k }
}

// expect checks the events until a directory called mark is made in the watched one.
func (w *watcher) expect(what string, want ...string) {
	w.t.Helper()
	got := describe(w.until(func(ev *fsproto.WatchEvent) bool {
		return ev.Kind == fsproto.WatchCreate && strings.HasPrefix(filepath.Base(ev.Path), "mark")
	}))
	if !slices.Equal(got, want) {
		w.t.Errorf("%s: events\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

var watchKinds = map[uint8]string{
	fsproto.WatchCreate: "create", fsproto.WatchModify: "modify", fsproto.WatchAttrib: "attrib", fsproto.WatchDelete: "delete",
	fsproto.WatchRename: "rename", fsproto.WatchCloseWrite: "close-write", fsproto.WatchOverflow: "overflow", fsproto.WatchEnd: "end",
}

// describe is "kind path by user", of a rename "old -> new", with "?" for where nothing
// is watched, and with "/" behind directories.
func describe(events []fsproto.WatchEvent) (lines []string) {
	for _, ev := range events {
		path := "?"
		if ev.Flags&fsproto.WatchHasPath != 0 {
			path = ev.Path
		}
		if ev.Kind == fsproto.WatchRename {
			old := "?"
			if ev.Flags&fsproto.WatchHasOld != 0 {
				old = ev.OldPath
			}
			path = old + " -> " + path
		}
		if ev.Flags&fsproto.WatchIsDir != 0 {
			path += "/"
		}
		by := ev.By
		if by == "" {
			by = "server"
		}
		lines = append(lines, fmt.Sprintf("%s %s by %s", watchKinds[ev.Kind], path, by))
	}
	return lines
}

var marks int

// sh runs a script in another process, in the exported directory, and makes a mark in
// directory dir.
func (v *env) sh(dir, script string) {
	v.t.Helper()
	marks++
	cmd := exec.Command("sh", "-ec", script+"\nmkdir "+filepath.Join(".", dir, fmt.Sprintf("mark%d", marks)))
	cmd.Dir = v.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		v.t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// methodsHere are the ways to learn of changes that there are here.
func methodsHere(t *testing.T) []fsevents.Method {
	t.Helper()
	probe := openExport(t, Config{Path: t.TempDir()})
	best, _ := probe.watcher.Method()
	if best == fsevents.Fanotify {
		return []fsevents.Method{fsevents.Fanotify, fsevents.FanotifyDirs, fsevents.Inotify}
	}
	return []fsevents.Method{fsevents.FanotifyDirs, fsevents.Inotify}
}

func watchTree(dir string) {
	for _, d := range []string{"w", "w/sub", "w/sub/deep", "out"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o777); err != nil {
			panic(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "w/sub/f"), []byte("x"), 0o666); err != nil {
		panic(err)
	}
}

// foreignScript is what a program on the server does, and what who watches w with all
// below it is told.
var foreignScript = []struct {
	script string
	events []string
}{
	{"echo 1 > w/a", []string{"create a", "modify a", "close-write a"}},
	{"echo 2 >> w/sub/f", []string{"modify sub/f", "close-write sub/f"}},
	{"chmod 600 w/sub/f", []string{"attrib sub/f"}},
	{"mv w/a w/b", []string{"rename a -> b"}},
	{"mv w/b w/sub/deep/c", []string{"rename b -> sub/deep/c"}},
	{"mv w/sub/deep/c out/c", []string{"rename sub/deep/c -> ?"}},
	{"mv out/c w/d", []string{"rename ? -> d"}},
	{"rm w/d", []string{"delete d"}},
	{"echo 3 > out/x; rm out/x", nil},
	{"mv w/sub w/moved; rm w/moved/f", []string{"rename sub -> moved/", "delete moved/f"}},
	{"mkdir w/moved/deep/er", []string{"create moved/deep/er/"}},
	{"mkfifo w/moved/deep/er/p", []string{"create moved/deep/er/p"}},
	{"mv w/moved out/gone; mkfifo out/gone/deep/er/q", []string{"rename moved -> ?/"}},
	{"mv out/gone w/back; mkfifo w/back/deep/er/r", []string{"rename ? -> back/", "create back/deep/er/r"}},
	{"mkdir w/n; mkdir w/n/m; mkfifo w/n/m/p", []string{"create n/", "create n/m/", "create n/m/p"}},
	{"rm w/n/m/p; rmdir w/n/m; rmdir w/n", []string{"delete n/m/p", "delete n/m/", "delete n/"}},
}

// TestWatchServer: what programs on the server do, in all ways to learn of it.
func TestWatchServer(t *testing.T) {
	for _, m := range methodsHere(t) {
		t.Run(m.String(), func(t *testing.T) {
			v := newEnv(t, Config{events: m}, Identity{Name: "user"}, watchTree)
			all, flat := v.watch("w", true), v.watch("w", false)
			for _, step := range foreignScript {
				v.sh("w", step.script)
				var want, top []string
				for _, ev := range step.events {
					want = append(want, ev+" by server")
				}
				all.expect(step.script, want...)
				for _, ev := range describe(flat.until(func(ev *fsproto.WatchEvent) bool { return strings.HasPrefix(ev.Path, "mark") })) {
					if strings.Contains(strings.TrimSuffix(strings.Fields(ev)[1], "/"), "/") {
						t.Errorf("%s: %s without what is below", step.script, ev)
					}
					top = append(top, ev)
				}
				if step.script == "mv w/b w/sub/deep/c" && !slices.Equal(top, []string{"rename b -> ? by server"}) {
					t.Errorf("out of a directory: %q", top)
				}
			}
		})
	}
}

// TestWatchClients: what clients do, with the attributes before and after.
func TestWatchClients(t *testing.T) {
	for _, m := range methodsHere(t) {
		t.Run(m.String(), func(t *testing.T) {
			v := newEnv(t, Config{events: m}, Identity{Name: "user"}, watchTree)
			w := v.watch("w", true)
			dir := v.lookup("w").Node
			step := func(what string, events ...string) {
				t.Helper()
				for i := range events {
					events[i] += " by user"
				}
				v.sh("w", "")
				w.expect(what, events...)
			}
			h := newHandle()
			made := do(v, fsproto.Create, fsproto.CreateReq{Parent: dir, Name: "a", Mode: 0o600, Flags: fsproto.OpenWrite, NewNode: newNode(), Handle: h})
			_, err := v.write(fsproto.WriteReq{Handle: h}, "123")
			must(t, err)
			_, err = v.write(fsproto.WriteReq{Handle: h, Offset: 3}, "45")
			must(t, err)
			v.release(h)
			got := w.until(kind(fsproto.WatchCloseWrite))
			if lines := describe(got[:2]); !slices.Equal(lines, []string{"create a by user", "modify a by user"}) {
				t.Errorf("events %q", lines)
			}
			if last := got[len(got)-1]; last.Attr.Size != 5 || last.Flags&fsproto.WatchHasAttr == 0 {
				t.Errorf("size %d afterwards, flags %x", last.Attr.Size, last.Flags)
			}
			if m != fsevents.Inotify && (got[1].OldAttr.Size != 0 || got[1].Flags&fsproto.WatchHasOldAttr == 0) {
				t.Errorf("size %d before, flags %x", got[1].OldAttr.Size, got[1].Flags)
			}
			do(v, fsproto.Setattr, fsproto.SetattrReq{Node: made.Entry.Node, Mask: fsproto.SetMode, Mode: 0o640})
			step("chmod", "attrib a")
			do(v, fsproto.Setattr, fsproto.SetattrReq{Node: made.Entry.Node, Mask: fsproto.SetSize, Size: 1})
			step("truncate", "modify a")
			sub := v.lookup("w/sub").Node
			do(v, fsproto.Rename, fsproto.RenameReq{Parent: dir, Name: "a", NewParent: sub, NewName: "b"})
			step("rename", "rename a -> sub/b")
			do(v, fsproto.Rename, fsproto.RenameReq{Parent: sub, Name: "b", NewParent: fsproto.RootNode, NewName: "c"})
			step("rename", "rename sub/b -> ?")
			do(v, fsproto.Rename, fsproto.RenameReq{Parent: fsproto.RootNode, Name: "c", NewParent: dir, NewName: "d"})
			step("rename", "rename ? -> d")
			do(v, fsproto.Link, fsproto.LinkReq{Node: made.Entry.Node, Parent: dir, Name: "l"})
			step("link", "create l")
			do(v, fsproto.Rename, fsproto.RenameReq{Parent: dir, Name: "d", NewParent: dir, NewName: "l"})
			step("rename of a file onto itself")
			do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: sub, Name: "n", Mode: 0o755, NewNode: newNode()})
			do(v, fsproto.Mknod, fsproto.MknodReq{Parent: v.lookup("w/sub/n").Node, Name: "p", Mode: fsproto.ModeFIFO | 0o600, NewNode: newNode()})
			step("mkdir", "create sub/n/", "create sub/n/p")
			do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: v.lookup("w/sub/n").Node, Name: "p"})
			do(v, fsproto.Rmdir, fsproto.UnlinkReq{Parent: sub, Name: "n"})
			step("rmdir", "delete sub/n/p", "delete sub/n/")
			fail(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: dir, Name: "sub", NewNode: newNode()}, syscall.EEXIST)
			fail(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: dir, Name: "none"}, syscall.ENOENT)
			step("failures")
		})
	}
}

// TestWatchEnds: a directory that goes away, itself or with one above it, ends its
// watch with a last event, whoever does it.
func TestWatchEnds(t *testing.T) {
	for _, m := range methodsHere(t) {
		for what, away := range map[string]func(v *env){
			"removed":      func(v *env) { v.sh("", "rm -r w/sub") },
			"moved":        func(v *env) { v.sh("", "mv w/sub w/other") },
			"above":        func(v *env) { v.sh("", "mv w w2") },
			"moved beyond": func(v *env) { v.sh("", "mv w/sub '"+v.t.TempDir()+"'") },
			"by a client": func(v *env) {
				do(v, fsproto.Rename, fsproto.RenameReq{Parent: fsproto.RootNode, Name: "w", NewParent: fsproto.RootNode, NewName: "w2"})
			},
		} {
			t.Run(m.String()+"/"+what, func(t *testing.T) {
				v := newEnv(t, Config{events: m}, Identity{Name: "user"}, watchTree)
				w := v.watch("w/sub", false)
				away(v)
				var last fsproto.WatchEvent
				w.until(func(ev *fsproto.WatchEvent) bool { last = *ev; return ev.Kind == fsproto.WatchEnd })
				if last.Error != uint32(syscall.ENOENT) {
					t.Errorf("ended with %d", last.Error)
				}
				v.idle()
			})
		}
	}
}

// idle waits until nobody watches, and checks that nothing is left of it.
func (v *env) idle() {
	v.t.Helper()
	h := &v.e.watches
	if !eventually(v.t, 10*time.Second, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.on.Load() == 0 && len(h.all) == 0 && len(h.users) == 0 && len(h.tracked) == 0 && len(h.objects) == 0 && h.queued.Load() == 0
	}) {
		v.t.Errorf("left: %d watches, %d places taken, %d directories, %d bytes", h.on.Load(), len(h.users), len(h.tracked), h.queued.Load())
	}
}

// TestWatchReleased: released, or with its session, a watch leaves nothing behind.
func TestWatchReleased(t *testing.T) {
	for _, m := range methodsHere(t) {
		v := newEnv(t, Config{events: m}, Identity{Name: "user"}, watchTree)
		a, b := v.watch("w", true), v.watch("", true)
		must(t, a.v.client.Release(context.Background(), a.ref))
		b.v.s.Close()
		v.idle()
		v.sh("", "echo x > w/x")
		if got := describe(a.events); len(got) > 0 {
			t.Errorf("%v: after its end: %q", m, got)
		}
	}
}

// TestWatchAndLease: where directories are watched one by one, the end of a watch takes
// no events from sessions with leases, nor the end of such a session from a watch.
func TestWatchAndLease(t *testing.T) {
	for _, method := range piecemealMethods {
		a, b := twoLeasers(t, Config{events: method}, makeTree)
		w := b.watch("", true)
		d := a.believed("d")[0]
		must(t, w.v.client.Release(context.Background(), w.ref))
		b.env.idle()
		a.program("touch d/new")
		if r := a.recalled(); len(r.Nodes) != 1 || r.Nodes[0].Node != d {
			t.Errorf("%v: after the end of a watch %+v is recalled", method, r)
		}

		w = b.watch("", true)
		a.believed("d")
		a.s.Close()
		b.e.unwatchEnded()
		b.program("touch d/newer")
		w.until(func(ev *fsproto.WatchEvent) bool { return ev.Path == "d/newer" })
	}
}

// TestWatchOverflow: a listener that does not read gets one overflow in place of what
// found no room, and goes on behind it.
func TestWatchOverflow(t *testing.T) {
	v := newEnv(t, Config{}, Identity{Name: "user"}, watchTree)
	u := *v
	u.s = v.session(Identity{Name: "watcher"})
	u.client = connect(t, u.s)
	w, ref := listen(&u)
	w.hold = make(chan struct{})
	do(&u, fsproto.Watch, fsproto.WatchReq{Listener: ref, Path: names("w")})
	dir := v.lookup("w").Node
	const made = maxWatchQueue + fsproto.MaxWatchEvents + 10
	for i := range made {
		v.e.watches.publish(&fact{kind: fsproto.WatchCreate, at: place{fmt.Sprint("w/l", i), true}})
		if i == 0 && !eventually(t, 10*time.Second, func() bool { return v.e.watches.queued.Load() == 0 }) {
			t.Fatal("no delivery")
		}
	}
	if size := v.e.watches.queued.Load(); size > maxWatchQueueSize {
		t.Errorf("%d bytes wait", size)
	}
	close(w.hold)
	before := w.until(kind(fsproto.WatchOverflow))
	do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: dir, Name: "mark", NewNode: newNode()})
	after := w.until(func(ev *fsproto.WatchEvent) bool { return ev.Path == "mark" })
	if len(before) == 0 || len(before) > fsproto.MaxWatchEvents || slices.ContainsFunc(after, func(ev fsproto.WatchEvent) bool { return ev.Kind == fsproto.WatchOverflow }) {
		t.Errorf("%d events before the overflow, %d after", len(before), len(after))
	}
	if last := after[len(after)-1]; last.Path != fmt.Sprint("l", made-1) {
		t.Errorf("the last one is %s", last.Path)
	}
	if before[0].Path != "l0" || len(before)+len(after) >= made {
		t.Errorf("%d of %d events, the first is %s", len(before)+len(after), made, before[0].Path)
	}
}

// TestWatchMerges: modifies of one file that wait are one event; nothing else is joined.
func TestWatchMerges(t *testing.T) {
	v := newEnv(t, Config{}, Identity{Name: "user"}, watchTree)
	u := *v
	u.s = v.session(Identity{Name: "watcher"})
	u.client = connect(t, u.s)
	w, ref := listen(&u)
	w.hold = make(chan struct{})
	do(&u, fsproto.Watch, fsproto.WatchReq{Listener: ref})
	do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: fsproto.RootNode, Name: "plug", NewNode: newNode()}) // waits in a delivery
	taken := func() bool { return v.e.watches.queued.Load() == 0 }
	if !eventually(t, 10*time.Second, taken) {
		t.Fatal("no delivery")
	}
	_, a := v.create("a", fsproto.OpenWrite)
	_, b := v.create("b", fsproto.OpenWrite)
	for i := range 5 {
		for _, h := range []fsproto.Handle{a, b} {
			_, err := v.write(fsproto.WriteReq{Handle: h, Offset: uint64(i)}, "x")
			must(t, err)
		}
	}
	v.release(a)
	close(w.hold)
	events := w.until(kind(fsproto.WatchCloseWrite))
	want := []string{"create plug/ by user", "create a by user", "create b by user", "modify a by user", "modify b by user"}
	if got := describe(events); !slices.Equal(got, want) {
		t.Fatalf("events %q", got)
	}
	if m := events[3]; m.OldAttr.Size != 0 || m.Attr.Size != 5 {
		t.Errorf("from %d to %d bytes", m.OldAttr.Size, m.Attr.Size)
	}
}

// TestWatchRefused: what cannot be watched.
func TestWatchIsRefused(t *testing.T) {
	v := newEnv(t, Config{MaxWatches: 2}, Identity{Name: "user", Root: "w"}, func(dir string) {
		watchTree(dir)
		must(t, os.Symlink("/etc", dir+"/w/etc"))
	})
	_, ref := listen(v)
	for path, errno := range map[string]error{"none": syscall.ENOENT, "etc": syscall.ELOOP, "sub/f": syscall.ENOTDIR} {
		fail(v, fsproto.Watch, fsproto.WatchReq{Listener: ref, Path: names(path)}, errno)
	}
	fail(v, fsproto.Watch, fsproto.WatchReq{}, rpc.ErrBadRequest)
	v.watchHere("sub", false)
	last := v.watchHere("", true)
	fail(v, fsproto.Watch, fsproto.WatchReq{Listener: ref}, syscall.EMFILE)
	v.sh("w", "mv w/sub/f out/f; touch out/g; mv out/f w/h")
	last.expect("within the user's root", "rename sub/f -> ? by server", "rename ? -> h by server")
	must(t, last.v.client.Release(context.Background(), last.ref))
	if !eventually(t, 10*time.Second, func() bool { _, err := try(v, fsproto.Watch, fsproto.WatchReq{Listener: ref}); return err == nil }) {
		t.Error("a place is not given back")
	}
}

// TestWatchListenerFails: a listener that fails, or is none, ends its watch.
func TestWatchListenerFails(t *testing.T) {
	v := newEnv(t, Config{}, Identity{Name: "user"}, watchTree)
	do(v, fsproto.Watch, fsproto.WatchReq{Listener: 4711})
	v.sh("", "touch x")
	v.idle()
}

// TestWatchRights: who acts with rights of its own is told of directories that it may
// read and search, and of nothing else.
func TestWatchRights(t *testing.T) {
	v := callers(t, Identity{Name: "user", NoRootSquash: true}, func(dir string) {
		watchTree(dir)
		must(t, os.Chmod(dir, 0o755))
		for _, d := range []string{"w/open", "w/closed", "w/closed/in", "w/blind"} {
			must(t, os.Mkdir(dir+"/"+d, 0o777))
		}
		must(t, os.Chmod(dir+"/w/closed", 0o700))
		must(t, os.Chmod(dir+"/w/blind", 0o711))
	})
	u := *v
	u.s = v.session(Identity{Name: "watcher", RunAs: fsproto.RunAsCaller})
	u.client = connect(t, u.s)
	a := u.as(alice)
	w := a.watchHere("w", true)
	_, ref := listen(a)
	fail(a, fsproto.Watch, fsproto.WatchReq{Listener: ref, Path: names("w/closed")}, syscall.EACCES)
	fail(a, fsproto.Watch, fsproto.WatchReq{Listener: ref, Path: names("w/closed/in")}, syscall.EACCES)
	fail(a, fsproto.Watch, fsproto.WatchReq{Listener: ref, Path: names("w/blind")}, syscall.EACCES)
	v.sh("w", "touch w/open/a w/closed/b w/closed/in/c w/blind/d; mv w/closed/b w/open/b; mv w/open/a w/closed/a")
	for i, ev := range w.until(kind(fsproto.WatchRename)) {
		if i < 3 && ev.Path != "open/a" || i >= 3 {
			t.Errorf("told of %s %q", watchKinds[ev.Kind], ev.Path)
		}
	}
	w.expect("moves", "rename open/a -> ? by server")
	node := v.lookup("w/closed").Node
	do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: node, Name: "hidden", NewNode: newNode()})
	do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: v.lookup("w").Node, Name: "shown", NewNode: newNode()})
	v.sh("w", "")
	w.expect("by a client", "create shown/ by user")
}

// TestWatchManyKilled: clients that vanish leave nothing behind.
func TestWatchManyKilled(t *testing.T) {
	v := newEnv(t, Config{}, Identity{Name: "user"}, watchTree)
	before := descriptors(t)
	var ended sync.WaitGroup
	for range 50 {
		s := v.session(Identity{Name: "watcher"})
		var mux rpc.Mux
		s.Register(&mux)
		server, client := rpctest.Pair(t, &mux, nil)
		u := env{t: t, dir: v.dir, e: v.e, s: s, client: client}
		u.watchHere("w", true)
		ended.Go(func() {
			server.End(unix.EPIPE)
			s.Close()
		})
		v.sh("w", "touch w/x")
	}
	ended.Wait()
	v.idle()
	// Directories that were watched one by one are closed after that.
	if !eventually(t, 10*time.Second, func() bool { return descriptors(t) <= before+4 }) {
		t.Errorf("%d descriptors, before %d", descriptors(t), before)
	}
}

// TestWatchEventsLost: when the kernel has lost events, who watches is told, and what
// happens afterwards is told again, in directories that were missed as well.
func TestWatchEventsLost(t *testing.T) {
	for _, m := range methodsHere(t) {
		t.Run(m.String(), func(t *testing.T) {
			v := newEnv(t, Config{events: m}, Identity{Name: "user"}, watchTree)
			w := v.watch("w", true)
			h := &v.e.watches
			h.tree.Lock()
			h.drop(func(dir string) bool { return dir == "w/sub/deep" }) // as if it had been missed
			h.tree.Unlock()
			v.e.happened([]fsevents.Event{{Kind: fsevents.Overflow}})
			if got := w.until(kind(fsproto.WatchOverflow)); len(got) > 0 {
				t.Errorf("before: %q", describe(got))
			}
			v.sh("w", "mkfifo w/sub/deep/p")
			w.expect("afterwards", "create sub/deep/p by server")
		})
	}
}

// TestWatchBrief: directories that are removed as soon as they are made, while the
// daemon is about to watch them, end no watch.
func TestWatchBrief(t *testing.T) {
	for _, method := range piecemealMethods {
		v := newEnv(t, Config{events: method}, Identity{}, nil)
		w := v.watch("", true)
		v.program("i=0; while [ $i -lt 200 ]; do mkdir d$i; rmdir d$i; i=$((i+1)); done; mkdir last")
		w.until(func(ev *fsproto.WatchEvent) bool {
			if ev.Kind == fsproto.WatchEnd {
				t.Fatalf("%v: the watch has ended: %v", method, ev)
			}
			return ev.Path == "last"
		})
	}
}

// TestWatchExchange: two directories that change places are both followed.
func TestWatchExchange(t *testing.T) {
	for _, m := range methodsHere(t) {
		t.Run(m.String(), func(t *testing.T) {
			v := newEnv(t, Config{events: m}, Identity{Name: "user"}, func(dir string) {
				watchTree(dir)
				must(t, os.Mkdir(dir+"/w/other", 0o777))
			})
			w := v.watch("w", true)
			dir := v.lookup("w").Node
			do(v, fsproto.Rename, fsproto.RenameReq{Parent: dir, Name: "sub", NewParent: dir, NewName: "other", Flags: fsproto.RenameExchange})
			v.sh("w", "")
			w.expect("exchange", "rename sub -> other/ by user", "rename other -> sub/ by user")
			v.sh("w", "mkfifo w/other/deep/p; mkfifo w/sub/q")
			w.expect("afterwards", "create other/deep/p by server", "create sub/q by server")
		})
	}
}

// TestWatchTooMany: more directories than can be watched one by one are refused, and
// end a watch into which they grow.
func TestWatchTooMany(t *testing.T) {
	for _, m := range methodsHere(t) {
		if m == fsevents.Fanotify {
			continue
		}
		v := newEnv(t, Config{events: m, maxTracked: 5}, Identity{Name: "user"}, watchTree)
		w := v.watch("w", true) // the root, w, sub, deep
		v.sh("out", "mkdir w/one w/two")
		var last fsproto.WatchEvent
		w.until(func(ev *fsproto.WatchEvent) bool { last = *ev; return ev.Kind == fsproto.WatchEnd })
		if last.Error != uint32(syscall.ENOSPC) {
			t.Errorf("%v: ended with %d", m, last.Error)
		}
		v.idle()
		_, ref := listen(v)
		fail(v, fsproto.Watch, fsproto.WatchReq{Listener: ref, Recursive: true}, syscall.ENOSPC)
		v.idle()
		v.watchHere("w", false)
	}
}

package export

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// counts returns how many nodes the export knows and how many descriptors are
// kept for nobody.
func (e *Export) counts() (nodes, idle int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.nodes), e.idle.Len()
}

// TestEviction uses many nodes with one cached descriptor, once as a daemon that
// can open by handle, if this process can, and once as one that cannot.
func TestEviction(t *testing.T) {
	for _, byHandle := range []bool{true, false} {
		t.Run(fmt.Sprint("by handle ", byHandle), func(t *testing.T) {
			v := newEnv(t, Config{Descriptors: 1}, Identity{}, func(dir string) {
				for i := range 20 {
					path := fmt.Sprintf("%s/%d/deep/er", dir, i)
					must(t, os.MkdirAll(path, 0o755))
					must(t, os.WriteFile(path+"/f", []byte(fmt.Sprint(i)), 0o644))
				}
			})
			v.e.priv.ByHandle = v.e.priv.ByHandle && byHandle
			var files, dirs []fsproto.Entry
			for i := range 20 {
				dirs = append(dirs, v.lookup(fmt.Sprintf("%d/deep", i)))
				files = append(files, v.lookup(fmt.Sprintf("%d/deep/er/f", i)))
			}
			if _, idle := v.e.counts(); idle > 1 {
				t.Errorf("%d descriptors kept", idle)
			}
			for i, f := range files {
				h := v.open(f.Node, 0)
				if b, err := v.read(h, 0, 10); string(b) != fmt.Sprint(i) || err != nil {
					t.Errorf("file %d holds %q, %v", i, b, err)
				}
				v.release(h)
			}
			// Our own renames are followed.
			do(v, fsproto.Rename, fsproto.RenameReq{Parent: root, Name: "3", NewParent: dirs[4].Node, NewName: "moved"})
			do(v, fsproto.Getattr, fsproto.GetattrReq{Node: dirs[9].Node})
			do(v, fsproto.Getattr, fsproto.GetattrReq{Node: files[3].Node})
			// Those of others only with a handle; a replaced file never.
			must(t, os.Rename(v.path("5/deep"), v.path("renamed")))
			must(t, os.Rename(v.path("6/deep/er/f"), v.path("7/deep/er/f")))
			do(v, fsproto.Getattr, fsproto.GetattrReq{Node: dirs[9].Node})
			_, err := try(v, fsproto.Getattr, fsproto.GetattrReq{Node: dirs[5].Node})
			if v.e.priv.ByHandle {
				must(t, err)
			} else {
				want(t, err, syscall.ESTALE)
			}
			fail(v, fsproto.Getattr, fsproto.GetattrReq{Node: files[7].Node}, syscall.ESTALE)
			fail(v, fsproto.Getattr, fsproto.GetattrReq{Node: files[6].Node}, syscall.ESTALE)
			if v.lookup("7/deep/er/f").Node != files[6].Node {
				t.Error("the moved file has another number")
			}
			do(v, fsproto.Getattr, fsproto.GetattrReq{Node: files[6].Node})
		})
	}
}

// TestHardLinks: a file whose name is gone is found by another that it had.
func TestHardLinks(t *testing.T) {
	v := newEnv(t, Config{Descriptors: 1}, Identity{}, tree)
	f := v.lookup("file")
	do(v, fsproto.Link, fsproto.LinkReq{Node: f.Node, Parent: root, Name: "second"})
	if res := do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "second"}); res.Node != f.Node || res.Attr.Nlink != 1 {
		t.Errorf("unlink: %+v", res)
	}
	v.lookup("dir")
	do(v, fsproto.Getattr, fsproto.GetattrReq{Node: v.lookup("dir").Node})
	do(v, fsproto.Getattr, fsproto.GetattrReq{Node: f.Node})
	v.open(f.Node, 0)
}

// TestSpaceIsFreed: no descriptor is kept for long of a file that nobody uses,
// and none at all of one without a name that its session has forgotten.
func TestSpaceIsFreed(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	idle := func() int { _, n := v.e.counts(); return n }
	base := idle()
	f := v.lookup("file")
	if idle() != base+1 {
		t.Errorf("%d descriptors kept, want %d", idle(), base+1)
	}
	h := v.open(f.Node, fsproto.OpenRead)
	do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "file"})
	v.release(h)
	if idle() != base+1 {
		t.Errorf("%d descriptors kept, want %d", idle(), base+1)
	}
	do(v, fsproto.Forget, fsproto.ForgetReq{Nodes: []fsproto.Forgotten{{Node: f.Node, Stamp: f.Stamp}}})
	if idle() != base {
		t.Errorf("%d descriptors kept, want %d", idle(), base)
	}
	do(v, fsproto.Getattr, fsproto.GetattrReq{Node: v.lookup("fifo").Node})
	if idle() != base+1 {
		t.Errorf("%d descriptors kept, want %d", idle(), base+1)
	}
	v.e.closeIdle(time.Now())
	if idle() != base {
		t.Errorf("%d descriptors kept, want %d", idle(), base)
	}
}

// TestOpenAfterReplace opens what was looked up before another file was renamed
// over it, also when the lookup is too long ago to be believed, and does so
// where no descriptor was left to keep.
func TestOpenAfterReplace(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	replace := func(content string) {
		must(t, os.WriteFile(v.path("new"), []byte(content), 0o644))
		must(t, os.Rename(v.path("new"), v.path("file")))
	}
	age := func(node fsproto.Node, by time.Duration) {
		v.s.mu.Lock()
		defer v.s.mu.Unlock()
		v.s.numbers[node].r.checked = time.Now().Add(-by)
	}
	for _, by := range []time.Duration{0, recheckAfter} {
		replace("old")
		f := v.lookup("file")
		replace("new")
		age(f.Node, by)
		h := v.open(f.Node, fsproto.OpenRead)
		if b, err := v.read(h, 0, 10); string(b) != "old" || err != nil {
			t.Errorf("after %v the replaced file holds %q, %v", by, b, err)
		}
		v.release(h)
	}
	f := v.lookup("file")
	replace("newer")
	age(f.Node, idleAfter)
	fail(v, fsproto.Open, fsproto.OpenReq{Node: f.Node, Handle: newHandle()}, syscall.ESTALE)

	f = v.lookup("file")
	age(f.Node, recheckAfter)
	must(t, os.Rename(v.path("file"), t.TempDir()+"/file")) // not removed: it lies elsewhere
	fail(v, fsproto.Open, fsproto.OpenReq{Node: f.Node, Handle: newHandle()}, syscall.ESTALE)
}

// TestLookupWithoutDescriptors: a daemon at its limit of descriptors still finds
// files.
func TestLookupWithoutDescriptors(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	none := limit
	none.Cur = 0
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
	res, err := try(v, fsproto.Lookup, fsproto.LookupReq{Parent: root, Name: "file"})
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if err != nil || !res.Exists {
		t.Errorf("lookup: %+v, %v", res, err)
	}
}

func TestResolve(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	f, d := v.lookup("dir/inner"), v.lookup("dir")
	byName := func(fh fsproto.FileHandle, name string) fsproto.ResolveReq {
		return fsproto.ResolveReq{FileHandle: fh, Volatile: true, Parent: d.Node, Name: name}
	}
	if res := do(v, fsproto.Resolve, byName(f.FileHandle, "inner")); res.Entry.Node != f.Node {
		t.Errorf("resolved %+v", res)
	}
	fail(v, fsproto.Resolve, byName(d.FileHandle, "inner"), syscall.ESTALE)
	fail(v, fsproto.Resolve, byName(f.FileHandle, "none"), syscall.ESTALE)
	if res := do(v, fsproto.Resolve, fsproto.ResolveReq{FileHandle: f.FileHandle}); res.Entry.Node != f.Node {
		t.Errorf("resolved %+v", res)
	}

	// Another session of the same root may use it, one of another root not.
	same := &env{t: t, e: v.e, s: v.session(Identity{})}
	same.client = connect(t, same.s)
	do(same, fsproto.Attach, fsproto.AttachReq{})
	do(same, fsproto.Resolve, fsproto.ResolveReq{FileHandle: d.FileHandle})
	other := &env{t: t, e: v.e, s: v.session(Identity{Root: "dir"})}
	other.client = connect(t, other.s)
	do(other, fsproto.Attach, fsproto.AttachReq{})
	fail(other, fsproto.Resolve, fsproto.ResolveReq{FileHandle: f.FileHandle}, syscall.ESTALE)

	// A new daemon with the same key finds directories with privilege, files by
	// parent and name.
	again := newEnv(t, Config{Path: v.dir}, Identity{}, nil)
	fail(again, fsproto.Resolve, fsproto.ResolveReq{FileHandle: f.FileHandle}, syscall.ESTALE)
	req := fsproto.ResolveReq{FileHandle: d.FileHandle}
	if !again.e.priv.ByHandle {
		fail(again, fsproto.Resolve, req, syscall.ESTALE)
		req = fsproto.ResolveReq{FileHandle: d.FileHandle, Volatile: true, Parent: root, Name: "dir"}
	}
	dir := do(again, fsproto.Resolve, req).Entry.Node
	do(again, fsproto.Resolve, fsproto.ResolveReq{FileHandle: f.FileHandle, Volatile: true, Parent: dir, Name: "inner"})
	key := newEnv(t, Config{Path: v.dir, Key: [32]byte{1}}, Identity{}, nil)
	fail(key, fsproto.Resolve, byName(f.FileHandle, "inner"), syscall.ESTALE)

	// A directory outside the root is refused although the handle is genuine.
	must(t, os.Mkdir(v.path("dir/sub"), 0o755))
	sub := v.lookup("dir/sub")
	must(t, os.Rename(v.path("dir/sub"), t.TempDir()+"/sub"))
	fail(again, fsproto.Resolve, fsproto.ResolveReq{FileHandle: sub.FileHandle}, syscall.ESTALE)
}

// FuzzFileHandle: nothing but what seal made is accepted, and only as it was.
func FuzzFileHandle(f *testing.F) {
	e, err := Open(Config{Path: f.TempDir(), Key: [32]byte{1, 2, 3}})
	must(f, err)
	f.Cleanup(func() { must(f, e.Close()) })
	sealed := e.seal(e.root, e.root.id)
	if len(sealed) < handleHead+handleMAC || len(sealed) > fsproto.MaxFileHandle {
		f.Fatalf("handle of %d bytes", len(sealed))
	}
	f.Add([]byte(sealed))
	f.Add([]byte{})
	for i := range sealed {
		flipped := append([]byte{}, sealed...)
		flipped[i] ^= 1
		f.Add(flipped)
		f.Add([]byte(sealed[:i]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, kernel, err := e.unseal(b, e.root.id)
		if genuine := string(b) == string(sealed); genuine != (err == nil) {
			t.Errorf("%x: %v", b, err)
		} else if genuine && (id != e.root.id || kernel != e.root.kernel) {
			t.Errorf("unsealed %+v %+v", id, kernel)
		}
		if _, _, err := e.unseal(b, ident{ino: 1}); err == nil {
			t.Errorf("%x: accepted for another root", b)
		}
	})
}

// TestConcurrent lets a hundred goroutines work in one session and checks what
// they read; at the end nothing is left behind.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	before := descriptors(t)
	t.Run("work", func(t *testing.T) {
		v := newEnv(t, Config{Path: dir, Descriptors: 8}, Identity{}, tree)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { v.worker(i) })
		}
		wg.Wait()
		v.s.Close()
		fail(v, fsproto.Getattr, fsproto.GetattrReq{Node: root}, rpc.ErrGone)
		if nodes, _ := v.e.counts(); nodes != 1 {
			t.Errorf("%d nodes after the session", nodes)
		}
	})
	if !eventually(t, 5*time.Second, func() bool { return descriptors(t) <= before }) {
		t.Errorf("%d descriptors, %d before", descriptors(t), before)
	}
}

// worker makes, writes, reads, renames and removes files of its own beside the
// others', and shares one with them.
func (v *env) worker(i int) {
	for round := range 5 {
		name, text := fmt.Sprintf("f%d", i), fmt.Sprintf("%d in round %d", i, round)
		en, h := v.create(name, fsproto.OpenReadWrite)
		if _, err := v.write(fsproto.WriteReq{Handle: h}, text); err != nil {
			v.t.Error(err)
		}
		do(v, fsproto.Rename, fsproto.RenameReq{Parent: root, Name: name, NewParent: root, NewName: name + "x"})
		do(v, fsproto.Getattr, fsproto.GetattrReq{Node: en.Node})
		if b, err := v.read(h, 0, 100); string(b) != text || err != nil {
			v.t.Errorf("read %q, %v, want %q", b, err, text)
		}
		v.release(h)
		shared := v.lookup("dir/inner")
		do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: name + "x"})
		do(v, fsproto.Forget, fsproto.ForgetReq{Nodes: []fsproto.Forgotten{{Node: en.Node, Stamp: en.Stamp}, {Node: shared.Node, Stamp: shared.Stamp}}})
		v.list(root, true)
	}
}

// TestAppendsDoNotMix: each append through one handle learns where it went.
func TestAppendsDoNotMix(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, nil)
	_, h := v.create("log", fsproto.OpenWrite|fsproto.OpenAppend)
	var mu sync.Mutex
	at := map[uint64]string{}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for range 20 {
				text := fmt.Sprintf("<%04d>", i)
				res, err := v.write(fsproto.WriteReq{Handle: h, Flags: fsproto.WriteAppend}, text)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				at[res.Offset] = text
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	data, err := os.ReadFile(v.path("log"))
	must(t, err)
	if len(at) != 400 || len(data) != 400*6 {
		t.Fatalf("%d offsets, %d bytes", len(at), len(data))
	}
	for off, text := range at {
		if string(data[off:off+6]) != text {
			t.Errorf("at %d stands %q, want %q", off, data[off:off+6], text)
		}
	}
}

// TestCloseWhileWorking ends a session under its handlers.
func TestCloseWhileWorking(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	node := v.lookup("file").Node
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				req := fsproto.OpenReq{Node: node, Handle: newHandle()}
				var res fsproto.OpenRes
				if err := rpc.Call(context.Background(), v.client, fsproto.Open, &req, &res); err != nil {
					return
				}
			}
		})
	}
	eventually(t, 5*time.Second, func() bool { return v.e.handles.Load() > 10 })
	v.s.Close()
	wg.Wait()
	if n := v.e.handles.Load(); n != 0 {
		t.Errorf("%d files open", n)
	}
	if nodes, idle := v.e.counts(); nodes != 1 || idle != 0 {
		t.Errorf("%d nodes, %d descriptors", nodes, idle)
	}
}

// TestNoBirthTime: where a file system keeps none, the kernel's handle tells
// inodes apart.
func TestNoBirthTime(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	p, err := v.e.root.path.Walk("file")
	must(t, err)
	defer p.Close()
	st, err := p.Stat()
	must(t, err)
	st.Mask &^= unix.STATX_BTIME
	handle := func(data string, err error) handleFunc {
		return func() (beneath.KernelHandle, error) { return beneath.KernelHandle{Data: data}, err }
	}
	a, err := identOf(&st, p.Handle)
	must(t, err)
	b, err := identOf(&st, handle("other generation", nil))
	must(t, err)
	if a == b || a.nsec != noBirth {
		t.Errorf("identities %+v, %+v", a, b)
	}
	_, err = identOf(&st, handle("", syscall.EOPNOTSUPP))
	must(t, err)
	_, err = identOf(&st, handle("", syscall.EACCES))
	want(t, err, syscall.EACCES)
}

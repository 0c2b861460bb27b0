package export

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
	"golang.org/x/sys/unix"
)

// escapeOps is how many operations TestEscape does; RPYCFS_ESCAPE_OPS overrides.
const escapeOps = 100_000

// hostile is a client that sends requests that no honest one would, to all
// operations, and looks into the replies for what lies outside.
type hostile struct {
	t       *testing.T
	s       *Session
	peer    *rpc.Peer       // whose locks these are; it never has a connection
	outside map[uint64]bool // inode numbers
	creds   []uint32

	mu      sync.Mutex
	nodes   []fsproto.Node
	handles []fsproto.FileHandle
	ok      map[string]int // successes by operation
}

var (
	hostileNames = []string{"d0", "d1", "l0", "l1", "f", "secret", "sub", "new", "user.a", "outside"}
	badNames     = []string{"..", ".", "", "/", "../outside/secret", "d0/f", "l0/secret", "/etc", "a\x00b"}
)

// value fills one field of a request at random.
func (h *hostile) value(v reflect.Value, rnd *rand.Rand) {
	switch v.Interface().(type) {
	case fsproto.Node:
		h.mu.Lock()
		v.SetUint(uint64(h.nodes[rnd.IntN(len(h.nodes))]))
		h.mu.Unlock()
		if rnd.IntN(20) == 0 {
			v.SetUint(rnd.Uint64())
		}
		return
	case fsproto.Handle:
		v.SetUint(rnd.Uint64N(32))
		return
	case fsproto.FileHandle:
		h.mu.Lock()
		fh := append(fsproto.FileHandle{}, h.handles[rnd.IntN(len(h.handles))]...)
		h.mu.Unlock()
		if rnd.IntN(2) == 0 {
			fh[rnd.IntN(len(fh))] ^= byte(1 + rnd.IntN(255))
		}
		v.SetBytes(fh)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(hostileNames[rnd.IntN(len(hostileNames))])
		if rnd.IntN(20) == 0 {
			v.SetString(badNames[rnd.IntN(len(badNames))])
		}
	case reflect.Bool:
		v.SetBool(rnd.IntN(2) == 0)
	case reflect.Uint8, reflect.Uint32:
		v.SetUint(uint64(rnd.IntN(1 << rnd.IntN(8))))
	case reflect.Uint64:
		v.SetUint(rnd.Uint64N(4096))
	case reflect.Slice:
		switch v.Type().Elem() {
		case reflect.TypeFor[byte]():
			v.SetBytes([]byte("../outside"))
		case reflect.TypeFor[fsproto.Node](), reflect.TypeFor[fsproto.FilePart]():
			v.Set(reflect.MakeSlice(v.Type(), 3, 3))
			for i := range 3 {
				h.value(v.Index(i), rnd)
			}
		}
	case reflect.Struct:
		h.fill(v, rnd)
	}
}

func (h *hostile) fill(v reflect.Value, rnd *rand.Rand) {
	for i := range v.NumField() {
		h.value(v.Field(i), rnd)
	}
}

// inspect looks for attributes of what lies outside, and keeps nodes and file
// handles for later requests.
func (h *hostile) inspect(op string, v reflect.Value, rnd *rand.Rand) {
	switch x := v.Interface().(type) {
	case fsproto.Attr:
		if h.outside[x.Ino] {
			h.t.Errorf("%s: reply names inode %d, which lies outside", op, x.Ino)
		}
		return
	case fsproto.Entry:
		if x.Node != 0 {
			h.mu.Lock()
			h.nodes[1+rnd.IntN(len(h.nodes)-1)] = x.Node
			h.handles[rnd.IntN(len(h.handles))] = x.FileHandle
			h.mu.Unlock()
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			h.inspect(op, v.Field(i), rnd)
		}
	case reflect.Slice:
		for i := range v.Len() {
			h.inspect(op, v.Index(i), rnd)
		}
	}
}

// request makes one call, bypassing the decoding that would refuse bad names.
func (h *hostile) request(rnd *rand.Rand) {
	m := methods[rnd.IntN(len(methods))]
	req, res := m.op.NewReq(), m.op.NewRes()
	h.fill(reflect.ValueOf(req).Elem(), rnd)
	if c, ok := req.(*fsproto.CreateReq); ok {
		c.NewNode |= fsproto.ClientChosen
	}
	r := &rpc.Request{Peer: h.peer, Op: m.op, Cred: h.creds[rnd.IntN(len(h.creds))], Data: []byte("ESCAPED")}
	if m.call(h.s, context.Background(), r, req, res) == nil {
		h.inspect(m.op.Name, reflect.ValueOf(res).Elem(), rnd)
		h.mu.Lock()
		h.ok[m.op.Name]++
		h.mu.Unlock()
	}
}

// TestEscape lets hostile clients do anything while directories are exchanged
// with symbolic links that lead outside: with the daemon's rights, and as callers
// whose root is root.
func TestEscape(t *testing.T) {
	t.Run("daemon", func(t *testing.T) { escape(t, fsproto.RunAsDaemon, escapeOps) })
	t.Run("caller", func(t *testing.T) {
		needRoot(t)
		escape(t, fsproto.RunAsCaller, escapeOps/8)
	})
}

func escape(t *testing.T, runAs uint8, ops int) {
	base := t.TempDir()
	inside, outside := filepath.Join(base, "inside"), filepath.Join(base, "outside")
	t.Cleanup(func() { unlock(base) })
	for _, dir := range []string{inside, outside, outside + "/sub"} {
		must(t, os.Mkdir(dir, 0o777))
	}
	old := time.Unix(1e9, 0)
	inodes := map[uint64]bool{}
	for _, name := range []string{"secret", "f", "sub/f", "sub"} {
		path := filepath.Join(outside, name)
		if name != "sub" {
			must(t, os.WriteFile(path, []byte("secret"), 0o666))
		}
		must(t, os.Chtimes(path, old, old.Add(time.Hour))) // a read would move the access time
		inodes[inode(t, path)] = true
	}
	inodes[inode(t, outside)], inodes[inode(t, base)] = true, true
	before := attrs(t, outside)

	e := openExport(t, Config{Path: inside, Descriptors: 4, RunAs: runAs})
	s, err := e.NewSession(Identity{RunAs: runAs, NoRootSquash: true})
	must(t, err)
	t.Cleanup(s.Close)
	h := &hostile{
		t: t, s: s, peer: calledBack(t), outside: inodes, creds: []uint32{0, 0, 0, 1, 2},
		nodes: make([]fsproto.Node, 32), handles: make([]fsproto.FileHandle, 8), ok: map[string]int{},
	}
	h.nodes[0] = root
	for i := range h.handles {
		h.handles[i] = e.seal(e.root, e.root.id)
	}
	honest := func(op *rpc.Info, req, res rpc.Message) {
		for _, m := range methods {
			if m.op == op {
				must(t, m.call(s, context.Background(), &rpc.Request{Op: op}, req, res))
			}
		}
	}
	honest(&fsproto.Attach.Info, &fsproto.AttachReq{}, &fsproto.AttachRes{})
	honest(&fsproto.Cred.Info, &fsproto.CredReq{ID: 1, UID: alice, GID: alice}, &fsproto.Empty{})
	honest(&fsproto.Cred.Info, &fsproto.CredReq{ID: 2, UID: bob, GID: bob}, &fsproto.Empty{})

	var stop atomic.Bool
	var swapping, working sync.WaitGroup
	swapping.Go(func() { swap(inside, outside, &stop) })
	if n, err := strconv.Atoi(os.Getenv("RPYCFS_ESCAPE_OPS")); err == nil {
		ops = n
	}
	// Chance may leave a call without success; then there is another round.
	for round := range uint64(20) {
		for w := range uint64(4) {
			working.Go(func() {
				rnd := rand.New(rand.NewPCG(w, 1+round))
				for range ops / 4 {
					h.request(rnd)
				}
			})
		}
		working.Wait()
		if len(h.unproven()) == 0 {
			break
		}
	}
	stop.Store(true)
	swapping.Wait()
	if after := attrs(t, outside); after != before {
		t.Errorf("what lies outside has changed:\n%s\nwas:\n%s", after, before)
	}
	for _, op := range methods {
		if h.ok[op.op.Name] == 0 && op.op.Number != fsproto.Attach.Number {
			t.Logf("%s never succeeded", op.op.Name)
		}
	}
	if names := h.unproven(); len(names) > 0 {
		t.Errorf("%s never succeeded: the test proves nothing of it", names)
	}
}

// unproven returns the calls that matter most and never succeeded.
func (h *hostile) unproven() (names []string) {
	for _, name := range []string{"lookup", "open", "read", "write", "create", "readdir", "rename", "unlink", "setattr", "resolve"} {
		if h.ok[name] == 0 {
			names = append(names, name)
		}
	}
	return names
}

// swap exchanges directories with symbolic links until it is told to stop, and
// makes again what the clients have removed.
func swap(inside, outside string, stop *atomic.Bool) {
	for i := 0; !stop.Load(); i++ {
		os.Chmod(inside, 0o777)
		for n, target := range []string{outside, "../outside"} {
			d, l := filepath.Join(inside, "d"+strconv.Itoa(n)), filepath.Join(inside, "l"+strconv.Itoa(n))
			os.Mkdir(d, 0o777)
			if f, err := os.OpenFile(filepath.Join(d, "f"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666); err == nil {
				f.WriteString("inside") // never through a link: there is an f outside
				f.Close()
			}
			os.Symlink(target, l)
			unix.Renameat2(unix.AT_FDCWD, d, unix.AT_FDCWD, l, unix.RENAME_EXCHANGE)
			os.Symlink(outside+"/secret", filepath.Join(inside, "secret"))
		}
	}
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Ino
}

// unlock makes everything below a directory removable.
func unlock(dir string) {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o777)
			if err != nil {
				unlock(path)
			}
		}
		return nil
	})
}

// TestMovedOut: a directory that leaves the root while it is in use is refused
// within a second, with all that was known below it, and comes back.
func TestMovedOut(t *testing.T) {
	base := t.TempDir()
	must(t, os.Mkdir(filepath.Join(base, "inside"), 0o755))
	v := newEnv(t, Config{Path: filepath.Join(base, "inside")}, Identity{}, func(dir string) {
		must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "a/b/f"), []byte("x"), 0o644))
	})
	a, b, f := v.lookup("a").Node, v.lookup("a/b").Node, v.lookup("a/b/f")
	h := v.opendir(b)
	list := fsproto.ReaddirReq{Handle: h, Size: 4096, Entries: true}
	calls := map[string]func() error{
		"readdir": func() error { _, err := try(v, fsproto.Readdir, list); return err },
		"lookup": func() error {
			_, err := try(v, fsproto.Lookup, fsproto.LookupReq{Parent: b, Name: "f"})
			return err
		},
		"getattr of the directory": func() error { _, err := try(v, fsproto.Getattr, fsproto.GetattrReq{Node: a}); return err },
		"getattr of the file":      func() error { _, err := try(v, fsproto.Getattr, fsproto.GetattrReq{Node: f.Node}); return err },
		"open": func() error {
			h := newHandle()
			_, err := try(v, fsproto.Open, fsproto.OpenReq{Node: f.Node, Handle: h})
			if err == nil {
				v.release(h)
			}
			return err
		},
		"mkdir": func() error {
			_, err := try(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: b, Name: "new", NewNode: newNode()})
			if isErrno(err, syscall.EEXIST) {
				return nil
			}
			return err
		},
		"resolve": func() error {
			_, err := try(v, fsproto.Resolve, fsproto.ResolveReq{FileHandle: f.FileHandle})
			return err
		},
	}
	for name, call := range calls {
		if err := call(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	must(t, os.Rename(v.path("a"), filepath.Join(base, "a")))
	deadline := time.Now().Add(time.Second)
	for name, call := range calls {
		if !eventually(t, time.Until(deadline), func() bool { return isErrno(call(), syscall.ESTALE) }) {
			t.Errorf("%s is still answered: %v", name, call())
		}
	}
	must(t, os.Rename(filepath.Join(base, "a"), v.path("a")))
	for _, name := range []string{"readdir", "lookup", "getattr of the file", "open"} {
		if err := calls[name](); err != nil {
			t.Errorf("%s after the return: %v", name, err)
		}
	}
}

// TestRootMovedOut: the same for the attached root itself.
func TestRootMovedOut(t *testing.T) {
	base := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(base, "inside/user/home"), 0o755))
	e := openExport(t, Config{Path: filepath.Join(base, "inside")})
	s, err := e.NewSession(Identity{Root: "user"})
	must(t, err)
	t.Cleanup(s.Close)
	v := &env{t: t, e: e, s: s, client: connect(t, s)}
	do(v, fsproto.Attach, fsproto.AttachReq{Path: []string{"home"}})
	move := func(from, to string) { must(t, os.Rename(filepath.Join(base, from), filepath.Join(base, to))) }
	refused := func() bool {
		_, err := try(v, fsproto.Getattr, fsproto.GetattrReq{Node: root})
		return isErrno(err, syscall.ESTALE)
	}
	for _, way := range [][2]string{{"inside/user/home", "inside/home"}, {"inside/user", "user"}} {
		move(way[0], way[1])
		if !eventually(t, time.Second, refused) {
			t.Errorf("still answered after %v", way)
		}
		move(way[1], way[0])
		if refused() {
			t.Errorf("refused after the return of %v", way)
		}
	}
}

// TestOtherFileSystem: what is mounted below the root is not entered.
func TestOtherFileSystem(t *testing.T) {
	v := newEnv(t, Config{Path: "/", ReadOnly: true}, Identity{}, nil)
	fail(v, fsproto.Lookup, fsproto.LookupReq{Parent: root, Name: "proc"}, syscall.EXDEV)
	for _, d := range v.list(root, true) {
		if d.Name == "proc" && d.Known {
			t.Error("listed with attributes")
		}
	}
	s := v.session(Identity{})
	o := &env{t: t, e: v.e, s: s, client: connect(t, s)}
	fail(o, fsproto.Attach, fsproto.AttachReq{Path: []string{"proc", "self"}}, syscall.EXDEV)
}

// calledBack returns a peer whose other side answers recalls.
func calledBack(t *testing.T) *rpc.Peer {
	var mux rpc.Mux
	rpc.Handle(&mux, fsproto.Recall, func(context.Context, *rpc.Request, *fsproto.RecallReq, *fsproto.Empty) error { return nil })
	peer, _ := rpctest.Pair(t, nil, &mux)
	return peer
}

package export

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	unix.Umask(0)
	os.Exit(m.Run())
}

// env is an exported directory and a client of it over a connection.
type env struct {
	t      testing.TB
	dir    string
	e      *Export
	s      *Session
	client *rpc.Peer
	cred   uint32 // that calls are made with
}

var lastNumber atomic.Uint64

// newNode and newHandle return numbers of the client's choice.
func newNode() fsproto.Node     { return fsproto.Node(lastNumber.Add(1) | fsproto.ClientChosen) }
func newHandle() fsproto.Handle { return fsproto.Handle(lastNumber.Add(1)) }

func openExport(t testing.TB, cfg Config) *Export {
	t.Helper()
	e, err := Open(cfg)
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	return e
}

// newEnv exports a new directory, which prepare fills, and attaches to it.
func newEnv(t *testing.T, cfg Config, id Identity, prepare func(dir string)) *env {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = t.TempDir()
	}
	if prepare != nil {
		prepare(cfg.Path)
	}
	v := &env{t: t, dir: cfg.Path, e: openExport(t, cfg)}
	v.s = v.session(id)
	v.client = connect(t, v.s)
	var res fsproto.AttachRes
	must(t, rpc.Call(context.Background(), v.client, fsproto.Attach, &fsproto.AttachReq{}, &res))
	if res.Entry.Node != fsproto.RootNode || !res.Entry.Attr.IsDir() {
		t.Fatalf("attach: %+v", res)
	}
	return v
}

func (v *env) session(id Identity) *Session {
	v.t.Helper()
	s, err := v.e.NewSession(id)
	must(v.t, err)
	v.t.Cleanup(s.Close)
	return s
}

func connect(t *testing.T, s *Session) *rpc.Peer {
	t.Helper()
	var mux rpc.Mux
	s.Register(&mux)
	_, client := rpctest.Pair(t, &mux, nil)
	return client
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, err, errno error) {
	t.Helper()
	if !errors.Is(err, errno) {
		t.Errorf("error %v, want %v", err, errno)
	}
}

// do makes a call that must succeed.
func do[Req, Res any](v *env, op *rpc.Op[Req, Res], req Req) Res {
	v.t.Helper()
	res, err := try(v, op, req)
	if err != nil {
		v.t.Fatalf("%s %+v: %v", op.Name, req, err)
	}
	return res
}

// try makes a call.
func try[Req, Res any](v *env, op *rpc.Op[Req, Res], req Req) (res Res, err error) {
	_, err = rpc.CallWith(context.Background(), v.client, op, &req, &res, rpc.Extra{Cred: v.cred})
	return res, err
}

// fail makes a call that must fail with errno.
func fail[Req, Res any](v *env, op *rpc.Op[Req, Res], req Req, errno error) {
	v.t.Helper()
	if _, err := try(v, op, req); !errors.Is(err, errno) {
		v.t.Errorf("%s %+v: error %v, want %v", op.Name, req, err, errno)
	}
}

// lookup returns the node at a path of names from the root.
func (v *env) lookup(path string) fsproto.Entry {
	v.t.Helper()
	at := fsproto.Entry{Node: fsproto.RootNode}
	for name := range strings.SplitSeq(path, "/") {
		res := do(v, fsproto.Lookup, fsproto.LookupReq{Parent: at.Node, Name: name})
		if !res.Exists {
			v.t.Fatalf("lookup %s: no %q", path, name)
		}
		at = res.Entry
	}
	return at
}

func (v *env) open(node fsproto.Node, flags uint32) fsproto.Handle {
	v.t.Helper()
	h := newHandle()
	do(v, fsproto.Open, fsproto.OpenReq{Node: node, Handle: h, Flags: flags})
	return h
}

func (v *env) create(name string, flags uint32) (fsproto.Entry, fsproto.Handle) {
	v.t.Helper()
	h := newHandle()
	res := do(v, fsproto.Create, fsproto.CreateReq{
		Parent: fsproto.RootNode, Name: name, Mode: 0o644, Flags: flags, NewNode: newNode(), Handle: h,
	})
	return res.Entry, h
}

func (v *env) read(h fsproto.Handle, off uint64, n int) ([]byte, error) {
	var res fsproto.AttrRes
	buf := make([]byte, n)
	m, err := rpc.CallWith(context.Background(), v.client, fsproto.Read,
		&fsproto.ReadReq{Handle: h, Offset: off, Size: uint32(n)}, &res, rpc.Extra{Into: buf, Cred: v.cred})
	return buf[:m], err
}

func (v *env) write(req fsproto.WriteReq, data string) (res fsproto.WriteRes, err error) {
	_, err = rpc.CallWith(context.Background(), v.client, fsproto.Write, &req, &res, rpc.Extra{Data: []byte(data), Cred: v.cred})
	return res, err
}

func (v *env) release(h fsproto.Handle) {
	v.t.Helper()
	do(v, fsproto.Release, fsproto.ReleaseReq{Handle: h})
}

func (v *env) path(name string) string { return filepath.Join(v.dir, name) }

// content checks what a file on the server holds.
func (v *env) content(name, want string) {
	v.t.Helper()
	got, err := os.ReadFile(v.path(name))
	if err != nil || !bytes.Equal(got, []byte(want)) {
		v.t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
	}
}

// descriptors counts the process's open descriptors.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// eventually waits until cond holds.
func eventually(t testing.TB, within time.Duration, cond func() bool) bool {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); runtime.Gosched() {
		if cond() {
			return true
		}
	}
	return cond()
}

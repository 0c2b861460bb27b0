package mount

import (
	"context"
	_ "embed"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// requestsSource is in the test program: that may run elsewhere, as another user.
//
//go:embed requests.go
var requestsSource string

// TestEveryRequestCounts: a method that answers the kernel and is not counted
// would be missing in the status without a word.
func TestEveryRequestCounts(t *testing.T) {
	none := map[string]string{
		"String": "no request", "SetDebug": "no request", "Init": "no request", "OnUnmount": "no request",
		"Write": "for data in pieces, which do not come from /dev/fuse",
	}
	file, err := parser.ParseFile(token.NewFileSet(), "requests.go", requestsSource, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	has := make(map[string]bool)
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil {
			has[f.Name.Name] = true
		}
	}
	for m := range reflect.TypeFor[fuse.RawFileSystem]().Methods() {
		if _, exempt := none[m.Name]; has[m.Name] == exempt {
			t.Errorf("%s: counted is %t", m.Name, has[m.Name])
		}
	}
	seen := make(map[string]bool)
	for kind, name := range requestNames {
		if name == "" || seen[name] || name != strings.ToLower(name) {
			t.Errorf("kind %d has the name %q", kind, name)
		}
		seen[name] = true
	}
}

// fakeDaemon answers some calls. mkdir is told of each of that.
func fakeDaemon(mkdir func()) *rpc.Mux {
	mux := new(rpc.Mux)
	dir := fsproto.Attr{Mode: fsproto.ModeDir | 0o755}
	rpc.Handle(mux, fsproto.Attach, func(_ context.Context, _ *rpc.Request, _ *fsproto.AttachReq, res *fsproto.AttachRes) error {
		res.Entry = fsproto.Entry{Node: fsproto.RootNode, Attr: dir}
		res.Flags = fsproto.ExportReadOnly
		return nil
	})
	rpc.Handle(mux, fsproto.Lookup, func(_ context.Context, _ *rpc.Request, req *fsproto.LookupReq, res *fsproto.LookupRes) error {
		if req.Name == "forbidden" {
			return syscall.EACCES
		}
		return nil
	})
	rpc.Handle(mux, fsproto.Mkdir, func(context.Context, *rpc.Request, *fsproto.MkdirReq, *fsproto.CreateNodeRes) error {
		mkdir()
		return syscall.ENOSPC
	})
	rpc.Handle(mux, fsproto.Read, func(_ context.Context, r *rpc.Request, req *fsproto.ReadReq, _ *fsproto.AttrRes) error {
		b, err := r.Reply(int(req.Size))
		r.SetReply(len(b) / 2)
		return err
	})
	rpc.Handle(mux, fsproto.Setlk, func(context.Context, *rpc.Request, *fsproto.SetlkReq, *fsproto.SetlkRes) error { return nil })
	return mux
}

// TestStatus makes requests as go-fuse does and looks at what they add.
func TestStatus(t *testing.T) {
	var m *FS
	tries, callbacks := 0, NewCallbacks()
	server, client := rpctest.Pair(t, fakeDaemon(func() {
		if tries++; tries == 1 { // something is let go of: what found no space is tried again
			m.backlog.begin()
			m.backlog.end(1)
		}
	}), callbacks.Mux())
	m, err := Attach(context.Background(), client, Config{Callbacks: callbacks})
	if err != nil {
		t.Fatal(err)
	}
	defer m.OnUnmount()
	c, root := counted{m}, fuse.InHeader{NodeId: uint64(fsproto.RootNode)}
	lookup := func(name string) fuse.Status {
		h := root
		return c.Lookup(nil, &h, name, new(fuse.EntryOut))
	}
	for name, want := range map[string]fuse.Status{
		"none": fuse.OK, "forbidden": fuse.EACCES, "a/b": fuse.EINVAL, strings.Repeat("x", fsproto.MaxName+1): fuse.Status(unix.ENAMETOOLONG),
	} {
		if st := lookup(name); st != want {
			t.Errorf("lookup %.10q: %v", name, st)
		}
	}
	if st := c.Mkdir(nil, &fuse.MkdirIn{InHeader: root}, "d", new(fuse.EntryOut)); st != fuse.Status(unix.ENOSPC) {
		t.Errorf("mkdir: %v", st)
	}
	result, st := c.Read(nil, &fuse.ReadIn{InHeader: root, Fh: 5, Size: 100}, make([]byte, 100))
	if !st.Ok() || result.Size() != 50 {
		t.Errorf("read: %v", st)
	}
	if _, st := c.Read(nil, &fuse.ReadIn{InHeader: root, Fh: 5, Size: 100}, make([]byte, 100)); !st.Ok() {
		t.Errorf("read: %v", st)
	}
	if _, st := c.Writev(nil, &fuse.WriteIn{InHeader: root, Fh: 5}, [][]byte{{1}}); st != fuse.EBADF {
		t.Errorf("write without an open file: %v", st)
	}
	for range 2 { // nobody has locks
		if st := c.Flush(nil, &fuse.FlushIn{InHeader: root, Fh: 5}); !st.Ok() {
			t.Errorf("flush: %v", st)
		}
	}
	c.SetLk(nil, &fuse.LkIn{InHeader: root, Lk: fuse.FileLock{Typ: syscall.F_UNLCK}})
	c.Forget(77, 1)
	if err := rpc.Call(context.Background(), server, fsproto.LocksLost, &fsproto.LocksLostReq{}, &fsproto.Empty{}); err != nil {
		t.Fatal(err)
	}

	s := m.Status()
	for name, want := range map[string]RequestStatus{
		"lookup": {4, 2}, "mkdir": {1, 0}, "read": {2, 0}, "write": {1, 1}, "flush": {2, 2}, "setlk": {1, 0}, "forget": {1, 1},
	} {
		if s.Requests[name] != want {
			t.Errorf("%s: %+v, want %+v", name, s.Requests[name], want)
		}
		delete(s.Requests, name)
	}
	if len(s.Requests) > 0 {
		t.Errorf("others: %v", s.Requests)
	}
	if l := s.Calls["lookup"]; l.Count != 2 || l.Errors != 1 || l.InFlight != 0 || l.Nanoseconds <= 0 {
		t.Errorf("calls of lookup: %+v", l)
	}
	if l := s.Calls["mkdir"]; l.Count != 2 || l.Errors != 2 {
		t.Errorf("calls of mkdir, which was tried again: %+v", l)
	}
	if l := s.Served["locks_lost"]; len(s.Served) != 1 || l != (ServedStatus{1, 0}) {
		t.Errorf("calls of the server: %+v", s.Served)
	}
	if !s.ReadOnly || s.RunAs != "daemon" || s.IDMap != "self" || s.BytesRead != 100 || s.BytesWritten != 0 || s.Nodes != 1 || s.OpenFiles+s.OpenDirs != 0 {
		t.Errorf("%+v", s)
	}
	if text, err := json.Marshal(s); err != nil || !strings.Contains(string(text), `"served":{"locks_lost":{"count":1,"errors":0}}`) {
		t.Errorf("%s, %v", text, err)
	}
	client.End(nil)
	if again := m.Status(); again.BytesRead != 100 {
		t.Errorf("after the end of the session: %+v", again)
	}
}

// TestRequestsAllocateNothing beyond what they did before they were counted.
func TestRequestsAllocateNothing(t *testing.T) {
	c := counted{new(FS)}
	in := &fuse.FlushIn{}
	if n := testing.AllocsPerRun(100, func() { c.Flush(nil, in) }); n != 0 {
		t.Errorf("a request that is answered here allocates %v times", n)
	}
	if here := c.requests[reqFlush].here.Load(); here != 101 {
		t.Errorf("%d requests", here)
	}
}

// dropper is a kernel that has one inode and one name.
type dropper struct{}

func (dropper) InodeNotify(node uint64, _, _ int64) fuse.Status {
	if node == 5 {
		return fuse.OK
	}
	return fuse.ENOENT
}

func (dropper) EntryNotify(_ uint64, name string) fuse.Status {
	if name == "known" {
		return fuse.OK
	}
	return fuse.ENOENT
}

func TestInvalidationsCount(t *testing.T) {
	var m FS
	k := countedKernel{dropper{}, &m.invalidations}
	for _, node := range []uint64{5, 6, 5} {
		k.InodeNotify(node, 0, 0)
	}
	for _, name := range []string{"known", "unknown"} {
		k.EntryNotify(1, name)
	}
	if n := m.invalidations.Load(); n != 3 {
		t.Errorf("%d, want 3", n)
	}
}

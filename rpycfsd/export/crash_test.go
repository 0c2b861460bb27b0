package export

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
	"golang.org/x/sys/unix"
)

// slotMemory is a rpc.SlotLog in memory that can be killed.
type slotMemory struct {
	mu     sync.Mutex
	served map[uint32]rpc.ServedSlot
	sent   map[uint32]rpc.Dep
	dead   bool
	ended  func()
}

func (m *slotMemory) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dead {
		f()
	}
}

func (m *slotMemory) Began(d rpc.Dep) {
	m.set(func() {
		if s := m.served[d.Slot]; s.Dep != d || !s.Running {
			s.Dep, s.Running, s.Note = d, true, nil
			m.served[d.Slot] = s
		}
	})
}

func (m *slotMemory) Noted(d rpc.Dep, note []byte) {
	m.set(func() {
		s := m.served[d.Slot]
		s.Note = slices.Clone(note)
		m.served[d.Slot] = s
	})
}

func (m *slotMemory) Ended(s rpc.ServedSlot) {
	m.set(func() {
		s.Reply = slices.Clone(s.Reply)
		m.served[s.Slot] = s
		if m.ended != nil {
			m.ended()
		}
	})
}

func (m *slotMemory) Sent(d rpc.Dep) { m.set(func() { m.sent[d.Slot] = d }) }

// crashEnv is a daemon's export and a session that go on after every crash.
type crashEnv struct {
	*env
	path  string // of the records
	store *mapped.Store
	log   *slotMemory
	link  *rpctest.Session
	key   mapped.Cell

	mu      sync.Mutex
	onWait  func()
	at      string        // the point at which the daemon crashes; "": it does not
	crashed chan struct{} // closed by the crash
	dead    bool          // the process that crashed has ended
	ended   time.Time     // when it had
}

var errCrashed = errors.New("crashed")

func newCrashEnv(t *testing.T) *crashEnv {
	v := &crashEnv{env: &env{t: t, dir: t.TempDir()}, path: filepath.Join(t.TempDir(), "records")}
	v.log = &slotMemory{served: make(map[uint32]rpc.ServedSlot), sent: make(map[uint32]rpc.Dep)}
	t.Cleanup(func() {
		v.s.Close()
		v.link.Server.End(nil)
		must(t, v.e.Close())
		v.store.Close()
	})
	return v
}

// open opens the export and goes on with the session, if there is one.
func (v *crashEnv) open() (root *rpc.Mux, from rpc.Slots, tell func(*rpc.Peer)) {
	store, records, err := mapped.Open(v.path)
	must(v.t, err)
	v.store = store
	v.e, err = Open(Config{Path: v.dir, Keep: Keep{Store: store, Ended: v.ended}, reached: v.reached})
	must(v.t, err)
	root = new(rpc.Mux)
	if v.key.IsZero() {
		v.key, err = store.Put(FirstKind, make([]byte, 8))
		must(v.t, err)
		v.s, err = v.e.NewSession(Identity{})
		must(v.t, err)
		v.s.KeepAs(v.key.ID())
	} else {
		undecided := make(map[rpc.Dep][]byte)
		for _, s := range v.log.served {
			if s.Running {
				undecided[s.Dep] = s.Note
			}
			from.Served = append(from.Served, s)
		}
		for _, d := range v.log.sent {
			from.Sent = append(from.Sent, d)
		}
		key := v.key.ID()
		rest := slices.DeleteFunc(records, func(rec mapped.Record) bool {
			if rec.Kind == FirstKind {
				v.key = rec.Cell
			}
			return rec.Kind == FirstKind
		})
		r := v.e.Recover(rest, nil)
		r.Undecided(undecided)
		v.s, tell, err = r.Session(Identity{}, key, undecided)
		must(v.t, err)
		r.Close()
	}
	v.s.Register(root)
	return root, from, tell
}

func (v *crashEnv) start() {
	root, _, _ := v.open()
	v.link = rpctest.New(v.t, rpc.Config{Root: root, Slots: v.log}, rpc.Config{})
	v.env.client = v.link.Client
	do(v.env, fsproto.Attach, fsproto.AttachReq{})
}

// crashAt has the next change crash at a point.
func (v *crashEnv) crashAt(point string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at, v.crashed, v.dead = point, make(chan struct{}), false
	v.log.mu.Lock()
	defer v.log.mu.Unlock()
	v.log.ended = nil
	if point == "recorded" {
		v.log.ended = func() {
			v.log.ended = nil
			v.log.dead = true
			v.crash()
		}
	}
}

// crash has everything stay as it is. From here on nothing of the process counts.
func (v *crashEnv) crash() {
	v.store.Freeze()
	v.link.Cut()
	close(v.crashed)
}

func (v *crashEnv) reached(point string) error {
	v.mu.Lock()
	at := v.at
	if point == "waits" && v.onWait != nil {
		v.onWait()
	}
	if at != point && (at != "changed" || point != "noted") {
		v.mu.Unlock()
		return nil
	}
	v.at = ""
	v.mu.Unlock()
	v.log.set(func() { v.log.dead = true })
	v.crash()
	if at == "changed" {
		return nil // the system call is made, nothing that follows is stored
	}
	return errCrashed
}

// end has the process that crashed end: what it had begun it has done.
func (v *crashEnv) end() {
	<-v.crashed
	v.link.Cut()
	v.link.Server.End(nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.dead {
		v.dead, v.ended = true, time.Now()
	}
}

// again is the next process.
func (v *crashEnv) again(point string) {
	v.end()
	oldSession, oldExport, oldStore := v.s, v.e, v.store
	oldSession.Close()
	must(v.t, oldExport.Close())
	must(v.t, oldStore.Close())
	v.log = &slotMemory{served: v.log.served, sent: v.log.sent}
	v.crashAt(point)
	root, from, tell := v.open()
	v.link.Server = rpc.NewPeer(rpc.Config{Root: root, Slots: v.log, From: from})
	tell(v.link.Server)
	if point != "away" {
		v.link.Connect()
	}
}

// crashStep is one change: what it does by the client's number, in a directory "d" with
// files "a" and "b", a directory "sub" and a link "hard" to a.
type crashStep struct {
	name string
	do   func(v *env, x *crashFiles) error
}

type crashFiles struct {
	d, sub, a, b fsproto.Entry
	h            fsproto.Handle // of a
}

func made[Req, Res any](v *env, op *rpc.Op[Req, Res], req Req) error {
	_, err := try(v, op, req)
	return err
}

var crashSteps = []crashStep{
	{"mkdir", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: x.d.Node, Name: "new", Mode: 0o750, NewNode: newNode()})
	}},
	{"mkdir of what exists", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: x.d.Node, Name: "sub", Mode: 0o750, NewNode: newNode()})
	}},
	{"mknod", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Mknod, fsproto.MknodReq{Parent: x.d.Node, Name: "new", Mode: fsproto.ModeFIFO | 0o600, NewNode: newNode()})
	}},
	{"symlink", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Symlink, fsproto.SymlinkReq{Parent: x.d.Node, Name: "new", Target: []byte("to/somewhere"), NewNode: newNode()})
	}},
	{"link", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Link, fsproto.LinkReq{Node: x.a.Node, Parent: x.sub.Node, Name: "new"})
	}},
	{"link over what exists", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Link, fsproto.LinkReq{Node: x.a.Node, Parent: x.d.Node, Name: "hard"})
	}},
	{"unlink", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: x.d.Node, Name: "b"})
	}},
	{"unlink of nothing", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: x.d.Node, Name: "nothing"})
	}},
	{"rmdir", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Rmdir, fsproto.UnlinkReq{Parent: x.d.Node, Name: "sub"})
	}},
	{"rename", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Rename, fsproto.RenameReq{Parent: x.d.Node, Name: "a", NewParent: x.sub.Node, NewName: "moved"})
	}},
	{"rename over a file", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Rename, fsproto.RenameReq{Parent: x.d.Node, Name: "a", NewParent: x.d.Node, NewName: "b"})
	}},
	{"rename of a hard link", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Rename, fsproto.RenameReq{Parent: x.d.Node, Name: "a", NewParent: x.d.Node, NewName: "hard"})
	}},
	{"rename without replacing", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Rename, fsproto.RenameReq{Parent: x.d.Node, Name: "a", NewParent: x.d.Node, NewName: "b", Flags: fsproto.RenameNoReplace})
	}},
	{"exchange", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Rename, fsproto.RenameReq{Parent: x.d.Node, Name: "a", NewParent: x.d.Node, NewName: "sub", Flags: fsproto.RenameExchange})
	}},
	{"create", func(v *env, x *crashFiles) error {
		h := newHandle()
		err := made(v, fsproto.Create, fsproto.CreateReq{Parent: x.d.Node, Name: "new", Mode: 0o400, Flags: fsproto.OpenReadWrite | fsproto.OpenExclusive, NewNode: newNode(), Handle: h})
		if err == nil {
			_, err = v.write(fsproto.WriteReq{Handle: h}, "written")
		}
		return err
	}},
	{"create of what exists", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Create, fsproto.CreateReq{Parent: x.d.Node, Name: "a", Mode: 0o600, Flags: fsproto.OpenReadWrite | fsproto.OpenExclusive, NewNode: newNode(), Handle: newHandle()})
	}},
	{"create that opens", func(v *env, x *crashFiles) error {
		h := newHandle()
		err := made(v, fsproto.Create, fsproto.CreateReq{Parent: x.d.Node, Name: "b", Mode: 0o600, Flags: fsproto.OpenWrite | fsproto.OpenTruncate, NewNode: newNode(), Handle: h})
		if err == nil {
			_, err = v.write(fsproto.WriteReq{Handle: h}, "anew")
		}
		return err
	}},
	{"tmpfile", func(v *env, x *crashFiles) error {
		n, h := newNode(), newHandle()
		res, err := try(v, fsproto.Tmpfile, fsproto.TmpfileReq{Parent: x.d.Node, Mode: 0o600, Flags: fsproto.OpenReadWrite, NewNode: n, Handle: h})
		if err != nil {
			return err
		}
		if res.Entry.Node != n {
			return fmt.Errorf("node %d, chosen was %d", res.Entry.Node, n)
		}
		// Without a keeper it does not outlive the next crash, and another one could be the
		// same inode, born at the same time.
		if err := made(v, fsproto.Release, fsproto.ReleaseReq{Handle: h}); err != nil {
			return err
		}
		return made(v, fsproto.Forget, fsproto.ForgetReq{Nodes: []fsproto.Forgotten{{Node: n, Stamp: res.Entry.Stamp}}})
	}},
	{"open and truncate", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Open, fsproto.OpenReq{Node: x.b.Node, Handle: newHandle(), Flags: fsproto.OpenWrite | fsproto.OpenTruncate})
	}},
	{"append", func(v *env, x *crashFiles) error {
		res, err := v.write(fsproto.WriteReq{Handle: x.h, Flags: fsproto.WriteAppend}, "appended")
		if err == nil && (res.Offset != 4 || res.Count != 8) {
			err = fmt.Errorf("%d bytes at %d", res.Count, res.Offset)
		}
		return err
	}},
	{"write", func(v *env, x *crashFiles) error {
		_, err := v.write(fsproto.WriteReq{Handle: x.h, Offset: 2}, "written")
		return err
	}},
	{"setattr", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Setattr, fsproto.SetattrReq{Node: x.a.Node, Mask: fsproto.SetMode | fsproto.SetSize, Mode: 0o640, Size: 2})
	}},
	{"setxattr", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Setxattr, fsproto.SetxattrReq{Node: x.a.Node, Name: "user.new", Value: []byte("x"), Flags: fsproto.XattrCreate})
	}},
	{"setxattr of what exists", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Setxattr, fsproto.SetxattrReq{Node: x.b.Node, Name: "user.b", Value: []byte("y"), Flags: fsproto.XattrCreate})
	}},
	{"removexattr", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Removexattr, fsproto.RemovexattrReq{Node: x.b.Node, Name: "user.b"})
	}},
	{"removexattr of nothing", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Removexattr, fsproto.RemovexattrReq{Node: x.a.Node, Name: "user.b"})
	}},
	{"fallocate", func(v *env, x *crashFiles) error {
		return made(v, fsproto.Fallocate, fsproto.FallocateReq{Handle: x.h, Offset: 0, Length: 100})
	}},
	{"copy_file_range", func(v *env, x *crashFiles) error {
		return made(v, fsproto.CopyFileRange, fsproto.CopyReq{From: x.h, To: x.h, FromOffset: 0, ToOffset: 10, Length: 4})
	}},
}

func crashStepOf(name string) crashStep {
	return crashSteps[slices.IndexFunc(crashSteps, func(s crashStep) bool { return s.name == name })]
}

// prepare makes the directory that steps change, anew.
func (v *crashEnv) prepare() *crashFiles {
	v.t.Helper()
	name := fmt.Sprint("d", lastNumber.Add(1))
	at := func(s string) string { return filepath.Join(v.dir, name, s) }
	must(v.t, os.MkdirAll(at("sub"), 0o755))
	must(v.t, os.WriteFile(at("a"), []byte("text"), 0o644))
	must(v.t, os.WriteFile(at("b"), []byte("other text"), 0o644))
	must(v.t, unix.Setxattr(at("b"), "user.b", []byte("x"), 0))
	must(v.t, os.Link(at("a"), at("hard")))
	x := &crashFiles{d: v.lookup(name), sub: v.lookup(name + "/sub"), a: v.lookup(name + "/a"), b: v.lookup(name + "/b")}
	x.h = v.env.open(x.a.Node, fsproto.OpenReadWrite)
	return x
}

// picture tells all that is in a directory.
func picture(t *testing.T, dir string) string {
	var out strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := d.Info()
		must(t, err)
		name, _ := filepath.Rel(dir, path)
		fmt.Fprint(&out, name, " ", info.Mode(), " ")
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(path)
			must(t, err)
			buf := make([]byte, 100)
			n, _ := unix.Listxattr(path, buf)
			fmt.Fprintf(&out, "%d links %q %q", info.Sys().(*syscall.Stat_t).Nlink, text, bytes.TrimRight(buf[:max(n, 0)], "\x00"))
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			out.WriteString(to)
		}
		out.WriteByte('\n')
		return nil
	}))
	return out.String()
}

// TestExactlyOnce crashes the daemon at named points of every change: before it is noted,
// after that, after the system call with nothing of it recorded, when all but the reply
// is recorded, and when that is; and once more when the call comes again. The answer and
// the tree are as if nothing had happened.
func TestExactlyOnce(t *testing.T) {
	rounds := 1
	if n, err := strconv.Atoi(os.Getenv("RPYCFS_CRASHES")); err == nil {
		rounds = n
	}
	calm := newCrashEnv(t)
	calm.start()
	began, crashes := time.Now(), 0
	for _, step := range crashSteps {
		x := calm.prepare()
		want := step.do(calm.env, x)
		wantTree := picture(t, filepath.Join(calm.dir, nameOf(t, calm, x)))
		for left := rounds; left > 0 && !t.Failed(); left -= crashRounds {
			t.Run(step.name, func(t *testing.T) {
				crashes += crashAll(t, step, min(left, crashRounds), want, wantTree)
			})
		}
	}
	t.Logf("%d changes, %d crashes in %v", len(crashSteps), crashes, time.Since(began).Round(time.Millisecond))
}

// crashRounds is how many rounds a session makes: what it leaves behind is recovered
// after every crash.
const crashRounds = 4

// crashAll makes a change so many times with a crash at every point, wants the answer and
// the picture of the tree that it comes to without one, and returns how many crashes that were.
func crashAll(t *testing.T, step crashStep, rounds int, want error, wantTree string) (crashes int) {
	v := newCrashEnv(t)
	v.start()
	for _, points := range [][]string{
		{"begun"}, {"noted"}, {"changed"}, {"made"}, {"recorded"},
		{"changed", "begun"}, {"changed", "noted"}, {"changed", "changed"}, {"changed", "made"}, {"noted", "changed"}, {"made", "recorded"},
	} {
		for range rounds {
			x := v.prepare()
			name := nameOf(t, v, x)
			v.crashAt(points[0])
			result := make(chan error, 1)
			go func() { result <- step.do(v.env, x) }()
			crashed := false
			for _, next := range append(points[1:], "") {
				select {
				case <-v.crashed:
					v.again(next)
					crashed = true
					crashes++
					continue
				case err := <-result:
					result <- err
				}
				break
			}
			if !crashed && want == nil {
				t.Errorf("never came to %q", points)
			}
			got := <-result
			if !sameErrno(got, want) {
				t.Errorf("crashed at %q: %v, want %v", points, got, want)
			}
			if now := picture(t, filepath.Join(v.dir, name)); now != wantTree {
				t.Errorf("crashed at %q:\n%swant\n%s", points, now, wantTree)
			}
			v.crashAt("")
			if _, err := v.read(x.h, 0, 1); err != nil {
				t.Errorf("crashed at %q: reading the open file: %v", points, err)
			}
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	return crashes
}

func nameOf(t *testing.T, v *crashEnv, x *crashFiles) string {
	n := v.s.nodeOf(x.d.Node)
	if n == nil {
		t.Fatal("the directory is not known")
	}
	return v.e.hintsOf(n)[0].name
}

func sameErrno(a, b error) bool {
	if (a == nil) != (b == nil) {
		return false
	}
	return a == nil || rpc.CodeOf(a) == rpc.CodeOf(b)
}

// TestUndecidedWait: while a client has not come back, others do not change what its call
// may have changed; and each of two calls for one name gets its own answer.
func TestUndecidedWait(t *testing.T) {
	for _, point := range []string{"noted", "changed"} {
		v := newCrashEnv(t)
		v.start()
		x := v.prepare()
		name := nameOf(t, v, x)
		v.crashAt(point)
		first := make(chan error, 1)
		go func() { first <- crashSteps[0].do(v.env, x) }()
		v.again("away")
		other := &env{t: t, dir: v.dir, e: v.e, s: v.session(Identity{})}
		other.client = connect(t, other.s)
		do(other, fsproto.Attach, fsproto.AttachReq{})
		d := other.lookup(name)
		waits := make(chan struct{}, 10)
		v.mu.Lock()
		v.onWait = func() { waits <- struct{}{} }
		v.mu.Unlock()
		second := make(chan error, 1)
		go func() {
			second <- made(other, fsproto.Mkdir, fsproto.MkdirReq{Parent: d.Node, Name: "new", NewNode: newNode()})
		}()
		select {
		case <-waits:
		case err := <-second:
			t.Fatalf("%s: the other client's mkdir did not wait: %v", point, err)
		}
		must(t, made(other, fsproto.Mkdir, fsproto.MkdirReq{Parent: other.lookup(name + "/sub").Node, Name: "elsewhere", NewNode: newNode()}))
		v.link.Connect()
		must(t, <-first)
		want(t, <-second, syscall.EEXIST)
	}
}

// TestUndecidedProgram: what a program on the server has done meanwhile is not taken for
// the call, nor lost.
func TestUndecidedProgram(t *testing.T) {
	v := newCrashEnv(t)
	v.start()
	for _, tt := range []struct {
		step, point string
		program     func(dir string)
		errno       error
		file, text  string
	}{
		{"append", "changed", func(dir string) { must(t, os.Truncate(dir+"/a", 7)) }, nil, "a", "textappended"},
		{"append", "noted", func(dir string) { must(t, os.WriteFile(dir+"/a", []byte("textzzz"), 0)) }, syscall.EIO, "a", "textzzz"},
		{"append", "noted", func(dir string) { must(t, os.WriteFile(dir+"/a", []byte("te"), 0)) }, syscall.EIO, "a", "te"},
		{"rename", "noted", func(dir string) { must(t, os.Rename(dir+"/a", dir+"/elsewhere")) }, syscall.EIO, "elsewhere", "text"},
		{"rename", "changed", func(dir string) { must(t, os.WriteFile(dir+"/a", []byte("new"), 0o644)) }, nil, "sub/moved", "text"},
		{"unlink", "changed", func(dir string) { must(t, os.WriteFile(dir+"/b", []byte("new"), 0o644)) }, nil, "b", "new"},
		{"create", "noted", func(dir string) {
			must(t, os.WriteFile(dir+"/old", []byte("old"), 0o644))
		}, nil, "new", "written"},
	} {
		x := v.prepare()
		dir := filepath.Join(v.dir, nameOf(t, v, x))
		v.crashAt(tt.point)
		result := make(chan error, 1)
		go func() { result <- crashStepOf(tt.step).do(v.env, x) }()
		v.end()
		tt.program(dir)
		v.again("")
		if err := <-result; tt.errno == nil && err != nil || tt.errno != nil && (!errors.Is(err, tt.errno) || !fsproto.IsUndecided(err)) {
			t.Errorf("%s at %q: %v, want %v", tt.step, tt.point, err, tt.errno)
		}
		if text, err := os.ReadFile(filepath.Join(dir, tt.file)); err != nil || string(text) != tt.text {
			t.Errorf("%s at %q: %s holds %q, %v", tt.step, tt.point, tt.file, text, err)
		}
	}
}

// TestMadeByProgram: an entry that a program has made is not taken for the call's, nor
// changed. However alike they are: if the daemon had ended by then, the call comes too late.
// If it could be the call's, changed by the program, that is undecided. What has got the
// number that the call gives is known, whatever has become of it.
func TestMadeByProgram(t *testing.T) {
	v := newCrashEnv(t)
	v.start()
	makes := map[string]struct {
		do      func(x *crashFiles) error
		program func(path string, mode uint32) error // the same
	}{
		"mkdir": {
			func(x *crashFiles) error { return crashStepOf("mkdir").do(v.env, x) },
			func(path string, mode uint32) error { return unix.Mkdir(path, 0o750^mode) },
		},
		"mknod": {
			func(x *crashFiles) error { return crashStepOf("mknod").do(v.env, x) },
			func(path string, mode uint32) error { return unix.Mkfifo(path, 0o600^mode) },
		},
		"mknod of a file": {
			func(x *crashFiles) error {
				return made(v.env, fsproto.Mknod, fsproto.MknodReq{Parent: x.d.Node, Name: "new", Mode: 0o600, NewNode: newNode()})
			},
			func(path string, mode uint32) error { return unix.Mknod(path, unix.S_IFREG|0o600^mode, 0) },
		},
		"symlink": {
			func(x *crashFiles) error { return crashStepOf("symlink").do(v.env, x) },
			func(path string, mode uint32) error {
				return unix.Symlink([]string{"to/somewhere", "to/somewhere/else"}[min(mode, 1)], path)
			},
		},
		"create": {
			func(x *crashFiles) error { return crashStepOf("create").do(v.env, x) },
			func(path string, mode uint32) error {
				fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o400^mode)
				unix.Close(fd)
				return err
			},
		},
	}
	defer unix.Umask(unix.Umask(0))
	for name, m := range makes {
		for _, tt := range []struct {
			point   string
			program string // "same": makes what the call would; "other": makes it otherwise; "changes" what the call has made
			ended   bool   // the daemon has, before the program does it
			want    error
		}{
			{"noted", "same", true, syscall.EEXIST},
			{"noted", "other", true, syscall.EEXIST},
			{"noted", "other", false, syscall.EIO},
			{"changed", "changes", true, syscall.EIO},
			{"made", "changes", true, nil},
		} {
			if name == "symlink" && tt.program == "changes" {
				continue
			}
			x := v.prepare()
			path := filepath.Join(v.dir, nameOf(t, v, x), "new")
			v.crashAt(tt.point)
			result := make(chan error, 1)
			go func() { result <- m.do(x) }()
			<-v.crashed
			if tt.ended {
				v.end()
				v.clockMoves()
			}
			switch tt.program {
			case "same":
				must(t, m.program(path, 0))
			case "other":
				must(t, m.program(path, 0o44))
			case "changes":
				must(t, os.Chmod(path, 0o644))
			}
			before, err := os.Lstat(path)
			must(t, err)
			v.again("")
			err = <-result
			if tt.want == nil && err != nil || tt.want != nil && (!errors.Is(err, tt.want) || fsproto.IsUndecided(err) != (tt.want == syscall.EIO)) {
				t.Errorf("%s at %q, a program %s: %v, want %v", name, tt.point, tt.program, err, tt.want)
			}
			if now, err := os.Lstat(path); err != nil || !os.SameFile(now, before) || now.Mode() != before.Mode() {
				t.Errorf("%s at %q, a program %s: %v has become %v, %v", name, tt.point, tt.program, before, now, err)
			}
		}
	}
}

// clockMoves returns when what is made now is seen to be younger than the daemon's end.
func (v *crashEnv) clockMoves() {
	probe := filepath.Join(v.t.TempDir(), "probe")
	for {
		must(v.t, os.WriteFile(probe, nil, 0o600))
		info, err := os.Stat(probe)
		must(v.t, err)
		if info.ModTime().After(v.ended) {
			return
		}
	}
}

// TestOpenedAgain: what is open stays so whatever the mode says by then, also for a daemon
// that is bound by it (tools/test-as-user.sh), and the mode stays what it is.
func TestOpenedAgain(t *testing.T) {
	v := newCrashEnv(t)
	v.start()
	x := v.prepare()
	dir := filepath.Join(v.dir, nameOf(t, v, x))
	writer, list := v.env.open(x.a.Node, fsproto.OpenWrite), v.opendir(x.sub.Node)
	for _, name := range []string{"a", "sub"} {
		must(t, os.Chmod(filepath.Join(dir, name), 0))
	}
	v.crashAt("changed")
	result := make(chan error, 1)
	go func() { // its bytes are looked for
		_, err := v.write(fsproto.WriteReq{Handle: writer, Flags: fsproto.WriteAppend}, "appended")
		result <- err
	}()
	v.again("")
	must(t, <-result)
	if got, err := v.read(x.h, 0, 100); err != nil || string(got) != "textappended" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if res, err := try(v.env, fsproto.Readdir, fsproto.ReaddirReq{Handle: list, Size: 4096}); err != nil || !res.End {
		t.Errorf("listing the directory: %+v, %v", res, err)
	}
	for _, name := range []string{"a", "sub"} {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if info.Mode().Perm() != 0 {
			t.Errorf("the mode of %s is %v", name, info.Mode())
		}
	}
}

// Once records stay as they are nothing is changed any more: it would be done again by the
// next process, which does not know of it.
func TestNothingIsChangedUnrecorded(t *testing.T) {
	v := newCrashEnv(t)
	must(t, os.WriteFile(filepath.Join(v.dir, "f"), []byte("as it was"), 0o644))
	v.start()
	f := v.lookup("f")
	h := v.env.open(f.Node, fsproto.OpenWrite)
	v.store.Freeze()
	_, err := v.write(fsproto.WriteReq{Handle: h, Flags: fsproto.WriteAppend}, "and more")
	want(t, err, rpc.ErrGone)
	err = made(v.env, fsproto.Mkdir, fsproto.MkdirReq{Parent: fsproto.RootNode, Name: "d", NewNode: newNode()})
	want(t, err, rpc.ErrGone)
	if data, err := os.ReadFile(filepath.Join(v.dir, "f")); string(data) != "as it was" {
		t.Errorf("the file has %q, %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(v.dir, "d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}

package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

func entry(n fsproto.Node, stamp uint64) *fsproto.Entry {
	return &fsproto.Entry{Node: n, Stamp: stamp, FileHandle: []byte{byte(n)}, Attr: fsproto.Attr{Ino: uint64(n) + 100}}
}

func TestNodeTable(t *testing.T) {
	nodes := newNodeTable()
	nodes.note(entry(1, 1), 1, "")
	nodes.note(entry(7, 5), 1, "seven")
	nodes.note(entry(7, 4), 1, "seven") // a reply that was overtaken
	nodes.note(entry(8, 6), 7, "eight")
	if ino := nodes.inoOfParent(8); ino != 107 {
		t.Errorf("inode of the parent is %d", ino)
	}
	if _, last := nodes.forget(7, 1); last {
		t.Error("forgotten with a reference left")
	}
	f, last := nodes.forget(7, 1)
	if !last || f != (fsproto.Forgotten{Node: 7, Stamp: 5}) {
		t.Errorf("%+v, %t", f, last)
	}
	if _, last := nodes.forget(7, 1); last {
		t.Error("forgotten twice")
	}
	if _, last := nodes.forget(1, 1000); last {
		t.Error("the root was forgotten")
	}
	if n := nodes.len(); n != 2 {
		t.Errorf("%d nodes", n)
	}
}

func TestNodeTableChanges(t *testing.T) {
	nodes := newNodeTable()
	nodes.note(entry(5, 1), 1, "five")
	before := nodes.clock.read()
	if nodes.changedSince(5, before) {
		t.Error("changed without a change")
	}
	nodes.touch(5, 6)
	if !nodes.changedSince(5, before) {
		t.Error("a change was not seen")
	}
	if nodes.changedSince(5, nodes.clock.read()) || nodes.changedSince(6, before) {
		t.Error("a change that did not happen")
	}
}

// TestForgetQueue gives more nodes than one message holds.
func TestForgetQueue(t *testing.T) {
	const total = 3*fsproto.MaxForget + 17
	got := make(chan int, total)
	q := newForgetQueue(func(_ context.Context, nodes []fsproto.Forgotten) error {
		if len(nodes) > fsproto.MaxForget {
			t.Errorf("%d nodes in one message", len(nodes))
		}
		got <- len(nodes)
		return errors.New("ignored")
	}, slog.New(slog.DiscardHandler))
	for i := range total {
		q.add(fsproto.Forgotten{Node: fsproto.Node(i)})
	}
	for sum := 0; sum < total; {
		sum += <-got
	}
	q.stop()
}

// TestWithSpace: what finds no space is done again when what was let go of before
// has reached the daemon, and only then.
func TestWithSpace(t *testing.T) {
	full, ok := fuse.Status(syscall.ENOSPC), fuse.OK
	var fs *FS
	for name, c := range map[string]struct {
		during func() // while the call is made for the first time
		first  fuse.Status
		want   fuse.Status
		calls  int
	}{
		"nothing let go":           {func() {}, full, full, 1},
		"let go and heard":         {func() { fs.backlog.begin(); fs.backlog.end(1) }, full, ok, 2},
		"let go, heard in a while": {func() { fs.backlog.begin(); go fs.backlog.end(1) }, full, ok, 2},
		"let go, told of later": {func() {
			time.AfterFunc(5*time.Millisecond, func() { fs.backlog.begin(); fs.backlog.end(1) })
		}, full, ok, 2},
		"quota":         {func() { fs.backlog.begin(); go fs.backlog.end(1) }, fuse.Status(syscall.EDQUOT), ok, 2},
		"another error": {func() { fs.backlog.begin() }, fuse.EACCES, fuse.EACCES, 1},
		"no error":      {func() { fs.backlog.begin() }, ok, ok, 1},
	} {
		fs = &FS{}
		calls := 0
		st := fs.withSpace(nil, func() fuse.Status {
			if calls++; calls > 1 {
				if fs.backlog.left.Load() > 0 {
					t.Errorf("%s: done again too early", name)
				}
				return fuse.OK
			}
			c.during()
			return c.first
		})
		if st != c.want || calls != c.calls {
			t.Errorf("%s: %v after %d calls, want %v after %d", name, st, calls, c.want, c.calls)
		}
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{&rpc.Error{Code: 2}, syscall.ENOENT},
		{fmt.Errorf("wrapped: %w", &rpc.Error{Code: 39}), syscall.ENOTEMPTY},
		{&rpc.Error{Code: 38}, syscall.EOPNOTSUPP}, // ENOSYS would be for ever
		{&rpc.Error{Code: 200}, syscall.EIO},
		{&rpc.Error{Code: rpc.CodeNoMethod}, syscall.EOPNOTSUPP},
		{&rpc.Error{Code: rpc.CodeInternal}, syscall.EIO},
		{&rpc.Error{Code: rpc.CodeBadRequest}, syscall.EIO},
		{&rpc.Error{Code: rpc.CodeBusy}, syscall.EBUSY},
		{&rpc.Error{Code: rpc.CodeGone}, syscall.ENOTCONN},
		{rpc.ErrGone, syscall.ENOTCONN},
		{errors.Join(rpc.ErrGone, syscall.ECONNRESET), syscall.ENOTCONN},
		{context.Canceled, syscall.EINTR},
		{context.DeadlineExceeded, syscall.ETIMEDOUT},
		{&rpc.Error{Code: 0x20001}, syscall.EIO},
	} {
		if got := errno(c.err); got != fuse.Status(c.want) {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

func TestDev(t *testing.T) {
	for range 1000 {
		major, minor := rand.Uint32()&0xfff, rand.Uint32()&0xfffff
		if a, b := decodeDev(encodeDev(major, minor)); a != major || b != minor {
			t.Fatalf("%d:%d became %d:%d", major, minor, a, b)
		}
	}
}

func TestKillPending(t *testing.T) {
	for text, want := range map[string]bool{
		"Name:\tx\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n": false,
		"SigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n":           true,
		"SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n":           true,
		"SigPnd:\t0000000000400000\n":                                      false, // SIGURG
		"SigPnd:\tnonsense\n":                                              true,
	} {
		if got := killPending([]byte(text)); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
	if beingKilled(uint32(os.Getpid())) || !beingKilled(0) {
		t.Error("this process is not being killed, no process is")
	}
}

func TestEndPending(t *testing.T) {
	for text, want := range map[string]bool{
		"SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n": false,
		"SigPnd:\t0000000000000000\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000000\n": true,  // SIGINT
		"SigPnd:\t0000000000004000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n": true,  // SIGTERM
		"SigPnd:\t0000000000000000\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000002\n": false, // blocked
		"SigPnd:\t0000000000402000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n": false, // SIGURG, SIGALRM
		"nonsense": false,
	} {
		if got := endPending([]byte(text)); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
	if asksToEnd(uint32(os.Getpid())) || exiting(uint32(os.Getpid())) || !exiting(1<<31-1) {
		t.Error("this process is neither asked to end nor does it, and no process is gone")
	}
}

// TestRequestCancel interrupts a request whose caller is gone.
func TestRequestCancel(t *testing.T) {
	peer := rpc.NewPeer(rpc.Config{})
	defer peer.End(nil)
	fs := &FS{peer: peer, link: newLink(peer, &Config{Timeo: time.Hour})}
	defer fs.link.stop()
	cancel := make(chan struct{})
	r := fs.begin(cancel, &fuse.InHeader{}, &fsproto.Write.Info, 0)
	defer r.end()
	if r.Err() != nil {
		t.Error("ended at once")
	}
	close(cancel)
	select {
	case <-r.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the interrupt was not seen")
	}
	if !errors.Is(context.Cause(r), context.Canceled) {
		t.Errorf("cause is %v", context.Cause(r))
	}
}

func TestOpenFlags(t *testing.T) {
	if _, st := openFlags(syscall.O_ACCMODE); st != fuse.EINVAL {
		t.Errorf("access mode 3: %v", st)
	}
	got, st := openFlags(syscall.O_RDWR | syscall.O_APPEND | syscall.O_TRUNC | syscall.O_EXCL | syscall.O_CLOEXEC | syscall.O_DIRECT)
	if want := fsproto.OpenReadWrite | fsproto.OpenAppend | fsproto.OpenTruncate | fsproto.OpenExclusive; got != want || !st.Ok() {
		t.Errorf("%#x, %v; want %#x", got, st, want)
	}
	in := &fuse.WriteIn{Flags: syscall.O_APPEND | syscall.O_WRONLY}
	if writeFlags(in) != fsproto.WriteAppend {
		t.Error("an appending write does not append")
	}
	in.WriteFlags = fuse.WRITE_CACHE | fuse.WRITE_KILL_SUIDGID
	if writeFlags(in) != fsproto.WriteKillPriv {
		t.Error("a dirty page would be appended")
	}
	if writeFlags(&fuse.WriteIn{Flags: syscall.O_SYNC}) != fsproto.WriteSync || writeFlags(&fuse.WriteIn{Flags: syscall.O_DSYNC}) != fsproto.WriteDataSync {
		t.Error("O_SYNC and O_DSYNC are not told apart")
	}
}

// TestNoACL: where the server's file system has no ACLs the kernel, which asks
// before it checks permissions, hears that the file has none.
func TestNoACL(t *testing.T) {
	const unsupported = fuse.Status(syscall.EOPNOTSUPP)
	for _, c := range []struct {
		kernelChecks bool
		attr         string
		st, want     fuse.Status
	}{
		{true, "system.posix_acl_access", unsupported, fuse.ENODATA},
		{true, "system.posix_acl_default", fuse.EIO, fuse.EIO},
		{true, "user.x", unsupported, unsupported},
		{false, "system.posix_acl_access", unsupported, unsupported},
	} {
		fs := &FS{kernelChecks: c.kernelChecks}
		if got := fs.noACL(c.attr, c.st); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// TestUndecided: a change of which it cannot be told whether it was made is told of in
// the status, other errors are not.
func TestUndecided(t *testing.T) {
	var u undecided
	eio := rpc.CodeOf(syscall.EIO)
	for _, err := range []error{nil, syscall.EIO, &rpc.Error{Code: eio}, &rpc.Error{Code: eio, Detail: []byte("x")}} {
		if u.note("rename", err); u.get() != nil {
			t.Errorf("%v is noted", err)
		}
	}
	err := fmt.Errorf("wrapped: %w", &rpc.Error{Code: eio, Detail: []byte(fsproto.Undecided)})
	u.note("rename", err)
	u.note("write", err)
	if s := u.get(); s == nil || s.Count != 2 || s.Op != "write" || s.Last.IsZero() || errno(err) != fuse.EIO {
		t.Errorf("%+v, %v", s, errno(err))
	}
}

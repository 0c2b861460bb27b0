package mount

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// registry is a daemon that registers credentials.
type registry struct {
	mu    sync.Mutex
	creds map[uint32]fsproto.CredReq
	calls int
	err   error
}

func (r *registry) send(_ context.Context, req *fsproto.CredReq) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.err != nil {
		return r.err
	}
	if r.creds[req.ID].ID == 0 && len(r.creds) == fsproto.MaxCreds {
		return syscall.ENFILE
	}
	r.creds[req.ID] = *req
	return nil
}

// env is a registry with credentials, whose clock stands still.
func testCredentials(t *testing.T) (*credentials, *registry, *time.Time) {
	r := &registry{creds: make(map[uint32]fsproto.CredReq)}
	c := newCredentials(nil, IDs{Map: MapRaw}.bind(nil, told))
	now := time.Now()
	c.send = r.send
	c.now = func() time.Time { return now }
	c.groups = func(tid, uid, gid uint32) []uint32 { return []uint32{tid} }
	t.Cleanup(c.stop)
	return c, r, &now
}

func from(tid, uid, gid uint32) *fuse.InHeader {
	return &fuse.InHeader{Caller: fuse.Caller{Pid: tid, Owner: fuse.Owner{Uid: uid, Gid: gid}}}
}

// name is one call by a caller; it returns what the daemon knows under the number.
func name(t *testing.T, c *credentials, r *registry, h *fuse.InHeader) fsproto.CredReq {
	t.Helper()
	cred, err := c.of(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	defer cred.release(false)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.creds[cred.number()]
}

func TestCredentials(t *testing.T) {
	c, r, now := testCredentials(t)
	for range 3 {
		if got := name(t, c, r, from(7, 1000, 1001)); got.UID != 1000 || got.GID != 1001 || !slices.Equal(got.Groups, []uint32{7}) {
			t.Fatalf("%+v", got)
		}
		if got := name(t, c, r, from(7, 1000, 1002)); got.GID != 1002 {
			t.Fatalf("%+v", got)
		}
	}
	if r.calls != 2 {
		t.Errorf("%d registrations of two credentials", r.calls)
	}
	// The process has got other groups, or is another one.
	c.groups = func(uint32, uint32, uint32) []uint32 { return []uint32{70} }
	*now = now.Add(callerFor)
	if got := name(t, c, r, from(7, 1000, 1001)); !slices.Equal(got.Groups, []uint32{70}) {
		t.Errorf("after %v still %+v", callerFor, got)
	}
	var none *credentials
	if cred, err := none.of(t.Context(), from(1, 2, 3)); cred.number() != 0 || err != nil {
		t.Errorf("without credentials %d, %v", cred.number(), err)
	}
}

// TestCredentialsReplaced uses more credentials than the daemon takes, some of
// them all the time.
func TestCredentialsReplaced(t *testing.T) {
	c, r, now := testCredentials(t)
	held, err := c.of(t.Context(), from(1, 5_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	givenUp, err := c.of(t.Context(), from(1, 6_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	givenUp.release(true)
	for uid := range uint32(3 * fsproto.MaxCreds) {
		*now = now.Add(time.Millisecond)
		if got := name(t, c, r, from(uid, uid, uid)); got.UID != uid {
			t.Fatalf("uid %d acts as %+v", uid, got)
		}
		if uid%100 == 0 {
			if got := name(t, c, r, from(9, 9, 9)); got.UID != 9 {
				t.Fatalf("uid 9 acts as %+v", got)
			}
		}
	}
	for cred, uid := range map[*credential]uint32{held: 5_000_000, givenUp: 6_000_000} {
		if got := r.creds[cred.number()]; got.UID != uid {
			t.Errorf("%d acts as %+v", uid, got)
		}
	}
	if len(c.known) != fsproto.MaxCreds {
		t.Errorf("%d credentials are known", len(c.known))
	}
	n := r.calls
	if name(t, c, r, from(9, 9, 9)); r.calls != n {
		t.Error("a credential in use was the coldest")
	}
}

func TestCredentialsAllBusy(t *testing.T) {
	c, _, _ := testCredentials(t)
	var last *credential
	for uid := range uint32(fsproto.MaxCreds) {
		var err error
		if last, err = c.of(t.Context(), from(uid, uid, uid)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.of(t.Context(), from(1, 1_000_000, 0)); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("one more: %v", err)
	}
	last.release(false)
	if cred, err := c.of(t.Context(), from(1, 1_000_000, 0)); err != nil || cred.number() != last.number() {
		t.Errorf("after one has ended: %v", err)
	}
}

func TestCredentialsRefused(t *testing.T) {
	c, r, _ := testCredentials(t)
	r.err = syscall.EPERM
	if _, err := c.of(t.Context(), from(1, 1, 1)); !errors.Is(err, syscall.EPERM) {
		t.Errorf("%v", err)
	}
	r.err = nil
	if got := name(t, c, r, from(1, 1, 1)); got.UID != 1 {
		t.Errorf("then %+v", got)
	}
	if c.lastID != 1 {
		t.Error("the number is lost")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.send = func(ctx context.Context, _ *fsproto.CredReq) error { <-ctx.Done(); return ctx.Err() }
	if _, err := c.of(ctx, from(2, 2, 2)); !errors.Is(err, context.Canceled) {
		t.Errorf("a killed caller waits: %v", err)
	}
}

// TestCredentialsTogether has callers come and go side by side while numbers
// are short.
func TestCredentialsTogether(t *testing.T) {
	c, r, _ := testCredentials(t)
	c.now = time.Now
	c.lastID = fsproto.MaxCreds - 8
	var wg sync.WaitGroup
	for g := range uint32(4) {
		wg.Go(func() {
			for i := range uint32(2000) {
				uid := (i*7 + g) % 40
				cred, err := c.of(t.Context(), from(g, uid, uid))
				if err != nil {
					t.Error(err)
					return
				}
				r.mu.Lock()
				got := r.creds[cred.number()]
				r.mu.Unlock()
				cred.release(false)
				if got.UID != uid {
					t.Errorf("uid %d acts as %+v", uid, got)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestGroups(t *testing.T) {
	status := "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t10 20 30 \nSigPnd:\t0\n"
	many := "Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t" + strings.Repeat("1 ", 100) + "\n"
	for _, c := range []struct {
		status   string
		uid, gid uint32
		want     []uint32
	}{
		{status, 4, 8, []uint32{10, 20, 30}},
		{status, 1, 8, nil}, // acts as another user
		{status, 4, 5, nil},
		{"Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t \n", 4, 8, nil},
		{"Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t1 x\n", 4, 8, nil},
		{"Uid:\t1\t2\nGid:\t5\n", 2, 5, nil},
		{"", 0, 0, nil},
		{many, 4, 8, slices.Repeat([]uint32{1}, fsproto.MaxGroups)},
	} {
		if got := groupsIn([]byte(c.status), c.uid, c.gid); !slices.Equal(got, c.want) {
			t.Errorf("%q as %d:%d: %v, want %v", c.status, c.uid, c.gid, got, c.want)
		}
	}
	if got := groupsOf(0, 0, 0); got != nil {
		t.Errorf("nobody has the groups %v", got)
	}
}

// TestGroupsOfProcess looks at a real process and at one that is gone.
func TestGroupsOfProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		own, err := os.Getgroups()
		got := groupsOf(uint32(os.Getpid()), uint32(os.Getuid()), uint32(os.Getgid()))
		if err != nil || len(got) != min(len(own), fsproto.MaxGroups) {
			t.Errorf("own groups are %v, seen as %v, %v", own, got, err)
		}
		return
	}
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1, Gid: 2, Groups: []uint32{3, 40000}}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := uint32(cmd.Process.Pid)
	if got := groupsOf(pid, 1, 2); !slices.Equal(got, []uint32{3, 40000}) {
		t.Errorf("%v", got)
	}
	in.Close()
	cmd.Wait()
	if got := groupsOf(pid, 1, 2); got != nil {
		t.Errorf("a process that is gone has %v", got)
	}
}

// TestCredentialsCheap: a caller who was seen lately costs nothing.
func TestCredentialsCheap(t *testing.T) {
	c, _, _ := testCredentials(t)
	h := from(1, 2, 3)
	ctx := t.Context()
	c.groups = func(uint32, uint32, uint32) []uint32 { return nil }
	if _, err := c.of(ctx, h); err != nil {
		t.Fatal(err)
	}
	c.groups = func(uint32, uint32, uint32) []uint32 { panic("looked at the process again") }
	if n := testing.AllocsPerRun(100, func() {
		cred, _ := c.of(ctx, h)
		cred.release(false)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCredential(b *testing.B) {
	c := newCredentials(nil, IDs{Map: MapRaw}.bind(nil, told))
	c.send = func(context.Context, *fsproto.CredReq) error { return nil }
	h := from(uint32(os.Getpid()), uint32(os.Getuid()), uint32(os.Getgid()))
	for b.Loop() {
		cred, err := c.of(b.Context(), h)
		if err != nil {
			b.Fatal(err)
		}
		cred.release(false)
	}
}

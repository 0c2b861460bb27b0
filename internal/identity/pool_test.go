package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// needRoot ends the test where nobody can take on an identity. That the package
// says so is all there is to test then.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		must(t, Check())
		return
	}
	if Check() == nil {
		t.Error("an ordinary user may act as anybody")
	}
	t.Skip("acting as somebody else takes root")
}

func newPool(t testing.TB, cfg Config) *Pool {
	t.Helper()
	needRoot(t)
	p := NewPool(cfg)
	t.Cleanup(p.Close)
	return p
}

func user(t testing.TB, uid uint32, groups ...uint32) ID {
	t.Helper()
	id, err := New(uid, uid, groups)
	must(t, err)
	return id
}

func do(t testing.TB, p *Pool, id ID, f func()) {
	t.Helper()
	must(t, p.Do(context.Background(), id, f))
}

// tally returns what the pool thinks it has.
func (p *Pool) tally() (threads, waiting, crews int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.crews {
		waiting += c.waiting.Len()
	}
	return p.total, waiting, len(p.crews)
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

// status returns fields of /proc/self/task/TID/status.
func status(tid int) map[string]string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
	if err != nil {
		return nil // it has ended
	}
	fields := map[string]string{}
	for line := range strings.SplitSeq(string(text), "\n") {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

// threads returns the ids of all threads of the process.
func threads(t testing.TB) (tids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	must(t, err)
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		must(t, err)
		tids = append(tids, tid)
	}
	return tids
}

// TestAssumed asks the kernel, by another way than the package does, what a
// thread with an identity may do.
func TestAssumed(t *testing.T) {
	p := newPool(t, Config{})
	root, err := Root(7, []uint32{9, 8})
	must(t, err)
	const none = "0000000000000000"
	// Of the capabilities of a file server's root those that the tests have.
	mine, err := strconv.ParseUint(status(os.Getpid())["CapPrm"], 16, 64)
	must(t, err)
	rootly := fmt.Sprintf("%016x", mine&0x9920021f)
	for _, c := range []struct {
		id   ID
		want map[string]string
	}{
		{user(t, 1000, 30, 20, 30, 10), map[string]string{"Uid": "1000 1000 1000 1000", "Groups": "10 20 30", "CapEff": none, "CapPrm": none}},
		{user(t, Nobody), map[string]string{"Gid": "65534 65534 65534 65534", "Groups": "", "CapEff": none, "CapPrm": none}},
		{user(t, 1<<32-2), map[string]string{"Uid": "4294967294 4294967294 4294967294 4294967294", "CapEff": none, "CapPrm": none}},
		{root, map[string]string{"Uid": "0 0 0 0", "Gid": "7 7 7 7", "Groups": "8 9", "CapEff": rootly, "CapPrm": rootly}},
	} {
		c.want["CapInh"], c.want["CapAmb"], c.want["NoNewPrivs"] = none, none, "1"
		do(t, p, c.id, func() {
			got := status(unix.Gettid())
			for name, want := range c.want {
				if got[name] != want {
					t.Errorf("%v: %s is %q, want %q", c.id, name, got[name], want)
				}
			}
		})
	}
}

// TestNoWayBack: neither to the daemon's rights nor to another identity's.
func TestNoWayBack(t *testing.T) {
	p := newPool(t, Config{})
	a, b := user(t, 1001, 5), user(t, 1002, 5)
	root, err := Root(0, nil)
	must(t, err)
	do(t, p, a, func() {
		for _, id := range []ID{b, root} {
			if err := id.assume(); !errors.Is(err, unix.EPERM) {
				t.Errorf("%v became %v: %v", a, id, err)
			}
		}
		if err := capset(1 << unix.CAP_CHOWN); !errors.Is(err, unix.EPERM) {
			t.Errorf("%v took a capability: %v", a, err)
		}
		must(t, a.verify(0))
	})
	do(t, p, root, func() {
		if err := a.assume(); err == nil {
			t.Error("root became an ordinary user, who could become root again")
		}
	})
}

// TestVerify: no difference between what was asked for and what the kernel gave
// goes unnoticed.
func TestVerify(t *testing.T) {
	p := newPool(t, Config{})
	is, err := New(1001, 1002, []uint32{5, 6})
	must(t, err)
	do(t, p, is, func() {
		must(t, is.verify(0))
		for _, c := range []struct {
			uid, gid uint32
			groups   []uint32
			keep     uint64
		}{{1002, 1002, []uint32{5, 6}, 0}, {1001, 1001, []uint32{5, 6}, 0}, {1001, 1002, []uint32{5}, 0},
			{1001, 1002, []uint32{5, 7}, 0}, {1001, 1002, nil, 0}, {1001, 1002, []uint32{5, 6}, 1}} {
			other, err := New(c.uid, c.gid, c.groups)
			must(t, err)
			if other.verify(c.keep) == nil {
				t.Errorf("%v passes for %v with capabilities %x", is, other, c.keep)
			}
		}
	})
}

func TestNoIdentity(t *testing.T) {
	for _, c := range []struct {
		uid, gid uint32
		groups   []uint32
	}{{0, 1, nil}, {1<<32 - 1, 1, nil}, {1, 1<<32 - 1, nil}, {1, 1, []uint32{2, 1<<32 - 1}}, {1, 1, make([]uint32, MaxGroups+1)}} {
		for i := range c.groups {
			c.groups[i] = max(c.groups[i], uint32(i))
		}
		if id, err := New(c.uid, c.gid, c.groups); err == nil {
			t.Errorf("%v is an identity", id)
		}
	}
	if id, err := Root(1<<32-1, nil); err == nil {
		t.Errorf("%v is an identity", id)
	}
	a, errA := New(1, 2, []uint32{4, 3, 4})
	b, errB := New(1, 2, []uint32{3, 4})
	if a != b || errA != nil || errB != nil || a.IsRoot() || (ID{}).IsRoot() {
		t.Errorf("%v and %v differ", a, b)
	}
}

// TestFailure: where a thread cannot take on the identity nothing runs, the
// thread ends, and what waited gets its own answer.
func TestFailure(t *testing.T) {
	p := newPool(t, Config{PerIdentity: 1})
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			err := p.Do(context.Background(), ID{}, func() { t.Error("ran without an identity") })
			if !errors.Is(err, syscall.EPERM) {
				t.Errorf("error %v", err)
			}
		})
	}
	calls.Wait()
	eventually(t, "no thread is counted", func() bool { n, _, crews := p.tally(); return n == 0 && crews == 0 })
	do(t, p, user(t, 1), func() {})
}

// TestSideBySide lets identities make files at the same time, each in its own
// directory and in a common one. No file may be somebody else's.
func TestSideBySide(t *testing.T) {
	p := newPool(t, Config{Threads: 6})
	ops := 3000
	if n, err := strconv.Atoi(os.Getenv("RPYCFS_IDENTITY_OPS")); err == nil {
		ops = n
	}
	dir := t.TempDir()
	must(t, unix.Chmod(dir, 0o1777))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	const users, workers = 4, 3
	var done atomic.Int64
	var working sync.WaitGroup
	for u := range users {
		id := user(t, uint32(2000+u), uint32(3000+u))
		for w := range workers {
			working.Go(func() {
				path := filepath.Join(dir, fmt.Sprintf("%d-%d", u, w))
				for range ops / users / workers {
					done.Add(1)
					if err := p.Do(context.Background(), id, func() { makeFile(t, path, id) }); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	working.Wait()
	t.Logf("%d files made", done.Load())
}

// makeFile makes and removes a file, which must be id's.
func makeFile(t *testing.T, path string, id ID) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Error(err)
		return
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Uid != id.UID() || st.Gid != id.GID() {
		t.Errorf("%s belongs to %d:%d (%v), made by %v", path, st.Uid, st.Gid, err, id)
	}
	unix.Close(fd)
	if err := unix.Unlink(path); err != nil {
		t.Error(err)
	}
}

// TestNothingInherits has the Go runtime start threads while others run with
// identities: none but the pool's own may have anybody's rights. The main thread
// is never the pool's.
func TestNothingInherits(t *testing.T) {
	p := newPool(t, Config{})
	var mu sync.Mutex
	own := map[int]bool{}
	start := make(chan struct{})
	var running sync.WaitGroup
	for i := range 24 {
		id := user(t, uint32(2000+i%3))
		running.Go(func() {
			do(t, p, id, func() {
				mu.Lock()
				own[unix.Gettid()] = true
				mu.Unlock()
				<-start
				for range 20 { // system calls that block make the runtime start threads
					blockBriefly(t)
				}
			})
		})
		running.Go(func() {
			<-start
			for range 20 {
				blockBriefly(t)
			}
		})
	}
	eventually(t, "all run", func() bool { mu.Lock(); defer mu.Unlock(); return len(own) == 24 })
	close(start)
	base := threads(t)
	for range 5 {
		for _, tid := range append(base, threads(t)...) {
			st := status(tid)
			if st == nil {
				continue
			}
			is := st["Uid"] != "0 0 0 0"
			mu.Lock()
			wanted := own[tid]
			mu.Unlock()
			if is != wanted {
				t.Errorf("thread %d: Uid %q, of the pool: %v", tid, st["Uid"], wanted)
			}
		}
	}
	running.Wait()
	if own[os.Getpid()] {
		t.Error("the main thread was given an identity")
	}
}

// blockBriefly stays in a system call long enough for the runtime to notice.
func blockBriefly(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Error(err)
		return
	}
	unix.Poll([]unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}, 1)
	unix.Close(fds[0])
	unix.Close(fds[1])
}

// mainThread is what onThread does with a goroutine on the main thread; TestMain
// finds out, which runs there.
var mainThread struct{ tid, locked int }

func init() { runtime.LockOSThread() } // the main goroutine to the main thread, until TestMain

func TestMain(m *testing.M) {
	p := NewPool(Config{})
	tid := make(chan int, 1)
	p.onThread(func() { tid <- unix.Gettid() })
	mainThread.tid, mainThread.locked = <-tid, unix.Gettid()
	p.Close()
	runtime.UnlockOSThread()
	os.Exit(m.Run())
}

// TestMainThread: a goroutine that happens to run on the main thread leaves it
// alone. That thread could not end.
func TestMainThread(t *testing.T) {
	if mainThread.locked != os.Getpid() || mainThread.tid == os.Getpid() {
		t.Errorf("thread %d runs as somebody else, asked from thread %d of process %d", mainThread.tid, mainThread.locked, os.Getpid())
	}
}

// TestThreadsEnd: idle threads end after a while, and all with the pool.
func TestThreadsEnd(t *testing.T) {
	p := newPool(t, Config{Idle: 20 * time.Millisecond})
	var mu sync.Mutex
	tids := map[int]bool{}
	for range 3 {
		var running sync.WaitGroup
		for i := range 30 {
			id := user(t, uint32(2000+i%3))
			running.Go(func() {
				do(t, p, id, func() {
					mu.Lock()
					tids[unix.Gettid()] = true
					mu.Unlock()
				})
			})
		}
		running.Wait()
		eventually(t, "idle threads are dismissed", func() bool { n, _, crews := p.tally(); return n == 0 && crews == 0 })
	}
	do(t, p, user(t, 2000), func() { tids[unix.Gettid()] = true })
	p.Close()
	eventually(t, "the kernel has none of them any more", func() bool {
		for tid := range tids {
			if st := status(tid); st != nil && st["Uid"] != "0 0 0 0" { // the id may be another's by now
				return false
			}
		}
		return true
	})
	if err := p.Do(context.Background(), user(t, 2000), func() {}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

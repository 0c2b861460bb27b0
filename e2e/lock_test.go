package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lockWorld is a daemon, two mounts of it, and a file.
type lockWorld struct {
	*world
	a, b string // the mounts
}

// serveLocks is a lockWorld before anything is mounted.
func serveLocks(t *testing.T, daemon ...string) *lockWorld {
	t.Helper()
	needFUSE(t)
	w := &lockWorld{world: newWorld(t)}
	w.a, w.b = w.mnt, w.mnt+"2"
	must(t, os.Mkdir(w.b, 0o755))
	must(t, os.WriteFile(filepath.Join(w.export, "f"), []byte("0\n"), 0o644))
	w.serve(daemon...)
	return w
}

func newLockWorld(t *testing.T, daemon ...string) *lockWorld {
	t.Helper()
	w := serveLocks(t, daemon...)
	w.mount("/")
	w.mountAt(w.port, "/", w.b)
	return w
}

// opened starts a process that has f of a directory open as "x".
func (w *lockWorld) opened(dir string) *locker {
	w.t.Helper()
	l := newLocker(w.t)
	l.want("ok", "open x %d %s", os.O_RDWR, filepath.Join(dir, "f"))
	return l
}

// lockTable is what processes A and B, through a mount each, and S, on the
// server, do one after the other. Every result is compared with the same
// processes' on a plain directory.
const lockTable = `
A setlk x r 0 9        | B setlk x r 5 14      | S setlk x r 0 end    | A setlk x w 0 0
S setlk x u 0 end      | A setlk x w 0 0       | A setlk x w 0 4      | B getlk x w 0 end
S getlk x w 0 end      | S getlk x r 0 end     | B setlk x r 0 9      | B setlk x r 4 9
B setlk x w 10 14      | A getlk x r 0 end     | S setlk x w 15 19    | A setlk x w 15 15
A setlk x w 20 end     | B setlk x r 19 20     | S getlk x r 20 30    | B setlk x u 0 end
A setlk x w 5 14       | A setlk x w 5 19      | S setlk x u 15 19    | A setlk x w 5 19
B getlk x r 0 end      | S getlk x w 7 7       | A setlk x u 7 7      | B getlk x r 0 end
B setlk x w 7 7        | S setlk x r 7 7       | A setlk x r 7 7      | A setlk x r 0 6
S getlk x w 0 0        | S setlk x r 0 3       | A setlk x w 0 0      | A setlk x w 4 6
B setlk x u 7 7        | A setlk x w 7 7       | S getlk x w 4 end    | S setlk x u 0 end
A setlk x r 0 end      | B setlk x r 100 200   | S setlk x r 150 250  | A setlk x w 120 120
A setlk x w 300 400    | A setlk x w 99 99     | B getlk x w 0 end    | S getlk x r 0 end
B setlk x u 150 150    | A setlk x w 150 150   | S setlk x u 150 250  | A setlk x w 150 150
A setlk x u 0 end      | S getlk x w 0 end     | B ofd x w 100 149    | B setlk x w 0 end
B ofd x u 0 end        | B ofd x r 0 9         | A ofd x r 0 9        | S ofd x w 0 9
S ofd x r 0 9          | A ofd x w 0 9         | S ofd x u 5 9        | B ofd x u 0 end
A ofd x w 5 9          | A ofd x w 0 9         | S ofdget x w 0 end   | B setlk x r 5 5
A ofd x u 0 end        | S ofd x w 0 end       | A setlk x r 9223372036854775807 9223372036854775807
B ofd x r 0 0          | S ofd x u 0 end       | A setlk x w 9223372036854775806 end | B getlk x r 0 end
A flock x ex nb        | B flock x sh nb       | S flock x sh nb      | B setlk x w 0 9
A flock x sh nb        | B flock x sh nb       | S flock x sh nb      | A flock x ex nb
S flock x ex nb        | B flock x un          | S flock x ex nb      | B flock x sh nb
A flock x ex nb        | S flock x un          | A flock x ex nb      | A flock x un
A setlk x u 0 end      | B setlk x u 0 end     | S setlk x u 0 end    | A setlk x w 0 end
`

// TestLockTable compares the table on two mounts and the server with the same
// table on a plain directory.
func TestLockTable(t *testing.T) {
	w := newLockWorld(t)
	plain := filepath.Join(w.dir, "plain")
	must(t, os.Mkdir(plain, 0o755))
	must(t, os.WriteFile(filepath.Join(plain, "f"), nil, 0o644))
	got := map[string]*locker{"A": w.opened(w.a), "B": w.opened(w.b), "S": w.opened(w.export)}
	want := map[string]*locker{"A": w.opened(plain), "B": w.opened(plain), "S": w.opened(plain)}
	pid := regexp.MustCompile(` pid .*`) // of another machine, in general
	n, refused := 0, 0
	for line := range strings.FieldsFuncSeq(lockTable, func(r rune) bool { return r == '\n' || r == '|' }) {
		who, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		is, ought := got[who].do("%s", command), want[who].do("%s", command)
		n++
		if ought != "ok" {
			refused++
		}
		if is, ought = pid.ReplaceAllString(is, ""), pid.ReplaceAllString(ought, ""); is != ought {
			t.Errorf("operation %d, %s: %s; on a plain directory: %s", n, strings.TrimSpace(line), is, ought)
		}
	}
	t.Logf("%d operations, %d not granted", n, refused)
	if n < 60 {
		t.Errorf("only %d operations", n)
	}
}

// TestLockProcesses: locks belong to processes or open files as fcntl(2) and
// flock(2) say, through dup, inheritance, close and exit.
func TestLockProcesses(t *testing.T) {
	w := newLockWorld(t)
	f := filepath.Join(w.a, "f")
	a, b := w.opened(w.a), w.opened(w.b)

	a.want("ok", "setlk x w 0 9")
	a.want("ok", "open y %d %s", os.O_RDONLY, f)
	b.want("EAGAIN", "setlk x r 0 0")
	if got := b.do("getlk x r 0 0"); got != "w 0 9 pid 0" {
		t.Errorf("a lock of another mount is shown as %q", got)
	}
	same := w.opened(w.a)
	if got, want := same.do("getlk x r 0 0"), fmt.Sprintf("w 0 9 pid %d", a.cmd.Process.Pid); got != want {
		t.Errorf("a lock of this mount is shown as %q, not %q", got, want)
	}
	a.want("ok", "close y") // any descriptor of the file ends all locks
	b.want("ok", "setlk x r 0 9")
	b.want("ok", "dup x y")
	b.want("ok", "close y")
	a.want("ok", "setlk x w 0 9")
	a.want("ok", "setlk x u 0 end")

	shared, err := os.OpenFile(f, os.O_RDWR, 0)
	must(t, err)
	c, d := newLocker(t, shared), newLocker(t, shared)
	shared.Close()
	c.want("ok", "inherit x 3")
	d.want("ok", "inherit x 3")
	c.want("ok", "setlk x w 0 9")
	d.want("EAGAIN", "setlk x w 0 9") // no process inherits another's locks
	c.want("ok", "close x")
	d.want("ok", "setlk x w 0 9")
	d.want("ok", "setlk x u 0 end")

	shared, err = os.OpenFile(f, os.O_RDWR, 0)
	must(t, err)
	c, d = newLocker(t, shared), newLocker(t, shared)
	shared.Close()
	c.want("ok", "inherit x 3")
	d.want("ok", "inherit x 3")
	c.want("ok", "ofd x w 0 9")
	d.want("ok", "ofd x w 0 9") // an open file's locks are those of all who have it
	c.want("ok", "flock x ex nb")
	d.want("ok", "flock x ex nb")
	c.end()
	b.want("EAGAIN", "ofd x r 0 0")
	b.want("EAGAIN", "flock x sh nb")
	d.want("ok", "close x")
	// The kernel answers the last close before it tells of it.
	b.want("ok", "ofdw x w 0 9")
	b.want("ok", "flock x ex")
	if got := a.do("flock x sh nb"); got != "EAGAIN" {
		t.Errorf("flock of another mount's: %s", got)
	}
}

// TestLockAfterClose takes a lock again right after its holder on the same mount
// has closed the file, or has exited.
func TestLockAfterClose(t *testing.T) {
	w := newLockWorld(t)
	b := w.opened(w.a)
	for range setting(t, "RPYCFS_E2E_LOCK_ROUNDS", 12) {
		a := w.opened(w.a)
		a.want("ok", "setlk x w 0 9")
		a.want("ok", "ofd x r 50 59")
		a.want("ok", "flock x ex nb")
		a.end()
		b.want("ok", "setlk x w 0 99")
		b.want("ok", "flock x ex nb")
		b.want("ok", "close x")
		b.want("ok", "open x %d %s", os.O_RDWR, filepath.Join(w.a, "f"))
	}
}

// TestLockBlocks: waiting ends with the lock, a signal, a deadlock, or the death
// of the holder or of who waits.
func TestLockBlocks(t *testing.T) {
	w := newLockWorld(t)
	a, b, s := w.opened(w.a), w.opened(w.b), w.opened(w.export)

	for _, command := range []string{"setlkw x w 0 9", "ofdw x w 0 9", "flock x ex"} {
		free := strings.NewReplacer("setlkw x w", "setlk x u", "ofdw x w", "ofd x u", "x ex", "x un").Replace(command)
		for _, pair := range [][2]*locker{{a, b}, {b, s}, {s, a}} {
			holder, other := pair[0], pair[1]
			holder.want("ok", "%s", command)
			other.tell("%s", command)
			other.blocks()
			if got := other.interrupt(); got != "EINTR" {
				t.Errorf("%s after a signal: %s", command, got)
			}
			other.tell("%s", command)
			other.blocks()
			holder.want("ok", "%s", free)
			if got := other.hear(); got != "ok" {
				t.Errorf("%s: %s", command, got)
			}
			other.want("ok", "%s", free)
		}
	}

	a.want("ok", "setlk x w 0 0")
	b.want("ok", "setlk x w 1 1")
	a.tell("setlkw x w 1 1")
	a.blocks()
	b.tell("setlkw x w 0 0")
	fails, goes := a, b
	select { // whoever of the two the daemon hears last
	case got := <-a.answer:
		a.wants(got, "EDEADLK")
	case got := <-b.answer:
		b.wants(got, "EDEADLK")
		fails, goes = b, a
	case <-time.After(patience):
		t.Fatal("a deadlock is not found")
	}
	fails.want("ok", "setlk x u 0 end")
	goes.wants(goes.hear(), "ok")
	goes.want("ok", "setlk x u 0 end")
	a.want("ok", "setlk x w 0 0")

	// Open files are no processes: theirs is no deadlock.
	a.want("ok", "ofd x w 10 10")
	b.want("ok", "ofd x w 11 11")
	a.tell("ofdw x w 11 11")
	b.tell("ofdw x w 10 10")
	a.blocks()
	b.blocks()
	a.wants(a.interrupt(), "EINTR")
	b.wants(b.interrupt(), "EINTR")
	b.want("ok", "ofd x u 0 end")

	b.tell("setlkw x r 0 0")
	b.blocks()
	killed := time.Now()
	a.kill()
	if got := b.hear(); got != "ok" {
		t.Errorf("after the holder was killed: %s", got)
	}
	t.Logf("a killed holder's lock was free after %v", time.Since(killed))
	if took := time.Since(killed); took > patience {
		t.Errorf("a killed holder's lock was free only after %v", took)
	}
	s.tell("setlkw x w 0 0")
	s.blocks()
	c := w.opened(w.a)
	c.tell("setlkw x w 0 0")
	c.blocks()
	c.kill() // who waits must be able to go
	b.want("ok", "setlk x u 0 end")
	if got := s.hear(); got != "ok" {
		t.Errorf("after who else waited was killed: %s", got)
	}
	s.want("ok", "setlk x u 0 end")
	b.want("ok", "setlk x w 0 end")
}

// TestLockMountKilled kills the process behind a mount: what its programs had
// locked is free after the grace.
func TestLockMountKilled(t *testing.T) {
	w := newLockWorld(t, "--lock-grace=1s")
	b := w.opened(w.b)
	behind := processesWith("mount.rpycfs", w.b)
	if len(behind) != 1 {
		t.Fatalf("processes %v are behind the mount", behind)
	}
	b.want("ok", "setlk x w 0 end")
	b.want("ok", "flock x ex nb")
	a := w.opened(w.a)
	a.want("EAGAIN", "setlk x w 0 end")
	must(t, syscall.Kill(behind[0], syscall.SIGKILL))
	a.want("ok", "setlkw x w 0 end")
	a.want("ok", "flock x ex")
	_ = exec.Command("fusermount3", "-u", "-z", w.b).Run()
}

// newCutWorld is a lockWorld whose mount a goes through a proxy.
func newCutWorld(t *testing.T, daemon ...string) (*lockWorld, *proxy) {
	t.Helper()
	w := serveLocks(t, daemon...)
	p := newProxy(t, w.port, false)
	w.mountAt(p.port, "/", w.a)
	w.mountAt(w.port, "/", w.b)
	return w, p
}

// TestLockKilledWhileCut kills who waits for a lock while there is no connection:
// the process ends, and what the daemon grants it meanwhile is given back.
func TestLockKilledWhileCut(t *testing.T) {
	w, p := newCutWorld(t)
	a, b := w.opened(w.a), w.opened(w.b)
	for _, kind := range []string{"setlkw x w 0 9", "flock x ex"} {
		b.want("ok", "%s", kind)
		a.want("ok", "setlk x w 20 29")
		c := w.opened(w.a)
		c.tell("%s", kind)
		c.blocks()
		p.block(true)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.kill()
		}()
		b.want("ok", "setlk x u 0 end") // perhaps to the one that is being killed
		b.want("ok", "flock x un")
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("a process that waits for a lock cannot be killed without a connection")
		}
		p.block(false)
		b.want("ok", "%s", kind)
		b.want("EAGAIN", "setlk x w 20 29") // less than the grace
		b.want("ok", "setlk x u 0 end")
		b.want("ok", "flock x un")
	}
	a.end()
	w.run(w.command("umount.rpycfs", w.a)) // while the proxy stands
}

// TestLockCut cuts the connection of a mount for less and for more than the
// grace. In the end the locks are lost, and the file fails until it is closed.
func TestLockCut(t *testing.T) {
	w, p := newCutWorld(t, "--lock-grace=2s")
	a, other, b := w.opened(w.a), w.opened(w.a), w.opened(w.b)
	a.want("ok", "setlk x w 0 9")
	p.cut() // and the mount is back at once
	a.want("ok", "setlk x w 10 19")
	b.want("EAGAIN", "setlk x r 5 5")
	a.want("ok 0", "read x")

	p.block(true)
	b.want("ok", "setlkw x w 5 5")
	p.block(false)
	a.want("EIO", "setlk x w 30 39") // it is back
	if !eventually(10*time.Second, func() bool { return a.do("read x") == "EIO" }) {
		t.Error("a file that has lost its locks can be read")
	}
	other.want("ok 0", "read x")
	a.want("ok", "close x")
	a.want("ok", "open x %d %s", os.O_RDWR, filepath.Join(w.a, "f"))
	a.want("ok 0", "read x")
	a.want("EAGAIN", "setlk x w 5 5")
	a.want("ok", "setlk x w 6 9")
	a.end()
	other.end()
	w.run(w.command("umount.rpycfs", w.a)) // while the proxy stands
}

// TestLockCounters: processes of two mounts count in one file under a lock. No
// count is lost.
func TestLockCounters(t *testing.T) {
	w := newLockWorld(t)
	rounds := setting(t, "RPYCFS_E2E_LOCK_ROUNDS", 12)
	for _, kind := range []string{"flock", "fcntl", "ofd"} {
		t.Run(kind, func(t *testing.T) { w.count(t, kind, rounds) })
	}
}

func (w *lockWorld) count(t *testing.T, kind string, rounds int) {
	must(t, os.WriteFile(filepath.Join(w.export, kind), []byte("0"), 0o644))
	exe, err := os.Executable()
	must(t, err)
	var counting []*exec.Cmd
	for i := range 6 {
		cmd := exec.CommandContext(w.ctx, exe)
		path := filepath.Join([]string{w.a, w.b}[i%2], kind)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", counterEnv, kind, rounds, path))
		cmd.Stderr = os.Stderr
		must(t, cmd.Start())
		counting = append(counting, cmd)
	}
	began := time.Now()
	for _, cmd := range counting {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	got, err := os.ReadFile(filepath.Join(w.export, kind))
	must(t, err)
	if string(got) != strconv.Itoa(6*rounds) {
		t.Errorf("counted to %s, want %d", got, 6*rounds)
	}
	t.Logf("%d rounds of 6 processes took %v", rounds, time.Since(began))
}

// counterEnv makes the test binary a counter: "KIND ROUNDS PATH".
const counterEnv = "RPYCFS_E2E_COUNTER"

// counterMain adds one to the number in a file as often as it is told, each time
// under a lock.
func counterMain() int {
	var kind, path string
	var rounds int
	if _, err := fmt.Sscan(os.Getenv(counterEnv), &kind, &rounds, &path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	for i := 0; i < rounds && err == nil; i++ {
		if err = lockFile(kind, f, true); err != nil {
			break
		}
		b := make([]byte, 20)
		n, _ := f.ReadAt(b, 0)
		var v int
		if v, err = strconv.Atoi(string(b[:n])); err == nil {
			_, err = f.WriteAt(strconv.AppendInt(nil, int64(v+1), 10), 0)
		}
		if err == nil {
			err = lockFile(kind, f, false)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "counter:", err)
		return 1
	}
	return 0
}

func lockFile(kind string, f *os.File, lock bool) error {
	for {
		err := tryLockFile(kind, f, lock)
		if err != syscall.EINTR {
			return err
		}
	}
}

func tryLockFile(kind string, f *os.File, lock bool) error {
	if kind == "flock" {
		how := unix.LOCK_UN
		if lock {
			how = unix.LOCK_EX
		}
		return unix.Flock(int(f.Fd()), how)
	}
	k := unix.Flock_t{Type: unix.F_UNLCK, Len: 10}
	if lock {
		k.Type = unix.F_WRLCK
	}
	cmd := map[string]int{"fcntl": unix.F_SETLKW, "ofd": unix.F_OFD_SETLKW}[kind]
	return unix.FcntlFlock(f.Fd(), cmd, &k)
}

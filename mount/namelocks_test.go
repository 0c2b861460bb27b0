package mount_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nameLock takes and gives back a lock that is a name in a directory. take fails
// with one of the errors in busy while somebody else has it.
type nameLock struct {
	prepare    func(dir string) error      // once, before anybody
	take, give func(dir, own string) error // own is a file of this process
	busy       []error
}

var nameLocks = map[string]nameLock{
	"create": {
		take: func(dir, _ string) error {
			f, err := os.OpenFile(dir+"/lock", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err == nil {
				err = f.Close()
			}
			return err
		},
		give: removeLock,
		busy: []error{syscall.EEXIST},
	},
	"mkdir": {
		take: func(dir, _ string) error { return os.Mkdir(dir+"/lock", 0o700) },
		give: removeLock,
		busy: []error{syscall.EEXIST},
	},
	"symlink": {
		take: func(dir, own string) error { return os.Symlink(own, dir+"/lock") },
		give: removeLock,
		busy: []error{syscall.EEXIST},
	},
	"link": {
		take: func(dir, own string) error { return os.Link(own, dir+"/lock") },
		give: removeLock,
		busy: []error{syscall.EEXIST},
	},
	// rename moves a file of one's own to the name, if that is free.
	"rename": {
		take: func(dir, own string) error {
			return unix.Renameat2(unix.AT_FDCWD, own, unix.AT_FDCWD, dir+"/lock", unix.RENAME_NOREPLACE)
		},
		give: func(dir, own string) error { return os.Rename(dir+"/lock", own) },
		busy: []error{syscall.EEXIST},
	},
	// token moves the only file there is away, and back.
	"token": {
		prepare: func(dir string) error { return os.WriteFile(dir+"/lock", nil, 0o600) },
		take:    func(dir, own string) error { return os.Rename(dir+"/lock", own+".taken") },
		give:    func(dir, own string) error { return os.Rename(own+".taken", dir+"/lock") },
		busy:    []error{syscall.ENOENT},
	},
}

func removeLock(dir, _ string) error { return os.Remove(dir + "/lock") }

// TestNameLocks has six processes on two mounts count in one file, each round
// under a lock that is a name. No count is lost.
func TestNameLocks(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	rounds := times(t, "RPYCFS_LOCK_ROUNDS", 6)
	for name, lock := range nameLocks {
		t.Run(name, func(t *testing.T) {
			dir := "/" + name
			w.ok(os.Mkdir(w.export+dir, 0o755))
			w.ok(os.WriteFile(w.export+dir+"/count", []byte("0\n"), 0o644))
			if lock.prepare != nil {
				w.ok(lock.prepare(w.export + dir))
			}
			began := time.Now()
			const processes = 6
			var wg sync.WaitGroup
			for i := range processes {
				point := []string{first, second}[i%2]
				cmd := exec.Command(here(t), "-test.run=^TestCountUnderNameLock$", "-test.timeout=1h")
				cmd.Env = append(os.Environ(), "RPYCFS_TEST_COUNT="+fmt.Sprintf("%s:%s:%d:%d", name, point+dir, i, rounds))
				wg.Go(func() {
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("process %d: %v\n%s", i, err, out)
					}
				})
			}
			wg.Wait()
			t.Logf("%.1f ms for each round", time.Since(began).Seconds()*1000/float64(processes*rounds))
			got, err := os.ReadFile(w.export + dir + "/count")
			w.ok(err)
			if want := strconv.Itoa(processes * rounds); strings.TrimSpace(string(got)) != want {
				t.Errorf("counted to %q, want %s", got, want)
			}
		})
	}
}

// TestCountUnderNameLock is one process of TestNameLocks, and nothing otherwise.
func TestCountUnderNameLock(t *testing.T) {
	task := os.Getenv("RPYCFS_TEST_COUNT")
	if task == "" {
		return
	}
	fields := strings.Split(task, ":")
	lock, dir := nameLocks[fields[0]], fields[1]
	own := dir + "/own-" + fields[2]
	rounds, err := strconv.Atoi(fields[3])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range rounds {
		if err := lock.await(dir, own); err != nil {
			t.Fatal("taking the lock: ", err)
		}
		if err := countOne(dir + "/count"); err != nil {
			t.Fatal(err)
		}
		if err := lock.give(dir, own); err != nil {
			t.Fatal("giving the lock back: ", err)
		}
	}
}

// TestNameHandedOver passes a file between two mounts by renaming it, a hundred times.
// Each side looks for its name all the time, and would learn of it only when the
// kernel's time-out for names that are not there has passed, a second each time.
func TestNameHandedOver(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	w.ok(os.WriteFile(w.export+"/ping", nil, 0o600))
	const passes, bound = 100, 40 * time.Second
	began := time.Now()
	pass := func(dir, from, to string) error {
		for range passes / 2 {
			for {
				err := os.Rename(dir+from, dir+to)
				if err == nil {
					break
				}
				if !errors.Is(err, syscall.ENOENT) {
					return err
				}
				if time.Since(began) > bound {
					return fmt.Errorf("%d passes take more than %v", passes, bound)
				}
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := pass(first, "/ping", "/pong"); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := pass(second, "/pong", "/ping"); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	t.Logf("%v for each pass", time.Since(began)/passes)
}

// await tries to take the lock until that succeeds.
func (l nameLock) await(dir, own string) error {
	deadline := time.Now().Add(5 * time.Minute)
	for time.Now().Before(deadline) {
		err := l.take(dir, own)
		if err == nil {
			return nil
		}
		free := false
		for _, busy := range l.busy {
			free = free || errors.Is(err, busy)
		}
		if !free {
			return err
		}
		time.Sleep(time.Millisecond) // as programs do; nothing depends on it
	}
	return errors.New("nobody gives it back")
}

// countOne adds one to the number in a file.
func countOne(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return err
	}
	return os.WriteFile(path, fmt.Appendln(nil, n+1), 0o644)
}

// TestLockBesideWorkingDirectory: the names beside a file are looked up anew when it is
// locked; who works in a directory there goes on.
func TestLockBesideWorkingDirectory(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/")
	f, err := os.Create(w.point + "/locked")
	w.ok(err)
	defer f.Close()
	dir := w.point + "/dir"
	w.ok(os.Mkdir(dir, 0o755))
	sh := exec.Command("sh", "-c", "echo begun; read x")
	sh.Dir = dir
	in, err := sh.StdinPipe()
	w.ok(err)
	out, err := sh.StdoutPipe()
	w.ok(err)
	w.ok(sh.Start())
	said := bufio.NewScanner(out)
	if !said.Scan() {
		t.Fatal("the shell has not begun")
	}
	w.ok(unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	if at, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", sh.Process.Pid)); err != nil || at != dir {
		t.Errorf("the directory is now %q, %v", at, err)
	}
	w.ok(in.Close())
	_ = sh.Wait() // the end of its input is an error to it
}

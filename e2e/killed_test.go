package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKilledUnderLoad kills the daemon at random moments, or ends it, and starts it again,
// and cuts the connections of one of two mounts, while programs work through both. None
// sees an error; nothing is done twice, and nothing that was acknowledged is lost.
//
// RPYCFS_E2E_KILL_SECONDS=1800 RPYCFS_E2E_SEED=… is the long run.
func TestKilledUnderLoad(t *testing.T) { killUnderLoad(t, true) }

// TestAllKilledUnderLoad is the same without a keeper, as if that were killed each time
// too: what has a name and no locks does not notice that either.
func TestAllKilledUnderLoad(t *testing.T) { killUnderLoad(t, false, "--no-keeper") }

func killUnderLoad(t *testing.T, keeper bool, args ...string) {
	needFUSE(t)
	seconds, seed := setting(t, "RPYCFS_E2E_KILL_SECONDS", 10), setting(t, "RPYCFS_E2E_SEED", 1+int(time.Now().UnixNano()%1e6))
	w := newWorldFor(t, time.Duration(seconds)*2*time.Second+5*time.Minute)
	w.serve(args...)
	w.mount("/")
	p := newProxy(t, w.port, false)
	other := w.mnt + "2"
	must(t, os.Mkdir(other, 0o755))
	w.mountAt(p.port, "/", other)

	o := newOnce(t, w.mnt, other)
	for _, f := range []func(int) error{o.append, o.append, o.append, o.append, o.exclusive, o.exclusive, o.rename, o.exchange, o.directories, o.links, o.xattrs} {
		o.run(f)
	}
	workers := func() int { return 0 }
	if keeper {
		for _, f := range []func(int) error{o.removed, o.count, o.count} {
			o.run(f)
		}
		workers = w.workers(setting(t, "RPYCFS_E2E_WORKERS", 6), seconds, 5000)
	}
	random := rand.New(rand.NewPCG(uint64(seed), 9))
	began, ends := time.Now(), map[string]int{}
	for time.Since(began) < time.Duration(seconds)*time.Second {
		time.Sleep(time.Duration(100+random.IntN(900)) * time.Millisecond) // the fault's moment
		switch random.IntN(5) {
		case 0:
			w.restart()
			ends["ended"]++
		case 1:
			p.cut()
			ends["cut"]++
		default:
			w.kill()
			ends["killed"]++
		}
	}
	o.stop()
	steps := workers()
	o.check(w.export)
	t.Logf("seed %d: %v in %v; %d steps of workers, %s", seed, ends, time.Since(began).Round(time.Millisecond), steps, o.counts())
	if n := strings.Count(w.daemonLog(), "level=ERROR"); n > 0 {
		t.Errorf("%d errors in the daemon's log", n)
	}
	w.run(w.command("umount.rpycfs", other))
	w.umount()
}

// once are programs that notice if a change is made twice, or not at all. Each works
// through one of two mounts.
type once struct {
	t       *testing.T
	dirs    [2]string
	started int
	stopped atomic.Bool
	running sync.WaitGroup

	mu       sync.Mutex
	appended map[string]int    // lines, by who appends
	won      map[string]string // names that were made, by whom
	counted  int
	done     map[string]int
}

func newOnce(t *testing.T, a, b string) *once {
	o := &once{t: t, dirs: [2]string{a, b}, appended: make(map[string]int), won: make(map[string]string), done: make(map[string]int)}
	for _, dir := range []string{"once", "once/names"} {
		must(t, os.Mkdir(filepath.Join(a, dir), 0o755))
	}
	for _, name := range []string{"log", "counter"} {
		must(t, os.WriteFile(filepath.Join(a, "once", name), nil, 0o644))
	}
	return o
}

// run starts a program; it ends with its first error.
func (o *once) run(f func(int) error) {
	n := o.started
	o.started++
	o.running.Go(func() {
		if err := f(n); err != nil {
			o.t.Errorf("program %d: %v", n, err)
		}
	})
}

func (o *once) stop() {
	o.stopped.Store(true)
	o.running.Wait()
}

func (o *once) path(n int, names ...string) string {
	return filepath.Join(append([]string{o.dirs[n%2], "once"}, names...)...)
}

func (o *once) did(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done[what]++
}

func (o *once) counts() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprint(o.done)
}

// append adds numbered lines of different lengths to a log that others write too.
func (o *once) append(n int) error {
	f, err := os.OpenFile(o.path(n, "log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	who := strconv.Itoa(n)
	for i := 0; !o.stopped.Load(); i++ {
		if _, err := fmt.Fprintf(f, "%s %d %s\n", who, i, strings.Repeat("x", i%5000)); err != nil {
			return fmt.Errorf("append %d: %w", i, err)
		}
		o.mu.Lock()
		o.appended[who] = i + 1
		o.done["appends"]++
		o.mu.Unlock()
	}
	return nil
}

// exclusive races for names; who makes one writes into it.
func (o *once) exclusive(n int) error {
	for i := 0; !o.stopped.Load(); i++ {
		name := fmt.Sprint("name ", i)
		f, err := os.OpenFile(o.path(n, "names", name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("create %s: %w", name, err)
		}
		who := strconv.Itoa(n)
		if _, err := f.WriteString(who); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := f.Close(); err != nil {
			return err
		}
		o.mu.Lock()
		if before, taken := o.won[name]; taken {
			o.t.Errorf("%s was made by %s and by %s", name, before, who)
		}
		o.won[name] = who
		o.done["creates"]++
		o.mu.Unlock()
	}
	return nil
}

// rename moves a file to and fro, between directories.
func (o *once) rename(n int) error {
	a, b := o.path(n, fmt.Sprint("ball ", n)), o.path(n, "names", fmt.Sprint("ball ", n))
	if err := os.WriteFile(a, []byte("ball"), 0o644); err != nil {
		return err
	}
	for ; !o.stopped.Load(); a, b = b, a {
		if err := os.Rename(a, b); err != nil {
			return err
		}
		o.did("renames")
	}
	return nil
}

// exchange swaps two files; each time the other one has the name.
func (o *once) exchange(n int) error {
	a, b := o.path(n, "first"), o.path(n, "second")
	texts := []string{"one", "two"}
	for i, path := range []string{a, b} {
		if err := os.WriteFile(path, []byte(texts[i]), 0o644); err != nil {
			return err
		}
	}
	for i := 1; !o.stopped.Load(); i++ {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			return err
		}
		text, err := os.ReadFile(a)
		if err != nil || string(text) != texts[i%2] {
			return fmt.Errorf("exchange %d: %q, %v", i, text, err)
		}
		o.did("exchanges")
	}
	return nil
}

// directories makes and removes one; neither is ever there already.
func (o *once) directories(n int) error {
	dir := o.path(n, "dir")
	for !o.stopped.Load() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.Remove(dir); err != nil {
			return err
		}
		o.did("directories")
	}
	return nil
}

// links makes and removes hard and symbolic links, and counts the former.
func (o *once) links(n int) error {
	file := o.path(n, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	hard, soft := o.path(n, "hard"), o.path(n, "soft")
	for !o.stopped.Load() {
		for _, step := range []func() error{
			func() error { return os.Link(file, hard) },
			func() error { return os.Symlink("file", soft) },
			func() error { return os.Remove(soft) },
			func() error { return os.Remove(hard) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		info, err := os.Stat(file)
		if err != nil || info.Sys().(*syscall.Stat_t).Nlink != 1 {
			return fmt.Errorf("%+v, %v", info, err)
		}
		o.did("links")
	}
	return nil
}

// removed works in a file that has no name, and in new ones again and again.
func (o *once) removed(n int) error {
	for i := 0; !o.stopped.Load(); i++ {
		f, err := os.OpenFile(o.path(n, "gone"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
		for j := range 20 {
			want := bytes.Repeat([]byte{byte(i + j)}, 10000)
			if _, err := f.WriteAt(want, int64(j)*10000); err != nil {
				return fmt.Errorf("removed file %d: %w", i, err)
			}
			got := make([]byte, 10000)
			if _, err := f.ReadAt(got, int64(j)*10000); err != nil || !bytes.Equal(got, want) {
				return fmt.Errorf("removed file %d, block %d: %v", i, j, err)
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
		o.did("removed files")
	}
	return nil
}

// count adds one to a number in a file, under a lock that the others take too.
func (o *once) count(n int) error {
	f, err := os.OpenFile(o.path(n, "counter"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for !o.stopped.Load() {
		if err := lockFile("ofd", f, true); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		b := make([]byte, 20)
		k, _ := f.ReadAt(b, 0)
		v := 0
		if k > 0 {
			if v, err = strconv.Atoi(string(b[:k])); err != nil {
				return err
			}
		}
		if _, err := f.WriteAt(strconv.AppendInt(nil, int64(v+1), 10), 0); err != nil {
			return fmt.Errorf("counter: %w", err)
		}
		o.mu.Lock()
		o.counted++
		o.done["counts"]++
		o.mu.Unlock()
		if err := lockFile("ofd", f, false); err != nil {
			return fmt.Errorf("unlock: %w", err)
		}
	}
	return nil
}

// xattrs makes an attribute that must not be there, and removes it.
func (o *once) xattrs(n int) error {
	file := o.path(n, "attributes")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	for !o.stopped.Load() {
		if err := unix.Setxattr(file, "user.once", []byte("x"), unix.XATTR_CREATE); err != nil {
			return fmt.Errorf("setxattr: %w", err)
		}
		if err := unix.Removexattr(file, "user.once"); err != nil {
			return fmt.Errorf("removexattr: %w", err)
		}
		o.did("attributes")
	}
	return nil
}

// check looks at what is left on the server.
func (o *once) check(export string) {
	o.t.Helper()
	log, err := os.ReadFile(filepath.Join(export, "once/log"))
	must(o.t, err)
	next := map[string]int{}
	for line := range strings.Lines(string(log)) {
		who, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		number, filler, _ := strings.Cut(rest, " ")
		if i, err := strconv.Atoi(number); err != nil || i != next[who] || len(filler) != i%5000 {
			o.t.Errorf("the log has %.40q where line %d of %s belongs", line, next[who], who)
			break
		}
		next[who]++
	}
	for who, n := range o.appended {
		if next[who] != n {
			o.t.Errorf("the log has %d lines of %s, %d were written", next[who], who, n)
		}
	}
	for name, who := range o.won {
		if text, err := os.ReadFile(filepath.Join(export, "once/names", name)); err != nil || string(text) != who {
			o.t.Errorf("%s holds %q, %v; it is %s's", name, text, err, who)
		}
	}
	entries, err := os.ReadDir(filepath.Join(export, "once/names"))
	must(o.t, err)
	made := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "name ") {
			made++
		}
	}
	if made != len(o.won) {
		o.t.Errorf("%d names were made, %d by somebody", made, len(o.won))
	}
	text, err := os.ReadFile(filepath.Join(export, "once/counter"))
	must(o.t, err)
	if o.counted > 0 && string(text) != strconv.Itoa(o.counted) {
		o.t.Errorf("the counter is at %s after %d counts", text, o.counted)
	}
}

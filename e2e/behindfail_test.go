package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/auth"
)

// What happens to what is written behind when it cannot be written, or nobody is there any
// more who would send it.

// plenty is more than what a disk must have for the daemon to let changes be delayed, in
// MiB.
const plenty = 1024

// onDisk gives a world's export a disk of its own with plenty of space. It is for root.
func onDisk(w *world) {
	must(w.t, unix.Mount("none", w.export, "tmpfs", 0, fmt.Sprintf("size=%dm", plenty)))
	w.t.Cleanup(func() { must(w.t, unix.Unmount(w.export, unix.MNT_DETACH)) })
}

// space gives that disk another size, in MiB.
func (w *world) space(mib int) {
	w.t.Helper()
	must(w.t, unix.Mount("none", w.export, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%dm", mib)))
}

// startsWith checks that a file has at least so many bytes, all of them from the beginning
// of data.
func startsWith(path string, data []byte, least int) error {
	got, err := os.ReadFile(path)
	if err == nil && (len(got) < least || !bytes.HasPrefix(data, got)) {
		err = fmt.Errorf("%s has %d bytes, which should be %d at least, or they are no beginning", path, len(got), least)
	}
	return err
}

// told checks which error a call ends with.
func told(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, and not %v", what, err, want)
	}
}

// TestDelayedFills: the disk becomes full while writes are on their way. Fsync and close
// tell of it; when there is space again, who opens the file again can write all of it.
func TestDelayedFills(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: no disk of its own to fill")
		return
	}
	d := newDelaying(t, onDisk)
	data := pattern(6 << 20)
	for name, ask := range map[string]func(f *os.File) error{"close": (*os.File).Close, "fsync": (*os.File).Sync} {
		t.Run(name, func(t *testing.T) {
			f := d.new("file")
			_, err := f.Write(data[:1<<20])
			must(t, errors.Join(err, f.Sync()))
			d.stands(func() {
				_, err := f.Write(data[1<<20:])
				must(t, err)
				d.space(3)
			})
			told(t, name, ask(f), syscall.ENOSPC)
			must(t, startsWith(filepath.Join(d.export, "file"), data, 1<<20))
			must(t, startsWith(d.path("file"), data, 1<<20))
			d.space(plenty)
			if name != "close" {
				_, err = f.WriteAt(data, 0)
				told(t, "the next write", err, syscall.ENOSPC)
				told(t, "close", f.Close(), syscall.ENOSPC)
			}
			f, err = os.OpenFile(d.path("file"), os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteAt(data, 0)
			must(t, errors.Join(err, f.Sync(), fileIs(filepath.Join(d.export, "file"), data)))
			must(t, os.Remove(d.path("file")))
		})
	}
}

// TestDelayedTold: each fsync and each close tells of what could not be written, as long as
// the file is open for writing; fsync also through a descriptor that only reads.
func TestDelayedTold(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: no disk of its own to fill")
		return
	}
	d := newDelaying(t, onDisk)
	open := func(flags int) *os.File {
		f, err := os.OpenFile(d.path("file"), flags, 0)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	f := d.new("file")
	second, reads := open(os.O_RDWR), open(os.O_RDONLY)
	before, data := d.lost(), pattern(6<<20)
	d.space(2)
	d.stands(func() {
		_, err := f.Write(data)
		must(t, err)
	})
	if !eventually(patience, func() bool { return d.lost() > before }) {
		t.Fatal("nothing is lost")
	}
	late := open(os.O_WRONLY) // and nobody has been told
	for name, f := range map[string]*os.File{"writer": f, "second": second, "reader": reads, "late": late} {
		told(t, name+", fsync", f.Sync(), syscall.ENOSPC)
		told(t, name+", fsync again", f.Sync(), syscall.ENOSPC)
	}
	_, err := f.WriteAt([]byte("x"), 0)
	told(t, "write", err, syscall.ENOSPC)
	_, err = f.WriteAt([]byte("x"), 0)
	told(t, "another write", err, nil)
	told(t, "its fsync", f.Sync(), syscall.ENOSPC)
	child, err := unix.Dup(int(f.Fd()))
	must(t, err)
	told(t, "close of a duplicate", unix.Close(child), syscall.ENOSPC)
	told(t, "close", f.Close(), syscall.ENOSPC)
	told(t, "close of the second", second.Close(), syscall.ENOSPC)
	told(t, "close of the reader", reads.Close(), nil)
	told(t, "close of the late one", late.Close(), syscall.ENOSPC)
	f = open(os.O_RDWR)
	_, err = f.WriteAt([]byte("y"), 0)
	must(t, errors.Join(err, f.Sync(), f.Close()))
}

// TestScarceSpaceDelaysNothing: who writes to a disk that is nearly full hears of it from
// write, as on a local disk, and not from close.
func TestScarceSpaceDelaysNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: no disk of its own to fill")
		return
	}
	needFUSE(t)
	w := newWorld(t)
	onDisk(w)
	w.serve()
	w.mount("/")
	w.space(2)
	for _, flags := range []int{os.O_CREATE | os.O_EXCL, os.O_TRUNC} {
		f, err := os.OpenFile(w.path("file"), os.O_WRONLY|flags, 0o644)
		must(t, err)
		n, err := f.Write(pattern(6 << 20))
		told(t, "write", err, syscall.ENOSPC)
		if n == 0 || n > 2<<20 {
			t.Errorf("%d bytes were written", n)
		}
		told(t, "fsync", f.Sync(), nil)
		told(t, "close", f.Close(), nil)
		must(t, startsWith(filepath.Join(w.export, "file"), pattern(6<<20), n))
	}
	if lost := w.lost(); lost != 0 {
		t.Errorf("status tells of %d bytes that are lost", lost)
	}
}

// TestDelayedWithdrawn: while writes are on their way, who sends them loses the right to.
func TestDelayedWithdrawn(t *testing.T) {
	users := func(edit func(u *auth.Users, user auth.User) error) func(d *delaying) {
		return func(d *delaying) {
			must(d.t, auth.EditUsers(d.users, func(u *auth.Users) error {
				user, _ := u.Lookup(testUser)
				return edit(u, user)
			}))
			d.kill()
		}
	}
	for name, x := range map[string]struct {
		trouble func(d *delaying)
		want    syscall.Errno // 0: what was answered is written
	}{
		"the export is read-only": {func(d *delaying) {
			d.args = append(d.args, "--read-only")
			d.kill()
		}, syscall.EROFS},
		"the user may only read": {users(func(u *auth.Users, user auth.User) error {
			user.ReadOnly = true
			return u.Add(user)
		}), syscall.EROFS},
		"the user is removed": {users(func(u *auth.Users, user auth.User) error {
			u.Delete(user.Name)
			return nil
		}), syscall.EIO},
		"the file's mode": {func(d *delaying) { must(d.t, os.Chmod(filepath.Join(d.export, "file"), 0)) }, 0},
		"the directory's mode": {func(d *delaying) {
			must(d.t, os.Chmod(d.export, 0o500))
			d.t.Cleanup(func() { must(d.t, os.Chmod(d.export, 0o755)) })
			d.kill()
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDelaying(t)
			does := d.writer("file")
			for _, what := range []string{"write", "sync"} {
				if errno := does(what); errno != "0" {
					t.Fatalf("%s: error %s", what, errno)
				}
			}
			d.stands(func() {
				if errno := does("write"); errno != "0" {
					t.Errorf("write: error %s", errno)
				}
				x.trouble(d)
			})
			for _, what := range []string{"sync", "close"} {
				if errno := does(what); errno != strconv.Itoa(int(x.want)) {
					t.Errorf("%s: error %s", what, errno)
				}
			}
			must(t, os.Chmod(filepath.Join(d.export, "file"), 0o644)) // for who is not root
			kept, lost := 4<<20, uint64(4<<20)
			if x.want == 0 {
				kept, lost = 8<<20, 0
			}
			must(t, startsWith(filepath.Join(d.export, "file"), append(pattern(4<<20), pattern(4<<20)...), kept))
			if got := d.lost(); got != lost {
				t.Errorf("status tells of %d bytes that are lost", got)
			}
			if x.want == syscall.EROFS {
				must(t, startsWith(d.path("file"), pattern(4<<20), 4<<20))
				told(t, "a new file", os.WriteFile(d.path("new"), nil, 0o600), syscall.EROFS)
			}
		})
	}
}

// TestSyncDelaysNothing: with -o sync each write and each change of attributes waits for
// the server, one call for each, and is there when it has been answered.
func TestSyncDelaysNothing(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve()
	w.mount("/", "sync")
	f, err := os.OpenFile(w.path("file"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	must(t, err)
	defer f.Close()
	calls := func() map[string]int {
		var s struct {
			Behind int `json:"behind_bytes"`
			Calls  map[string]struct{ Count int }
		}
		must(t, json.Unmarshal([]byte(w.run(w.command("rpycfs", "status", "--json", w.mnt))), &s))
		if s.Behind != 0 {
			t.Errorf("%d bytes are on their way", s.Behind)
		}
		counts := make(map[string]int)
		for op, c := range s.Calls {
			counts[op] = c.Count
		}
		return counts
	}
	const n = 20
	before, waits := calls(), w.waits()
	for i := range n {
		_, err := f.Write(pattern(100))
		must(t, err)
		must(t, f.Chmod(os.FileMode(0o600|i%8)))
		there, err := os.Stat(filepath.Join(w.export, "file"))
		must(t, err)
		if there.Size() != int64(100*(i+1)) || there.Mode() != os.FileMode(0o600|i%8) {
			t.Errorf("after %d writes: %d bytes, %v", i+1, there.Size(), there.Mode())
		}
	}
	after, waited := calls(), w.waits()
	for _, op := range []string{"write", "setattr"} {
		if got := after[op] - before[op]; got != n {
			t.Errorf("%s: %d calls for %d requests", op, got, n)
		}
		if got := waited[op] - waits[op]; got != n {
			t.Errorf("%s: %d of %d have waited", op, got, n)
		}
	}
}

// killMount kills the process behind the mount.
func (w *world) killMount() {
	w.t.Helper()
	for _, pid := range processesWith("mount.rpycfs", w.mnt) {
		must(w.t, syscall.Kill(pid, syscall.SIGKILL))
	}
}

// TestDelayedMountKilled: when the process behind a mount is killed, what was fsynced or
// closed is there, and of what was on its way a beginning.
func TestDelayedMountKilled(t *testing.T) {
	d := newDelaying(t)
	do := func(does func(string) string, all ...string) {
		t.Helper()
		for _, what := range all {
			if errno := does(what); errno != "0" {
				t.Errorf("%s: error %s", what, errno)
			}
		}
	}
	closed, synced, open := d.writer("closed"), d.writer("synced"), d.writer("open")
	do(closed, "write", "close")
	do(synced, "write", "sync")
	d.stands(func() {
		do(synced, "write")
		do(open, "write", "chmod", "write")
		d.killMount()
	})
	w := append(pattern(4<<20), pattern(4<<20)...)
	at := func(name string) string { return filepath.Join(d.export, name) }
	check := func() error {
		return errors.Join(fileIs(at("closed"), w[:4<<20]), startsWith(at("synced"), w, 4<<20), startsWith(at("open"), w, 0))
	}
	must(t, check())
	if got, err := os.ReadFile(filepath.Join(d.other, "open")); err != nil || !bytes.HasPrefix(w, got) {
		t.Errorf("%d bytes by another mount, %v", len(got), err)
	}
	must(t, check())
}

// TestDelayedMountKilledAtWork is the same in the middle of writing, a few times.
func TestDelayedMountKilledAtWork(t *testing.T) {
	const writes = 12
	d := newDelaying(t)
	all := bytes.Repeat(pattern(4<<20), writes)
	for round := range 3 {
		name := fmt.Sprint("file", round)
		does := d.writer(name)
		synced := make(chan int, writes) // bytes of which fsync has told that they are there
		go func() {
			defer close(synced)
			for n := 1; n <= writes && does("write") == "0"; n++ {
				if n%3 == 0 && does("sync") == "0" {
					synced <- n * 4 << 20
				}
			}
		}()
		path := filepath.Join(d.export, name)
		if !eventually(patience, func() bool {
			i, err := os.Stat(path)
			return err == nil && i.Size() > int64(3+13*round)<<20
		}) {
			t.Fatal("nothing is written")
		}
		d.killMount()
		least := 0
		for n := range synced {
			least = n
		}
		must(t, startsWith(path, all, least))
		d.run(d.command("fusermount3", "-u", "-z", d.mnt))
		d.mountAt(d.proxy.port, "/", d.mnt)
		must(t, startsWith(d.path(name), all, least))
	}
}

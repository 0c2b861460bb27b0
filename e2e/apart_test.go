package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What these tests wait for happens while the link is down, and it comes up again only
// afterwards: that they end is what they show. Times are logged.

// away are the ways in which a link is lost: everything stands still, or connections
// break and none is made.
var away = map[string]func(p *proxy, gone bool){
	"stalled": (*proxy).stall,
	"cut":     (*proxy).block,
}

// apart is a world whose mount reaches the daemon through a proxy.
type apart struct {
	*world
	proxy *proxy
	lose  func(p *proxy, gone bool)
	lost  bool
}

func newApart(t *testing.T, lose func(p *proxy, gone bool), options ...string) *apart {
	t.Helper()
	needFUSE(t)
	w := newWorld(t)
	for _, dir := range []string{"seen", "other", "a", "b", "c"} {
		must(t, os.Mkdir(filepath.Join(w.export, dir), 0o755))
		for i := range 5 {
			must(t, os.WriteFile(filepath.Join(w.export, dir, fmt.Sprint("file", i)), bytes.Repeat([]byte(dir), 10_000), 0o644))
		}
		must(t, os.Symlink("file0", filepath.Join(w.export, dir, "link"))) // where it leads does not come ahead
	}
	w.serve()
	a := &apart{world: w, proxy: newProxy(t, w.port, false), lose: lose}
	t.Cleanup(func() { a.link(true) })
	w.mountAt(a.proxy.port, "/", w.mnt, options...)
	return a
}

// look does what is to be done again without the server, until that makes no call.
func (a *apart) look() {
	a.t.Helper()
	if !eventually(patience, func() bool {
		before := a.calls()
		a.run(a.command("ls", "-l", a.mnt, a.path("seen"), filepath.Dir(a.mnt)))
		a.run(a.command("cat", a.path("seen/file0")))
		a.run(a.command("stat", a.mnt, a.path("seen/file1")))
		return a.calls() == before
	}) {
		a.t.Fatal("every look makes calls")
	}
}

// calls returns how many calls the mount has made.
func (a *apart) calls() (n uint64) {
	a.t.Helper()
	var d struct {
		Calls map[string]struct{ Count uint64 }
	}
	must(a.t, json.Unmarshal([]byte(a.run(a.command("rpycfs", "status", "--json", a.mnt))), &d))
	for _, c := range d.Calls {
		n += c.Count
	}
	return n
}

// down looks around, and takes the link down.
func (a *apart) down() {
	a.t.Helper()
	a.look()
	a.link(false)
}

func (w *world) path(name string) string { return filepath.Join(w.mnt, name) }

// link is up or down from now on.
func (a *apart) link(up bool) {
	if a.lost == !up {
		return
	}
	a.lost = !up
	a.lose(a.proxy, !up)
}

// timed runs a program that must end, and logs how long it took.
func (a *apart) timed(name string, args ...string) (string, error) {
	a.t.Helper()
	var out bytes.Buffer
	cmd := a.command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	a.t.Logf("%v: %s %s: %v", time.Since(start).Round(100*time.Microsecond), name, strings.Join(args, " "), err)
	return out.String(), err
}

// works wants a program to succeed.
func (a *apart) works(name string, args ...string) {
	a.t.Helper()
	if out, err := a.timed(name, args...); err != nil {
		a.t.Errorf("%s %q: %v\n%s", name, args, err, out)
	}
}

// cached does what needs no server.
func (a *apart) cached() {
	a.t.Helper()
	a.works("cat", a.path("seen/file0"))
	a.works("ls", "-l", a.path("seen"))
	a.works("stat", a.path("seen/file1"))
	a.works("ls", "-l", filepath.Dir(a.mnt))
	a.works("df", a.mnt)
	a.works("stat", a.mnt)
}

// inProcess measures calls without the programs around them.
func (a *apart) inProcess() {
	for _, x := range []struct {
		what string
		do   func() error
	}{
		{"read", func() error { _, err := os.ReadFile(a.path("seen/file0")); return err }},
		{"readdir", func() error { _, err := os.ReadDir(a.path("seen")); return err }},
		{"stat", func() error { _, err := os.Stat(a.path("seen/file1")); return err }},
		{"statfs", func() error { return syscall.Statfs(a.mnt, new(syscall.Statfs_t)) }},
	} {
		start := time.Now()
		err := x.do()
		a.t.Logf("%v: %s without the server: %v", time.Since(start).Round(time.Microsecond), x.what, err)
		if err != nil {
			a.t.Errorf("%s: %v", x.what, err)
		}
	}
}

// TestSoft: on a soft mount what needs the server fails while it is away, and what does
// not works. When it is back, everything does.
func TestSoft(t *testing.T) {
	for how, lose := range away {
		t.Run(how, func(t *testing.T) {
			a := newApart(t, lose, "soft", "timeo=5")
			f, err := os.Create(a.path("open"))
			must(t, err)
			defer f.Close()
			a.down()
			a.cached()
			a.inProcess()
			fails := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, syscall.ETIMEDOUT) {
					t.Errorf("%s while the server is away: %v", what, err)
				}
			}
			for _, x := range []struct {
				what string
				do   func() error
			}{
				{"mkdir", func() error { return os.Mkdir(a.path("made"), 0o755) }},
				{"stat", func() error { _, err := os.Stat(a.path("other/link")); return err }},
				{"write", func() error { _, err := f.Write(make([]byte, 1<<20)); return err }},
				{"create", func() error { _, err := os.Create(a.path("other/new")); return err }},
				{"fsync", f.Sync},
			} {
				start := time.Now()
				err := x.do()
				t.Logf("%v: %s: %v", time.Since(start).Round(time.Microsecond), x.what, err)
				fails(x.what, err)
			}
			a.cached()
			back := time.Now()
			a.link(true)
			if !eventually(patience, func() bool { _, err := os.Stat(a.path("other/file0")); return err == nil }) {
				t.Fatal("the server is back, and nothing works")
			}
			t.Logf("%v after the link", time.Since(back).Round(time.Millisecond))
			a.same()
		})
	}
}

// TestSoftMapped: on a soft mount a page that a program touches is waited for, because it
// would be killed; what it has stored into a mapping and cannot be written is told by
// msync and status.
func TestSoftMapped(t *testing.T) {
	for how, lose := range away {
		t.Run(how, func(t *testing.T) {
			a := newApart(t, lose, "soft", "timeo=4")
			open := func(name string) []byte {
				f, err := os.OpenFile(a.path(name), os.O_RDWR, 0)
				must(t, err)
				defer f.Close()
				b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				must(t, err)
				t.Cleanup(func() { _ = unix.Munmap(b) })
				return b
			}
			warm := open("other/file1")
			touch, touched := a.toucher("other/file0")
			warm[0] = 'x'
			must(t, unix.Msync(warm, unix.MS_SYNC))
			a.look()
			a.link(false)
			touch()
			warm[0] = 'y'
			if err := unix.Msync(warm, unix.MS_SYNC); err == nil {
				t.Error("msync has succeeded without the server")
			} else {
				t.Logf("msync: %v", err)
			}
			if _, err := os.ReadFile(a.path("other/file2")); !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("read: %v", err)
			}
			select {
			case b := <-touched:
				t.Errorf("a page without the server: %c", b)
			default:
			}
			if out, _ := a.command("rpycfs", "status", a.mnt).Output(); !strings.Contains(string(out), "NOT WRITTEN: ") {
				t.Errorf("status does not tell what was not written:\n%s", out)
			}
			a.link(true)
			select {
			case b := <-touched:
				if b != 'o' {
					t.Errorf("a page with the server: %c", b)
				}
			case <-time.After(patience):
				t.Error("a page does not come though the server is back")
			}
		})
	}
}

// toucher maps a file in a process of its own: who waits for a page keeps all goroutines
// of the process from running when garbage is collected, the proxy's too. touch has it
// read the first byte, which is sent then.
func (a *apart) toucher(name string) (touch func(), touched <-chan byte) {
	a.t.Helper()
	self, err := os.Executable()
	must(a.t, err)
	cmd := a.command(self)
	cmd.Env = append(a.env(), jobEnv+"=touch "+a.path(name))
	in, err := cmd.StdinPipe()
	must(a.t, err)
	out, err := cmd.StdoutPipe()
	must(a.t, err)
	must(a.t, cmd.Start())
	a.t.Cleanup(func() { must(a.t, cmd.Wait()) })
	said := make([]byte, 1)
	if _, err := out.Read(said); err != nil {
		a.t.Fatalf("the program that maps %s: %v", name, err)
	}
	first := make(chan byte, 1)
	return func() {
		must(a.t, in.Close())
		go func() {
			if n, _ := out.Read(said); n == 1 {
				first <- said[0]
			}
		}()
	}, first
}

// touchJob maps a file, says so, and prints its first byte when there is no more input.
func touchJob(args []string) error {
	return mapped(args[0], func(page []byte) error {
		fmt.Print("m")
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return err
		}
		_, err := fmt.Printf("%c", page[0])
		return err
	})
}

// same wants the mount to show what the server has.
func (a *apart) same() {
	a.t.Helper()
	var here, there string
	if !eventually(patience, func() bool {
		here, there = listing(a.mnt), listing(a.export)
		return here == there
	}) {
		a.t.Errorf("the mount shows\n%s\nthe server has\n%s", here, there)
	}
}

// listing tells of all that is below a directory, by listings and by look-ups.
func listing(dir string) string {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		size := info.Size()
		if info.IsDir() {
			size = 0
		}
		fmt.Fprintln(&b, strings.TrimPrefix(path, dir), info.Mode(), size)
		return nil
	})
	for _, name := range []string{"made", "killed", "killed2", "other/new", "b/new", "a/renamed"} {
		_, err := os.Lstat(filepath.Join(dir, name))
		fmt.Fprintln(&b, name, err == nil)
	}
	fmt.Fprintln(&b, err)
	return b.String()
}

// TestHard: on a hard mount programs wait for the server, can be interrupted and killed
// at once, and leave nothing behind that is not as the server has it.
func TestHard(t *testing.T) {
	for how, lose := range away {
		t.Run(how, func(t *testing.T) {
			a := newApart(t, lose)
			a.look()
			shell := func(text string) []string { return []string{"sh", "-c", text, "sh", a.mnt} }
			writer := a.command("sh", shell(`exec cat /dev/zero >"$1/big"`)[1:]...)
			must(t, writer.Start())
			if !eventually(patience, func() bool {
				info, err := os.Stat(filepath.Join(a.export, "big"))
				return err == nil && info.Size() > 0
			}) {
				t.Fatal("nothing is written")
			}
			a.link(false)
			running := []*exec.Cmd{writer}
			for _, p := range [][]string{
				{"mkdir", a.path("killed")}, // each in a directory of its own: the kernel has locks
				{"cat", a.path("other/file0")},
				{"mv", a.path("a/file3"), a.path("a/renamed")},
				shell(`: >"$1/b/new"`),
				shell(`trap "exit 7" INT; [ -e "$1/c/link" ]; sleep 100`),
				{"flock", a.path("seen/file4"), "true"},
			} {
				cmd := a.command(p[0], p[1:]...)
				must(t, cmd.Start())
				running = append(running, cmd)
			}
			a.waiting(5)
			a.cached()
			for _, cmd := range running {
				a.ends(cmd, syscall.SIGINT)
			}
			a.cached()
			a.link(true)
			a.works("mkdir", a.path("killed2"))
			a.same()
		})
	}
}

// ends wants a signal to end a program that waits.
func (a *apart) ends(cmd *exec.Cmd, sig syscall.Signal) {
	a.t.Helper()
	start := time.Now()
	must(a.t, cmd.Process.Signal(sig))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		a.t.Logf("%v: %q: %v", time.Since(start).Round(time.Millisecond), cmd.Args, err)
		if err == nil {
			a.t.Errorf("%q was not interrupted", cmd.Args)
		}
	case <-time.After(patience):
		a.t.Errorf("%q goes on", cmd.Args)
		a.link(true)
		<-ended
	}
}

// waiting wants status to tell of so many requests that wait, and since when.
func (a *apart) waiting(n int) {
	a.t.Helper()
	var d struct {
		Waiting []struct {
			Count int
			Since time.Time
		}
	}
	if !eventually(patience, func() bool {
		text, _ := a.command("rpycfs", "status", "--json", a.mnt).Output()
		d.Waiting = nil
		must(a.t, json.Unmarshal(text, &d))
		left := n
		for _, w := range d.Waiting {
			if !w.Since.IsZero() {
				left -= w.Count
			}
		}
		return left <= 0
	}) {
		a.t.Errorf("status tells of %+v, and not of %d requests that wait", d.Waiting, n)
	}
}

// TestUmountApart: unmounting works while the server is away, and the process behind the
// mount ends, whatever was left to tell the server.
func TestUmountApart(t *testing.T) {
	for how, lose := range away {
		for name, umount := range map[string][]string{
			"umount.rpycfs": {"umount.rpycfs"}, "umount": {"umount"}, "force": {"umount", "-f"}, "lazy": {"umount", "-l"},
			"fusermount": {"fusermount3", "-u"},
		} {
			if umount[0] == "umount" && os.Geteuid() != 0 {
				continue // root's
			}
			t.Run(how+" "+name, func(t *testing.T) {
				a := newApart(t, lose)
				f, err := os.Create(a.path("open"))
				must(t, err)
				must(t, a.command("flock", a.path("open"), "true").Run())
				a.link(false)
				must(t, f.Close())
				blocked := a.command("stat", a.path("other/file0"))
				if name == "force" || name == "lazy" {
					must(t, blocked.Start())
					a.waiting(1)
				}
				if name == "force" {
					// The kernel ends what waits, and finds the mount busy with who has waited
					// until now.
					_, _ = a.timed(umount[0], append(umount[1:], a.mnt)...)
				} else {
					a.works(umount[0], append(umount[1:], a.mnt)...)
				}
				if blocked.Process != nil {
					a.ends(blocked, map[string]syscall.Signal{"lazy": syscall.SIGINT}[name]) // 0 is none
				}
				start := time.Now()
				if !eventually(patience, func() bool { return len(a.mountProcesses()) == 0 }) {
					t.Error("the process behind the mount does not end")
				}
				if left := mountsBelow(a.dir); len(left) > 0 {
					t.Errorf("still mounted: %q", left)
				}
				t.Logf("the process has ended after %v", time.Since(start).Round(time.Millisecond))
			})
		}
	}
}

// TestDyingApart: a process with locks that is killed while the server is away ends at
// once, and its locks are gone when the server is back.
func TestDyingApart(t *testing.T) {
	for how, lose := range away {
		t.Run(how, func(t *testing.T) {
			a := newApart(t, lose)
			l := newLocker(t)
			l.want("ok", "open x %d %s", os.O_RDWR, a.path("seen/file0"))
			l.want("ok", "setlk x w 0 end")
			held, err := os.Open(a.path("seen/file0")) // so that the file stays open
			must(t, err)
			defer held.Close()
			a.link(false)
			start := time.Now()
			l.kill()
			t.Logf("ended after %v", time.Since(start).Round(time.Millisecond))
			a.link(true)
			other := newLocker(t)
			other.want("ok", "open x %d %s", os.O_RDWR, a.path("seen/file0"))
			other.want("ok", "setlkw x w 0 end")
			other.end()
		})
	}
}

// TestSeveralServers: of several addresses of a daemon the mount takes one that answers,
// at first and later.
func TestSeveralServers(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve()
	must(t, os.WriteFile(filepath.Join(w.export, "file"), []byte("content"), 0o644))
	one, two := newProxy(t, w.port, false), newProxy(t, w.port, false)
	w.mountAt(freePort(t), "/", w.mnt, fmt.Sprintf("server=127.0.0.1:%d", one.port), fmt.Sprintf("server=127.0.0.1:%d", two.port))
	f, err := os.OpenFile(filepath.Join(w.mnt, "file"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	server := func() string {
		var d struct{ Server string }
		must(t, json.Unmarshal([]byte(w.run(w.command("rpycfs", "status", "--json", w.mnt))), &d))
		return d.Server
	}
	for i, p := range []*proxy{one, two, one} {
		other := map[*proxy]*proxy{one: two, two: one}[p]
		other.block(true)
		p.block(false)
		if _, err := f.WriteAt([]byte{byte('0' + i)}, 0); err != nil {
			t.Error(err)
		}
		if got, want := server(), fmt.Sprintf("127.0.0.1:%d", p.port); got != want {
			t.Errorf("connected to %s, want %s", got, want)
		}
	}
	got, err := os.ReadFile(filepath.Join(w.export, "file"))
	if err != nil || string(got) != "2ontent" {
		t.Errorf("%q, %v", got, err)
	}
	one.block(false)
	must(t, f.Close())
	w.umount()
}

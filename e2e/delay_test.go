package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// without are commands that start a daemon so that it learns of changes on its disk in
// another way than the best: where its user may have no group of fanotify(7).
var without = map[string][]string{
	"fanotify": nil,
	"inotify": {"unshare", "--user", "--map-root-user", "sh", "-euc",
		`echo 0 >/proc/sys/user/max_fanotify_groups; exec "$@"`, "sh"},
}

// learning runs a test with a daemon that learns of changes on its disk by fanotify and
// with one that does so by inotify, and a mount of it.
func learning(t *testing.T, test func(t *testing.T, w *world)) {
	needFUSE(t)
	for events, inside := range without {
		t.Run(events, func(t *testing.T) {
			w := newWorldFor(t, 15*time.Minute)
			w.inside = inside
			w.serve()
			w.mount("/")
			if got := w.status().Events; got != events {
				t.Fatalf("the daemon learns of changes by %s", got)
			}
			test(t, w)
		})
	}
}

// mountStatus is what a test reads of rpycfs status --json.
type mountStatus struct {
	Events, Inotify string
	Told            int `json:"inotify_told"`
	Lost            int `json:"inotify_lost"`
	Recalls, Epochs int
	RecalledAll     int `json:"recalled_all"`
	Requests        map[string]struct{ Count int }
}

func (w *world) status() (s mountStatus) {
	w.t.Helper()
	must(w.t, json.Unmarshal([]byte(w.run(w.command("rpycfs", "status", "--json", w.mnt))), &s))
	return s
}

// latencies are how long it took until changes were seen.
type latencies []time.Duration

func (d latencies) String() string {
	slices.Sort(d)
	at := func(share float64) time.Duration { return d[int(share*float64(len(d)-1))].Round(time.Microsecond) }
	return fmt.Sprintf("%d times: median %v, p99 %v, at most %v", len(d), at(0.5), at(0.99), at(1))
}

// check wants the 99th percentile to be below a limit, if the repetitions were asked for.
func (d latencies) check(t *testing.T, what, variable string, limit time.Duration) {
	t.Helper()
	t.Logf("%s: %v", what, d)
	if p99 := d[int(0.99*float64(len(d)-1))]; os.Getenv(variable) != "" && p99 > limit {
		t.Errorf("%s: p99 %v, not %v", what, p99, limit)
	}
}

// serverChanges are what a program does to a file, or by it.
var serverChanges = []func(path string, i int) error{
	func(path string, i int) error { // append
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(f, "%d\n", i)
		return errors.Join(err, f.Close())
	},
	func(path string, i int) error { // overwrite
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(f, "%08d", i)
		return errors.Join(err, f.Close())
	},
	func(path string, i int) error { // replace
		if err := os.WriteFile(path+"~", fmt.Appendf(nil, "%20d", i), 0o644); err != nil {
			return err
		}
		return os.Rename(path+"~", path)
	},
	func(path string, i int) error { return os.Chmod(path, os.FileMode(0o600|i%8)) },
	func(path string, i int) error { return os.Truncate(path, 10) },
	func(path string, _ int) error { return os.Remove(path) },
	func(path string, i int) error { return os.WriteFile(path, fmt.Appendf(nil, "%30d", i), 0o644) }, // create
}

// stat and read are what programs see of a file.
func stat(path string) (s struct {
	ino, size uint64
	mode      uint32
	mtime     unix.Timespec
	err       error
}) {
	var st unix.Stat_t
	if s.err = unix.Stat(path, &st); s.err == nil {
		s.ino, s.size, s.mode, s.mtime = st.Ino, uint64(st.Size), st.Mode, st.Mtim
	}
	return s
}

func read(path string) (s struct {
	text  string
	errno syscall.Errno
}) {
	text, err := os.ReadFile(path)
	s.text = string(text)
	errors.As(err, &s.errno)
	return s
}

// TestServerChangeDelay: what a program does on the server, a client that had it all in
// its cache sees soon.
func TestServerChangeDelay(t *testing.T) {
	learning(t, func(t *testing.T, w *world) {
		const variable = "RPYCFS_DELAYS"
		there, here := filepath.Join(w.export, "file"), filepath.Join(w.mnt, "file")
		must(t, os.WriteFile(there, []byte("first"), 0o644))
		var stats, reads latencies
		for i := range setting(t, variable, 30) {
			for range 2 { // then it is all cached
				if stat(here) != stat(there) || read(here) != read(there) {
					t.Fatalf("before change %d the client sees %+v, not %+v", i, stat(here), stat(there))
				}
			}
			began := time.Now()
			must(t, serverChanges[i%len(serverChanges)](there, i))
			wantStat, wantRead := stat(there), read(there)
			stat := func() bool { return stat(here) == wantStat }
			read := func() bool { return read(here) == wantRead }
			if i/len(serverChanges)%2 == 0 {
				stats = append(stats, until(t, began, stat))
				reads = append(reads, until(t, began, read))
			} else {
				reads = append(reads, until(t, began, read))
				stats = append(stats, until(t, began, stat))
			}
		}
		stats.check(t, "stat", variable, 20*time.Millisecond)
		reads.check(t, "read", variable, 20*time.Millisecond)
	})
}

// until asks until the answer is yes, and returns how long after began that was.
func until(t *testing.T, began time.Time, yes func() bool) time.Duration {
	t.Helper()
	for !yes() {
		if time.Since(began) > patience {
			t.Fatalf("not seen in %v", patience)
		}
		time.Sleep(50 * time.Microsecond)
	}
	return time.Since(began)
}

// TestStoresAreSeen: no event tells of stores into a mapping, nor, with inotify, of a
// change through a link in a directory that no client knows. A second later they are seen.
func TestStoresAreSeen(t *testing.T) {
	learning(t, func(t *testing.T, w *world) {
		const variable = "RPYCFS_STORES"
		outside := filepath.Join(w.dir, "outside")
		must(t, os.Mkdir(outside, 0o755))
		for _, name := range []string{"stored", "linked", "linked later"} {
			must(t, os.WriteFile(filepath.Join(w.export, name), make([]byte, pageSize), 0o644))
		}
		must(t, os.Link(filepath.Join(w.export, "linked"), filepath.Join(outside, "linked")))
		read(filepath.Join(w.mnt, "linked later"))
		must(t, os.Link(filepath.Join(w.export, "linked later"), filepath.Join(outside, "linked later")))

		store := w.storing(filepath.Join(w.export, "stored"))
		through := func(name string) func(b byte) {
			return func(b byte) {
				f, err := os.OpenFile(filepath.Join(outside, name), os.O_WRONLY, 0)
				must(t, err)
				_, err = f.Write([]byte{b})
				must(t, errors.Join(err, f.Close()))
			}
		}
		for _, c := range []struct {
			what, name string
			change     func(b byte)
			open       bool
		}{
			{"stores", "stored", store, false},
			{"stores, the file being open", "stored", store, true},
			{"a second link", "linked", through("linked"), false},
			{"a second link that was made later", "linked later", through("linked later"), false},
		} {
			path := filepath.Join(w.mnt, c.name)
			read := func() byte {
				b, err := os.ReadFile(path)
				must(t, err)
				return b[0]
			}
			if c.open {
				f, err := os.Open(path)
				must(t, err)
				read = func() byte {
					b := make([]byte, 1)
					_, err := f.ReadAt(b, 0)
					must(t, err)
					return b[0]
				}
				defer f.Close()
			}
			var d latencies
			for i := range setting(t, variable, 3) {
				b := byte(i%250) + 1
				if c.open {
					b += 3
				}
				read()
				began := time.Now()
				c.change(b)
				d = append(d, until(t, began, func() bool { return read() == b }))
			}
			d.check(t, c.what, variable, time.Second)
		}
	})
}

// storing starts a program that has mapped a file, and returns what makes it store.
func (w *world) storing(path string) (store func(b byte)) {
	w.t.Helper()
	self, err := os.Executable()
	must(w.t, err)
	cmd := w.command(self)
	cmd.Env = append(w.env(), jobEnv+"=store "+path)
	in, err := cmd.StdinPipe()
	must(w.t, err)
	out, err := cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, cmd.Start())
	w.t.Cleanup(func() {
		in.Close()
		must(w.t, cmd.Wait())
	})
	done := bufio.NewReader(out)
	return func(b byte) {
		_, err := in.Write([]byte{b})
		must(w.t, err)
		_, err = done.ReadByte()
		must(w.t, err)
	}
}

// storeJob stores each byte that it reads to a file that it has mapped, and says so.
func storeJob(args []string) error {
	return mapped(args[0], func(page []byte) error {
		for {
			if _, err := os.Stdin.Read(page[:1]); err != nil {
				if err == io.EOF {
					return nil
				}
				return err
			}
			fmt.Print(".")
		}
	})
}

// TestInotifyDelay: who watches a mount by inotify(7) hears soon of what another client
// and a program on the server do.
func TestInotifyDelay(t *testing.T) {
	const variable = "RPYCFS_DELAYS"
	learning(t, func(t *testing.T, w *world) {
		second := filepath.Join(w.dir, "second")
		must(t, os.Mkdir(second, 0o755))
		w.mountAt(w.port, "/", second)
		for from, dir := range map[string]string{"another client": second, "the server": w.export} {
			must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
			v := watchMount(t, w.mnt)
			must(t, os.Mkdir(filepath.Join(dir, "begin"), 0o755))
			v.until(unix.IN_CREATE, "begin")
			var d latencies
			for i := range setting(t, variable, 40) {
				n := filepath.Join(dir, fmt.Sprint("d", i/4))
				var err error
				mask, name := uint32(0), filepath.Base(n)
				began := time.Now()
				switch i % 4 {
				case 0:
					mask, err = unix.IN_CREATE, os.Mkdir(n, 0o755)
				case 1:
					mask, name, err = unix.IN_MOVED_TO, name+"~", os.Rename(n, n+"~")
				case 2:
					mask, name, err = unix.IN_DELETE, name+"~", os.Remove(n+"~")
				case 3:
					mask, name, err = unix.IN_MODIFY, "file", os.Truncate(filepath.Join(dir, "file"), int64(i))
				}
				must(t, err)
				v.until(mask, name)
				d = append(d, time.Since(began))
			}
			d.check(t, "changes by "+from, variable, 100*time.Millisecond)
			must(t, os.Remove(filepath.Join(dir, "begin")))
			v.until(unix.IN_DELETE, "begin")
		}
		// Where the kernel has been busy for longer than 50 ms, a change counts as left out.
		t.Logf("%d changes were left out", w.status().Lost)
		must(t, w.command("umount.rpycfs", second).Run())
	})
}

// mountWatcher reads what inotify(7) tells of a directory.
type mountWatcher struct {
	t  *testing.T
	fd int
}

func watchMount(t *testing.T, dir string) *mountWatcher {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_TO|unix.IN_MODIFY)
	must(t, err)
	return &mountWatcher{t, fd}
}

// until reads events up to one.
func (v *mountWatcher) until(mask uint32, name string) {
	v.t.Helper()
	buf, all := make([]byte, 64<<10), []string(nil)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(v.fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		must(v.t, err)
		if n == 0 {
			v.t.Fatalf("no event %x of %s, but\n%s", mask, name, strings.Join(all, "\n"))
		}
		n, err = unix.Read(v.fd, buf)
		must(v.t, err)
		found := false
		for b := buf[:n]; len(b) > 0; {
			m, size := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
			is := string(bytes.TrimRight(b[16:16+size], "\x00"))
			all = append(all, fmt.Sprintf("%x %s", m, is))
			found = found || m&mask != 0 && is == name
			b = b[16+size:]
		}
		if found {
			return
		}
	}
}

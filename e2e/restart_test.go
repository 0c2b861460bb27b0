package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// restarts are the ways in which the daemon ends before it is started again.
var restarts = map[string]func(*world){
	"killed":    (*world).kill,
	"restarted": (*world).restart,
}

// TestRestart: what is open stays open over the end of the daemon, whatever has become
// of the names: files that were renamed, removed, replaced, or may not be opened any
// more; listings, working directories, and what the client knows of the tree.
func TestRestart(t *testing.T) {
	needFUSE(t)
	for name, again := range restarts {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.serve()
			w.mount("/")
			p := newOpenFiles(t, w.mnt)
			for round := range 5 {
				p.check(t, round)
				again(w)
			}
			p.check(t, 5)
			if epoch := w.epoch(); epoch < 6 {
				t.Errorf("epoch %d after five restarts", epoch)
			}
			p.close(t)
			w.umount()
			w.stop()
			eventually(patience, func() bool { return len(w.keepers()) == 0 })
			if left := w.keepers(); len(left) > 0 {
				t.Errorf("keepers %v are left with nothing to keep", left)
			}
		})
	}
}

// keepers returns the processes that listen below the world's directory.
func (w *world) keepers() []int {
	text, _ := os.ReadFile("/proc/net/unix")
	var found []int
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 8 && strings.HasPrefix(fields[7], w.dir+"/") && strings.HasSuffix(fields[7], ".keeper") && fields[3] == "00010000" {
			found = append(found, holders("rpycfsd", "--keeper", "socket:["+fields[6]+"]")...)
		}
	}
	return found
}

// holders returns the processes of a program with an argument that have a file open.
func holders(program, argument, file string) []int {
	return slices.DeleteFunc(processesWith(program, argument), func(pid int) bool {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		return !slices.ContainsFunc(links, func(link string) bool {
			to, err := os.Readlink(link)
			return err == nil && to == file
		})
	})
}

// openFiles are open files with different fates.
type openFiles struct {
	dir   string
	files map[string]*os.File
	text  map[string]string
	list  *os.File
	seen  map[string]bool
}

func newOpenFiles(t *testing.T, dir string) *openFiles {
	p := &openFiles{dir: dir, files: make(map[string]*os.File), text: make(map[string]string), seen: make(map[string]bool)}
	must(t, os.MkdirAll(filepath.Join(dir, "sub/deep"), 0o755))
	for _, name := range []string{"plain", "renamed", "removed", "replaced", "closed", "sub/deep/file", "linked"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		must(t, err)
		p.files[name] = f
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Rename(at("renamed"), at("sub/other")))
	must(t, os.Remove(at("removed")))
	must(t, os.WriteFile(at("new"), []byte("new"), 0o644))
	must(t, os.Rename(at("new"), at("replaced")))
	must(t, os.Chmod(at("closed"), 0))
	must(t, os.Link(at("linked"), at("sub/link")))
	must(t, os.Remove(at("linked")))
	must(t, os.Mkdir(at("many"), 0o755))
	for i := range 900 {
		f, err := os.Create(at(fmt.Sprintf("many/%04d", i)))
		must(t, err)
		f.Close()
	}
	var err error
	p.list, err = os.Open(at("many"))
	must(t, err)
	return p
}

// check writes to the files and reads all of them back, goes on with the listing, and
// finds the tree as it was.
func (p *openFiles) check(t *testing.T, round int) {
	t.Helper()
	for name, f := range p.files {
		line := fmt.Sprintf("%s in round %d\n", name, round)
		if _, err := f.WriteString(line); err != nil {
			t.Fatalf("round %d, %s: %v", round, name, err)
		}
		p.text[name] += line
		got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		if err != nil || string(got) != p.text[name] {
			t.Fatalf("round %d, %s: %q, %v; want %q", round, name, got, err, p.text[name])
		}
	}
	names, err := p.list.Readdirnames(120)
	must(t, err)
	for _, name := range names {
		if p.seen[name] {
			t.Errorf("round %d: %s is listed twice", round, name)
		}
		p.seen[name] = true
	}
	for _, name := range []string{"plain", "sub/other", "sub/deep/file", "sub/link"} {
		if _, err := os.Stat(filepath.Join(p.dir, name)); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
	made := filepath.Join(p.dir, "sub/deep", fmt.Sprint("made ", round))
	must(t, os.Mkdir(made, 0o755))
	must(t, os.Remove(made))
}

func (p *openFiles) close(t *testing.T) {
	for name, err := p.list.Readdirnames(1000); err == nil; name, err = p.list.Readdirnames(1000) {
		for _, n := range name {
			p.seen[n] = true
		}
	}
	if len(p.seen) != 900 {
		t.Errorf("%d of 900 names were listed", len(p.seen))
	}
	p.list.Close()
	for name, f := range p.files {
		if err := f.Close(); err != nil {
			t.Errorf("close %s: %v", name, err)
		}
	}
}

// TestRestartLocks goes through the table of locks with a restart of the daemon after
// every few operations: what is granted and what is not, also to programs on the server,
// is as on a plain directory.
func TestRestartLocks(t *testing.T) {
	for name, again := range restarts {
		t.Run(name, func(t *testing.T) {
			w := newLockWorld(t)
			plain := filepath.Join(w.dir, "plain")
			must(t, os.Mkdir(plain, 0o755))
			must(t, os.WriteFile(filepath.Join(plain, "f"), nil, 0o644))
			got := map[string]*locker{"A": w.opened(w.a), "B": w.opened(w.b), "S": w.opened(w.export)}
			want := map[string]*locker{"A": w.opened(plain), "B": w.opened(plain), "S": w.opened(plain)}
			pid := regexp.MustCompile(` pid .*`)
			n := 0
			for line := range strings.FieldsFuncSeq(lockTable, func(r rune) bool { return r == '\n' || r == '|' }) {
				who, command, _ := strings.Cut(strings.TrimSpace(line), " ")
				is, ought := got[who].do("%s", command), want[who].do("%s", command)
				if is, ought = pid.ReplaceAllString(is, ""), pid.ReplaceAllString(ought, ""); is != ought {
					t.Errorf("operation %d, %s: %s; on a plain directory: %s", n, strings.TrimSpace(line), is, ought)
				}
				if n++; n%5 == 0 {
					again(w.world)
				}
			}
		})
	}
}

// TestRestartLockQueue: who waits for a lock when the daemon is killed gets it when it is
// let go after the restart, and may still give up.
func TestRestartLockQueue(t *testing.T) {
	w := newLockWorld(t)
	a, b, s := w.opened(w.a), w.opened(w.b), w.opened(w.export)
	for _, command := range []string{"setlkw x w 0 9", "ofdw x w 0 9", "flock x ex"} {
		free := strings.NewReplacer("setlkw x w", "setlk x u", "ofdw x w", "ofd x u", "x ex", "x un").Replace(command)
		for _, holder := range []*locker{a, s} {
			holder.want("ok", "%s", command)
			b.tell("%s", command)
			b.blocks()
			w.kill()
			holder.want("ok", "%s", free)
			b.wants(b.hear(), "ok")
			holder.tell("%s", command)
			holder.blocks()
			w.kill()
			b.want("ok", "%s", free)
			holder.wants(holder.hear(), "ok")
			b.tell("%s", command)
			b.blocks()
			w.kill()
			b.wants(b.interrupt(), "EINTR")
			holder.want("ok", "%s", free)
		}
	}
}

// TestLockGivenUp: who gives up a lock while there is no daemon does not have it afterwards,
// and has what it had before.
func TestLockGivenUp(t *testing.T) {
	w := newLockWorld(t)
	b, next, s := w.opened(w.b), w.opened(w.b), w.opened(w.export)
	for _, c := range []struct{ had, wait, stays, free string }{
		{"", "setlkw x w 0 9", "", "setlk x u 0 end"},
		{"", "ofdw x w 0 9", "", "ofd x u 0 end"},
		{"", "flock x ex", "", "flock x un"},
		{"setlk x r 4 20", "setlkw x w 0 9", "r 4 20", "setlk x u 0 end"},
		{"ofd x w 0 1", "ofdw x r 0 9", "w 0 1", "ofd x u 0 end"},
		{"flock x ex", "flock x ex", "ex", "flock x un"},
		{"flock x sh", "flock x ex", "", "flock x un"}, // it was let go first
	} {
		if c.had != "" {
			b.want("ok", "%s", c.had)
		}
		w.crash()
		b.tell("%s", c.wait)
		b.blocks()
		b.wants(b.interrupt(), "EINTR")
		w.start()
		for _, l := range []*locker{next, s} { // the first asks when the same mount has given it back
			if strings.HasPrefix(c.wait, "flock") {
				want := "ok"
				if c.stays != "" {
					want = "EAGAIN"
				}
				l.want(want, "flock x ex nb")
				l.want("ok", "flock x un")
				continue
			}
			if got, _, _ := strings.Cut(l.do("ofdget x w 0 end"), " pid"); got != cmp.Or(c.stays, "free") {
				t.Errorf("%s, then %s given up: %s", c.had, c.wait, got)
			}
		}
		b.want("ok", "%s", c.free)
	}
}

// TestLockMoved: a lock for reading is still its owner's after the daemon's death when he has tried
// in vain for one that the same description could not have.
func TestLockMoved(t *testing.T) {
	w := newLockWorld(t)
	b, next, s := w.opened(w.b), w.opened(w.b), w.opened(w.export)
	b.want("ok", "open y %d %s", os.O_RDONLY, filepath.Join(w.b, "f"))
	b.want("ok", "setlk y r 4 9")
	s.want("ok", "setlk x w 20 29")
	b.want("EAGAIN", "setlk x w 20 29")
	s.want("ok", "setlk x u 20 29")
	w.kill()
	for _, c := range []struct{ do, finds string }{{"setlk x w 20 29", "r 4 9"}, {"setlk x u 0 end", "free"}} {
		b.want("ok", "%s", c.do)
		for who, l := range map[string]*locker{"another client": next, "a program on the server": s} {
			if got, _, _ := strings.Cut(l.do("ofdget x w 0 end"), " pid"); got != c.finds {
				t.Errorf("after %s %s finds %s", c.do, who, got)
			}
		}
	}
}

// TestKeeperLost kills the daemon and its keeper: files are found again by their names;
// what has none is ESTALE, and who had locks there gets EIO, both for that file alone.
func TestKeeperLost(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve("--no-keeper")
	w.mount("/")
	at := func(name string) string { return filepath.Join(w.mnt, name) }
	open := func(name string) *os.File {
		f, err := os.OpenFile(at(name), os.O_RDWR|os.O_CREATE, 0o644)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		_, err = f.WriteString(name)
		must(t, err)
		return f
	}
	plain, renamed, removed, locked := open("plain"), open("before"), open("removed"), open("locked")
	must(t, os.Rename(at("before"), at("after")))
	must(t, os.Remove(at("removed")))
	must(t, unix.FcntlFlock(locked.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	w.kill()
	for _, f := range []*os.File{plain, renamed} {
		if _, err := f.WriteString(" again"); err != nil {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(w.export, "after")); err != nil || string(text) != "before again" {
		t.Errorf("the renamed file holds %q, %v", text, err)
	}
	if _, err := removed.WriteString("x"); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("the removed file: %v", err)
	}
	for range 2 {
		if _, err := locked.WriteString("x"); !errors.Is(err, syscall.EIO) {
			t.Errorf("the file that has lost its lock: %v", err)
		}
	}
	other := open("locked")
	must(t, unix.FcntlFlock(other.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
}

// TestSecondRestart: what only the first process had is not lost with the second.
func TestSecondRestart(t *testing.T) {
	w := newLockWorld(t)
	a := w.opened(w.a)
	a.want("ok", "flock x ex nb")
	w.kill()
	w.kill()
	b := w.opened(w.b)
	b.want("EAGAIN", "flock x sh nb")
	a.want("ok", "flock x un")
	b.want("ok", "flock x sh nb")
	w.kill()
	a.want("EAGAIN", "flock x ex nb")
}

// TestStartedTooLate: a daemon that is started after --session-grace does not know the
// sessions of before any more.
func TestStartedTooLate(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve("--session-grace=200ms")
	w.mount("/")
	w.stop()
	time.Sleep(time.Second) // no daemon runs for that long
	w.start()
	if _, err := os.Stat(filepath.Join(w.mnt, "nothing")); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("a session of before: %v", err)
	}
	if !eventually(patience, func() bool { return len(w.keepers()) == 0 }) {
		t.Error("the keeper waits for longer than the grace")
	}
}

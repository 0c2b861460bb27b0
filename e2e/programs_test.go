package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// program is one of those that work while everything around them fails: a process that
// notices if a change is made twice, or not at all, and ends with its first error.
type program struct {
	dir    string // what all programs share, as its mount shows it
	who    int
	losing bool // the daemon may lose locks, and open files that have no name
	end    time.Time
	done   report
}

// report is what a program has done; it prints that in the end. What it was not told is
// in doubt only where it had lost a lock.
type report struct {
	Steps    int
	Lost     map[string]int // errors that it has met and may have met
	Won      []string       // names that it has made
	Counted  int
	Doubtful int   // counts that failed
	Rows     []int // what was committed
}

// programs are the kinds of them.
var programs = map[string]func(*program) error{
	"append": (*program).append, "exclusive": (*program).exclusive, "rename": (*program).rename,
	"exchange": (*program).exchange, "directories": (*program).directories, "links": (*program).links,
	"xattrs": (*program).xattrs, "removed": (*program).removed, "count": (*program).count,
	"sqlite": (*program).sqlite, "git": (*program).git, "files": (*program).files,
}

// programJob is a program: KIND DIR WHO LOSING END, where the end is a time in nanoseconds.
func programJob(args []string) error {
	p := program{dir: args[1], losing: args[3] == "true", done: report{Lost: make(map[string]int)}}
	var end int
	if err := integers([]string{args[2], args[4]}, &p.who, &end); err != nil {
		return err
	}
	p.end = time.Unix(0, int64(end))
	if err := programs[args[0]](&p); err != nil {
		return fmt.Errorf("step %d: %w", p.done.Steps, err)
	}
	return json.NewEncoder(os.Stdout).Encode(p.done)
}

// program starts one.
func (w *world) program(kind, dir string, who int, losing bool, end time.Time) *job {
	w.t.Helper()
	return w.job("program", kind, dir, who, losing, end.UnixNano())
}

// report waits for a program and returns what it has done.
func (j *job) report() report {
	j.w.t.Helper()
	var r report
	if err := j.cmd.Wait(); err != nil {
		j.w.t.Errorf("%v: %s", err, j.errs.String())
	} else if err := json.Unmarshal(j.out.Bytes(), &r); err != nil {
		j.w.t.Errorf("%s: %v: it printed %q", j.name, err, j.out.String())
	}
	return r
}

// more reports whether there is time for another step.
func (p *program) more() bool {
	if !time.Now().Before(p.end) {
		return false
	}
	p.done.Steps++
	return true
}

// path is that of a file that all programs share.
func (p *program) path(names ...string) string {
	return filepath.Join(append([]string{p.dir}, names...)...)
}

// own is a name that no other program has.
func (p *program) own(name string) string { return fmt.Sprint(name, " ", p.who) }

// loses reports whether an error is one that a file may have when the daemon has lost it.
func (p *program) loses(err error, allowed syscall.Errno) bool {
	if !p.losing || !errors.Is(err, allowed) {
		return false
	}
	p.done.Lost[allowed.Error()]++
	return true
}

// append adds numbered lines of different lengths to a log that others write too.
func (p *program) append() error {
	f, err := os.OpenFile(p.path("log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	for i := 0; p.more(); i++ {
		if _, err := fmt.Fprintf(f, "%d %d %s\n", p.who, i, strings.Repeat("x", i%5000)); err != nil {
			return err
		}
	}
	return f.Close()
}

// exclusive races for names; who makes one writes into it.
func (p *program) exclusive() error {
	mode := fs.FileMode(0o400) // so that it cannot be opened for writing again
	if p.losing {
		mode = 0o600
	}
	for i := 0; p.more(); i++ {
		name := p.path("names", strconv.Itoa(i))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := writeAll(f, []byte(strconv.Itoa(p.who)), false); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.done.Won = append(p.done.Won, filepath.Base(name))
	}
	return nil
}

// rename moves a file to and fro, between directories.
func (p *program) rename() error {
	a, b := p.path(p.own("ball")), p.path("moved", p.own("ball"))
	if err := os.WriteFile(a, []byte("ball"), 0o644); err != nil {
		return err
	}
	for ; p.more(); a, b = b, a {
		if err := os.Rename(a, b); err != nil {
			return err
		}
	}
	return nil
}

// exchange swaps two files; each time the other one has the name.
func (p *program) exchange() error {
	a, b := p.path(p.own("first")), p.path(p.own("second"))
	texts := []string{"one", "two"}
	for i, path := range []string{a, b} {
		if err := os.WriteFile(path, []byte(texts[i]), 0o644); err != nil {
			return err
		}
	}
	for i := 1; p.more(); i++ {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			return err
		}
		text, err := os.ReadFile(a)
		if err != nil || string(text) != texts[i%2] {
			return fmt.Errorf("%q, %v", text, err)
		}
	}
	return nil
}

// directories makes and removes one; neither is ever there already.
func (p *program) directories() error {
	for dir := p.path(p.own("dir")); p.more(); {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.Remove(dir); err != nil {
			return err
		}
	}
	return nil
}

// links makes and removes hard and symbolic links, and counts the former.
func (p *program) links() error {
	file, hard, soft := p.path(p.own("file")), p.path(p.own("hard")), p.path(p.own("soft"))
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	for p.more() {
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
	}
	return nil
}

// xattrs makes an attribute that must not be there, and removes it.
func (p *program) xattrs() error {
	file := p.path(p.own("attributes"))
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	for p.more() {
		if err := unix.Setxattr(file, "user.once", []byte("x"), unix.XATTR_CREATE); err != nil {
			return fmt.Errorf("setxattr: %w", err)
		}
		if err := unix.Removexattr(file, "user.once"); err != nil {
			return fmt.Errorf("removexattr: %w", err)
		}
	}
	return nil
}

// removed works in files that have no name any more.
func (p *program) removed() error {
	for i := 0; p.more(); i++ {
		f, err := os.OpenFile(p.path(p.own("gone")), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
		if err := p.fill(f, i); err != nil && !p.loses(err, syscall.ESTALE) {
			return err
		}
		if err := f.Close(); err != nil && !p.loses(err, syscall.ESTALE) {
			return err
		}
	}
	return nil
}

// fill writes blocks into a file and reads them again.
func (p *program) fill(f *os.File, i int) error {
	for j := range 20 {
		want := bytes.Repeat([]byte{byte(i + j)}, 10000)
		if _, err := f.WriteAt(want, int64(j)*10000); err != nil {
			return err
		}
		got := make([]byte, 10000)
		if _, err := f.ReadAt(got, int64(j)*10000); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("block %d is not what was written", j)
		}
	}
	return nil
}

// count adds one to a number in a file, under a lock that others take too.
func (p *program) count() error {
	for {
		f, err := os.OpenFile(p.path("counter"), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		for err == nil && p.more() {
			err = p.countOnce(f)
		}
		f.Close()
		if !p.loses(err, syscall.EIO) { // else the file has to be opened anew
			return err
		}
	}
}

func (p *program) countOnce(f *os.File) error {
	if err := lockFile("ofd", f, true); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	b := make([]byte, 20)
	n, err := f.ReadAt(b, 0)
	if n == 0 {
		return fmt.Errorf("reading the counter: %w", err)
	}
	v, err := strconv.Atoi(string(b[:n]))
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(strconv.AppendInt(nil, int64(v+1), 10), 0); err != nil {
		p.done.Doubtful++
		return fmt.Errorf("writing the counter: %w", err)
	}
	p.done.Counted++
	if err := lockFile("ofd", f, false); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// database is the file that a program's rows are in. Who may lose locks shares none: what
// it does by names, such as removing the journal, it can do after another has the lock.
func database(dir string, who int, losing bool) string {
	if losing {
		return filepath.Join(dir, fmt.Sprint("database", who))
	}
	return filepath.Join(dir, "database")
}

// rowText is what belongs into a row.
func rowText(who, i int) string {
	sum := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%d %d", who, i)))
	return strings.Repeat(sum, 1+i*37%150)
}

// ioError is what sqlite3 says of EIO; the latter, if it has met that while reading.
var ioError = regexp.MustCompile(`disk I/O error|database disk image is malformed`)

// sqlite commits rows, several with each run of sqlite3.
func (p *program) sqlite() error {
	for i := 0; p.more(); {
		var script strings.Builder
		script.WriteString(".timeout 600000\n")
		first := i
		for ; i < first+5; i++ {
			fmt.Fprintf(&script, "begin immediate; insert into t values(%d, %d, '%s'); commit; select %d;\n", p.who, i, rowText(p.who, i), i)
		}
		cmd := exec.Command("sqlite3", "-batch", "-bail", database(p.dir, p.who, p.losing))
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script.String()), &out, &errs
		err := cmd.Run()
		for line := range strings.Lines(out.String()) {
			row, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				return fmt.Errorf("sqlite3 printed %q", line)
			}
			p.done.Rows = append(p.done.Rows, row)
		}
		if err != nil && p.losing && ioError.MatchString(errs.String()) {
			p.done.Lost["sqlite3"]++
		} else if err != nil {
			return fmt.Errorf("sqlite3: %w: %s", err, errs.String())
		}
	}
	return nil
}

// git makes commits, and packs them now and then.
func (p *program) git() error {
	dir := p.path(p.own("repository"))
	git := func(args ...string) (string, error) {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "gc.auto=0"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%q: %w: %s", args, err, out)
		}
		return strings.TrimSpace(string(out)), nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if _, err := git("init", "-q"); err != nil {
		return err
	}
	commits := 0
	for ; p.more() || commits == 0; commits++ {
		name := filepath.Join(dir, fmt.Sprint("file", commits%7))
		if err := os.WriteFile(name, []byte(rowText(p.who, commits)), 0o644); err != nil {
			return err
		}
		steps := [][]string{{"add", "-A"}, {"commit", "-q", "-m", strconv.Itoa(commits)}}
		if commits%20 == 19 {
			steps = append(steps, []string{"gc", "-q"})
		}
		for _, args := range steps {
			if _, err := git(args...); err != nil {
				return err
			}
		}
	}
	for _, x := range []struct{ args, want string }{
		{"fsck --strict --no-progress", ""},
		{"status --porcelain", ""},
		{"rev-list --count HEAD", strconv.Itoa(commits)},
	} {
		if got, err := git(strings.Fields(x.args)...); err != nil || got != x.want {
			return fmt.Errorf("git %s: %q, %v; want %q", x.args, got, err, x.want)
		}
	}
	return nil
}

// files does a worker's checked file work.
func (p *program) files() error {
	w := worker{dir: p.path(p.own("files")), rand: rand.New(rand.NewPCG(uint64(p.who), 1)), files: make(map[string][]byte)}
	steps, err := w.work(p.end)
	p.done.Steps = steps
	return err
}

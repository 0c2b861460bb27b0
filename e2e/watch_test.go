package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/watch"
)

// watchLine is what a test reads of a line that rpycfs watch --json prints.
type watchLine struct {
	Version        int
	Seq            uint64
	Kind, By, User string
	Path, From     *string
	Dir            bool
	Path64         string `json:"path_base64"`
	New, Old       *struct{ Size uint64 }
	Source, Unseen string
	Error          string
}

func (l *watchLine) String() string {
	text := l.Kind
	if l.From != nil {
		text += " " + *l.From
	}
	if l.Kind == "rename" {
		text += " ->"
	}
	if l.Path != nil {
		text += " " + *l.Path
	}
	if l.User != "" {
		return text + " by " + l.User
	}
	return text + " by " + l.By
}

// watching is a running rpycfs watch --json.
type watching struct {
	w      *world
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	errs   *bytes.Buffer
	seq    uint64
	unseen string // why programs on the server are not seen
}

// watch starts it and waits until it watches.
func (w *world) watch(args ...string) *watching {
	w.t.Helper()
	cmd := w.watchCommand(append([]string{"--json"}, args...)...)
	x := &watching{w: w, cmd: cmd, errs: new(bytes.Buffer)}
	cmd.Stderr = x.errs
	out, err := cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, cmd.Start())
	x.lines = bufio.NewScanner(out)
	start := x.next()
	if start.Kind != "start" || start.Version != 1 {
		w.t.Fatalf("the first line is %+v", start)
	}
	x.unseen = start.Unseen
	return x
}

func (w *world) watchCommand(args ...string) *exec.Cmd {
	w.t.Helper()
	return w.command("rpycfs", append([]string{"watch", "--port=" + strconv.Itoa(w.port), "--host-key=accept-new",
		"--identity=" + filepath.Join(w.dir, "key-"+testUser), "--timeout=20s"}, args...)...)
}

// next reads a line, whose number has to follow.
func (x *watching) next() *watchLine {
	x.w.t.Helper()
	if !x.lines.Scan() {
		x.w.t.Fatalf("no more lines: %v %s\n%s", x.lines.Err(), x.errs, x.w.daemonLog())
	}
	l := new(watchLine)
	must(x.w.t, json.Unmarshal(x.lines.Bytes(), l))
	if l.Seq != x.seq {
		x.w.t.Errorf("line %q has number %d, want %d", x.lines.Text(), l.Seq, x.seq)
	}
	x.seq++
	return l
}

// until reads lines up to one with this text.
func (x *watching) until(last string) (lines []*watchLine) {
	x.w.t.Helper()
	for {
		l := x.next()
		lines = append(lines, l)
		if l.String() == last {
			return lines
		}
	}
}

// expect reads these lines.
func (x *watching) expect(want ...string) {
	x.w.t.Helper()
	var got []string
	for _, l := range x.until(want[len(want)-1]) {
		got = append(got, l.String())
	}
	if !slices.Equal(got, want) {
		x.w.t.Errorf("lines %q, want %q", got, want)
	}
}

// end sends a signal, if it is not 0, and returns the exit code and standard error.
func (x *watching) end(sig syscall.Signal) (code int, stderr string) {
	x.w.t.Helper()
	if sig != 0 {
		must(x.w.t, x.cmd.Process.Signal(sig))
	}
	for x.lines.Scan() {
		if sig == 0 {
			x.w.t.Errorf("one more line: %s", x.lines.Text())
		}
	}
	var exit *exec.ExitError
	if err := x.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		x.w.t.Fatal(err)
	}
	return x.cmd.ProcessState.ExitCode(), x.errs.String()
}

// TestWatch: the program tells what a mount and what this process, on the server, do;
// it goes on with a daemon that was killed, and ends with the directory.
func TestWatch(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	must(t, os.MkdirAll(filepath.Join(w.export, "dir", "sub"), 0o755))
	w.serve()
	w.mount("/")
	x := w.watch("--recursive", testUser+"@127.0.0.1:/dir")
	mnt, disk := filepath.Join(w.mnt, "dir"), filepath.Join(w.export, "dir")

	must(t, os.WriteFile(filepath.Join(mnt, "a"), []byte("12345"), 0o644))
	lines := x.until("close-write a by foo")
	if first := lines[0].String(); first != "create a by foo" {
		t.Errorf("first %s", first)
	}
	if n := len(lines); n < 3 || lines[n-2].String() != "modify a by foo" || lines[n-1].New == nil || lines[n-1].New.Size != 5 {
		t.Errorf("the write: %v", lines)
	}
	must(t, os.Rename(filepath.Join(mnt, "a"), filepath.Join(mnt, "sub", "b")))
	x.expect("rename a -> sub/b by foo")
	must(t, os.Rename(filepath.Join(disk, "sub", "b"), filepath.Join(disk, "c")))
	must(t, os.Rename(filepath.Join(disk, "c"), filepath.Join(w.export, "outside")))
	must(t, os.Rename(filepath.Join(w.export, "outside"), filepath.Join(disk, "back")))
	must(t, os.Truncate(filepath.Join(disk, "back"), 2))
	must(t, os.Remove(filepath.Join(disk, "back")))
	if x.unseen == "" {
		x.expect("rename sub/b -> c by server", "rename c -> by server", "rename -> back by server", "modify back by server", "delete back by server")
	}
	must(t, os.Mkdir(filepath.Join(mnt, "\xff\x1b"), 0o755))
	for _, l := range x.until("create �\x1b by foo") {
		if l.Path64 != "/xs=" {
			t.Errorf("bytes %s", l.Path64)
		}
	}

	other := w.watch(testUser + "@127.0.0.1:/")
	must(t, os.Mkdir(filepath.Join(w.mnt, "top"), 0o755))
	must(t, os.Mkdir(filepath.Join(mnt, "below"), 0o755))
	other.until("create top by foo")
	x.expect("create below by foo")
	if code, stderr := other.end(syscall.SIGINT); code != 0 || stderr != "" {
		t.Errorf("interrupted: %d, %s", code, stderr)
	}

	w.umount()
	daemon := w.daemon
	w.daemon = nil
	must(t, daemon.Process.Kill())
	_ = daemon.Wait()
	w.serveWith([]string{"--users=" + w.users})
	x.expect("overflow by ")
	w.mount("/")
	must(t, os.Mkdir(filepath.Join(mnt, "anew"), 0o755))
	x.expect("create anew by foo")

	must(t, os.Rename(mnt, filepath.Join(w.mnt, "moved")))
	x.expect("rename  -> by foo", "end by ")
	if code, stderr := x.end(0); code != 1 || !strings.Contains(stderr, "removed or moved away") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("ended: %d, %s", code, stderr)
	}
	w.umount()
}

// TestWatchTerminal: what a person reads, and what is refused.
func TestWatchTerminal(t *testing.T) {
	w := newWorld(t)
	w.serve()
	cmd := w.watchCommand(testUser + "@127.0.0.1:/none")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "watch 127.0.0.1:/none: there is no such directory") {
		t.Errorf("a directory that is not there: %v, %s", err, out)
	}
	cmd = w.watchCommand(testUser + "@127.0.0.1:/")
	stderr, err := cmd.StderrPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "rpycfs: watching 127.0.0.1:/") {
			break
		}
	}
	must(t, os.Mkdir(filepath.Join(w.export, "d\x1b[31m"), 0o755))
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() || !strings.HasSuffix(lines.Text(), "/ (on the server)") || !strings.Contains(lines.Text(), " create ") || strings.Contains(lines.Text(), "\x1b") {
		t.Errorf("line %q", lines.Text())
	}
	must(t, cmd.Process.Signal(syscall.SIGINT))
	must(t, cmd.Wait())
}

// TestWatchCut: a connection that is lost and comes back loses nothing.
func TestWatchCut(t *testing.T) {
	w := newWorld(t)
	w.serve()
	key, err := auth.LoadOrCreateKey(filepath.Join(w.dir, "state"))
	must(t, err)
	text, err := os.ReadFile(filepath.Join(w.dir, "key-"+testUser))
	must(t, err)
	signer, err := ssh.ParsePrivateKey(text)
	must(t, err)
	p := newProxy(t, w.port, false)
	address := "127.0.0.1:" + strconv.Itoa(p.port)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := watch.Dial(ctx, watch.Config{Address: address, Auth: &auth.Client{
		Host: address, User: testUser, Fingerprint: key.Fingerprint(),
		Signers: func() ([]ssh.Signer, error) { return []ssh.Signer{signer}, nil },
	}})
	must(t, err)
	seq := uint64(1)
	for i := range 30 {
		must(t, os.Mkdir(filepath.Join(w.export, fmt.Sprint("d", i)), 0o755))
		if i%10 == 5 && !eventually(patience, func() bool { return p.cut() > 0 }) {
			t.Fatal("there was nothing to cut")
		}
	}
	for i := range 30 {
		ev, err := c.Next(ctx)
		must(t, err)
		if ev.Seq != seq || ev.Kind != fsproto.WatchCreate || ev.Path != fmt.Sprint("d", i) {
			t.Errorf("event %d is %+v", i, ev)
		}
		seq++
	}
	must(t, c.Close())
	if _, err := c.Next(ctx); !errors.Is(err, watch.ErrEnded) {
		t.Errorf("after Close: %v", err)
	}
}

package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/auth"
)

// patience bounds every wait for something that should happen soon.
const patience = 20 * time.Second

const (
	testUser     = "foo"
	testPassword = "correct horse battery staple"
)

// world is a daemon with a directory, and mounts of it, in a directory of its
// own. Everything in it is gone when the test ends.
type world struct {
	t      testing.TB
	ctx    context.Context // ends the programs of a test that runs for far too long
	dir    string          // everything below it
	export string          // what the daemon serves
	users  string          // the users file
	login  string          // options of -o that log the test user in
	mnt    string          // a mount point
	port   int
	daemon *exec.Cmd
	args   []string // the daemon's
	log    *os.File // the daemon's output

	// inside is a command that the daemon is started by; it may be empty.
	inside []string
	// socket is one that listens already, which the daemon is to serve; nil: it listens itself.
	socket *os.File
	// environ is what the programs find in their environment beyond the world's own.
	environ []string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldFor(t, 8*time.Minute)
}

// newWorldFor returns a world whose programs are ended after a limit.
func newWorldFor(t testing.TB, limit time.Duration) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, dir: t.TempDir(), port: freePort(t)}
	w.export, w.mnt = filepath.Join(w.dir, "export"), filepath.Join(w.dir, "mnt")
	for _, dir := range []string{w.export, w.mnt, filepath.Join(w.dir, "home"), filepath.Join(w.dir, "tmp")} {
		must(t, os.Mkdir(dir, 0o755))
	}
	w.users = filepath.Join(w.dir, "users")
	w.login = "user=" + testUser + ",hostkey=accept-new,identity=" + filepath.Join(w.dir, "key-"+testUser)
	t.Cleanup(func() { w.end() })
	return w
}

// private writes a file that only its owner can read.
func (w *world) private(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	must(w.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// env is the environment of the programs: nothing of the developer's own set-up.
func (w *world) env() []string { return append(programEnv(w.dir), w.environ...) }

func programEnv(dir string) []string {
	return []string{
		"PATH=" + bin + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
		"HOME=" + filepath.Join(dir, "home"),
		"TMPDIR=" + filepath.Join(dir, "tmp"),
		"STATE_DIRECTORY=" + filepath.Join(dir, "state"), // root's would be in /var/lib
		"LC_ALL=C.UTF-8",
		"GORACE=log_path=" + filepath.Join(dir, "race") + " atexit_sleep_ms=50", // not 1 s for each program
	}
}

// command is a program of the world.
func (w *world) command(name string, args ...string) *exec.Cmd {
	w.t.Helper()
	if path := filepath.Join(bin, name); !strings.Contains(name, "/") && exists(path) {
		name = path
	}
	cmd := exec.CommandContext(w.ctx, name, args...)
	cmd.Env = w.env()
	cmd.Dir = w.dir
	cmd.WaitDelay = time.Second
	return cmd
}

// run runs a command that has to succeed and returns what it printed.
func (w *world) run(cmd *exec.Cmd) string {
	w.t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		w.t.Fatalf("%s: %v\n%s\nthe daemon's log:\n%s", strings.Join(cmd.Args, " "), err, out.String(), w.daemonLog())
	}
	return out.String()
}

// enrol makes a user with a key, in the users file. A password would take seconds
// to log in with, where the race detector watches its 600 000 rounds.
func (w *world) enrol(name string) {
	w.t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	must(w.t, err)
	block, err := ssh.MarshalPrivateKey(private, name)
	must(w.t, err)
	w.private("key-"+name, string(pem.EncodeToMemory(block)))
	sshKey, err := ssh.NewPublicKey(public)
	must(w.t, err)
	key, err := auth.ParseAuthorizedKey(string(ssh.MarshalAuthorizedKey(sshKey)))
	must(w.t, err)
	must(w.t, auth.EditUsers(w.users, func(u *auth.Users) error {
		return u.Add(auth.User{Name: name, Keys: []auth.AuthorizedKey{key}})
	}))
}

// serve starts the daemon on the world's export for the one test user.
func (w *world) serve(args ...string) {
	w.t.Helper()
	w.enrol(testUser)
	w.serveWith(append([]string{"--users=" + w.users}, args...))
}

func (w *world) serveWith(args []string) {
	w.t.Helper()
	w.args = args
	w.start()
	if !eventually(patience, func() bool { return listening(w.port) }) {
		w.t.Fatalf("the daemon does not listen:\n%s", w.daemonLog())
	}
}

// start starts the daemon.
func (w *world) start() {
	w.t.Helper()
	if w.log != nil {
		w.log.Close()
	}
	log, err := os.OpenFile(filepath.Join(w.dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	must(w.t, err)
	w.log = log
	line := slices.Concat(w.inside, []string{"rpycfsd", w.export, "--state=" + filepath.Join(w.dir, "state")}, w.args)
	if w.socket == nil {
		line = append(line, "--port="+strconv.Itoa(w.port))
	} else { // the process that listens on behalf of another has to know its own number
		line = append([]string{"sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"`, "sh"}, line...)
	}
	w.daemon = w.command(line[0], line[1:]...)
	if w.socket != nil {
		w.daemon.ExtraFiles = []*os.File{w.socket}
	}
	w.daemon.Stdout, w.daemon.Stderr = log, log
	must(w.t, w.daemon.Start())
}

// kill kills the daemon and starts it again.
func (w *world) kill() {
	w.t.Helper()
	w.crash()
	w.start()
}

// crash kills the daemon.
func (w *world) crash() {
	w.t.Helper()
	must(w.t, w.daemon.Process.Kill())
	_ = w.daemon.Wait()
}

// restart ends the daemon as an init system does and starts it again.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// stop ends the daemon as an init system does and checks that it ends well.
func (w *world) stop() {
	w.t.Helper()
	if w.daemon == nil {
		return
	}
	daemon := w.daemon
	w.daemon = nil
	_ = daemon.Process.Signal(syscall.SIGTERM)
	if err := daemon.Wait(); err != nil {
		w.t.Errorf("rpycfsd: %v\n%s", err, w.daemonLog())
	}
}

func (w *world) daemonLog() string {
	text, _ := os.ReadFile(filepath.Join(w.dir, "daemon.log"))
	return string(text)
}

// mount mounts path of the export; options are those of -o.
func (w *world) mount(path string, options ...string) {
	w.t.Helper()
	w.mountAt(w.port, path, w.mnt, options...)
}

func (w *world) mountAt(port int, path, dir string, options ...string) {
	w.t.Helper()
	args := []string{"127.0.0.1:" + path, dir, "-o", fmt.Sprintf("port=%d,timeo=20,%s", port, w.login),
		"-o", "log=" + filepath.Join(w.dir, "mount.log")}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	w.run(w.command("mount.rpycfs", args...))
}

func (w *world) umount() {
	w.t.Helper()
	w.run(w.command("umount.rpycfs", w.mnt))
	if left := mountsBelow(w.dir); len(left) > 0 {
		w.t.Errorf("after umount.rpycfs there are still mounts: %q", left)
	}
	if left := w.mountProcesses(); len(left) > 0 {
		w.t.Errorf("after umount.rpycfs there is still process %v", left)
	}
}

// mountProcesses returns the processes behind the world's mounts.
func (w *world) mountProcesses() []int { return processesWith("mount.rpycfs", w.dir) }

// end unmounts and ends whatever is left, and reports what went wrong unseen.
func (w *world) end() {
	sweep(w.t, w.dir)
	w.stop()
	if w.log != nil {
		w.log.Close()
	}
	reportRaces(w.t, w.dir)
	if w.t.Failed() {
		text, _ := os.ReadFile(filepath.Join(w.dir, "mount.log"))
		w.t.Logf("the daemon's log:\n%s\nthe mount's log:\n%s", tail(w.daemonLog()), tail(string(text)))
		for _, name := range []string{"daemon.log", "mount.log"} { // whole, for -artifacts
			_ = exec.Command("cp", filepath.Join(w.dir, name), w.t.ArtifactDir()).Run()
		}
	}
}

// sweep removes mounts below dir and ends the processes behind them. A mount
// that does not end by itself is an error.
func sweep(t testing.TB, dir string) {
	mounts := mountsBelow(dir)
	for _, m := range mounts {
		_ = exec.Command("fusermount3", "-u", "-z", m).Run()
	}
	if eventually(patience, func() bool { return len(processesWith("mount.rpycfs", dir)) == 0 }) {
		return
	}
	for _, pid := range processesWith("mount.rpycfs", dir) {
		t.Errorf("process %d behind a mount does not end; killing it", pid)
		_ = syscall.Kill(pid, syscall.SIGQUIT) // its log tells what it does
	}
	for _, m := range mountsBelow(dir) {
		_ = exec.Command("fusermount3", "-u", "-z", m).Run()
	}
}

// reportRaces fails the test for every race that a program has seen.
func reportRaces(t testing.TB, dir string) {
	reports, _ := filepath.Glob(filepath.Join(dir, "race.*"))
	for _, path := range reports {
		text, _ := os.ReadFile(path)
		t.Errorf("a program has a data race:\n%s", text)
	}
}

// mountsBelow returns the mount points below dir, innermost first.
func mountsBelow(dir string) []string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	var found []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if point := unescape(fields[4]); strings.HasPrefix(point, dir+"/") {
			found = append([]string{point}, found...)
		}
	}
	return found
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// processesWith returns the processes of a program that have text among their
// arguments.
func processesWith(program, text string) []int {
	var found []int
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range dirs {
		line, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		first, rest, _ := strings.Cut(string(line), "\x00")
		if filepath.Base(first) == program && strings.Contains(rest, text) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			found = append(found, pid)
		}
	}
	return found
}

func listening(port int) bool {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// freePort returns a port that nothing listens on.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", ":0") // as the daemon does: free of ended connections on all addresses
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// eventually asks until the answer is yes or the time is over.
func eventually(limit time.Duration, yes func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if yes() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tail is the end of a long text.
func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

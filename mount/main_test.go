package mount_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/internal/mounts"
)

// bin is the directory of the programs: RPYCFS_BIN, or built once.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if len(os.Args) > 1 && os.Args[1] == workerArg {
		return work(os.Args[2:])
	}
	if bin = os.Getenv("RPYCFS_BIN"); bin == "" {
		dir, err := os.MkdirTemp("", "rpycfs-bin")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = dir
		if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", "../cmd/...").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		os.Setenv("RPYCFS_BIN", dir) // for tests that run this program again
	}
	return m.Run()
}

// needFUSE says whether tests that mount run; without /dev/fuse they fail
// unless RPYCFS_SKIP_FUSE is set.
func needFUSE(t *testing.T) bool {
	if os.Getenv("RPYCFS_SKIP_FUSE") == "1" {
		t.Log("RPYCFS_SKIP_FUSE is set: nothing was mounted")
		return false
	}
	return true
}

const password = "s3cret, with a comma"

// world is a daemon and a place to mount its export at.
type world struct {
	*testing.T
	tmp, export, point, home string
	address                  string // host:port of the daemon
	daemon                   *exec.Cmd
	inside                   []string // a command that the daemon is started by; may be empty
}

func newWorld(t *testing.T, daemonArgs ...string) *world {
	t.Helper()
	w := emptyWorld(t)
	w.startDaemon(daemonArgs...)
	return w
}

// emptyWorld is a world without a daemon.
func emptyWorld(t *testing.T) *world {
	t.Helper()
	tmp, err := os.MkdirTemp("", "mnt")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, tmp: tmp, export: tmp + "/export", point: tmp + "/point", home: tmp + "/home"}
	t.Cleanup(w.removeAll)
	for _, dir := range []string{w.export, w.point, w.home} {
		w.ok(os.Mkdir(dir, 0o755))
	}
	w.ok(os.WriteFile(w.tmp+"/password", []byte(password+"\n"), 0o600))
	w.ok(os.WriteFile(w.tmp+"/cred", []byte("# test\nusername=foo\npassword="+password+"\n"), 0o600))
	return w
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// removeAll removes nothing through a mount that would not go away.
func (w *world) removeAll() {
	if m, err := mounts.At(w.point); err == nil && m.Type == mounts.FSType {
		w.Errorf("%s is still mounted", w.point)
		mounts.Unmount(w.point, mounts.UnmountOptions{Lazy: true, Fusermount: os.Geteuid() != 0})
		return
	}
	if err := os.RemoveAll(w.tmp); err != nil {
		w.Error(err)
	}
}

var serving = regexp.MustCompile(`address=(\S+)`)

// startDaemon waits for the line that says where the daemon listens.
func (w *world) startDaemon(args ...string) {
	w.Helper()
	args = append([]string{filepath.Join(bin, "rpycfsd"), w.export, "--listen=127.0.0.1:0", "--user=foo", "--password-file=" + w.tmp + "/password", "--state=" + w.tmp + "/state"}, args...)
	args = slices.Concat(w.inside, args)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+w.home)
	stderr, err := cmd.StderrPipe()
	w.ok(err)
	w.ok(cmd.Start())
	w.daemon = cmd
	lines := make(chan string, 1000)
	go func() {
		for s := bufio.NewScanner(stderr); s.Scan(); {
			select {
			case lines <- s.Text():
			default:
			}
		}
		close(lines)
	}()
	w.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	deadline := time.After(20 * time.Second)
	for {
		select {
		case line, open := <-lines:
			if !open {
				w.Fatal("the daemon has ended")
			}
			if m := serving.FindStringSubmatch(line); m != nil && strings.Contains(line, "serving") {
				w.address = m[1]
				return
			}
		case <-deadline:
			w.Fatal("the daemon does not come up")
		}
	}
}

func (w *world) port() string { return w.address[strings.LastIndexByte(w.address, ':')+1:] }

// result is what a command had to say.
type result struct {
	code           int
	stdout, stderr string
	took           time.Duration
}

// run runs one of our programs without a terminal.
func (w *world) run(env []string, program string, args ...string) result {
	w.Helper()
	cmd := exec.Command(filepath.Join(bin, program), args...)
	cmd.Env = append(append(os.Environ(), "HOME="+w.home, "XDG_CONFIG_HOME=", "SSH_AUTH_SOCK=", "XDG_RUNTIME_DIR="+w.home), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		w.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String(), time.Since(began)}
}

// mount mounts host:path with options and unmounts at the end of the test.
func (w *world) mount(path string, options ...string) {
	w.Helper()
	args := []string{"127.0.0.1:" + path, w.point, "-o", "port=" + w.port(), "-o", "log=" + w.tmp + "/mount.log"}
	for _, o := range append([]string{"credentials=" + w.tmp + "/cred"}, options...) {
		args = append(args, "-o", o)
	}
	if r := w.run(nil, "mount.rpycfs", args...); r.code != 0 || r.stderr != "" {
		w.Fatalf("mount.rpycfs: code %d, %s", r.code, r.stderr)
	}
	w.Cleanup(w.unmount)
}

// unmount is umount.rpycfs, unless nothing is mounted any more.
func (w *world) unmount() {
	w.Helper()
	if _, err := mounts.At(w.point); err != nil {
		return
	}
	if r := w.run(nil, "umount.rpycfs", w.point); r.code != 0 {
		w.Errorf("umount.rpycfs: code %d, %s", r.code, r.stderr)
	}
	if w.Failed() {
		if log, err := os.ReadFile(w.tmp + "/mount.log"); err == nil {
			w.Logf("log of the mount: %.4000s", log)
		}
	}
}

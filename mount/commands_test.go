package mount_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/mounts"
)

// soon is how long a message may take. Under the race detector hashing a
// password alone takes longer, so that the bound has room.
const soon = 2 * time.Second

// TestMessages wants one clear line, soon, for everything that can be wrong.
func TestMessages(t *testing.T) {
	w := newWorld(t)
	w.ok(os.WriteFile(w.tmp+"/file", nil, 0o644))
	w.ok(os.WriteFile(w.export+"/file", nil, 0o644))
	w.ok(os.WriteFile(w.tmp+"/open", []byte("password=x\n"), 0o644))
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and never answers
	w.ok(err)
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	w.ok(err)
	closed.Close()
	port := func(l net.Listener) string { _, p, _ := net.SplitHostPort(l.Addr().String()); return "port=" + p }
	here, cred := "port="+w.port(), "credentials="+w.tmp+"/cred"

	for name, c := range map[string]struct {
		source, point string
		options       []string
		env           string
		code          int
		want          string
	}{
		"wrong password":      {"foo@127.0.0.1:/", w.point, []string{here}, "RPYCFS_PASSWORD=no", 32, "wrong user, password or key"},
		"unknown user":        {"who@127.0.0.1:/", w.point, []string{here}, "RPYCFS_PASSWORD=no", 32, "wrong user, password or key"},
		"no password":         {"foo@127.0.0.1:/", w.point, []string{here, "hostkey=accept-new"}, "", 32, "no usable key and no password"},
		"refused":             {"127.0.0.1:/", w.point, []string{port(closed), cred}, "", 32, "connection refused"},
		"no answer":           {"127.0.0.1:/", w.point, []string{port(silent), cred}, "", 32, "no answer"},
		"other key":           {"127.0.0.1:/", w.point, []string{here, cred, "fingerprint=SHA256:" + strings.Repeat("A", 43)}, "", 32, "key has changed"},
		"leaves the export":   {"127.0.0.1:/../x", w.point, []string{port(silent), cred}, "", 1, `".." is not allowed`},
		"missing path":        {"127.0.0.1:/none", w.point, []string{here, cred}, "", 32, "no such directory"},
		"path is a file":      {"127.0.0.1:/file", w.point, []string{here, cred}, "", 32, "not a directory on the server"},
		"point is a file":     {"127.0.0.1:/", w.tmp + "/file", []string{here, cred}, "", 32, "is not a directory"},
		"point is missing":    {"127.0.0.1:/", w.tmp + "/none", []string{here, cred}, "", 32, "does not exist"},
		"open credentials":    {"127.0.0.1:/", w.point, []string{here, "credentials=" + w.tmp + "/open"}, "", 1, "can be read by others"},
		"unknown option":      {"127.0.0.1:/", w.point, []string{here, cred, "bogus"}, "", 1, "unknown mount option"},
		"missing identity":    {"foo@127.0.0.1:/", w.point, []string{here, "identity=" + w.tmp + "/nokey", "hostkey=accept-new"}, "", 1, "no such file"},
		"two different users": {"a@127.0.0.1:/", w.point, []string{here, "user=b"}, "", 1, "two users"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{c.source, c.point}
			for _, o := range c.options {
				args = append(args, "-o", o)
			}
			var env []string
			if c.env != "" {
				env = append(env, c.env)
			}
			r := w.run(env, "mount.rpycfs", args...)
			if r.code != c.code || !strings.Contains(r.stderr, c.want) {
				t.Errorf("code %d: %q; want %d and %q", r.code, r.stderr, c.code, c.want)
			}
			if strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "mount.rpycfs: ") {
				t.Errorf("not one line: %q", r.stderr)
			}
			if r.took > soon && !raceEnabled {
				t.Errorf("it took %v", r.took)
			}
		})
	}
}

// TestPasswordOnCommandLine wants the line of the manual to work, with a
// warning, and the password nowhere where others can read it afterwards.
func TestPasswordOnCommandLine(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.ok(os.Mkdir(w.export+"/relativepath", 0o755))
	own := fmt.Sprintf("bar-%d-%d", os.Getpid(), time.Now().UnixNano()) // not some other test's
	w.ok(os.WriteFile(w.tmp+"/password2", []byte(own+"\n"), 0o600))
	w.startDaemon("--password-file=" + w.tmp + "/password2")
	r := w.run(nil, "mount.rpycfs", "127.0.0.1:/relativepath", w.point, "-o", "port="+w.port(), "-o", "user=foo", "-o", "password="+own)
	if r.code != 0 || !strings.Contains(r.stderr, "warning") {
		t.Fatalf("code %d: %q", r.code, r.stderr)
	}
	defer w.unmount()
	m, err := mounts.At(w.point)
	if err != nil || m.Type != mounts.FSType || m.Source != "127.0.0.1:/relativepath" {
		t.Errorf("%+v, %v", m, err)
	}
	out, err := exec.Command("ps", "axeww").Output()
	w.ok(err)
	if strings.Contains(string(out), "password="+own) {
		t.Error("ps shows the password while the mount stands")
	}
}

// TestUnmount ends a mount in every way there is; the process must be gone.
func TestUnmount(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	for name, end := range map[string]func(w *world, p *mounts.Process) error{
		"umount.rpycfs": func(w *world, _ *mounts.Process) error { w.unmount(); return nil },
		"plain": func(w *world, _ *mounts.Process) error {
			return mounts.Unmount(w.point, mounts.UnmountOptions{Fusermount: os.Geteuid() != 0})
		},
		"SIGTERM": func(_ *world, p *mounts.Process) error { return p.Signal(syscall.SIGTERM) },
		"SIGINT busy": func(w *world, p *mounts.Process) error {
			f, err := os.Create(w.point + "/open")
			if err != nil {
				return err
			}
			w.Cleanup(func() { f.Close() })
			return p.Signal(syscall.SIGINT)
		},
		"daemon gone": func(w *world, _ *mounts.Process) error {
			if err := w.daemon.Process.Kill(); err != nil {
				return err
			}
			w.daemon.Wait()
			w.unmount()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mount("/")
			m, err := mounts.At(w.point)
			w.ok(err)
			t.Setenv("XDG_RUNTIME_DIR", w.home)
			p, err := mounts.Server(m.Dev)
			w.ok(err)
			defer p.Close()
			w.ok(end(w, p))
			if err := p.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			if m, err := mounts.At(w.point); err == nil {
				t.Errorf("still mounted: %+v", m)
			}
			if _, err := mounts.Server(m.Dev); err == nil {
				t.Error("the record is still there")
			}
		})
	}
}

// TestUnmountedAtOnce: a mount that is not used is not busy, from the beginning.
func TestUnmountedAtOnce(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	for range 15 {
		w.mount("/")
		if w.unmount(); t.Failed() {
			return
		}
	}
}

// TestReadOnly mounts with -r: the kernel refuses changes by itself.
func TestReadOnly(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.ok(os.WriteFile(w.export+"/f", []byte("x"), 0o644))
	w.mount("/", "ro")
	if _, err := os.ReadFile(w.point + "/f"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(w.point+"/g", nil, 0o644); !strings.Contains(err.Error(), syscall.EROFS.Error()) {
		t.Errorf("create: %v", err)
	}
}

// TestShownIDs looks at what uid=, gid= and umask= show.
func TestShownIDs(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.ok(os.WriteFile(w.export+"/f", []byte("x"), 0o644))
	w.mount("/", "uid=1234,gid=4321,umask=077")
	var st syscall.Stat_t
	w.ok(syscall.Lstat(w.point+"/f", &st))
	if st.Uid != 1234 || st.Gid != 4321 || st.Mode != syscall.S_IFREG|0o700 {
		t.Errorf("owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
}

// TestAlreadyMounted refuses to cover a mount of ours.
func TestAlreadyMounted(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/")
	r := w.run(nil, "mount.rpycfs", "127.0.0.1:/", w.point, "-o", "port="+w.port()+",credentials="+w.tmp+"/cred")
	if r.code != 32 || !strings.Contains(r.stderr, "busy") {
		t.Errorf("code %d: %q", r.code, r.stderr)
	}
}

// TestStale kills the process behind a mount: the next one takes its place. A mount of
// another program's that is as dead is left alone, and named.
func TestStale(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/")
	m, err := mounts.At(w.point)
	w.ok(err)
	t.Setenv("XDG_RUNTIME_DIR", w.home) // where an ordinary user's process is noted
	held, err := os.Open(w.point)
	w.ok(err)
	defer held.Close()
	p, err := mounts.Server(m.Dev)
	w.ok(err)
	w.ok(p.Signal(syscall.SIGKILL))
	w.ok(p.Wait(t.Context()))
	p.Close()

	args := []string{"127.0.0.1:/", w.point, "-o", "port=" + w.port(), "-o", "credentials=" + w.tmp + "/cred"}
	if r := w.run(nil, "mount.rpycfs", args...); r.code != 0 || r.stderr != "" {
		t.Fatalf("over a stale mount: code %d, %s", r.code, r.stderr)
	}
	list, err := mounts.List()
	w.ok(err)
	n := 0
	for _, m := range list {
		if m.Point == w.point {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d mounts at the mount point", n)
	}
	if err := os.WriteFile(w.point+"/file", nil, 0o644); err != nil {
		t.Error(err)
	}
	if r := w.run(nil, "mount.rpycfs", args...); r.code != 32 || !strings.Contains(r.stderr, "busy: 127.0.0.1:/ is mounted there") {
		t.Errorf("over a mount that lives: code %d, %s", r.code, r.stderr)
	}
	w.unmount()

	if os.Geteuid() != 0 {
		return
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	w.ok(err)
	w.ok(unix.Mount("other", w.point, "fuse.other", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	defer mounts.Unmount(w.point, mounts.UnmountOptions{Lazy: true})
	w.ok(unix.Close(fd))
	if r := w.run(nil, "mount.rpycfs", args...); r.code != 32 || !strings.Contains(r.stderr, "other, a mount of type fuse.other on "+w.point+", whose process is gone") {
		t.Errorf("over another program's stale mount: code %d, %s", r.code, r.stderr)
	}
}

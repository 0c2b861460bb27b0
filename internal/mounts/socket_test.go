package mounts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// own is a mount of this user, with a device number that no mount has.
func own(dev string) Mount { return Mount{Dev: dev, Point: "/none", Owner: uint32(os.Geteuid())} }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// listen makes a socket that says one word to everybody who may ask.
func listen(t *testing.T, dev, word string) *Listener {
	t.Helper()
	l, err := Listen(dev)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, word)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l
}

// said returns what the process behind a mount says.
func said(t *testing.T, m Mount) string {
	t.Helper()
	c, err := Dial(testContext(t), m)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSocket is the life of a socket: one that was left behind is replaced, and
// its process takes away its own only.
func TestSocket(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("long", 30)) // no address has room for it
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", long)
	m := own("999:1")
	if _, err := Dial(testContext(t), m); !errors.Is(err, ErrNoProcess) {
		t.Errorf("without a socket: %v", err)
	}
	first := listen(t, m.Dev, "first")
	if info, err := os.Stat(first.path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if word := said(t, m); word != "first" {
		t.Errorf("%q", word)
	}
	second := listen(t, m.Dev, "second")
	first.Close()
	if word := said(t, m); word != "second" {
		t.Errorf("%q", word)
	}
	second.l.Close() // as if the process had been killed
	if _, err := Dial(testContext(t), m); !errors.Is(err, ErrNoProcess) {
		t.Errorf("a socket that was left behind: %v", err)
	}
	third := listen(t, m.Dev, "third")
	if word := said(t, m); word != "third" {
		t.Errorf("%q", word)
	}
	third.Close()
	if left, err := filepath.Glob(filepath.Dir(third.path) + "/" + m.Dev + "*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := third.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
}

// TestDialRefuses what does not belong to the owner of the mount.
func TestDialRefuses(t *testing.T) {
	me := uint32(os.Geteuid())
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m := own("999:3")
	m.Owner = me + 1 // the directory is fit for it, if it is root's
	l, err := net.Listen("unix", filepath.Join(dir, "999:3.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := dialIn(testContext(t), dir, m); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a socket of another user: %v", err)
	}
	m.Owner = me
	c, err := dialIn(testContext(t), dir, m)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if _, err := dialIn(testContext(t), dir+"/link", m); !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, syscall.ELOOP) {
		t.Errorf("by a symbolic link: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := dialIn(testContext(t), dir, m); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a directory that others can write: %v", err)
	}
}

// TestStrangers: whoever is neither the mount's owner nor root is refused on both
// sides, whatever the modes of files allow.
func TestStrangers(t *testing.T) {
	me := uint32(os.Geteuid())
	if me != 0 {
		if _, err := Dial(testContext(t), Mount{Dev: "999:4", Owner: me + 1}); !errors.Is(err, os.ErrPermission) {
			t.Errorf("a mount of another user: %v", err)
		}
		return // nobody else can be played
	}
	const nobody = 65534
	l := listen(t, "999:4", "word")
	if err := os.Chmod(l.path, 0o666); err != nil {
		t.Fatal(err)
	}
	var word []byte
	if err := asUser(nobody, func() error {
		_, err := Dial(testContext(t), own("999:4"))
		return err
	}); !errors.Is(err, ErrNoProcess) {
		t.Errorf("a mount of nobody's: %v", err)
	}
	if err := asUser(nobody, func() error {
		_, err := Dial(testContext(t), Mount{Dev: "999:4"})
		return err
	}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a mount of root's: %v", err)
	}
	if err := asUser(nobody, func() error {
		c, err := net.Dial("unix", l.path)
		if err == nil {
			word, _ = io.ReadAll(c)
			c.Close()
		}
		return err
	}); err != nil || len(word) > 0 {
		t.Errorf("past the check: %q, %v", word, err)
	}
	if word := said(t, own("999:4")); word != "word" {
		t.Errorf("%q", word)
	}
}

// TestRootAsks: root finds and asks the sockets of others.
func TestRootAsks(t *testing.T) {
	if os.Geteuid() != 0 {
		return // TestStrangers has shown what others may
	}
	const uid = 4294000000 // nobody has it, and no directory for it is there
	dir := fmt.Sprintf("/tmp/rpycfs-%d", uid)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := asUser(uid, func() error {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/999:5.sock", Net: "unix"})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(testContext(t), Mount{Dev: "999:5", Owner: uid})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Dial(testContext(t), Mount{Dev: "999:5", Owner: uid + 1}); !errors.Is(err, ErrNoProcess) {
		t.Errorf("another user's: %v", err)
	}
}

// asUser runs f on a thread with another effective user, which ends with it.
func asUser(uid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
			done <- e
			return
		}
		done <- f()
	}()
	return <-done
}

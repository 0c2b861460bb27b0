package fsevents

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

// TestOverlay: the methods that an overlay has tell of changes through it, also when
// they copy a directory and a file up.
func TestOverlay(t *testing.T) {
	for options, want := range map[string]Method{"": FanotifyDirs, ",index=on,nfs_export=on": Fanotify} {
		t.Run(want.String(), func(t *testing.T) {
			top := t.TempDir()
			err := unix.Mount("tmpfs", top, "tmpfs", 0, "") // not every file system can be a layer
			if os.Geteuid() != 0 {
				if err != unix.EPERM {
					t.Errorf("mount as an ordinary user: %v", err)
				}
				return
			}
			must(t, err)
			t.Cleanup(func() { must(t, unix.Unmount(top, 0)) })
			for _, dir := range []string{"lower", "lower/sub", "upper", "work", "merged"} {
				must(t, os.Mkdir(top+"/"+dir, 0o777))
			}
			must(t, os.WriteFile(top+"/lower/sub/f", []byte("x"), 0o666))
			must(t, unix.Mount("overlay", top+"/merged", "overlay", 0,
				"lowerdir="+top+"/lower,upperdir="+top+"/upper,workdir="+top+"/work"+options))
			t.Cleanup(func() { must(t, unix.Unmount(top+"/merged", 0)) })
			f := fixtureIn(t, top+"/merged", None)
			if m, why := f.w.Method(); m != want && m != Inotify { // kernels before 6.6
				t.Errorf("method %v: %s", m, why)
			}
			f.watch("sub")
			for _, step := range []struct{ order, event string }{
				{"o_trunc sub/f", "modify|close-write sub/f"},
				{"create sub/g", "create|modify|close-write sub/g"},
				{"rename sub/f f", "rename sub/f -> f"},
				{"create f", "modify|close-write f"},
				{"chmod sub", "attrib sub/"},
				{"unlink f", "delete f"},
			} {
				if got := f.changes(step.order); !slices.Equal(got, []string{step.event}) {
					t.Errorf("%s: %q, want %q", step.order, got, step.event)
				}
			}
		})
	}
}

// limits are the kernel's, which every user name space can lower for itself.
var limits = map[Method]string{FanotifyDirs: "max_fanotify_marks", Inotify: "max_inotify_watches"}

// TestLimit: what is more than the kernel's limit is refused, and there is room
// again when something is no longer watched. Who is root in a user name space only
// cannot mark a file system.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		must(t, os.Mkdir(dir+"/"+name, 0o777))
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "FSEVENTS_LIMIT="+dir, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Logf("user name spaces are not allowed here (%v); the limits stay untested", err)
		return
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// limited is TestLimit's child.
func limited(dir string) error {
	root, err := beneath.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = Open(Config{Root: root, Want: Fanotify, Handle: func([]Event) {}})
	if err == nil || !strings.Contains(err.Error(), unix.EPERM.Error()) {
		return fmt.Errorf("%v: %w", Fanotify, err)
	}
	for m, limit := range limits {
		if err := os.WriteFile("/proc/sys/user/"+limit, []byte("2"), 0); err != nil {
			return err
		}
		if err := fillUp(root, m); err != nil {
			return fmt.Errorf("%v: %w", m, err)
		}
	}
	return nil
}

func fillUp(root *beneath.Path, m Method) error {
	w, err := Open(Config{Root: root, Want: m, Handle: func([]Event) {}})
	if err != nil {
		return err
	}
	defer w.Close()
	watch := func(name string, want error) (Object, error) {
		p, err := root.Walk(name)
		if err != nil {
			return "", err
		}
		defer p.Close()
		o, err := w.Watch(p)
		if err != want {
			return o, fmt.Errorf("watch of %s: %v, want %v", name, err, want)
		}
		return o, nil
	}
	_, err1 := watch("a", nil)
	b, err2 := watch("b", nil)
	_, err3 := watch("c", unix.ENOSPC)
	w.Unwatch(b)
	_, err4 := watch("c", nil)
	return errors.Join(err1, err2, err3, err4)
}

package mount_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/rpycfs/rpycfs/internal/conformance"
)

// TestConformance runs our own table over a mount. A daemon that serves as
// itself gives no file away and makes no device, even as root.
func TestConformance(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/")
	conformance.Run(t, w.point, conformance.Tmpfile|conformance.Birth)
}

// exceptions are tests of go-fuse that cannot pass, and why. TestPosix fails when
// one of them passes all the same.
var exceptions = map[string]string{
	"FcntlFlockLocksFile": "wants two descriptors of one process to exclude each other by POSIX locks, " +
		"which belong to the process: it fails on ext4 as well",
}

// TestPosix runs go-fuse's tests over a mount, each in a directory of its own.
func TestPosix(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/")
	for name, run := range posixtest.All {
		if name == "XAttrLarge" {
			continue // see TestPosixLargeXattr
		}
		t.Run(name, func(t *testing.T) {
			dir := w.point + "/" + name
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if why := exceptions[name]; why != "" {
				fails(t, name, dir, why)
				return
			}
			run(t, dir)
		})
	}
}

// fails runs a test in a process of its own and wants it to fail, because of
// what it tests: that it ran at all shows in its output.
func fails(t *testing.T, name, dir, why string) {
	cmd := exec.Command(here(t), "-test.run=^TestPosixException$", "-test.v")
	cmd.Env = append(os.Environ(), "RPYCFS_TEST_POSIX="+name+":"+dir)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--- FAIL: TestPosixException") {
		t.Errorf("%s passes, or did not run, but %s: %v\n%s", name, why, err, out)
	}
}

// TestPosixException runs one test of go-fuse where TestPosix says, and nothing
// otherwise.
func TestPosixException(t *testing.T) {
	if name, dir, ok := strings.Cut(os.Getenv("RPYCFS_TEST_POSIX"), ":"); ok {
		posixtest.All[name](t, dir)
	}
}

// TestPosixLargeXattr needs a file system at the daemon that holds more than
// ext4 does: tmpfs, since Linux 6.6.
func TestPosixLargeXattr(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	t.Setenv("TMPDIR", "/dev/shm")
	w := newWorld(t)
	w.mount("/")
	posixtest.XAttrLarge(t, w.point)
}

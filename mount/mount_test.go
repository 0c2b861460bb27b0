package mount_test

import (
	"os"
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

// notOurs are tests of go-fuse that are not run, and why.
var notOurs = map[string]string{
	"FcntlFlockLocksFile": "wants two descriptors of one process to exclude each other by POSIX locks, which fails on ext4 as well",
}

// TestPosix runs go-fuse's tests over a mount, each in a directory of its own.
func TestPosix(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/")
	for name, run := range posixtest.All {
		if notOurs[name] != "" || name == "XAttrLarge" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := w.point + "/" + name
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, dir)
		})
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

package mount_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rpycfs/rpycfs/internal/mounts"
)

// second mounts the export once more, by a process and session of its own, and
// returns where.
func (w *world) second(options ...string) string {
	w.Helper()
	point := w.tmp + "/second"
	w.ok(os.MkdirAll(point, 0o755))
	args := []string{"127.0.0.1:/", point, "-o", "port=" + w.port(), "-o", "log=" + w.tmp + "/second.log"}
	for _, o := range append([]string{"credentials=" + w.tmp + "/cred"}, options...) {
		args = append(args, "-o", o)
	}
	if r := w.run(nil, "mount.rpycfs", args...); r.code != 0 || r.stderr != "" {
		w.Fatalf("mount.rpycfs: code %d, %s", r.code, r.stderr)
	}
	w.Cleanup(func() {
		if m, err := mounts.At(point); err != nil || m.Type != mounts.FSType {
			return
		}
		if r := w.run(nil, "umount.rpycfs", point); r.code != 0 {
			w.Errorf("umount.rpycfs: code %d, %s", r.code, r.stderr)
			mounts.Unmount(point, mounts.UnmountOptions{Lazy: true, Fusermount: os.Geteuid() != 0})
		}
	})
	return point
}

// twoMounts is a world whose export is mounted twice.
func twoMounts(t *testing.T, daemonArgs ...string) (w *world, first, second string) {
	t.Helper()
	w = newWorld(t, daemonArgs...)
	w.mount("/")
	return w, w.point, w.second()
}

// times is a number of repetitions: small here, and what the environment says
// for a proof.
func times(t *testing.T, variable string, small int) int {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		return small
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of repetitions", variable, value)
	}
	return n
}

// here returns the path of the test's own program, for processes of their own.
func here(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Clean(path)
}

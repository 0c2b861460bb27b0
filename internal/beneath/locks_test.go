package beneath

import (
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLocks: a description tells its own locks, and not those of another one of the same
// file.
func TestLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var files [2]*File
	for i := range files {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = NewFile(fd)
		defer files[i].Close()
	}
	want := []Lock{{unix.F_RDLCK, 3, 9}, {unix.F_WRLCK, 20, 20}, {unix.F_RDLCK, 30, 1<<63 - 1}}
	for _, l := range want {
		if err := files[0].SetLock(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := files[1].SetLock(Lock{unix.F_WRLCK, 0, 1}); err != nil {
		t.Fatal(err)
	}
	if err := files[1].Flock(unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ranges, flock, err := files[0].Locks()
	if err != nil || !slices.Equal(ranges, want) || flock != unix.F_UNLCK {
		t.Errorf("%v, flock %d, %v; want %v", ranges, flock, err, want)
	}
	ranges, flock, err = files[1].Locks()
	if err != nil || !slices.Equal(ranges, []Lock{{unix.F_WRLCK, 0, 1}}) || flock != unix.F_WRLCK {
		t.Errorf("%v, flock %d, %v", ranges, flock, err)
	}
}

package mounts

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// staleLimit is how long the kernel may take to say that a process is gone, which it
// does at once.
const staleLimit = time.Second

// Stale reports whether the process behind a mount of FUSE is gone. It looks into the
// mount only if no process is known to serve it.
func Stale(m Mount) bool {
	if p, err := Server(m.Dev); err == nil {
		p.Close()
		return false
	}
	// The answer to stat(2) may be in the kernel's cache; this one never is.
	result := make(chan error, 1)
	go func() {
		var fs unix.Statfs_t
		result <- unix.Statfs(m.Point, &fs)
	}()
	select {
	case err := <-result:
		return err == unix.ENOTCONN
	case <-time.After(staleLimit):
		return false
	}
}

// Clear takes a stale mount out of the table, and away what its process has left of
// itself. Who has files open in it keeps them, and gets ENOTCONN as before.
func Clear(m Mount) error {
	if err := Unmount(m.Point, UnmountOptions{Lazy: true, Fusermount: os.Geteuid() != 0}); err != nil {
		return err
	}
	for _, dir := range recordDirs() {
		os.Remove(filepath.Join(dir, m.Dev))
		os.Remove(filepath.Join(dir, socketName(m.Dev)))
	}
	return nil
}

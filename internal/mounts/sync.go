package mounts

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// IoctlSync, on the root of a mount of ours, puts what the mount has written on
// the daemon's stable storage: _IO('r', 0x71).
const IoctlSync = 'r'<<8 | 0x71

// Sync puts the file system behind the mount that a person means by target on
// the daemon's stable storage. It waits for the daemon.
func Sync(target string) error {
	m, err := Find(target)
	if err != nil {
		return err
	}
	dir, err := os.Open(m.Point)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.IoctlSetInt(int(dir.Fd()), IoctlSync, 0); err != nil {
		return fmt.Errorf("sync %s: %w", m.Point, err)
	}
	return nil
}

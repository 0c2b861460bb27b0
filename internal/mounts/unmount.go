package mounts

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Unmount unmounts what is on top at dir, by umount2(2) or through
// fusermount3. A symlink is not followed.
func Unmount(dir string, lazy, fusermount bool) error {
	if fusermount {
		return fusermountUnmount(dir, lazy)
	}
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	if err := unix.Unmount(dir, flags); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

func fusermountUnmount(dir string, lazy bool) error {
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	cmd := exec.Command("fusermount3", append(args, "--", dir)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(stderr.String())
		if strings.Contains(text, "busy") {
			return fmt.Errorf("unmount %s: %w", dir, syscall.EBUSY)
		}
		if text == "" {
			text = err.Error()
		}
		return fmt.Errorf("unmount %s: %s", dir, text)
	}
	return nil
}

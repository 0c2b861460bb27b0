package mounts

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// UnmountOptions says how to unmount.
type UnmountOptions struct {
	Lazy       bool // take it out of the tree although it is in use
	Force      bool // end what waits for the server first; root only
	Fusermount bool // through fusermount3, as ordinary users must
}

// Unmount unmounts what is on top at dir. A symlink is not followed. EBUSY
// means that it is in use.
func Unmount(dir string, o UnmountOptions) error {
	if o.Fusermount {
		return viaFusermount(dir, o.Lazy)
	}
	flags := unix.UMOUNT_NOFOLLOW
	if o.Lazy {
		flags |= unix.MNT_DETACH
	}
	if o.Force {
		flags |= unix.MNT_FORCE
	}
	if err := unix.Unmount(dir, flags); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// FusermountPath finds the set-uid helper through which ordinary users mount.
// umount(8) starts its helpers without a PATH.
func FusermountPath() (string, error) {
	for _, name := range []string{"fusermount3", "/usr/bin/fusermount3", "/bin/fusermount3"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("fusermount3 is missing, through which ordinary users mount; install the package fuse3")
}

func viaFusermount(dir string, lazy bool) error {
	helper, err := FusermountPath()
	if err != nil {
		return err
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	cmd := exec.Command(helper, append(args, "--", dir)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Run()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(stderr.String())
	if strings.Contains(text, "busy") { // the helper has no exit code for it
		return fmt.Errorf("unmount %s: %w", dir, syscall.EBUSY)
	}
	if text == "" {
		text = err.Error()
	}
	return fmt.Errorf("unmount %s: %s", dir, text)
}

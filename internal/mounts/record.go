package mounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A record tells which process serves a mount: a file named after the mount's
// device, holding the process's number and its start time, so that a number
// that has been used again is not taken for it:
//
//	/run/rpycfs/0:53                 "4711 123456\n"   mounts made by root
//	$XDG_RUNTIME_DIR/rpycfs/0:53                       mounts of other users
//	/tmp/rpycfs-UID/0:53                               where there is no such directory
//
// A record of root's is believed by everybody; one of another user's only by
// that user, as the directory is theirs alone. The socket on which that process
// answers lies beside it.

// rootDir holds the records of mounts made by root.
const rootDir = "/run/rpycfs"

// recordDirs are where this user's records may be, the best first. umount(8)
// starts its helpers without most of the environment.
func recordDirs() (dirs []string) {
	uid := uint32(os.Geteuid())
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && uid != 0 {
		dirs = append(dirs, filepath.Join(dir, "rpycfs"))
	}
	return append(dirs, usualDirs(uid)...)
}

// usualDirs are recordDirs of any user, without what only that user's environment
// tells.
func usualDirs(uid uint32) []string {
	if uid == 0 {
		return []string{rootDir}
	}
	return []string{fmt.Sprintf("/run/user/%d/rpycfs", uid), fmt.Sprintf("/tmp/rpycfs-%d", uid)}
}

// Record notes that this process serves the mount with device dev. The function
// returned takes the note away.
func Record(dev string) (remove func(), err error) {
	dir, err := ownDir()
	if err != nil {
		return nil, err
	}
	start, err := startTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, dev)
	// A new file under a new name: readers see all of it or none.
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, fmt.Appendf(nil, "%d %d\n", os.Getpid(), start), 0o644); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return nil, err
	}
	return func() { os.Remove(path) }, nil
}

// ownDir returns the first of recordDirs that can be used.
func ownDir() (dir string, err error) {
	for _, dir = range recordDirs() {
		if err = makeDir(dir); err == nil {
			return dir, nil
		}
	}
	return "", err
}

// makeDir makes the directory if need be and refuses one that others can write.
func makeDir(dir string) error {
	mode := os.FileMode(0o700)
	if dir == rootDir {
		mode = 0o755
	}
	if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return checkOwner(dir)
}

// checkOwner refuses a path that is a symlink, belongs to somebody else than
// this user or root, or can be written by others.
func checkOwner(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if info.Mode()&os.ModeSymlink != 0 || (st.Uid != 0 && st.Uid != uint32(os.Geteuid())) || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: not a private file of this user: %w", path, os.ErrPermission)
	}
	return nil
}

// Process is a process that serves a mount.
type Process struct{ fd int }

// ErrNoProcess says that no process is known to serve the mount.
var ErrNoProcess = errors.New("no process serves it")

// Server finds the process that serves the mount with device dev. Call Close.
func Server(dev string) (*Process, error) {
	for _, dir := range append(recordDirs(), rootDir) {
		if p, err := open(filepath.Join(dir, dev)); err == nil {
			return p, nil
		}
	}
	return nil, ErrNoProcess
}

// open reads a record and takes hold of the process it names. The start time is
// compared after that, so the number cannot change hands in between.
func open(path string) (*Process, error) {
	for _, p := range []string{filepath.Dir(path), path} {
		if err := checkOwner(p); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var pid int
	var start uint64
	if _, err := fmt.Sscanf(string(text), "%d %d\n", &pid, &start); err != nil || pid <= 1 {
		return nil, ErrNoProcess
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, ErrNoProcess
	}
	p := &Process{fd}
	if now, err := startTime(pid); err != nil || now != start || p.ended() {
		unix.Close(fd)
		return nil, ErrNoProcess
	}
	return p, nil
}

// ended reports whether the process has ended, though nobody may have asked how.
func (p *Process) ended() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// Wait returns when the process has ended or ctx has.
func (p *Process) Wait(ctx context.Context) error {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int((100 * time.Millisecond).Milliseconds()))
		switch {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return os.NewSyscallError("poll", err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// Signal sends a signal to the process.
func (p *Process) Signal(sig syscall.Signal) error {
	return unix.PidfdSendSignal(p.fd, sig, nil, 0)
}

// Close lets go of the process, which goes on.
func (p *Process) Close() error { return unix.Close(p.fd) }

// startTime returns when a process was started, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; field 22 counts from there.
	_, rest, ok := strings.Cut(string(stat[max(0, strings.LastIndex(string(stat), ")")):]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: malformed", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

package mounts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The socket on which the process behind a mount answers is named after the
// mount's device, too: /run/rpycfs/0:53.sock. Both sides look who is at the other
// end (SO_PEERCRED, unix(7)), so that nothing depends on modes of directories.
//
// Sockets are reached below a descriptor of their directory, which is what was
// checked, whatever happens to its path; and an address has room for 107 bytes.

// socketPath is the address of the socket in an open directory.
func socketPath(dir *os.File, name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), name)
}

func socketName(dev string) string { return dev + ".sock" }

// Listener is the socket of the process behind a mount.
type Listener struct {
	l    *net.UnixListener
	path string
	made os.FileInfo // the file
}

// Listen makes the socket of this process for the mount with device dev. One that
// a process has left behind is replaced. Close takes it away.
func Listen(dev string) (*Listener, error) {
	path, err := ownDir()
	if err != nil {
		return nil, err
	}
	dir, err := openDir(path, uint32(os.Geteuid()))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// Under a name of its own at first: who connects finds a socket that is ready.
	name := socketName(dev)
	tmp := fmt.Sprintf("%s.%d", name, os.Getpid())
	os.Remove(filepath.Join(path, tmp))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(dir, tmp), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	lis := &Listener{l: l, path: filepath.Join(path, name)}
	if lis.made, err = place(dir, tmp, name); err != nil {
		l.Close()
		os.Remove(filepath.Join(path, tmp))
		return nil, err
	}
	return lis, nil
}

// place gives a new socket its mode and its name.
func place(dir *os.File, tmp, name string) (os.FileInfo, error) {
	if err := unix.Fchmodat(int(dir.Fd()), tmp, 0o600, 0); err != nil {
		return nil, os.NewSyscallError("fchmodat", err)
	}
	if err := unix.Renameat(int(dir.Fd()), tmp, int(dir.Fd()), name); err != nil {
		return nil, os.NewSyscallError("renameat", err)
	}
	return os.Lstat(socketPath(dir, name))
}

// Accept waits for a connection of this process's user or of root; those of
// others are closed. The error is net.ErrClosed after Close.
func (l *Listener) Accept() (*net.UnixConn, error) {
	for {
		c, err := l.l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peer(c); err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
			return c, nil
		}
		c.Close()
	}
}

// Close ends the socket and takes its file away, unless it is another process's
// by now: device numbers are used again.
func (l *Listener) Close() error {
	err := l.l.Close()
	if now, e := os.Lstat(l.path); e == nil && os.SameFile(now, l.made) {
		os.Remove(l.path)
	}
	return err
}

// Dial connects to the process behind a mount. fs.ErrPermission if the mount
// belongs to somebody else and this process is not root's; ErrNoProcess if there
// is no socket, or nobody listens.
func Dial(ctx context.Context, m Mount) (*net.UnixConn, error) {
	me := uint32(os.Geteuid())
	if me != 0 && me != m.Owner {
		return nil, fmt.Errorf("%s: only root and who mounted it may ask: %w", m.Point, os.ErrPermission)
	}
	dirs := usualDirs(m.Owner)
	if me == m.Owner {
		dirs = recordDirs()
	}
	failure := ErrNoProcess
	for _, path := range dirs {
		c, err := dialIn(ctx, path, m)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			failure = err
		}
	}
	return nil, failure
}

// dialIn connects to the socket that lies in the directory, and makes sure that
// it is the owner's.
func dialIn(ctx context.Context, path string, m Mount) (*net.UnixConn, error) {
	dir, err := openDir(path, m.Owner)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	c, err := new(net.Dialer).DialContext(ctx, "unix", socketPath(dir, socketName(m.Dev)))
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNoProcess
	}
	if err != nil {
		return nil, err
	}
	u := c.(*net.UnixConn)
	if uid, err := peer(u); err != nil || uid != m.Owner {
		u.Close()
		return nil, fmt.Errorf("%s/%s: not a socket of user %d: %w", path, socketName(m.Dev), m.Owner, os.ErrPermission)
	}
	return u, nil
}

// openDir opens a directory in which nobody but the user and root can write.
func openDir(path string, uid uint32) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Uid != 0 && st.Uid != uid || st.Mode&0o022 != 0 {
		dir.Close()
		return nil, fmt.Errorf("%s: not a directory of user %d alone: %w", path, uid, os.ErrPermission)
	}
	return dir, nil
}

// peer returns the user at the other end, as the kernel noted it when that end
// connected or began to listen.
func peer(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	return cred.Uid, nil
}

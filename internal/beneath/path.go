// Package beneath makes every path system call of the exported tree. A path is
// a descriptor and at most one name: there is no call that takes a string with
// a slash, follows a symbolic link, or opens anything but a regular file or a
// directory. What lies outside the root can therefore not be named, whatever is
// renamed meanwhile; only a directory that is itself moved outside leads there,
// and Path.Parent lets the caller find that out.
//
// Errors are the kernel's numbers (syscall.Errno), unwrapped, so that they can
// be handed to the other side exactly. All calls are safe for concurrent use,
// but the caller must not Close a descriptor that another call is using.
//
// Calls that the kernel offers only by path go through /proc/self/fd, whose
// entries lead to the very object that the descriptor refers to, symbolic links
// included, and not beyond it. TestKernel proves each of these facts.
package beneath

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Path is a descriptor (O_PATH) that refers to an object of any type without
// having opened it. It cannot be read or written.
type Path struct{ fd int }

const pathFlags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC

// OpenRoot returns the directory at path. It is the operator's path: symbolic
// links in it are followed.
func OpenRoot(path string) (*Path, error) {
	if err := checkProc(); err != nil {
		return nil, err
	}
	fd, err := openat(unix.AT_FDCWD, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Path{fd}, nil
}

// checkProc reports why /proc/self/fd cannot be used, if so.
func checkProc() error {
	var fs unix.Statfs_t
	if err := unix.Statfs("/proc/self/fd", &fs); err != nil {
		return fmt.Errorf("/proc is not mounted: %w", err)
	}
	if fs.Type != unix.PROC_SUPER_MAGIC {
		return errors.New("/proc/self/fd is not the kernel's")
	}
	return nil
}

// Close gives up the descriptor.
func (p *Path) Close() { unix.Close(p.fd) }

// Walk returns the object that is entry name of directory p now. A symbolic
// link is returned itself.
func (p *Path) Walk(name string) (*Path, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	fd, err := openat(p.fd, name, pathFlags, 0)
	if err != nil {
		return nil, err
	}
	return &Path{fd}, nil
}

// Parent returns the directory that holds directory p now. The parent of the
// file system's root is itself. It may lie outside the root: use it for nothing
// but finding out.
func (p *Path) Parent() (*Path, error) {
	fd, err := openat(p.fd, "..", pathFlags|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Path{fd}, nil
}

// proc is the path that leads the kernel to the object behind a descriptor.
func proc(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// checkName refuses what is not a single name, with EINVAL. Decoding has done
// so before; the rule is repeated where it counts.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return unix.EINVAL
	}
	return nil
}

func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	// EWOULDBLOCK: somebody has a lease on the file, for a moment if it is HasWriters.
	for range 20 {
		err = retry(func() error {
			fd, err = unix.Openat(dir, name, flags, mode)
			return err
		})
		if err != unix.EWOULDBLOCK {
			break
		}
		time.Sleep(100 * time.Microsecond)
	}
	return fd, err
}

// retry repeats a call that a signal interrupted before it did anything.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

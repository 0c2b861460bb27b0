package beneath

import (
	"golang.org/x/sys/unix"
)

// Mkdir makes a directory.
func (p *Path) Mkdir(name string, mode uint32) error {
	return named(name, func() error { return unix.Mkdirat(p.fd, name, mode) })
}

// Mknod makes a regular file, FIFO, socket or device, as the type in mode says.
// Any other type is refused with EPERM, a device number that the kernel does not
// have with EINVAL.
func (p *Path) Mknod(name string, mode, major, minor uint32) error {
	dev := 0
	switch mode & unix.S_IFMT {
	case 0, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFCHR, unix.S_IFBLK:
		if major >= 1<<12 || minor >= 1<<20 {
			return unix.EINVAL
		}
		dev = int(unix.Mkdev(major, minor))
	default:
		return unix.EPERM
	}
	return named(name, func() error { return unix.Mknodat(p.fd, name, mode, dev) })
}

// Symlink makes a symbolic link. The target may be anything: nothing here ever
// follows it.
func (p *Path) Symlink(target, name string) error {
	return named(name, func() error { return unix.Symlinkat(target, p.fd, name) })
}

// Link makes name in directory p another name of obj.
func (p *Path) Link(obj *Path, name string) error {
	return named(name, func() error {
		return unix.Linkat(unix.AT_FDCWD, proc(obj.fd), p.fd, name, unix.AT_SYMLINK_FOLLOW)
	})
}

// Unlink removes an entry that is no directory.
func (p *Path) Unlink(name string) error {
	return named(name, func() error { return unix.Unlinkat(p.fd, name, 0) })
}

// Rmdir removes an empty directory.
func (p *Path) Rmdir(name string) error {
	return named(name, func() error { return unix.Unlinkat(p.fd, name, unix.AT_REMOVEDIR) })
}

// Rename moves entry name of p to entry newName of to. Flags are those of
// renameat2(2).
func (p *Path) Rename(name string, to *Path, newName string, flags uint) error {
	if err := checkName(newName); err != nil {
		return err
	}
	return named(name, func() error { return unix.Renameat2(p.fd, name, to.fd, newName, flags) })
}

// Readlink returns the target of symbolic link p, at most max bytes of it.
func (p *Path) Readlink(max int) (target []byte, err error) {
	buf := make([]byte, max)
	var n int
	err = retry(func() error {
		n, err = unix.Readlinkat(p.fd, "", buf)
		return err
	})
	if err == unix.ENOENT {
		err = unix.EINVAL // the kernel's answer for an empty path to what is no link
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// named runs call if name is a single name.
func named(name string, call func() error) error {
	if err := checkName(name); err != nil {
		return err
	}
	return retry(call)
}

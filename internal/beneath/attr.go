package beneath

import "golang.org/x/sys/unix"

// Chmod sets the permission bits. Symbolic links have none to set: EOPNOTSUPP,
// on kernels too that would set them.
func (p *Path) Chmod(mode uint32) error {
	st, err := p.Stat()
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	return retry(func() error { return unix.Fchmodat(unix.AT_FDCWD, proc(p.fd), mode, 0) })
}

// Chown sets owner and group; -1 leaves one alone.
func (p *Path) Chown(uid, gid int) error {
	return retry(func() error { return unix.Fchownat(p.fd, "", uid, gid, unix.AT_EMPTY_PATH) })
}

// Utimes sets access and modification time. UTIME_NOW and UTIME_OMIT in Nsec
// are as in utimensat(2).
func (p *Path) Utimes(atime, mtime unix.Timespec) error {
	ts := []unix.Timespec{atime, mtime}
	return retry(func() error { return unix.UtimesNanoAt(p.fd, "", ts, unix.AT_EMPTY_PATH) })
}

// Truncate sets the size of regular file p by the rights of its permission
// bits. It opens nothing, so that a FIFO or device answers EINVAL.
func (p *Path) Truncate(size int64) error {
	return retry(func() error { return unix.Truncate(proc(p.fd), size) })
}

// Getxattr reads an extended attribute into dst and returns its size; an empty
// dst only asks for the size.
func (p *Path) Getxattr(name string, dst []byte) (n int, err error) {
	err = retry(func() error {
		n, err = unix.Getxattr(proc(p.fd), name, dst)
		return err
	})
	return n, err
}

// Setxattr sets an extended attribute; flags are XATTR_CREATE, XATTR_REPLACE.
func (p *Path) Setxattr(name string, value []byte, flags int) error {
	return retry(func() error { return unix.Setxattr(proc(p.fd), name, value, flags) })
}

// Listxattr reads the names of the extended attributes, each ended by NUL.
func (p *Path) Listxattr(dst []byte) (n int, err error) {
	err = retry(func() error {
		n, err = unix.Listxattr(proc(p.fd), dst)
		return err
	})
	return n, err
}

// Removexattr removes an extended attribute.
func (p *Path) Removexattr(name string) error {
	return retry(func() error { return unix.Removexattr(proc(p.fd), name) })
}

// HasDefaultACL reports whether directory p has a default ACL, under which new
// entries take no notice of a umask.
func (p *Path) HasDefaultACL() bool {
	n, err := p.Getxattr("system.posix_acl_default", nil)
	return err == nil && n > 0
}

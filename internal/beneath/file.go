package beneath

import "golang.org/x/sys/unix"

// File is an open regular file or directory.
type File struct{ fd int }

// Close gives up the descriptor.
func (f *File) Close() { unix.Close(f.fd) }

// openFlags are added to every open: nothing may block, become a controlling
// terminal, or be inherited. O_NONBLOCK means nothing to regular files.
const openFlags = unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY

// Open opens p with flags: an access mode and O_TRUNC, O_APPEND, O_SYNC,
// O_DSYNC, O_NOATIME. Whatever is no regular file is refused before it is
// opened: ELOOP for a symbolic link, EISDIR for a directory, ENXIO for others.
func (p *Path) Open(flags int) (*File, error) {
	st, err := p.Stat()
	if err != nil {
		return nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return nil, unix.EISDIR
	case unix.S_IFLNK:
		return nil, unix.ELOOP
	default:
		return nil, unix.ENXIO
	}
	fd, err := openat(unix.AT_FDCWD, proc(p.fd), flags|openFlags, 0)
	if err != nil {
		return nil, err
	}
	return &File{fd}, nil
}

// OpenDir opens directory p for listing, ENOTDIR if it is none. It does so through
// /proc, because its own "." takes the right to search it.
func (p *Path) OpenDir() (*File, error) {
	fd, err := openat(unix.AT_FDCWD, proc(p.fd), unix.O_RDONLY|unix.O_DIRECTORY|openFlags, 0)
	if err != nil {
		return nil, err
	}
	return &File{fd}, nil
}

// Create makes regular file name in directory p and opens it. EEXIST if there
// is such an entry, whatever it is.
func (p *Path) Create(name string, flags int, mode uint32) (*File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	flags |= unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | openFlags
	fd, err := openat(p.fd, name, flags, mode)
	if err != nil {
		return nil, err
	}
	return &File{fd}, nil
}

// Tmpfile makes and opens a file without a name in directory p's file system.
func (p *Path) Tmpfile(flags int, mode uint32) (*File, error) {
	fd, err := openat(p.fd, ".", flags|unix.O_TMPFILE|openFlags, mode)
	if err != nil {
		return nil, err
	}
	return &File{fd}, nil
}

// Path returns a Path to the object that f has open.
func (f *File) Path() (*Path, error) {
	fd, err := openat(unix.AT_FDCWD, proc(f.fd), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Path{fd}, nil
}

// ReadAt reads at off until b is full or the file ends.
func (f *File) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		var m int
		err = retry(func() error {
			m, err = unix.Pread(f.fd, b[n:], off+int64(n))
			return err
		})
		if err != nil && n > 0 {
			return n, nil // the error comes again with the next call
		}
		if m <= 0 || err != nil {
			break
		}
		n += m
	}
	return n, err
}

// WriteAt writes b at off in one system call and tells how much of it was
// written. Flags are those of pwritev2(2) but for RWF_APPEND.
func (f *File) WriteAt(b []byte, off int64, flags int) (n int, err error) {
	err = retry(func() error {
		if flags == 0 {
			n, err = unix.Pwrite(f.fd, b, off)
		} else {
			n, err = unix.Pwritev2(f.fd, [][]byte{b}, off, flags)
		}
		return err
	})
	return max(n, 0), err
}

// Append writes b at the end of the file in one system call and tells how much
// was written, and where. It moves the file's position: the caller lets only
// one Append or Seek run on f at a time.
func (f *File) Append(b []byte, flags int) (n int, off int64, err error) {
	err = retry(func() error {
		n, err = unix.Pwritev2(f.fd, [][]byte{b}, -1, flags|unix.RWF_APPEND)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	end, err := unix.Seek(f.fd, 0, unix.SEEK_CUR)
	return n, end - int64(n), err
}

// Truncate sets the size by the rights that f was opened with.
func (f *File) Truncate(size int64) error {
	return retry(func() error { return unix.Ftruncate(f.fd, size) })
}

// Chmod sets the permission bits.
func (f *File) Chmod(mode uint32) error {
	return retry(func() error { return unix.Fchmod(f.fd, mode) })
}

// Sync puts the file on stable storage, without its times if dataOnly.
func (f *File) Sync(dataOnly bool) error {
	if dataOnly {
		return retry(func() error { return unix.Fdatasync(f.fd) })
	}
	return retry(func() error { return unix.Fsync(f.fd) })
}

// Fallocate is fallocate(2).
func (f *File) Fallocate(mode uint32, off, length int64) error {
	return retry(func() error { return unix.Fallocate(f.fd, mode, off, length) })
}

// Seek is lseek(2) with SEEK_DATA or SEEK_HOLE, or a directory's position. See
// Append about concurrency.
func (f *File) Seek(off int64, whence int) (int64, error) {
	return unix.Seek(f.fd, off, whence)
}

// CopyTo copies a range to another open file and tells how much was copied.
func (f *File) CopyTo(off int64, to *File, toOff int64, length int) (n int, err error) {
	err = retry(func() error {
		from, into := off, toOff
		n, err = unix.CopyFileRange(f.fd, &from, to.fd, &into, length, 0)
		return err
	})
	return max(n, 0), err
}

// NewFile returns the File of a descriptor, which it takes over.
func NewFile(fd int) *File { return &File{fd} }

// Fd returns the descriptor, which stays f's.
func (f *File) Fd() int { return f.fd }

// Flags returns the flags that f was opened with, those that can still be told.
func (f *File) Flags() (int, error) { return unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0) }

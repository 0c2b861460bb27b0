package beneath

import "golang.org/x/sys/unix"

// FanotifyMark adds p to what group, a descriptor of fanotify_init(2), tells of,
// changes what is asked of it, or takes it away; flags and mask are those of
// fanotify_mark(2).
func (p *Path) FanotifyMark(group int, flags uint, mask uint64) error {
	return retry(func() error { return unix.FanotifyMark(group, flags, mask, unix.AT_FDCWD, proc(p.fd)) })
}

// InotifyAdd adds p to what instance, a descriptor of inotify_init(2), tells of,
// and returns its watch descriptor. Mask is that of inotify_add_watch(2); one
// with IN_DONT_FOLLOW would watch the link in /proc.
func (p *Path) InotifyAdd(instance int, mask uint32) (wd int, err error) {
	err = retry(func() error {
		wd, err = unix.InotifyAddWatch(instance, proc(p.fd), mask)
		return err
	})
	return wd, err
}

// Dup returns another Path to the same object.
func (p *Path) Dup() (*Path, error) {
	fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Path{fd}, nil
}

// KernelPath returns the path by which the kernel knows directory p now, as seen from
// this process's root. It is for finding out where a directory lies, and a guess: a
// removed one has " (deleted)" behind its path, and one that lies outside its mount has
// the path of something else. The caller walks there and compares. It must not be opened.
func (p *Path) KernelPath() (string, error) {
	buf := make([]byte, unix.PathMax)
	var n int
	err := retry(func() (err error) {
		n, err = unix.Readlinkat(unix.AT_FDCWD, proc(p.fd), buf)
		return err
	})
	if err == nil && n == len(buf) {
		err = unix.ENAMETOOLONG
	}
	return string(buf[:max(n, 0)]), err
}

package beneath

import "golang.org/x/sys/unix"

// Stat is what statx(2) tells about an object. Bit STATX_BTIME of Mask says
// whether the birth time is known.
type Stat = unix.Statx_t

const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

// Stat returns the attributes of p.
func (p *Path) Stat() (st Stat, err error) { return st, statx(p.fd, "", unix.AT_EMPTY_PATH, &st) }

// StatAt returns the attributes of entry name of directory p.
func (p *Path) StatAt(name string) (st Stat, err error) {
	if err = checkName(name); err != nil {
		return st, err
	}
	return st, statx(p.fd, name, unix.AT_SYMLINK_NOFOLLOW, &st)
}

// Stat returns the attributes of f.
func (f *File) Stat() (st Stat, err error) { return st, statx(f.fd, "", unix.AT_EMPTY_PATH, &st) }

func statx(fd int, name string, flags int, st *Stat) error {
	return retry(func() error {
		return unix.Statx(fd, name, flags|unix.AT_NO_AUTOMOUNT, statMask, st)
	})
}

// Statfs returns what statfs(2) tells about the file system that holds p.
func (p *Path) Statfs() (fs unix.Statfs_t, err error) {
	return fs, retry(func() error { return unix.Fstatfs(p.fd, &fs) })
}

// Statfs returns what statfs(2) tells about the file system that holds f.
func (f *File) Statfs() (fs unix.Statfs_t, err error) {
	return fs, retry(func() error { return unix.Fstatfs(f.fd, &fs) })
}

// Syncfs puts the file system that holds directory p on stable storage.
func (p *Path) Syncfs() error {
	f, err := p.OpenDir()
	if err != nil {
		return err
	}
	defer f.Close()
	return retry(func() error { return unix.Syncfs(f.fd) })
}

// Access reports with EACCES or EROFS that the process may not do all of mask
// (R_OK, W_OK, X_OK) to p, by its effective ids.
func (p *Path) Access(mask uint32) error {
	return retry(func() error {
		return unix.Faccessat2(p.fd, "", mask, unix.AT_EACCESS|unix.AT_EMPTY_PATH)
	})
}

package beneath

import "golang.org/x/sys/unix"

// HasWriters reports whether anybody, this process included, has regular file p open
// for writing, or mapped for it. It asks for a lease and gives it back at once
// (F_SETLEASE of fcntl(2)): who opens the file for writing in that microsecond waits
// for it, or gets EWOULDBLOCK with O_NONBLOCK. EACCES to who is neither the file's
// owner nor has CAP_LEASE; EINVAL where the file system has no leases.
func (p *Path) HasWriters() (bool, error) {
	f, err := p.Open(unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer f.Close()
	switch _, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETLEASE, unix.F_RDLCK); err {
	case nil:
		_, err = unix.FcntlInt(uintptr(f.fd), unix.F_SETLEASE, unix.F_UNLCK)
		return false, err
	case unix.EAGAIN:
		return true, nil
	default:
		return false, err
	}
}

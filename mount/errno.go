package mount

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/rpc"
)

// errno maps the error of a call to what the kernel is told.
//
// ENOSYS never reaches the kernel from the daemon: the kernel would take it as
// "not for the whole life of this mount", and answer opens and access checks
// itself from then on.
func errno(err error) fuse.Status {
	var e syscall.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, rpc.ErrGone):
		return fuse.Status(syscall.ENOTCONN)
	case errors.As(err, &e):
		return posix(e)
	case errors.Is(err, rpc.ErrNoMethod):
		return fuse.Status(syscall.EOPNOTSUPP)
	case errors.Is(err, rpc.ErrBusy):
		return fuse.EBUSY
	case errors.Is(err, rpc.ErrNoReference):
		return fuse.Status(syscall.ESTALE)
	case errors.Is(err, context.DeadlineExceeded):
		return fuse.Status(syscall.ETIMEDOUT)
	case errors.Is(err, context.Canceled):
		return fuse.EINTR
	}
	return fuse.EIO
}

// posix passes an error number on, within what the kernel takes as one.
func posix(e syscall.Errno) fuse.Status {
	switch {
	case e == syscall.ENOSYS:
		return fuse.Status(syscall.EOPNOTSUPP)
	case e == 0 || e >= 512:
		return fuse.EIO
	}
	return fuse.Status(e)
}

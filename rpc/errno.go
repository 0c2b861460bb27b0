package rpc

import "syscall"

// posixErrors are the error numbers that cross the wire. The keys are the
// protocol's and never change; on Linux the values are the same numbers. An
// errno that is not listed crosses as EIO.
var posixErrors = map[Code]syscall.Errno{
	1: syscall.EPERM, 2: syscall.ENOENT, 3: syscall.ESRCH, 4: syscall.EINTR, 5: syscall.EIO,
	6: syscall.ENXIO, 7: syscall.E2BIG, 9: syscall.EBADF, 11: syscall.EAGAIN, 12: syscall.ENOMEM,
	13: syscall.EACCES, 14: syscall.EFAULT, 16: syscall.EBUSY, 17: syscall.EEXIST, 18: syscall.EXDEV,
	19: syscall.ENODEV, 20: syscall.ENOTDIR, 21: syscall.EISDIR, 22: syscall.EINVAL, 23: syscall.ENFILE,
	24: syscall.EMFILE, 25: syscall.ENOTTY, 26: syscall.ETXTBSY, 27: syscall.EFBIG, 28: syscall.ENOSPC,
	29: syscall.ESPIPE, 30: syscall.EROFS, 31: syscall.EMLINK, 32: syscall.EPIPE, 33: syscall.EDOM,
	34: syscall.ERANGE, 35: syscall.EDEADLK, 36: syscall.ENAMETOOLONG, 37: syscall.ENOLCK,
	38: syscall.ENOSYS, 39: syscall.ENOTEMPTY, 40: syscall.ELOOP, 61: syscall.ENODATA,
	71: syscall.EPROTO, 74: syscall.EBADMSG, 75: syscall.EOVERFLOW, 84: syscall.EILSEQ,
	87: syscall.EUSERS, 95: syscall.EOPNOTSUPP, 107: syscall.ENOTCONN, 110: syscall.ETIMEDOUT,
	116: syscall.ESTALE, 122: syscall.EDQUOT, 125: syscall.ECANCELED,
}

var posixCodes = func() map[syscall.Errno]Code {
	codes := make(map[syscall.Errno]Code, len(posixErrors))
	for code, errno := range posixErrors {
		codes[errno] = code
	}
	return codes
}()

const codeEIO Code = 5

func errnoOf(c Code) syscall.Errno {
	if errno, ok := posixErrors[c]; ok {
		return errno
	}
	return syscall.EIO
}

func codeOfErrno(e syscall.Errno) Code {
	if code, ok := posixCodes[e]; ok {
		return code
	}
	return codeEIO
}

package identity

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setres sets the calling thread's real, effective and saved id; the file
// system's follows the effective one.
func setres(trap uintptr, id uint32) error {
	if _, _, errno := unix.RawSyscall(trap, uintptr(id), uintptr(id), uintptr(id)); errno != 0 {
		return errno
	}
	return nil
}

// setgroups sets the calling thread's supplementary groups.
func setgroups(groups []uint32) error {
	_, _, errno := unix.RawSyscall(sysSetgroups, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

//go:build 386 || arm

package identity

import "golang.org/x/sys/unix"

// The calls without 32 in their names take ids of 16 bits on these machines.
const (
	sysSetresuid = unix.SYS_SETRESUID32
	sysSetresgid = unix.SYS_SETRESGID32
	sysSetgroups = unix.SYS_SETGROUPS32
)

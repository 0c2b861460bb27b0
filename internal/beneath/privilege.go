package beneath

import "golang.org/x/sys/unix"

// Privilege tells what the process may do beyond an ordinary user.
type Privilege struct {
	Any        bool // it is root or holds any capability
	KeepsSetID bool // CAP_FSETID: the kernel does not drop set-id bits on writes
	ByHandle   bool // CAP_DAC_READ_SEARCH: Path by KernelHandle
}

// Privileges returns the privileges in effect. Those of threads do not differ:
// nothing here changes them.
func Privileges() (Privilege, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return Privilege{}, err
	}
	effective := uint64(data[0].Effective) | uint64(data[1].Effective)<<32
	has := func(c uint) bool { return effective&(1<<c) != 0 }
	return Privilege{
		Any:        effective != 0 || unix.Geteuid() == 0,
		KeepsSetID: has(unix.CAP_FSETID),
		ByHandle:   has(unix.CAP_DAC_READ_SEARCH),
	}, nil
}

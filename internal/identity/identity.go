// Package identity runs functions with the rights of somebody else: a user id, a
// group id and supplementary groups, as the kernel sees them.
//
// Rights belong to threads (credentials(7)). A thread here takes on one identity
// when it begins, for good: the ids are set in all three places, every capability
// that the identity has no use for is given up, and the kernel is asked what came
// of it before anything else runs on that thread. It cannot go back, it is never
// given to another identity, and it ends instead of returning to the Go runtime.
// Goroutines of such threads are locked to them, and Go starts no thread from a
// locked one, so that nothing else in the process inherits its rights;
// TestNothingInherits proves it.
//
// Changing credentials makes the process undumpable (prctl(2), PR_SET_DUMPABLE):
// no core is written, and /proc/PID belongs to root. Its own threads may still use
// /proc/self, whoever they are.
//
// The system calls are raw ones. Those of package syscall would change the
// credentials of the whole process.
package identity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// MaxGroups bounds the supplementary groups of an identity.
const MaxGroups = 1024

// Nobody is the user and group id that stand for nobody, the overflow ids of the
// kernel (/proc/sys/kernel/overflowuid).
const Nobody = 65534

// ID is whose rights a function runs with. It is comparable and never changes.
// User id 0 is a file server's root, see Root; everybody else has no capability.
// The zero value is not usable.
type ID struct {
	uid, gid uint32
	groups   string // sorted, 4 bytes each
	valid    bool
}

// New returns the identity of an ordinary user: any user id but 0, and
// math.MaxUint32, which the kernel takes for "as it was".
func New(uid, gid uint32, groups []uint32) (ID, error) {
	if uid == 0 {
		return ID{}, errors.New("user id 0 is no ordinary user's")
	}
	return build(uid, gid, groups)
}

// Root returns the identity of user id 0 with what a file server's root needs
// beyond the permission bits: the capabilities of rootCaps.
func Root(gid uint32, groups []uint32) (ID, error) { return build(0, gid, groups) }

func build(uid, gid uint32, groups []uint32) (ID, error) {
	if uid == math.MaxUint32 || gid == math.MaxUint32 || slices.Contains(groups, math.MaxUint32) {
		return ID{}, fmt.Errorf("user %d, group %d or one of %d groups is no id", uid, gid, len(groups))
	}
	groups = slices.Clone(groups)
	slices.Sort(groups)
	groups = slices.Compact(groups)
	if len(groups) > MaxGroups {
		return ID{}, fmt.Errorf("user %d is in %d groups, more than %d", uid, len(groups), MaxGroups)
	}
	packed := make([]byte, 0, 4*len(groups))
	for _, g := range groups {
		packed = binary.BigEndian.AppendUint32(packed, g)
	}
	return ID{uid: uid, gid: gid, groups: string(packed), valid: true}, nil
}

// UID returns the user id.
func (id ID) UID() uint32 { return id.uid }

// GID returns the group id.
func (id ID) GID() uint32 { return id.gid }

// IsRoot reports whether the identity has a file server's capabilities.
func (id ID) IsRoot() bool { return id.valid && id.uid == 0 }

// Groups returns the supplementary groups, sorted.
func (id ID) Groups() []uint32 {
	groups := make([]uint32, len(id.groups)/4)
	for i := range groups {
		groups[i] = binary.BigEndian.Uint32([]byte(id.groups[4*i:]))
	}
	return groups
}

func (id ID) String() string {
	return fmt.Sprintf("uid=%d gid=%d groups=%v", id.uid, id.gid, id.Groups())
}

// rootCaps are the capabilities of an unsquashed root, those that the kernel's
// NFS server gives (CAP_NFSD_SET, CAP_FS_SET) and two more: quota and reserved
// space do not bind root, and root may store file capabilities.
var rootCaps = capsOf(
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID,
	unix.CAP_LINUX_IMMUTABLE, unix.CAP_MKNOD, unix.CAP_LEASE, unix.CAP_SYS_RESOURCE, unix.CAP_SETFCAP,
	unix.CAP_SYS_ADMIN, // for trusted. attributes
)

// needed are the capabilities without which no thread can take on an identity,
// and nothing can be found again for one that may not search the way there.
var needed = capsOf(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_DAC_READ_SEARCH)

func capsOf(caps ...uint) (set uint64) {
	for _, c := range caps {
		set |= 1 << c
	}
	return set
}

// caps are the effective, permitted and inheritable capabilities of a thread.
type caps struct{ effective, permitted, inheritable uint64 }

// capget returns the calling thread's capabilities.
func capget() (c caps, err error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return c, err
	}
	join := func(low, high uint32) uint64 { return uint64(low) | uint64(high)<<32 }
	c.effective = join(data[0].Effective, data[1].Effective)
	c.permitted = join(data[0].Permitted, data[1].Permitted)
	c.inheritable = join(data[0].Inheritable, data[1].Inheritable)
	return c, nil
}

// capset makes set the calling thread's effective and permitted capabilities,
// and leaves it nothing to inherit or to be ambient.
func capset(set uint64) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(set), Permitted: uint32(set)},
		{Effective: uint32(set >> 32), Permitted: uint32(set >> 32)},
	}
	return unix.Capset(&hdr, &data[0])
}

// Check reports why this process cannot run anything as somebody else, or nil.
func Check() error {
	c, err := capget()
	if err == nil && c.effective&needed != needed {
		err = errors.New("it takes root, or the capabilities CAP_SETUID, CAP_SETGID and CAP_DAC_READ_SEARCH")
	}
	return err
}

// assume gives the calling thread the identity, for good. After an error the
// thread may have any mixture of rights and must end.
func (id ID) assume() error {
	if !id.valid {
		return errors.New("no identity")
	}
	have, err := capget()
	if err != nil {
		return err
	}
	var keep uint64
	if id.IsRoot() {
		keep = rootCaps & have.permitted // a daemon that has less cannot give more
	}
	// Nothing here runs another program; should it ever, that gains nothing.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	// Groups before the user, whose change takes away the right to set them.
	if err := setgroups(id.Groups()); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := setres(sysSetresgid, id.gid); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := setres(sysSetresuid, id.uid); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	// A user id other than 0 has lost its capabilities by now, unless the daemon
	// was not user 0 either.
	if err := capset(keep); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return id.verify(keep)
}

// verify asks the kernel whose rights the calling thread has. A difference is an
// error.
func (id ID) verify(keep uint64) error {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	fsuid, err := unix.SetfsuidRetUid(-1) // -1 changes nothing and tells what is
	if err != nil {
		return err
	}
	fsgid, err := unix.SetfsgidRetGid(-1)
	if err != nil {
		return err
	}
	for _, uid := range []int{ruid, euid, suid, fsuid} {
		if uint32(uid) != id.uid {
			return fmt.Errorf("the thread's user ids are %d %d %d %d, wanted %d", ruid, euid, suid, fsuid, id.uid)
		}
	}
	for _, gid := range []int{rgid, egid, sgid, fsgid} {
		if uint32(gid) != id.gid {
			return fmt.Errorf("the thread's group ids are %d %d %d %d, wanted %d", rgid, egid, sgid, fsgid, id.gid)
		}
	}
	if err := id.verifyGroups(); err != nil {
		return err
	}
	c, err := capget()
	if err == nil && c != (caps{effective: keep, permitted: keep}) {
		err = fmt.Errorf("the thread's capabilities are %x, wanted %x", c, keep)
	}
	return err
}

func (id ID) verifyGroups() error {
	now, err := unix.Getgroups()
	if err != nil {
		return err
	}
	slices.Sort(now)
	if !slices.EqualFunc(now, id.Groups(), func(a int, b uint32) bool { return uint32(a) == b }) {
		return fmt.Errorf("the thread's groups are %v, wanted %v", now, id.Groups())
	}
	return nil
}

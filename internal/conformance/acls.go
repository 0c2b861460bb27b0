package conformance

import (
	"bytes"
	"encoding/binary"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The extended attributes of POSIX ACLs and the tags in them, as in
// <linux/posix_acl_xattr.h>.
const (
	aclAccessName  = "system.posix_acl_access"
	aclDefaultName = "system.posix_acl_default"

	aclUserObj, aclUser   = 0x01, 0x02
	aclGroupObj, aclGroup = 0x04, 0x08
	aclMask, aclOther     = 0x10, 0x20

	aclNobody = 0xffffffff // id of entries that have none
)

// aclEntry is one line of an ACL.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

func aclBytes(entries ...aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2) // version
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func (t *T) aclIs(name, attr string, want []byte) {
	t.Helper()
	buf := make([]byte, 1000)
	n, err := unix.Getxattr(t.path(name), attr, buf)
	if err != nil || !bytes.Equal(buf[:n], want) {
		t.Errorf("%s of %s: %x, %v; want %x", attr, name, buf[:max(n, 0)], err, want)
	}
}

func (t *T) modeIs(name string, want uint32) {
	t.Helper()
	if got := t.stat(name).Mode & 0o7777; got != want {
		t.Errorf("mode of %s is %o, want %o", name, got, want)
	}
}

// aclAccess: the group bits are the mask, in both directions, and at once.
func aclAccess(t *T) {
	p := t.write("f", "")
	with := func(group, mask uint16) []byte {
		return aclBytes(aclEntry{aclUserObj, 6, aclNobody}, aclEntry{aclUser, 7, 12345}, aclEntry{aclGroupObj, group, aclNobody},
			aclEntry{aclGroup, 5, 54321}, aclEntry{aclMask, mask, aclNobody}, aclEntry{aclOther, 0, aclNobody})
	}
	t.modeIs("f", 0o644)
	t.ok(unix.Setxattr(p, aclAccessName, with(4, 7), 0))
	t.modeIs("f", 0o670)
	t.aclIs("f", aclAccessName, with(4, 7))
	t.ok(os.Chmod(p, 0o620))
	t.aclIs("f", aclAccessName, with(4, 2))
	t.fails(unix.Setxattr(p, aclAccessName, aclBytes(aclEntry{aclUserObj, 6, aclNobody}), 0), syscall.EINVAL)
	t.fails(unix.Setxattr(p, aclDefaultName, with(4, 7), 0), syscall.EACCES)
	t.ok(unix.Removexattr(p, aclAccessName))
	_, err := unix.Getxattr(p, aclAccessName, nil)
	t.fails(err, syscall.ENODATA)
}

// aclDefault: what is made in a directory with a default ACL gets it in place of
// the umask, and directories hand it on.
func aclDefault(t *T) {
	d := t.mkdir("d")
	defaults := aclBytes(aclEntry{aclUserObj, 7, aclNobody}, aclEntry{aclUser, 7, 12345}, aclEntry{aclGroupObj, 5, aclNobody},
		aclEntry{aclMask, 7, aclNobody}, aclEntry{aclOther, 4, aclNobody})
	t.ok(unix.Setxattr(d, aclDefaultName, defaults, 0))
	defer syscall.Umask(syscall.Umask(0o077))
	f, err := os.OpenFile(t.path("d/f"), os.O_CREATE|os.O_WRONLY, 0o666)
	t.ok(err)
	f.Close()
	t.ok(os.Mkdir(t.path("d/sub"), 0o777))
	t.ok(unix.Mkfifo(t.path("d/fifo"), 0o620))
	t.modeIs("d/f", 0o664)
	t.modeIs("d/sub", 0o774)
	t.modeIs("d/fifo", 0o620)
	t.aclIs("d/f", aclAccessName, aclBytes(aclEntry{aclUserObj, 6, aclNobody}, aclEntry{aclUser, 7, 12345}, aclEntry{aclGroupObj, 5, aclNobody},
		aclEntry{aclMask, 6, aclNobody}, aclEntry{aclOther, 4, aclNobody}))
	t.aclIs("d/sub", aclDefaultName, defaults)
	t.ok(unix.Removexattr(d, aclDefaultName))
	t.ok(os.WriteFile(t.path("d/g"), nil, 0o666))
	t.modeIs("d/g", 0o600)
}

package conformance

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

func xattrList(t *T, path string) []string {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	t.ok(err)
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	names = slices.DeleteFunc(names, func(s string) bool { return !strings.HasPrefix(s, "user.") })
	slices.Sort(names)
	return names
}

func xattrRoundTrip(t *T) {
	p := t.write("f", "")
	for name, value := range map[string]string{"user.a": "1", "user.empty": "", "user.bytes": "\x00\xff\n"} {
		t.ok(unix.Setxattr(p, name, []byte(value), 0))
		buf := make([]byte, 100)
		n, err := unix.Getxattr(p, name, buf)
		if err != nil || string(buf[:n]) != value {
			t.Errorf("%s: %q, %v", name, buf[:max(n, 0)], err)
		}
	}
	if got := xattrList(t, p); !slices.Equal(got, []string{"user.a", "user.bytes", "user.empty"}) {
		t.Errorf("listed %q", got)
	}
	t.ok(unix.Removexattr(p, "user.a"))
	if got := xattrList(t, p); len(got) != 2 {
		t.Errorf("listed %q after removal", got)
	}
	f := t.open("f", os.O_RDONLY)
	buf := make([]byte, 10)
	if n, err := unix.Fgetxattr(int(f.Fd()), "user.bytes", buf); n != 3 || err != nil {
		t.Errorf("fgetxattr: %d, %v", n, err)
	}
}

func xattrErrors(t *T) {
	p := t.write("f", "")
	_, err := unix.Getxattr(p, "user.none", make([]byte, 10))
	t.fails(err, syscall.ENODATA)
	t.fails(unix.Removexattr(p, "user.none"), syscall.ENODATA)
	_, err = unix.Getxattr(t.path("none"), "user.a", nil)
	t.fails(err, syscall.ENOENT)
	t.fails(unix.Setxattr(p, "nonsense", nil, 0), syscall.EOPNOTSUPP)
	t.fails(unix.Setxattr(p, "user."+strings.Repeat("x", 300), nil, 0), syscall.ERANGE)
	t.ok(os.Symlink("f", t.path("l")))
	t.fails(unix.Lsetxattr(t.path("l"), "user.a", nil, 0), syscall.EPERM)
}

func xattrFlags(t *T) {
	p := t.write("f", "")
	t.fails(unix.Setxattr(p, "user.a", []byte("x"), unix.XATTR_REPLACE), syscall.ENODATA)
	t.ok(unix.Setxattr(p, "user.a", []byte("x"), unix.XATTR_CREATE))
	t.fails(unix.Setxattr(p, "user.a", []byte("y"), unix.XATTR_CREATE), syscall.EEXIST)
	t.ok(unix.Setxattr(p, "user.a", []byte("z"), unix.XATTR_REPLACE))
}

func xattrSizes(t *T) {
	p := t.write("f", "")
	value := []byte(strings.Repeat("v", 2000))
	t.ok(unix.Setxattr(p, "user.big", value, 0))
	n, err := unix.Getxattr(p, "user.big", nil)
	if n != len(value) || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	_, err = unix.Getxattr(p, "user.big", make([]byte, len(value)-1))
	t.fails(err, syscall.ERANGE)
	n, err = unix.Getxattr(p, "user.big", make([]byte, len(value)))
	if n != len(value) || err != nil {
		t.Errorf("exact buffer: %d, %v", n, err)
	}
	_, err = unix.Listxattr(p, make([]byte, 3))
	t.fails(err, syscall.ERANGE)
	if n, err := unix.Listxattr(p, nil); n < len("user.big")+1 || err != nil {
		t.Errorf("size of the list: %d, %v", n, err)
	}
}

func xattrDir(t *T) {
	d := t.mkdir("d")
	t.ok(unix.Setxattr(d, "user.dir", []byte("x"), 0))
	t.ok(os.Rename(d, t.path("e")))
	if got := xattrList(t, t.path("e")); !slices.Equal(got, []string{"user.dir"}) {
		t.Errorf("listed %q", got)
	}
}

// xattrTrusted: root may keep attributes that nobody else sees.
func xattrTrusted(t *T) {
	p := t.write("f", "")
	t.ok(unix.Setxattr(p, "trusted.a", []byte("1"), 0))
	buf := make([]byte, 1000)
	if n, err := unix.Getxattr(p, "trusted.a", buf); err != nil || string(buf[:n]) != "1" {
		t.Errorf("%q, %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Listxattr(p, buf); err != nil || !strings.Contains(string(buf[:n]), "trusted.a\x00") {
		t.Errorf("listed %q, %v", buf[:max(n, 0)], err)
	}
	t.ok(unix.Removexattr(p, "trusted.a"))
}

// xattrCapability: a program's capabilities go when it is written to, even by root.
func xattrCapability(t *T) {
	p := t.write("f", "x")
	caps := make([]byte, 20) // struct vfs_cap_data, little endian
	caps[3] = 2              // VFS_CAP_REVISION_2
	caps[5] = 1 << 2         // permitted: CAP_NET_BIND_SERVICE, which is 10
	t.ok(unix.Setxattr(p, "security.capability", caps, 0))
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(p, "security.capability", buf); err != nil || string(buf[:n]) != string(caps) {
		t.Errorf("%x, %v", buf[:max(n, 0)], err)
	}
	f := t.open("f", os.O_WRONLY)
	_, err := f.Write([]byte("y"))
	t.ok(err)
	_, err = unix.Getxattr(p, "security.capability", buf)
	t.fails(err, syscall.ENODATA)
}

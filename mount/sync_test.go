package mount_test

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestSync: after rpycfs sync the daemon's disk holds what was written. Where
// that disk tells of data it has not placed yet (FIEMAP's DELALLOC), none is
// left.
func TestSync(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/")
	w.ok(os.WriteFile(w.point+"/file", make([]byte, 1<<20), 0o644))
	if r := w.run(nil, "rpycfs", "sync", w.point); r.code != 0 || r.stderr != "" {
		t.Fatalf("rpycfs sync: code %d, %s", r.code, r.stderr)
	}
	if flags := extentFlags(t, w.export+"/file"); flags&0x4 != 0 {
		t.Errorf("extent flags %#x: data waits for its place on the disk", flags)
	}
	if r := w.run(nil, "rpycfs", "sync", w.export); r.code != 1 || !strings.Contains(r.stderr, "not mounted") {
		t.Errorf("rpycfs sync of a directory: code %d, %s", r.code, r.stderr)
	}
	dir, err := os.Open(w.point)
	w.ok(err)
	defer dir.Close()
	if err := unix.IoctlSetInt(int(dir.Fd()), 'r'<<8|0x72, 0); err != unix.ENOTTY {
		t.Errorf("another ioctl: %v, want ENOTTY", err)
	}
}

// extentFlags joins the flags of a file's extents; 0 where the file system has
// no FIEMAP.
func extentFlags(t *testing.T, path string) (flags uint32) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const header, extent, count = 32, 56, 64
	b := make([]byte, header+count*extent)
	binary.NativeEndian.PutUint64(b[8:], 1<<62)
	binary.NativeEndian.PutUint32(b[24:], count)
	const fsIocFiemap = 0xc020660b
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return 0
	}
	for i := range binary.NativeEndian.Uint32(b[20:]) {
		flags |= binary.NativeEndian.Uint32(b[header+i*extent+40:])
	}
	return flags
}

package mount_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lstat is lstat(2), or the end of the test.
func (w *world) lstat(path string) (st unix.Stat_t) {
	w.Helper()
	if err := unix.Lstat(path, &st); err != nil {
		w.Fatalf("lstat %s: %v", path, err)
	}
	return st
}

// TestInodeNumbers: they are the server's, so that they are the same for all
// names of a file, and again after the mount was made anew.
func TestInodeNumbers(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/")
	w.ok(os.Mkdir(w.point+"/d", 0o755))
	w.ok(os.WriteFile(w.point+"/d/f", nil, 0o644))
	w.ok(os.Link(w.point+"/d/f", w.point+"/g"))
	w.ok(os.Symlink("g", w.point+"/l"))
	for range 2 {
		for _, name := range []string{"", "/d", "/d/f", "/g", "/l"} {
			here, there := w.lstat(w.point+name), w.lstat(w.export+name)
			if here.Ino != there.Ino || here.Nlink != there.Nlink {
				t.Errorf("%q: inode %d with %d links, on the server %d with %d", name, here.Ino, here.Nlink, there.Ino, there.Nlink)
			}
		}
		if a, b := w.lstat(w.point+"/d/f"), w.lstat(w.point+"/g"); a.Ino != b.Ino || a.Nlink != 2 {
			t.Errorf("two names of a file: inodes %d and %d, %d links", a.Ino, b.Ino, a.Nlink)
		}
		w.unmount()
		w.mount("/")
	}
}

// TestBothSides compares what a mount and its server say and do, beyond what the
// table of package conformance can see from one side.
func TestBothSides(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/")
	for name, test := range map[string]func(*testing.T, *world){
		"SetIDBitsGo": setIDBitsGo, "SetGIDDirectory": setGIDDirectory, "NoIoctl": noIoctl,
		"Statfs": statfsIsTheServers, "ReadMovesAtime": readMovesAtime, "WorkingDirectory": workingDirectory,
	} {
		t.Run(name, func(t *testing.T) { test(t, w) })
	}
}

// setIDBitsGo: whoever changes the content of a set-id file through the
// mount takes the bits away, as an ordinary owner does on a local disk.
func setIDBitsGo(t *testing.T, w *world) {
	there, here := w.export+"/f", w.point+"/f"
	data := []byte("data")
	for what, change := range map[string]func(f *os.File) error{
		"write":     func(f *os.File) error { _, err := f.Write(data); return err },
		"append":    func(*os.File) error { return appendTo(here, data) },
		"ftruncate": func(f *os.File) error { return f.Truncate(1) },
		"truncate":  func(*os.File) error { return os.Truncate(here, 2) },
		"O_TRUNC":   func(*os.File) error { return os.WriteFile(here, nil, 0) },
		"fallocate": func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 100) },
		"copy_file_range": func(f *os.File) error {
			from, err := os.Open(w.point + "/from")
			if err != nil {
				return err
			}
			defer from.Close()
			_, err = unix.CopyFileRange(int(from.Fd()), nil, int(f.Fd()), nil, 4, 0)
			return err
		},
		"chown": func(*os.File) error { return os.Lchown(here, -1, os.Getgid()) },
	} {
		for mode, want := range map[uint32]uint32{0o6755: 0o755, 0o2745: 0o2745} {
			w.ok(os.WriteFile(there, []byte("content"), 0o644))
			w.ok(os.WriteFile(w.export+"/from", data, 0o644))
			w.ok(syscall.Chmod(there, mode)) // before it is opened: who has it open may delay writes until told
			f, err := os.OpenFile(here, os.O_RDWR, 0)
			w.ok(err)
			if err := change(f); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if got := w.lstat(there).Mode & 0o7777; got != want {
				t.Errorf("%s of a file with mode %o leaves %o, want %o", what, mode, got, want)
			}
			if got := w.lstat(here).Mode & 0o7777; got != want {
				t.Errorf("%s of a file with mode %o shows %o, want %o", what, mode, got, want)
			}
			w.ok(f.Close())
		}
	}
}

func appendTo(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return err
}

// setGIDDirectory: what is made in a set-group-id directory gets its group,
// and directories the bit.
func setGIDDirectory(t *testing.T, w *world) {
	w.ok(os.Mkdir(w.export+"/team", 0o755))
	gid := os.Getgid()
	if os.Geteuid() == 0 {
		gid = 12345
	}
	w.ok(os.Lchown(w.export+"/team", -1, gid))
	w.ok(syscall.Chmod(w.export+"/team", 0o2775))
	team := w.point + "/team"
	w.ok(os.Mkdir(team+"/dir", 0o755))
	w.ok(os.WriteFile(team+"/file", nil, 0o644))
	w.ok(os.WriteFile(team+"/dir/below", nil, 0o644))
	w.ok(unix.Mkfifo(team+"/fifo", 0o644))
	w.ok(os.Symlink("x", team+"/link"))
	for name, mode := range map[string]uint32{
		"dir": 0o2755, "file": 0o644, "dir/below": 0o644, "fifo": 0o644, "link": 0o777,
	} {
		st := w.lstat(w.export + "/team/" + name)
		if st.Gid != uint32(gid) || st.Mode&0o7777 != mode {
			t.Errorf("%s: group %d, mode %o; want %d, %o", name, st.Gid, st.Mode&0o7777, gid, mode)
		}
		if here := w.lstat(team + "/" + name); here.Mode != st.Mode {
			t.Errorf("%s shows mode %o, has %o", name, here.Mode, st.Mode)
		}
	}
}

// noIoctl: none reaches the server's file system, where one of them can shut
// it down.
func noIoctl(t *testing.T, w *world) {
	w.ok(os.WriteFile(w.point+"/f", []byte("x"), 0o644))
	for _, name := range []string{"/", "/f"} {
		f, err := os.Open(w.point + name)
		w.ok(err)
		defer f.Close()
		for what, cmd := range map[string]uintptr{
			"FS_IOC_GETFLAGS": 0x80086601, "FS_IOC_GETVERSION": 0x80087601, "FITRIM": 0xc0185879, "FIFREEZE": 0xc0045877,
			"FS_IOC_FSGETXATTR": 0x801c581f, "EXT4_IOC_GETSTATE": 0x40046629, "TCGETS": unix.TCGETS, "BLKGETSIZE": 0x1260,
		} {
			var arg [64]byte
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(unsafe.Pointer(&arg)))
			refused := errno == unix.EPERM && os.Geteuid() != 0               // by the kernel, before it asks anybody
			if errno != unix.ENOTTY && errno != unix.EOPNOTSUPP && !refused { // EOPNOTSUPP for those that the kernel knows
				t.Errorf("%s of %s: %v", what, name, errno)
			}
		}
	}
}

// statfsIsTheServers compares what both sides say of the file system.
func statfsIsTheServers(t *testing.T, w *world) {
	var here, there unix.Statfs_t
	w.ok(unix.Statfs(w.point, &here))
	w.ok(unix.Statfs(w.export, &there))
	type constant struct {
		blocks, files uint64
		bsize, frsize int64
		namelen       int64
	}
	a := constant{here.Blocks, here.Files, here.Bsize, here.Frsize, here.Namelen}
	b := constant{there.Blocks, there.Files, there.Bsize, there.Frsize, there.Namelen}
	if a != b {
		t.Errorf("the mount says %+v, the server %+v", a, b)
	}
	if here.Bfree == 0 != (there.Bfree == 0) || here.Bavail > here.Bfree {
		t.Errorf("free: the mount says %d and %d, the server %d and %d", here.Bfree, here.Bavail, there.Bfree, there.Bavail)
	}
}

// readMovesAtime: a read that reaches the server moves the access time as
// one on the server does, whatever its file system is mounted with.
func readMovesAtime(t *testing.T, w *world) {
	for _, name := range []string{"/local", "/remote"} {
		w.ok(os.WriteFile(w.export+name, []byte("content"), 0o644))
		past := unix.NsecToTimespec(1e18)
		w.ok(unix.UtimesNanoAt(unix.AT_FDCWD, w.export+name, []unix.Timespec{past, {Nsec: unix.UTIME_OMIT}}, 0))
	}
	for _, path := range []string{w.export + "/local", w.point + "/remote"} {
		_, err := os.ReadFile(path)
		w.ok(err)
	}
	moved := func(name string) bool { return w.lstat(w.export+name).Atim != unix.NsecToTimespec(1e18) }
	if moved("/local") != moved("/remote") {
		t.Errorf("the access time moved: %t on the server, %t through the mount", moved("/local"), moved("/remote"))
	}
}

// TestMsyncShows: what was stored through a mapping is there for another client
// when msync has returned.
func TestMsyncShows(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	w.ok(os.WriteFile(first+"/f", make([]byte, 8192), 0o644))
	f, err := os.OpenFile(first+"/f", os.O_RDWR, 0)
	w.ok(err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	w.ok(err)
	defer unix.Munmap(m)
	for i := range 8 {
		if data, err := os.ReadFile(second + "/f"); err != nil || len(data) != 8192 {
			t.Fatalf("%d bytes, %v", len(data), err)
		}
		stored := fmt.Sprintf("stored %d", i)
		copy(m[4090:], stored)
		w.ok(unix.Msync(m, unix.MS_SYNC))
		data, err := os.ReadFile(second + "/f")
		w.ok(err)
		if got := string(data[4090:][:len(stored)]); got != stored {
			t.Errorf("the other mount reads %q, want %q", got, stored)
		}
	}
}

// workingDirectory: a process whose working directory is renamed, then
// removed and remade, is told so by the kernel.
func workingDirectory(t *testing.T, w *world) {
	script := `set -e
mkdir a a/b; cd a/b
mv ../../a ../../c; test "$(/bin/pwd)" = "$1/c/b"
mv ../b ../d; test "$(/bin/pwd)" = "$1/c/d"
echo x > f; test -s "$1/c/d/f"; rm f
rmdir ../d; mkdir "$1/c/d"
! /bin/pwd 2>/dev/null
! (echo x > g) 2>/dev/null
test -z "$(ls)"; test -z "$(ls "$1/c/d")"
cd "$1/c/d"; echo x > g; test -s "$1/c/d/g"`
	point, err := filepath.EvalSymlinks(w.point)
	w.ok(err)
	cmd := exec.Command("/bin/sh", "-c", script, "sh", point)
	cmd.Dir = point
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, strings.TrimSpace(string(out)))
	}
}

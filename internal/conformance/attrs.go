package conformance

import (
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func chmod(t *T) {
	t.write("f", "")
	t.mkdir("d")
	for _, mode := range []uint32{0o600, 0o755, 0o000, 0o777, 0o1644} {
		for _, name := range []string{"f", "d"} {
			t.ok(syscall.Chmod(t.path(name), mode))
			if got := t.stat(name).Mode & 0o7777; got != mode {
				t.Errorf("%s: mode %o, want %o", name, got, mode)
			}
		}
	}
	t.ok(os.Chmod(t.path("d"), 0o755))
	f := t.open("g", os.O_CREATE|os.O_RDWR)
	before := t.stat("g")
	t.ok(f.Chmod(0o640))
	after := t.stat("g")
	if after.Mode&0o7777 != 0o640 || after.Mtim != before.Mtim {
		t.Errorf("fchmod: mode %o, mtime %v to %v", after.Mode, before.Mtim, after.Mtim)
	}
}

func chmodErrors(t *T) {
	t.fails(syscall.Chmod(t.path("none"), 0o644), syscall.ENOENT)
	t.ok(os.Symlink("nowhere", t.path("l")))
	t.fails(syscall.Chmod(t.path("l"), 0o644), syscall.ENOENT)
}

func umask(t *T) {
	for _, mask := range []int{0o077, 0o000, 0o027} {
		old := syscall.Umask(mask)
		f, err := os.OpenFile(t.path("f"), os.O_CREATE|os.O_WRONLY, 0o666)
		derr := os.Mkdir(t.path("d"), 0o777)
		merr := unix.Mkfifo(t.path("p"), 0o666)
		syscall.Umask(old)
		t.ok(err)
		f.Close()
		t.ok(derr)
		t.ok(merr)
		m := uint32(mask)
		for name, want := range map[string]uint32{"f": 0o666 &^ m, "d": 0o777 &^ m, "p": 0o666 &^ m} {
			if got := t.stat(name).Mode & 0o7777; got != want {
				t.Errorf("umask %03o: %s has mode %o, want %o", mask, name, got, want)
			}
			t.ok(os.Remove(t.path(name)))
		}
	}
}

func timespec(ts syscall.Timespec) time.Time { return time.Unix(ts.Unix()) }

func times(t *T) {
	t.write("f", "")
	t.mkdir("d")
	for _, at := range []time.Time{stamp(1, 0), stamp(1_000_000_000, 123_456_789), stamp(1_700_000_000, 999_999_999), stamp(-86_400, 5), stamp(-2_000_000_000, 999_999_999), stamp(4_000_000_000, 1), stamp(8_000_000_000, 2)} {
		for _, name := range []string{"f", "d"} {
			mt := at.Add(time.Hour)
			t.ok(os.Chtimes(t.path(name), at, mt))
			st := t.stat(name)
			if !timespec(st.Atim).Equal(at) || !timespec(st.Mtim).Equal(mt) {
				t.Errorf("%s: set %v and %v, got %v and %v", name, at, mt, timespec(st.Atim), timespec(st.Mtim))
			}
		}
	}
}

func utimens(t *T, name string, a, m unix.Timespec, flags int) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, t.path(name), []unix.Timespec{a, m}, flags)
}

func timesOmit(t *T) {
	t.write("f", "")
	t.ok(os.Chtimes(t.path("f"), stamp(1000, 1), stamp(2000, 2)))
	omit, now := unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Nsec: unix.UTIME_NOW}
	t.ok(utimens(t, "f", omit, unix.Timespec{Sec: 3000, Nsec: 3}, 0))
	st := t.stat("f")
	if !timespec(st.Atim).Equal(stamp(1000, 1)) || !timespec(st.Mtim).Equal(stamp(3000, 3)) {
		t.Errorf("atime %v, mtime %v", timespec(st.Atim), timespec(st.Mtim))
	}
	t.ok(utimens(t, "f", now, omit, 0))
	st = t.stat("f")
	if age := time.Since(timespec(st.Atim)); age > time.Hour || age < -time.Hour || !timespec(st.Mtim).Equal(stamp(3000, 3)) {
		t.Errorf("atime %v, mtime %v", timespec(st.Atim), timespec(st.Mtim))
	}
	t.ok(utimens(t, "f", omit, omit, 0))
	t.fails(utimens(t, "f", unix.Timespec{Nsec: 2_000_000_000}, omit, 0), syscall.EINVAL)
}

func timesSymlink(t *T) {
	t.write("f", "")
	t.ok(os.Chtimes(t.path("f"), stamp(10, 0), stamp(10, 0)))
	t.ok(os.Symlink("f", t.path("l")))
	ts := unix.Timespec{Sec: 77, Nsec: 7}
	t.ok(utimens(t, "l", ts, ts, unix.AT_SYMLINK_NOFOLLOW))
	if got := timespec(t.stat("l").Mtim); !got.Equal(stamp(77, 7)) {
		t.Errorf("the link's mtime is %v", got)
	}
	if got := timespec(t.stat("f").Mtim); !got.Equal(stamp(10, 0)) {
		t.Errorf("the target's mtime is %v", got)
	}
}

// timesAdvance checks which operations change which times.
func timesAdvance(t *T) {
	t.mkdir("d")
	t.write("d/f", "x")
	past := stamp(1_000_000_000, 0)
	moved := func(what string, name string, want bool, do func()) {
		t.Helper()
		t.ok(os.Chtimes(t.path(name), past, past))
		do()
		if got := !timespec(t.stat(name).Mtim).Equal(past); got != want {
			t.Errorf("%s: mtime of %s changed: %t, want %t", what, name, got, want)
		}
	}
	moved("write", "d/f", true, func() { t.write("d/f", "y") })
	moved("truncate", "d/f", true, func() { t.ok(os.Truncate(t.path("d/f"), 0)) })
	moved("chmod", "d/f", false, func() { t.ok(os.Chmod(t.path("d/f"), 0o600)) })
	moved("read", "d/f", false, func() { t.holds("d/f", "") })
	moved("create", "d", true, func() { t.write("d/g", "") })
	moved("unlink", "d", true, func() { t.ok(os.Remove(t.path("d/g"))) })
	moved("rename", "d", true, func() { t.ok(os.Rename(t.path("d/f"), t.path("d/h"))) })
	moved("link", "d", true, func() { t.ok(os.Link(t.path("d/h"), t.path("d/i"))) })
	moved("write below", "d", false, func() { t.write("d/h", "more") })
	if c := timespec(t.stat("d/h").Ctim); time.Since(c) > time.Hour {
		t.Errorf("ctime is %v", c)
	}
}

func chown(t *T) {
	t.write("f", "")
	t.ok(os.Lchown(t.path("f"), 1234, 5678))
	if st := t.stat("f"); st.Uid != 1234 || st.Gid != 5678 {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
	t.ok(os.Lchown(t.path("f"), -1, 99))
	if st := t.stat("f"); st.Uid != 1234 || st.Gid != 99 {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
}

func chownSelf(t *T) {
	t.write("f", "")
	st := t.stat("f")
	t.ok(os.Lchown(t.path("f"), os.Getuid(), -1))
	t.ok(os.Lchown(t.path("f"), -1, int(st.Gid)))
	t.ok(os.Lchown(t.path("f"), -1, -1))
	if after := t.stat("f"); after.Uid != uint32(os.Getuid()) || after.Gid != st.Gid {
		t.Errorf("owner %d:%d", after.Uid, after.Gid)
	}
	t.fails(os.Lchown(t.path("none"), os.Getuid(), -1), syscall.ENOENT)
}

func setIDBits(t *T) {
	t.write("f", "x")
	t.ok(syscall.Chmod(t.path("f"), 0o6755))
	if mode := t.stat("f").Mode & 0o7777; mode != 0o6755 {
		t.Fatalf("mode %o", mode)
	}
	t.ok(os.Lchown(t.path("f"), 1234, 1234))
	if mode := t.stat("f").Mode & 0o7777; mode != 0o755 {
		t.Errorf("mode %o after chown", mode)
	}
}

func access(t *T) {
	t.write("f", "")
	t.ok(os.Chmod(t.path("f"), 0o600))
	t.ok(unix.Access(t.path("f"), unix.R_OK|unix.W_OK))
	t.ok(unix.Access(t.path("f"), unix.F_OK))
	t.fails(unix.Access(t.path("f"), unix.X_OK), syscall.EACCES)
	t.fails(unix.Access(t.path("none"), unix.F_OK), syscall.ENOENT)
	t.ok(unix.Access(t.dir, unix.R_OK|unix.W_OK|unix.X_OK))
}

func statfs(t *T) {
	var fs unix.Statfs_t
	t.ok(unix.Statfs(t.dir, &fs))
	if fs.Bsize <= 0 || fs.Blocks == 0 || fs.Bavail > fs.Blocks || fs.Namelen != 255 {
		t.Errorf("%+v", fs)
	}
}

func statFields(t *T) {
	t.write("f", "12345")
	st := t.stat("f")
	if st.Size != 5 || st.Nlink != 1 || st.Mode != syscall.S_IFREG|0o644 || st.Uid != uint32(os.Getuid()) || st.Blksize <= 0 || st.Ino == 0 {
		t.Errorf("%+v", st)
	}
	if d := time.Since(timespec(st.Mtim)); d > time.Hour || d < -time.Hour {
		t.Errorf("mtime is %v off", d)
	}
	f := t.open("f", os.O_RDONLY)
	var fst syscall.Stat_t
	t.ok(syscall.Fstat(int(f.Fd()), &fst))
	if fst.Ino != st.Ino || fst.Dev != st.Dev || fst.Size != st.Size {
		t.Errorf("fstat %+v, lstat %+v", fst, st)
	}
}

func inodeStable(t *T) {
	t.write("f", "x")
	ino := t.stat("f").Ino
	t.write("f", "other content")
	t.ok(os.Chmod(t.path("f"), 0o600))
	t.ok(os.Rename(t.path("f"), t.path("g")))
	if got := t.stat("g").Ino; got != ino {
		t.Errorf("inode %d became %d", ino, got)
	}
}

func birthTime(t *T) {
	t.write("f", "x")
	var st unix.Statx_t
	t.ok(unix.Statx(unix.AT_FDCWD, t.path("f"), 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
	born := time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
	if st.Mask&unix.STATX_BTIME == 0 || time.Since(born) > time.Hour || time.Since(born) < -time.Hour {
		t.Errorf("mask %#x, birth %v", st.Mask, born)
	}
	if st.Size != 1 || st.Mode != unix.S_IFREG|0o644 {
		t.Errorf("size %d, mode %o", st.Size, st.Mode)
	}
}

func fifo(t *T) {
	t.ok(unix.Mkfifo(t.path("p"), 0o600))
	if mode := t.stat("p").Mode; mode != syscall.S_IFIFO|0o600 {
		t.Errorf("mode %o", mode)
	}
	t.fails(unix.Mkfifo(t.path("p"), 0o600), syscall.EEXIST)
	rw := t.open("p", os.O_RDWR)
	_, err := rw.WriteString("piped")
	t.ok(err)
	buf := make([]byte, 5)
	_, err = rw.Read(buf)
	if string(buf) != "piped" || err != nil {
		t.Errorf("read %q, %v", buf, err)
	}
	t.ok(os.Remove(t.path("p")))
}

func socket(t *T) {
	// The path of a socket is short; a relative one would need chdir.
	fd, err := unix.Open(t.dir, unix.O_PATH, 0)
	t.ok(err)
	defer unix.Close(fd)
	l, err := net.Listen("unix", "/proc/self/fd/"+itoa(fd)+"/s")
	t.ok(err)
	defer l.Close()
	if mode := t.stat("s").Mode & syscall.S_IFMT; mode != syscall.S_IFSOCK {
		t.Errorf("mode %o", mode)
	}
	c, err := net.Dial("unix", "/proc/self/fd/"+itoa(fd)+"/s")
	t.ok(err)
	c.Close()
}

func mknodRegular(t *T) {
	t.ok(unix.Mknod(t.path("f"), unix.S_IFREG|0o640, 0))
	if st := t.stat("f"); st.Mode != unix.S_IFREG|0o640 || st.Size != 0 {
		t.Errorf("mode %o, size %d", st.Mode, st.Size)
	}
	t.fails(unix.Mknod(t.path("f"), unix.S_IFREG|0o640, 0), syscall.EEXIST)
	t.fails(unix.Mknod(t.path("d"), unix.S_IFDIR|0o755, 0), syscall.EPERM)
}

func device(t *T) {
	t.ok(unix.Mknod(t.path("null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	t.ok(unix.Mknod(t.path("big"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70_000))))
	if st := t.stat("null"); st.Mode != unix.S_IFCHR|0o600 || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("mode %o, device %#x", st.Mode, st.Rdev)
	}
	if st := t.stat("big"); st.Rdev != unix.Mkdev(259, 70_000) {
		t.Errorf("device %#x", st.Rdev)
	}
}

func tmpfileLink(t *T) {
	fd, err := unix.Open(t.dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	t.ok(err)
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("appears"))
	t.ok(err)
	if names := t.names(t.dir); len(names) != 0 {
		t.Errorf("a file without a name is listed: %q", names)
	}
	t.ok(unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+itoa(fd), unix.AT_FDCWD, t.path("f"), unix.AT_SYMLINK_FOLLOW))
	t.holds("f", "appears")
	if st := t.stat("f"); st.Nlink != 1 || st.Mode&0o7777 != 0o640 {
		t.Errorf("links %d, mode %o", st.Nlink, st.Mode)
	}
}

func tmpfileVanishes(t *T) {
	fd, err := unix.Open(t.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o600)
	t.ok(err)
	_, err = unix.Write(fd, []byte("x"))
	t.ok(err)
	var st unix.Stat_t
	t.ok(unix.Fstat(fd, &st))
	if st.Nlink != 0 || st.Size != 1 {
		t.Errorf("links %d, size %d", st.Nlink, st.Size)
	}
	t.ok(unix.Close(fd))
	if names := t.names(t.dir); len(names) != 0 {
		t.Errorf("left behind: %q", names)
	}
}

package conformance

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// change is a call, and for names in the test's directory which of their times
// it moves: "m" modification and change, "c" change only, "" none.
type change struct {
	what  string
	call  func(*T) error
	moves map[string]string
}

// changeTimes makes every call that changes something, and a few that do not,
// and looks which times of files and of directories it moves.
func changeTimes(t *T) {
	t.mkdir("d")
	t.mkdir("e")
	t.mkdir("clock")
	t.write("clock/tick", "")
	t.write("d/f", "content")
	t.write("d/from", strings.Repeat("x", 5000))
	f, from := t.open("d/f", os.O_RDWR), t.open("d/from", os.O_RDONLY)
	fd := int(f.Fd())
	for _, c := range []change{
		{"read", func(t *T) error { _, err := f.ReadAt(make([]byte, 3), 0); return err }, map[string]string{"d/f": "", "d": ""}},
		{"open to write", func(t *T) error { return openErr(t.path("d/f"), unix.O_RDWR|unix.O_CREAT) }, map[string]string{"d/f": "", "d": ""}},
		{"write", func(t *T) error { _, err := f.WriteAt([]byte("w"), 0); return err }, map[string]string{"d/f": "m", "d": ""}},
		{"write nothing", func(t *T) error { _, err := unix.Pwrite(fd, nil, 0); return err }, map[string]string{"d/f": ""}},
		{"ftruncate", func(t *T) error { return f.Truncate(3) }, map[string]string{"d/f": "m", "d": ""}},
		{"ftruncate to the same size", func(t *T) error { return f.Truncate(3) }, map[string]string{"d/f": "m"}},
		{"truncate", func(t *T) error { return os.Truncate(t.path("d/f"), 9000) }, map[string]string{"d/f": "m", "d": ""}},
		{"fallocate", func(t *T) error { return unix.Fallocate(fd, 0, 9000, 1000) }, map[string]string{"d/f": "m"}},
		{"punch a hole", func(t *T) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		}, map[string]string{"d/f": "m"}},
		{"copy_file_range", func(t *T) error {
			var a, b int64
			_, err := unix.CopyFileRange(int(from.Fd()), &a, fd, &b, 5000, 0)
			return err
		}, map[string]string{"d/f": "m", "d": "", "d/from": ""}},
		{"open truncating", func(t *T) error { return openErr(t.path("d/f"), unix.O_WRONLY|unix.O_TRUNC) }, map[string]string{"d/f": "m", "d": ""}},
		{"open truncating what is empty", func(t *T) error { return openErr(t.path("d/f"), unix.O_WRONLY|unix.O_TRUNC) }, map[string]string{"d/f": "m"}},
		{"chmod", func(t *T) error { return os.Chmod(t.path("d/f"), 0o640) }, map[string]string{"d/f": "c", "d": ""}},
		{"fchmod of a directory", func(t *T) error { return os.Chmod(t.path("e"), 0o750) }, map[string]string{"e": "c", ".": ""}},
		{"chown", func(t *T) error { return os.Lchown(t.path("d/f"), os.Getuid(), os.Getgid()) }, map[string]string{"d/f": "c", "d": ""}},
		{"utimensat", func(t *T) error {
			return utimens(t, "d/f", unix.Timespec{Sec: 5}, unix.Timespec{Nsec: unix.UTIME_OMIT}, 0)
		}, map[string]string{"d/f": "c"}},
		{"setxattr", func(t *T) error { return unix.Setxattr(t.path("d/f"), "user.x", []byte("x"), 0) }, map[string]string{"d/f": "c", "d": ""}},
		{"removexattr", func(t *T) error { return unix.Removexattr(t.path("d/f"), "user.x") }, map[string]string{"d/f": "c"}},
		{"link", func(t *T) error { return os.Link(t.path("d/f"), t.path("e/g")) }, map[string]string{"d/f": "c", "e": "m", "d": ""}},
		{"rename within", func(t *T) error { return os.Rename(t.path("e/g"), t.path("e/h")) }, map[string]string{"d/f": "c", "e": "m", "d": ""}},
		{"rename across", func(t *T) error { return os.Rename(t.path("e/h"), t.path("d/h")) }, map[string]string{"d/f": "c", "e": "m", "d": "m"}},
		{"unlink one of two", func(t *T) error { return os.Remove(t.path("d/h")) }, map[string]string{"d/f": "c", "d": "m", "e": ""}},
		{"create", func(t *T) error { return openErr(t.path("e/new"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY) }, map[string]string{"e": "m", ".": ""}},
		{"create what exists", func(t *T) error { return unixErr(openErr(t.path("e/new"), unix.O_CREAT|unix.O_EXCL), unix.EEXIST) }, map[string]string{"e": "", "e/new": ""}},
		{"link again", func(t *T) error { return os.Link(t.path("e/new"), t.path("d/kept")) }, map[string]string{"e/new": "c", "e": "", "d": "m"}},
		{"rename onto", func(t *T) error { return os.Rename(t.path("d/from"), t.path("e/new")) }, map[string]string{"d/kept": "c", "e": "m", "d": "m"}},
		{"exchange", func(t *T) error { return renameat2(t, "d/f", "e/new", unix.RENAME_EXCHANGE) }, map[string]string{"d": "m", "e": "m"}},
		{"mkdir", func(t *T) error { return os.Mkdir(t.path("d/sub"), 0o755) }, map[string]string{"d": "m", ".": ""}},
		{"mkdir what exists", func(t *T) error { return unixErr(unix.Mkdir(t.path("d/sub"), 0o755), unix.EEXIST) }, map[string]string{"d": "", "d/sub": ""}},
		{"rename a directory", func(t *T) error { return os.Rename(t.path("d/sub"), t.path("e/sub")) }, map[string]string{"d": "m", "e": "m"}},
		{"rmdir", func(t *T) error { return os.Remove(t.path("e/sub")) }, map[string]string{"e": "m", "d": ""}},
		{"rmdir of a full one", func(t *T) error { return unixErr(unix.Rmdir(t.path("e")), unix.ENOTEMPTY) }, map[string]string{"e": "", ".": ""}},
		{"symlink", func(t *T) error { return os.Symlink("x", t.path("e/l")) }, map[string]string{"e": "m"}},
		{"readlink", func(t *T) error { return readlinkErr(t.path("e/l")) }, map[string]string{"e/l": "", "e": ""}},
		{"mkfifo", func(t *T) error { return unix.Mkfifo(t.path("e/p"), 0o600) }, map[string]string{"e": "m"}},
		{"list", func(t *T) error { _, err := os.ReadDir(t.path("e")); return err }, map[string]string{"e": ""}},
		{"store through a mapping", storeMapped, map[string]string{"e/new": "m", "e": ""}},
	} {
		c.run(t)
	}
}

// storeMapped stores into e/new through a shared mapping and syncs it.
func storeMapped(t *T) error {
	f := t.open("e/new", os.O_RDWR)
	if err := f.Truncate(4096); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	m[7] = 'm'
	return unix.Msync(m, unix.MS_SYNC)
}

// unixErr is nil for the error that is expected.
func unixErr(err error, want syscall.Errno) error {
	if is(err, want) {
		return nil
	}
	return err
}

func (c change) run(t *T) {
	t.Helper()
	past := unix.Timespec{Sec: 1_000_000_000}
	before := map[string]*syscall.Stat_t{}
	for name := range c.moves {
		t.ok(utimens(t, name, unix.Timespec{Nsec: unix.UTIME_OMIT}, past, unix.AT_SYMLINK_NOFOLLOW))
		before[name] = t.stat(name)
	}
	t.tick()
	t.ok(c.call(t))
	for name, was := range before {
		now := t.stat(name)
		var moved string
		switch m, c := now.Mtim != was.Mtim, now.Ctim != was.Ctim; {
		case m && c:
			moved = "m"
		case m:
			moved = "m without c"
		case c:
			moved = "c"
		}
		if moved != c.moves[name] {
			t.Errorf("%s: moves %q of %s, want %q", c.what, moved, name, c.moves[name])
		}
	}
}

// tick returns when the file system's clock has moved on. It uses a file of its
// own, clock/tick.
func (t *T) tick() {
	t.Helper()
	const name = "clock/tick"
	for began := t.stat(name).Ctim; t.stat(name).Ctim == began; {
		t.ok(os.Chmod(t.path(name), 0o600))
	}
}

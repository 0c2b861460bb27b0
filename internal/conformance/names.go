package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func mkdir(t *T) {
	t.ok(os.Mkdir(t.path("d"), 0o777))
	st := t.stat("d")
	if st.Mode != syscall.S_IFDIR|0o755 {
		t.Errorf("mode is %o", st.Mode)
	}
	t.ok(os.Mkdir(t.path("t"), 0o777|os.ModeSticky))
	t.ok(os.Chmod(t.path("t"), 0o777|os.ModeSticky))
	if st := t.stat("t"); st.Mode&0o7777 != 0o1777 {
		t.Errorf("mode with sticky bit is %o", st.Mode)
	}
	if names := t.names(t.path("d")); len(names) != 0 {
		t.Errorf("a new directory holds %q", names)
	}
}

func mkdirErrors(t *T) {
	t.mkdir("d")
	t.write("f", "")
	t.fails(syscall.Mkdir(t.path("d"), 0o755), syscall.EEXIST)
	t.fails(syscall.Mkdir(t.path("f"), 0o755), syscall.EEXIST)
	t.fails(syscall.Mkdir(t.path("none/d"), 0o755), syscall.ENOENT)
	t.fails(syscall.Mkdir(t.path("f/d"), 0o755), syscall.ENOTDIR)
	t.ok(os.Symlink("nowhere", t.path("l")))
	t.fails(syscall.Mkdir(t.path("l"), 0o755), syscall.EEXIST)
}

func rmdirErrors(t *T) {
	t.mkdir("d")
	t.write("d/f", "")
	t.fails(syscall.Rmdir(t.path("d")), syscall.ENOTEMPTY)
	t.fails(syscall.Rmdir(t.path("d/f")), syscall.ENOTDIR)
	t.fails(syscall.Rmdir(t.path("none")), syscall.ENOENT)
	t.fails(syscall.Rmdir(t.path("d")+"/."), syscall.EINVAL)
	t.ok(os.Remove(t.path("d/f")))
	t.ok(syscall.Rmdir(t.path("d")))
	t.missing("d")
}

func rmdirOpen(t *T) {
	d := t.mkdir("d")
	f, err := os.Open(d)
	t.ok(err)
	defer f.Close()
	t.ok(os.Remove(d))
	_, err = unix.Openat(int(f.Fd()), "new", unix.O_CREAT|unix.O_WRONLY, 0o600)
	t.fails(err, syscall.ENOENT)
	_, err = f.Readdirnames(-1)
	t.fails(err, syscall.ENOENT)
}

func dirLinkCount(t *T) {
	t.mkdir("d")
	before := t.stat("d").Nlink
	if before == 1 {
		return // btrfs and others do not count
	}
	t.mkdir("d/a")
	t.mkdir("d/b")
	if n := t.stat("d").Nlink; n != before+2 {
		t.Errorf("%d links with two directories, %d without", n, before)
	}
	t.ok(os.Remove(t.path("d/a")))
	t.ok(os.Rename(t.path("d/b"), t.path("b")))
	if n := t.stat("d").Nlink; n != before {
		t.Errorf("%d links after they are gone, %d before", n, before)
	}
}

func rename(t *T) {
	t.write("a", "data")
	ino := t.stat("a").Ino
	t.ok(os.Rename(t.path("a"), t.path("b")))
	t.missing("a")
	t.holds("b", "data")
	if t.stat("b").Ino != ino {
		t.Error("the inode number has changed")
	}
	t.mkdir("d")
	t.ok(os.Rename(t.path("b"), t.path("d/c")))
	t.missing("b")
	t.holds("d/c", "data")
	t.ok(os.Symlink("x", t.path("l")))
	t.ok(os.Rename(t.path("l"), t.path("m")))
	if target, err := os.Readlink(t.path("m")); target != "x" || err != nil {
		t.Errorf("a renamed link points to %q, %v", target, err)
	}
}

func renameReplace(t *T) {
	t.write("a", "new")
	t.write("b", "old")
	f := t.open("b", os.O_RDONLY)
	t.ok(os.Rename(t.path("a"), t.path("b")))
	t.holds("b", "new")
	t.missing("a")
	buf := make([]byte, 3)
	_, err := f.ReadAt(buf, 0)
	if string(buf) != "old" || err != nil {
		t.Errorf("the replaced file reads %q, %v", buf, err)
	}
	t.mkdir("d")
	t.mkdir("e")
	t.ok(syscall.Rename(t.path("d"), t.path("e")))
	t.missing("d")
}

func renameDirs(t *T) {
	t.mkdir("a")
	t.mkdir("a/sub")
	t.write("a/sub/f", "deep")
	t.mkdir("b")
	t.ok(os.Rename(t.path("a/sub"), t.path("b/moved")))
	t.holds("b/moved/f", "deep")
	t.missing("a/sub")
	up, err := os.Stat(t.path("b/moved/.."))
	t.ok(err)
	b, err := os.Stat(t.path("b"))
	t.ok(err)
	if !os.SameFile(up, b) {
		t.Error("\"..\" of a moved directory is not its new parent")
	}
	t.write("b/moved/g", "more")
	t.ok(os.Rename(t.path("b"), t.path("c")))
	t.holds("c/moved/g", "more")
}

func renameErrors(t *T) {
	t.write("f", "")
	t.mkdir("d")
	t.mkdir("full")
	t.write("full/x", "")
	for _, c := range []struct {
		from, to string
		want     syscall.Errno
	}{
		{"none", "x", syscall.ENOENT},
		{"f", "none/x", syscall.ENOENT},
		{"f", "d", syscall.EISDIR},
		{"d", "f", syscall.ENOTDIR},
		{"d", "full", syscall.ENOTEMPTY},
		{"d", "d/sub", syscall.EINVAL},
		{"f/x", "y", syscall.ENOTDIR},
		{"full", "full/x/y", syscall.ENOTDIR},
	} {
		if err := syscall.Rename(t.path(c.from), t.path(c.to)); err != c.want {
			t.Errorf("rename %s %s: %v, want %v", c.from, c.to, err, c.want)
		}
	}
	t.holds("full/x", "")
}

func renameat2(t *T, from, to string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, t.path(from), unix.AT_FDCWD, t.path(to), flags)
}

func renameNoReplace(t *T) {
	t.write("a", "a")
	t.write("b", "b")
	t.fails(renameat2(t, "a", "b", unix.RENAME_NOREPLACE), syscall.EEXIST)
	t.holds("a", "a")
	t.holds("b", "b")
	t.ok(renameat2(t, "a", "c", unix.RENAME_NOREPLACE))
	t.holds("c", "a")
	t.missing("a")
}

func renameExchange(t *T) {
	t.write("a", "a")
	t.mkdir("d")
	t.write("d/b", "b")
	t.ok(renameat2(t, "a", "d/b", unix.RENAME_EXCHANGE))
	t.holds("a", "b")
	t.holds("d/b", "a")
	t.ok(renameat2(t, "a", "d", unix.RENAME_EXCHANGE))
	t.holds("d", "b")
	t.holds("a/b", "a")
	t.fails(renameat2(t, "a", "none", unix.RENAME_EXCHANGE), syscall.ENOENT)
	t.fails(renameat2(t, "none", "a", unix.RENAME_EXCHANGE), syscall.ENOENT)
}

func renameFlagErrors(t *T) {
	t.write("a", "a")
	t.write("b", "b")
	t.fails(renameat2(t, "a", "b", unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE), syscall.EINVAL)
	t.fails(renameat2(t, "a", "b", 1<<10), syscall.EINVAL)
	t.holds("a", "a")
}

func renameSameFile(t *T) {
	t.write("a", "x")
	t.ok(os.Link(t.path("a"), t.path("b")))
	t.ok(syscall.Rename(t.path("a"), t.path("b")))
	t.holds("a", "x") // two names of one file both stay
	t.holds("b", "x")
	t.ok(syscall.Rename(t.path("a"), t.path("a")))
	t.holds("a", "x")
}

func link(t *T) {
	t.write("a", "one")
	t.ok(os.Link(t.path("a"), t.path("b")))
	a, b := t.stat("a"), t.stat("b")
	if a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
		t.Errorf("inodes %d and %d, links %d and %d", a.Ino, b.Ino, a.Nlink, b.Nlink)
	}
	t.write("b", "two")
	t.holds("a", "two")
	t.ok(os.Remove(t.path("a")))
	if n := t.stat("b").Nlink; n != 1 {
		t.Errorf("%d links after one was removed", n)
	}
	t.ok(os.Symlink("b", t.path("s")))
	t.ok(unix.Linkat(unix.AT_FDCWD, t.path("s"), unix.AT_FDCWD, t.path("s2"), 0))
	if target, err := os.Readlink(t.path("s2")); target != "b" || err != nil {
		t.Errorf("a link to a symlink reads %q, %v", target, err)
	}
}

func linkErrors(t *T) {
	t.write("a", "")
	t.write("b", "")
	t.mkdir("d")
	t.fails(syscall.Link(t.path("a"), t.path("b")), syscall.EEXIST)
	t.fails(syscall.Link(t.path("none"), t.path("c")), syscall.ENOENT)
	t.fails(syscall.Link(t.path("d"), t.path("c")), syscall.EPERM)
	t.fails(syscall.Link(t.path("a"), t.path("none/c")), syscall.ENOENT)
}

func linkKeepsData(t *T) {
	t.write("a", "kept")
	t.ok(os.Link(t.path("a"), t.path("b")))
	f := t.open("a", os.O_RDWR)
	t.ok(os.Remove(t.path("a")))
	_, err := f.WriteAt([]byte("KEPT"), 0)
	t.ok(err)
	t.holds("b", "KEPT")
}

func symlink(t *T) {
	for i, target := range []string{"x", "/absolute/path", "../..", strings.Repeat("long/", 200), "with\nnewline\xff"} {
		name := fmt.Sprint("l", i)
		t.ok(os.Symlink(target, t.path(name)))
		if got, err := os.Readlink(t.path(name)); got != target || err != nil {
			t.Errorf("target %q reads %q, %v", target, got, err)
		}
		st := t.stat(name)
		if st.Mode&syscall.S_IFMT != syscall.S_IFLNK || st.Size != int64(len(target)) {
			t.Errorf("mode %o, size %d", st.Mode, st.Size)
		}
	}
}

func symlinkErrors(t *T) {
	t.write("f", "")
	t.fails(syscall.Symlink("x", t.path("f")), syscall.EEXIST)
	t.fails(syscall.Symlink("x", t.path("none/l")), syscall.ENOENT)
	t.fails(syscall.Symlink("", t.path("l")), syscall.ENOENT)
	t.fails(syscall.Symlink(strings.Repeat("x", 4096), t.path("l")), syscall.ENAMETOOLONG)
	_, err := os.Readlink(t.path("f"))
	t.fails(err, syscall.EINVAL)
	t.ok(os.Symlink("b", t.path("a")))
	t.ok(os.Symlink("a", t.path("b")))
	_, err = os.Stat(t.path("a"))
	t.fails(err, syscall.ELOOP)
}

func symlinkWalk(t *T) {
	t.mkdir("d")
	t.write("d/f", "found")
	t.ok(os.Symlink("d", t.path("l")))
	t.ok(os.Symlink("../d/f", t.path("d/up")))
	t.holds("l/f", "found")
	t.holds("l/up", "found")
	t.write("l/g", "through")
	t.holds("d/g", "through")
	t.ok(os.Symlink("d/made", t.path("dangling")))
	t.write("dangling", "made")
	t.holds("d/made", "made")
}

func longNames(t *T) {
	for _, n := range []int{200, 255} {
		name := strings.Repeat("n", n)
		t.write(name, "long")
		t.holds(name, "long")
	}
	if names := t.names(t.dir); len(names) != 2 || len(names[1]) != 255 {
		t.Errorf("listed %d names", len(names))
	}
	long := strings.Repeat("n", 256)
	_, err := os.Stat(t.path(long))
	t.fails(err, syscall.ENAMETOOLONG)
	t.fails(syscall.Mkdir(t.path(long), 0o755), syscall.ENAMETOOLONG)
	t.fails(os.WriteFile(t.path(long), nil, 0o644), syscall.ENAMETOOLONG)
	t.fails(syscall.Symlink("x", t.path(long)), syscall.ENAMETOOLONG)
	t.fails(syscall.Unlink(t.path(long)), syscall.ENAMETOOLONG)
	t.write("f", "")
	t.fails(syscall.Rename(t.path("f"), t.path(long)), syscall.ENAMETOOLONG)
	t.fails(syscall.Link(t.path("f"), t.path(long)), syscall.ENAMETOOLONG)
}

func oddNames(t *T) {
	names := []string{" ", "-", "...", "..a", "a\nb", "\xff\xfe", "\\", "*", "ü", "\x01", "a b", ".hidden", "CON", "é"}
	for _, name := range names {
		t.write(name, name)
	}
	for _, name := range names {
		t.holds(name, name)
	}
	slices.Sort(names)
	if got := t.names(t.dir); !slices.Equal(got, names) {
		t.Errorf("listed %q, want %q", got, names)
	}
}

func deepTree(t *T) {
	path := t.dir
	for range 60 {
		path = filepath.Join(path, "level")
		t.ok(os.Mkdir(path, 0o755))
	}
	t.ok(os.WriteFile(filepath.Join(path, "f"), []byte("bottom"), 0o644))
	found := 0
	t.ok(filepath.WalkDir(t.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "f" {
			found++
		}
		return err
	}))
	if found != 1 {
		t.Errorf("found the file %d times", found)
	}
}

func negativeEntry(t *T) {
	for range 3 {
		t.missing("later")
	}
	t.write("later", "here")
	t.holds("later", "here")
	t.ok(os.Remove(t.path("later")))
	t.missing("later")
	t.mkdir("later")
	t.ok(os.Remove(t.path("later")))
	t.ok(os.Symlink("x", t.path("later")))
	if _, err := os.Readlink(t.path("later")); err != nil {
		t.Error(err)
	}
}

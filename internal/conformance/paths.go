package conformance

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// pathMax opens files by the longest path there is, and by one that is longer.
func pathMax(t *T) {
	const most = 4095 // PATH_MAX counts the final NUL
	path := func(length int) string {
		p := t.dir + "/"
		p += strings.Repeat("./", (length-len(p)-4)/2)
		return p + strings.Repeat("f", length-len(p))
	}
	t.ok(os.WriteFile(path(most), []byte("far"), 0o644))
	data, err := os.ReadFile(path(most))
	if string(data) != "far" || err != nil {
		t.Errorf("reads %q, %v", data, err)
	}
	t.ok(unix.Mkdir(path(most-1)+"d", 0o755))
	t.fails(unix.Mkdir(path(most+1), 0o755), syscall.ENAMETOOLONG)
	t.fails(openErr(path(most+1), unix.O_CREAT|unix.O_WRONLY), syscall.ENAMETOOLONG)
	t.fails(statErr(path(most+1)), syscall.ENAMETOOLONG)
	t.fails(unix.Rename(path(most), path(most+1)), syscall.ENAMETOOLONG)
}

// deeperThanPaths makes a tree whose paths are longer than any call takes, and
// walks it name by name.
func deeperThanPaths(t *T) {
	const levels = 24
	name := strings.Repeat("d", 255)
	fd, err := unix.Open(t.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	t.ok(err)
	for range levels {
		t.ok(unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		t.ok(err)
		unix.Close(fd)
		fd = next
	}
	defer func() { unix.Close(fd) }()
	f, err := unix.Openat(fd, "bottom", unix.O_CREAT|unix.O_RDWR, 0o600)
	t.ok(err)
	defer unix.Close(f)
	_, err = unix.Write(f, []byte("deep"))
	t.ok(err)
	t.ok(unix.Renameat(fd, "bottom", fd, "below"))
	for range levels {
		up, err := unix.Openat(fd, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		t.ok(err)
		unix.Close(fd)
		fd = up
	}
	var here, top unix.Stat_t
	t.ok(unix.Fstat(fd, &here))
	t.ok(unix.Stat(t.dir, &top))
	if here.Ino != top.Ino {
		t.Error("the way up ends somewhere else")
	}
}

// linkChains follows as many symbolic links as Linux does, and one more.
func linkChains(t *T) {
	const most = 40
	t.write("0", "end")
	for i := range most + 1 {
		t.ok(os.Symlink(fmt.Sprint(i), t.path(fmt.Sprint(i+1))))
	}
	t.holds(fmt.Sprint(most), "end")
	t.fails(openErr(t.path(fmt.Sprint(most+1)), 0), syscall.ELOOP)
}

// longTargets makes symbolic links with the longest targets.
func longTargets(t *T) {
	target := strings.Repeat("x/", 2047) + "y" // 4095 bytes
	t.ok(os.Symlink(target, t.path("l")))
	if got, err := os.Readlink(t.path("l")); got != target || err != nil {
		t.Errorf("a target of %d bytes reads as one of %d, %v", len(target), len(got), err)
	}
	if size := t.stat("l").Size; size != int64(len(target)) {
		t.Errorf("size %d", size)
	}
	buf := make([]byte, 10)
	if n, err := unix.Readlink(t.path("l"), buf); n != 10 || err != nil || string(buf) != target[:10] {
		t.Errorf("a short buffer gets %d bytes, %v", n, err)
	}
}

// anyBytes names files with every byte that a name may hold.
func anyBytes(t *T) {
	var want []string
	for b := 1; b < 256; b++ {
		if b == '/' {
			continue
		}
		name := string([]byte{'n', byte(b)})
		want = append(want, name)
		t.write(name, name)
		if b%16 == 0 {
			t.holds(name, name)
		}
	}
	got := t.names(t.dir)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("listed %d names of %d, or others", len(got), len(want))
	}
}

// createModesAll applies umask and mode in every call that makes an entry.
func createModesAll(t *T) {
	old := syscall.Umask(0o026)
	defer syscall.Umask(old)
	made := map[string]uint32{"file": 0o751, "dir": 0o751, "fifo": 0o751, "node": 0o751, "link": 0o777}
	fd, err := unix.Open(t.path("file"), unix.O_CREAT|unix.O_WRONLY, 0o777)
	t.ok(err)
	unix.Close(fd)
	t.ok(unix.Mkdir(t.path("dir"), 0o777))
	t.ok(unix.Mkfifo(t.path("fifo"), 0o777))
	t.ok(unix.Mknod(t.path("node"), unix.S_IFREG|0o777, 0))
	t.ok(unix.Symlink("x", t.path("link")))
	for name, want := range made {
		if mode := t.stat(name).Mode & 0o7777; mode != want {
			t.Errorf("%s has mode %o, want %o", name, mode, want)
		}
	}
	t.ok(unix.Mkdir(t.path("sticky"), 0o1777))
	if mode := t.stat("sticky").Mode & 0o7777; mode != 0o1751 {
		t.Errorf("a sticky directory has mode %o", mode)
	}
}

// largeOffsets reads and writes around 4 GiB and far beyond.
func largeOffsets(t *T) {
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	for _, at := range []int64{1<<31 - 3, 1<<32 - 3, 1<<40 - 3} {
		_, err := f.WriteAt([]byte("across"), at)
		t.ok(err)
		got := make([]byte, 6)
		_, err = f.ReadAt(got, at)
		if string(got) != "across" || err != nil {
			t.Errorf("at %d: read %q, %v", at, got, err)
		}
		if size := t.stat("f").Size; size != at+6 {
			t.Errorf("size %d, want %d", size, at+6)
		}
	}
	if blocks := t.stat("f").Blocks; blocks > 4096 {
		t.Errorf("the holes take %d blocks", blocks)
	}
	for _, at := range []int64{1 << 62, 1<<63 - 4096} {
		if n, err := f.ReadAt(make([]byte, 100), at); n != 0 || err != io.EOF {
			t.Errorf("read at %d: %d, %v", at, n, err)
		}
	}
	for _, at := range []int64{1<<63 - 4, 1<<63 - 1} {
		if n, err := unix.Pwrite(int(f.Fd()), []byte("beyond"), at); err == nil || n > 0 {
			t.Errorf("wrote %d at %d, %v", n, at, err)
		}
	}
	_, err := unix.Seek(int(f.Fd()), -1, unix.SEEK_SET)
	t.fails(err, syscall.EINVAL)
	_, err = unix.Pread(int(f.Fd()), make([]byte, 1), -1)
	t.fails(err, syscall.EINVAL)
	t.ok(f.Truncate(5 << 30))
	if size := t.stat("f").Size; size != 5<<30 {
		t.Errorf("size %d after truncation", size)
	}
}

// copyWithin copies within one file, and asks for more than there is and than 32
// bits count.
func copyWithin(t *T) {
	t.write("f", "0123456789----------")
	f := t.open("f", os.O_RDWR)
	fd := int(f.Fd())
	var from, to int64 = 0, 10
	n, err := unix.CopyFileRange(fd, &from, fd, &to, 10, 0)
	if n != 10 || err != nil || from != 10 || to != 20 {
		t.Errorf("copied %d, %v, to %d and %d", n, err, from, to)
	}
	t.holds("f", "01234567890123456789")
	g := t.open("g", os.O_CREATE|os.O_RDWR)
	from, to = 5, 3
	n, err = unix.CopyFileRange(fd, &from, int(g.Fd()), &to, 3<<30, 0)
	if n != 15 || err != nil {
		t.Errorf("copied %d, %v", n, err)
	}
	t.holds("g", "\x00\x00\x00567890123456789")
	_, err = unix.CopyFileRange(fd, nil, int(g.Fd()), nil, 1, 1)
	t.fails(err, syscall.EINVAL)
	from, to = -1, 0
	_, err = unix.CopyFileRange(fd, &from, int(g.Fd()), &to, 1, 0)
	t.fails(err, syscall.EOVERFLOW)
}

// seekAfterChanges goes back to a place in a directory after entries have come
// and gone: whatever stayed is listed once.
func seekAfterChanges(t *T) {
	dir := t.mkdir("d")
	names := fill(t, dir, 300)
	f, err := os.Open(dir)
	t.ok(err)
	defer f.Close()
	fd := int(f.Fd())
	seen := map[string]int{}
	var at int64
	for len(seen) < 100 {
		for _, e := range getdents(t, fd, 1024) {
			seen[e.name]++
			at = e.off
		}
	}
	getdents(t, fd, 1024) // read on, to come back
	gone := map[string]bool{}
	for i := 0; i < len(names); i += 3 {
		t.ok(os.Remove(dir + "/" + names[i]))
		gone[names[i]] = true
		t.ok(os.WriteFile(fmt.Sprintf("%s/new-%d", dir, i), nil, 0o644))
	}
	rewind(t, fd, at)
	for _, e := range getdentsAll(t, fd, 1024) {
		seen[e.name]++
	}
	for _, name := range names {
		if n := seen[name]; n > 1 || n == 0 && !gone[name] {
			t.Errorf("%s, gone %t, is listed %d times", name, gone[name], n)
		}
	}
	for name, n := range seen {
		if n > 1 {
			t.Errorf("%s is listed %d times", name, n)
		}
	}
}

// dirRemade keeps a directory open that is removed, and another made under its
// name.
func dirRemade(t *T) {
	d := t.mkdir("d")
	f, err := os.Open(d)
	t.ok(err)
	defer f.Close()
	fd := int(f.Fd())
	old := t.stat("d").Ino
	t.ok(os.Remove(d))
	t.mkdir("d")
	t.write("d/new", "")
	if _, err := unix.Openat(fd, "made", unix.O_CREAT|unix.O_WRONLY, 0o600); !is(err, unix.ENOENT) {
		t.Errorf("create in a removed directory: %v", err)
	}
	t.fails(unix.Mkdirat(fd, "made", 0o700), syscall.ENOENT)
	t.fails(unix.Fstatat(fd, "new", &unix.Stat_t{}, 0), syscall.ENOENT)
	var st unix.Stat_t
	t.ok(unix.Fstat(fd, &st))
	if st.Nlink != 0 || st.Ino != old {
		t.Errorf("the removed directory has %d links, inode %d, had %d", st.Nlink, st.Ino, old)
	}
	if got := t.names(d); len(got) != 1 {
		t.Errorf("the new directory holds %q", got)
	}
}

// pathAfterRename asks where an open directory is while its parents are renamed.
func pathAfterRename(t *T) {
	t.mkdir("a")
	t.mkdir("a/b")
	f, err := os.Open(t.path("a/b"))
	t.ok(err)
	defer f.Close()
	t.ok(os.Rename(t.path("a"), t.path("c")))
	t.ok(os.Rename(t.path("c/b"), t.path("c/e")))
	link := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	got, err := os.Readlink(link)
	t.ok(err)
	var here, there unix.Stat_t
	t.ok(unix.Fstat(int(f.Fd()), &here))
	t.ok(unix.Stat(got, &there))
	if !strings.HasSuffix(got, "/c/e") || here.Ino != there.Ino {
		t.Errorf("the directory is at %s", got)
	}
}

// unlinkedMapped goes on using a file without a name by all means.
func unlinkedMapped(t *T) {
	t.write("f", strings.Repeat("a", 8192))
	f := t.open("f", os.O_RDWR)
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	t.ok(err)
	defer unix.Munmap(m)
	t.ok(os.Remove(t.path("f")))
	copy(m[4090:], "mapped")
	t.ok(unix.Msync(m, unix.MS_SYNC))
	got := make([]byte, 6)
	_, err = f.ReadAt(got, 4090)
	if string(got) != "mapped" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	t.ok(unix.Fsetxattr(int(f.Fd()), "user.late", []byte("x"), 0))
	t.ok(unix.Futimes(int(f.Fd()), []unix.Timeval{{Sec: 1}, {Sec: 2}}))
	t.ok(unix.Fallocate(int(f.Fd()), 0, 8192, 4096))
	var st unix.Stat_t
	t.ok(unix.Fstat(int(f.Fd()), &st))
	if st.Size != 12288 || st.Nlink != 0 {
		t.Errorf("size %d, links %d", st.Size, st.Nlink)
	}
	data := make([]byte, 8192)
	_, err = f.ReadAt(data, 0)
	t.ok(err)
	if !bytes.Equal(data[:4090], bytes.Repeat([]byte("a"), 4090)) {
		t.Error("the content has changed")
	}
	if names := t.names(t.dir); len(names) != 0 {
		t.Errorf("the directory holds %q", names)
	}
}

package conformance

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

func createModes(t *T) {
	for _, mode := range []uint32{0o644, 0o600, 0o755, 0o444, 0o000, 0o777} {
		name := fmt.Sprintf("m%o", mode)
		fd, err := syscall.Open(t.path(name), syscall.O_CREAT|syscall.O_RDWR|syscall.O_EXCL, mode)
		t.ok(err)
		if _, err := syscall.Write(fd, []byte("x")); err != nil {
			t.Errorf("mode %o: the creator cannot write: %v", mode, err)
		}
		syscall.Close(fd)
		if got, want := t.stat(name).Mode&0o7777, mode&^0o022; got != want {
			t.Errorf("created with %o: mode is %o, want %o", mode, got, want)
		}
	}
}

func createExclusive(t *T) {
	t.write("a", "data")
	_, err := os.OpenFile(t.path("a"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	t.fails(err, syscall.EEXIST)
	t.ok(os.Symlink("nowhere", t.path("l")))
	_, err = os.OpenFile(t.path("l"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	t.fails(err, syscall.EEXIST)
	t.missing("nowhere")
	t.mkdir("d")
	_, err = os.OpenFile(t.path("d"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	t.fails(err, syscall.EEXIST)
	t.holds("a", "data")

	// Of many that create the same name exclusively one succeeds.
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 16 {
		wg.Go(func() {
			f, err := os.OpenFile(t.path("race"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err == nil {
				f.Close()
				mu.Lock()
				made++
				mu.Unlock()
			} else {
				t.fails(err, syscall.EEXIST)
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("%d of 16 exclusive creates succeeded", made)
	}
}

func openErrors(t *T) {
	t.write("f", "x")
	t.mkdir("d")
	for _, c := range []struct {
		name  string
		flags int
		want  syscall.Errno
	}{
		{"none", os.O_RDONLY, syscall.ENOENT},
		{"none/x", os.O_RDONLY, syscall.ENOENT},
		{"none/x", os.O_CREATE | os.O_WRONLY, syscall.ENOENT},
		{"f/x", os.O_RDONLY, syscall.ENOTDIR},
		{"f/x", os.O_CREATE | os.O_WRONLY, syscall.ENOTDIR},
		{"d", os.O_WRONLY, syscall.EISDIR},
		{"d", os.O_RDWR, syscall.EISDIR},
		{"d", os.O_RDONLY | os.O_CREATE, syscall.EISDIR},
		{"f", syscall.O_DIRECTORY, syscall.ENOTDIR},
	} {
		f, err := os.OpenFile(t.path(c.name), c.flags, 0o644)
		if err == nil {
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want.Error()) {
			t.Errorf("open %s with %#x: got %v, want %v", c.name, c.flags, err, c.want)
		}
	}
}

func openTruncate(t *T) {
	t.write("f", "some content")
	f := t.open("f", os.O_RDWR|os.O_TRUNC)
	if size := t.stat("f").Size; size != 0 {
		t.Errorf("size is %d after O_TRUNC", size)
	}
	_, err := f.WriteString("new")
	t.ok(err)
	t.holds("f", "new")
	t.open("f", os.O_CREATE|os.O_WRONLY|os.O_TRUNC)
	t.holds("f", "")
}

func openNoFollow(t *T) {
	t.write("f", "x")
	t.ok(os.Symlink("f", t.path("l")))
	_, err := os.OpenFile(t.path("l"), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	t.fails(err, syscall.ELOOP)
	fd, err := unix.Open(t.path("l"), unix.O_PATH|unix.O_NOFOLLOW, 0)
	t.ok(err)
	defer unix.Close(fd)
	var st unix.Stat_t
	t.ok(unix.Fstat(fd, &st))
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("O_PATH|O_NOFOLLOW gave mode %o", st.Mode)
	}
}

func openDirectory(t *T) {
	d := t.open("", os.O_RDONLY|syscall.O_DIRECTORY)
	_, err := d.Read(make([]byte, 1))
	t.fails(err, syscall.EISDIR)
	fd, err := unix.Openat(int(d.Fd()), "new", unix.O_CREAT|unix.O_WRONLY, 0o600)
	t.ok(err)
	unix.Close(fd)
	t.holds("new", "")
}

func readWriteAt(t *T) {
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	rng := rand.New(rand.NewSource(1))
	model := make([]byte, 300_000)
	for range 200 {
		off, n := rng.Intn(len(model)-9000), 1+rng.Intn(9000)
		chunk := make([]byte, n)
		rng.Read(chunk)
		copy(model[off:], chunk)
		_, err := f.WriteAt(chunk, int64(off))
		t.ok(err)
		roff, rn := rng.Intn(len(model)), 1+rng.Intn(20000)
		got := make([]byte, rn)
		m, err := f.ReadAt(got, int64(roff))
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:m], model[roff:roff+m]) {
			t.Fatalf("read %d bytes at %d: wrong content", m, roff)
		}
	}
	size := t.stat("f").Size
	got, err := os.ReadFile(t.path("f"))
	t.ok(err)
	if int64(len(got)) != size || !bytes.Equal(got, model[:size]) {
		t.Error("the file differs from what was written")
	}
	n, err := f.ReadAt(make([]byte, 10), size)
	if n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
}

func accessModes(t *T) {
	t.write("f", "x")
	_, err := t.open("f", os.O_RDONLY).Write([]byte("y"))
	t.fails(err, syscall.EBADF)
	_, err = t.open("f", os.O_WRONLY).Read(make([]byte, 1))
	t.fails(err, syscall.EBADF)
	t.fails(t.open("f", os.O_RDONLY).Truncate(0), syscall.EINVAL)
	t.holds("f", "x")
}

func writeLarge(t *T) {
	data := make([]byte, 5<<20+123)
	rand.New(rand.NewSource(2)).Read(data)
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	n, err := f.Write(data)
	if n != len(data) || err != nil {
		t.Fatalf("wrote %d of %d: %v", n, len(data), err)
	}
	got := make([]byte, len(data)+1)
	n, err = f.ReadAt(got, 0)
	if n != len(data) || err != io.EOF || !bytes.Equal(got[:n], data) {
		t.Errorf("read %d of %d bytes back: %v", n, len(data), err)
	}
}

func writeVectors(t *T) {
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	n, err := unix.Pwritev(int(f.Fd()), [][]byte{[]byte("one "), []byte("two "), []byte("three")}, 2)
	if n != 13 || err != nil {
		t.Fatalf("pwritev: %d, %v", n, err)
	}
	t.holds("f", "\x00\x00one two three")
	a, b := make([]byte, 4), make([]byte, 20)
	n, err = unix.Preadv(int(f.Fd()), [][]byte{a, b}, 2)
	if n != 13 || err != nil || string(a)+string(b[:9]) != "one two three" {
		t.Errorf("preadv: %d, %v, %q%q", n, err, a, b)
	}
}

func fsync(t *T) {
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	_, err := f.WriteString("data")
	t.ok(err)
	t.ok(f.Sync())
	t.ok(unix.Fdatasync(int(f.Fd())))
	t.ok(t.open("f", os.O_RDONLY).Sync())
}

func syncWrites(t *T) {
	for _, flag := range []int{syscall.O_SYNC, syscall.O_DSYNC} {
		f := t.open("f", os.O_CREATE|os.O_RDWR|os.O_TRUNC|flag)
		_, err := f.WriteString("synchronous")
		t.ok(err)
		t.holds("f", "synchronous")
	}
}

func directIO(t *T) {
	fd, err := unix.Open(t.path("f"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	if err == unix.EINVAL {
		return // a file system of the plain directory may have none
	}
	t.ok(err)
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	t.ok(err)
	defer unix.Munmap(buf)
	rand.New(rand.NewSource(3)).Read(buf)
	n, err := unix.Pwrite(fd, buf, 4096)
	if n != len(buf) || err != nil {
		t.Fatalf("direct write: %d, %v", n, err)
	}
	want := append(make([]byte, 4096), buf...)
	t.holds("f", string(want))
	clear(buf)
	n, err = unix.Pread(fd, buf, 4096)
	if n != len(buf) || err != nil || !bytes.Equal(buf, want[4096:]) {
		t.Errorf("direct read: %d, %v", n, err)
	}
}

func mmapShared(t *T) {
	const size = 5 * 4096
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	t.ok(f.Truncate(size))
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	t.ok(err)
	copy(m[4090:], "across a page")
	got := make([]byte, 13)
	_, err = f.ReadAt(got, 4090)
	t.ok(err)
	if string(got) != "across a page" {
		t.Errorf("read sees %q of the mapping", got)
	}
	_, err = f.WriteAt([]byte("written"), 8192)
	t.ok(err)
	if string(m[8192:8199]) != "written" {
		t.Errorf("the mapping sees %q of the write", m[8192:8199])
	}
	copy(m[3*4096:], "synced")
	t.ok(unix.Msync(m, unix.MS_SYNC))
	t.ok(unix.Munmap(m))
	f.Close()
	data, err := os.ReadFile(t.path("f"))
	t.ok(err)
	if len(data) != size || string(data[4090:4103]) != "across a page" || string(data[3*4096:3*4096+6]) != "synced" {
		t.Error("the file lacks what was stored through the mapping")
	}
}

func mmapPrivate(t *T) {
	t.write("f", strings.Repeat("a", 8192))
	f := t.open("f", os.O_RDONLY)
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	t.ok(err)
	defer unix.Munmap(m)
	m[0] = 'b'
	if m[1] != 'a' || m[8191] != 'a' {
		t.Error("the mapping does not show the file")
	}
	t.holds("f", strings.Repeat("a", 8192))
}

func manyReaders(t *T) {
	const files, size = 16, 200_000
	for i := range files {
		t.write(fmt.Sprint(i), strings.Repeat(string(rune('a'+i)), size))
	}
	var wg sync.WaitGroup
	for i := range files {
		for range 2 {
			wg.Go(func() { t.holds(fmt.Sprint(i), strings.Repeat(string(rune('a'+i)), size)) })
		}
	}
	wg.Wait()
}

func unlinkOpen(t *T) {
	t.write("f", "before")
	f := t.open("f", os.O_RDWR)
	t.ok(os.Remove(t.path("f")))
	t.missing("f")
	_, err := f.WriteAt([]byte("after!"), 0)
	t.ok(err)
	got := make([]byte, 6)
	_, err = f.ReadAt(got, 0)
	t.ok(err)
	if string(got) != "after!" {
		t.Errorf("read %q", got)
	}
	t.write("f", "another")
	_, err = f.ReadAt(got, 0)
	t.ok(err)
	if string(got) != "after!" {
		t.Errorf("read %q of a file with the same name", got)
	}
	if names := t.names(t.dir); len(names) != 1 {
		t.Errorf("the directory holds %q", names)
	}
}

func unlinkOpenAttrs(t *T) {
	t.write("f", "1234")
	f := t.open("f", os.O_RDWR)
	t.ok(os.Remove(t.path("f")))
	var st syscall.Stat_t
	t.ok(syscall.Fstat(int(f.Fd()), &st))
	if st.Nlink != 0 || st.Size != 4 {
		t.Errorf("nlink %d, size %d", st.Nlink, st.Size)
	}
	t.ok(f.Truncate(2))
	t.ok(f.Chmod(0o600))
	t.ok(f.Sync())
	t.ok(syscall.Fstat(int(f.Fd()), &st))
	if st.Size != 2 || st.Mode&0o777 != 0o600 {
		t.Errorf("size %d, mode %o", st.Size, st.Mode)
	}
}

func unlinkErrors(t *T) {
	t.mkdir("d")
	t.write("f", "")
	t.fails(syscall.Unlink(t.path("none")), syscall.ENOENT)
	t.fails(syscall.Unlink(t.path("d")), syscall.EISDIR)
	t.fails(syscall.Unlink(t.path("f/x")), syscall.ENOTDIR)
	t.ok(os.Symlink("f", t.path("l")))
	t.ok(syscall.Unlink(t.path("l")))
	t.holds("f", "")
}

func renameOpen(t *T) {
	t.write("a", "data")
	f := t.open("a", os.O_RDWR)
	t.mkdir("d")
	t.ok(os.Rename(t.path("a"), t.path("d/b")))
	_, err := f.WriteAt([]byte("DATA"), 0)
	t.ok(err)
	t.holds("d/b", "DATA")
	t.missing("a")
}

func ioctlUnknown(t *T) {
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	_, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGWINSZ)
	t.fails(err, syscall.ENOTTY)
}

func execFile(t *T) {
	t.ok(os.WriteFile(t.path("script"), []byte("#!/bin/sh\necho ran\n"), 0o755))
	out, err := exec.Command(t.path("script")).CombinedOutput()
	if err != nil || string(out) != "ran\n" {
		t.Errorf("script: %q, %v", out, err)
	}
	t.ok(os.Chmod(t.path("script"), 0o644))
	t.fails(exec.Command(t.path("script")).Run(), syscall.EACCES)
}

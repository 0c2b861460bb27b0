package conformance

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

func appendWrites(t *T) {
	t.write("f", "start")
	f := t.open("f", os.O_WRONLY|os.O_APPEND)
	for _, s := range []string{" one", " two"} {
		_, err := f.WriteString(s)
		t.ok(err)
	}
	t.holds("f", "start one two")
	t.ok(os.Truncate(t.path("f"), 0))
	_, err := f.WriteString("again")
	t.ok(err)
	t.holds("f", "again")
	t.open("new", os.O_CREATE|os.O_WRONLY|os.O_APPEND).WriteString("x")
	t.holds("new", "x")
}

// appendTwo has many writers append lines through descriptors of their own.
func appendTwo(t *T) {
	const writers, lines = 8, 40
	var wg sync.WaitGroup
	for w := range writers {
		f := t.open("log", os.O_CREATE|os.O_WRONLY|os.O_APPEND)
		wg.Go(func() {
			for i := range lines {
				if _, err := fmt.Fprintf(f, "writer %d line %02d\n", w, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	data, err := os.ReadFile(t.path("log"))
	t.ok(err)
	seen := map[string]int{}
	for line := range strings.Lines(string(data)) {
		seen[line]++
	}
	if len(seen) != writers*lines || bytes.IndexByte(data, 0) >= 0 {
		t.Errorf("%d different lines of %d in %d bytes", len(seen), writers*lines, len(data))
	}
}

func appendFcntl(t *T) {
	t.write("f", "0123456789")
	f := t.open("f", os.O_RDWR)
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_APPEND)
	t.ok(err)
	_, err = unix.Write(int(f.Fd()), []byte("end"))
	t.ok(err)
	t.holds("f", "0123456789end")
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, 0)
	t.ok(err)
	_, err = unix.Pwrite(int(f.Fd()), []byte("START"), 0)
	t.ok(err)
	t.holds("f", "START56789end")

	// The other way round: open for appending, then not any more.
	g := t.open("f", os.O_RDWR|os.O_APPEND)
	_, err = unix.FcntlInt(g.Fd(), unix.F_SETFL, 0)
	t.ok(err)
	_, err = unix.Pwrite(int(g.Fd()), []byte("xx"), 0)
	t.ok(err)
	t.holds("f", "xxART56789end")
}

// appendMmap stores through a mapping of a file that is open for appending:
// what lies in the middle stays in the middle.
func appendMmap(t *T) {
	t.write("f", strings.Repeat("a", 8192))
	f := t.open("f", os.O_RDWR|os.O_APPEND)
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	t.ok(err)
	copy(m[100:], "MAPPED")
	t.ok(unix.Msync(m, unix.MS_SYNC))
	t.ok(unix.Munmap(m))
	_, err = f.WriteString("tail")
	t.ok(err)
	t.holds("f", strings.Repeat("a", 100)+"MAPPED"+strings.Repeat("a", 8192-106)+"tail")
}

func truncate(t *T) {
	t.write("f", "0123456789")
	t.ok(os.Truncate(t.path("f"), 4))
	t.holds("f", "0123")
	t.ok(os.Truncate(t.path("f"), 8))
	t.holds("f", "0123\x00\x00\x00\x00")
	f := t.open("f", os.O_RDWR)
	t.ok(f.Truncate(2))
	t.holds("f", "01")
	t.ok(f.Truncate(10_000))
	t.holds("f", "01"+strings.Repeat("\x00", 9998))
	// What was cut off does not come back.
	_, err := f.WriteAt([]byte("secret"), 5000)
	t.ok(err)
	t.ok(f.Truncate(5001))
	t.ok(f.Truncate(5006))
	t.holds("f", "01"+strings.Repeat("\x00", 4998)+"s"+strings.Repeat("\x00", 5))
}

func truncateErrors(t *T) {
	t.mkdir("d")
	t.fails(os.Truncate(t.path("none"), 0), syscall.ENOENT)
	t.fails(os.Truncate(t.path("d"), 0), syscall.EISDIR)
	t.write("f", "x")
	t.fails(syscall.Truncate(t.path("f"), -1), syscall.EINVAL)
	t.holds("f", "x")
}

// truncateSeen looks at a file through one descriptor while it is cut and
// extended through another.
func truncateSeen(t *T) {
	t.write("f", strings.Repeat("x", 10_000))
	r, w := t.open("f", os.O_RDONLY), t.open("f", os.O_RDWR)
	buf := make([]byte, 10_000)
	_, err := r.ReadAt(buf, 0)
	t.ok(err)
	t.ok(w.Truncate(10))
	n, err := r.ReadAt(buf, 0)
	if n != 10 || err != io.EOF {
		t.Errorf("read %d, %v after truncation to 10", n, err)
	}
	_, err = w.WriteAt([]byte("y"), 20)
	t.ok(err)
	n, _ = r.ReadAt(buf, 0)
	if want := strings.Repeat("x", 10) + strings.Repeat("\x00", 10) + "y"; string(buf[:n]) != want {
		t.Errorf("read %q", buf[:n])
	}
}

func holes(t *T) {
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	const far = 5 << 30
	_, err := f.WriteAt([]byte("end"), far)
	t.ok(err)
	st := t.stat("f")
	if st.Size != far+3 {
		t.Errorf("size %d", st.Size)
	}
	if st.Blocks*512 > 1<<20 {
		t.Errorf("a hole takes %d blocks", st.Blocks)
	}
	buf := make([]byte, 100_000)
	_, err = f.ReadAt(buf, 1<<30)
	t.ok(err)
	if !bytes.Equal(buf, make([]byte, len(buf))) {
		t.Error("a hole does not read as zeros")
	}
	n, err := f.ReadAt(buf, far)
	if string(buf[:n]) != "end" || err != io.EOF {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func seekDataHole(t *T) {
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	const at = 1 << 20
	_, err := f.WriteAt(make([]byte, 4096), at)
	t.ok(err)
	t.ok(f.Truncate(2 * at))
	t.ok(f.Sync())
	for _, c := range []struct {
		from   int64
		whence int
		want   int64
	}{{0, unix.SEEK_HOLE, 0}, {at, unix.SEEK_DATA, at}, {2*at - 1, unix.SEEK_HOLE, 2*at - 1}} {
		got, err := unix.Seek(int(f.Fd()), c.from, c.whence)
		if err != nil || got != c.want {
			t.Errorf("seek %d from %d: %d, %v; want %d", c.whence, c.from, got, err, c.want)
		}
	}
	if got, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); err != nil || got > at {
		t.Errorf("first data at %d, %v", got, err)
	}
	_, err = unix.Seek(int(f.Fd()), 2*at, unix.SEEK_DATA)
	t.fails(err, syscall.ENXIO)
	_, err = unix.Seek(int(f.Fd()), 2*at+1, unix.SEEK_HOLE)
	t.fails(err, syscall.ENXIO)
}

func fallocate(t *T) {
	f := t.open("f", os.O_CREATE|os.O_RDWR)
	fd := int(f.Fd())
	t.ok(unix.Fallocate(fd, 0, 0, 10_000))
	if size := t.stat("f").Size; size != 10_000 {
		t.Errorf("size %d after allocation", size)
	}
	t.ok(unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 10_000, 50_000))
	if size := t.stat("f").Size; size != 10_000 {
		t.Errorf("size %d after allocation beyond the end", size)
	}
	_, err := f.WriteAt(bytes.Repeat([]byte("x"), 12_288), 0)
	t.ok(err)
	t.ok(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 4096))
	want := strings.Repeat("x", 4096) + strings.Repeat("\x00", 4096) + strings.Repeat("x", 4096)
	t.holds("f", want)
	if err := unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 10); err != unix.EOPNOTSUPP {
		t.ok(err) // tmpfs has none
		t.holds("f", strings.Repeat("\x00", 10)+want[10:])
	}
}

func fallocateErrors(t *T) {
	t.write("f", "x")
	t.fails(unix.Fallocate(int(t.open("f", os.O_RDONLY).Fd()), 0, 0, 10), syscall.EBADF)
	f := t.open("f", os.O_RDWR)
	t.fails(unix.Fallocate(int(f.Fd()), 0, 0, 0), syscall.EINVAL)
	t.fails(unix.Fallocate(int(f.Fd()), 0, -1, 10), syscall.EINVAL)
	t.holds("f", "x")
}

func copyFileRange(t *T) {
	data := strings.Repeat("0123456789", 50_000)
	t.write("from", data)
	from, to := t.open("from", os.O_RDONLY), t.open("to", os.O_CREATE|os.O_RDWR)
	buf := make([]byte, 10) // let the target's first page be cached
	_, err := to.WriteAt(bytes.Repeat([]byte("-"), 100), 0)
	t.ok(err)
	_, err = to.ReadAt(buf, 0)
	t.ok(err)
	var roff, woff int64 = 5, 50
	for left := len(data) - 5; left > 0; {
		n, err := unix.CopyFileRange(int(from.Fd()), &roff, int(to.Fd()), &woff, left, 0)
		t.ok(err)
		if n == 0 {
			t.Fatalf("copied nothing, %d left", left)
		}
		left -= n
	}
	t.holds("to", strings.Repeat("-", 50)+data[5:])
	n, err := unix.CopyFileRange(int(from.Fd()), &roff, int(to.Fd()), &woff, 10, 0)
	if n != 0 || err != nil {
		t.Errorf("copy at the end: %d, %v", n, err)
	}
}

func copyOverlap(t *T) {
	t.write("f", "0123456789")
	f := t.open("f", os.O_RDWR)
	var roff, woff int64 = 0, 5
	_, err := unix.CopyFileRange(int(f.Fd()), &roff, int(f.Fd()), &woff, 8, 0)
	t.fails(err, syscall.EINVAL)
	t.holds("f", "0123456789")
	_, err = unix.CopyFileRange(int(f.Fd()), &roff, int(t.open("f", os.O_RDONLY).Fd()), nil, 2, 0)
	t.fails(err, syscall.EBADF)
}

package conformance

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// dirent is an entry as getdents64(2) gives it.
type dirent struct {
	name string
	ino  uint64
	off  int64
	typ  byte
}

// getdents reads entries with a buffer of size bytes; nil at the end.
func getdents(t *T, fd, size int) (list []dirent) {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	t.ok(err)
	for b := buf[:n]; len(b) > 0; {
		reclen := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := strings.Cut(string(b[19:reclen]), "\x00")
		list = append(list, dirent{
			name: name, ino: binary.NativeEndian.Uint64(b), off: int64(binary.NativeEndian.Uint64(b[8:])), typ: b[18],
		})
		b = b[reclen:]
	}
	return list
}

func getdentsAll(t *T, fd, size int) (list []dirent) {
	t.Helper()
	for {
		next := getdents(t, fd, size)
		if next == nil {
			return list
		}
		list = append(list, next...)
	}
}

func rewind(t *T, fd int, off int64) {
	t.Helper()
	_, err := unix.Seek(fd, off, io.SeekStart)
	t.ok(err)
}

func entryNames(list []dirent) (names []string) {
	for _, e := range list {
		if e.name != "." && e.name != ".." {
			names = append(names, e.name)
		}
	}
	sort.Strings(names)
	return names
}

// fill makes n empty files and returns their names, sorted.
func fill(t *T, dir string, n int) (names []string) {
	t.Helper()
	for i := range n {
		names = append(names, fmt.Sprintf("file-%05d", i))
	}
	const makers = 8
	var wg sync.WaitGroup
	for m := range makers {
		wg.Go(func() {
			for i := m; i < n; i += makers {
				if err := os.WriteFile(dir+"/"+names[i], nil, 0o644); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return names
}

// readdirMany lists 10 000 entries while every other one is being removed: what
// stays is listed exactly once, what goes at most once.
func readdirMany(t *T) {
	dir := t.mkdir("many")
	names := fill(t, dir, 10_000)
	if got := t.names(dir); !slices.Equal(got, names) {
		t.Fatalf("listed %d of %d names", len(got), len(names))
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; i < len(names); i += 2 {
			if err := os.Remove(dir + "/" + names[i]); err != nil {
				t.Error(err)
			}
		}
	})
	f, err := os.Open(dir)
	t.ok(err)
	defer f.Close()
	seen := map[string]int{}
	for _, e := range getdentsAll(t, int(f.Fd()), 4096) {
		seen[e.name]++
	}
	wg.Wait()
	for i, name := range names {
		if n := seen[name]; n > 1 || n == 0 && i%2 == 1 {
			t.Errorf("%s was listed %d times", name, n)
		}
	}
	if got := t.names(dir); len(got) != len(names)/2 {
		t.Errorf("%d names remain", len(got))
	}
	if infos, err := os.ReadDir(dir); err != nil || len(infos) != len(names)/2 {
		t.Errorf("ReadDir: %d, %v", len(infos), err)
	}
}

// readdirUnlink removes what it has just read, as rm -r does.
func readdirUnlink(t *T) {
	dir := t.mkdir("d")
	fill(t, dir, 700)
	f, err := os.Open(dir)
	t.ok(err)
	defer f.Close()
	removed := 0
	for {
		list := getdents(t, int(f.Fd()), 2048)
		if list == nil {
			break
		}
		for _, name := range entryNames(list) {
			t.ok(os.Remove(dir + "/" + name))
			removed++
			if _, err := os.Lstat(dir + "/" + name); !os.IsNotExist(err) {
				t.Fatalf("%s is still there: %v", name, err)
			}
		}
	}
	if removed != 700 {
		t.Errorf("removed %d of 700", removed)
	}
	t.ok(os.Remove(dir))
}

func readdirRewind(t *T) {
	dir := t.mkdir("d")
	names := fill(t, dir, 20)
	f, err := os.Open(dir)
	t.ok(err)
	defer f.Close()
	fd := int(f.Fd())
	if got := entryNames(getdentsAll(t, fd, 4096)); !slices.Equal(got, names) {
		t.Errorf("listed %q", got)
	}
	if got := getdents(t, fd, 4096); got != nil {
		t.Errorf("%v after the end", got)
	}
	t.ok(os.Remove(dir + "/file-00003"))
	t.ok(os.WriteFile(dir+"/new", nil, 0o644))
	rewind(t, fd, 0)
	want := append(slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "file-00003" }), "new")
	if got := entryNames(getdentsAll(t, fd, 4096)); !slices.Equal(got, want) {
		t.Errorf("after rewinding %q, want %q", got, want)
	}
}

func readdirSeek(t *T) {
	dir := t.mkdir("d")
	fill(t, dir, 300)
	f, err := os.Open(dir)
	t.ok(err)
	defer f.Close()
	fd := int(f.Fd())
	all := getdentsAll(t, fd, 1024)
	if len(all) != 302 {
		t.Fatalf("%d entries", len(all))
	}
	for _, i := range []int{0, 1, 2, 150, 3, 299, 300, 100} {
		rewind(t, fd, all[i].off)
		got := getdents(t, fd, 1024)
		if len(got) == 0 || got[0].name != all[i+1].name {
			t.Errorf("after the place behind %q comes %v, want %q", all[i].name, got, all[i+1].name)
		}
	}
	rewind(t, fd, all[301].off)
	if got := getdents(t, fd, 1024); got != nil {
		t.Errorf("behind the last entry comes %v", got)
	}
}

func readdirDots(t *T) {
	dir := t.mkdir("d")
	f, err := os.Open(dir)
	t.ok(err)
	defer f.Close()
	list := getdentsAll(t, int(f.Fd()), 1024)
	dots := map[string]uint64{}
	for _, e := range list {
		dots[e.name] = e.ino
		if e.typ != unix.DT_DIR {
			t.Errorf("%s has type %d", e.name, e.typ)
		}
	}
	if len(list) != 2 || len(dots) != 2 {
		t.Errorf("an empty directory lists %v", list)
	}
	if dots["."] != t.stat("d").Ino {
		t.Errorf("\".\" has inode %d, the directory %d", dots["."], t.stat("d").Ino)
	}
}

func readdirTypes(t *T) {
	t.write("file", "")
	t.mkdir("dir")
	t.ok(os.Symlink("x", t.path("link")))
	t.ok(unix.Mkfifo(t.path("fifo"), 0o644))
	want := map[string]byte{"file": unix.DT_REG, "dir": unix.DT_DIR, "link": unix.DT_LNK, "fifo": unix.DT_FIFO}
	f := t.open("", os.O_RDONLY)
	for _, e := range getdentsAll(t, int(f.Fd()), 4096) {
		if typ, ok := want[e.name]; ok {
			if e.typ != typ && e.typ != unix.DT_UNKNOWN {
				t.Errorf("%s has type %d, want %d", e.name, e.typ, typ)
			}
			if ino := t.stat(e.name).Ino; ino != e.ino {
				t.Errorf("%s is listed with inode %d, stat says %d", e.name, e.ino, ino)
			}
			delete(want, e.name)
		}
	}
	if len(want) != 0 {
		t.Errorf("not listed: %v", want)
	}
}

func readdirSmallBuffer(t *T) {
	dir := t.mkdir("d")
	long := strings.Repeat("x", 255)
	for i := range 10 {
		t.ok(os.WriteFile(fmt.Sprintf("%s/%d%s", dir, i, long[1:]), nil, 0o644))
	}
	f, err := os.Open(dir)
	t.ok(err)
	defer f.Close()
	if got := getdentsAll(t, int(f.Fd()), 300); len(got) != 12 {
		t.Errorf("%d entries through a small buffer", len(got))
	}
	rewind(t, int(f.Fd()), 0)
	_, err = unix.Getdents(int(f.Fd()), make([]byte, 8))
	t.fails(err, syscall.EINVAL)
}

// readdirFresh wants the attributes that a listing brings to be no older than
// what this process has done itself.
func readdirFresh(t *T) {
	dir := t.mkdir("d")
	names := fill(t, dir, 400)
	f, err := os.Open(dir)
	t.ok(err)
	defer f.Close()
	fd := int(f.Fd())
	getdents(t, fd, 512)
	for _, name := range names[200:] {
		t.ok(os.WriteFile(dir+"/"+name, []byte(name), 0o644))
	}
	for list := getdents(t, fd, 512); list != nil; list = getdents(t, fd, 512) {
		for _, e := range list {
			if st := t.stat("d/" + e.name); e.name >= names[200] && e.name[0] == 'f' && st.Size != int64(len(e.name)) {
				t.Fatalf("%s has size %d after it was written", e.name, st.Size)
			}
		}
	}
}

func fsyncDir(t *T) {
	d := t.open("", os.O_RDONLY)
	t.write("f", "x")
	t.ok(d.Sync())
}

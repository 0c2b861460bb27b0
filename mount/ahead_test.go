package mount_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/mount"
)

// makeForest makes directories in n directories, with files in all of them, and returns
// how many there are of each.
func (w *world) makeForest(n int) (dirs, files int) {
	w.Helper()
	for i := range n {
		for j := range n {
			dir := fmt.Sprintf("%s/dir%d/sub%d", w.export, i, j)
			w.ok(os.MkdirAll(dir, 0o755))
		}
	}
	w.ok(filepath.WalkDir(w.export, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		dirs++
		for i := range 8 {
			text := strings.Repeat(fmt.Sprintf("%s %d\n", path, i), 10*i)
			files++
			if err := os.WriteFile(fmt.Sprintf("%s/file%d", path, i), []byte(text), 0o644); err != nil {
				return err
			}
		}
		return nil
	}))
	return dirs, files
}

// status returns what rpycfs status tells.
func (w *world) status() (s mount.Status) {
	w.Helper()
	r := w.run(nil, "rpycfs", "status", "--json", w.point)
	if err := json.Unmarshal([]byte(r.stdout), &s); r.code != 0 || err != nil {
		w.Fatalf("rpycfs status: code %d, %v, %s", r.code, err, r.stderr)
	}
	return s
}

// made returns how many calls were made between two statuses, those aside that nobody
// waits for.
func made(before, after mount.Status) (n uint64, each string) {
	for op, c := range after.Calls {
		d := c.Count - before.Calls[op].Count
		if d == 0 || op == "forget" || op == "ping" || op == "release" {
			continue
		}
		n += d
		each += fmt.Sprintf(" %s %d", op, d)
	}
	return n, each
}

// TestAheadFind: a cold walk makes few calls, whatever the number of directories is, and
// most of what they bring is used.
func TestAheadFind(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	dirs, _ := w.makeForest(20)
	w.mount("/")
	for _, walk := range []string{"find . -printf '%p %s %m\\n' | sort", "ls -lR . >/dev/null", "du -a . >/dev/null"} {
		w.unmount()
		w.mount("/")
		before := w.status()
		out := w.walk(w.point, walk)
		after := w.status()
		n, each := made(before, after)
		t.Logf("%s: %d calls:%s; %+v", walk, n, each, *after.Ahead)
		if n > uint64(dirs/10) {
			t.Errorf("%s: %d calls for %d directories:%s", walk, n, dirs, each)
		}
		if a := after.Ahead; a.Bytes > 2*a.BytesUsed {
			t.Errorf("%s: %d bytes fetched, %d used", walk, a.Bytes, a.BytesUsed)
		}
		if strings.HasPrefix(walk, "find") && out != w.walk(w.export, walk) {
			t.Errorf("%s differs from the server's", walk)
		}
	}
}

// TestAheadFiles: who reads the files of a tree one after the other makes few calls, and
// most of what they bring is used.
func TestAheadFiles(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	dirs, files := w.makeForest(12)
	w.mount("/")
	for _, walk := range []string{"grep -r '[0-9]7$' . | sort", "cp -r . $OUT", "tar cf - . | tar xf - -C $OUT", "find . -type f | sort | xargs cat | md5sum"} {
		w.unmount()
		w.mount("/")
		out := w.tmp + "/out"
		w.ok(os.MkdirAll(out, 0o755))
		before := w.status()
		text := w.walk(w.point, "OUT="+out+"; "+walk)
		after := w.status()
		n, each := made(before, after)
		t.Logf("%s: %d calls:%s; %+v", walk, n, each, *after.Ahead)
		if n > uint64(files/10) {
			t.Errorf("%s: %d calls for %d files in %d directories:%s", walk, n, files, dirs, each)
		}
		if a := after.Ahead; a.FileBytes > 2*a.FileBytesUsed || a.Bytes > 2*a.BytesUsed {
			t.Errorf("%s: %+v", walk, *a)
		}
		if strings.Contains(walk, "$OUT") {
			w.walk(w.tmp, "diff -r export out; rm -rf out")
		} else if text != w.walk(w.export, walk) {
			t.Errorf("%s differs from the server's", walk)
		}
	}
}

// TestAheadThreads: threads each of which asks for the files of a part of a tree, as git
// status does, make few calls, and most of what they bring is used.
func TestAheadThreads(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	dirs, _ := w.makeForest(20)
	names := strings.Fields(w.walk(w.export, "find . -type f | LC_ALL=C sort"))
	w.mount("/")
	before := w.status()
	var wg sync.WaitGroup
	for part := range slices.Chunk(names, len(names)/20+1) {
		wg.Go(func() {
			runtime.LockOSThread() // and never undone: the thread ends
			for _, name := range part {
				if _, err := os.Lstat(w.point + "/" + name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	after := w.status()
	n, each := made(before, after)
	t.Logf("%d directories:%s; %+v", dirs, each, *after.Ahead)
	if n > uint64(dirs/2) {
		t.Errorf("%d calls for %d directories:%s", n, dirs, each)
	}
	if a := after.Ahead; a.Bytes > 2*a.BytesUsed {
		t.Errorf("%d bytes fetched, %d used", a.Bytes, a.BytesUsed)
	}
}

// TestAheadOne: who lists one directory, or reads one file, gets no other.
func TestAheadOne(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.makeForest(6)
	w.mount("/")
	w.walk(w.point, "ls -l dir3; cat dir3/file3 >/dev/null")
	if a := w.status().Ahead; a.Dirs > 1 || a.Files > 1 || a.FilesUsed != a.Files {
		t.Errorf("%+v", *a)
	}
}

// TestAheadVain: who looks for names that are not there in a directory that was listed asks
// once.
func TestAheadVain(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.makeForest(3)
	w.mount("/")
	w.walk(w.point, "ls dir1 >/dev/null")
	before := w.status()
	w.walk(w.point, "for n in a b c d e f; do test ! -e dir1/$n; done")
	if n, each := made(before, w.status()); n > 1 {
		t.Errorf("calls:%s", each)
	}
	w.ok(os.WriteFile(w.point+"/dir1/b", []byte("own"), 0o644))
	w.ok(os.WriteFile(w.export+"/dir1/c", []byte("the server's"), 0o644))
	for _, name := range []string{"b", "c"} {
		for _, err := os.Stat(w.point + "/dir1/" + name); err != nil; _, err = os.Stat(w.point + "/dir1/" + name) {
			if name == "b" || t.Context().Err() != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAheadSeek: where data and holes are in a file that was read ahead costs no call, if
// it has none.
func TestAheadSeek(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.ok(os.WriteFile(w.export+"/full", make([]byte, 10_000), 0o644))
	w.ok(os.WriteFile(w.export+"/holes", nil, 0o644))
	w.ok(os.Truncate(w.export+"/holes", 1<<20))
	w.mount("/")
	for _, c := range []struct {
		name      string
		off, want int64
		whence    int
		err       error
		calls     bool
	}{
		{"full", 5, 10_000, unix.SEEK_HOLE, nil, false},
		{"full", 5, 5, unix.SEEK_DATA, nil, false},
		{"full", 10_000, 0, unix.SEEK_HOLE, unix.ENXIO, false},
		{"holes", 5, 5, unix.SEEK_HOLE, nil, true},
		{"holes", 5, 0, unix.SEEK_DATA, unix.ENXIO, true},
	} {
		f, err := os.Open(w.point + "/" + c.name)
		w.ok(err)
		before := w.status()
		off, err := unix.Seek(int(f.Fd()), c.off, c.whence)
		if err != c.err || err == nil && off != c.want {
			t.Errorf("%+v: %d, %v", c, off, err)
		}
		if n, each := made(before, w.status()); n > 0 != c.calls {
			t.Errorf("%+v: calls%s", c, each)
		}
		w.ok(f.Close())
	}
}

// TestAheadChanged: while directories and files are fetched ahead others change them, and
// who comes to them sees that at once.
func TestAheadChanged(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	w.makeForest(8)
	list := func(dir string) string {
		t.Helper()
		entries, err := os.ReadDir(first + dir)
		w.ok(err)
		names := ""
		for _, e := range entries {
			names += e.Name() + " "
		}
		return names
	}
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(first + name)
		w.ok(err)
		return string(text)
	}
	const all = "file0 file1 file2 file3 file4 file5 file6 file7 "
	list("/")
	for dir := range 2 { // a walk, whose next directories come with it
		list(fmt.Sprintf("/dir%d", dir))
		for file := range 4 {
			read(fmt.Sprintf("/dir%d/file%d", dir, file+1))
		}
	}
	for ahead := w.status().Ahead; ahead.Dirs < 3*ahead.DirsUsed || ahead.Files <= ahead.FilesUsed; ahead = w.status().Ahead {
		list("/dir0") // until something is under way no more
		if t.Context().Err() != nil {
			t.Fatalf("nothing is fetched ahead: %+v", *ahead)
		}
	}
	for dir := range 8 {
		at := fmt.Sprintf("/dir%d/sub%d", dir, dir)
		w.ok(os.WriteFile(second+at+"/new", []byte("new"), 0o644))
		w.ok(os.WriteFile(second+at+"/file1", []byte("changed"), 0o644))
		w.ok(os.Remove(second + at + "/file2"))
		w.ok(os.Rename(second+at+"/file3", second+at+"/moved"))
		want := strings.NewReplacer("file2 ", "", "file3 ", "", "file7 ", "file7 moved new ").Replace(all)
		if got := list(at); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
		if got := read(at+"/file1") + read(at+"/new"); got != "changednew" {
			t.Errorf("%s: read %q", at, got)
		}
		if _, err := os.Lstat(first + at + "/file2"); !os.IsNotExist(err) {
			t.Errorf("%s: what was removed: %v", at, err)
		}
		w.ok(os.WriteFile(first+at+"/own", []byte("own"), 0o644))
		w.ok(os.WriteFile(first+at+"/file4", []byte("own"), 0o644))
		if got := list(at); got != want+"own " || read(at+"/file4") != "own" {
			t.Errorf("%s, after own changes: %s", at, got)
		}
	}
	// And on the server: that comes by an event.
	at := "/dir1/sub6"
	w.ok(os.WriteFile(w.export+at+"/new", []byte("new"), 0o644))
	w.ok(os.WriteFile(w.export+at+"/file1", []byte("changed"), 0o644))
	for list(at) != all+"new " || read(at+"/file1") != "changed" {
		if t.Context().Err() != nil {
			t.Fatal("a change on the server is not seen")
		}
	}
}

// walk runs a shell command in a directory.
func (w *world) walk(dir, command string) string {
	w.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

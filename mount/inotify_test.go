package mount_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watcher reads what inotify(7) tells of directories and files.
type watcher struct {
	*world
	fd    int
	names map[int32]string // of the watches
	moves map[uint32]int   // numbers for cookies, in their order
}

const watchAll = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE |
	unix.IN_DELETE_SELF | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MOVE_SELF

// watch watches names below dir; "" is dir itself.
func (w *world) watch(dir string, names ...string) *watcher {
	w.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	w.ok(err)
	w.Cleanup(func() { unix.Close(fd) })
	v := &watcher{world: w, fd: fd, names: make(map[int32]string), moves: make(map[uint32]int)}
	for _, name := range names {
		wd, err := unix.InotifyAddWatch(fd, dir+"/"+name, watchAll)
		w.ok(err)
		v.names[int32(wd)] = name
	}
	return v
}

var maskNames = []struct {
	bit  uint32
	name string
}{
	{unix.IN_CREATE, "create"}, {unix.IN_MODIFY, "modify"}, {unix.IN_CLOSE_WRITE, "close"}, {unix.IN_ATTRIB, "attrib"},
	{unix.IN_DELETE, "delete"}, {unix.IN_DELETE_SELF, "delete self"}, {unix.IN_MOVED_FROM, "from"}, {unix.IN_MOVED_TO, "to"},
	{unix.IN_MOVE_SELF, "move self"}, {unix.IN_OPEN, "open"}, {unix.IN_ACCESS, "access"}, {unix.IN_CLOSE_NOWRITE, "close unwritten"},
	{unix.IN_IGNORED, "ignored"}, {unix.IN_Q_OVERFLOW, "overflow"},
}

// read returns the events that are there now, one a string.
func (v *watcher) read() (events []string) {
	v.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Read(v.fd, buf)
	if err == unix.EAGAIN {
		return nil
	}
	v.ok(err)
	for b := buf[:n]; len(b) > 0; {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		cookie, size := binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:])
		name := string(bytes.TrimRight(b[16:16+size], "\x00"))
		b = b[16+size:]
		for _, m := range maskNames {
			if mask&m.bit == 0 {
				continue
			}
			text := fmt.Sprintf("%s: %s %s", v.names[wd], m.name, name)
			if mask&unix.IN_ISDIR != 0 {
				text += "/"
			}
			if cookie != 0 {
				if v.moves[cookie] == 0 {
					v.moves[cookie] = len(v.moves) + 1
				}
				text += fmt.Sprintf(" #%d", v.moves[cookie])
			}
			events = append(events, text)
		}
	}
	return events
}

// until reads events up to one that contains text.
func (v *watcher) until(text string) (events []string) {
	v.Helper()
	events, ok := v.untilAll(func(events []string) bool {
		return slices.ContainsFunc(events, func(e string) bool { return strings.Contains(e, text) })
	})
	if !ok {
		v.Fatalf("no event %q came, but\n%s", text, strings.Join(events, "\n"))
	}
	return events
}

// untilAll reads events until they are all, or too late.
func (v *watcher) untilAll(all func([]string) bool) (events []string, ok bool) {
	v.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if events = append(events, v.read()...); all(events) {
			return events, true
		}
	}
	return events, false
}

// changeScript is what happens in a directory that is watched, as are "sub", "file" and
// "doomed" in it. "outside" is watched by nobody.
var changeScript = []struct {
	what string
	do   func(dir string) error
}{
	{"create", func(d string) error { return os.WriteFile(d+"/new", nil, 0o644) }},
	{"write", func(d string) error { return os.WriteFile(d+"/file", []byte("other content"), 0o644) }},
	{"append", func(d string) error {
		return withFile(d+"/sub/deep", unix.O_WRONLY|unix.O_APPEND, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
	}},
	{"truncate", func(d string) error { return os.Truncate(d+"/file", 3) }},
	{"chmod", func(d string) error { return os.Chmod(d+"/file", 0o600) }},
	{"times", func(d string) error { return os.Chtimes(d+"/new", time.Unix(1, 0), time.Unix(2, 0)) }},
	{"chmod directory", func(d string) error { return os.Chmod(d+"/sub", 0o700) }},
	{"mkdir", func(d string) error { return os.Mkdir(d+"/dir", 0o755) }},
	{"symlink", func(d string) error { return os.Symlink("nowhere", d+"/link") }},
	{"fifo", func(d string) error { return unix.Mkfifo(d+"/fifo", 0o600) }},
	{"link", func(d string) error { return os.Link(d+"/new", d+"/sub/hard") }},
	{"rename", func(d string) error { return os.Rename(d+"/new", d+"/renamed") }},
	{"rename into", func(d string) error { return os.Rename(d+"/renamed", d+"/sub/renamed") }},
	{"rename directory", func(d string) error { return os.Rename(d+"/dir", d+"/dir2") }},
	{"rename over", func(d string) error { return os.Rename(d+"/sub/renamed", d+"/doomed") }},
	{"rename watched", func(d string) error { return os.Rename(d+"/file", d+"/file2") }},
	{"move in", func(d string) error { return os.Rename(d+"/outside/in", d+"/in") }},
	{"move out", func(d string) error { return os.Rename(d+"/in", d+"/outside/in") }},
	{"exchange", func(d string) error {
		return unix.Renameat2(unix.AT_FDCWD, d+"/link", unix.AT_FDCWD, d+"/fifo", unix.RENAME_EXCHANGE)
	}},
	{"unlink", func(d string) error { return os.Remove(d + "/link") }},
	{"rmdir", func(d string) error { return os.Remove(d + "/dir2") }},
	{"unlink watched", func(d string) error { return os.Remove(d + "/file2") }},
	{"empty sub", func(d string) error { os.Remove(d + "/sub/hard"); return os.Remove(d + "/sub/deep") }},
	{"rmdir watched", func(d string) error { return os.Remove(d + "/sub") }},
	{"end", func(d string) error { return os.Mkdir(d+"/the end", 0o755) }},
}

// scene makes what the script needs.
func (w *world) scene(dir string) {
	w.Helper()
	for _, d := range []string{"", "/sub", "/outside"} {
		w.ok(os.MkdirAll(dir+d, 0o755))
	}
	for _, f := range []string{"/file", "/doomed", "/sub/deep", "/outside/in"} {
		w.ok(os.WriteFile(dir+f, []byte("content"), 0o644))
	}
}

// runScript makes the changes in dir and compares the events of each, as seen in seen,
// with those that are wanted, nil: any. It ends with the first that differ; how, it says.
func (w *world) runScript(dir, seen string, want map[string][]string) (got map[string][]string, differ string) {
	w.Helper()
	// What made the scene may be told of late, and must have been before.
	first := w.watch(seen, "")
	w.ok(os.Mkdir(dir+"/begin", 0o755))
	if _, ok := first.untilAll(func(events []string) bool { return slices.Contains(events, ": create begin/") }); !ok {
		return nil, "no event before the first change"
	}
	v := w.watch(seen, "", "sub", "file", "doomed")
	got = make(map[string][]string)
	for i, c := range changeScript {
		if err := c.do(dir); err != nil {
			w.Fatalf("%s: %v", c.what, err)
		}
		// A mark tells that all before it has come, but for closing: close(2) does not
		// wait for it on a mount. What comes beyond what is wanted is found with the
		// next change.
		mark := fmt.Sprintf("mark %d", i)
		w.ok(os.Mkdir(dir+"/"+mark, 0o755))
		var events []string
		all, ok := v.untilAll(func(all []string) bool {
			events = nil
			for _, e := range all {
				if !strings.Contains(e, "mark ") {
					events = append(events, strings.TrimSpace(e))
				}
			}
			return slices.Contains(all, ": create "+mark+"/") && (want == nil || sameAtWatches(want[c.what], events))
		})
		if !ok {
			return nil, fmt.Sprintf("%s: events\n\t%s\nwant\n\t%s\n", c.what, strings.Join(all, "\n\t"), strings.Join(want[c.what], "\n\t"))
		}
		got[c.what] = events
	}
	return got, ""
}

// sameAtWatches reports whether each watch has told the same, in the same order.
func sameAtWatches(a, b []string) bool {
	byWatch := func(a, b string) int {
		a, _, _ = strings.Cut(a, ":")
		b, _, _ = strings.Cut(b, ":")
		return strings.Compare(a, b)
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortStableFunc(a, byWatch)
	slices.SortStableFunc(b, byWatch)
	return slices.Equal(slices.Compact(a), slices.Compact(b)) // as the kernel joins them
}

// sameEvents runs the script below dir and compares the events below seen with those
// that are wanted. On a busy machine the kernel's queue may overflow, or a call take
// longer than it is waited for: what is counted as left out is forgiven twice.
func (w *world) sameEvents(want map[string][]string, dir, seen, name string) {
	w.Helper()
	for try := 1; ; try++ {
		before := w.leftOut()
		at := fmt.Sprintf("/%s %d", name, try)
		w.scene(dir + at)
		_, differ := w.runScript(dir+at, seen+at, want)
		if differ == "" {
			return
		}
		if left := w.leftOut() - before; left == 0 || try == 3 {
			w.Fatalf("%s, %d changes left out:\n%s", name, left, differ)
		}
	}
}

// leftOut returns how many changes who watches the mount was not told of.
func (w *world) leftOut() int {
	w.Helper()
	r := w.run(nil, "rpycfs", "status", "--json", w.point)
	var status struct {
		Inotify string
		Lost    int `json:"inotify_lost"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &status); err != nil || status.Inotify != "on" {
		w.Fatalf("status %v, inotify %q: %s%s", err, status.Inotify, r.stdout, r.stderr)
	}
	return status.Lost
}

// TestInotify: who watches a mount is told of what is done by another client and on the
// server's disk as on a local disk, and once only of what is done here.
func TestInotify(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	local := w.tmp + "/local"
	w.scene(local)
	want, differ := w.runScript(local, local, nil)
	if differ != "" {
		t.Fatal(differ)
	}
	w.sameEvents(want, second, first, "other client")
	w.sameEvents(want, first, first, "own")
	if os.Geteuid() == 0 { // an ordinary user's daemon is not told what is done on its disk
		w.sameEvents(want, w.export, first, "server")
	}
}

// TestInotifyContent: what is read when an event comes is what it is about, also where
// it was read before.
func TestInotifyContent(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	w.ok(os.WriteFile(second+"/file", []byte("0"), 0o644))
	v := w.watch(first, "")
	for i := range 50 {
		text := strings.Repeat(fmt.Sprint(i), i+1)
		w.ok(os.WriteFile(second+"/file", []byte(text), 0o644))
		v.until(": close file")
		got, err := os.ReadFile(first + "/file")
		w.ok(err)
		if string(got) != text {
			t.Fatalf("after the event for %q the file has %q", text, got)
		}
		if st, err := os.Stat(first + "/file"); err != nil || st.Size() != int64(len(text)) {
			t.Fatalf("after the event the file has %d bytes, %v; want %d", st.Size(), err, len(text))
		}
		v.read()
	}
}

// TestInotifyMoved: who watches a directory hears of what happens in it, also when it
// was renamed elsewhere, so that the kernel has dropped its name.
func TestInotifyMoved(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	w.ok(os.Mkdir(second+"/a", 0o755))
	v := w.watch(first, "a")
	for i, move := range [][2]string{{"a", "b"}, {"b", "a"}} {
		w.ok(os.Rename(second+"/"+move[0], second+"/"+move[1]))
		w.ok(os.Mkdir(fmt.Sprintf("%s/%s/%d", second, move[1], i), 0o755))
		v.until(fmt.Sprintf(": create %d/", i))
	}
}

// TestInotifyMovedAbove: nor does it matter that a directory above was renamed, by another
// client or on the server.
func TestInotifyMovedAbove(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	w.ok(os.MkdirAll(second+"/a/b/c", 0o755))
	v := w.watch(first, "a/b/c")
	dirs := []string{second, second, w.export, w.export}
	if os.Geteuid() != 0 {
		dirs = dirs[:2]
	}
	for i, dir := range dirs {
		at := []string{"a", "z"}
		w.ok(os.Rename(dir+"/"+at[i%2], dir+"/between"))
		w.ok(os.Rename(dir+"/between", dir+"/"+at[(i+1)%2]))
		for _, by := range []string{second, w.export} {
			name := fmt.Sprintf("%d %s", i, filepath.Base(by))
			w.ok(os.Mkdir(by+"/"+at[(i+1)%2]+"/b/c/"+name, 0o755))
			v.until(fmt.Sprintf(": create %s/", name))
		}
	}
}

// TestInotifyOpens: who watches for directories being opened is not told of that when
// something happens in them elsewhere.
func TestInotifyOpens(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	w.ok(os.Mkdir(second+"/sub", 0o755))
	v := w.watch(first, "", "sub")
	for _, name := range []string{"", "sub"} {
		_, err := unix.InotifyAddWatch(v.fd, first+"/"+name, unix.IN_OPEN|unix.IN_ACCESS|unix.IN_CLOSE_NOWRITE|unix.IN_MASK_ADD)
		w.ok(err)
	}
	for i := range 5 {
		w.ok(os.Mkdir(fmt.Sprintf("%s/sub/%d", second, i), 0o755))
		for _, e := range v.until(fmt.Sprintf("sub: create %d/", i)) {
			if !strings.Contains(e, "create") {
				t.Errorf("event %s", e)
			}
		}
	}
}

// TestInotifyProgram: a program that was replaced elsewhere can be run at once.
func TestInotifyProgram(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	program, err := os.ReadFile("/bin/true")
	w.ok(err)
	v := w.watch(first, "")
	for i := range 20 {
		w.ok(os.WriteFile(second+"/new", program, 0o755))
		w.ok(os.Rename(second+"/new", second+"/program"))
		w.ok(exec.Command(first + "/program").Run())
		for _, e := range v.until(": to program") {
			if strings.Contains(e, "close") {
				t.Fatalf("run %d: %s: a program was opened for writing", i, e)
			}
		}
		w.ok(exec.Command(first + "/program").Run())
	}
}

// TestNoInotify: nothing comes where nothing is to come.
func TestNoInotify(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/", "noinotify")
	second := w.second()
	v, other := w.watch(w.point, ""), w.watch(second, "")
	w.ok(os.WriteFile(w.point+"/by first", nil, 0o644))
	other.until(": close by first") // so that events would have come here, too
	v.read()
	w.ok(os.WriteFile(second+"/by second", nil, 0o644))
	w.ok(os.WriteFile(w.point+"/mark", nil, 0o644))
	other.until(": close mark")
	for _, e := range v.read() {
		if strings.Contains(e, "by second") {
			t.Errorf("event %s", e)
		}
	}
}

// TestInotifyReadOnly: a mount that is read only refuses changes, says so, and tells of
// those of others.
func TestInotifyReadOnly(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/", "ro")
	second := w.second()
	w.ok(os.WriteFile(second+"/file", []byte("x"), 0o644))
	for what, err := range map[string]error{
		"create": os.WriteFile(w.point+"/new", nil, 0o644), "write": os.WriteFile(w.point+"/file", nil, 0o644),
		"chmod": os.Chmod(w.point+"/file", 0o600), "unlink": os.Remove(w.point + "/file"),
		"access": unix.Access(w.point+"/file", unix.W_OK),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	var fs unix.Statfs_t
	w.ok(unix.Statfs(w.point, &fs))
	if fs.Flags&unix.ST_RDONLY == 0 {
		t.Error("the mount does not say that it is read only")
	}
	if os.Geteuid() != 0 {
		return // the kernel refuses what would be needed for events
	}
	v := w.watch(w.point, "")
	w.scene(second + "/dir")
	v.until(": create dir/")

	// A mount of the same file system that can be written to is refused here.
	again := w.tmp + "/again"
	w.ok(os.Mkdir(again, 0o755))
	w.ok(unix.Mount(w.point, again, "", unix.MS_BIND, ""))
	defer unix.Unmount(again, 0)
	w.ok(unix.Mount("", again, "", unix.MS_BIND|unix.MS_REMOUNT, ""))
	for what, err := range map[string]error{
		"create": os.WriteFile(again+"/new", nil, 0o644), "write": os.WriteFile(again+"/file", nil, 0o644),
		"open": withFile(again+"/file", unix.O_RDWR, nil), "chmod": os.Chmod(again+"/file", 0o600), "unlink": os.Remove(again + "/file"),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s on another mount of it: %v", what, err)
		}
	}
}

package fsevents

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

func TestBestMethod(t *testing.T) {
	root, err := beneath.OpenRoot(t.TempDir())
	must(t, err)
	defer root.Close()
	w, err := Open(Config{Root: root, Handle: func([]Event) {}})
	must(t, err)
	defer w.Close()
	m, why := w.Method()
	if m != methods()[0] || w.Own() || (why == "") != (m == Fanotify) || strings.Contains(why, "\n") {
		t.Errorf("method %v, own %t, %q", m, w.Own(), why)
	}
	if m == Fanotify {
		return
	}
	_, err = Open(Config{Root: root, Want: Fanotify, Handle: func([]Event) {}})
	if err == nil || !strings.Contains(why, strings.TrimPrefix(err.Error(), "fsevents: ")) {
		t.Errorf("fanotify on the file system: %v; before: %s", err, why)
	}
}

// TestNone: file systems that change without events.
func TestNone(t *testing.T) {
	root, err := beneath.OpenRoot("/proc/self")
	must(t, err)
	defer root.Close()
	w, err := Open(Config{Root: root, Handle: func([]Event) {}})
	must(t, err)
	if m, why := w.Method(); m != None || !strings.Contains(why, "0x9fa0") {
		t.Errorf("method %v: %s", m, why)
	}
	if _, err := w.Watch(root); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("watch: %v", err)
	}
	if o, err := w.Object(root); o != "" || err != nil {
		t.Errorf("object %q, %v", o, err)
	}
	w.Unwatch("x")
	must(t, w.Close())
	if _, err := Open(Config{Root: root, Want: Inotify, Handle: func([]Event) {}}); err == nil {
		t.Error("inotify on proc")
	}
	for name, magic := range map[string]uint32{
		"nfs": 0x6969, "cifs": 0xff534d42, "smb3": 0xfe534d42, "fuse": 0x65735546, "9p": 0x01021997, "ceph": 0x00c36400,
		"afs": 0x5346414f, "gfs2": 0x01161970, "ocfs2": 0x7461636f, "gpfs": 0x47504653, "lustre": 0x0bd00bd0, "coda": 0x73757245,
		"vboxsf": 0x786f4256, "sysfs": 0x62656572, "cgroup2": 0x63677270,
	} {
		if local[magic] {
			t.Errorf("%s is taken for local", name)
		}
	}
}

// TestOwn: what this process does is told by inotify only, whichever thread does
// it and by whose rights.
func TestOwn(t *testing.T) {
	for _, m := range methods() {
		t.Run(m.String(), func(t *testing.T) {
			f := newFixture(t, m)
			if f.w.Own() != (m == Inotify) {
				t.Errorf("own: %t", f.w.Own())
			}
			must(t, f.root.Chmod(0o777))
			f.sync()
			must(t, os.WriteFile(f.dir+"/main", []byte("x"), 0o666))
			dir, err := unix.Open(f.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
			must(t, err)
			defer unix.Close(dir)
			asNobody(t, func() error {
				fd, err := unix.Openat(dir, "other", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o666)
				if err != nil {
					return err
				}
				_, err = unix.Write(fd, []byte("x"))
				return errors.Join(err, unix.Close(fd))
			})
			f.child.do("truncate main")
			must(t, os.Remove(f.dir+"/main"))
			f.child.do("o_trunc other")
			got := f.describe(f.sync())
			want := []string{"modify main", "modify|close-write other"}
			if m == Inotify {
				want = []string{"create|delete|modify|close-write main", "create|modify|close-write other"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("events %q, want %q", got, want)
			}
		})
	}
}

// asNobody runs a function on a thread with other rights, if that is allowed.
func asNobody(t *testing.T, do func() error) {
	t.Helper()
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		id := 65534
		if os.Geteuid() != 0 {
			id = os.Geteuid()
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(id), ^uintptr(0)); errno != 0 {
			t.Error(errno)
			return
		}
		if err := do(); err != nil {
			t.Error(err)
		}
	})
	done.Wait()
}

// TestLinks: a file that is watched tells of changes through any of its names.
func TestLinks(t *testing.T) {
	for _, m := range methods() {
		t.Run(m.String(), func(t *testing.T) {
			f := newFixture(t, m)
			must(t, f.root.Mkdir("elsewhere", 0o777))
			f.child.do("create a")
			f.child.do("link a elsewhere/b")
			f.sync()
			if got := f.changes("o_trunc elsewhere/b"); len(got) > 0 {
				t.Errorf("events without a watch: %q", got)
			}
			o := f.watch("a")
			if got, want := f.changes("o_trunc elsewhere/b"), []string{"modify|close-write object a"}; !slices.Equal(got, want) {
				t.Errorf("events %q, want %q", got, want)
			}
			f.w.Unwatch(o)
			if got := f.changes("o_trunc elsewhere/b"); len(got) > 0 {
				t.Errorf("events after the watch: %q", got)
			}
		})
	}
}

// TestTarget: fanotify says which object is meant, by the handle that Object gives.
func TestTarget(t *testing.T) {
	f := newFixture(t, methods()[0])
	f.child.do("create a")
	f.sync()
	a, err := f.root.Walk("a")
	must(t, err)
	defer a.Close()
	want, err := f.w.Object(a)
	must(t, err)
	f.child.do("rename a b")
	f.child.do("open b")
	f.child.do("unlink b")
	f.child.do("write")
	f.child.do("close")
	f.child.do("create b")
	for _, e := range f.sync() {
		if e.Kind&(Rename|Delete) != 0 && e.Target != want {
			t.Errorf("%v of %q: target %x, want %x", e.Kind, e.Name, e.Target, want)
		}
		if e.Kind&Create != 0 && (e.Target == want || e.Target == "") {
			t.Errorf("%v of %q: target %x, old file %x", e.Kind, e.Name, e.Target, want)
		}
	}
}

// TestRemoved: the watch of an object ends with it.
func TestRemoved(t *testing.T) {
	for _, m := range methods() {
		t.Run(m.String(), func(t *testing.T) {
			f := newFixture(t, m, "d")
			got := f.changes("rmdir d")
			if m == FanotifyDirs { // the Watcher itself holds it
				if want := []string{"delete d/"}; !slices.Equal(got, want) {
					t.Errorf("events %q, want %q", got, want)
				}
				return
			}
			if want := []string{"delete-self|delete d/"}; !slices.Equal(got, want) && !slices.Equal(got, []string{"delete|delete-self d/"}) {
				t.Errorf("events %q, want %q", got, want)
			}
			if n := f.watched(); n != 1 {
				t.Errorf("%d watches, want the root's", n)
			}
		})
	}
}

// TestWatchRemoved: who watches what has just been removed is told so when it is
// closed.
func TestWatchRemoved(t *testing.T) {
	for _, m := range methods() {
		t.Run(m.String(), func(t *testing.T) {
			f := newFixture(t, m)
			f.child.do("mkdir d")
			d, err := f.root.Walk("d")
			must(t, err)
			f.child.do("rmdir d")
			o, err := f.w.Watch(d)
			must(t, err)
			d.Close()
			if m == FanotifyDirs {
				f.w.Unwatch(o)
			} else {
				f.await("delete-self", func(e Event) bool { return e.Kind&DeleteSelf != 0 && e.Dir == o })
			}
			if n := f.watched(); n != 1 {
				t.Errorf("%d watches, want the root's", n)
			}
		})
	}
}

// watched returns how many objects are.
func (f *fixture) watched() int {
	switch s := f.w.source.(type) {
	case *fanotify:
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.watched)
	case *inotify:
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.watched)
	}
	return 0
}

func TestUnwatch(t *testing.T) {
	for _, m := range methods() {
		t.Run(m.String(), func(t *testing.T) {
			f := newFixture(t, m, "d")
			o := f.watch("d")
			f.w.Unwatch(o)
			f.w.Unwatch(o)
			if got := f.changes("create d/x"); len(got) > 0 {
				t.Errorf("events %q", got)
			}
			f.watch("d")
			if got, want := f.changes("unlink d/x"), []string{"delete d/x"}; !slices.Equal(got, want) {
				t.Errorf("events %q, want %q", got, want)
			}
		})
	}
}

// TestOverflow: events that nobody fetches are bounded, and it is told that some
// were lost.
func TestOverflow(t *testing.T) {
	for m, limit := range map[Method]string{Fanotify: "fanotify", FanotifyDirs: "fanotify", Inotify: "inotify"} {
		if !slices.Contains(methods(), m) {
			continue
		}
		t.Run(m.String(), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile("/proc/sys/fs/" + limit + "/max_queued_events")
			must(t, err)
			n, err := strconv.Atoi(strings.TrimSpace(string(text)))
			must(t, err)
			f := newFixture(t, m)
			f.mu.Lock()
			f.hold = make(chan struct{})
			f.mu.Unlock()
			f.child.do("mark held")
			f.await("held", func(e Event) bool { return e.Name == "held" })
			f.child.do("wander " + strconv.Itoa(n+2*readSize/inHead))
			f.mu.Lock()
			close(f.hold)
			f.hold = nil
			f.mu.Unlock()
			f.await("overflow", func(e Event) bool { return e.Kind == Overflow })
			if got, want := f.changes("create a"), []string{"create|modify|close-write a"}; !slices.Equal(got, want) {
				t.Errorf("events after the overflow: %q, want %q", got, want)
			}
		})
	}
}

// TestBurst: of many changes each is told of or an Overflow is, and they leave
// nothing behind.
func TestBurst(t *testing.T) {
	const times = 30000
	for _, m := range methods() {
		t.Run(m.String(), func(t *testing.T) {
			dir := t.TempDir()
			root, err := beneath.OpenRoot(dir)
			must(t, err)
			defer root.Close()
			renames, batches, overflow, end := 0, 0, false, newEnd()
			w, err := Open(Config{Root: root, Want: m, Handle: func(events []Event) {
				batches++
				for _, e := range events {
					if e.Kind&Rename != 0 && e.Dir != "" { // inotify may tell of the other half later
						renames++
					}
					overflow = overflow || e.Kind == Overflow
					end.see(e)
				}
			}})
			must(t, err)
			defer w.Close()
			_, err = w.Watch(root)
			must(t, err)
			c := newChild(t, dir)
			before := heap()
			c.do("wander " + strconv.Itoa(times))
			end.await(c)
			must(t, w.Close())
			if renames != times && !overflow || renames > times {
				t.Errorf("%d of %d renames, no overflow", renames, times)
			}
			if grown := heap() - before; grown > 4<<20 {
				t.Errorf("the heap has grown by %d bytes", grown)
			}
			t.Logf("%d of %d in %d batches", renames, times, batches)
		})
	}
}

func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// TestClose: it ends a Watcher that waits, and one that has much to tell, and
// nothing comes after it.
func TestClose(t *testing.T) {
	for _, m := range methods() {
		t.Run(m.String(), func(t *testing.T) {
			f := newFixture(t, m, "d")
			before, want := descriptors(t), 1
			if m == FanotifyDirs {
				want = 3 // those of what is marked, too
			}
			f.child.tell("burst 100ms")
			f.await("write", func(e Event) bool { return e.Kind&Modify != 0 })
			must(t, f.w.Close())
			f.mu.Lock()
			f.events = nil
			f.mu.Unlock()
			f.child.answer("burst")
			if _, err := f.w.Watch(f.root); !errors.Is(err, os.ErrClosed) {
				t.Errorf("watch after close: %v", err)
			}
			f.w.Unwatch("x")
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.events) > 0 {
				t.Errorf("events after close: %v", f.events)
			}
			if now := descriptors(t); before-now != want {
				t.Errorf("closed %d descriptors, want %d", before-now, want)
			}
		})
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

// TestFails: when the kernel refuses to go on, that is told.
func TestFails(t *testing.T) {
	f := newFixture(t, Inotify)
	must(t, f.w.file.SetReadDeadline(time.Unix(1, 0)))
	f.await("overflow", func(e Event) bool { return e.Kind == Overflow })
	if m, why := f.w.Method(); m != None || !strings.Contains(why, "ended") {
		t.Errorf("method %v: %s", m, why)
	}
	if _, err := f.w.Watch(f.root); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("watch: %v", err)
	}
}

// TestDescriptorLimit: marks cost a descriptor each, so there is a bound.
func TestDescriptorLimit(t *testing.T) {
	f := newFixture(t, FanotifyDirs, "a", "b")
	must(t, f.root.Mkdir("c", 0o777))
	f.w.source.(*fanotify).limit = 3
	c, err := f.root.Walk("c")
	must(t, err)
	defer c.Close()
	if _, err := f.w.Watch(c); err != syscall.ENOSPC {
		t.Errorf("watch: %v, want ENOSPC", err)
	}
	f.watch("a") // is there already
	f.w.Unwatch(f.watch("b"))
	if _, err := f.w.Watch(c); err != nil {
		t.Error(err)
	}
}

// TestOtherFileSystem: what is mounted in the tree does not belong to it.
func TestOtherFileSystem(t *testing.T) {
	for _, m := range methods() {
		f := newFixture(t, m)
		proc, err := beneath.OpenRoot("/proc/self")
		must(t, err)
		defer proc.Close()
		if _, err := f.w.Watch(proc); err != syscall.EXDEV {
			t.Errorf("%v: watch of proc: %v, want EXDEV", m, err)
		}
	}
}

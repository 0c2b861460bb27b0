package fsevents

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// held is what the child has open or mapped from one order to the next.
var held struct {
	fd  int
	mem []byte
}

func open(name string, flags int) (err error) {
	held.fd, err = unix.Open(name, flags|unix.O_CLOEXEC, 0o666)
	return err
}

func shut() error { return unix.Close(held.fd) }

func write() error {
	_, err := unix.Write(held.fd, []byte("content"))
	return err
}

// all runs functions until one fails.
func all(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func file(name string) error {
	return all(func() error { return open(name, unix.O_CREAT|unix.O_WRONLY) }, write, shut)
}

// orders are what the child can do, by their words.
var orders = map[string]func(arg string) error{
	"mark":   func(name string) error { return unix.Mkfifo(name, 0o600) },
	"create": file,
	"open":   func(name string) error { return open(name, unix.O_RDWR) },
	"write":  func(string) error { return write() },
	"close":  func(string) error { return shut() },
	"fchmod": func(string) error { return unix.Fchmod(held.fd, 0o640) },
	"cut":    func(string) error { return unix.Ftruncate(held.fd, 4096) },
	"alloc":  func(string) error { return unix.Fallocate(held.fd, 0, 0, 8192) },
	"punch": func(string) error {
		return unix.Fallocate(held.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
	},
	"truncate": func(name string) error { return unix.Truncate(name, 1) },
	"o_trunc": func(name string) error {
		return all(func() error { return open(name, unix.O_WRONLY|unix.O_TRUNC) }, shut)
	},
	"chmod":    func(name string) error { return unix.Chmod(name, 0o700) },
	"chown":    func(name string) error { return unix.Chown(name, -1, os.Getegid()) },
	"setxattr": func(name string) error { return unix.Setxattr(name, "user.x", []byte("v"), 0) },
	"rmxattr":  func(name string) error { return unix.Removexattr(name, "user.x") },
	"utimes":   func(name string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, name, make([]unix.Timespec, 2), 0) },
	"link":     two(unix.Link),
	"symlink":  two(unix.Symlink),
	"rename":   two(unix.Rename),
	"exchange": two(func(a, b string) error {
		return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	}),
	"mkdir":  func(name string) error { return unix.Mkdir(name, 0o777) },
	"rmdir":  unix.Rmdir,
	"unlink": unix.Unlink,
	"flash": func(name string) error {
		return all(func() error { return file(name) }, func() error { return unix.Unlink(name) })
	},
	"copy": two(func(from, to string) error {
		in, err := unix.Open(from, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(in)
		if err := open(to, unix.O_CREAT|unix.O_WRONLY); err != nil {
			return err
		}
		_, err = unix.CopyFileRange(in, nil, held.fd, nil, 100, 0)
		return errors.Join(err, shut())
	}),
	"mmap": func(name string) (err error) {
		if err := open(name, unix.O_RDWR); err != nil {
			return err
		}
		held.mem, err = unix.Mmap(held.fd, 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return errors.Join(err, shut())
	},
	"store":  func(string) error { held.mem[0]++; return unix.Msync(held.mem, unix.MS_SYNC) },
	"munmap": func(string) error { return unix.Munmap(held.mem) },
	"wander": wander,
	"burst":  burst,
	"stamp":  stamp,
}

func two(call func(a, b string) error) func(arg string) error {
	return func(arg string) error {
		var a, b string
		if _, err := fmt.Sscan(arg, &a, &b); err != nil {
			return err
		}
		return call(a, b)
	}
}

// wander renames w0 so many times; no two of the events are alike.
func wander(times string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	if err := file("w0"); err != nil {
		return err
	}
	for i := range n {
		if err := unix.Rename("w"+strconv.Itoa(i), "w"+strconv.Itoa(i+1)); err != nil {
			return err
		}
	}
	return nil
}

// burst writes to a file for so long.
func burst(arg string) error {
	d, err := time.ParseDuration(arg)
	if err != nil {
		return err
	}
	if err := open("burst", unix.O_CREAT|unix.O_WRONLY); err != nil {
		return err
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range 100 {
			if _, err := unix.Pwrite(held.fd, []byte("x"), 0); err != nil {
				return err
			}
		}
	}
	return shut()
}

// stamp makes an entry whose name is the time, so many times.
func stamp(times string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	for range n {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			return err
		}
		name := strconv.FormatInt(now.Nano(), 10)
		if err := unix.Mkdir(name, 0o700); err != nil {
			return err
		}
		if err := unix.Rmdir(name); err != nil {
			return err
		}
		time.Sleep(time.Millisecond) // the time between them, not a wait for something
	}
	return nil
}

// script is what happens in a watched directory and its watched directory sub, and
// which events come of it; inotify's are given where they differ.
var script = []struct {
	order    string
	fanotify []string
	inotify  []string
}{
	{"create a", []string{"create|modify|close-write a"}, nil},
	{"truncate a", []string{"modify a"}, nil},
	{"o_trunc a", []string{"modify|close-write a"}, nil},
	{"open a", nil, nil},
	{"write", []string{"modify a"}, nil},
	{"cut", []string{"modify a"}, nil},
	{"alloc", []string{"modify a"}, nil},
	{"punch", []string{"modify a"}, nil},
	{"fchmod", []string{"attrib a"}, nil},
	{"close", []string{"close-write a"}, nil},
	{"chmod a", []string{"attrib a"}, nil},
	{"chown a", []string{"attrib a"}, nil},
	{"setxattr a", []string{"attrib a"}, nil},
	{"rmxattr a", []string{"attrib a"}, nil},
	{"utimes a", []string{"attrib a"}, nil},
	{"chmod .", []string{"attrib ./"}, nil},
	{"chmod sub", []string{"attrib sub/"}, nil},

	// Stores into a mapping: no event but the last.
	{"mmap a", nil, nil},
	{"store", nil, nil},
	{"munmap", []string{"close-write a"}, nil},

	{"link a sub/b", []string{"create sub/b"}, nil},
	{"o_trunc sub/b", []string{"modify|close-write sub/b"}, nil}, // says nothing of a
	{"symlink a sym", []string{"create sym"}, nil},
	{"copy a copy", []string{"create|close-write copy"}, nil},
	{"create a", []string{"modify|close-write a"}, nil},
	{"copy a copy", []string{"modify|close-write copy"}, nil},

	{"rename a a2", []string{"rename a -> a2"}, nil},
	{"rename a2 sub/a3", []string{"rename a2 -> sub/a3"}, nil},
	{"rename sub/a3 a", []string{"rename sub/a3 -> a"}, nil},
	{"rename copy sym", []string{"rename copy -> sym"}, nil}, // replaces sym
	{"rename a sub/b", nil, nil},                             // two names of one file
	{"exchange sym sub/b", []string{"rename sym -> sub/b", "rename sub/b -> sym"}, nil},

	{"mkdir d", []string{"create d/"}, nil},
	{"create d/inside", nil, nil}, // d is not watched
	{"rename sym d/sym", []string{"rename sym -> ?"}, nil},
	{"rename d/sym sym", []string{"rename ? -> sym"}, nil},
	{"unlink d/inside", nil, nil},
	{"chmod d", nil, []string{"attrib d/"}},
	{"rename d sub/d", []string{"rename d -> sub/d/"}, nil},
	{"mkdir e", []string{"create e/"}, nil},
	{"rename e sub/d", []string{"rename e -> sub/d/"}, nil}, // replaces sub/d
	{"rmdir sub/d", []string{"delete sub/d/"}, nil},

	{"open sym", nil, nil},
	{"unlink sym", []string{"delete sym"}, nil},
	{"write", []string{"modify sym"}, nil}, // under the name that it had
	{"fchmod", []string{"attrib sym"}, nil},
	{"close", []string{"close-write sym"}, nil},
	{"flash f", []string{"create|delete|modify|close-write f"}, nil},
}

func TestScript(t *testing.T) {
	for _, m := range methods() {
		t.Run(m.String(), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, m, "sub")
			for _, step := range script {
				want := step.fanotify
				if m == Inotify && step.inotify != nil {
					want = step.inotify
				}
				if got := f.changes(step.order); !slices.Equal(got, want) {
					t.Errorf("%s: events %q, want %q", step.order, got, want)
				}
			}
		})
	}
}

package history

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// name does something to a name, or looks at it.
func (a *actor) name(name string) {
	object, path := "name "+name, a.path(name)
	if a.rand.IntN(100) < 60 {
		a.pick(
			func() { a.one(Stat, object, func() (string, error) { return identity(path) }) },
			func() { a.one(Open, object, func() (string, error) { return contents(path) }) },
		)()
		return
	}
	unlink := func() { a.one(Unlink, object, func() (string, error) { return "", unix.Unlink(path) }) }
	create := func() { a.one(Create, object, func() (string, error) { return a.create(path) }) }
	onto := func() { a.onto(object, path) }
	a.pick(create, create, create, unlink, unlink, unlink, onto, onto,
		func() { a.one(Mkdir, object, func() (string, error) { return "dir", unix.Mkdir(path, 0o755) }) },
		func() { a.one(Rmdir, object, func() (string, error) { return "", unix.Rmdir(path) }) },
		func() { a.away(object, path) },
	)()
}

// create makes an empty file and keeps it open, so that its inode number stays
// its own.
func (a *actor) create(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return "", err
	}
	a.held = append(a.held, fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	return identityOf(&st) + " " + noText, nil
}

// onto renames a file with a text onto a name.
func (a *actor) onto(object, path string) {
	from, text := a.elsewhere(), a.unique()
	var state string
	a.must(func() error {
		fd, err := unix.Open(from, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		a.held = append(a.held, fd)
		if _, err := unix.Pwrite(fd, []byte(text), 0); err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		state = identityOf(&st) + " " + text
		return err
	})
	if a.failed != nil {
		return
	}
	a.one(Onto, object, func() (string, error) { return state, unix.Rename(from, path) })
	if ops := a.ops[object]; a.failed == nil && ops[len(ops)-1].Err != 0 {
		a.must(func() error { return unix.Unlink(from) })
	}
}

// away renames what has a name to where nobody else looks, and looks there.
func (a *actor) away(object, path string) {
	to := a.elsewhere()
	a.one(Away, object, func() (string, error) { return "", unix.Rename(path, to) })
	if a.failed != nil {
		return
	}
	op := &a.ops[object][len(a.ops[object])-1]
	if op.Err != 0 {
		return
	}
	a.must(func() error {
		found, err := identity(to)
		// What the server has just put there, its mounts may not know yet.
		if a.round.Grace == 0 || a.client == Server {
			op.Value = found
		}
		return err
	})
	_ = os.Remove(to) // which may fail where the kernel has a wrong idea of it
}

// elsewhere is a path that nobody else knows, in the directory or beside it.
func (a *actor) elsewhere() string {
	if a.rand.IntN(2) == 0 {
		return a.path("t" + a.unique())
	}
	return a.path(filepath.Join(private, a.unique()))
}

// identity is what lstat(2) shows of a name, as Stat's value.
func identity(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	return identityOf(&st), nil
}

// identityOf is "dir", or "file" and the inode number. Directories are all alike,
// because mkdir(2) does not tell which one it has made.
func identityOf(st *unix.Stat_t) string {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return "dir"
	}
	return fmt.Sprintf("file %d", st.Ino)
}

// noText stands for the text of an empty file.
const noText = "-"

// contents is what open, fstat and read show of a name, as Open's value.
func contents(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	id := identityOf(&st)
	if id == "dir" {
		return id, nil
	}
	b := make([]byte, contentSize)
	n, err := unix.Pread(fd, b, 0)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return id + " " + noText, nil
	}
	return id + " " + strings.Trim(strconv.Quote(string(b[:n])), `"`), nil // on one line, whatever it is
}

// The content of a file is one value, cell by cell.
const (
	contentSize = 64
	cellSize    = 8
)

func content(value string) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%-*s", cellSize, value), contentSize/cellSize)
}

// valueOf is the value that a content holds, or all of the content if it is not
// one value.
func valueOf(b []byte) string {
	value := strings.TrimRight(string(b[:min(len(b), cellSize)]), " ")
	switch {
	case len(b) > 0 && bytes.Count(b, []byte{0}) == len(b):
		return fmt.Sprintf("%d zeros", len(b))
	case len(b) > 0 && !bytes.Equal(b, content(value)):
		return fmt.Sprintf("%q", b)
	}
	return value
}

// content writes a file or looks at it.
func (a *actor) content(name string) {
	object, path, fd := "content "+name, a.path(name), a.fds[name]
	if a.rand.IntN(100) < 30 {
		if name == truncated && a.rand.IntN(3) == 0 {
			a.one(Truncate, object, func() (string, error) { return "", unix.Ftruncate(fd, 0) })
			if a.failed != nil || a.rand.IntN(2) == 0 {
				return
			}
		}
		value := a.unique()
		a.one(Write, object, func() (string, error) {
			n, err := unix.Pwrite(fd, content(value), 0)
			if err == nil && n != contentSize {
				err = io.ErrShortWrite
			}
			return value, err
		})
		return
	}
	looks := []func(){
		func() { a.one(Read, object, func() (string, error) { return a.read(path) }) },
		func() { a.one(ReadHeld, object, func() (string, error) { return pread(fd) }) },
	}
	if name == mapped {
		looks = append(looks, func() { a.one(ReadMap, object, a.loader.load) })
	} else {
		looks = append(looks,
			func() { a.one(Size, object, func() (string, error) { return size(unix.Stat, path) }) },
			func() { a.one(SizeOfFD, object, func() (string, error) { return size(unix.Fstat, fd) }) })
	}
	a.pick(looks...)()
}

func (a *actor) read(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return pread(fd)
}

func pread(fd int) (string, error) {
	b := make([]byte, contentSize+1)
	n, err := unix.Pread(fd, b, 0)
	if err != nil {
		return "", err
	}
	return valueOf(b[:n]), nil
}

// size is the size by stat(2) or fstat(2).
func size[T any](stat func(T, *unix.Stat_t) error, of T) (string, error) {
	var st unix.Stat_t
	err := stat(of, &st)
	return strconv.FormatInt(st.Size, 10), err
}

// attribute changes an attribute, or looks at all of them.
func (a *actor) attribute() {
	path, fd := a.path(attributed), a.fds[attributed]
	if a.rand.IntN(100) < 30 {
		a.set(path)
		return
	}
	objects := []string{"mode " + attributed, "mtime " + attributed, "owner " + attributed}
	look := func(call Call, stat func(st *unix.Stat_t) error) func() {
		return func() {
			a.call(call, objects, func() ([]string, error) {
				var st unix.Stat_t
				err := stat(&st)
				all := attributes(&st)
				return []string{all["mode"], all["mtime"], all["owner"]}, err
			})
		}
	}
	a.pick(
		look(Get, func(st *unix.Stat_t) error { return unix.Stat(path, st) }),
		look(GetFromFD, func(st *unix.Stat_t) error { return unix.Fstat(fd, st) }),
	)()
}

// set changes an attribute to a value that it has not had in the round; there
// are enough modes for most rounds.
func (a *actor) set(path string) {
	n := a.values.Add(1)
	sets := []func(){
		func() {
			mode := 0o600 | n%64
			a.one(Set, "mode "+attributed, func() (string, error) { return fmt.Sprintf("%#o", mode), unix.Chmod(path, mode) })
		},
		func() {
			at := unix.Timespec{Sec: firstTime + int64(n)}
			a.one(Set, "mtime "+attributed, func() (string, error) {
				return strconv.FormatInt(at.Sec, 10),
					unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, at}, 0)
			})
		},
	}
	if a.round.Owners {
		uid := firstUser + int(n)
		sets = append(sets, func() {
			a.one(Set, "owner "+attributed, func() (string, error) { return strconv.Itoa(uid), unix.Chown(path, uid, -1) })
		})
	}
	a.pick(sets...)()
}

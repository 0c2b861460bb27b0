package mount

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
)

// The system calls that tell of changes, and how they find their directories. Nothing of
// the mount is kept open between them, so that it can be unmounted.

// create tells that an entry was made, which is the one that s shows.
func (j *injection) create(s *shown) {
	e := j.event
	s.dir, s.name = e.Dir, e.Name
	j.made, j.shown = s, []*shown{{dir: e.Dir, name: e.Name}}
	if s.unknown {
		s.entry.Attr.Nlink = 1
		j.drop = append(j.drop, s)
	}
	switch s.entry.Attr.Type() {
	case fsproto.ModeDir:
		j.kind = reqMkdir
		j.call = j.inDir(e.Dir, func(dir int) error { return unix.Mkdirat(dir, e.Name, 0o700) })
	case fsproto.ModeSymlink:
		j.kind = reqSymlink
		j.call = j.inDir(e.Dir, func(dir int) error { return unix.Symlinkat(voidEntry, dir, e.Name) })
	default:
		j.kind = reqMknod
		j.call = j.inDir(e.Dir, func(dir int) error { return unix.Mknodat(dir, e.Name, s.entry.Attr.Type()|0o600, 0) })
	}
}

// remove tells that an entry was removed, which was the one that s shows.
func (j *injection) remove(s *shown) {
	e := j.event
	s.dir, s.name = e.Dir, e.Name
	j.shown, j.drop = []*shown{s}, append(j.drop, s)
	j.kind = reqUnlink
	flags := 0
	if s.entry.Attr.IsDir() {
		j.kind, flags = reqRmdir, unix.AT_REMOVEDIR
	}
	j.call = j.inDir(e.Dir, func(dir int) error { return unix.Unlinkat(dir, e.Name, flags) })
}

// rename tells that an entry was moved, which is the one that moved shows, and what it
// replaced; nil: nothing. A directory that is not known is the void.
func (j *injection) rename(moved, replaced *shown) {
	e := j.event
	old, to := *moved, shown{}
	if replaced != nil {
		to = *replaced
	}
	old.keep, to.keep = false, false
	for _, at := range []struct {
		s    *shown
		dir  fsproto.Node
		name string
	}{{&old, e.Dir, e.Name}, {&to, e.NewDir, e.NewName}} {
		if at.s.dir, at.s.name = at.dir, at.name; at.dir == 0 {
			at.s.dir, at.s.name = j.by.void.node, voidEntry
		}
	}
	if moved.unknown {
		old.entry.Attr.Nlink = 1
	}
	if old.unknown || e.NewDir == 0 {
		j.drop = append(j.drop, &to)
	}
	if to.unknown {
		j.drop = append(j.drop, &old)
	}
	j.kind, j.shown = reqRename, []*shown{&old, &to}
	flags := uint(0)
	if e.Exchange {
		flags = unix.RENAME_EXCHANGE
	}
	j.call = j.inDirs(func(dirs ...int) error {
		return unix.Renameat2(dirs[0], old.name, dirs[1], to.name, flags)
	}, old.dir, to.dir)
}

// touch tells of a change of the node that s shows: of its content by setting the
// modification time, of its attributes by setting both times, and of its closing by
// opening and closing it.
func (j *injection) touch(s *shown) {
	j.kind = reqSetAttr
	dir, name, flags := s.dir, s.name, unix.AT_SYMLINK_NOFOLLOW
	if dir == 0 {
		dir, flags = s.entry.Node, unix.AT_EMPTY_PATH
	}
	a := &s.entry.Attr
	times := []unix.Timespec{{Sec: a.Atime.Sec, Nsec: int64(a.Atime.Nsec)}, {Sec: a.Mtime.Sec, Nsec: int64(a.Mtime.Nsec)}}
	switch j.event.What {
	case fsproto.EventClose:
		j.kind = reqOpen
		j.call = j.inDir(dir, func(dir int) error {
			fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		})
		return
	case fsproto.EventModify:
		times[0] = unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	j.call = j.inDir(dir, func(dir int) error { return unix.UtimesNanoAt(dir, name, times, flags) })
}

// inDir is a call with a descriptor of a directory.
func (j *injection) inDir(node fsproto.Node, call func(dir int) error) func() error {
	return j.inDirs(func(dirs ...int) error { return call(dirs[0]) }, node)
}

// inDirs is a call with descriptors of directories, which belong to one mount.
func (j *injection) inDirs(call func(dirs ...int) error, nodes ...fsproto.Node) func() error {
	return func() error {
		root, err := j.by.openRoot()
		if err != nil {
			return err
		}
		defer unix.Close(root)
		dirs := make([]int, len(nodes))
		for i, node := range nodes {
			if dirs[i] = root; node == fsproto.RootNode {
				continue
			}
			if dirs[i], err = j.openDir(root, node); err != nil {
				return err
			}
			defer unix.Close(dirs[i])
		}
		return call(dirs...)
	}
}

const openPath = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openRoot opens the root of the mount. Who may opens that of a copy of the mount which
// is in no mount table: it can be written to where the mount is read only, and does not
// make it busy.
func (in *injector) openRoot() (fd int, err error) {
	fd, err = unix.OpenTree(unix.AT_FDCWD, in.dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil && in.fs.protects {
		if err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
			unix.Close(fd)
			return -1, err
		}
	} else if err == unix.EPERM || err == unix.ENOSYS {
		fd, err = unix.Open(in.dir, openPath, 0)
	}
	if err != nil {
		return -1, err
	}
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err == nil && fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor) != in.dev {
		err = errors.New("another file system is mounted there")
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openDir opens a directory that the kernel holds: by its handle, which takes no look-up
// but privilege, or else by its name. What is watched may have lost its name in the
// kernel's cache, by a recall or for want of memory; then the handle is stale until the
// name is looked up again.
func (j *injection) openDir(root int, node fsproto.Node) (int, error) {
	if node == j.by.void.node {
		return unix.Openat(root, j.by.void.name, openPath, 0)
	}
	if j.thread.moves {
		fd, err := openHandle(root, node)
		if err != unix.EPERM && err != unix.ESTALE {
			return fd, err
		}
	}
	j.walk(true)
	defer j.walk(false)
	return j.walkTo(root, node)
}

// openHandle opens a directory by its handle. The system call wants to be told the mount
// by a descriptor that is open for reading, and who watches the directory would hear of
// that being opened; or by the working directory, which is the calling thread's own here.
func openHandle(root int, node fsproto.Node) (fd int, err error) {
	if err := unix.Fchdir(root); err != nil {
		return -1, err
	}
	fd, err = unix.OpenByHandleAt(unix.AT_FDCWD, handleOf(node), openPath)
	if back := unix.Chdir("/"); back != nil && err == nil { // or the mount would stay busy
		unix.Close(fd)
		err = back
	}
	return fd, err
}

// walkTo opens a directory by the names that it and those above were last seen under.
func (j *injection) walkTo(root int, node fsproto.Node) (int, error) {
	var names []string
	for at := node; at != fsproto.RootNode; {
		parent, name := j.by.fs.nodes.placeOf(at)
		if name == "" || len(names) > fsproto.MaxPath {
			return -1, syscall.ESTALE
		}
		names, at = append(names, name), parent
	}
	fd := root
	for i := len(names) - 1; i >= 0; i-- {
		next, err := unix.Openat(fd, names[i], openPath, 0)
		if fd != root {
			unix.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err == nil {
		if found, ok := nodeOf(h.Bytes()); !ok || found != node {
			err = syscall.ESTALE
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

package export

import (
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"golang.org/x/sys/unix"
)

// listBuffer bounds what is asked of the kernel at once, in bytes.
const listBuffer = 32 << 10

// typicalEntry is about the size of an entry with node and attributes; fewer
// names are then asked of the kernel, so that few have to be asked for twice.
const typicalEntry = 8

// listing is one readdir: the reply and what is left of its size.
type listing struct {
	s       *Session
	d       object
	f       *beneath.File
	entries bool
	left    int
	res     *fsproto.ReaddirRes
}

// readdir lists from a cookie on. Cookies are the file system's own positions
// and mean the same in every handle of the directory.
func (s *Session) readdir(_ call, req *fsproto.ReaddirReq, res *fsproto.ReaddirRes) error {
	h, err := s.handle(req.Handle)
	if err != nil {
		return err
	}
	defer s.done(h)
	if !h.r.n.isDir() {
		return syscall.ENOTDIR
	}
	s.e.keep(h.r.n)
	d, err := s.use(h.r)
	if err != nil {
		return err
	}
	defer d.done()
	l := listing{s: s, d: d, f: h.f, entries: req.Entries, left: int(req.Size), res: res}
	h.pos.Lock()
	err = l.fill(req.Cookie)
	h.pos.Unlock()
	if err != nil {
		return err
	}
	return h.attr(&res.Dir)
}

// fill reads entries until the reply is full or the directory ends. EINVAL if
// not even the first one fits, as getdents(2) has it.
func (l *listing) fill(cookie uint64) error {
	// The position is where the last call stopped reading, which need not be
	// where its reply ended; setting it costs next to nothing.
	if _, err := l.f.Seek(int64(cookie), unix.SEEK_SET); err != nil {
		return err
	}
	var names []beneath.Dirent
	for begun := false; ; begun = true {
		size := min(listBuffer, l.left)
		if l.entries {
			size /= typicalEntry
		}
		var end bool
		var err error
		names, end, err = l.f.Dirents(make([]byte, max(size, beneath.MinDirents)), names[:0])
		if err != nil {
			return err
		}
		if end && !begun && cookie == 0 {
			// ext4 takes a description that was first read at the end of the directory for
			// one that is there, once; "." and ".." are always to be had.
			if _, err := l.f.Seek(0, unix.SEEK_SET); err != nil {
				return err
			}
			names, end, err = l.f.Dirents(make([]byte, max(size, beneath.MinDirents)), names[:0])
			if err != nil {
				return err
			}
		}
		if end {
			l.res.End = true
			return nil
		}
		for _, name := range names {
			full, err := l.add(name)
			if err != nil {
				return err
			}
			if full && len(l.res.Entries) == 0 {
				return syscall.EINVAL
			}
			if full {
				return nil
			}
		}
	}
}

// add puts an entry into the reply unless that is full.
func (l *listing) add(name beneath.Dirent) (full bool, err error) {
	if len(l.res.Entries) == fsproto.MaxEntries {
		return true, nil
	}
	room := fsproto.DirentSize(len(name.Name), false, 0)
	if l.entries {
		room = entryRoom(name)
	}
	if room > l.left {
		return true, nil
	}
	d := fsproto.Dirent{Name: name.Name, Cookie: name.Next, Ino: name.Ino, Type: name.Type}
	if l.entries {
		if err := l.describe(&d); err != nil {
			return false, err
		}
	}
	l.left -= fsproto.DirentSize(len(d.Name), d.Known, len(d.Entry.FileHandle))
	l.res.Entries = append(l.res.Entries, d)
	return false, nil
}

// entryRoom is how many bytes an entry with node and attributes takes at most.
func entryRoom(name beneath.Dirent) int {
	handle := handleHead + handleMAC
	if name.Type == fsproto.ModeDir || name.Type == 0 {
		handle = fsproto.MaxFileHandle // with the kernel's
	}
	return fsproto.DirentSize(len(name.Name), true, handle)
}

// describe adds node and attributes. An entry that has vanished, lies on another
// file system, or exceeds the session's nodes is listed without.
func (l *listing) describe(d *fsproto.Dirent) error {
	if l.s.crowded() {
		return nil
	}
	st, err := l.d.p.StatAt(d.Name)
	if err == nil {
		err = l.s.enter(l.d, d.Name, &st, 0, false, &d.Entry)
	}
	switch {
	case err == nil:
		d.Known, d.Ino, d.Type = true, st.Ino, uint32(st.Mode)&fsproto.ModeType
	case isErrno(err, syscall.ENOENT, syscall.EXDEV, syscall.ENFILE, syscall.EACCES, syscall.ESTALE):
	default:
		return err
	}
	return nil
}

package fsevents

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

const (
	inFile = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF
	inDir  = inFile | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ONLYDIR
	inGone = unix.IN_DELETE_SELF | unix.IN_UNMOUNT | unix.IN_IGNORED
)

var inKinds = []kindBit{
	{unix.IN_CREATE, Create}, {unix.IN_DELETE, Delete}, {unix.IN_MODIFY, Modify},
	{unix.IN_ATTRIB, Attrib}, {unix.IN_CLOSE_WRITE, CloseWrite}, {inGone, DeleteSelf},
}

// inotify is an inotify(7) instance.
type inotify struct {
	conn syscall.RawConn

	mu      sync.Mutex
	watched map[int32]inWatch // by watch descriptor, which the kernel does not use again
}

type inWatch struct {
	object Object
	isDir  bool
}

func openInotify(*beneath.Path) (source, *os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, os.NewSyscallError("inotify_init1", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return &inotify{conn: conn, watched: make(map[int32]inWatch)}, file, nil
}

func (i *inotify) object(*beneath.Path) (Object, error) { return "", nil }

func (i *inotify) watch(p *beneath.Path) (o Object, err error) {
	i.mu.Lock() // so that no event comes before the watch is known
	defer i.mu.Unlock()
	closed := i.conn.Control(func(fd uintptr) {
		var wd int
		isDir := true
		if wd, err = p.InotifyAdd(int(fd), inDir); err == unix.ENOTDIR {
			isDir = false
			wd, err = p.InotifyAdd(int(fd), inFile)
		}
		if err == nil {
			o = Object(binary.NativeEndian.AppendUint32(nil, uint32(wd)))
			i.watched[int32(wd)] = inWatch{o, isDir}
		}
	})
	if closed != nil {
		return "", os.ErrClosed
	}
	return o, err
}

func (i *inotify) unwatch(o Object) {
	if len(o) != 4 {
		return
	}
	wd := binary.NativeEndian.Uint32([]byte(o))
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.watched[int32(wd)]; !ok {
		return
	}
	delete(i.watched, int32(wd))
	i.conn.Control(func(fd uintptr) { unix.InotifyRmWatch(int(fd), wd) }) // fails only if it is gone
}

func (i *inotify) close() {}

// decode wants more as long as a move has only its first half: the second is made
// right behind it, but an event from another processor, or the end of what was
// there to read, may come between.
func (i *inotify) decode(records []byte, b *batch) (more bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(records) > 0 {
		r, size, err := parseInotify(records)
		if err != nil {
			return false, err
		}
		i.add(&r, b)
		records = records[size:]
	}
	return len(b.moves) > 0, nil
}

// add adds a record unless its watch has ended. i.mu is held.
func (i *inotify) add(r *inRecord, b *batch) {
	if r.mask&unix.IN_Q_OVERFLOW != 0 {
		b.overflow()
		return
	}
	w, ok := i.watched[r.wd]
	if !ok {
		return
	}
	isDir := r.mask&unix.IN_ISDIR != 0
	switch kind := kindsOf(uint64(r.mask), inKinds); {
	case kind&DeleteSelf != 0: // then comes IN_IGNORED, for which there is no watch
		delete(i.watched, r.wd)
		w.self(kind, b)
	case r.mask&unix.IN_MOVED_FROM != 0:
		b.moves[r.cookie] = b.push(Event{Kind: Rename, Dir: w.object, Name: string(r.name), IsDir: isDir})
	case r.mask&unix.IN_MOVED_TO != 0:
		b.arrive(r.cookie, w.object, string(r.name), isDir)
	case kind == 0:
	case len(r.name) == 0:
		w.self(kind, b)
	default:
		b.add(kind, w.object, r.name, nil, isDir, false)
	}
}

// self adds an event about what is watched itself.
func (w inWatch) self(kind Kind, b *batch) {
	if w.isDir {
		b.add(kind, w.object, nil, nil, true, false)
	} else {
		b.add(kind, "", nil, []byte(w.object), false, false)
	}
}

// inRecord is one event; its name points into what was read.
type inRecord struct {
	wd           int32
	mask, cookie uint32
	name         []byte
}

const inHead = 16 // wd i32, mask u32, cookie u32, len u32; then len bytes of name

// parseInotify reads the first record and returns its size.
func parseInotify(b []byte) (r inRecord, size int, err error) {
	if len(b) < inHead {
		return r, 0, fmt.Errorf("%w: %d bytes", errRecord, len(b))
	}
	n := binary.NativeEndian.Uint32(b[12:])
	if uint64(n) > uint64(len(b)-inHead) {
		return r, 0, fmt.Errorf("%w: name of %d bytes in %d", errRecord, n, len(b))
	}
	size = inHead + int(n)
	return inRecord{
		wd:     int32(binary.NativeEndian.Uint32(b)),
		mask:   binary.NativeEndian.Uint32(b[4:]),
		cookie: binary.NativeEndian.Uint32(b[8:]),
		name:   untilNUL(b[inHead:size]),
	}, size, nil
}

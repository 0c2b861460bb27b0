package fsevents

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

// What is asked of the kernel. Not FAN_UNLIMITED_QUEUE: its queue is the bound
// when a reader is slow. FAN_RENAME is from 5.17 on.
const (
	fanInit    = unix.FAN_CLASS_NOTIF | unix.FAN_REPORT_DFID_NAME_TARGET | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK
	fanFile    = unix.FAN_MODIFY | unix.FAN_ATTRIB | unix.FAN_CLOSE_WRITE | unix.FAN_DELETE_SELF
	fanDir     = fanFile | unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_RENAME | unix.FAN_ONDIR
	fanEntries = fanDir | unix.FAN_EVENT_ON_CHILD // of one directory
)

var fanKinds = []kindBit{
	{unix.FAN_CREATE, Create}, {unix.FAN_DELETE, Delete}, {unix.FAN_RENAME, Rename}, {unix.FAN_MODIFY, Modify},
	{unix.FAN_ATTRIB, Attrib}, {unix.FAN_CLOSE_WRITE, CloseWrite}, {unix.FAN_DELETE_SELF, DeleteSelf},
}

// kindBit is a bit of a kernel's event mask and what it means.
type kindBit struct {
	bit  uint64
	kind Kind
}

func kindsOf(mask uint64, bits []kindBit) (k Kind) {
	for _, b := range bits {
		if mask&b.bit != 0 {
			k |= b.kind
		}
	}
	return k
}

// fanotify is a fanotify(7) group.
type fanotify struct {
	conn  syscall.RawConn // of the group
	pid   int32           // whose events are not told
	whole bool            // the file system is marked, not objects

	mu      sync.Mutex
	watched map[Object]fanWatch
	limit   int  // not whole: of watched
	all     bool // whole: what is not watched is told of as well
	closed  bool
}

type fanWatch struct {
	object Object        // its key, so that events need not make one
	kept   *beneath.Path // not whole: the marked object, to unmark it
}

// openFileSystem marks the file system of root.
func openFileSystem(root *beneath.Path) (source, *os.File, error) { return openFanotify(root, true) }

// openDirs marks nothing yet.
func openDirs(root *beneath.Path) (source, *os.File, error) { return openFanotify(root, false) }

func openFanotify(root *beneath.Path, whole bool) (source, *os.File, error) {
	group, err := unix.FanotifyInit(fanInit, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("fanotify_init", err)
	}
	f := &fanotify{pid: int32(os.Getpid()), whole: whole, watched: make(map[Object]fanWatch)}
	if err := f.start(group, root); err != nil {
		unix.Close(group)
		return nil, nil, err
	}
	file := os.NewFile(uintptr(group), "fanotify")
	if f.conn, err = file.SyscallConn(); err != nil {
		file.Close()
		return nil, nil, err
	}
	return f, file, nil
}

func (f *fanotify) start(group int, root *beneath.Path) error {
	if err := f.probe(group, root); err != nil {
		return err
	}
	if !f.whole {
		f.limit = descriptorLimit() / 4
		return nil
	}
	return os.NewSyscallError("fanotify_mark", root.FanotifyMark(group, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, fanDir))
}

// descriptorLimit returns how many descriptors the process may have.
func descriptorLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 1024 // what every process has
	}
	return int(min(r.Cur, 1<<20))
}

// probe opens the root and finds out whether the event about it bears the root's
// handle and our process's number.
func (f *fanotify) probe(group int, root *beneath.Path) error {
	want, err := f.object(root)
	if err != nil {
		return os.NewSyscallError("name_to_handle_at", err)
	}
	const opened = unix.FAN_OPEN | unix.FAN_ONDIR
	if err := root.FanotifyMark(group, unix.FAN_MARK_ADD, opened); err != nil {
		return os.NewSyscallError("fanotify_mark", err)
	}
	dir, err := root.OpenDir()
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	dir.Close()
	if err := root.FanotifyMark(group, unix.FAN_MARK_REMOVE, opened); err != nil {
		return os.NewSyscallError("fanotify_mark", err)
	}
	return f.await(group, want)
}

// await reads the events of group that are there; one by us about o must be among
// them.
func (f *fanotify) await(group int, o Object) error {
	seen := false
	for buf := make([]byte, readSize); ; {
		n, err := unix.Read(group, buf)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN && seen {
			return nil
		}
		if err == unix.EAGAIN {
			return errors.New("its events do not bear the handles of objects")
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if n <= 0 {
			return io.ErrUnexpectedEOF
		}
		for rest := buf[:n]; len(rest) > 0; {
			r, size, err := parseFanotify(rest)
			if err != nil {
				return err
			}
			seen = seen || r.pid == f.pid && string(r.dir) == string(o)
			rest = rest[size:]
		}
	}
}

func (f *fanotify) object(p *beneath.Path) (Object, error) {
	h, err := p.EventHandle()
	if err != nil {
		return "", err
	}
	return Object(append(binary.NativeEndian.AppendUint32(nil, uint32(h.Type)), h.Data...)), nil
}

func (f *fanotify) watch(p *beneath.Path) (Object, error) {
	o, err := f.object(p)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return "", os.ErrClosed
	}
	if _, ok := f.watched[o]; ok {
		return o, nil
	}
	w := fanWatch{object: o}
	if !f.whole {
		w.kept, err = f.mark(p)
	}
	if err != nil {
		return "", err
	}
	f.watched[o] = w
	return o, nil
}

// mark marks p and returns a descriptor of it, without which a mark cannot be taken
// away. f.mu is held.
func (f *fanotify) mark(p *beneath.Path) (kept *beneath.Path, err error) {
	if len(f.watched) >= f.limit {
		return nil, unix.ENOSPC
	}
	if kept, err = p.Dup(); err != nil {
		return nil, err
	}
	if err := f.onGroup(kept, unix.FAN_MARK_ADD); err != nil {
		kept.Close()
		return nil, err
	}
	return kept, nil
}

// onGroup changes the mark of an object, whichever type it has.
func (f *fanotify) onGroup(p *beneath.Path, flags uint) (err error) {
	closed := f.conn.Control(func(group uintptr) {
		err = p.FanotifyMark(int(group), flags, fanEntries)
		if err == unix.ENOTDIR {
			err = p.FanotifyMark(int(group), flags, fanFile)
		}
	})
	if closed != nil {
		return os.ErrClosed
	}
	return err
}

func (f *fanotify) unwatch(o Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if kept := f.watched[o].kept; kept != nil {
		f.onGroup(kept, unix.FAN_MARK_REMOVE) // fails only if it is gone
		kept.Close()
	}
	delete(f.watched, o)
}

func (f *fanotify) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, w := range f.watched {
		if w.kept != nil {
			w.kept.Close()
		}
	}
	clear(f.watched)
}

func (f *fanotify) decode(records []byte, b *batch) (more bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(records) > 0 {
		r, size, err := parseFanotify(records)
		if err != nil {
			return false, err
		}
		f.add(&r, b)
		records = records[size:]
	}
	return false, nil
}

// add adds a record unless it is about our own doing or about nothing that is
// watched. With the file system marked most may be the latter: nothing is
// allocated for those. f.mu is held.
func (f *fanotify) add(r *fanRecord, b *batch) {
	if r.mask&unix.FAN_Q_OVERFLOW != 0 {
		b.overflow()
		return
	}
	kind := kindsOf(r.mask, fanKinds)
	if r.pid == f.pid {
		kind &= DeleteSelf // of what somebody else removed and we had open
	}
	if kind == 0 {
		return
	}
	dir, name := f.known(r.dir, r.name)
	newDir, newName := f.known(r.newDir, r.newName)
	target, _ := f.known(r.target, nil)
	unasked := dir == "" && newDir == "" && target == ""
	if unasked && !f.all {
		return
	}
	if f.all { // the directories are wanted in any case
		dir, name = Object(r.dir), r.name
		newDir, newName = Object(r.newDir), r.newName
	}
	isDir := r.mask&unix.FAN_ONDIR != 0
	if kind&Rename != 0 {
		b.push(Event{kind, dir, string(name), newDir, string(newName), Object(r.target), isDir, unasked})
	} else {
		b.add(kind, dir, name, r.target, isDir, unasked)
	}
	if kind&DeleteSelf != 0 {
		f.gone(r)
	}
}

// known returns a watched directory and the name in it, nothing if it is not
// watched. f.mu is held.
func (f *fanotify) known(handle, name []byte) (Object, []byte) {
	if w, ok := f.watched[Object(handle)]; ok {
		return w.object, name
	}
	return "", nil
}

// gone forgets the object that a DeleteSelf is about. f.mu is held.
func (f *fanotify) gone(r *fanRecord) {
	self := Object(r.target)
	if self == "" {
		self = Object(r.dir)
	}
	if kept := f.watched[self].kept; kept != nil {
		kept.Close()
	}
	delete(f.watched, self)
}

// fanRecord is one event. Handles are struct file_handle from its type on, as in
// an Object; they and the names point into what was read.
type fanRecord struct {
	mask                uint64
	pid                 int32
	dir, newDir, target []byte
	name, newName       []byte // nil: the directory itself
}

// Layout of the records, fanotify(7).
const (
	fanMetadata  = 24          // len u32, vers u8, reserved u8, metadata_len u16, mask u64, fd i32, pid i32
	fanInfo      = 4           // type u8, pad u8, len u16
	fanFid       = fanInfo + 8 // fsid; then struct file_handle
	fanHandle    = fanFid + 8  // handle_bytes u32, handle_type i32; then the bytes
	maxFanHandle = 128         // MAX_HANDLE_SZ
)

var errRecord = errors.New("malformed record")

// parseFanotify reads the first record and returns its size.
func parseFanotify(b []byte) (r fanRecord, size int, err error) {
	if len(b) < fanMetadata {
		return r, 0, fmt.Errorf("%w: %d bytes", errRecord, len(b))
	}
	length, head := binary.NativeEndian.Uint32(b), int(binary.NativeEndian.Uint16(b[6:]))
	if b[4] != unix.FANOTIFY_METADATA_VERSION {
		return r, 0, fmt.Errorf("%w: version %d", errRecord, b[4])
	}
	if head < fanMetadata || uint64(length) > uint64(len(b)) || int(length) < head {
		return r, 0, fmt.Errorf("%w: length %d of %d, metadata %d", errRecord, length, len(b), head)
	}
	size = int(length)
	r.mask = binary.NativeEndian.Uint64(b[8:])
	r.pid = int32(binary.NativeEndian.Uint32(b[20:]))
	for info := b[head:size]; len(info) > 0; {
		n, err := r.info(info)
		if err != nil {
			return r, 0, err
		}
		info = info[n:]
	}
	return r, size, nil
}

// info reads the first of an event's further records and returns its size. Those
// of types that were not asked for are passed over.
func (r *fanRecord) info(b []byte) (size int, err error) {
	if len(b) < fanInfo {
		return 0, fmt.Errorf("%w: %d bytes of information", errRecord, len(b))
	}
	size = int(binary.NativeEndian.Uint16(b[2:]))
	if size < fanInfo || size > len(b) {
		return 0, fmt.Errorf("%w: information of %d bytes in %d", errRecord, size, len(b))
	}
	kind := b[0]
	switch kind {
	case unix.FAN_EVENT_INFO_TYPE_FID, unix.FAN_EVENT_INFO_TYPE_DFID, unix.FAN_EVENT_INFO_TYPE_DFID_NAME,
		unix.FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME:
	default:
		return size, nil
	}
	handle, name, err := parseFid(b[:size])
	switch kind {
	case unix.FAN_EVENT_INFO_TYPE_FID:
		r.target = handle
	case unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME:
		r.newDir, r.newName = handle, name
	case unix.FAN_EVENT_INFO_TYPE_DFID:
		r.dir = handle
	default:
		r.dir, r.name = handle, name
	}
	return size, err
}

// parseFid reads a handle and the name behind it. The name of the directory itself
// is ".".
func parseFid(b []byte) (handle, name []byte, err error) {
	if len(b) < fanHandle {
		return nil, nil, fmt.Errorf("%w: handle in %d bytes", errRecord, len(b))
	}
	n := binary.NativeEndian.Uint32(b[fanFid:])
	if n > maxFanHandle || int(n) > len(b)-fanHandle {
		return nil, nil, fmt.Errorf("%w: handle of %d bytes in %d", errRecord, n, len(b))
	}
	end := fanHandle + int(n)
	if n > 0 { // else the kernel could not make one
		handle = b[fanFid+4 : end]
	}
	if name = untilNUL(b[end:]); string(name) == "." {
		name = nil
	}
	return handle, name, nil
}

// untilNUL returns what stands before the first NUL, nil if nothing.
func untilNUL(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	if len(b) == 0 {
		return nil
	}
	return b
}

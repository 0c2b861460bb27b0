package mount

import (
	"sync"
	"sync/atomic"

	"github.com/rpycfs/rpycfs/fsproto"
)

// file is an open file.
type file struct {
	node   fsproto.Node
	direct bool        // the kernel's cache is not used for reading and writing
	stored atomic.Bool // but our own is for reading
	quiet  bool        // closing a descriptor is not told (closes.go)
	late   late

	delayed  *delayed    // nil: it is not open for writing, or nothing is delayed
	lateTold atomic.Bool // a write has failed because of one that was answered before
}

// handleTable finds what is open under a handle number. Numbers are chosen by
// FS.newHandle and never used again.
type handleTable struct {
	mu    sync.RWMutex
	files map[uint64]*file
	dirs  map[uint64]*dir
	lates map[fsproto.Node]map[fsproto.Handle]*late // that the daemon has not been told of
	quiet map[fsproto.Node]int                      // how many files are
}

func newHandleTable() *handleTable {
	return &handleTable{files: make(map[uint64]*file), dirs: make(map[uint64]*dir), lates: make(map[fsproto.Node]map[fsproto.Handle]*late), quiet: make(map[fsproto.Node]int)}
}

func (t *handleTable) addFile(h fsproto.Handle, f *file) {
	t.mu.Lock()
	t.files[uint64(h)] = f
	if f.quiet {
		t.quiet[f.node]++
	}
	t.addLate(&f.late)
	t.mu.Unlock()
}

func (t *handleTable) addDir(h fsproto.Handle, d *dir) {
	t.mu.Lock()
	t.dirs[uint64(h)] = d
	t.addLate(&d.late)
	t.mu.Unlock()
}

// file returns nil for a number that is not an open file's.
func (t *handleTable) file(fh uint64) *file {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.files[fh]
}

// dir returns nil for a number that is not an open directory's.
func (t *handleTable) dir(fh uint64) *dir {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.dirs[fh]
}

// len returns how many files and directories are open.
func (t *handleTable) len() (files, dirs int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.files), len(t.dirs)
}

// removeFile returns the file that was open under the number, or nil.
func (t *handleTable) removeFile(fh uint64) *file {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[fh]
	delete(t.files, fh)
	if f != nil && f.quiet {
		t.notQuiet(f)
	}
	return f
}

// loud takes back that a file is closed quietly.
func (t *handleTable) loud(f *file) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notQuiet(f)
}

// notQuiet does so; mu is held.
func (t *handleTable) notQuiet(f *file) {
	f.quiet = false
	if t.quiet[f.node]--; t.quiet[f.node] == 0 {
		delete(t.quiet, f.node)
	}
}

// closesQuietly reports whether a node is open as a file that is closed quietly.
func (t *handleTable) closesQuietly(node fsproto.Node) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.quiet[node] > 0
}

// removeDir returns the directory that was open under the number, or nil.
func (t *handleTable) removeDir(fh uint64) *dir {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.dirs[fh]
	delete(t.dirs, fh)
	return d
}

// addLate enters an open that the daemon has not been told of; mu is held.
func (t *handleTable) addLate(l *late) {
	if l.req == nil {
		return
	}
	of := t.lates[l.req.Node]
	if of == nil {
		of = make(map[fsproto.Handle]*late)
		t.lates[l.req.Node] = of
	}
	of[l.req.Handle] = l
}

// told notes that the daemon knows of an open, or need not.
func (t *handleTable) told(req *fsproto.OpenReq) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.lates[req.Node]
	delete(of, req.Handle)
	if len(of) == 0 {
		delete(t.lates, req.Node)
	}
}

// late returns the opens of a node that the daemon has not been told of.
func (t *handleTable) late(node fsproto.Node) (list []*late) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, l := range t.lates[node] {
		list = append(list, l)
	}
	return list
}

// lateOf returns what is known of the open under a number, or nil.
func (t *handleTable) lateOf(fh uint64) *late {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if f := t.files[fh]; f != nil {
		return &f.late
	}
	if d := t.dirs[fh]; d != nil {
		return &d.late
	}
	return nil
}

// isTold reports whether the daemon knows of the open under a number.
func (t *handleTable) isTold(fh uint64) bool {
	l := t.lateOf(fh)
	if l == nil || l.req == nil {
		return true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.lates[l.req.Node][l.req.Handle] == nil
}

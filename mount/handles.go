package mount

import (
	"sync"

	"github.com/rpycfs/rpycfs/fsproto"
)

// file is an open file.
type file struct {
	node   fsproto.Node
	direct bool // the kernel's cache is not used for reading and writing
}

// handleTable finds what is open under a handle number. Numbers are chosen by
// FS.newHandle and never used again.
type handleTable struct {
	mu    sync.RWMutex
	files map[uint64]*file
	dirs  map[uint64]*dir
}

func newHandleTable() *handleTable {
	return &handleTable{files: make(map[uint64]*file), dirs: make(map[uint64]*dir)}
}

func (t *handleTable) addFile(h fsproto.Handle, f *file) {
	t.mu.Lock()
	t.files[uint64(h)] = f
	t.mu.Unlock()
}

func (t *handleTable) addDir(h fsproto.Handle, d *dir) {
	t.mu.Lock()
	t.dirs[uint64(h)] = d
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
	return f
}

// removeDir returns the directory that was open under the number, or nil.
func (t *handleTable) removeDir(fh uint64) *dir {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.dirs[fh]
	delete(t.dirs, fh)
	return d
}

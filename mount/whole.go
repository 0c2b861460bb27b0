package mount

import (
	"sync"

	"github.com/rpycfs/rpycfs/fsproto"
)

// A directory that was made from here is empty, and what others make in it is called back
// for. So until then all of its names are known, and the kernel, which looks a name up
// before it makes a file, need not wait for the daemon to say that there is none.

// maxWhole bounds the names of such directories.
const maxWhole = 1 << 17

// whole knows directories of which all names are known. The zero value knows none; its
// methods may be called concurrently.
type whole struct {
	mu    sync.Mutex
	dirs  map[fsproto.Node]*wholeDir
	names int
}

type wholeDir struct {
	lease uint64              // while this one holds
	names map[string]struct{} // there are no others; some of these may not be there
}

// made takes note of a directory that has just been made, under a lease.
func (w *whole) made(dir fsproto.Node, lease uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dirs == nil || w.names >= maxWhole || len(w.dirs) >= maxWhole {
		w.dirs, w.names = make(map[fsproto.Node]*wholeDir), 0
	}
	w.dirs[dir] = &wholeDir{lease: lease, names: make(map[string]struct{})}
}

// making takes note of a name that is about to be made from here.
func (w *whole) making(dir fsproto.Node, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.dirs[dir]; d != nil {
		before := len(d.names)
		d.names[name] = struct{}{}
		w.names += len(d.names) - before
	}
}

// lacks returns the lease under which a directory is known not to have a name; 0: it may
// have it.
func (w *whole) lacks(dir fsproto.Node, name string) (lease uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.dirs[dir]
	if d == nil {
		return 0
	}
	if _, known := d.names[name]; known {
		return 0
	}
	return d.lease
}

// forget forgets a directory.
func (w *whole) forget(dir fsproto.Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.dirs[dir]; d != nil {
		w.names -= len(d.names)
		delete(w.dirs, dir)
	}
}

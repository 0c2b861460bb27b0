package mount

import (
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
)

// takenIn is how long ago an answer was given that whoever asked for it has by now. It is
// long: he may not get at a processor.
const takenIn = time.Second

// dirNames finds directories by the names under which the kernel has them, which may not be
// where others have put them since.
type dirNames struct {
	mu sync.RWMutex // comes after that of a shard
	at map[entryName]fsproto.Node
	of map[fsproto.Node]entryName
}

func newDirNames() *dirNames {
	return &dirNames{at: make(map[entryName]fsproto.Node), of: make(map[fsproto.Node]entryName)}
}

// find returns the directory under a name, or 0.
func (d *dirNames) find(at entryName) fsproto.Node {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.at[at]
}

// seen notes the name of a directory.
func (d *dirNames) seen(id fsproto.Node, at entryName) {
	d.mu.RLock()
	known := d.of[id] == at && d.at[at] == id
	d.mu.RUnlock()
	if known {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(id)
	d.of[id], d.at[at] = at, id
}

// forget notes that the kernel does not have a directory any more.
func (d *dirNames) forget(id fsproto.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(id)
}

func (d *dirNames) drop(id fsproto.Node) {
	if at := d.of[id]; d.at[at] == id {
		delete(d.at, at)
	}
	delete(d.of, id)
}

// taken notes that something else has a name now.
func (d *dirNames) taken(at entryName) {
	if d.find(at) != 0 {
		d.mu.Lock()
		delete(d.at, at)
		d.mu.Unlock()
	}
}

// lookAnew makes the kernel look up a name, at its next use. It waits for the directory's
// lock.
//
// What the kernel drops has no path until somebody has looked it up again: getcwd(2) fails
// for who works in there. So the name of a directory that was entered expires only: the
// kernel asks, and the entry stays if the answer is the same; or it is dropped now if it is
// not in use (Linux 6.18). Where an answer may be on its way that would make it last again,
// it is dropped all the same.
func (fs *FS) lookAnew(dir fsproto.Node, name string) {
	// Where the kernel checks permissions it does not ask before somebody enters one.
	id, entered, settled := fs.nodes.dirAt(entryName{dir, name})
	if !fs.expires || id == 0 || !settled || !entered && !fs.kernelChecks {
		fs.notices.kernel.EntryNotify(uint64(dir), name)
		return
	}
	fs.device.expire(dir, name)
	fs.trimmer.kernel.PruneNotify([]uint64{uint64(id)})
}

package mount

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// Opening a directory is a request that a program waits for, and of a cached one the only
// request. Where it cannot fail, because the daemon may read every directory, the kernel
// is told not to make it (ENOSYS to OPENDIR, Linux 5.1): it caches all listings then, and
// READDIR comes without a handle. Whether what it has cached still holds it is told by
// recalls in any case, and pages that came without a lease are dropped (readdir.go).
//
// So a READDIR from the beginning opens the directory here, and the one that finds the end
// closes it. Who is in the middle when somebody else closes it opens it again: positions
// are the daemon's, and are the same in all open directories.

// maxUnended bounds the directories that are open here and were not read to the end yet.
const maxUnended = 64

// listings are the directories that READDIR has opened.
type listings struct {
	mu   sync.Mutex
	open map[fsproto.Node]uint64 // handles
}

// put makes a handle that of a directory, and returns those that are to be closed for it.
func (l *listings) put(node fsproto.Node, fh uint64) (old []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = make(map[fsproto.Node]uint64)
	}
	if before, ok := l.open[node]; ok {
		old = append(old, before)
	} else if len(l.open) >= maxUnended {
		for other, before := range l.open {
			old = append(old, before)
			delete(l.open, other)
			break
		}
	}
	l.open[node] = fh
	return old
}

// get returns the handle of a directory, 0 if there is none.
func (l *listings) get(node fsproto.Node) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[node]
}

// end takes a handle out, and reports whether it was there.
func (l *listings) end(node fsproto.Node, fh uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[node] != fh {
		return false
	}
	delete(l.open, node)
	return true
}

// dirFor returns the directory that a request reads, with its mu held, and opens it if the
// kernel has not. in has its handle then. old are those to be closed by endDir.
func (fs *FS) dirFor(cancel <-chan struct{}, in *fuse.ReadIn) (d *dir, old []uint64, st fuse.Status) {
	if !fs.noOpenDir {
		if d = fs.handles.dir(in.Fh); d == nil {
			return nil, nil, fuse.EBADF
		}
		d.mu.Lock()
		return d, nil, fuse.OK
	}
	node := fsproto.Node(in.NodeId)
	if in.Offset != 0 {
		in.Fh = fs.listings.get(node)
		if d = fs.handles.dir(in.Fh); d != nil {
			if d.mu.Lock(); !d.ended {
				return d, nil, fuse.OK
			}
			d.mu.Unlock()
		}
	}
	var out fuse.OpenOut
	if st = fs.openDir(cancel, &fuse.OpenIn{InHeader: in.InHeader}, &out); !st.Ok() {
		return nil, nil, st
	}
	in.Fh = out.Fh
	d = fs.handles.dir(in.Fh)
	d.mu.Lock() // before anybody else can have it
	return d, fs.listings.put(node, in.Fh), fuse.OK
}

// endDir closes a directory that was opened here.
func (fs *FS) endDir(h *fuse.InHeader, fh uint64) {
	d := fs.handles.dir(fh)
	if d == nil {
		return
	}
	d.mu.Lock() // who reads it uses its handle
	d.ended = true
	d.mu.Unlock()
	if fs.closeDir(h, fh) {
		go fs.release(fsproto.Handle(fh))
	}
}

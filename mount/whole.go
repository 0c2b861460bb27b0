package mount

import (
	"context"
	"sync"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// A directory that was made from here is empty, and what others make in it is called back
// for. So until then all of its names are known, and the kernel, which looks a name up
// before it makes a file, need not wait for the daemon to say that there is none. Another
// directory, in which names were looked for in vain, is listed for that, unless its listing
// is kept (ahead.go).

const (
	// maxWhole bounds the names of such directories, and maxNamed those of one that is
	// listed.
	maxWhole, maxNamed = 1 << 17, 8192
	// maxVain bounds the directories of which it is counted how often a name was looked
	// for in vain, and firstVain is how often that has to be before one is listed. Each
	// time in vain doubles it.
	maxVain, firstVain = 1 << 12, 3
)

// whole knows directories of which all names are known. The zero value knows none; its
// methods may be called concurrently.
type whole struct {
	mu    sync.Mutex
	dirs  map[fsproto.Node]*wholeDir
	names int
	vain  map[fsproto.Node]*vain
}

// vain are names that were looked for in vain.
type vain struct{ n, limit int }

type wholeDir struct {
	lease uint64              // while this one holds; 0: it is being listed
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

// missed takes note of a name that was looked for in vain. If it is time to list the
// directory, which is sooner if that is kept, it returns what listed is to be told;
// otherwise nil.
func (w *whole) missed(dir fsproto.Node, kept bool) *wholeDir {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.dirs[dir]; d != nil && d.lease == 0 {
		return nil
	}
	m := w.vain[dir]
	if m == nil {
		if w.vain == nil || len(w.vain) >= maxVain {
			w.vain = make(map[fsproto.Node]*vain)
		}
		m = &vain{limit: firstVain}
		w.vain[dir] = m
	}
	if m.n++; m.n < m.limit && !(kept && m.limit == firstVain) {
		return nil
	}
	m.n, m.limit = 0, 2*m.limit
	w.forgetLocked(dir)
	if w.dirs == nil || w.names >= maxWhole || len(w.dirs) >= maxWhole {
		w.dirs, w.names = make(map[fsproto.Node]*wholeDir), 0
	}
	d := &wholeDir{names: make(map[string]struct{})}
	w.dirs[dir] = d
	return d
}

// listed takes the names of a directory, which were read since a lease was given; if not
// ok, they are not known.
func (w *whole) listed(dir fsproto.Node, d *wholeDir, lease uint64, names []string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.dirs[dir] != d:
		return // it was forgotten meanwhile
	case !ok:
		w.forgetLocked(dir)
		return
	}
	before := len(d.names) // made meanwhile
	for _, name := range names {
		d.names[name] = struct{}{}
	}
	w.names += len(d.names) - before
	d.lease = lease
}

// making takes note of a name that is about to be made from here.
func (w *whole) making(dir fsproto.Node, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.dirs[dir]; d != nil {
		before := len(d.names)
		d.names[name] = struct{}{}
		if w.names += len(d.names) - before; w.names > maxWhole {
			w.forgetLocked(dir)
		}
	}
}

// lacking returns the lease under which a directory is known not to have a name; 0: it may
// have it.
func (w *whole) lacking(dir fsproto.Node, name string) (lease uint64) {
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
	w.forgetLocked(dir)
	delete(w.vain, dir)
}

func (w *whole) forgetLocked(dir fsproto.Node) {
	if d := w.dirs[dir]; d != nil {
		w.names -= len(d.names)
		delete(w.dirs, dir)
	}
}

// listWhole lists a directory in which a name was looked for in vain, if it is time. The
// lease is that of the reply.
func (fs *FS) listWhole(dir fsproto.Node, lease uint64) {
	if fs.creds != nil || !fs.leases.valid(dir, lease) {
		return
	}
	_, _, kept := fs.ahead.attrOf(dir)
	d := fs.whole.missed(dir, kept)
	if d == nil {
		return
	}
	then, names, kept := fs.ahead.namesOf(dir)
	switch {
	case kept:
		fs.whole.listed(dir, d, then, names, true)
	case fs.nodes.isChanging(dir): // what is under way was not noted
		fs.whole.listed(dir, d, lease, nil, false)
	default:
		go func() {
			names, ok := fs.namesOf(dir)
			fs.whole.listed(dir, d, lease, names, ok)
		}()
	}
}

// namesOf reads the names of a directory, unless there are many.
func (fs *FS) namesOf(dir fsproto.Node) (names []string, ok bool) {
	h := fs.newHandle()
	err := fs.link.behind(&fsproto.Opendir.Info, func(ctx context.Context) error {
		return rpc.Call(ctx, fs.peer, fsproto.Opendir, &fsproto.OpenReq{Node: dir, Handle: h, Flags: fsproto.OpenDir}, &fsproto.OpenRes{})
	})
	if err != nil {
		return nil, false
	}
	defer fs.release(h)
	for cookie := uint64(0); len(names) < maxNamed; {
		var res fsproto.ReaddirRes
		err := fs.link.behind(&fsproto.Readdir.Info, func(ctx context.Context) error {
			return rpc.Call(ctx, fs.peer, fsproto.Readdir, &fsproto.ReaddirReq{Handle: h, Cookie: cookie, Size: firstPage}, &res)
		})
		if err != nil || len(res.Entries) == 0 && !res.End {
			return nil, false
		}
		for i := range res.Entries {
			names = append(names, res.Entries[i].Name)
			cookie = res.Entries[i].Cookie
		}
		if res.End {
			return names, true
		}
	}
	return nil, false
}

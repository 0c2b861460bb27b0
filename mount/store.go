package mount

import (
	"container/list"
	"sync"

	"github.com/rpycfs/rpycfs/fsproto"
)

// A file that is open around the kernel's cache is read from a store of this side's
// instead: pages that came under a lease, or were written from here while it held. A
// page is used only while the lease holds under which the oldest of its file came.
// Unlike the kernel's cache, this one can be made right at any moment: a read looks at
// the lease when it is answered, and keeps no length of the file besides.

const (
	// maxStored bounds the store, in bytes of whole pages.
	maxStored = 32 << 20
	// maxAhead is the most that is read at once when reads follow each other, in bytes.
	// Longer reads go past the store.
	maxAhead = 256 << 10
)

// aheads are buffers for what is read from the daemon for the store.
var aheads = sync.Pool{New: func() any { return new([maxAhead]byte) }}

// store holds pages of files. Its methods may be called concurrently. It is nil where
// there are no leases.
type store struct {
	holds func(node fsproto.Node, lease uint64) bool // leases.valid

	mu    sync.Mutex
	files map[fsproto.Node]*stored
	used  *list.List // of *storedPage, the one used last in front
}

// stored is what is known of a file; its fields are the store's to lock.
type stored struct {
	node    fsproto.Node
	lease   uint64 // that of the oldest page
	pages   map[uint64]*storedPage
	end     uint64 // where the file ends, if ends
	ends    bool
	gen     uint64 // how many changes from here have begun or ended
	changes int    // those under way
	next    uint64 // where the read after the last one from the daemon would begin
	ahead   uint64 // how much that one brought
}

// storedPage is the beginning of a page: what follows is not known.
type storedPage struct {
	of   *stored
	no   uint64
	data []byte // of pageSize's capacity
	at   *list.Element
}

func newStore(holds func(fsproto.Node, uint64) bool) *store {
	return &store{holds: holds, files: make(map[fsproto.Node]*stored), used: list.New()}
}

// file returns what is known of a file. s.mu is held.
func (s *store) file(node fsproto.Node) *stored {
	f := s.files[node]
	if f == nil {
		f = &stored{node: node, pages: make(map[uint64]*storedPage)}
		s.files[node] = f
	}
	return f
}

// wanted is a part of a file to be read from the daemon.
type wanted struct {
	from uint64
	size int
	f    *stored // nil: it is not for the store; else from is a multiple of pageSize
	gen  uint64
}

// read fills buf with what lies at off, or says what has to be read from the daemon
// for that. n is less than len(buf) at the end of the file only.
func (s *store) read(node fsproto.Node, off uint64, buf []byte) (n int, here bool, w wanted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.file(node)
	if f.changes == 0 && len(f.pages) > 0 && s.holds(node, f.lease) {
		if n, here = s.copy(f, off, buf); here {
			return n, true, w
		}
	}
	w = wanted{f: f, gen: f.gen, from: off &^ (pageSize - 1)}
	end := (off + uint64(len(buf)) + pageSize - 1) &^ (pageSize - 1)
	w.size = int(end - w.from)
	if w.size > maxAhead {
		f.next = end
		return 0, false, wanted{from: off, size: len(buf)}
	}
	if w.from <= f.next && f.next < end {
		f.ahead = min(maxAhead, max(2*f.ahead, 4*uint64(w.size), 32<<10))
		w.size = max(w.size, int(f.ahead))
	} else {
		f.ahead = uint64(w.size)
	}
	f.next = w.from + uint64(w.size)
	return 0, false, w
}

// want returns what fill needs for the beginning of a file, of a length that will be known.
func (s *store) want(node fsproto.Node) wanted {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.file(node)
	return wanted{f: f, gen: f.gen}
}

// take is read for who keeps what he gets: pages that have been read from are given up. It
// does not say what to read from the daemon otherwise.
func (s *store) take(node fsproto.Node, off uint64, buf []byte) (n int, here bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[node]
	if f == nil || f.changes > 0 || len(f.pages) == 0 || !s.holds(node, f.lease) {
		return 0, false
	}
	if n, here = s.copy(f, off, buf); !here {
		return 0, false
	}
	for no := off / pageSize; no*pageSize < off+uint64(n); no++ {
		if p := f.pages[no]; p != nil {
			s.used.Remove(p.at)
			delete(f.pages, no)
		}
	}
	return n, true
}

// copy is read from what is known. s.mu is held.
func (s *store) copy(f *stored, off uint64, buf []byte) (n int, here bool) {
	for n < len(buf) {
		at := off + uint64(n)
		if f.ends && at >= f.end {
			return n, true
		}
		p := f.pages[at/pageSize]
		if p == nil || at%pageSize >= uint64(len(p.data)) {
			return 0, false
		}
		n += copy(buf[n:], p.data[at%pageSize:])
		s.used.MoveToFront(p.at)
	}
	return n, true
}

// fill notes what the daemon has sent of what was wanted, under a lease. Less than was
// wanted is all there is.
func (s *store) fill(w wanted, data []byte, lease uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := w.f
	if s.files[f.node] != f || f.gen != w.gen || f.changes > 0 || !s.renew(f, lease) {
		return
	}
	if len(data) < w.size {
		f.end, f.ends = w.from+uint64(len(data)), true
	}
	s.put(f, w.from, data)
}

// renew prepares a file for data that came under a lease: what is there is dropped if its
// lease is void. It reports whether the new one holds. s.mu is held.
func (s *store) renew(f *stored, lease uint64) bool {
	if !s.holds(f.node, lease) {
		return false
	}
	if len(f.pages) == 0 || !s.holds(f.node, f.lease) {
		s.clear(f)
		f.lease = lease
	}
	return true
}

// put enters data, as far as it begins a page or goes on where one is known to. s.mu is held.
func (s *store) put(f *stored, off uint64, data []byte) {
	for len(data) > 0 {
		no, in := off/pageSize, int(off%pageSize)
		n := min(len(data), pageSize-in)
		p := f.pages[no]
		if p == nil && in == 0 {
			s.shrink(maxStored - pageSize)
			p = &storedPage{of: f, no: no, data: make([]byte, 0, pageSize)}
			p.at = s.used.PushFront(p)
			f.pages[no] = p
		}
		if p != nil && in <= len(p.data) {
			p.data = p.data[:max(len(p.data), in+n)]
			copy(p.data[in:], data[:n])
		}
		off, data = off+uint64(n), data[n:]
	}
}

// shrink drops the pages that were not used for the longest time until the others
// take up size bytes at most. s.mu is held.
func (s *store) shrink(size int) {
	for s.used.Len()*pageSize > size {
		p := s.used.Back().Value.(*storedPage)
		s.used.Remove(p.at)
		delete(p.of.pages, p.no)
	}
}

// clear drops what is known of a file. s.mu is held.
func (s *store) clear(f *stored) {
	for _, p := range f.pages {
		s.used.Remove(p.at)
	}
	clear(f.pages)
	f.ends = false
}

// drop drops what is known of a file, and what is on its way.
func (s *store) drop(node fsproto.Node) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[node]; f != nil {
		f.gen++
		s.clear(f)
	}
}

// forget is drop for a node that the kernel does not refer to any more.
func (s *store) forget(node fsproto.Node) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[node]; f != nil {
		s.clear(f)
		delete(s.files, node)
	}
}

// changing notes that a file's data is about to be changed from here. Until the function
// that it returns is called, nothing is read from the store. It is told what was written
// of which data, if that is all that has changed and was done under a lease.
func (s *store) changing(node fsproto.Node) (done func(w written, data []byte)) {
	if s == nil {
		return func(written, []byte) {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.file(node)
	f.changes++
	f.gen++
	gen := f.gen
	return func(w written, data []byte) {
		s.mu.Lock()
		defer s.mu.Unlock()
		f.changes--
		alone := f.gen == gen
		f.gen++
		if s.files[node] != f {
			return
		}
		if !alone || w.n == 0 || !s.renew(f, w.lease) {
			s.clear(f)
			return
		}
		if end := w.at + uint64(w.n); f.ends && end > f.end {
			f.end = end // what lies before w.at may be others', who have appended
		}
		s.put(f, w.at, data[:w.n])
	}
}

// size returns how many bytes the store takes up.
func (s *store) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used.Len() * pageSize
}

package export

import (
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"golang.org/x/sys/unix"
)

// object is a node that a call uses: it and its descriptor stay until done.
type object struct {
	s       *Session
	r       *ref
	n       *node
	p       *beneath.Path
	checked time.Time // when it was last known to be beneath the root
}

// node returns the object behind a number, which was beneath the session's root
// a moment ago. ESTALE if there is none.
func (s *Session) node(num fsproto.Node) (object, error) {
	s.mu.Lock()
	entry := s.numbers[num]
	if entry == nil || s.closed {
		s.mu.Unlock()
		return object{}, syscall.ESTALE
	}
	r := entry.r
	s.e.keep(r.n)
	s.mu.Unlock()
	return s.use(r)
}

// dir is node for what must be a directory, else ENOTDIR.
func (s *Session) dir(num fsproto.Node) (object, error) {
	o, err := s.node(num)
	if err == nil && !o.n.isDir() {
		o.done()
		return object{}, syscall.ENOTDIR
	}
	return o, err
}

// use acquires and checks the node of r, a reference of which the caller hands
// over.
func (s *Session) use(r *ref) (object, error) {
	p, err := s.e.acquire(r.n)
	if err != nil {
		s.e.unref(r.n)
		return object{}, err
	}
	checked, err := s.verify(r, p)
	if err != nil {
		s.e.release(r.n)
		return object{}, err
	}
	return object{s: s, r: r, n: r.n, p: p, checked: checked}, nil
}

func (o object) done() { o.s.e.release(o.n) }

// verify returns when r was last known to be beneath the session's root, having
// looked if that is too long ago. ESTALE if it is not.
func (s *Session) verify(r *ref, p *beneath.Path) (time.Time, error) {
	s.mu.Lock()
	checked, opens := r.checked, r.opens
	s.mu.Unlock()
	if age := time.Since(checked); age < recheckDirAfter || age < recheckAfter && !r.n.isDir() {
		return checked, nil
	}
	if opens > 0 && !r.n.isDir() {
		return time.Now(), nil
	}
	last := checked
	checked, err := s.find(r.n, p)
	if isErrno(err, syscall.ESTALE) && time.Since(last) < idleAfter && removed(p) {
		return last, nil
	}
	if err != nil {
		if isErrno(err, syscall.ESTALE) {
			s.log.Info("node is no longer beneath the root", "ino", r.n.id.ino)
		}
		return checked, err
	}
	s.mu.Lock()
	if checked.After(r.checked) {
		r.checked = checked
	}
	s.mu.Unlock()
	return checked, nil
}

// find is locate with the daemon's rights: whoever uses n need not be able to
// search the directories above it.
func (s *Session) find(n *node, p *beneath.Path) (checked time.Time, err error) {
	s.e.asDaemon(func() { checked, err = s.locate(n, p, 0) })
	return checked, err
}

// removed reports whether file p has no name left. It lies nowhere then, and who
// has just looked it up may still open it, as one may who does so in one call on
// a local disk.
func removed(p *beneath.Path) bool {
	st, err := p.Stat()
	return err == nil && st.Nlink == 0 && st.Mode&unix.S_IFMT != unix.S_IFDIR
}

// locate finds out whether n is beneath the root now, and since when that is
// known. p is n's descriptor.
func (s *Session) locate(n *node, p *beneath.Path, depth int) (time.Time, error) {
	if n == s.top.n {
		return s.locateTop(p)
	}
	if n.isDir() {
		checked, err := s.climb(p)
		if !isErrno(err, syscall.EACCES) {
			return checked, err
		}
		// A directory without x permission does not tell its parent.
	}
	for _, h := range s.e.hintsOf(n) {
		if checked, err := s.locateName(n, h, depth); err == nil {
			return checked, nil
		}
	}
	return time.Time{}, syscall.ESTALE
}

// locateName reports whether n has name h in a directory beneath the root.
func (s *Session) locateName(n *node, h hint, depth int) (time.Time, error) {
	dir := s.e.find(h.dir)
	if dir == nil {
		return time.Time{}, syscall.ESTALE
	}
	if depth > maxDepth {
		s.e.unref(dir)
		return time.Time{}, syscall.ESTALE
	}
	d, err := s.e.acquire(dir)
	if err != nil {
		s.e.unref(dir)
		return time.Time{}, err
	}
	defer s.e.release(dir)
	checked, known := s.lately(dir)
	if !known {
		if checked, err = s.locate(dir, d, depth+1); err != nil {
			return checked, err
		}
	}
	st, err := d.StatAt(h.name)
	if err != nil {
		return checked, err
	}
	id, err := identOf(&st, func() (beneath.KernelHandle, error) { return d.HandleAt(h.name) })
	if err == nil && id != n.id {
		err = syscall.ESTALE
	}
	return checked, err
}

// lately reports whether n was seen beneath the root lately, and when.
func (s *Session) lately(n *node) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.refs[n]
	if r == nil || time.Since(r.checked) >= recheckDirAfter {
		return time.Time{}, false
	}
	return r.checked, true
}

// climb walks up from directory p to the session's root, or to a directory that
// was seen beneath it lately.
func (s *Session) climb(p *beneath.Path) (time.Time, error) {
	var checked time.Time
	err := s.e.walkUp(p, func(id ident, up *beneath.Path) (found bool, err error) {
		n := s.e.find(id)
		if n == nil {
			return false, nil
		}
		defer s.e.unref(n)
		if checked, found = s.lately(n); found {
			return true, nil
		}
		if n != s.top.n {
			return false, nil
		}
		checked, err = s.locateTop(up)
		return true, err
	})
	return checked, err
}

// locateTop finds out whether the attached root, p, is beneath the user's root
// and that is beneath the export's.
func (s *Session) locateTop(p *beneath.Path) (time.Time, error) {
	now := time.Now()
	if err := s.e.reaches(p, s.top.n, s.root); err != nil {
		return now, err
	}
	return now, s.e.reaches(s.root.path, s.root, s.e.root) // descriptors of roots are held
}

// reaches checks that directory p, which is n, lies beneath another or is it.
func (e *Export) reaches(p *beneath.Path, n, other *node) error {
	if n == other {
		return nil
	}
	return e.walkUp(p, func(id ident, _ *beneath.Path) (bool, error) { return id == other.id, nil })
}

// walkUp calls visit for each directory above p until it reports true. ESTALE
// when the file system's or the export's root is passed before.
func (e *Export) walkUp(p *beneath.Path, visit func(ident, *beneath.Path) (bool, error)) error {
	var last ident
	cur, owned := p, false
	defer func() {
		if owned {
			cur.Close()
		}
	}()
	for range maxDepth {
		up, err := cur.Parent()
		if err != nil {
			return err
		}
		if owned {
			cur.Close()
		}
		cur, owned = up, true
		id, err := e.above(up)
		if err != nil {
			return err
		}
		if stop, err := visit(id, up); stop || err != nil {
			return err
		}
		if id == last || id == e.root.id {
			return syscall.ESTALE
		}
		last = id
	}
	return syscall.ESTALE
}

// above returns the identity of a directory that walkUp met, ESTALE for one
// that is not in the export's file system.
func (e *Export) above(up *beneath.Path) (ident, error) {
	st, err := up.Stat()
	if err != nil {
		return ident{}, err
	}
	if e.within(&st) != nil {
		return ident{}, syscall.ESTALE
	}
	return identOf(&st, up.Handle)
}

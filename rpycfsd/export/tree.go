package export

import (
	"context"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"golang.org/x/sys/unix"
)

// Clients look ahead with two calls that do at once what would take many: tree lists
// directories and those below, readfile opens and reads files. Nothing is kept here
// between them.

const (
	// aheadTime is how long one of them goes on before it answers with what it has.
	aheadTime = 200 * time.Millisecond
	// aheadCalls is how many of a session run at once; others wait.
	aheadCalls = 8
	// aheadSkips is how many directories too long for a reply are passed over before it
	// ends.
	aheadSkips = 8
)

// turn waits until the session may run one more of these calls. It ends with done.
func (s *Session) turn(ctx context.Context) (done func(), err error) {
	select {
	case s.turns <- struct{}{}:
		return func() { <-s.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err() // the cause is how the connection ended, which is no error of this call
	}
}

// tree lists directories, and those below in the order in which who walks the tree comes
// to them. The first one, if it is wanted in any case, fails or is told in part as readdir
// would do it.
func (s *Session) tree(c call, req *fsproto.TreeReq, res *fsproto.TreeRes) error {
	done, err := s.turn(c.ctx)
	if err != nil {
		return err
	}
	defer done()
	left, wanted, until := int(req.First), req.First > 0, time.Now().Add(aheadTime)
	if !wanted {
		left = int(req.Size)
	}
	next := slices.Clone(req.Dirs) // from the end
	slices.Reverse(next)
	listed := make(map[fsproto.Node]bool)
	for first, skips := true, 0; len(next) > 0 && len(res.Dirs) < fsproto.MaxTree; first = false {
		if !first && (time.Now().After(until) || c.ctx.Err() != nil) {
			return nil
		}
		dir := fsproto.TreeDir{Node: next[len(next)-1]}
		next = next[:len(next)-1]
		if listed[dir.Node] {
			continue // it is below another one
		}
		listed[dir.Node] = true
		size, err := s.listWhole(&dir, left, first && wanted)
		switch {
		case err != nil && first && wanted:
			return err
		case err != nil:
			dir = fsproto.TreeDir{Node: dir.Node, Failed: true}
			size = fsproto.TreeDirSize
		case size == 0:
			if skips++; skips == aheadSkips {
				return nil
			}
			continue
		}
		if left -= size; first && wanted {
			left = int(req.Size)
		}
		res.Dirs = append(res.Dirs, dir)
		if left < fsproto.TreeDirSize || !dir.Failed && !dir.End {
			return nil
		}
		if req.Below {
			next = append(next, below(&dir, req.Order)...)
		}
	}
	return nil
}

// below returns the directories in one, the first one last.
func below(dir *fsproto.TreeDir, order uint8) (nodes []fsproto.Node) {
	var dirs []*fsproto.Dirent
	for i := range dir.Entries {
		if e := &dir.Entries[i]; e.Known && e.Entry.Attr.IsDir() {
			dirs = append(dirs, e)
		}
	}
	if order != fsproto.TreeAsListed {
		slices.SortFunc(dirs, func(a, b *fsproto.Dirent) int { return fsproto.TreeCompare(order, a, b) })
	}
	for _, e := range slices.Backward(dirs) {
		nodes = append(nodes, e.Entry.Node)
	}
	return nodes
}

// listWhole lists a directory if it takes no more than left bytes, and returns how many
// it took, 0: it would take more. In part it is listed only if that is asked for, or if
// something is in the way that was not there at first.
func (s *Session) listWhole(dir *fsproto.TreeDir, left int, inPart bool) (size int, err error) {
	s.coverWithin(dir.Node)
	began := s.e.leases.now()
	d, err := s.dir(dir.Node)
	if err != nil {
		return 0, err
	}
	defer d.done()
	f, err := d.p.OpenDir()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if !inPart {
		if fits, err := fits(f, left-fsproto.TreeDirSize); err != nil || !fits {
			return 0, err
		}
	}
	var list fsproto.ReaddirRes
	l := listing{s: s, d: d, f: f, entries: true, left: left - fsproto.TreeDirSize, res: &list}
	if err := l.fill(0); err != nil && len(list.Entries) == 0 {
		return 0, err
	}
	st, err := f.Stat()
	if err != nil && inPart {
		return 0, err
	}
	// What has been given numbers is told in any case.
	dir.Dir, dir.End, dir.Entries = attrOf(&st), list.End && err == nil, list.Entries
	s.grantListed(began, dir)
	return left - l.left, nil
}

// fits reports whether the listing of an open directory takes no more than left bytes.
func fits(f *beneath.File, left int) (bool, error) {
	buf := make([]byte, listBuffer)
	var names []beneath.Dirent
	for n := 0; ; n += len(names) {
		var end bool
		var err error
		if names, end, err = f.Dirents(buf, names[:0]); err != nil || end {
			return err == nil, err
		}
		for _, name := range names {
			left -= entryRoom(name)
		}
		if left < 0 || n+len(names) > fsproto.MaxEntries {
			return false, nil
		}
	}
}

// readfile reads parts of files. What cannot be opened or is shared is left out: who wants
// it opens it.
func (s *Session) readfile(c call, req *fsproto.ReadfileReq, res *fsproto.ReadfileRes) error {
	done, err := s.turn(c.ctx)
	if err != nil {
		return err
	}
	defer done()
	until := time.Now().Add(aheadTime)
	res.Parts = make([]fsproto.FileData, 0, len(req.Parts))
	for i := range req.Parts {
		if i > 0 && (time.Now().After(until) || c.ctx.Err() != nil) {
			return nil
		}
		var d fsproto.FileData
		if err := s.readPart(&req.Parts[i], &d); err != nil {
			if i == 0 && len(req.Parts) == 1 {
				return err
			}
			d = fsproto.FileData{}
		}
		res.Parts = append(res.Parts, d)
	}
	return nil
}

func (s *Session) readPart(p *fsproto.FilePart, d *fsproto.FileData) error {
	if err := offsets(p.Offset); err != nil {
		return err
	}
	s.coverWithin(p.Node)
	began := s.e.leases.now()
	o, err := s.node(p.Node)
	if err != nil {
		return err
	}
	defer o.done()
	if o.n.kind != unix.S_IFREG || s.sharesFile(o.n) {
		return nil
	}
	f, err := o.p.Open(openFlags(fsproto.OpenRead))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	size := min(uint64(p.Size), st.Size-min(st.Size, p.Offset))
	d.Data = make([]byte, size)
	n, err := f.ReadAt(d.Data, int64(p.Offset))
	if err != nil {
		return err
	}
	if st, err = f.Stat(); err != nil {
		return err
	}
	d.Read, d.Data, d.Attr = true, d.Data[:n], attrOf(&st)
	s.grantRead(began, p.Node, d)
	return nil
}

package mount

import (
	"context"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// How a walk goes, and what it is likely to come to next.

// walk is a series of directories that somebody visits one after the other, or several
// threads each of which goes through a part. It is guarded by ahead.mu.
type walk struct {
	visits  int
	looked  int       // names that were looked up
	last    time.Time // when somebody came to a directory or file
	visited map[fsproto.Node]bool
	passed  map[fsproto.Node]int    // that took more than so many bytes
	cursors map[uint32]*cursor      // by thread
	latest  *cursor                 // the one that moved last
	dry     bool                    // there is nothing to fetch until a reply comes or somebody moves
	waiting int                     // requests that wait for directories
	crowd   int                     // how many did at once lately
	order   uint8                   // in which it goes, as far as that is known
	follows [fsproto.TreeOrders]int // how often a step was in that order lately, less how often it was not
	lists   meter
	first   int // what may be fetched ahead for a thread when the walk has been seen

	opens    int // files that were opened for reading one after the other
	lastFile time.Time
	read     map[fsproto.Node]bool // that were opened, or cannot be read ahead
	files    meter
}

// cursor is where one thread of those that walk is.
type cursor struct {
	at     fsproto.Node // the last directory
	fileIn fsproto.Node // the directory of the last file that it opened
	file   int          // and its index there
}

const (
	// maxVisited bounds the directories that a walk remembers.
	maxVisited = 1 << 16
	// maxPerCall bounds the directories that a call asks for.
	maxPerCall = 128
	// maxAbove bounds how far above a directory a walk may have begun that it belongs to.
	maxAbove = 16
	// maxCursors bounds the threads that it remembers.
	maxCursors = 64
)

func newWalk(packed bool) *walk {
	w := &walk{first: firstAhead, visited: make(map[fsproto.Node]bool), passed: make(map[fsproto.Node]int), cursors: make(map[uint32]*cursor)}
	if packed {
		w.first *= packing
	}
	return w
}

// of returns the cursor of a thread. Who is new comes from where the walk was last: often
// each directory is visited by a process of its own.
func (w *walk) of(thread uint32) *cursor {
	c := w.cursors[thread]
	if c == nil {
		if len(w.cursors) >= maxCursors {
			clear(w.cursors)
		}
		c = new(cursor)
		if w.latest != nil {
			*c = *w.latest
		}
		w.cursors[thread] = c
	}
	w.latest = c
	return c
}

// passedOver notes which directories were too long for a reply: those asked for that are
// not in it, before the last one that is.
func (w *walk) passedOver(req *fsproto.TreeReq, res *fsproto.TreeRes) {
	if len(w.passed) >= maxVisited {
		clear(w.passed)
	}
	came := make(map[fsproto.Node]bool, len(res.Dirs))
	for i := range res.Dirs {
		came[res.Dirs[i].Node] = true
	}
	last := len(req.Dirs) - 1
	for last > 0 && !came[req.Dirs[last]] {
		last--
	}
	for _, dir := range req.Dirs[:last+1] {
		if !came[dir] {
			w.passed[dir] = int(req.Size)
		}
	}
}

// wait notes that a request begins to wait for a directory, and done that it has it.
func (w *walk) wait() {
	w.waiting++
	w.crowd = max(w.crowd-1, w.waiting)
}

func (w *walk) done() { w.waiting-- }

// meter counts the bytes that were fetched.
type meter struct {
	fetched, used int
	asked         int // at most, by calls under way
}

// left returns how much more may be fetched, where least and most bound what is unused.
func (m *meter) left(least, most int) int {
	return min(max(least, m.used), most) - (m.fetched - m.used) - m.asked
}

// left returns how many bytes of listings may be fetched.
func (w *walk) left() int {
	return w.lists.left(w.first*min(max(w.crowd, 1), firstCrowd), maxUnused)
}

// learnOrder looks at how a walk went on from a directory to one beside it. mu is held.
func (a *ahead) learnOrder(w *walk, last, next fsproto.Node) {
	parent, from := a.fs.nodes.placeOf(last)
	beside, to := a.fs.nodes.placeOf(next)
	if up := a.dirs[parent]; parent == beside && up != nil {
		i, known := up.names[from]
		if j, too := up.names[to]; known && too {
			w.learn(up, i, j)
		}
	}
}

// learn takes notice of a step from one entry to another.
func (w *walk) learn(l *listing, from, to int) {
	if from == to {
		return
	}
	for order := range w.follows {
		step := -1
		if order == int(fsproto.TreeAsListed) && from < to ||
			order != int(fsproto.TreeAsListed) && fsproto.TreeCompare(uint8(order), &l.entries[from], &l.entries[to]) < 0 {
			step = 1
		}
		w.follows[order] = min(max(w.follows[order]+step, -8), 8)
	}
	for order := range w.follows {
		if w.follows[order] > w.follows[w.order] {
			w.order = uint8(order)
		}
	}
}

// walkOf returns the walk that a directory belongs to: that of a directory above it, or a
// new one. mu is held.
func (a *ahead) walkOf(dir fsproto.Node) *walk {
	for range maxAbove {
		parent, _ := a.fs.nodes.placeOf(dir)
		if l := a.dirs[parent]; l != nil && l.visited && time.Since(l.walk.last) < walkEnds {
			return l.walk
		}
		if parent == dir {
			break
		}
		dir = parent
	}
	return newWalk(a.fs.peer.Compression().Asks)
}

// fetchAhead begins calls that nobody waits for, as many as a walk is good for. mu is held.
func (a *ahead) fetchAhead(w *walk) {
	for w.visits > 1 && !w.dry && a.under < maxUnder && !a.stopped && !a.off.Load() {
		size := min(w.left(), listAhead)
		if size < min(max(least, w.lists.used/4), listAhead) {
			return // few calls, that bring much
		}
		dirs := a.next(w, size)
		if w.dry = len(dirs) == 0; w.dry {
			return
		}
		req := &fsproto.TreeReq{Dirs: dirs, Size: uint32(size), Below: true, Order: w.order}
		f := a.begin(w, req, size)
		a.under++
		a.running.Go(func() { a.fetch(w, req, f) })
	}
}

// typical returns how many bytes a directory of the walk takes.
func (w *walk) typical() int {
	if n := len(w.visited); n > 0 && w.lists.used > 0 {
		return max(w.lists.used/n, 256)
	}
	return 4 << 10
}

// fetch makes a call that nobody waits for.
func (a *ahead) fetch(w *walk, req *fsproto.TreeReq, f *fetching) {
	res, clock, end := a.prepare()
	defer end()
	err := a.fs.link.behind(&fsproto.Tree.Info, func(ctx context.Context) error {
		_, err := rpc.CallWith(ctx, a.fs.peer, fsproto.Tree, req, res, rpc.Extra{Bulk: true})
		if err == nil {
			a.fs.ids.learn(ctx, res)
		}
		return err
	})
	a.finish(w, req, res, clock, f, err)
	a.mu.Lock()
	a.under--
	a.fetchAhead(w)
	a.mu.Unlock()
}

// next returns directories that a walk is about to come to and that are neither at hand
// nor asked for: those of the thread that moved last, or of another one if it has none. They
// are more than a call of a size is likely to bring. mu is held.
func (a *ahead) next(w *walk, size int) (dirs []fsproto.Node) {
	most, looked := min(max(2*size/w.typical(), 1), maxPerCall), 0
	if dirs = a.nextOf(w, w.latest, most, size, &looked); len(dirs) > 0 {
		return dirs
	}
	for _, c := range w.cursors {
		if dirs = a.nextOf(w, c, most, size, &looked); len(dirs) > 0 {
			return dirs
		}
	}
	return nil
}

// nextOf returns what one thread is about to come to: below where it is, and then beside
// what leads there, if it may take no more than size bytes. mu is held.
func (a *ahead) nextOf(w *walk, c *cursor, most, size int, looked *int) (dirs []fsproto.Node) {
	add := func(n fsproto.Node) {
		if len(dirs) < most && a.dirs[n] == nil && a.pending[n] == nil && !w.visited[n] && w.passed[n] < size {
			dirs = append(dirs, n)
		}
	}
	var down func(l *listing, subdirs []int)
	down = func(l *listing, subdirs []int) {
		for _, i := range subdirs {
			if *looked++; *looked > maxLooked || len(dirs) >= most {
				return
			}
			n := l.entries[i].Entry.Node
			if below := a.dirs[n]; below != nil {
				down(below, below.dirsInOrder(w.order))
			} else {
				add(n)
			}
		}
	}
	for at, from := c.at, -1; len(dirs) < most && *looked <= maxLooked; {
		if l := a.dirs[at]; l != nil {
			subdirs := l.dirsInOrder(w.order)
			done := slices.Index(subdirs, from) + 1
			down(l, subdirs[done:])
			for _, i := range subdirs[:done] { // by who walks in no order
				add(l.entries[i].Entry.Node)
			}
		}
		parent, name := a.fs.nodes.placeOf(at)
		up := a.dirs[parent]
		if up == nil || up.walk != w || parent == at {
			break
		}
		i, ok := up.names[name]
		if !ok {
			break
		}
		at, from = parent, i
	}
	return dirs
}

package mount

import (
	"context"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// How a walk goes, and what it is likely to come to next.

// walk is a series of directories that somebody visits one after the other. It is guarded
// by ahead.mu.
type walk struct {
	visits  int
	at      fsproto.Node // the last
	last    time.Time    // when that was
	visited map[fsproto.Node]bool
	order   uint8                   // in which it goes, as far as that is known
	follows [fsproto.TreeOrders]int // how often a step was in that order lately, less how often it was not
	lists   meter

	opens    int          // files that were opened for reading one after the other
	fileIn   fsproto.Node // the directory of the last one
	file     int          // and its index there
	lastFile time.Time
	read     map[fsproto.Node]bool // that were opened, or cannot be read ahead
	files    meter
}

// maxVisited bounds the directories that a walk remembers.
const maxVisited = 1 << 16

// meter counts the bytes that were fetched.
type meter struct {
	fetched, used int
	asked         int // at most, by calls under way
}

// left returns how much more may be fetched.
func (m *meter) left(most int) int {
	return min(max(firstAhead, m.used), most) - (m.fetched - m.used) - m.asked
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

// walkOf returns the walk that a directory belongs to: that of the directory it is in, or
// a new one. mu is held.
func (a *ahead) walkOf(dir fsproto.Node) *walk {
	parent, _ := a.fs.nodes.placeOf(dir)
	if l := a.dirs[parent]; l != nil && l.visited && time.Since(l.walk.last) < walkEnds {
		return l.walk
	}
	return &walk{visited: make(map[fsproto.Node]bool)}
}

// fetchAhead begins calls that nobody waits for, as many as a walk is good for. mu is held.
func (a *ahead) fetchAhead(w *walk) {
	for w.visits > 1 && a.under < maxUnder && !a.stopped && !a.off.Load() {
		size := min(w.lists.left(maxUnused), listAhead)
		if size < min(max(least, w.lists.used/4), listAhead) {
			return // few calls, that bring much
		}
		dirs := a.next(w, a.perCall(w, size))
		if len(dirs) == 0 {
			return
		}
		req := &fsproto.TreeReq{Dirs: dirs, First: uint32(size), Size: uint32(size), Below: true, Order: w.order}
		f := a.begin(w, req)
		a.under++
		a.running.Go(func() { a.fetch(w, req, f) })
	}
}

// perCall returns how many directories a call of a size is to ask for: about as many as
// it will bring.
func (a *ahead) perCall(w *walk, size int) int {
	typical := 4 << 10
	if n := len(w.visited); n > 0 && w.lists.used > 0 {
		typical = max(w.lists.used/n, 256)
	}
	return min(max(size/typical, 1), 64)
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
	begin, _ := a.finish(w, req, res, clock, f, err)
	if begin != nil {
		a.forget(known(begin.entries))
	}
	a.mu.Lock()
	a.under--
	a.fetchAhead(w)
	a.mu.Unlock()
}

// next returns directories that a walk is about to come to and that are neither at hand
// nor asked for: below where it is, and then beside what leads there. mu is held.
func (a *ahead) next(w *walk, most int) (dirs []fsproto.Node) {
	looked := 0
	add := func(n fsproto.Node) {
		if len(dirs) < most && a.dirs[n] == nil && a.pending[n] == nil && !w.visited[n] {
			dirs = append(dirs, n)
		}
	}
	var down func(l *listing, subdirs []int)
	down = func(l *listing, subdirs []int) {
		for _, i := range subdirs {
			if looked++; looked > maxLooked || len(dirs) >= most {
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
	for at, from := w.at, -1; len(dirs) < most && looked <= maxLooked; {
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

package mount

import (
	"slices"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
)

// Sizes of guard.
const (
	recentNames = 8192
	guardedDirs = 4096
	guardFor    = 5 * time.Second // after the last lock
)

// guard keeps names true in directories that have locked files. Programs lock a
// file to protect others beside it: sqlite3 looks for a journal when it has
// locked its database, and one that the kernel believes not to exist, or still
// to exist, costs the database.
//
// In such a directory the kernel is told names without a time-out. What it was
// told shortly before is remembered, and taken back at the first lock.
type guard struct {
	timeout time.Duration // how long the kernel believes a name

	mu     sync.Mutex
	dirs   map[fsproto.Node]*guarded
	recent [recentNames]recentName // a ring
	next   int
}

// guarded is a directory whose names are not cached.
type guarded struct {
	files int       // with locks
	until time.Time // when there are none
	clean bool      // names from before have been taken back
}

type recentName struct {
	dir  fsproto.Node
	name string
	at   time.Time
}

func newGuard(timeout time.Duration) *guard {
	return &guard{timeout: timeout, dirs: make(map[fsproto.Node]*guarded)}
}

// mayKeep reports whether the kernel may believe name in dir for a while, and
// remembers that it does.
func (g *guard) mayKeep(dir fsproto.Node, name string) bool {
	if g == nil || name == "" {
		return true
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.dirs[dir]; d != nil && d.active(now) {
		return false
	}
	g.recent[g.next] = recentName{dir, name, now}
	g.next = (g.next + 1) % recentNames
	return true
}

func (d *guarded) active(now time.Time) bool { return d.files > 0 || now.Before(d.until) }

// begin guards a directory for one more file with locks.
func (g *guard) begin(dir fsproto.Node) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.dirs[dir]
	if d == nil || !d.active(now) {
		g.prune(now)
		d = &guarded{}
		g.dirs[dir] = d
	}
	d.files++
}

// end undoes begin, after a while.
func (g *guard) end(dir fsproto.Node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.dirs[dir]; d != nil {
		d.files--
		d.until = time.Now().Add(guardFor)
	}
}

// prune makes room among directories without locks; mu is held.
func (g *guard) prune(now time.Time) {
	if len(g.dirs) < guardedDirs {
		return
	}
	for dir, d := range g.dirs {
		if !d.active(now) || d.files == 0 && len(g.dirs) >= guardedDirs {
			delete(g.dirs, dir)
		}
	}
}

// stale returns the names of a guarded directory that the kernel may believe
// from before, unless they were taken back. Where there were too many to
// remember, wait is how long the kernel may go on believing others.
func (g *guard) stale(dir fsproto.Node) (names []string, wait time.Duration) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.dirs[dir]; d == nil || d.clean {
		return nil, 0
	}
	for i := range g.recent {
		r := &g.recent[i]
		if r.dir == dir && now.Sub(r.at) < g.timeout {
			names = append(names, r.name)
		}
	}
	if oldest := g.recent[g.next].at; !oldest.IsZero() {
		wait = max(0, g.timeout-now.Sub(oldest))
	}
	slices.Sort(names)
	return slices.Compact(names), wait
}

// cleaned tells that the names that stale returned were taken back.
func (g *guard) cleaned(dir fsproto.Node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.dirs[dir]; d != nil {
		d.clean = true
	}
}

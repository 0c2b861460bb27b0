package mount

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
)

// hotNames knows the names that other clients have changed lately: where one is
// a lock, or is replaced again and again, the kernel is to ask each time instead
// of waiting for its time-out. It is a small table of what lookups said last; a
// name that shares its place with another starts anew.
type hotNames struct {
	seed maphash.Seed

	mu    sync.Mutex
	slots [1024]hotName
}

type hotName struct {
	key     uint64
	known   bool
	node    fsproto.Node // 0: there was none
	changed time.Time    // when somebody else was last seen to have changed it
}

// hotFor is how long a name stays hot after a change.
const hotFor = 5 * time.Second

func newHotNames() *hotNames { return &hotNames{seed: maphash.MakeSeed()} }

// slot returns the place of a name, with mu held.
func (h *hotNames) slot(parent fsproto.Node, name string) *hotName {
	key := maphash.Comparable(h.seed, parent) ^ maphash.String(h.seed, name)
	s := &h.slots[key%uint64(len(h.slots))]
	if s.key != key {
		*s = hotName{key: key}
	}
	return s
}

// found notes what a lookup has found and reports whether the name is hot.
func (h *hotNames) found(parent fsproto.Node, name string, node fsproto.Node) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.slot(parent, name)
	if s.known && s.node != node {
		s.changed = time.Now()
	}
	s.node, s.known = node, true
	return !s.changed.IsZero() && time.Since(s.changed) < hotFor
}

// made notes what a request of our own has made of a name: 0 that it is gone.
func (h *hotNames) made(parent fsproto.Node, name string, node fsproto.Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.slot(parent, name)
	s.node, s.known = node, true
}

package mount

import (
	"sync"

	"github.com/rpycfs/rpycfs/fsproto"
)

// maxFormer bounds the directories whose places are kept.
const maxFormer = 4096

// former has the places of directories that the kernel has forgotten lately. When one is
// renamed elsewhere the kernel drops all below it, but for what is watched: the way there
// leads through these.
type former struct {
	mu     sync.Mutex // comes after that of a shard
	places map[fsproto.Node]entryName
}

func (f *former) add(n fsproto.Node, at entryName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.places == nil || len(f.places) >= maxFormer {
		f.places = make(map[fsproto.Node]entryName)
	}
	f.places[n] = at
}

func (f *former) of(n fsproto.Node) entryName {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.places[n]
}

// moved notes where one of them is now.
func (f *former) moved(n fsproto.Node, to entryName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.places[n]; ok {
		f.places[n] = to
	}
}

// renamed notes that what had one name has another. The daemon does not say which node
// that is when it is forgotten.
func (f *former) renamed(from, to entryName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, at := range f.places {
		if at == from {
			f.places[n] = to
		}
	}
}

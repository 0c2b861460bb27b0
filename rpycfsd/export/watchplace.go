package export

import (
	"strings"
	"time"

	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/fsevents"
)

// place is where something is in the export: names with "/" between them, "" the
// root. The zero value is nowhere that could be told of.
type place struct {
	path string
	in   bool
}

// entry returns the place of an entry of the directory at p; of an empty name, p.
func (p place) entry(name string) place {
	switch {
	case !p.in || name == "":
		return p
	case p.path == "":
		return place{name, true}
	}
	return place{p.path + "/" + name, true}
}

// beyond returns what of path lies beneath the directory at top, without a slash in
// front.
func beyond(path, top string) (rel string, ok bool) {
	if path == top {
		return "", true
	}
	if top == "" {
		return path, true
	}
	rest, ok := strings.CutPrefix(path, top)
	if !ok || rest[0] != '/' {
		return "", false
	}
	return rest[1:], true
}

// parent splits the last name off a path.
func parent(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// descendTries bounds how often placeOf looks again when directories are moved
// meanwhile.
const descendTries = 4

// placeOf returns where directory p is. The kernel says by which path it knows it;
// that is believed if that path leads there from the export's root.
func (e *Export) placeOf(p *beneath.Path) place {
	st, err := p.Stat()
	if err != nil || e.within(&st) != nil {
		return place{}
	}
	for range descendTries {
		top, err1 := e.root.path.KernelPath() // the root's descriptor is held
		path, err2 := p.KernelPath()
		if err1 != nil || err2 != nil {
			return place{}
		}
		if top == "/" {
			top = ""
		}
		rel, ok := beyond(path, top)
		if !ok {
			return place{}
		}
		rel = strings.TrimPrefix(rel, "/") // of a root that is the process's own
		there, err := e.openPlace(rel)
		if err != nil {
			continue
		}
		now, err := there.Stat()
		there.Close()
		if err == nil && now.Ino == st.Ino && now.Btime == st.Btime && e.within(&now) == nil {
			return place{rel, true}
		}
	}
	return place{}
}

// openPlace returns what is at a path of the export now. No symbolic link is followed.
func (e *Export) openPlace(path string) (*beneath.Path, error) {
	return walkDown(e.root.path, path)
}

// walkDown returns what is at a path from directory p.
func walkDown(p *beneath.Path, path string) (*beneath.Path, error) {
	at, err := p.Dup()
	for path != "" && err == nil {
		var name string
		name, path, _ = strings.Cut(path, "/")
		var next *beneath.Path
		next, err = at.Walk(name)
		at.Close()
		at = next
	}
	if err != nil {
		return nil, err
	}
	return at, nil
}

// placed is a place that was found, and when.
type placed struct {
	place
	at time.Time
}

// maxPlaces bounds the directories of which it is remembered where they are.
const maxPlaces = 4096

// where returns the place of a directory that an event names. What was found is
// believed until a directory is moved, and no longer than that something is beneath
// the root.
func (h *watches) where(o fsevents.Object) place {
	h.mu.Lock()
	path, tracked := h.tracked[o]
	known, found := h.places[o]
	moves := h.moves
	h.mu.Unlock()
	switch {
	case tracked:
		return place{path, true}
	case found && time.Since(known.at) < recheckAfter:
		return known.place
	case o == "" || !h.whole:
		return place{}
	}
	at := placed{at: time.Now()}
	if kernel, ok := o.KernelHandle(); ok {
		if p, err := h.e.rootDir.OpenHandle(kernel); err == nil {
			at.place = h.e.placeOf(p)
			p.Close()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.moves == moves {
		if len(h.places) >= maxPlaces {
			clear(h.places)
		}
		h.places[o] = at
	}
	return at.place
}

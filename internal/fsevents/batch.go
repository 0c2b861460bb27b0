package fsevents

// batch collects the events for one call of Handle.
type batch struct {
	events []Event
	last   map[entry]int  // the last event about an entry
	moves  map[uint32]int // by inotify's cookie: events that know only where from
}

type entry struct {
	dir  Object
	name string
}

func newBatch() *batch {
	return &batch{last: make(map[entry]int), moves: make(map[uint32]int)}
}

func (b *batch) reset() {
	clear(b.events)
	b.events = b.events[:0]
	clear(b.last)
	clear(b.moves)
}

// content are the kinds of which the second of two in a row tells nothing new.
const content = Modify | Attrib | CloseWrite

// add adds an event that is no move. It joins it with the last one about that
// entry if only content changed since; that allocates nothing.
func (b *batch) add(kind Kind, dir Object, name, target []byte, isDir, unasked bool) {
	if i, ok := b.last[entry{dir, string(name)}]; ok && kind&^content == 0 {
		e := &b.events[i]
		if e.Kind&^(content|Create) == 0 && e.IsDir == isDir && string(e.Target) == string(target) {
			e.Kind |= kind
			e.Unasked = e.Unasked && unasked
			return
		}
	}
	b.push(Event{Kind: kind, Dir: dir, Name: string(name), Target: Object(target), IsDir: isDir, Unasked: unasked})
}

// push adds an event as it is and returns its index.
func (b *batch) push(e Event) int {
	i := len(b.events)
	b.events = append(b.events, e)
	b.last[entry{e.Dir, e.Name}] = i
	if e.NewDir != "" {
		b.last[entry{e.NewDir, e.NewName}] = i
	}
	return i
}

// arrive completes the move with that cookie, or adds one from where nothing is
// watched. The move keeps its place in the order: the name that it left may have
// been made anew since.
func (b *batch) arrive(cookie uint32, dir Object, name string, isDir bool) {
	i, ok := b.moves[cookie]
	if !ok {
		b.push(Event{Kind: Rename, NewDir: dir, NewName: name, IsDir: isDir})
		return
	}
	delete(b.moves, cookie)
	b.events[i].NewDir, b.events[i].NewName = dir, name
	b.last[entry{dir, name}] = i
}

// overflow adds an Overflow; one is enough.
func (b *batch) overflow() {
	if n := len(b.events); n == 0 || b.events[n-1].Kind != Overflow {
		b.push(Event{Kind: Overflow})
	}
}

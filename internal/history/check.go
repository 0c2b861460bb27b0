package history

import "time"

// maxOps bounds a history, and with it the time that its check takes: the search
// branches only where changes were under way at once.
const maxOps = 512

// A history is what was done to one object, in any order.
type history struct {
	model Model
	ops   []Op
	grace time.Duration
}

// explained tells whether the operations have an order that begins with one of
// the states.
func (h *history) explained(states ...string) bool {
	s := search{history: h, seen: make(map[point]bool), after: make([]set, len(h.ops))}
	for i := range h.ops {
		for j := range h.ops {
			if i != j && before(&h.ops[j], &h.ops[i], h.grace) {
				s.after[i].add(j)
			}
		}
		if !h.ops[i].Unsure {
			s.all.add(i)
		}
	}
	for _, state := range states {
		if s.from(point{state: state}) {
			return true
		}
	}
	return false
}

// A search is a depth-first walk through the orders, after Wing and Gong, that
// enters no point twice, after Lowe.
type search struct {
	*history
	after []set // by operation: those that must come before it
	all   set   // those that must have been done in the end
	seen  map[point]bool
}

// A point of the search: what is done, and the state that it has led to.
type point struct {
	done  set
	state string
}

func (s *search) from(p point) bool {
	s.observe(&p)
	if p.done.holds(s.all) {
		return true
	}
	if s.seen[p] {
		return false
	}
	s.seen[p] = true
	for i := range s.ops {
		if !s.ops[i].changes() || !s.ready(i, p.done) {
			continue
		}
		if state, ok := s.model(p.state, &s.ops[i]); ok {
			next := point{p.done, state}
			next.done.add(i)
			if s.from(next) {
				return true
			}
		}
	}
	return false
}

// observe does every observation that is possible now. None of them can do
// harm: it changes nothing, and if the rest has an order with it further on, it
// has one with it here.
func (s *search) observe(p *point) {
	for again := true; again; {
		again = false
		for i := range s.ops {
			if s.ops[i].changes() || !s.ready(i, p.done) {
				continue
			}
			if _, ok := s.model(p.state, &s.ops[i]); ok {
				p.done.add(i)
				again = true
			}
		}
	}
}

// ready tells whether operation i may be next.
func (s *search) ready(i int, done set) bool { return !done.has(i) && done.holds(s.after[i]) }

// A set of operations by their index.
type set [maxOps / 64]uint64

func (s *set) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s *set) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// holds tells whether all of t are in s.
func (s *set) holds(t set) bool {
	for i := range s {
		if t[i]&^s[i] != 0 {
			return false
		}
	}
	return true
}

package history

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// A Violation is the part of an object's history that has no explanation.
type Violation struct {
	Object string
	Call   Call          // of the operation that has made it so
	Stale  time.Duration // by how much that would have had to be earlier; -1 if that does not help
	Ops    []Op          // by their beginning
}

// Kind is the object's kind and the call, and whether what it shows was so at no
// moment before it either.
func (v *Violation) Kind() string {
	kind, _, _ := strings.Cut(v.Object, " ")
	kind += ": " + string(v.Call)
	if v.Stale < 0 {
		kind += ", never so"
	}
	return kind
}

// String is a headline and a line per operation, in milliseconds since the first.
func (v *Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s cannot be explained", v.Object, v.Call)
	if v.Stale >= 0 {
		fmt.Fprintf(&b, "; what it shows was over %.1f ms before it began", ms(v.Stale))
	} else {
		b.WriteString(", nor if it had begun earlier")
	}
	b.WriteByte('\n')
	for i := range v.Ops {
		o, from := &v.Ops[i], v.Ops[0].Start
		fmt.Fprintf(&b, "%10.3f to %9.3f ms  %s\n", ms(o.Start-from), ms(o.End-from), o)
	}
	return b.String()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// violation returns the shortest part of the history that has no explanation,
// or nil if the whole has one.
func (h *history) violation(object, initial string) *Violation {
	if h.explained(initial) {
		return nil
	}
	// The first end of an operation at which it has gone wrong: a longer history
	// is never explained if a shorter one is not.
	ends := h.times(func(o *Op) time.Duration { return o.End })
	end := ends[sort.Search(len(ends), func(i int) bool { return !h.until(ends[i]).explained(initial) })]
	part := h.until(end)
	culprit := slices.IndexFunc(part.ops, func(o Op) bool { return o.End == end && !o.Unsure })
	v := &Violation{Object: object, Call: part.ops[culprit].Call, Stale: part.stale(culprit, initial)}
	v.Ops = part.shorten(initial).ops
	v.Ops = append(part.changesAround(v.Ops), v.Ops...)
	slices.SortFunc(v.Ops, byStart)
	return v
}

func byStart(a, b Op) int { return int(a.Start - b.Start) }

// changesAround are the other changes that were made meanwhile, and the last ones
// before.
func (h *history) changesAround(ops []Op) []Op {
	const before = 2
	first := slices.MinFunc(ops, byStart).Start
	var earlier, meanwhile []Op
	for _, o := range h.ops {
		switch {
		case !o.changes() || slices.Contains(ops, o):
		case o.End < first && !o.Unsure:
			earlier = append(earlier, o)
		case o.End >= first:
			meanwhile = append(meanwhile, o)
		}
	}
	slices.SortFunc(earlier, byStart)
	return append(meanwhile, earlier[max(0, len(earlier)-before):]...)
}

// times returns the times of the operations in order.
func (h *history) times(of func(*Op) time.Duration) []time.Duration {
	var times []time.Duration
	for i := range h.ops {
		times = append(times, of(&h.ops[i]))
	}
	slices.Sort(times)
	return times
}

// until is the history up to a moment. Changes that were under way then may have
// been made or not.
func (h *history) until(end time.Duration) *history {
	part := &history{model: h.model, grace: h.grace}
	for _, o := range h.ops {
		if o.End > end {
			if !o.changes() || o.Start > end {
				continue
			}
			o.Unsure = true
		}
		part.ops = append(part.ops, o)
	}
	return part
}

// since is the history from a moment on. What tells of times before is left out,
// and changes that were under way may have been made before or not.
func (h *history) since(start time.Duration) *history {
	part := &history{model: h.model, grace: h.grace}
	for _, o := range h.ops {
		if o.changes() {
			if o.End < start && !o.Unsure {
				continue
			}
			o.Unsure = o.Unsure || o.Start < start
		} else if o.Since-h.grace < start {
			continue
		}
		part.ops = append(part.ops, o)
	}
	return part
}

// stale is how much earlier operation i would have to have begun for the history
// to be explained, -1 if that does not help.
func (h *history) stale(i int, initial string) time.Duration {
	earlier := history{h.model, slices.Clone(h.ops), h.grace}
	began := h.ops[i].Start
	ok := func(by int) bool {
		earlier.ops[i].Start = began - time.Duration(by)
		earlier.ops[i].Since = earlier.ops[i].Start
		return earlier.explained(initial)
	}
	if h.ops[i].changes() || !ok(int(began)) {
		return -1
	}
	return time.Duration(sort.Search(int(began), ok))
}

// shorten leaves out what is not needed for the history to have no explanation:
// its beginning, if it has none whatever the state was then, and observations.
func (h *history) shorten(initial string) *history {
	states := []string{initial, ""}
	for i := range h.ops {
		states = append(states, h.ops[i].Value)
	}
	starts := h.times(func(o *Op) time.Duration { return o.Start })
	n := sort.Search(len(starts), func(i int) bool { return h.since(starts[i]).explained(states...) })
	if n > 0 {
		h = h.since(starts[n-1])
	} else {
		states = []string{initial}
	}
	for i := len(h.ops) - 1; i >= 0; i-- {
		without := &history{h.model, slices.Delete(slices.Clone(h.ops), i, i+1), h.grace}
		if !h.ops[i].changes() && !without.explained(states...) {
			h = without
		}
	}
	return h
}

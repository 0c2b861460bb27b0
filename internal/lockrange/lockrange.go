// Package lockrange counts what an owner of locks has of a file.
package lockrange

import (
	"slices"
	"sort"
)

// Range is a lock on the bytes from Start to End, both included.
type Range struct {
	Start, End int64
	Write      bool
}

// Ranges are the locks of one owner on one file: by start, disjoint, and
// joined where two of one type touch. The zero value holds none.
type Ranges []Range

// Set returns the ranges after n was locked, or unlocked if lock is false: what
// they held of it is replaced, split or joined (fcntl(2), "Advisory record
// locking"). r is left as it was.
func (r Ranges) Set(n Range, lock bool) Ranges {
	i := sort.Search(len(r), func(i int) bool { return r[i].End >= n.Start })
	j := i + sort.Search(len(r)-i, func(k int) bool { return r[i+k].Start > n.End })
	var put Ranges
	add := func(x Range) {
		if last := len(put) - 1; last >= 0 && put[last].Write == x.Write && put[last].End+1 == x.Start {
			put[last].End = x.End
			return
		}
		put = append(put, x)
	}
	from, to := i, j // with the neighbours, which may join
	if i > 0 {
		from--
		add(r[from])
	}
	if i < j && r[i].Start < n.Start {
		add(Range{r[i].Start, n.Start - 1, r[i].Write})
	}
	if lock {
		add(n)
	}
	if i < j && r[j-1].End > n.End {
		add(Range{n.End + 1, r[j-1].End, r[j-1].Write})
	}
	if j < len(r) {
		add(r[j])
		to++
	}
	return slices.Replace(slices.Clone(r), from, to, put...)
}

// Conflict returns the first range that is in the way of n, as the lock of
// somebody else.
func (r Ranges) Conflict(n Range) (Range, bool) {
	if len(r) == 0 || r[0].Start > n.End || r[len(r)-1].End < n.Start {
		return Range{}, false
	}
	i := sort.Search(len(r), func(i int) bool { return r[i].End >= n.Start })
	for ; i < len(r) && r[i].Start <= n.End; i++ {
		if n.Write || r[i].Write {
			return r[i], true
		}
	}
	return Range{}, false
}

// Within returns the ranges of r in n, cut to it, and the free ones between them.
func (r Ranges) Within(n Range) (held, free Ranges) {
	at := n.Start
	for _, x := range r {
		x.Start, x.End = max(x.Start, n.Start), min(x.End, n.End)
		if x.Start > x.End {
			continue
		}
		if at < x.Start {
			free = append(free, Range{Start: at, End: x.Start - 1})
		}
		held = append(held, x)
		if x.End == n.End {
			return held, free
		}
		at = x.End + 1
	}
	return held, append(free, Range{Start: at, End: n.End})
}

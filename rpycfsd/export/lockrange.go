package export

import (
	"slices"
	"sort"
)

// lockRange is a lock on the bytes from start to end, both included.
type lockRange struct {
	start, end int64
	write      bool
}

// lockRanges are the locks of one owner on one file: by start, disjoint, and
// joined where two of one type touch. The zero value holds none.
type lockRanges []lockRange

// set returns the ranges after n was locked, or unlocked if lock is false: what
// they held of it is replaced, split or joined (fcntl(2), "Advisory record
// locking"). r is left as it was.
func (r lockRanges) set(n lockRange, lock bool) lockRanges {
	i := sort.Search(len(r), func(i int) bool { return r[i].end >= n.start })
	j := i + sort.Search(len(r)-i, func(k int) bool { return r[i+k].start > n.end })
	var put lockRanges
	add := func(x lockRange) {
		if last := len(put) - 1; last >= 0 && put[last].write == x.write && put[last].end+1 == x.start {
			put[last].end = x.end
			return
		}
		put = append(put, x)
	}
	from, to := i, j // with the neighbours, which may join
	if i > 0 {
		from--
		add(r[from])
	}
	if i < j && r[i].start < n.start {
		add(lockRange{r[i].start, n.start - 1, r[i].write})
	}
	if lock {
		add(n)
	}
	if i < j && r[j-1].end > n.end {
		add(lockRange{n.end + 1, r[j-1].end, r[j-1].write})
	}
	if j < len(r) {
		add(r[j])
		to++
	}
	return slices.Replace(slices.Clone(r), from, to, put...)
}

// conflict returns the first range that is in the way of n, as the lock of
// somebody else.
func (r lockRanges) conflict(n lockRange) (lockRange, bool) {
	if len(r) == 0 || r[0].start > n.end || r[len(r)-1].end < n.start {
		return lockRange{}, false
	}
	i := sort.Search(len(r), func(i int) bool { return r[i].end >= n.start })
	for ; i < len(r) && r[i].start <= n.end; i++ {
		if n.write || r[i].write {
			return r[i], true
		}
	}
	return lockRange{}, false
}

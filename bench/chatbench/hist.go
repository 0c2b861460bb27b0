package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// hist counts durations in classes of about 3 % width. Recording is safe for
// concurrent use.
type hist struct{ counts [classes]atomic.Uint64 }

const (
	perDouble = 32 // classes from one power of two to the next
	classes   = 40 * perDouble
)

func (h *hist) record(d time.Duration) {
	us := uint64(max(d.Microseconds(), 0))
	h.counts[class(us)].Add(1)
}

// class returns the class of a number of microseconds.
func class(us uint64) int {
	if us < perDouble {
		return int(us)
	}
	shift := bits.Len64(us) - 6 // leaves 6 bits, of which the first is 1
	return min((shift+1)*perDouble+int(us>>shift)-perDouble, classes-1)
}

// bound is the largest number of microseconds in a class.
func bound(class int) uint64 {
	if class < perDouble {
		return uint64(class)
	}
	shift := class/perDouble - 1
	return uint64(class%perDouble+perDouble+1)<<shift - 1
}

func (h *hist) reset() {
	for i := range h.counts {
		h.counts[i].Store(0)
	}
}

// delays is a histogram as it goes from process to process: counts by class.
type delays map[int]uint64

func (h *hist) delays() delays {
	d := delays{}
	for i := range h.counts {
		if n := h.counts[i].Load(); n > 0 {
			d[i] = n
		}
	}
	return d
}

func (d delays) add(other delays) {
	for i, n := range other {
		d[i] += n
	}
}

func (d delays) count() (n uint64) {
	for _, k := range d {
		n += k
	}
	return n
}

// quantile returns the delay in milliseconds below which this part of all lies.
func (d delays) quantile(part float64) float64 {
	want := uint64(part * float64(d.count()))
	var seen uint64
	for i := range classes {
		if seen += d[i]; seen > want || seen > 0 && seen == d.count() {
			return float64(bound(i)) / 1000
		}
	}
	return 0
}

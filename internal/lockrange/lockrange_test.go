package lockrange

import (
	"math"
	"slices"
	"testing"
)

// TestBytes goes through every lock of one of six bytes and of all, twice, and compares
// with an array of bytes.
func TestBytes(t *testing.T) {
	const size = 6
	var all []Range
	for start := range int64(size) {
		for end := start; end < size; end++ {
			all = append(all, Range{start, end, false}, Range{start, end, true})
		}
	}
	var bytes [size]byte // 'r', 'w' or 0
	set := func(b [size]byte, n Range, lock bool) [size]byte {
		for i := n.Start; i <= n.End; i++ {
			b[i] = 0
			if lock {
				b[i] = kind(n)
			}
		}
		return b
	}
	for _, first := range all {
		for _, second := range all {
			for _, lock := range []bool{true, false} {
				r := Ranges(nil).Set(first, true).Set(second, lock)
				want := set(set(bytes, first, true), second, lock)
				var got [size]byte
				for i, x := range r {
					got = set(got, x, true)
					if i > 0 && r[i-1].End+1 >= x.Start && (r[i-1].Write == x.Write || r[i-1].End >= x.Start) {
						t.Fatalf("%v, %v: %v", first, second, r)
					}
				}
				if got != want {
					t.Fatalf("%v, %v locked %v: %v", first, second, lock, r)
				}
				for _, n := range all {
					within(t, r, n, want)
				}
			}
		}
	}
}

func kind(r Range) byte {
	if r.Write {
		return 'w'
	}
	return 'r'
}

func within(t *testing.T, r Ranges, n Range, want [6]byte) {
	held, free := r.Within(n)
	parts := slices.Concat(held, free)
	slices.SortFunc(parts, func(a, b Range) int { return int(a.Start - b.Start) })
	at := n.Start
	for _, x := range parts {
		is := byte(0)
		if slices.Contains(held, x) {
			is = kind(x)
		}
		for ; at <= x.End; at++ {
			if at < x.Start || want[at] != is {
				t.Fatalf("%v in %v: %v, free %v", n, r, held, free)
			}
		}
	}
	if at != n.End+1 {
		t.Fatalf("%v in %v: %v, free %v", n, r, held, free)
	}
}

// TestEnd: a range may go as far as numbers do.
func TestEnd(t *testing.T) {
	held, free := Ranges{{Start: 5, End: math.MaxInt64}}.Within(Range{Start: 0, End: math.MaxInt64})
	if !slices.Equal(held, Ranges{{Start: 5, End: math.MaxInt64}}) || !slices.Equal(free, Ranges{{Start: 0, End: 4}}) {
		t.Errorf("%v, free %v", held, free)
	}
}

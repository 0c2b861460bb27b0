package mount

import (
	"fmt"
	"testing"
)

// TestWhole: a name is lacking only while all others are known.
func TestWhole(t *testing.T) {
	const dir, lease = 7, 100
	var w whole
	lacks := func(name string, want uint64) {
		t.Helper()
		if got := w.lacking(dir, name); got != want {
			t.Errorf("%s is lacking under lease %d, not %d", name, got, want)
		}
	}
	lacks("a", 0)
	w.made(dir, lease)
	w.making(dir, "a")
	lacks("a", 0)
	lacks("b", lease)
	w.forget(dir)
	lacks("b", 0)

	for range firstVain - 1 {
		if w.missed(dir, false) != nil {
			t.Fatal("listed too early")
		}
	}
	d := w.missed(dir, false)
	if d == nil {
		t.Fatal("not listed")
	}
	w.making(dir, "meanwhile")
	lacks("b", 0)
	w.listed(dir, d, lease, []string{"there"}, true)
	lacks("there", 0)
	lacks("meanwhile", 0)
	lacks("b", lease)
	if w.names != 2 {
		t.Errorf("%d names are counted", w.names)
	}

	for range 2*firstVain - 1 { // its lease was not good any more
		if w.missed(dir, false) != nil {
			t.Fatal("listed again too early")
		}
	}
	if d = w.missed(dir, false); d == nil {
		t.Fatal("not listed again")
	}
	w.forget(dir)
	w.listed(dir, d, lease, nil, true)
	lacks("b", 0)
	if d = w.missed(dir, true); d == nil {
		t.Fatal("not listed at once, though its listing is kept")
	}
	w.listed(dir, d, lease, nil, true)
	lacks("b", lease)

	for n := range maxWhole + 1 {
		if n%maxNamed == 0 {
			w.made(dir, lease)
		}
		w.making(dir, fmt.Sprint(n))
	}
	if w.names > maxWhole {
		t.Errorf("%d names are kept", w.names)
	}
}

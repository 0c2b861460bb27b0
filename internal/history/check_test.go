package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// at is an operation, with its value or the name of its error.
func at(start, end time.Duration, client int, call Call, value string) Op {
	o := Op{Client: client, Call: call, Value: value, Start: start, End: end, Since: start}
	for _, e := range []unix.Errno{unix.ENOENT, unix.EEXIST, unix.EISDIR, unix.ENOTDIR} {
		if value == unix.ErrnoName(e) {
			o.Value, o.Err = "", e
		}
	}
	return o
}

// TestHistories are histories by hand, good and bad.
func TestHistories(t *testing.T) {
	for name, c := range map[string]struct {
		model   Model
		grace   time.Duration
		outages []Outage
		good    bool
		ops     []Op
	}{
		"reads during a write show either": {model: Content, good: true, ops: []Op{
			at(0, 100, 1, Write, "x"), at(10, 20, 2, Read, ""), at(30, 40, 3, Read, "x"), at(50, 60, 2, ReadHeld, "x")}},
		"but not the old after the new": {model: Content, ops: []Op{
			at(0, 100, 1, Write, "x"), at(10, 20, 2, Read, "x"), at(30, 40, 3, ReadMap, "")}},
		"the end of one and the beginning of the next may be the same": {model: Content, good: true, ops: []Op{
			at(0, 10, 1, Write, "x"), at(10, 20, 2, Read, "")}},
		"two writes at once, seen in two orders": {model: Content, ops: []Op{
			at(0, 100, 1, Write, "x"), at(0, 100, 2, Write, "y"), at(110, 120, 3, Read, "x"), at(130, 140, 3, Read, "y")}},
		"half of a value": {model: Content, ops: []Op{at(0, 10, 1, Write, "x"), at(20, 30, 2, Read, `"x\x00"`)}},
		"the size before a truncation": {model: Content, ops: []Op{
			at(0, 10, 1, Write, "x"), at(20, 30, 2, Truncate, ""), at(40, 50, 1, SizeOfFD, "64")}},

		"a name is made by one only": {model: Name, ops: []Op{
			at(0, 10, 1, Create, "file 7 -"), at(5, 15, 2, Create, "file 8 -")}},
		"unless it was removed": {model: Name, good: true, ops: []Op{
			at(0, 10, 1, Create, "file 7 -"), at(5, 15, 2, Create, "file 8 -"), at(8, 12, 3, Unlink, "")}},
		"removed twice": {model: Name, ops: []Op{
			at(0, 10, 1, Create, "file 7 -"), at(20, 30, 1, Unlink, ""), at(25, 35, 2, Unlink, "")}},
		"not there after it was made": {model: Name, ops: []Op{
			at(0, 10, 1, Create, "file 7 -"), at(20, 30, 2, Unlink, "ENOENT")}},
		"refused for what is gone": {model: Name, ops: []Op{
			at(0, 10, 1, Mkdir, "dir"), at(20, 30, 2, Rmdir, ""), at(40, 50, 1, Create, "EEXIST")}},
		"each error in its place": {model: Name, good: true, ops: []Op{
			at(0, 1, 1, Rmdir, "ENOENT"), at(2, 3, 1, Create, "file 7 -"), at(4, 5, 2, Rmdir, "ENOTDIR"), at(6, 7, 1, Mkdir, "EEXIST"),
			at(8, 9, 2, Onto, "file 8 t"), at(10, 11, 1, Open, "file 8 t"), at(12, 13, 2, Away, "file 8"), at(14, 15, 1, Away, "ENOENT"),
			at(16, 17, 1, Mkdir, "dir"), at(18, 19, 2, Unlink, "EISDIR"), at(20, 21, 1, Onto, "EISDIR"), at(22, 23, 2, Stat, "dir")}},
		"another file than was made": {model: Name, ops: []Op{
			at(0, 10, 1, Create, "file 7 -"), at(20, 30, 2, Onto, "file 8 t"), at(40, 50, 3, Stat, "file 7")}},
		"a file with the text of another": {model: Name, ops: []Op{
			at(0, 10, 1, Onto, "file 7 t"), at(20, 30, 2, Onto, "file 8 u"), at(40, 50, 3, Open, "file 8 t")}},
		"moved away what was not there": {model: Name, ops: []Op{
			at(0, 10, 1, Onto, "file 7 t"), at(20, 30, 2, Onto, "file 8 u"), at(40, 50, 3, Away, "file 7")}},

		"a client that is cut off, of the moment of the cut": {model: Attribute, good: true, outages: []Outage{{2, 100, 200}}, ops: []Op{
			at(0, 10, 1, Set, "a"), at(120, 130, 1, Set, "b"), at(150, 160, 2, Get, "a"), at(190, 300, 2, GetFromFD, "a"), at(210, 220, 2, Get, "b")}},
		"of a moment before": {model: Attribute, outages: []Outage{{2, 100, 200}}, ops: []Op{
			at(0, 10, 1, Set, "a"), at(20, 30, 1, Set, "b"), at(150, 160, 2, Get, "a")}},
		"going backwards": {model: Attribute, outages: []Outage{{2, 100, 200}}, ops: []Op{
			at(0, 10, 1, Set, "a"), at(120, 130, 1, Set, "b"), at(150, 160, 2, Get, "b"), at(170, 180, 2, Get, "a")}},
		"of the cut after its end": {model: Attribute, outages: []Outage{{2, 100, 200}}, ops: []Op{
			at(0, 10, 1, Set, "a"), at(120, 130, 1, Set, "b"), at(210, 220, 2, Get, "a")}},
		"another client in the meantime": {model: Attribute, outages: []Outage{{2, 100, 200}}, ops: []Op{
			at(0, 10, 1, Set, "a"), at(120, 130, 1, Set, "b"), at(150, 160, 3, Get, "a")}},
		"without what it has itself changed": {model: Attribute, outages: []Outage{{2, 100, 200}}, ops: []Op{
			at(0, 10, 1, Set, "a"), at(120, 130, 2, Set, "b"), at(150, 160, 2, Get, "a")}},

		"a change by the server, unseen for a while": {model: Attribute, grace: 50, good: true, ops: []Op{
			at(0, 10, 1, Set, "a"), at(100, 110, Server, Set, "b"), at(120, 130, 1, Get, "b"), at(140, 150, 2, Get, "a"), at(170, 180, 2, Get, "b")}},
		"for too long": {model: Attribute, grace: 50, ops: []Op{
			at(0, 10, 1, Set, "a"), at(100, 110, Server, Set, "b"), at(170, 180, 2, Get, "a")}},
		"seen and lost again": {model: Attribute, grace: 50, ops: []Op{
			at(0, 10, 1, Set, "a"), at(100, 110, Server, Set, "b"), at(120, 130, 2, Get, "b"), at(140, 150, 2, Get, "a")}},
		"a change by a mount, meanwhile": {model: Attribute, grace: 50, ops: []Op{
			at(0, 10, 1, Set, "a"), at(120, 130, 2, Set, "b"), at(140, 150, 1, Get, "a")}},
		"the server itself": {model: Attribute, grace: 50, ops: []Op{
			at(0, 10, 1, Set, "a"), at(120, 130, 2, Set, "b"), at(140, 150, Server, Get, "a")}},
	} {
		for i := range c.ops { // times are milliseconds
			c.ops[i].Start, c.ops[i].End = c.ops[i].Start*time.Millisecond, c.ops[i].End*time.Millisecond
		}
		for i := range c.outages {
			c.outages[i].From, c.outages[i].To = c.outages[i].From*time.Millisecond, c.outages[i].To*time.Millisecond
		}
		excuse(c.ops, c.outages)
		h := &history{c.model, c.ops, c.grace * time.Millisecond}
		if v := h.violation("object", ""); (v == nil) != c.good {
			t.Errorf("%s: %v", name, v)
		}
	}
}

// TestAgainstAllOrders compares the search with trying every order.
func TestAgainstAllOrders(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	explained := 0
	const tries = 4000
	for range tries {
		h := &history{model: Content, grace: time.Duration(random.IntN(2) * 20)}
		for i := range 2 + random.IntN(5) {
			start := time.Duration(random.IntN(60))
			o := at(start, start+time.Duration(1+random.IntN(30)), random.IntN(3), Read, "")
			switch o.Value = []string{"", "v0", "v1", "v2"}[random.IntN(4)]; random.IntN(5) {
			case 0, 1:
				o.Call, o.Value = Write, fmt.Sprintf("v%d", i)
				o.Unsure = random.IntN(4) == 0
			case 2:
				o.Since -= time.Duration(random.IntN(30))
			}
			h.ops = append(h.ops, o)
		}
		want := h.someOrder("", nil)
		if got := h.explained(""); got != want {
			t.Fatalf("explained: %v, by trying every order: %v\n%s", got, want, &Violation{Ops: h.ops})
		}
		if want {
			explained++
			continue
		}
		v := h.violation("content c", "")
		if v == nil || (&history{h.model, v.Ops, h.grace}).explained("") {
			t.Fatalf("shortened to what is explained: %v", v)
		}
	}
	if explained < tries/10 || explained > tries*9/10 {
		t.Errorf("%d of %d histories are explained", explained, tries)
	}
}

// someOrder tells whether the operations that are not done yet can follow.
func (h *history) someOrder(state string, done []int) bool {
	missing := false
	for i := range h.ops {
		o := &h.ops[i]
		if slices.Contains(done, i) {
			continue
		}
		missing = missing || !o.Unsure
		ready := !slices.ContainsFunc(h.ops, func(p Op) bool {
			return before(&p, o, h.grace) && !slices.ContainsFunc(done, func(d int) bool { return h.ops[d] == p })
		})
		if next, ok := h.model(state, o); ready && ok && h.someOrder(next, append(slices.Clone(done), i)) {
			return true
		}
	}
	return !missing
}

// TestViolationIsShort: of a long history only what is needed is shown.
func TestViolationIsShort(t *testing.T) {
	h := &history{model: Attribute}
	now := time.Duration(0)
	add := func(client int, call Call, value string) {
		h.ops = append(h.ops, at(now, now+time.Millisecond, client, call, value))
		now += 2 * time.Millisecond
	}
	for i := range 40 {
		add(1, Set, fmt.Sprintf("m%d", i))
		for client := range 4 {
			add(client, Get, fmt.Sprintf("m%d", i))
		}
	}
	add(2, GetFromFD, "m37")
	for client := range 4 {
		add(client, Get, "m39")
	}
	v := h.violation("mode a0", "")
	if v == nil || v.Call != GetFromFD || v.Kind() != "mode: fstat" || len(v.Ops) > 6 {
		t.Fatalf("%v", v)
	}
	if stale := ms(v.Stale); stale < 18 || stale > 23 { // m38 was set two rounds of 10 ms before
		t.Errorf("stale by %.3f ms", stale)
	}
	if text := v.String(); !strings.Contains(text, "mount 2  fstat             m37") || strings.Count(text, "\n") != len(v.Ops)+1 {
		t.Errorf("%s", text)
	}
}

// TestLongHistory: a history as long as they may be, with eight clients at once,
// is checked quickly.
func TestLongHistory(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	h := &history{model: Content}
	state, moments := "", make([]time.Duration, 9)
	for i := range maxOps {
		now, client := time.Duration(i*10), 1+i%8 // when it happens
		o := at(max(moments[client], now-time.Duration(random.IntN(80))), now+time.Duration(random.IntN(80)), client, Read, state)
		if random.IntN(2) == 0 {
			state = fmt.Sprint(i)
			o.Call, o.Value = Write, state
		}
		moments[client] = o.End + 1
		o.Since = o.Start
		if o.Start <= now {
			h.ops = append(h.ops, o)
		}
	}
	start := time.Now()
	if v := h.violation("content c", ""); v != nil {
		t.Error(v)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("%d operations took %v", len(h.ops), took)
	}
	t.Logf("%d operations: %v", len(h.ops), time.Since(start))
}

// TestEarlyReads: a client may see its own write before it has returned, and what
// it says then is not held against others; afterwards it is.
func TestEarlyReads(t *testing.T) {
	ops := []Op{at(0, 100, 1, Write, "x"), at(10, 20, 1, Read, "x"), at(30, 40, 2, Read, "")}
	if h := (&history{model: Content, ops: withoutOwn(ops)}); !h.explained("") {
		t.Error("an early read counts")
	}
	ops = append(ops, at(110, 120, 1, Read, ""))
	if h := (&history{model: Content, ops: withoutOwn(ops)}); h.explained("") {
		t.Error("a read after the write does not count")
	}
}

func TestValueOf(t *testing.T) {
	for want, b := range map[string][]byte{
		"": nil, "1a7": content("1a7"), "64 zeros": make([]byte, contentSize),
		`"1a7     "`: content("1a7")[:cellSize], `"1a7     1a8     "`: []byte("1a7     1a8     "),
	} {
		if got := valueOf(b); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

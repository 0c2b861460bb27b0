package history

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	ServeLoader()
	goleak.VerifyTestMain(m)
}

// record lets clients work in one plain directory, which shows all of them the
// same at once.
func record(t *testing.T, seed uint64, clients ...Client) *Log {
	t.Helper()
	dir := t.TempDir()
	for i := range clients {
		clients[i].Dir = dir
	}
	r := &Round{Clock: NewClock(), Name: "round", Clients: clients, Seed: seed, Owners: os.Geteuid() == 0}
	for _, c := range clients {
		for range c.Workers {
			l, err := NewLoader()
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			r.Loaders = append(r.Loaders, l)
		}
	}
	log, err := r.Run()
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// TestPlainDirectory: what a local disk does is explained.
func TestPlainDirectory(t *testing.T) {
	for seed := range uint64(8) {
		log := record(t, seed, Client{Number: 1, Workers: 2, Steps: 120}, Client{Number: 2, Workers: 2, Steps: 120},
			Client{Number: 3, Workers: 1, Steps: 120}, Client{Number: Server, Workers: 1, Steps: 120})
		violations, failures := log.Check()
		for _, v := range violations {
			t.Errorf("seed %d: %s", seed, v)
		}
		for _, f := range failures {
			t.Errorf("seed %d: %s", seed, f)
		}
		if n := log.Count(); n < 500 {
			t.Errorf("seed %d: only %d operations", seed, n)
		}
	}
}

// TestEveryStaleOperation falsifies a true history: each observation in turn, of
// every call there is, shows what was before the last change that it must have
// seen. Each time that is found, by that call and on that object.
func TestEveryStaleOperation(t *testing.T) {
	const enough = 4 // of each call
	log := record(t, 1, Client{Number: 1, Workers: 1, Steps: 300}, Client{Number: 2, Workers: 1, Steps: 300})
	found := make(map[string]int)
	for _, object := range slices.Sorted(maps.Keys(log.ops)) {
		ops := log.ops[object]
		for i, o := range ops {
			old, ok := staleValue(ops, &o)
			kind := (&Violation{Object: object, Call: o.Call}).Kind()
			if o.changes() || duringOwnChange(ops, &o) || object == "directory" || !ok || found[kind] == enough {
				continue
			}
			ops[i].Value, ops[i].Err = old.Value, old.Err
			v := log.history(object).violation(object, log.initial[object])
			ops[i] = o
			if v == nil || v.Kind() != kind || v.Stale == 0 {
				t.Errorf("%s: %v, falsified to %v, is not found to be of earlier: %v", object, &o, &old, v)
			}
			found[kind]++
		}
	}
	for _, want := range []string{
		"name: stat", "name: open+read", "content: open+read", "content: read of open file", "content: read of mapping",
		"content: size by stat", "content: size by fstat", "mode: stat", "mode: fstat", "mtime: stat", "mtime: fstat",
	} {
		if found[want] < 2 {
			t.Errorf("%s was falsified %d times", want, found[want])
		}
	}
	t.Log(found)
}

// staleValue is what an observation of the same call has shown before the last
// change before o, if there is one that makes a difference and nothing of the kind
// has come back.
func staleValue(ops []Op, o *Op) (old Op, ok bool) {
	var last time.Duration
	for i := range ops {
		if c := &ops[i]; c.changes() && c.End < o.Start {
			last = max(last, c.Start)
		}
	}
	for i := range ops {
		if p := &ops[i]; p.Call == o.Call && !p.changes() && p.End < last && (p.Value != o.Value || p.Err != o.Err) && (!ok || p.Start > old.Start) {
			old, ok = *p, true
		}
	}
	if strings.HasPrefix(string(o.Call), "size") || old.Err != 0 || old.Value == "dir" || old.Value == "" {
		// Values that come back: only if nothing is under way that could bring them.
		for i := range ops {
			if c := &ops[i]; c.changes() && c.End >= last && c.Start <= o.End && c.Start > last {
				return old, false
			}
		}
	}
	return old, ok
}

// TestEveryWrongListing leaves out of each listing what was there, or puts in
// what was not.
func TestEveryWrongListing(t *testing.T) {
	log := record(t, 2, Client{Number: 1, Workers: 1, Steps: 300}, Client{Number: 2, Workers: 1, Steps: 300})
	found := make(map[string]int)
	for _, o := range log.ops["directory"] {
		for _, name := range slices.Concat(names, permanent) {
			p := log.appearances(name)
			shown := strings.Fields(o.Value)
			what := "without"
			switch {
			case p.throughout(o.Since, o.End):
				shown = slices.DeleteFunc(shown, func(n string) bool { return n == name })
			case p.away(o.Since, o.End):
				shown, what = append(shown, name), "with"
			default:
				continue
			}
			wrong := o
			wrong.Value = strings.Join(shown, " ")
			if v := p.violation(wrong, name); v == nil || v.Object != "directory "+what+" "+name || v.Call != o.Call {
				t.Errorf("%v: %s %s is not found: %v", &o, what, name, v)
			}
			found[what]++
		}
	}
	if found["with"] < 10 || found["without"] < 10 {
		t.Errorf("only %v were tried", found)
	}
}

// TestUnknownOutcome: a history is checked up to a change that may have been made
// or not, and the failure is told unless its client was cut off.
func TestUnknownOutcome(t *testing.T) {
	log := &Log{
		round: &Round{Clients: []Client{{Number: 1}}}, initial: map[string]string{"mode a0": "0600"},
		ops: map[string][]Op{"mode a0": {
			at(10, 11, 1, Set, "0601"), at(30, 31, 2, Get, "0602"),
		}},
		failures: []Failure{{Op: at(20, 25, 3, Set, ""), Object: "mode a0", Cause: os.ErrDeadlineExceeded}},
	}
	violations, failures := log.Check()
	if len(violations) != 0 || len(failures) != 1 {
		t.Errorf("%v, %v", violations, failures)
	}
	if _, failures = log.Check(Outage{Client: 3, From: 22, To: 23}); len(failures) != 0 {
		t.Errorf("during an outage: %v", failures)
	}
	log.ops["mode a0"][1] = at(15, 16, 2, Get, "0602")
	if violations, _ = log.Check(); len(violations) != 1 {
		t.Errorf("before that: %v", violations)
	}
}

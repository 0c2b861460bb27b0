package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestMain lets the test binary be its own children.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(run(role, nil, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// TestSmall runs every part but the mount, small. The figures mean nothing; that
// they are there does.
func TestSmall(t *testing.T) {
	file := filepath.Join(t.TempDir(), "json")
	var out, errs bytes.Buffer
	code := run("", []string{
		"-dir", t.TempDir(), "-json", file, "-only", "idle,fanout,says,history,stopped", "-listeners", "8", "-senders", "4",
		"-bursts", "1", "-burst", "50", "-rate", "50", "-time", "1s", "-says", "200ms", "-million", "10000", "-large", "200", "-quiet", "10ms",
	}, os.Stdin, &out, &errs)
	if code != 0 {
		t.Fatalf("exit %d\n%s\n%s", code, &out, &errs)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rep report
	if err := json.Unmarshal(text, &rep); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for _, f := range rep.Figures {
		seen[f.Part]++
		if math.IsNaN(f.Value) || math.IsInf(f.Value, 0) {
			t.Errorf("%s, %s: %v", f.Part, f.Name, f.Value)
		}
		if !bytes.Contains(out.Bytes(), []byte(f.Name)) {
			t.Errorf("%q is not in the table", f.Name)
		}
	}
	for _, name := range []string{"idle", "fanout", "says", "history", "stopped"} {
		if seen[name] < 3 {
			t.Errorf("%s has %d figures", name, seen[name])
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-only", "nothing"}, {"-listeners", "2000"}, {"more"}} {
		if code := run("", args, os.Stdin, new(bytes.Buffer), new(bytes.Buffer)); code != 2 {
			t.Errorf("%q: exit %d", args, code)
		}
	}
}

// TestHist: a class holds what is at most its bound, and quantiles are within
// the width of a class.
func TestHist(t *testing.T) {
	last := -1
	for us := uint64(0); us < 1<<22; us += 1 + us/50 {
		c := class(us)
		if c < last || bound(c) < us || c > 0 && bound(c-1) >= us {
			t.Fatalf("%d µs is in class %d, which ends at %d", us, c, bound(c))
		}
		if float64(bound(c)-us) > 1+float64(us)/perDouble {
			t.Fatalf("class of %d µs ends at %d", us, bound(c))
		}
		last = c
	}
	var h hist
	for i := range 1000 {
		h.record(time.Duration(i+1) * time.Millisecond)
	}
	d := h.delays()
	for part, want := range map[float64]float64{.5: 500, .99: 990, 1: 1000} {
		if got := d.quantile(part); math.Abs(got-want) > want*.04 {
			t.Errorf("quantile %v is %v, not %v", part, got, want)
		}
	}
	if (delays{}).quantile(.99) != 0 || d.count() != 1000 {
		t.Error("count or empty quantile")
	}
	h.reset()
	if h.delays().count() != 0 {
		t.Error("reset leaves something")
	}
}

// TestChildErrors: what goes wrong in a child is seen by who asked.
func TestChildErrors(t *testing.T) {
	c, err := startChild("clients")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ask("dance", none{}, nil); err == nil {
		t.Error("an unknown method is answered")
	}
	if err := c.ask("dial", "no arguments", nil); err == nil {
		t.Error("wrong arguments are taken")
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
	if err := c.ask("attach", none{}, nil); err == nil {
		t.Error("a child that has ended answers")
	}
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is written is found again, and what is not is noticed.
func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := writeLines(path, 7, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := checkLines(path, 7, 2<<20); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"another file": checkLines(path, 8, 2<<20), "more": checkLines(path, 7, 3<<20),
	} {
		if err == nil {
			t.Errorf("%s: not noticed", what)
		}
	}
}

func TestReport(t *testing.T) {
	var rep report
	for _, n := range []int{1000, 10000} {
		rep.Points = append(rep.Points, point{"files", n, values{{coldFind, 20}, {warmFind, 2}, {clientPeak, 30}}})
	}
	var text strings.Builder
	rep.markdown(&text)
	if !strings.Contains(text.String(), "| 10000 | 20 | 2 | 30 |") {
		t.Errorf("table:\n%s", &text)
	}
	drawing := filepath.Join(t.TempDir(), "f.svg")
	if err := rep.plot(drawing); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(drawing)
	if err != nil || !strings.Contains(string(svg), coldFind) {
		t.Errorf("the drawing has no line %q (%v)", coldFind, err)
	}
}

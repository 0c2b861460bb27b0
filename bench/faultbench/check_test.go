package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLosses: what is missing, wrong or there twice is found, and what was not
// acknowledged is no loss.
func TestLosses(t *testing.T) {
	log := func(numbers ...int) string {
		var b strings.Builder
		for _, n := range numbers {
			b.WriteString(line(n))
		}
		return b.String()
	}
	open := func(numbers ...int) string {
		data := make([]byte, blocks*blockSize)
		for _, n := range numbers {
			copy(data[n%blocks*blockSize:], block(n))
		}
		return string(data)
	}
	acked := outcome{Acked: []int{1, 2, 3}, Tried: 4}
	later := outcome{Acked: []int{1, 2, 3}, Tried: 3 + blocks}
	for name, tt := range map[string]struct {
		find    func(string, outcome) []string
		content string
		met     outcome
		want    int
	}{
		"log":                                  {lostLines, log(1, 2, 3), acked, 0},
		"log, one more":                        {lostLines, log(1, 2, 3, 4), acked, 0},
		"log, a line is missing":               {lostLines, log(1, 3), acked, 1},
		"log, a line is there twice":           {lostLines, log(1, 2, 2, 3), acked, 1},
		"log, a torn line":                     {lostLines, log(1, 2) + line(3)[:4], acked, 1},
		"log, what nobody was told of is torn": {lostLines, log(1, 2, 3) + line(4)[:3], acked, 0},
		"log, empty":                           {lostLines, "", acked, 3},
		"open file":                            {lostBlocks, open(1, 2, 3), acked, 0},
		"open file, a later block":             {lostBlocks, open(1, 2, 3+blocks), later, 0},
		"open file, an old block":              {lostBlocks, open(1, 2), acked, 1},
		"open file, cut off":                   {lostBlocks, open(1, 2, 3)[:2*blockSize], acked, 2},
		"version":                              {lostVersion, string(version(3)), acked, 0},
		"version, a later one":                 {lostVersion, string(version(4)), acked, 0},
		"version, an old one":                  {lostVersion, string(version(2)), acked, 1},
		"version, not whole":                   {lostVersion, string(version(3)[:20]), acked, 1},
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if lost := tt.find(path, tt.met); len(lost) != tt.want {
			t.Errorf("%s: %q, want %d", name, lost, tt.want)
		}
	}
}

// TestWork: the programs work in a directory and notice what is wrong there.
func TestWork(t *testing.T) {
	dir := t.TempDir()
	if err := prepare(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(readName(dir, 5), make([]byte, readSize), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := work(dir, strings.NewReader("mended\n"), &out); err != nil {
		t.Fatal(err)
	}
	c, err := decode(strings.NewReader(strings.TrimPrefix(out.String(), "working\n")))
	if err != nil {
		t.Fatal(err)
	}
	if lost, what := losses(dir, c); lost > 0 {
		t.Errorf("lost: %q", what)
	}
	for name, o := range c {
		if len(o.Errors) > 0 || !o.Works || o.Steps < 10 {
			t.Errorf("%s: %+v", name, o)
		}
	}
	if len(c[progRead].Wrong) == 0 {
		t.Error("nobody noticed the wrong file")
	}
}

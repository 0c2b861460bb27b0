package runs

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func fixed(figures ...float64) func() (float64, error) {
	i := 0
	return func() (float64, error) {
		i++
		return figures[i-1], nil
	}
}

func TestReport(t *testing.T) {
	r := &Row{Name: "load", Unit: "ops/s"}
	r.Add("base", fixed(1, 10, 100, 20)) // the first one warms up
	r.Add("ours", fixed(1, 20, 100, 60))
	rows := []*Row{r}
	if err := Measure(rows, 1, 3, io.Discard); err != nil {
		t.Fatal(err)
	}
	rep := NewReport(rows, []Target{
		{"load", "ours", "base", 2}, {"load", "ours", "base", 2.5}, {"load", "ours", "absent", 1},
	})
	if len(rep.Ratios) != 2 {
		t.Fatalf("%d ratios, want 2", len(rep.Ratios))
	}
	// By round 2, 1 and 3: the median is 2, which the ratio of medians (60/20) is not.
	if got := rep.Ratios[0]; got.Found != 2 || !got.Met {
		t.Errorf("ratio %+v, want 2, met", got)
	}
	if rep.Ratios[1].Met || rep.Met() {
		t.Error("2 meets a target of 2.5")
	}
	if f := rep.Figures[0]; f.Median != 20 || f.Min != 10 || f.Max != 100 {
		t.Errorf("figure %+v, want 20 of 10 to 100", f)
	}
	var b bytes.Buffer
	if err := rep.Text(&b); err != nil || strings.Count(b.String(), "MISSED") != 1 {
		t.Errorf("%v, want one MISSED in:\n%s", err, &b)
	}
}

func TestOrder(t *testing.T) {
	var order []string
	r := &Row{Name: "load"}
	for _, p := range []string{"a", "b", "c"} {
		r.Add(p, func() (float64, error) {
			order = append(order, p)
			return 1, nil
		})
	}
	if err := Measure([]*Row{r}, 0, 3, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, ""); got != "abcacbcab" {
		t.Errorf("order %s", got)
	}
}

func TestFilter(t *testing.T) {
	r := &Row{Name: "load"}
	r.Add("a", nil)
	r.Add("b", nil)
	if got := Filter([]*Row{r}, "load/b"); len(got) != 1 || len(got[0].Cells) != 1 || got[0].Cells[0].Peer != "b" {
		t.Errorf("kept %+v", got)
	}
	if got := Filter([]*Row{r}, ""); len(got[0].Cells) != 2 {
		t.Errorf("the empty filter kept %d cells", len(got[0].Cells))
	}
	if got := Filter([]*Row{r}, "x;y"); len(got) != 0 {
		t.Errorf("kept %+v", got)
	}
}

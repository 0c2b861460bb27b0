// Package runs measures several peers at the same workloads, side by side in
// one run, and reports medians, ratios, and which targets are met. Figures are
// rates: more is better.
package runs

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// Cell is one peer at one workload.
type Cell struct {
	Peer    string
	Measure func() (float64, error)
	figures []float64 // one per round
}

// Row is a workload with the peers that are compared at it.
type Row struct {
	Name, Unit string
	Cells      []*Cell
}

// Add adds a peer to the row.
func (r *Row) Add(peer string, measure func() (float64, error)) {
	r.Cells = append(r.Cells, &Cell{Peer: peer, Measure: measure})
}

func (r *Row) cell(peer string) *Cell {
	for _, c := range r.Cells {
		if c.Peer == peer {
			return c
		}
	}
	return nil
}

// ratio is the median over the rounds of peer's figure over base's of the same
// round; 0 if either is not measured.
func (r *Row) ratio(peer, base string) float64 {
	p, b := r.cell(peer), r.cell(base)
	if p == nil || b == nil {
		return 0
	}
	var all []float64
	for i := range p.figures {
		all = append(all, p.figures[i]/b.figures[i])
	}
	return Median(all)
}

// Median returns the median of v, 0 if there is none.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// Progress returns f if it is a terminal, and otherwise a writer that discards.
func Progress(f io.Writer) io.Writer {
	if file, ok := f.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return file
		}
	}
	return io.Discard
}

// Measure runs every cell once per round, the rows in order and the cells of a
// row in changing order, after warm rounds that do not count.
func Measure(rows []*Row, warm, rounds int, progress io.Writer) error {
	defer fmt.Fprint(progress, "\r\033[K")
	for round := range warm + rounds {
		for _, r := range rows {
			for _, c := range Order(r.Cells, round) {
				fmt.Fprintf(progress, "\r\033[Kround %d of %d: %s, %s", round+1-warm, rounds, r.Name, c.Peer)
				figure, err := c.Measure()
				if err != nil {
					return fmt.Errorf("%s, %s: %w", r.Name, c.Peer, err)
				}
				if round >= warm {
					c.figures = append(c.figures, figure)
				}
			}
		}
	}
	return nil
}

// Order rotates the cells from round to round, and turns every other round
// around, so that none always follows the same one.
func Order[C any](cells []C, round int) []C {
	first := round % len(cells)
	turned := slices.Concat(cells[first:], cells[:first])
	if round%2 == 1 {
		slices.Reverse(turned)
	}
	return turned
}

// Filter keeps the cells whose "row/peer$" contains one of texts, which are
// separated by semicolons; an empty list keeps all.
func Filter(rows []*Row, texts string) []*Row {
	var kept []*Row
	for _, r := range rows {
		k := &Row{Name: r.Name, Unit: r.Unit}
		for _, c := range r.Cells {
			for text := range strings.SplitSeq(texts, ";") {
				if strings.Contains(r.Name+"/"+c.Peer+"$", text) {
					k.Cells = append(k.Cells, c)
					break
				}
			}
		}
		if len(k.Cells) > 0 {
			kept = append(kept, k)
		}
	}
	return kept
}

// Target is what the project promises: in Row, Peer has at least Least times
// the figure of Base.
type Target struct {
	Row, Peer, Base string
	Least           float64
}

// Report is what a run found.
type Report struct {
	Notes   []string // how it was measured
	Figures []Figure
	Ratios  []Ratio
}

// Figure is one peer's result at one workload.
type Figure struct {
	Row, Peer, Unit  string
	Median, Min, Max float64
	Rounds           []float64
}

// Ratio is a target and what was found.
type Ratio struct {
	Target
	Found float64
	Met   bool
}

// NewReport sums up the rows. Targets whose cells were not measured are left
// out.
func NewReport(rows []*Row, targets []Target, notes ...string) *Report {
	rep := &Report{Notes: notes}
	for _, r := range rows {
		for _, c := range r.Cells {
			rep.Figures = append(rep.Figures, Figure{
				Row: r.Name, Peer: c.Peer, Unit: r.Unit,
				Median: Median(c.figures), Min: slices.Min(c.figures), Max: slices.Max(c.figures),
				Rounds: c.figures,
			})
		}
		for _, t := range targets {
			if found := r.ratio(t.Peer, t.Base); t.Row == r.Name && found > 0 {
				rep.Ratios = append(rep.Ratios, Ratio{t, found, found >= t.Least})
			}
		}
	}
	return rep
}

// Met reports whether all targets that were measured are met.
func (rep *Report) Met() bool {
	for _, r := range rep.Ratios {
		if !r.Met {
			return false
		}
	}
	return true
}

// JSON writes the report as JSON.
func (rep *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "\t")
	return enc.Encode(rep)
}

// Text writes the report as two tables.
func (rep *Report) Text(w io.Writer) error {
	for _, n := range rep.Notes {
		fmt.Fprintln(w, n)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nworkload\tpeer\tmedian\tmin\tmax\tunit\n")
	for _, f := range rep.Figures {
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.0f\t%s\n", f.Row, f.Peer, f.Median, f.Min, f.Max, f.Unit)
	}
	if len(rep.Ratios) > 0 {
		fmt.Fprintf(t, "\nworkload\tratio\twanted\tfound\t\n")
	}
	for _, r := range rep.Ratios {
		verdict := "met"
		if !r.Met {
			verdict = "MISSED"
		}
		fmt.Fprintf(t, "%s\t%s / %s\t%.2f\t%.2f\t%s\n", r.Row, r.Peer, r.Base, r.Least, r.Found, verdict)
	}
	return t.Flush()
}

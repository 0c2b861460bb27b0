package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// report is what a run found.
type report struct {
	Notes   []string // how it was measured
	Figures []figure
}

// figure is one number, and the bound that the project promises for it.
type figure struct {
	Part, Name string
	Value      float64
	Unit       string
	Most       float64 `json:",omitempty"` // the target; 0: there is none
	Met        bool
}

// add notes a figure without a target.
func (r *report) add(part, name string, value float64, unit string) {
	r.Figures = append(r.Figures, figure{Part: part, Name: name, Value: value, Unit: unit, Met: true})
}

// atMost notes a figure with a target.
func (r *report) atMost(part, name string, value, most float64, unit string) {
	r.Figures = append(r.Figures, figure{part, name, value, unit, most, value <= most})
}

// delays notes the middle and the tail of a histogram.
func (r *report) delays(part, name string, d delays) {
	r.add(part, name+", p50", d.quantile(.5), "ms")
	r.add(part, name+", p99", d.quantile(.99), "ms")
}

// met reports whether all targets are met.
func (r *report) met() bool {
	for _, f := range r.Figures {
		if !f.Met {
			return false
		}
	}
	return true
}

// text writes the report as a table.
func (r *report) text(w io.Writer) error {
	for _, n := range r.Notes {
		fmt.Fprintln(w, n)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\npart\tmeasured\tfound\tunit\ttarget\n")
	for _, f := range r.Figures {
		target := ""
		switch {
		case f.Most > 0 && f.Met:
			target = fmt.Sprintf("≤ %g met", f.Most)
		case f.Most > 0:
			target = fmt.Sprintf("≤ %g MISSED", f.Most)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", f.Part, f.Name, number(f.Value), f.Unit, target)
	}
	return t.Flush()
}

// number shows small numbers with decimals, large ones without.
func number(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// json writes the report as JSON.
func (r *report) json(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "\t")
	return enc.Encode(r)
}

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/rpycfs/rpycfs/bench/internal/runs"
)

// Report is what a run found.
type Report struct {
	Notes   []string // how it was measured
	Figures []*Figure
}

// Figure is one peer in one row over one link.
type Figure struct {
	Link, Row, Peer, Unit string
	// Times is how many times what was done the whole amount is; if it is not 1 the
	// samples are extrapolated.
	Times  float64
	Rounds []Sample
	Error  string `json:",omitempty"` // why there are no more rounds
}

// find returns a figure that has rounds, or nil.
func (r *Report) find(link, row, peer string) *Figure {
	for _, f := range r.Figures {
		if f.Link == link && f.Row == row && f.Peer == peer && len(f.Rounds) > 0 {
			return f
		}
	}
	return nil
}

// median of what of returns for the rounds.
func (f *Figure) median(of func(*Sample) float64) float64 {
	var all []float64
	for i := range f.Rounds {
		all = append(all, of(&f.Rounds[i]))
	}
	return runs.Median(all)
}

func figure(s *Sample) float64 { return s.Figure }

func cpu(s *Sample) float64 { return s.Client.CPU + s.Server.CPU }

// speed is the median over the rounds of how many times faster f is than base.
func (f *Figure) speed(base *Figure) float64 {
	var all []float64
	for i := range min(len(f.Rounds), len(base.Rounds)) {
		ratio := f.Rounds[i].Figure / base.Rounds[i].Figure
		if !isRate(f.Unit) {
			ratio = 1 / ratio
		}
		all = append(all, ratio)
	}
	return runs.Median(all)
}

// base returns the figure that f is compared with.
func (r *Report) base(f *Figure, peer string) *Figure {
	if peer != bestSSHFS {
		return r.find(f.Link, f.Row, peer)
	}
	plain, tuned := r.find(f.Link, f.Row, peerSSHFS), r.find(f.Link, f.Row, peerTuned)
	if plain == nil || tuned != nil && tuned.speed(plain) > 1 {
		return tuned
	}
	return plain
}

// Verdict is a target and what was found.
type Verdict struct {
	Target
	Found float64
	Met   bool
	About bool // extrapolated
}

// verdicts compares targets with what was measured; those that were not are left
// out.
func (r *Report) verdicts() []Verdict {
	var all []Verdict
	for _, t := range targets() {
		for _, link := range r.links() {
			if !strings.Contains(link, t.Link) {
				continue
			}
			if t.Measure == ofMemory {
				if peak := r.peak(link); peak > 0 {
					v := Verdict{Target: t, Found: peak, Met: peak <= t.Must}
					v.Link = link
					all = append(all, v)
				}
				continue
			}
			if f := r.find(link, t.Row, peerRpycfs); f != nil {
				if v, ok := r.verdict(t, f); ok {
					all = append(all, v)
				}
			}
		}
	}
	return all
}

func (r *Report) verdict(t Target, f *Figure) (v Verdict, ok bool) {
	v.Target, v.About = t, f.Times != 1
	v.Link = f.Link
	if t.Measure == ofMillis {
		v.Found = f.median(figure)
		v.Met = v.Found <= t.Must
		return v, true
	}
	base := r.base(f, t.Base)
	if base == nil {
		return v, false
	}
	v.Base, v.About = base.Peer, v.About || base.Times != 1
	if t.Measure == ofCPU {
		v.Found = f.median(cpu) / base.median(cpu)
		v.Met = v.Found <= t.Must
	} else {
		v.Found = f.speed(base)
		v.Met = v.Found >= t.Must
	}
	return v, true
}

// peak returns the most MiB that one side of rpycfs has had in any row.
func (r *Report) peak(link string) (peak float64) {
	for _, f := range r.Figures {
		if f.Link == link && f.Peer == peerRpycfs {
			for _, s := range f.Rounds {
				peak = max(peak, s.Client.Peak, s.Server.Peak)
			}
		}
	}
	return peak
}

// met reports whether all targets that were measured are met.
func (r *Report) met() bool {
	return !slices.ContainsFunc(r.verdicts(), func(v Verdict) bool { return !v.Met })
}

// failed joins the errors of all figures.
func (r *Report) failed() (err error) {
	for _, f := range r.Figures {
		if f.Error != "" {
			err = errors.Join(err, fmt.Errorf("%s, %s, %s: %.2000s", f.Link, f.Row, f.Peer, f.Error))
		}
	}
	return err
}

func (r *Report) write(name string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}

func readReport(name string) (*Report, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var r Report
	return &r, json.Unmarshal(text, &r)
}

func distinct(figures []*Figure, of func(*Figure) string) []string {
	var all []string
	for _, f := range figures {
		if v := of(f); !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	return all
}

func (r *Report) links() []string {
	return distinct(r.Figures, func(f *Figure) string { return f.Link })
}

// over returns the figures over one link.
func (r *Report) over(link string) []*Figure {
	return slices.DeleteFunc(slices.Clone(r.Figures), func(f *Figure) bool { return f.Link != link })
}

// markdown writes the report as tables.
func (r *Report) markdown(w io.Writer) {
	for _, n := range r.Notes {
		fmt.Fprintf(w, "- %s\n", n)
	}
	for _, link := range r.links() {
		fmt.Fprintf(w, "\n### %s\n\n", link)
		r.table(w, link, (*Figure).text)
		fmt.Fprintf(w, "\nCPU seconds of client + server; peak MiB of client + server, %s:\n\n", link)
		r.table(w, link, (*Figure).usage)
		r.calls(w, link)
	}
	fmt.Fprintf(w, "\n### Targets\n\n| workload | link | compared with | what | wanted | found | |\n|---|---|---|---|---|---|---|\n")
	for _, v := range r.verdicts() {
		verdict, sign, about := "met", "≥", ""
		if !v.Met {
			verdict = "**missed**"
		}
		if v.Measure != ofSpeed {
			sign = "≤"
		}
		if v.About {
			about = "~"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s %.3g | %s%.3g | %s |\n", v.Row, v.Link, v.Base, v.Measure, sign, v.Must, about, v.Found, verdict)
	}
}

// table writes one line per row and one column per peer.
func (r *Report) table(w io.Writer, link string, cell func(*Figure) string) {
	figures := r.over(link)
	peers := distinct(figures, func(f *Figure) string { return f.Peer })
	fmt.Fprintf(w, "| workload | unit | %s |\n|---|---|%s\n", strings.Join(peers, " | "), strings.Repeat("---:|", len(peers)))
	for _, row := range distinct(figures, func(f *Figure) string { return f.Row }) {
		unit, cells := "", make([]string, len(peers))
		for _, f := range figures {
			if f.Row == row {
				unit, cells[slices.Index(peers, f.Peer)] = f.Unit, cell(f)
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", row, unit, strings.Join(cells, " | "))
	}
}

// calls writes what the kernel asked of rpycfs, and rpycfs of its server, in the
// last round.
func (r *Report) calls(w io.Writer, link string) {
	fmt.Fprintf(w, "\nRequests of the kernel to %s and its calls to the server, %s:\n\n| workload | requests | calls | of these |\n|---|---:|---:|---|\n", peerRpycfs, link)
	for _, f := range r.over(link) {
		if f.Peer != peerRpycfs || len(f.Rounds) == 0 || f.Rounds[len(f.Rounds)-1].Calls == nil {
			continue
		}
		c := f.Rounds[len(f.Rounds)-1].Calls
		requests, _ := most(c.Requests)
		calls, names := most(c.Calls)
		fmt.Fprintf(w, "| %s | %d | %d | %s |\n", f.Row, requests, calls, names)
	}
}

// most returns the sum of counts and the highest of them, with their names.
func most(counts map[string]int64) (sum int64, text string) {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), strings.Compare(a, b))
	})
	var all []string
	for i, name := range names {
		sum += counts[name]
		if i < 8 {
			all = append(all, fmt.Sprintf("%s %d", name, counts[name]))
		}
	}
	return sum, strings.Join(all, ", ")
}

// text is a cell of the first table; ~ marks what is extrapolated.
func (f *Figure) text() string {
	if f.Error != "" {
		return "failed"
	}
	if len(f.Rounds) == 0 {
		return "" // the run was ended before
	}
	mark := ""
	if f.Times != 1 {
		mark = "~"
	}
	v := f.median(figure)
	switch {
	case v >= 100:
		return fmt.Sprintf("%s%.0f", mark, v)
	case v >= 1:
		return fmt.Sprintf("%s%.1f", mark, v)
	}
	return fmt.Sprintf("%s%.3f", mark, v)
}

// usage is a cell of the second table.
func (f *Figure) usage() string {
	of := func(v func(*Sample) float64) float64 { return f.median(v) }
	peak := of(func(s *Sample) float64 { return s.Client.Peak })
	if len(f.Rounds) == 0 || peak == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f + %.2f; %.0f + %.0f",
		of(func(s *Sample) float64 { return s.Client.CPU }), of(func(s *Sample) float64 { return s.Server.CPU }),
		peak, of(func(s *Sample) float64 { return s.Server.Peak }))
}

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// cell is one fault on one file system.
type cell struct {
	fault    fault
	peer     candidate
	outcomes map[string]outcome
	late     int      // acknowledged, and not on the server when the programs ended
	lost     int      // nor later
	what     []string // some of it
}

// others are the programs that open what they need.
var others = []string{progAppend, progSwap, progRead}

// errors are those that programs saw that open their files anew.
func (c cell) errors() string {
	all := make(map[string]int)
	for _, name := range others {
		for text, n := range c.outcomes[name].Errors {
			all[text] += n
		}
		if n := len(c.outcomes[name].Wrong); n > 0 {
			all["wrong data"] += n
		}
	}
	return counted(all)
}

// counted lists counts, the largest first.
func counted(all map[string]int) string {
	if len(all) == 0 {
		return "0"
	}
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(all[b], all[a]), cmp.Compare(a, b))
	})
	total := 0
	for i, name := range names {
		total += all[name]
		names[i] = fmt.Sprintf("%s %d", name, all[name])
	}
	return fmt.Sprintf("%d (%s)", total, strings.Join(names, ", "))
}

// acked is how much was acknowledged.
func (c cell) acked() (n int) {
	for _, o := range c.outcomes {
		n += len(o.Acked)
	}
	return n
}

// frozen is for how long a program stood still.
func (c cell) frozen(names ...string) string {
	longest, never := 0., false
	for _, name := range names {
		o := c.outcomes[name]
		longest, never = max(longest, o.Frozen), never || !o.Works
	}
	if never {
		return fmt.Sprintf("%.1f and on", longest)
	}
	return fmt.Sprintf("%.1f", longest)
}

// held says what became of the file that was open.
func (c cell) held() string {
	o := c.outcomes[progHeld]
	all := maps.Clone(o.Errors)
	if n := len(o.Wrong); n > 0 {
		all["wrong data"] = n
	}
	names := slices.Sorted(maps.Keys(all))
	switch {
	case o.Works && len(names) == 0:
		return "yes"
	case o.Works:
		return "yes, after " + strings.Join(names, ", ")
	case len(names) == 0:
		return "no: stands still"
	}
	return "no: " + strings.Join(names, ", ")
}

// details are for who watches the run.
func (c cell) details() string {
	what := slices.Clone(c.what)
	for _, o := range c.outcomes {
		what = append(what, o.Wrong...)
	}
	return fmt.Sprintf("errors %s; %d of %d lost, %q, %d late; frozen %s writing, %s reading; open file: %s",
		c.errors(), c.lost, c.acked(), what, c.late, c.frozen(progAppend, progSwap), c.frozen(progRead), c.held())
}

// printTable prints what was found, as Markdown.
func printTable(w io.Writer, cells []cell) {
	fmt.Fprintln(w, machine())
	fmt.Fprintln(w)
	fmt.Fprintln(w, "| fault | file system | errors seen | data lost | on the server late | seconds frozen: writing | reading | open file goes on |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
	last := ""
	for _, c := range cells {
		name := c.fault.name
		if name == last {
			name = ""
		}
		last = c.fault.name
		fmt.Fprintf(w, "| %s | %s | %s | %d of %d | %d | %s | %s | %s |\n", name, c.peer.name,
			c.errors(), c.lost, c.acked(), c.late, c.frozen(progAppend, progSwap), c.frozen(progRead), c.held())
	}
}

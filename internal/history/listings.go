package history

import (
	"math"
	"slices"
	"sort"
	"strings"
	"time"
)

// checkListings holds each listing against the changes of each name, and returns
// the first violation of each call.
func (l *Log) checkListings() []*Violation {
	var violations []*Violation
	for _, list := range l.ops["directory"] {
		if slices.ContainsFunc(violations, func(v *Violation) bool { return v.Call == list.Call }) {
			continue
		}
		for _, name := range slices.Concat(names, permanent) {
			if v := l.appearances(name).violation(list, name); v != nil {
				violations = append(violations, v)
				break
			}
		}
	}
	return violations
}

// appearances are the changes that made a name appear and disappear.
type appearances struct {
	came, gone []Op
	grace      time.Duration
}

func (l *Log) appearances(name string) *appearances {
	p := &appearances{grace: l.round.Grace}
	if slices.Contains(permanent, name) {
		p.came = []Op{{Client: l.round.Clients[0].Number, Call: Create, Start: -1, End: -1}}
	}
	for _, o := range l.ops["name "+name] {
		if o.changes() {
			p.add(o)
		}
	}
	for _, f := range l.failures {
		if o := f.Op; f.Object == "name "+name && o.changes() {
			o.End, o.Unsure = math.MaxInt64, true
			p.add(o)
		}
	}
	return p
}

func (p *appearances) add(o Op) {
	switch o.Call {
	case Create, Mkdir, Onto:
		p.came = append(p.came, o)
	case Unlink, Rmdir, Away:
		p.gone = append(p.gone, o)
	}
}

// explains tells whether a listing between two moments may show the name so
// often. What was there all the while is there once, what was away all the while
// is not there, anything else is as it comes.
func (p *appearances) explains(since, end time.Duration, times int) bool {
	switch {
	case p.throughout(since, end):
		return times == 1
	case p.away(since, end):
		return times == 0
	}
	return true
}

// throughout: it came before, and has not gone since.
func (p *appearances) throughout(since, end time.Duration) bool {
	return slices.ContainsFunc(p.came, func(c Op) bool {
		return !c.Unsure && c.End < since && !slices.ContainsFunc(p.gone, func(g Op) bool {
			return g.End >= c.Start && g.Start <= end
		})
	})
}

// away: however often it had come, it had gone after that.
func (p *appearances) away(since, end time.Duration) bool {
	return !slices.ContainsFunc(p.came, func(c Op) bool {
		return c.Start <= end && !slices.ContainsFunc(p.gone, func(g Op) bool {
			return !g.Unsure && g.Start > c.End && g.End < since
		})
	})
}

// violation checks one listing; nil if it shows the name as it may.
func (p *appearances) violation(list Op, name string) *Violation {
	since := list.Since
	if list.Client != Server {
		since -= p.grace
	}
	times := 0
	for _, n := range strings.Fields(list.Value) {
		if n == name {
			times++
		}
	}
	if p.explains(since, list.End, times) {
		return nil
	}
	v := &Violation{Object: "directory without " + name, Call: list.Call, Stale: -1}
	if times > 0 {
		v.Object = "directory with " + name
	}
	earlier := func(by int) bool { return p.explains(since-time.Duration(by), list.End, times) }
	if by := sort.Search(int(since), earlier); by < int(since) {
		v.Stale = time.Duration(by)
	}
	v.Ops = p.lately(list)
	return v
}

// lately is the listing with the last changes before it.
func (p *appearances) lately(list Op) []Op {
	const most = 4
	ops := slices.DeleteFunc(slices.Concat(p.came, p.gone), func(o Op) bool { return o.Start > list.End })
	slices.SortFunc(ops, byStart)
	ops = append(ops[max(0, len(ops)-most):], list)
	slices.SortFunc(ops, byStart)
	return ops
}

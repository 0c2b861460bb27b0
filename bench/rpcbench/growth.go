package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// growthSlack is how many bytes per call a payload of 1 MiB may cost more than
// one of 4 KiB: far less than the payload, and more than what the collector's
// emptying of a pool now and then costs.
const growthSlack = 16 << 10

// growth is what calls allocate, by payload.
type growth struct {
	Op      string
	Payload int   // bytes
	Client  stats // per call
	Server  stats // per call
}

// measureGrowth counts allocations of reads and writes on both sides.
func measureGrowth(s *server, r *rpycfsClient) ([]growth, error) {
	var all []growth
	for _, op := range []struct {
		name string
		move func([]byte, uint64) error
	}{{"read", r.readAt}, {"write", r.writeAt}} {
		for _, payload := range []int{512, 4 << 10, 64 << 10, 256 << 10, 1 << 20} {
			g, err := growthOf(s, r, payload, op.move)
			if err != nil {
				return nil, fmt.Errorf("%s of %d bytes: %w", op.name, payload, err)
			}
			g.Op = op.name
			all = append(all, g)
		}
	}
	return all, nil
}

func growthOf(s *server, r *rpycfsClient, payload int, move func([]byte, uint64) error) (g growth, err error) {
	const warm, calls = 200, 2000
	if err = r.each(warm*int64(payload), payload, move); err != nil {
		return g, err
	}
	before, err := s.Stats()
	if err != nil {
		return g, err
	}
	mine := readStats()
	if err = r.each(calls*int64(payload), payload, move); err != nil {
		return g, err
	}
	g.Payload = payload
	g.Client = readStats().since(mine).per(calls)
	// The buffers of each are the benchmark's own, not the calls'.
	g.Client.Bytes -= min(g.Client.Bytes, uint64(inFlight*payload/calls))
	after, err := s.Stats()
	g.Server = after.since(before).per(calls)
	return g, err
}

func (s stats) per(n uint64) stats { return stats{s.Mallocs / n, s.Bytes / n} }

// grows tells which operation's calls allocate more for a large payload, on
// either side; empty if none.
func grows(all []growth) string {
	base := make(map[string]growth)
	for _, g := range all {
		if g.Payload == 4<<10 {
			base[g.Op] = g
		}
	}
	for _, g := range all {
		b := base[g.Op]
		if g.Client.Bytes > b.Client.Bytes+growthSlack || g.Server.Bytes > b.Server.Bytes+growthSlack {
			return fmt.Sprintf("%s of %d bytes", g.Op, g.Payload)
		}
	}
	return ""
}

func printGrowth(all []growth, w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nallocated per call\tpayload\tclient allocs\tclient bytes\tserver allocs\tserver bytes\n")
	for _, g := range all {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\n", g.Op, g.Payload, g.Client.Mallocs, g.Client.Bytes, g.Server.Mallocs, g.Server.Bytes)
	}
	verdict := "nothing grows with the payload: met"
	if op := grows(all); op != "" {
		verdict = "grows with the payload: MISSED by " + op
	}
	fmt.Fprintln(t, verdict)
	return t.Flush()
}

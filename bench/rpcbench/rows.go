package main

import (
	"errors"
	"io"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/runs"
)

// Names of the peers in the table.
const (
	peerMux    = "bare mux"
	peerGRPC   = "grpc-go"
	peerPlain  = "plain TLS"
	peerRpycfs = "rpycfs"

	// Variants, for information.
	peerYield = "bare mux, yielding"     // the writer yields before it writes
	peerQuery = "rpycfs, in a goroutine" // as handlers that may block run
	peerSlot  = "rpycfs, with a slot"    // executed exactly once
	peerMain  = "rpycfs, one connection" // bulk beside everything else
)

// Names of the rows.
const (
	rowCall1  = "calls of 64 bytes, 1 caller"
	rowCall64 = "calls of 64 bytes, 64 callers"
	rowRead   = "bulk read"
	rowWrite  = "bulk write"
)

// targets are what the project promises of its calls.
var targets = []runs.Target{
	{Row: rowCall1, Peer: peerRpycfs, Base: peerGRPC, Least: 0.9},
	{Row: rowCall64, Peer: peerRpycfs, Base: peerGRPC, Least: 2},
	{Row: rowCall1, Peer: peerRpycfs, Base: peerMux, Least: 0.7},
	{Row: rowCall64, Peer: peerRpycfs, Base: peerMux, Least: 0.7},
	{Row: rowRead, Peer: peerRpycfs, Base: peerPlain, Least: 0.85},
	{Row: rowWrite, Peer: peerRpycfs, Base: peerPlain, Least: 0.85},
}

// clients are connected to every server of the server process.
type clients struct {
	mux    *muxClient
	yield  *muxClient
	grpc   *grpcClient
	plain  *plainClient
	rpycfs *rpycfsClient // with bulk connections
	single *rpycfsClient // without
	open   []io.Closer
}

func dialAll(h *hello) (c *clients, err error) {
	c = &clients{}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	conf := clientTLS(h.Cert)
	if c.mux, err = dialMux(h.Mux, conf, false); err != nil {
		return nil, err
	}
	c.open = append(c.open, c.mux)
	if c.yield, err = dialMux(h.Mux, conf, true); err != nil {
		return nil, err
	}
	c.open = append(c.open, c.yield)
	if c.grpc, err = dialGRPC(h.GRPC, conf); err != nil {
		return nil, err
	}
	c.open = append(c.open, c.grpc)
	if c.plain, err = dialPlain(h.Plain, conf); err != nil {
		return nil, err
	}
	c.open = append(c.open, c.plain)
	if c.single, err = dialRpycfs(h.Rpycfs, conf, 0); err != nil {
		return nil, err
	}
	c.open = append(c.open, c.single)
	if c.rpycfs, err = dialRpycfs(h.Rpycfs, conf, bulkConns); err != nil {
		return nil, err
	}
	c.open = append(c.open, c.rpycfs)
	return c, nil
}

// Close ends all connections.
func (c *clients) Close() error {
	var errs []error
	for _, o := range c.open {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}

// rows returns the workloads: small calls for d at a time, bulk of n bytes.
func (c *clients) rows(d time.Duration, n int64) []*runs.Row {
	var rows []*runs.Row
	for _, k := range []struct {
		name    string
		callers int
	}{{rowCall1, 1}, {rowCall64, 64}} {
		r := &runs.Row{Name: k.name, Unit: "calls/s"}
		for _, e := range c.echoers() {
			r.Add(e.name, func() (float64, error) { return calls(e.echoer, k.callers, d) })
		}
		rows = append(rows, r)
	}
	read, write := &runs.Row{Name: rowRead, Unit: "MiB/s"}, &runs.Row{Name: rowWrite, Unit: "MiB/s"}
	for _, m := range c.movers() {
		read.Add(m.name, func() (float64, error) { return bulk(m.mover.Read, n) })
		write.Add(m.name, func() (float64, error) { return bulk(m.mover.Write, n) })
	}
	return append(rows, read, write)
}

type namedEchoer struct {
	name   string
	echoer echoer
}

func (c *clients) echoers() []namedEchoer {
	return []namedEchoer{
		{peerMux, c.mux}, {peerYield, c.yield}, {peerGRPC, c.grpc}, {peerRpycfs, echoOp{c.rpycfs, opQuick}},
		{peerQuery, echoOp{c.rpycfs, opQuery}}, {peerSlot, echoOp{c.rpycfs, opSlot}},
	}
}

type namedMover struct {
	name  string
	mover mover
}

func (c *clients) movers() []namedMover {
	return []namedMover{{peerPlain, c.plain}, {peerRpycfs, c.rpycfs}, {peerMain, c.single}}
}

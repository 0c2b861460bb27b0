package rpc

import (
	"slices"
	"sync/atomic"
	"time"
)

// OpStats counts the calls of one operation since the session began.
type OpStats struct {
	Op *Info

	Calls    uint64        // ended, of this side
	Errors   uint64        // of Calls: with an error, the other side's or one of this side
	InFlight uint64        // begun and not ended, those that wait for a connection or a slot among them
	Time     time.Duration // that Calls took together

	Served       uint64 // of the other side, executed here; a call that is sent again counts once
	ServedErrors uint64 // of Served: answered with an error
}

// opCount is what OpStats is made of.
type opCount struct {
	begun, ended, errors, nanos atomic.Uint64
	served, servedErrors        atomic.Uint64
}

// opCounts has a count for each operation that was defined when it was made, by
// Info.index: all of a program but those that a test defines on the way.
type opCounts []opCount

func newOpCounts() opCounts {
	table.Lock()
	defer table.Unlock()
	return make(opCounts, len(table.ops))
}

// of returns the count of an operation.
func (o opCounts) of(op *Info) *opCount {
	if op.index < len(o) {
		return &o[op.index]
	}
	return new(opCount) // of a later operation: nobody reads it
}

// begin counts a call of this side that begins.
func (c *opCount) begin() (start time.Time) {
	c.begun.Add(1)
	return time.Now()
}

// end counts the same call at its end.
func (c *opCount) end(start time.Time, err error) {
	c.nanos.Add(uint64(time.Since(start)))
	if err != nil {
		c.errors.Add(1)
	}
	c.ended.Add(1)
}

// serve counts a call of the other side.
func (c *opCount) serve(err error) {
	if err != nil {
		c.servedErrors.Add(1)
	}
	c.served.Add(1)
}

// Stats returns the counts of the operations that were called, by number. Calls
// that run meanwhile may be in one field already and not yet in another.
func (p *Peer) Stats() []OpStats {
	var list []OpStats
	for _, op := range Ops() {
		c := p.counts.of(op)
		s := OpStats{
			Op: op, Calls: c.ended.Load(), Errors: c.errors.Load(), Time: time.Duration(c.nanos.Load()),
			Served: c.served.Load(), ServedErrors: c.servedErrors.Load(),
		}
		s.InFlight = c.begun.Load() - s.Calls // no less than 0: begun is read last
		if s.Calls+s.InFlight+s.Served > 0 {
			list = append(list, s)
		}
	}
	return slices.Clip(list)
}

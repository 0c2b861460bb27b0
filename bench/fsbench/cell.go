package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

// Sample is what one peer did in one round of one row.
type Sample struct {
	Figure         float64 // in the row's unit, for the whole amount
	Client, Server Usage
	Calls          *Calls  `json:",omitempty"` // of rpycfs, not extrapolated
	Settled        float64 `json:",omitempty"` // seconds until all was at the server, not in Figure
}

// atLeast is how long the clock runs for what is done again; once is over too soon.
const atLeast = time.Second / 2

// measure runs one workload on one peer, mounted afresh, and returns a sample and,
// if the load is done again, a second one. Whatever hangs is cut off after limit
// by ending the peer's processes.
func (s *site) measure(k *link, p peer, l load, limit time.Duration) (samples []Sample, err error) {
	if l.before != nil {
		if err := l.before(); err != nil {
			return nil, err
		}
	}
	c, err := s.newCell(k)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := dropCaches(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	m, err := p.mount(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.unmount()) }()
	stop := context.AfterFunc(ctx, m.Kill)
	defer stop()
	if l.warm != nil {
		if err := l.warm(); err != nil {
			return nil, err
		}
	}
	first, err := c.sample(ctx, m, l, 0)
	samples = append(samples, first)
	if err == nil && l.again != "" {
		var second Sample
		second, err = c.sample(ctx, m, l, atLeast)
		samples = append(samples, second)
	}
	if err == nil && l.after != nil {
		err = l.after()
	}
	if ctx.Err() != nil {
		err = errors.Join(err, fmt.Errorf("not done in %s", limit))
	}
	return samples, err
}

// sample runs a workload, over and over until it has taken least, and looks what
// it takes.
func (c *cell) sample(ctx context.Context, m *mounted, l load, least time.Duration) (s Sample, err error) {
	before, err := c.used(ctx, m)
	if err != nil {
		return s, err
	}
	var units float64
	times := 0.
	begin := time.Now()
	for times == 0 || time.Since(begin) < least {
		n, err := l.run(m.Dir)
		if err != nil {
			return s, err
		}
		units += n
		times++
	}
	took := time.Since(begin).Seconds()
	if m.settle != nil {
		settling := time.Now()
		if err := m.settle(ctx); err != nil {
			return s, err
		}
		s.Settled = time.Since(settling).Seconds()
	}
	switch {
	case l.value:
		s.Figure = units
	case isRate(l.unit):
		s.Figure = units / took
	default:
		s.Figure = took / times * l.whole
	}
	after, err := c.used(ctx, m)
	for _, side := range []struct{ before, after, of *Usage }{{&before.Client, &after.Client, &s.Client}, {&before.Server, &after.Server, &s.Server}} {
		side.of.Peak = side.after.Peak
		side.of.CPU = (side.after.CPU - side.before.CPU) / times * l.whole
	}
	if after.Calls != nil {
		calls := after.Calls.since(*before.Calls)
		s.Calls = &calls
	}
	return s, err
}

// used returns what has been used and counted so far.
func (c *cell) used(ctx context.Context, m *mounted) (s Sample, err error) {
	if s.Client, err = c.client.usage(); err != nil {
		return s, err
	}
	if s.Server, err = c.server.usage(); err != nil {
		return s, err
	}
	if m.calls != nil {
		var calls Calls
		calls, err = m.calls(ctx)
		s.Calls = &calls
	}
	return s, err
}

// newCell makes directories and control groups for one measurement.
func (s *site) newCell(k *link) (*cell, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, errors.New("the run is over")
	}
	s.cells++
	c := &cell{link: k, tree: s.path("tree"), mnt: s.path("mnt")}
	s.cell = c
	var err error
	if c.tmp, err = os.MkdirTemp(s.dir, "cell-"); err != nil {
		return nil, err
	}
	for side, to := range map[string]**group{"client": &c.client, "server": &c.server} {
		if *to, err = newGroup(fmt.Sprintf("fsbench-%d-%d-%s", os.Getpid(), s.cells, side)); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	c.ends = peers.Ends{
		Host:   k.host,
		Client: peers.Spawn{In: k.client.in, Group: c.client.file},
		Server: peers.Spawn{In: k.server.in, Group: c.server.file},
	}
	return c, nil
}

// close ends what is left of both sides.
func (c *cell) close() error {
	return errors.Join(c.client.close(), c.server.close(), os.RemoveAll(c.tmp))
}

// dropCaches writes out what is dirty and empties the page cache and the caches
// of names and inodes, of client and server alike: they are one machine.
func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0o200)
}

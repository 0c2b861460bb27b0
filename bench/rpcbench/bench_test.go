package main

import (
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/runs"
)

// TestMain lets the test binary be its own server process.
func TestMain(m *testing.M) {
	if os.Getenv(serverEnv) != "" {
		os.Exit(run(nil, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// pair starts a server process and connects to it.
func pair(tb testing.TB) (*server, *clients) {
	tb.Helper()
	s, err := startServer("")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("server process: %v", err)
		}
	})
	c, err := dialAll(&s.hello)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return s, c
}

// TestRows runs every cell once, briefly: the peers work and answers are right.
func TestRows(t *testing.T) {
	_, c := pair(t)
	rows := c.rows(20*time.Millisecond, 8*chunk)
	if err := runs.Measure(rows, 0, 1, io.Discard); err != nil {
		t.Fatal(err)
	}
	if n := len(runs.NewReport(rows, targets).Ratios); n != len(targets) {
		t.Errorf("%d of %d targets measured", n, len(targets))
	}
}

// BenchmarkCall is a small call, by peer and number of callers.
func BenchmarkCall(b *testing.B) {
	_, c := pair(b)
	for _, callers := range []int{1, 64} {
		for _, e := range c.echoers() {
			b.Run(fmt.Sprintf("peer=%s/callers=%d", e.name, callers), func(b *testing.B) {
				b.ReportAllocs()
				if err := callTimes(e.echoer, callers, b.N); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// BenchmarkBulk is one MiB of a long transfer.
func BenchmarkBulk(b *testing.B) {
	_, c := pair(b)
	for _, m := range c.movers() {
		for _, d := range []struct {
			name string
			move func(int64) error
		}{{"read", m.mover.Read}, {"write", m.mover.Write}} {
			b.Run(fmt.Sprintf("peer=%s/%s", m.name, d.name), func(b *testing.B) {
				b.SetBytes(chunk)
				b.ReportAllocs()
				if err := d.move(int64(b.N) * chunk); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// BenchmarkTargets measures all peers side by side and reports the ratios that
// the project promises as metrics.
func BenchmarkTargets(b *testing.B) {
	_, c := pair(b)
	for b.Loop() {
		rows := c.rows(300*time.Millisecond, 256*chunk)
		if err := runs.Measure(rows, 1, 5, io.Discard); err != nil {
			b.Fatal(err)
		}
		rep := runs.NewReport(rows, targets)
		for _, r := range rep.Ratios {
			b.Logf("%s: %s is %.2f of %s, wanted %.2f", r.Row, r.Peer, r.Found, r.Base, r.Least)
			b.ReportMetric(r.Found, metricName(r.Target))
		}
		if !rep.Met() {
			b.Error("a target is missed")
		}
	}
}

func metricName(t runs.Target) string {
	short := map[string]string{
		rowCall1: "call1", rowCall64: "call64", rowRead: "read", rowWrite: "write",
		peerGRPC: "grpc", peerMux: "mux", peerPlain: "tls",
	}
	return short[t.Row] + "/" + short[t.Base]
}

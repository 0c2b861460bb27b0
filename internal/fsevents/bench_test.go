package fsevents

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

// BenchmarkLatency is the time from before mkdir(2) in another process until Handle
// gets its event.
func BenchmarkLatency(b *testing.B) {
	for _, m := range methods() {
		b.Run(m.String(), func(b *testing.B) {
			dir := b.TempDir()
			root, err := beneath.OpenRoot(dir)
			must(b, err)
			defer root.Close()
			got := make(chan time.Duration, 1)
			w, err := Open(Config{Root: root, Want: m, Handle: func(events []Event) {
				var now unix.Timespec
				if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
					b.Error(err)
				}
				for _, e := range events {
					made, err := strconv.ParseInt(e.Name, 10, 64)
					if err == nil && e.Kind&Create != 0 {
						got <- time.Duration(now.Nano() - made)
					}
				}
			}})
			must(b, err)
			defer w.Close()
			_, err = w.Watch(root)
			must(b, err)
			c := newChild(b, dir)
			c.tell("stamp " + strconv.Itoa(b.N))
			took := make([]time.Duration, b.N)
			for i := range took {
				took[i] = <-got
			}
			c.answer("stamp")
			slices.Sort(took)
			b.ReportMetric(float64(took[b.N/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[b.N*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkRenames is how fast another process can rename a file and every event be
// handled; none is like another. Unwatched, the directory is on the same file system
// but of no interest.
func BenchmarkRenames(b *testing.B) {
	for _, m := range methods() {
		for _, watched := range []bool{true, false} {
			b.Run(fmt.Sprintf("%v/watched=%t", m, watched), func(b *testing.B) { renames(b, m, watched) })
		}
	}
}

func renames(b *testing.B, m Method, watched bool) {
	dir := b.TempDir()
	root, err := beneath.OpenRoot(dir)
	must(b, err)
	defer root.Close()
	batches, overflows, end := 0, 0, newEnd()
	w, err := Open(Config{Root: root, Want: m, Handle: func(events []Event) {
		batches++
		for _, e := range events {
			if e.Kind == Overflow {
				overflows++
			}
			end.see(e)
		}
	}})
	must(b, err)
	defer w.Close()
	if watched {
		_, err = w.Watch(root)
		must(b, err)
	}
	c := newChild(b, dir)
	before := cpuTime(b)
	b.ResetTimer()
	c.do("wander " + strconv.Itoa(b.N))
	_, err = w.Watch(root)
	must(b, err)
	end.await(c)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "renames/s")
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/rename")
	b.ReportMetric(float64(overflows), "overflows")
	b.ReportMetric(float64(b.N)/float64(batches), "renames/batch")
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var r unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

package export

import (
	"fmt"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// BenchmarkLeases gives 50 sessions leases on the same 20 000 nodes and tells what
// that takes beside the nodes and what sessions know of them anyway.
func BenchmarkLeases(b *testing.B) {
	const sessions, nodes = 50, 20_000
	for b.Loop() {
		b.StopTimer()
		l := leases{max: DefaultLeases, clock: 1, sessions: make(map[*Session]struct{})}
		refs := make([]ref, 0, sessions*nodes)
		known := make([]node, nodes)
		for range sessions {
			s := &Session{recalls: recaller{peer: &rpc.Peer{}}}
			for i := range known {
				refs = append(refs, ref{s: s, n: &known[i]})
			}
		}
		before := heap()
		b.StartTimer()
		for i := range refs {
			l.grant(&refs[i], fsproto.RootNode, 1, false)
		}
		b.StopTimer()
		fixed := float64(reflect.TypeFor[lease]().Size())
		b.ReportMetric(float64(heap()-before)/float64(len(refs))+fixed, "B/lease")
		runtime.KeepAlive(&l)
		runtime.KeepAlive(known)
		b.StartTimer()
	}
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkRecall makes a change to a directory on which 50 connected sessions have
// leases, and waits for their answers.
func BenchmarkRecall(b *testing.B) {
	dir := b.TempDir()
	e := openExport(b, Config{Path: dir})
	makeTree(dir)
	writer := newLeaser(b, e, dir)
	num := writer.leased("d")[0]
	var others []*leaser
	for range 50 {
		others = append(others, newLeaser(b, e, dir))
		others[len(others)-1].leased("d")
	}
	var slowest time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		for _, o := range others {
			do(o.env, fsproto.Getattr, fsproto.GetattrReq{Node: num})
		}
		b.StartTimer()
		began := time.Now()
		do(writer.env, fsproto.Mkdir, fsproto.MkdirReq{Parent: num, Name: fmt.Sprint(i), Mode: 0o777})
		slowest = max(slowest, time.Since(began))
		b.StopTimer()
		for _, o := range others {
			if len(o.recalledAll()) == 0 {
				b.Fatal("nothing was recalled")
			}
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(slowest), "slowest-ns")
}

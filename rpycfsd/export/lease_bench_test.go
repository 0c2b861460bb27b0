package export

import (
	"reflect"
	"runtime"
	"testing"

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
	for b.Loop() {
		do(writer.env, fsproto.Mkdir, fsproto.MkdirReq{Parent: num, Name: "x", Mode: 0o777})
		do(writer.env, fsproto.Rmdir, fsproto.UnlinkReq{Parent: num, Name: "x"})
	}
	for _, o := range others {
		if len(o.recalledAll()) == 0 {
			b.Error("nothing was recalled")
		}
	}
}

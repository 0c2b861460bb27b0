package mount

import (
	"sync/atomic"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
)

// BenchmarkNodes has the kernel told of a node, ask for it and forget it, beside
// 100 000 that it knows.
func BenchmarkNodes(b *testing.B) {
	t := newNodeTable()
	entry := func(id uint64) *fsproto.Entry {
		return &fsproto.Entry{Node: fsproto.Node(id), Stamp: id, FileHandle: make(fsproto.FileHandle, 60)}
	}
	const known = 100_000
	for i := range uint64(known) {
		t.note(entry(i+2), 1, "name")
	}
	var next atomic.Uint64
	next.Store(known + 2)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e := entry(next.Add(1))
			t.note(e, 1, "name")
			t.looked(e.Node)
			if !t.again(e.Node) {
				b.Fatal("it is not known")
			}
			if _, last := t.forget(e.Node, 2); !last {
				b.Fatal("it was not the last reference")
			}
		}
	})
}

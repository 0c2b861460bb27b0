package fsproto_test

import (
	"fmt"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// BenchmarkCodec encodes and decodes messages that a walk through a tree and a copy
// are made of.
func BenchmarkCodec(b *testing.B) {
	handle := make(fsproto.FileHandle, 60)
	attr := fsproto.Attr{Ino: 1 << 20, Mode: 0o100644, Nlink: 1, Size: 4096}
	list := &fsproto.ReaddirRes{Dir: attr}
	for i := range 100 {
		list.Entries = append(list.Entries, fsproto.Dirent{Name: fmt.Sprintf("file%04d.go", i), Cookie: uint64(i) + 1,
			Ino: uint64(i), Type: 0o100000, Known: true, Entry: fsproto.Entry{Node: fsproto.Node(i) + 2, FileHandle: handle, Attr: attr}})
	}
	for _, c := range []struct {
		name   string
		m, out rpc.Message
	}{
		{"lookup", &fsproto.LookupReq{Parent: 1, Name: "file0001.go"}, &fsproto.LookupReq{}},
		{"found", &fsproto.LookupRes{Parent: attr, Exists: true, Entry: fsproto.Entry{Node: 2, FileHandle: handle, Attr: attr}}, &fsproto.LookupRes{}},
		{"list of 100", list, &fsproto.ReaddirRes{}},
		{"write", &fsproto.WriteReq{Handle: 1, Offset: 1 << 30}, &fsproto.WriteReq{}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				var err error
				if buf, err = rpc.Encode(buf[:0], c.m); err == nil {
					err = rpc.Decode(buf, c.out)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

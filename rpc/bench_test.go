package rpc_test

import (
	"context"
	"testing"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// BenchmarkCall measures calls over a TCP connection without TLS, both sides in
// this process.
func BenchmarkCall(b *testing.B) {
	s := newService()
	session := rpctest.New(b, rpc.Config{Root: &s.mux}, rpc.Config{})
	ctx := context.Background()
	for name, op := range map[string]*rpc.Op[number, number]{"quick": opQuick, "goroutine": opEcho, "slot": opCount} {
		call := func(b *testing.B) {
			var res number
			if err := rpc.Call(ctx, session.Client, op, &number{1}, &res); err != nil || res.N != 1 {
				b.Fatal(res.N, err)
			}
		}
		b.Run(name+"/1", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				call(b)
			}
		})
		b.Run(name+"/64", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					call(b)
				}
			})
		})
	}
}

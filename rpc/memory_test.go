package rpc_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// TestIdleMemory: sessions that have made calls, small and large ones at once,
// cost next to nothing when they are idle again. Buffers, slots, goroutines that
// wait for work: whatever is made for each session shows here.
func TestIdleMemory(t *testing.T) {
	const (
		sessions = 50
		most     = 160 << 10 // of both sides together, with room for the race detector
	)
	service := newService()
	cfg := rpc.Config{Root: &service.mux, PingInterval: 10 * time.Millisecond}
	all := []*rpctest.Session{rpctest.New(t, cfg, cfg)} // the first pays for the pools
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before, goroutines := used(), runtime.NumGoroutine()
	for range sessions {
		all = append(all, rpctest.New(t, cfg, cfg))
	}
	for _, s := range all {
		done := make(chan error, 40)
		for range cap(done) {
			go func() {
				var res number
				done <- rpc.Call(t.Context(), s.Client, opEcho, &number{1}, &res)
			}()
		}
		for range cap(done) {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	// Idle workers go when pings have passed without a call; a collection halves
	// stacks and empties pools step by step.
	var growth uint64
	var each float64
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		growth = (used() - before) / sessions
		each = float64(runtime.NumGoroutine()-goroutines) / sessions
		if growth <= most && each <= 12 {
			t.Logf("%d bytes, %.1f goroutines per idle session, both sides", growth, each)
			return
		}
	}
	t.Errorf("%d bytes, %.1f goroutines per idle session", growth, each)
}

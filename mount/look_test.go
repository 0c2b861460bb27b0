package mount

import (
	"log/slog"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLook: who answers all here looks for the next request, and seldom if that is in
// vain, until one comes.
func TestLook(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2)) // alone it never looks
	fds := make([]int, 2)
	if err := unix.Pipe2(fds, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	r := &readers{fd: fds[0], log: slog.New(slog.DiscardHandler)}
	r.look()
	if r.missed.Load() != 0 {
		t.Error("it looks although requests make calls")
	}
	r.quick.Store(quickly)
	for range 1000 {
		r.look()
	}
	if got := r.missed.Load(); got != maxMissed {
		t.Errorf("passes over %d requests, want %d", got, maxMissed)
	}
	if _, err := unix.Write(fds[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	for range maxMissed + 1 {
		r.look()
	}
	if r.missed.Load() != 0 {
		t.Error("it goes on seldom looking although there are requests")
	}
}

package identity

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"
)

func BenchmarkDo(b *testing.B) {
	p := NewPool(Config{})
	defer p.Close()
	id, _ := New(1234, 1234, nil)
	b.ReportAllocs()
	f := func() { unix.Getppid() }
	for b.Loop() {
		if err := p.Do(context.Background(), id, f); err != nil {
			b.Fatal(err)
		}
	}
}

package bufconn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// TestHold: writes wait for Flush, and only then.
func TestHold(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := New(a)
	c.Hold()
	for _, s := range []string{"one ", "two"} { // a pipe would block
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- c.Flush() }()
	got := make([]byte, 7)
	if _, err := io.ReadFull(b, got); err != nil || string(got) != "one two" {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLimitReads: no byte more before Hold, no limit after, and nothing lost.
func TestLimitReads(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	data := bytes.Repeat([]byte("0123456789"), 1000)
	go func() {
		b.Write(data)
		b.Close()
	}()
	c := New(a)
	c.LimitReads(5000)
	got, err := io.ReadAll(c)
	if !errors.Is(err, ErrLimit) || !bytes.Equal(got, data[:5000]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	c.Hold()
	rest, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(rest, data[5000:]) {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
}

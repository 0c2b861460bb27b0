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

// TestBuffersOnDemand: a burst is read through a buffer, small reads after it
// give the buffer up, and no byte is lost or doubled on the way.
func TestBuffersOnDemand(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := New(a)
	c.Hold()
	write := func(data []byte) {
		t.Helper()
		go b.Write(data)
		got := make([]byte, len(data))
		for n := 0; n < len(got); {
			k, err := c.Read(got[n:min(n+500, len(got))])
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
		if !bytes.Equal(got, data) {
			t.Fatal("other bytes than were written")
		}
	}
	if write([]byte("ping")); c.r == nil { // filled all that there was room for
		t.Error("no buffer after a full read")
	}
	burst := bytes.Repeat([]byte("0123456789abcdef"), 10000)
	if write(burst); c.r == nil {
		t.Error("no buffer in a burst")
	}
	for range patience {
		write([]byte("ping"))
	}
	go b.Write([]byte("ping"))
	if n, err := c.Read(make([]byte, 500)); n != 4 || err != nil || c.r != nil {
		t.Errorf("read %d, %v; buffer kept: %t", n, err, c.r != nil)
	}
	if _, err := c.Write([]byte("x")); err != nil || c.w == nil {
		t.Errorf("write is not held: %v", err)
	}
	go io.ReadFull(b, make([]byte, 1))
	if err := c.Flush(); err != nil || c.w != nil {
		t.Errorf("flush: %v; buffer kept: %t", err, c.w != nil)
	}
}

// TestFlushFails: after a failed write nothing is written any more.
func TestFlushFails(t *testing.T) {
	a, b := net.Pipe()
	b.Close()
	c := New(a)
	c.Hold()
	c.Write([]byte("x"))
	for range 2 {
		if c.Flush() == nil {
			t.Error("flush to a closed connection succeeds")
		}
	}
	if _, err := c.Write(make([]byte, 2*Size)); err == nil {
		t.Error("write after a failed flush succeeds")
	}
}

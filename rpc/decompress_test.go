package rpc

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"
	"time"
)

func TestCompressedLimits(t *testing.T) {
	for _, f := range []struct {
		what          string
		kind          uint8
		meta, payload int
		raw           uint32
		ok            bool
	}{
		{"the largest payload of a call", kindCall, MaxRequest, MaxPayload - 1, MaxPayload, true},
		{"the largest payload of a reply", kindReply, 100, MaxPayload - 1, MaxPayload, true},
		{"the largest reply", kindReply, MaxReply - 1, 0, MaxReply, true},
		{"one byte", kindReply, 1, 0, 2, true},
		{"a payload beyond its limit", kindCall, 8, 100, MaxPayload + 1, false},
		{"a reply beyond its limit", kindReply, 100, 0, MaxReply + 1, false},
		{"a payload with a reply's limit", kindReply, 8, 100, MaxReply, false},
		{"a call without payload", kindCall, 100, 0, 200, false},
		{"nothing", kindReply, 0, 0, 1, false},
		{"no shorter", kindReply, 100, 0, 100, false},
		{"longer", kindReply, 8, 100, 99, false},
		{"everything", kindReply, 100, 0, 1<<32 - 1, false},
	} {
		b := make([]byte, headerSize, headerSize+rawSize)
		putHeader(b, f.kind, flagCompressed|flagAsk, 0, 1, f.meta, f.payload+rawSize)
		h, err := parseHeader(b, true)
		if err != nil || !h.compressed || !h.ask || h.payload() != f.payload {
			t.Fatalf("%s: %+v with payload %d, %v", f.what, h, h.payload(), err)
		}
		err = h.parseRaw(binary.LittleEndian.AppendUint32(nil, f.raw))
		if (err == nil) != f.ok {
			t.Errorf("%s: %v", f.what, err)
		}
		if _, err := parseHeader(b, false); err == nil {
			t.Errorf("%s: passes where nothing is compressed", f.what)
		}
	}
	for length := range uint32(16) {
		b := make([]byte, headerSize)
		putHeader(b, kindReply, flagCompressed, 0, 1, 0, 0)
		binary.LittleEndian.PutUint32(b, length)
		if _, err := parseHeader(b, true); err == nil {
			t.Errorf("a compressed frame of length %d passes", length)
		}
	}
	for _, kind := range []uint8{kindError, kindCancel, kindPing, kindPong} {
		for _, flag := range []uint8{flagCompressed, flagAsk} {
			b := control(kind, 1)
			b[15] = flag
			if _, err := parseHeader(b, true); err == nil {
				t.Errorf("kind %d passes with flag %#x", kind, flag)
			}
		}
	}
}

// TestDecompress: what is cut off anywhere is refused, and what gets longer than it says
// takes no memory for that.
func TestDecompress(t *testing.T) {
	data := bytes.Repeat([]byte("all work and no play "), 2000)
	packed := encoder().EncodeAll(data, nil)
	dst := make([]byte, len(data))
	if err := decompress(dst, packed); err != nil || !bytes.Equal(dst, data) {
		t.Fatal(err)
	}
	for n := range packed {
		if decompress(dst, packed[:n]) == nil {
			t.Errorf("the first %d of %d bytes pass", n, len(packed))
		}
	}
	for _, n := range []int{1, 1000, len(data) - 1} {
		room := append(make([]byte, n, len(data)+1), 0xee)
		if decompress(room[:n], packed) == nil {
			t.Errorf("%d bytes pass as %d", len(data), n)
		}
		if room[n] != 0xee {
			t.Errorf("something was written behind %d bytes", n)
		}
	}

	bomb := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58} // a window of 2 MiB
	for range 8000 {
		bomb = append(bomb, 2, 0, 0x10, 0) // a byte, 128 Ki times
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	err := decompress(make([]byte, 64<<10), bomb)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; err == nil || got > 1<<20 {
		t.Errorf("a bomb of a GiB: %v, %d bytes and %v", err, got, time.Since(start))
	}
}

// TestArrivals: whether a connection is slow is known after a megabyte, and after some more
// if it has changed; single pauses do not matter. Before, the round trip tells.
func TestArrivals(t *testing.T) {
	rtt := time.Millisecond
	c := compression{rtt: func() time.Duration { return rtt }}
	a := &c.arrivals
	step := func(times, bytes int, took time.Duration, slow bool) {
		t.Helper()
		for i := range times {
			if a.add(bytes, took); c.slow() != slow {
				t.Fatalf("slow is %t after %d times %d bytes in %v, at %d bytes/s", !slow, i+1, bytes, took, a.rate.Load())
			}
		}
	}
	const part = 64 << 10
	at := func(rate int) time.Duration { return part * time.Second / time.Duration(rate) }
	step(15, part, at(25e6), false) // too few
	for _, rtt = range []time.Duration{0, 30 * time.Millisecond} {
		if !c.slow() {
			t.Errorf("a round trip of %v, and nothing else known: not slow", rtt)
		}
	}
	rtt = time.Millisecond
	step(500, part, at(25e6), true)
	for range 60 {
		a.add(part, at(100e6))
	}
	step(100, part, at(100e6), false)
	step(1, part, 20*time.Millisecond, false)
	step(100, part, at(100e6), false)
	for range 60 {
		a.add(part, at(6e6))
	}
	step(100, part, at(6e6), true)
	step(1, 1<<20, 0, true) // what came while this process had no processor
	*a = arrivals{}
	step(1, 20<<10, 200*time.Millisecond, false)
	step(1, 20<<10, 200*time.Millisecond, true) // nobody waits for a megabyte of that
}

func FuzzCompressedHeader(f *testing.F) {
	seed := make([]byte, headerSize, headerSize+rawSize)
	putHeader(seed, kindReply, flagCompressed, 0, 1, 20, 100)
	seed = binary.LittleEndian.AppendUint32(seed, 5000)
	h, err := parseHeader(seed, true)
	if err != nil || h.parseRaw(seed[headerSize:]) != nil {
		f.Fatal("no seed")
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != headerSize+rawSize {
			return
		}
		h, err := parseHeader(b, true)
		if err != nil || h.compressed && h.parseRaw(b[headerSize:]) != nil {
			return
		}
		if h.payloadSize() < 0 || h.payloadSize() > MaxPayload || h.metaSize() > MaxReply || h.payload() > h.payloadSize() || int(h.meta) > h.metaSize() {
			t.Fatalf("%+v passes with meta %d, payload %d", h, h.metaSize(), h.payloadSize())
		}
	})
}

func FuzzDecompress(f *testing.F) {
	data := bytes.Repeat([]byte("all work and no play "), 50)
	for _, n := range []int{1, 100, len(data)} {
		packed := encoder().EncodeAll(data[:n], nil)
		if decompress(make([]byte, n), packed) != nil {
			f.Fatal("no seed")
		}
		f.Add(uint32(n), packed)
	}
	f.Fuzz(func(t *testing.T, n uint32, b []byte) {
		if n = n % MaxReply; n == 0 || int(n) <= len(b) {
			return
		}
		room := make([]byte, n+1)
		room[n] = 0xee
		_ = decompress(room[:n], b)
		if room[n] != 0xee {
			t.Fatalf("something was written behind %d bytes", n)
		}
	})
}

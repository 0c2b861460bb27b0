package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func TestHeaderLimits(t *testing.T) {
	for _, h := range []struct {
		what         string
		length, meta uint32
		method       uint16
		kind, flags  uint8
		ok           bool
	}{
		{"an empty call", 12, 0, 1, kindCall, 0, true},
		{"the largest call", 12 + MaxRequest + MaxPayload, MaxRequest, 1, kindCall, flagsEnd - 1, true},
		{"too much meta", 12 + MaxRequest + 1, MaxRequest + 1, 1, kindCall, 0, false},
		{"too much payload", 12 + MaxPayload + 1, 0, 1, kindCall, 0, false},
		{"meta beyond the frame", 12, 1, 1, kindCall, 0, false},
		{"shorter than a header", 11, 0, 1, kindCall, 0, false},
		{"no length", 0, 0, 1, kindCall, 0, false},
		{"length that wraps", 0xffffffff, 0xfffffff3, 1, kindCall, 0, false},
		{"an unknown flag", 12, 0, 1, kindCall, flagsEnd, false},
		{"the largest reply", 12 + MaxReply + MaxPayload, MaxReply, 0, kindReply, 0, true},
		{"a reply with a method", 12, 0, 1, kindReply, 0, false},
		{"a reply with flags", 12, 0, 0, kindReply, 1, false},
		{"an error with payload", 13, 0, 0, kindError, 0, false},
		{"an error beyond its limit", 12 + 17 + MaxErrorDetail, 17 + MaxErrorDetail, 0, kindError, 0, false},
		{"a ping", 12, 0, 0, kindPing, 0, true},
		{"a ping with meta", 13, 1, 0, kindPing, 0, false},
		{"kind 0", 12, 0, 0, 0, 0, false},
		{"kind 7", 12, 0, 0, 7, 0, false},
	} {
		b := make([]byte, headerSize)
		putHeader(b, h.kind, h.flags, h.method, 9, int(h.meta), 0)
		binary.LittleEndian.PutUint32(b, h.length)
		_, err := parseHeader(b, false)
		if (err == nil) != h.ok || err != nil && !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", h.what, err)
		}
	}
}

// BenchmarkHeader writes a header and reads it again.
func BenchmarkHeader(b *testing.B) {
	buf := make([]byte, headerSize)
	for b.Loop() {
		putHeader(buf, kindCall, flagSlot, 0x110, 1, 20, MaxPayload)
		if _, err := parseHeader(buf, true); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	seed := make([]byte, headerSize)
	putHeader(seed, kindCall, flagSlot, 0x110, 1, 20, 100)
	if _, err := parseHeader(seed, false); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != headerSize {
			return
		}
		h, err := parseHeader(b, false)
		if err != nil {
			return
		}
		if h.payload() < 0 || h.payload() > MaxPayload || h.meta > MaxReply {
			t.Fatalf("%+v passes with payload %d", h, h.payload())
		}
		again := make([]byte, headerSize)
		putHeader(again, h.kind, h.flags, h.method, h.tag, int(h.meta), h.payload())
		if !bytes.Equal(again, b) {
			t.Fatalf("%x encodes as %x", b, again)
		}
	})
}

func FuzzCallFields(f *testing.F) {
	full := callFields{flags: flagsEnd - 1, millis: 5, dep: Dep{1, 2}, nafter: 2, object: 7, cred: 3}
	c := Codec{}
	full.fields(&c)
	if c.err != nil || len(c.buf) == 0 {
		f.Fatal("no seed")
	}
	f.Add(uint8(flagsEnd-1), c.buf)
	f.Fuzz(func(t *testing.T, flags uint8, b []byte) {
		in := callFields{flags: flags & (flagsEnd - 1)}
		dec := Codec{buf: b, decoding: true}
		in.fields(&dec)
		if dec.finish() != nil {
			return
		}
		enc := Codec{}
		in.fields(&enc)
		if enc.err != nil || !bytes.Equal(enc.buf, b) {
			t.Fatalf("%x encodes as %x, %v", b, enc.buf, enc.err)
		}
	})
}

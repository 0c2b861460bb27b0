package rpc

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// everything has one field of each kind.
type everything struct {
	A uint8
	B uint16
	C uint32
	D uint64
	E int64
	F bool
	G uint32
	H [5]byte
	I []byte
	J string
	K []uint32
}

func (m *everything) Fields(c *Codec) {
	c.U8(&m.A)
	c.U16(&m.B)
	c.U32(&m.C)
	c.U64(&m.D)
	c.I64(&m.E)
	c.Bool(&m.F)
	c.Flags(&m.G, 0x0f)
	c.Fixed(m.H[:])
	c.Bytes(&m.I, 100)
	c.String(&m.J, 100)
	List(c, &m.K, 50, 4, (*Codec).U32)
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := everything{
			A: rapid.Uint8().Draw(t, "A"), B: rapid.Uint16().Draw(t, "B"), C: rapid.Uint32().Draw(t, "C"),
			D: rapid.Uint64().Draw(t, "D"), E: rapid.Int64().Draw(t, "E"), F: rapid.Bool().Draw(t, "F"),
			G: rapid.Uint32Range(0, 15).Draw(t, "G"),
			H: [5]byte(rapid.SliceOfN(rapid.Byte(), 5, 5).Draw(t, "H")),
			I: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "I"),
			J: string(rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "J")),
			K: rapid.SliceOfN(rapid.Uint32(), 0, 50).Draw(t, "K"),
		}
		b, err := Encode(nil, &in)
		if err != nil {
			t.Fatal(err)
		}
		var out everything
		if err := Decode(b, &out); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(in, out) {
			t.Fatalf("%+v came back as %+v", in, out)
		}
		for i := range b {
			if err := Decode(b[:i], new(everything)); err == nil {
				t.Fatalf("decodes from %d of %d bytes", i, len(b))
			}
		}
		if err := Decode(append(b, 0), new(everything)); !errors.Is(err, ErrTrailing) {
			t.Fatalf("with a byte too many: %v", err)
		}
	})
}

func TestCodecRefuses(t *testing.T) {
	for name, in := range map[string]everything{
		"flags": {G: 16}, "bytes": {I: make([]byte, 101)}, "string": {J: string(make([]byte, 101))}, "list": {K: make([]uint32, 51)},
	} {
		if _, err := Encode(nil, &in); err == nil {
			t.Errorf("%s over its limit encodes", name)
		}
	}
	b, err := Encode(nil, &everything{})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte){
		"bool 2":       func(b []byte) { b[23] = 2 },
		"flag 16":      func(b []byte) { b[24] = 16 },
		"huge bytes":   func(b []byte) { b[36] = 0xff },
		"huge string":  func(b []byte) { b[40] = 0xff },
		"huge list":    func(b []byte) { b[44] = 0xff },
		"longer list":  func(b []byte) { b[41] = 1 },
		"longer bytes": func(b []byte) { b[33] = 1 },
	} {
		c := bytes.Clone(b)
		change(c)
		if err := Decode(c, new(everything)); err == nil {
			t.Errorf("%s decodes", name)
		}
	}
}

// A count is checked against the input before anything is allocated for it.
func TestListAllocatesNothingForAForgedCount(t *testing.T) {
	b := []byte{0xff, 0xff, 0xff, 0x0f}
	got := testing.AllocsPerRun(100, func() {
		c := Codec{buf: b, decoding: true}
		var s [][64]byte
		List(&c, &s, math.MaxInt32, 64, func(c *Codec, e *[64]byte) { c.Fixed(e[:]) })
		if c.err == nil || s != nil {
			t.Fatal("a forged count decodes")
		}
	})
	if got > 1 { // the codec itself
		t.Fatalf("%v allocations", got)
	}
}

func FuzzCodec(f *testing.F) {
	b, err := Encode(nil, &everything{A: 1, I: []byte("i"), J: "j", K: []uint32{1, 2}})
	if err != nil || len(b) == 0 {
		f.Fatal("no seed")
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m everything
		if Decode(b, &m) != nil {
			return
		}
		// Whatever decodes has exactly one encoding.
		again, err := Encode(nil, &m)
		if err != nil || !bytes.Equal(b, again) {
			t.Fatalf("%x encodes as %x, %v", b, again, err)
		}
	})
}

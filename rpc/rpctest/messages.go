package rpctest

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/rpycfs/rpycfs/rpc"
)

// Sample fills a message with random values and encodes it. It returns false if
// one of the values is not allowed.
func Sample(m rpc.Message, r *rand.Rand) ([]byte, bool) {
	fill(reflect.ValueOf(m).Elem(), r)
	b, err := rpc.Encode(nil, m)
	return b, err == nil
}

func fill(v reflect.Value, r *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), r)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), r)
		}
	case reflect.Uint8:
		v.SetUint([]uint64{1, 2, 3, 1, 2, 4, 8}[r.IntN(7)])
	case reflect.Uint32:
		v.SetUint(uint64(1) << r.IntN(4))
	case reflect.Uint64:
		v.SetUint(r.Uint64())
	case reflect.Int64:
		v.SetInt(int64(r.Uint64()))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.String:
		v.SetString("name\xff"[:1+r.IntN(5)])
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 3))
		for i := range v.Len() {
			fill(v.Index(i), r)
		}
	}
}

// CheckMessage checks that samples of a message come back as they were sent, and
// that nothing which is cut short or goes on decodes.
func CheckMessage(t testing.TB, name string, empty func() rpc.Message) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	done := 0
	for range 200 {
		b, ok := Sample(empty(), r)
		if !ok {
			continue
		}
		done++
		out := empty()
		if err := rpc.Decode(b, out); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := rpc.Encode(nil, out)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%s: %x came back as %x, %v", name, b, again, err)
		}
		for i := range b {
			if rpc.Decode(b[:i], empty()) == nil {
				t.Fatalf("%s: decodes from %d of %d bytes", name, i, len(b))
			}
		}
		if rpc.Decode(append(b, 0), empty()) == nil {
			t.Fatalf("%s: decodes with a byte too many", name)
		}
	}
	if done == 0 {
		t.Errorf("%s: no sample encodes", name)
	}
}

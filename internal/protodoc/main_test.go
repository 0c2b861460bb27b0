package main

import (
	"bytes"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/rpc"
)

// TestUpToDate fails when PROTOCOL.md does not show the operations as they are.
func TestUpToDate(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := update(root, old)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(old, fresh) {
		t.Errorf("%s is out of date: run `make generate`", document)
	}
}

// TestGenerateNamesEverything checks that each operation and each message of it
// has its row or section, with the words of its comments.
func TestGenerateNamesEverything(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := generate(root, rpc.Ops())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"| SetKillPriv | 256 | with SetSize", "| ModeDir | 040000 |", "| Nsec | u32 |"} {
		if !strings.Contains(text, row) {
			t.Errorf("no row that begins with %q", row)
		}
	}
	for _, op := range rpc.Ops() {
		if !strings.Contains(text, "| "+op.Name+" | "+op.Access.String()+" |") {
			t.Errorf("no row for %s", op.Name)
		}
		for _, m := range []rpc.Message{op.NewReq(), op.NewRes()} {
			checkSection(t, text, reflect.TypeOf(m).Elem())
		}
	}
}

// checkSection wants a section for typ, with words if the type is exported.
func checkSection(t *testing.T, text string, typ reflect.Type) {
	want := "\n#### " + typ.Name() + "\n\n"
	if typ.NumField() == 0 {
		return
	}
	if token.IsExported(typ.Name()) {
		want += typ.Name() + " "
	}
	if !strings.Contains(text, want) {
		t.Errorf("no section, or one without a comment, for %s", typ.Name())
	}
}

func TestUpdateNeedsMarkers(t *testing.T) {
	for _, doc := range []string{"", begin, end, end + begin} {
		if _, err := update(".", []byte(doc)); err == nil {
			t.Errorf("update(%q) gave no error", doc)
		}
	}
}

// TestStructOrderIsWireOrder changes the fields of every message one by one:
// each must first change the encoding further to the right than the one before.
// The table shows fields in struct order; this is why it may.
func TestStructOrderIsWireOrder(t *testing.T) {
	checked := make(map[reflect.Type]bool)
	for _, op := range rpc.Ops() {
		for _, m := range []rpc.Message{op.NewReq(), op.NewRes()} {
			if typ := reflect.TypeOf(m).Elem(); !checked[typ] {
				checked[typ] = true
				checkOrder(t, typ)
			}
		}
	}
	if len(checked) < 20 {
		t.Errorf("only %d messages checked", len(checked))
	}
}

func checkOrder(t *testing.T, typ reflect.Type) {
	base := encode(t, sample(typ))
	last := -1
	for i := range typ.NumField() {
		m := sample(typ)
		alter(m.Elem().Field(i))
		at := firstDifference(base, encode(t, m))
		if at <= last {
			t.Errorf("%s.%s: first differs at byte %d of the encoding, the field before it at %d (-1: not on the wire)",
				typ.Name(), typ.Field(i).Name, at, last)
		}
		last = at
	}
}

// encode encodes a message whose values may break rules of the protocol; the
// bytes are there all the same.
func encode(t *testing.T, m reflect.Value) []byte {
	b, err := rpc.Encode(nil, m.Interface().(rpc.Message))
	if err != nil {
		t.Logf("%s: %v", m.Type(), err)
	}
	return b
}

// sample returns a pointer to a message in which every optional part is present
// and every list has one element.
func sample(typ reflect.Type) reflect.Value {
	m := reflect.New(typ)
	fill(m.Elem())
	return m
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("n")
	case reflect.Uint64:
		v.SetUint(8) // a node that is present
	}
}

// alter changes v so that its own encoding begins to differ in its first byte,
// or in the first byte after its length.
func alter(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		alter(v.Field(0))
	case reflect.Slice:
		alter(v.Index(0))
	case reflect.Array:
		alter(v.Index(0))
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.String:
		v.SetString("o")
	case reflect.Int64:
		v.SetInt(v.Int() + 1)
	default:
		v.SetUint(v.Uint() ^ 1)
	}
}

// firstDifference returns the first index at which a and b differ, or -1.
func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

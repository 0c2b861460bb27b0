package fsproto

import (
	"bytes"
	"compress/flate"
	"fmt"
	"reflect"
	"testing"
)

// TestTreePack: packed directories are the same ones and much shorter, and what is no such
// thing is refused.
func TestTreePack(t *testing.T) {
	var res, want TreeRes
	for i := range 100 {
		d := TreeDir{Node: Node(i), End: true, Dir: Attr{Mode: ModeDir, Size: 4096}}
		for j := range 10 {
			d.Entries = append(d.Entries, Dirent{Name: fmt.Sprint("name", j), Cookie: uint64(j + 1), Known: true,
				Entry: Entry{Node: Node(i*100 + j), Attr: Attr{Mode: ModeRegular, Size: uint64(i)}}})
		}
		res.Dirs, want.Dirs = append(res.Dirs, d), append(want.Dirs, d)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(want.Unpack()) // nothing is to be done
	must(res.Pack())
	if n := len(res.Packed); n == 0 || n > 40_000 || res.Dirs != nil {
		t.Errorf("%d bytes, %d directories", n, len(res.Dirs))
	}
	good := bytes.Clone(res.Packed)
	must(res.Unpack())
	for i := range res.Dirs {
		for j := range res.Dirs[i].Entries {
			if h := &res.Dirs[i].Entries[j].Entry.FileHandle; len(*h) == 0 {
				*h = nil
			}
		}
	}
	if !reflect.DeepEqual(res.Dirs, want.Dirs) {
		t.Error("something else is unpacked")
	}

	deflate := func(plain []byte) []byte {
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, flate.BestSpeed)
		must(err)
		w.Write(plain)
		must(w.Close())
		return b.Bytes()
	}
	for name, m := range map[string]TreeRes{
		"no DEFLATE":   {Packed: []byte("no such thing")},
		"cut off":      {Packed: good[:len(good)/2]},
		"more behind":  {Packed: append(bytes.Clone(good), 0)},
		"both":         {Packed: good, Dirs: want.Dirs},
		"too long":     {Packed: deflate(make([]byte, MaxTreeData+1))},
		"no message":   {Packed: deflate([]byte{1})},
		"packed twice": {Packed: deflate([]byte{0, 0, 0, 0, 1, 0, 0, 0, 7})},
	} {
		if err := m.Unpack(); err == nil {
			t.Errorf("%s: it is unpacked", name)
		}
	}
}

package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestLoads runs every workload on a plain directory.
func TestLoads(t *testing.T) {
	l := &loads{backing: t.TempDir(), size: 3*mib + page, reads: 20, small: 10, dirs: 2, filesInDir: 3}
	if err := l.prepare(); err != nil {
		t.Fatal(err)
	}
	for _, load := range l.all() {
		if err := load.before(); err != nil {
			t.Fatalf("%s: %v", load.name, err)
		}
		units, err := load.run(l.backing)
		if err == nil {
			err = load.after()
		}
		if err != nil || units <= 0 {
			t.Errorf("%s: %v units, %v", load.name, units, err)
		}
	}
	for _, target := range targets() {
		if target.Least < 1 && target.Base != peerLocal {
			t.Errorf("%s: target %v", target.Row, target.Least)
		}
	}
}

// TestDamage damages what was written in ways that a file system might, and
// wants each to be found.
func TestDamage(t *testing.T) {
	const size = 2 * mib
	for _, c := range []struct {
		name   string
		damage func(*os.File) error
	}{
		{"a bit", func(f *os.File) error { return flip(f, mib+12345) }},
		{"a page of zeros", func(f *os.File) error { _, err := f.WriteAt(make([]byte, page), 64*page); return err }},
		{"a page in another's place", func(f *os.File) error {
			buf := make([]byte, page)
			fill(buf, bigSeed, 0)
			_, err := f.WriteAt(buf, page)
			return err
		}},
		{"too short", func(f *os.File) error { return f.Truncate(size - word) }},
		{"too long", func(f *os.File) error { return f.Truncate(size + word) }},
	} {
		name := filepath.Join(t.TempDir(), "file")
		if err := writeFile(name, bigSeed, size); err != nil {
			t.Fatal(err)
		}
		if err := checkFile(name, bigSeed, size, word); err != nil {
			t.Fatalf("undamaged: %v", err)
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.damage(f), f.Close()); err != nil {
			t.Fatal(err)
		}
		if checkFile(name, bigSeed, size, word) == nil {
			t.Errorf("%s: not found", c.name)
		}
	}
}

func flip(f *os.File, off int64) error {
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return err
	}
	b[0] ^= 1
	_, err := f.WriteAt(b[:], off)
	return err
}

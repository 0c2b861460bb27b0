package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestLoads runs every workload on a plain directory, whole and in part.
func TestLoads(t *testing.T) {
	source := t.TempDir()
	for i := range 40 {
		if err := write(filepath.Join(source, fmt.Sprintf("dir%d/file%d", i%7, i)), fmt.Sprintf("a TODO of %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("dir0", filepath.Join(source, "link")); err != nil {
		t.Fatal(err)
	}
	size := sizes{bytes: 3*mib + page, reads: 20, small: 20, listed: 30, files: 100, modules: 4, inserts: 6, seed: 7, source: source}
	backing, away := t.TempDir(), t.TempDir()
	full := &loads{sizes: size, name: "full", backing: backing, away: filepath.Join(away, "full")}
	part := &loads{sizes: size.part(2), name: "part", backing: backing, away: filepath.Join(away, "part")}
	part.files = 20
	for _, l := range []*loads{full, part} {
		if err := l.prepare(); err != nil {
			t.Fatal(err)
		}
		for _, load := range l.all(full) {
			if err := load.once(backing); err != nil {
				t.Errorf("%s, %s: %v", l.name, load.name, err)
			}
			if wanted := l == full || load.byBytes(); wanted != (load.whole == 1) {
				t.Errorf("%s, %s: %v times this are the whole", l.name, load.name, load.whole)
			}
		}
	}
	if n := len(full.tree.entries); n != 41 {
		t.Errorf("the tree has %d files, want 41", n)
	}
	if n := len(part.tree.entries); n != 20 {
		t.Errorf("the part has %d files, want 20", n)
	}
}

func (l *load) once(mnt string) error {
	if l.before != nil {
		if err := l.before(); err != nil {
			return err
		}
	}
	units, err := l.run(mnt)
	if err == nil && units <= 0 {
		err = fmt.Errorf("%v units", units)
	}
	if err == nil && l.after != nil {
		err = l.after()
	}
	return err
}

// TestTreeDamage changes a tree in ways that a file system might, and wants each to
// be found.
func TestTreeDamage(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"none":      func(string) error { return nil },
		"content":   func(dir string) error { return write(filepath.Join(dir, "a/one"), "onf") },
		"lost":      func(dir string) error { return os.Remove(filepath.Join(dir, "a/one")) },
		"more":      func(dir string) error { return write(filepath.Join(dir, "a/two"), "") },
		"elsewhere": func(dir string) error { return os.Rename(filepath.Join(dir, "a/one"), filepath.Join(dir, "one")) },
		"link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "link")), os.Symlink("b", filepath.Join(dir, "link")))
		},
	} {
		dir := t.TempDir()
		if err := errors.Join(write(filepath.Join(dir, "a/one"), "one"), os.Symlink("a", filepath.Join(dir, "link"))); err != nil {
			t.Fatal(err)
		}
		whole, err := scan(dir)
		if err == nil {
			err = damage(dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		if found := whole.same(dir) != nil; found != (name != "none") {
			t.Errorf("%s: found is %v", name, found)
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

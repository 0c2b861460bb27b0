package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestRoundTrips counts what DESIGN.md says, row by row: how often what a program does
// waits for the server. A request of the kernel that makes a call waits for it once, and
// this one program waits for one request after the other; releases and forgets nobody
// waits for.
func TestRoundTrips(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve()
	p := newProxy(t, w.port, false)
	w.mountAt(p.port, "/", w.mnt)
	dir := w.path("dir")
	must(t, os.Mkdir(dir, 0o755))
	for _, name := range []string{"cached", "old", "log", "gone", "from", "path"} {
		must(t, os.WriteFile(filepath.Join(dir, name), pattern(5000), 0o644))
	}
	must(t, os.Mkdir(filepath.Join(dir, "gone.d"), 0o755))
	p.delay.Store(int64(5 * time.Millisecond))
	at := func(name string) string { return filepath.Join(dir, name) }
	writes := func(name string, flags, size, n int, more func(f *os.File) error) error {
		f, err := os.OpenFile(at(name), flags|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		for range n {
			_, e := f.Write(pattern(size))
			err = errors.Join(err, e)
		}
		if more != nil {
			err = errors.Join(err, more(f))
		}
		return errors.Join(err, f.Close())
	}
	looks := func() error {
		_, err := os.ReadFile(at("cached"))
		_, errStat := os.Stat(at("cached"))
		_, errList := os.ReadDir(dir)
		return errors.Join(err, errStat, errList)
	}
	must(t, looks())
	must(t, looks())
	const made = os.O_CREATE | os.O_EXCL
	operations := map[string]func() error{
		"look at, list, open, read and close what is cached": looks,
		"look for a name that is not there, in a directory made from here": func() error {
			if _, err := os.Stat(at("nothing")); !errors.Is(err, os.ErrNotExist) {
				return errors.New("there is one")
			}
			return nil
		},
		"make a directory":                        func() error { return os.Mkdir(at("d"), 0o755) },
		"make a symbolic link":                    func() error { return os.Symlink("to", at("symlink")) },
		"rename":                                  func() error { return os.Rename(at("from"), at("to")) },
		"remove a file":                           func() error { return os.Remove(at("gone")) },
		"set mode, owner or times by a path":      func() error { return os.Chmod(at("path"), 0o600) },
		"make a file and close it":                func() error { return writes("empty", made, 0, 0, nil) },
		"make a file, write it and close it":      func() error { return writes("one", made, 4096, 1, nil) },
		"the same with many writes":               func() error { return writes("many", made, 64<<10, 40, nil) },
		"write to an existing file and close it":  func() error { return writes("old", 0, 3000, 3, nil) },
		"append to an existing file and close it": func() error { return writes("log", os.O_APPEND, 3000, 1, nil) },
		"make a file, write it, fsync and close it": func() error {
			return writes("synced", made, 4096, 2, (*os.File).Sync)
		},
		"make a file, write it, set owner, mode and times, and close it": func() error {
			return writes("unpacked", made, 4096, 2, func(f *os.File) error {
				then := time.Unix(1e9, 0)
				return errors.Join(f.Chown(os.Getuid(), os.Getgid()), f.Chmod(0o640), os.Chtimes(f.Name(), then, then))
			})
		},
	}
	table := roundTrips(t)
	for name := range table {
		if operations[name] == nil {
			t.Errorf("DESIGN.md tells of %q, which nobody counts", name)
		}
	}
	for name, do := range operations {
		want, told := table[name]
		if !told {
			t.Errorf("DESIGN.md does not tell of %q", name)
		}
		must(t, looks()) // the one before may have changed the directory
		must(t, looks())
		before := w.waits()
		must(t, do())
		after := w.waits()
		got := 0
		for kind, n := range after {
			got += n - before[kind]
		}
		if got > want { // an answer may have been faster than the close that would wait for it
			t.Errorf("%s: %d round trips, and not %d: %v before, %v after", name, got, want, before, after)
		}
	}
}

// waits returns how many requests have waited for the server, by kind.
func (w *world) waits() map[string]int {
	w.t.Helper()
	var s struct {
		Requests map[string]struct{ Count, Here int }
	}
	must(w.t, json.Unmarshal([]byte(w.run(w.command("rpycfs", "status", "--json", w.mnt))), &s))
	waits := make(map[string]int)
	for kind, n := range s.Requests {
		switch kind {
		case "release", "releasedir", "forget":
		default:
			waits[kind] = n.Count - n.Here
		}
	}
	return waits
}

// roundTrips reads the table of DESIGN.md.
func roundTrips(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile("../DESIGN.md")
	must(t, err)
	_, rows, found := strings.Cut(string(text), "| what a program does | round trips |\n|---|---|\n")
	if !found {
		t.Fatal("DESIGN.md has no table of round trips")
	}
	table := make(map[string]int)
	for row := range strings.Lines(rows) {
		cells := strings.Split(strings.TrimSpace(row), "|")
		if len(cells) < 4 {
			break
		}
		n, err := strconv.Atoi(strings.TrimSpace(cells[2]))
		must(t, err)
		table[strings.TrimSpace(cells[1])] = n
	}
	return table
}

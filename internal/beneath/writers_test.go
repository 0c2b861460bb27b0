package beneath

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHasWriters(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	p, err := root.Walk("f")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	check := func(what string, want bool) {
		t.Helper()
		if got, err := p.HasWriters(); got != want || err != nil {
			t.Errorf("%s: %t, %v", what, got, err)
		}
	}
	check("nobody", false)
	r, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	check("a reader", false)
	w, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	check("a writer", true)
	mem, err := unix.Mmap(int(w.Fd()), 0, 1, unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	check("a mapping", true)
	if err := unix.Munmap(mem); err != nil {
		t.Fatal(err)
	}
	check("nobody any longer", false)
	if again, err := os.OpenFile(name, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
		t.Errorf("a lease was left: %v", err)
	} else {
		again.Close()
	}
}

// An open for writing is not refused because HasWriters is asking.
func TestHasWritersIsInNobodysWay(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	p, err := root.Walk("f")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	done := make(chan struct{})
	asked := make(chan error, 1)
	go func() {
		for {
			select {
			case <-done:
				asked <- nil
				return
			default:
			}
			if _, err := p.HasWriters(); err != nil {
				asked <- err
				return
			}
		}
	}()
	for range 2000 {
		f, err := p.Open(unix.O_WRONLY)
		if err != nil {
			t.Errorf("open: %v", err)
			break
		}
		f.Close()
	}
	close(done)
	if err := <-asked; err != nil {
		t.Error(err)
	}
}

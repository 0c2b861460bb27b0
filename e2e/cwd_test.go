package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// twoMounts is a world with a mount, and with another one of the same export.
func twoMounts(t *testing.T) (w *world, other string) {
	t.Helper()
	needFUSE(t)
	w = newWorld(t)
	w.serve()
	w.mount("/")
	other = w.mnt + "2"
	must(t, os.Mkdir(other, 0o755))
	w.mountAt(w.port, "/", other)
	return w, other
}

// TestWorkingDirectory: a process keeps the path of its working directory when the server
// calls back for its name, which is what getcwd(2) is about.
func TestWorkingDirectory(t *testing.T) {
	w, other := twoMounts(t)

	dir := w.path("work")
	must(t, os.Mkdir(dir, 0o755))
	program := w.command("cat")
	program.Dir = dir
	input, err := program.StdinPipe()
	must(t, err)
	must(t, program.Start())
	defer func() { must(t, errors.Join(input.Close(), program.Wait())) }()
	for name, elsewhere := range map[string]string{"client": other, "program on the server": w.export} {
		keeps := func() bool {
			_, err := os.Stat(dir) // it is known now where it is
			must(t, err)
			time.Sleep(1100 * time.Millisecond) // an answer counts as being on its way for a second
			recalls := w.status().Recalls
			must(t, os.Rename(filepath.Join(elsewhere, "work"), filepath.Join(elsewhere, "away")))
			must(t, os.Rename(filepath.Join(elsewhere, "away"), filepath.Join(elsewhere, "work")))
			if !eventually(patience, func() bool { return w.status().Recalls > recalls }) {
				t.Fatalf("another %s: the server does not call back", name)
			}
			path, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", program.Process.Pid))
			must(t, err)
			return path == dir
		}
		kept := false
		for try := 0; try < 3 && !kept; try++ { // a notification may wait too long for this machine
			kept = keeps()
		}
		if !kept {
			t.Errorf("another %s has renamed it and back: it has no path", name)
		}
	}
	must(t, os.Rename(filepath.Join(other, "work"), filepath.Join(other, "away")))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("where it was: %v", err)
	}
	if _, err := os.Stat(w.path("away")); err != nil {
		t.Errorf("where it is: %v", err)
	}
}

// TestContended: others' changes of a directory do not make the kernel look up all names
// anew while programs here rename files in it: whose working directory is meant by one of
// them has no path meanwhile.
func TestContended(t *testing.T) {
	w, other := twoMounts(t)

	must(t, os.WriteFile(w.path("0"), nil, 0o644))
	quit, renamed := make(chan struct{}), make(chan error)
	go func() {
		for i := 0; ; i = 1 - i {
			select {
			case <-quit:
				renamed <- nil
				return
			default:
			}
			if err := os.Rename(w.path(fmt.Sprint(i)), w.path(fmt.Sprint(1-i))); err != nil {
				renamed <- err
				return
			}
		}
	}()
	const changes = 200
	before := w.status()
	for range changes {
		name := filepath.Join(other, "file")
		must(t, os.WriteFile(name, nil, 0o644))
		must(t, os.Remove(name))
	}
	after := w.status()
	close(quit)
	must(t, <-renamed)
	recalls := after.Recalls - before.Recalls
	epochs := after.Epochs - before.Epochs
	t.Logf("%d changes, %d recalls, all names looked up anew %d times", 2*changes, recalls, epochs)
	if epochs > changes/10 {
		t.Errorf("all names were looked up anew %d times", epochs)
	}
}

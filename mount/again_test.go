package mount_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/rpycfs/rpycfs/mount"
)

// TestAgain runs programs that look at a tree once more, and wants no call to be made.
func TestAgain(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	for d := range 3 {
		w.ok(os.Mkdir(fmt.Sprintf("%s/dir%d", w.export, d), 0o755))
		for f := range 30 {
			w.ok(os.WriteFile(fmt.Sprintf("%s/dir%d/file%d", w.export, d, f), []byte("some text"), 0o644))
		}
		w.ok(os.Symlink("file1", fmt.Sprintf("%s/dir%d/link", w.export, d)))
	}
	w.mount("/")
	for _, look := range []string{"find .", "ls -lR .", "grep -r nothing . || true"} {
		var calls map[string]mount.CallStatus
		for tries := 0; tries == 0 || len(calls) > 0; tries++ {
			if tries == 6 { // closes of the time before may still be counted
				t.Fatalf("%s, for the sixth time: calls %v", look, calls)
			}
			before := w.calls()
			cmd := exec.Command("sh", "-c", look)
			cmd.Dir = w.point
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", look, err, out)
			}
			calls = w.calls()
			for op, n := range calls {
				if n.Count == before[op].Count || op == "forget" || op == "ping" {
					delete(calls, op)
				}
			}
		}
	}
}

// TestNoOpenDir: where every directory can be opened, the kernel asks for that once.
// Elsewhere, opening is where the right to list is asked for.
func TestNoOpenDir(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	for d := range 5 {
		w.ok(os.Mkdir(fmt.Sprintf("%s/dir%d", w.export, d), 0o755))
	}
	w.mount("/")
	for range 2 {
		if out, err := exec.Command("find", w.point).CombinedOutput(); err != nil {
			t.Fatalf("find: %v\n%s", err, out)
		}
	}
	opened, root := w.status().Requests["opendir"].Count, os.Geteuid() == 0
	if root && opened > 1 || !root && opened < 12 {
		t.Errorf("%d directories were opened, root is %t", opened, root)
	}
}

// calls returns what rpycfs status tells of calls.
func (w *world) calls() map[string]mount.CallStatus {
	w.Helper()
	return w.status().Calls
}

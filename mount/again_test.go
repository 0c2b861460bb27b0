package mount_test

import (
	"encoding/json"
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

// calls returns what rpycfs status tells of calls.
func (w *world) calls() map[string]mount.CallStatus {
	w.Helper()
	r := w.run(nil, "rpycfs", "status", "--json", w.point)
	var status mount.Status
	if err := json.Unmarshal([]byte(r.stdout), &status); r.code != 0 || err != nil {
		w.Fatalf("rpycfs status: code %d, %v, %s", r.code, err, r.stderr)
	}
	return status.Calls
}

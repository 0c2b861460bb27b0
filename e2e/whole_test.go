package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestWholeDirectory: of a directory in which names are looked for in vain, the mount
// soon knows all, and asks no more; what others make there is seen all the same.
func TestWholeDirectory(t *testing.T) {
	d := newDelaying(t)
	must(t, os.Mkdir(filepath.Join(d.export, "there"), 0o755))
	must(t, os.WriteFile(filepath.Join(d.export, "there", "old"), nil, 0o644))
	must(t, os.Mkdir(d.path("here"), 0o755))
	for _, dir := range []string{"there", "here"} {
		n := 0
		missing := func() {
			t.Helper()
			n++
			if _, err := os.Stat(d.path(fmt.Sprintf("%s/none%d", dir, n))); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
		known := func() bool {
			before := d.waits()["lookup"]
			missing()
			return d.waits()["lookup"] == before
		}
		if !eventually(patience, known) {
			t.Errorf("%s: each name that is not there is asked for", dir)
		}
		must(t, os.WriteFile(d.path(dir+"/own"), nil, 0o644))
		must(t, os.Rename(d.path(dir+"/own"), d.path(dir+"/moved")))
		must(t, os.WriteFile(filepath.Join(d.other, dir, "others"), nil, 0o644))
		for _, name := range []string{"moved", "others"} {
			if _, err := os.Stat(d.path(dir + "/" + name)); err != nil {
				t.Error(err)
			}
		}
		must(t, os.WriteFile(filepath.Join(d.export, dir, "programs"), nil, 0o644))
		if !eventually(patience, func() bool { return exists(d.path(dir + "/programs")) }) {
			t.Error(dir, "what a program on the server has made is not seen")
		}
		must(t, os.Rename(d.path(dir), d.path(dir+"~")))
		must(t, os.WriteFile(filepath.Join(d.other, dir+"~", "again"), nil, 0o644))
		if _, err := os.Stat(d.path(dir + "~/again")); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(d.path("there~/old")); err != nil {
		t.Error(err)
	}
}

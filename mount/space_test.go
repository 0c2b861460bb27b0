package mount_test

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"
)

// TestSpaceOfRemoved fills a small disk, removes the file, and has its space: as on
// a local disk, although the kernel tells of files that are closed and forgotten
// without waiting. On a busy machine that may come later than a mount waits for it,
// once in some hundred times; a mount that does not wait is late one time in five.
func TestSpaceOfRemoved(t *testing.T) {
	if !asRoot(t) {
		return
	}
	w := emptyWorld(t)
	w.ok(syscall.Mount("none", w.export, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { w.ok(syscall.Unmount(w.export, 0)) })
	w.startDaemon()
	w.mount("/")
	late := 0
	for range 20 {
		w.fillDisk()
		w.ok(os.Remove(w.point + "/file"))
		if err := os.WriteFile(w.point+"/file", bytes.Repeat([]byte("x"), 64<<10), 0o644); err != nil {
			t.Log(err)
			late++
		}
	}
	if late > 1 {
		t.Errorf("the space of a removed file came too late in %d of 20 times", late)
	}
}

// fillDisk writes until there is no more space.
func (w *world) fillDisk() {
	w.Helper()
	f, err := os.Create(w.point + "/file")
	w.ok(err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		w.Fatal(err)
	}
}

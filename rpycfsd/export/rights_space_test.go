package export

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/identity"
)

// smallDisk mounts a new ext4 of 32 MiB, of which root has the last half, and
// returns its directory.
func smallDisk(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("no loop devices: a disk with reserved blocks cannot be had here")
	}
	dir := t.TempDir()
	image, disk := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 32<<20))
	must(t, os.Mkdir(disk, 0o755))
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	}
	run("mkfs.ext4", "-q", "-m", "50", "-O", "^has_journal", image)
	run("mount", "-o", "loop", image, disk)
	t.Cleanup(func() { run("umount", disk) })
	must(t, os.Chmod(disk, 0o777))
	return disk
}

// fill writes a file until there is no more space, and returns how much was
// written, in MiB.
func (v *env) fill(name string) int {
	v.t.Helper()
	_, h := v.create(name, fsproto.OpenWrite)
	defer v.release(h)
	block := strings.Repeat("x", fsproto.MaxData)
	for n := 0; ; n++ {
		switch res, err := v.write(fsproto.WriteReq{Handle: h, Offset: uint64(n) << 20}, block); {
		case errors.Is(err, syscall.ENOSPC), err == nil && res.Count < fsproto.MaxData:
			return n
		case err != nil:
			v.t.Fatal(err)
		}
	}
}

// TestReservedSpace: the blocks that are root's are nobody else's, whatever the
// daemon's own rights are. Quota goes by the same capability.
func TestReservedSpace(t *testing.T) {
	needRoot(t)
	disk := smallDisk(t)
	id, err := identity.New(alice, alice, nil)
	must(t, err)
	for _, c := range []struct {
		name    string
		runAs   uint8
		id      Identity
		uid     uint32
		reserve bool // may be used
	}{
		{"daemon", fsproto.RunAsDaemon, Identity{}, 0, true},
		{"account", fsproto.RunAsAccount, Identity{Account: id}, 0, false},
		{"caller", fsproto.RunAsCaller, Identity{NoRootSquash: true}, alice, false},
		{"squashed root", fsproto.RunAsCaller, Identity{}, 0, false},
		{"root", fsproto.RunAsCaller, Identity{NoRootSquash: true}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.id.RunAs = c.runAs
			v := newEnv(t, Config{Path: disk, RunAs: c.runAs}, c.id, nil)
			n := v.as(c.uid).fill("file")
			if c.reserve && n < 24 || !c.reserve && n > 16 || n < 8 {
				t.Errorf("%d MiB could be written", n)
			}
			must(t, os.Remove(filepath.Join(disk, "file")))
		})
	}
}

// TestSpaceOfForgotten: a file that has lost its name keeps no space from who wants
// it, though the session has not forgotten it.
func TestSpaceOfForgotten(t *testing.T) {
	needRoot(t)
	v := newEnv(t, Config{Path: smallDisk(t)}, Identity{}, nil)
	n := v.fill("file")
	do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: fsproto.RootNode, Name: "file"})
	if again := v.fill("again"); again < n-1 {
		t.Errorf("%d MiB could be written, after the file is removed %d", n, again)
	}
}

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/mount"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
	"github.com/rpycfs/rpycfs/rpycfsd/export"
)

// TestMoreFilesThanNodes walks trees of many more files than the daemon knows
// nodes for one session: listings give names where they must, and the kernel is
// made to forget what it does not use, so that every file is found.
func TestMoreFilesThanNodes(t *testing.T) {
	if os.Getenv("RPYCFS_SKIP_FUSE") == "1" {
		t.Log("RPYCFS_SKIP_FUSE is set: nothing was mounted")
		return
	}
	const limit, dirs, files = 300, 3, 400
	dir, point := t.TempDir(), t.TempDir()
	for d := range dirs {
		sub := fmt.Sprintf("%s/d%d", dir, d)
		noErr(t, os.Mkdir(sub, 0o755))
		for f := range files {
			noErr(t, os.WriteFile(fmt.Sprintf("%s/f%d", sub, f), []byte("x"), 0o644))
		}
	}
	mountInProcess(t, dir, point, limit)
	for _, c := range []struct {
		command string
		want    int
	}{
		{"ls -f d0 | wc -l", files + 2},
		{"find . -type f | wc -l", dirs * files},
		{"find . -size 1c | wc -l", dirs * files},
		{"ls -lR . | grep -c ^-", dirs * files},
		{"for d in d0 d1 d2; do for f in $d/f*; do test -s $f && echo; done; done | wc -l", dirs * files},
		{"cat d?/f* | wc -c", dirs * files},
		{"mkdir d0/new && rmdir d0/new && echo 1", 1},
	} {
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "cd "+point+" && "+c.command)
		out, err := cmd.CombinedOutput()
		stop()
		if got := strings.TrimSpace(string(out)); err != nil || got != fmt.Sprint(c.want) {
			t.Errorf("%s: %.300q, %v; want %d", c.command, got, err, c.want)
		}
	}
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mountInProcess mounts dir at point with a daemon's export and a mount in this
// process. Only other processes may look at the mount: not even the directory of
// a new one may be set to it, because this process stands still until that is
// done.
func mountInProcess(t *testing.T, dir, point string, maxNodes int) {
	t.Helper()
	e, err := export.Open(export.Config{Path: dir, MaxNodes: maxNodes})
	noErr(t, err)
	s, err := e.NewSession(export.Identity{})
	noErr(t, err)
	var mux rpc.Mux
	s.Register(&mux)
	_, peer := rpctest.Pair(t, &mux, nil)
	fs, err := mount.Attach(t.Context(), peer, mount.Config{Source: "test", Fusermount: os.Geteuid() != 0})
	noErr(t, err)
	m, err := mount.Mount(fs, point)
	noErr(t, err)
	served := make(chan struct{})
	go func() {
		m.Serve()
		close(served)
	}()
	t.Cleanup(func() {
		if err := m.Unmount(false); err != nil {
			t.Error(err)
			m.Unmount(true)
		}
		<-served
		s.Close()
		noErr(t, e.Close())
	})
}

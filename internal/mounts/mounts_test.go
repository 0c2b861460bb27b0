package mounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const table = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:39 / /mnt/a\040b rw,nosuid,nodev - fuse.rpycfs host:/x rw,user_id=1000,group_id=0
41 22 0:40 / /mnt/two rw shared:3 master:1 - fuse.rpycfs host:/y rw
42 22 0:41 / /mnt/two rw - fuse.rpycfs host:/y rw
43 22 0:42 / /mnt/other rw - tmpfs tmpfs rw
`

func TestParse(t *testing.T) {
	list, err := parse(strings.NewReader(table))
	if err != nil || len(list) != 5 {
		t.Fatalf("%v, %v", list, err)
	}
	if want := (Mount{"0:39", "/mnt/a b", FSType, "host:/x", 1000}); !reflect.DeepEqual(list[1], want) {
		t.Errorf("%+v, want %+v", list[1], want)
	}
	for _, line := range []string{"x\n", "1 2 3:4 / /p rw shared:1 ext4 dev\n", "1 2 3:4 / /p rw - ext4\n"} {
		if list, err := parse(strings.NewReader(line)); err == nil {
			t.Errorf("%q: %v", line, list)
		}
	}
}

func TestFind(t *testing.T) {
	list, _ := parse(strings.NewReader(table))
	for target, dev := range map[string]string{"/mnt/a b": "0:39", "/mnt/two": "0:41", "host:/x": "0:39"} {
		if m, err := find(list, target, []string{target}); err != nil || m.Dev != dev {
			t.Errorf("%s: %+v, %v; want %s", target, m, err, dev)
		}
	}
	for _, target := range []string{"/mnt/other", "/none", "host:/none"} {
		if m, err := find(list, target, []string{target}); !errors.Is(err, ErrNotMounted) {
			t.Errorf("%s: %+v, %v", target, m, err)
		}
	}
	if m, err := find(list, "host:/y", []string{"host:/y"}); err == nil {
		t.Errorf("a source mounted twice: %+v", m)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{table, `1 2 3:4 / /\1 rw - a b` + "\n", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parse(strings.NewReader(s))
		if err == nil && len(list) > strings.Count(s, "\n")+1 {
			t.Errorf("%d mounts in %q", len(list), s)
		}
	})
}

// TestServer follows a process through its record, from its start to its end.
func TestServer(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, err := startTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "0:1")
	record := func(pid int, start uint64, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, fmt.Appendf(nil, "%d %d\n", pid, start), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	record(cmd.Process.Pid, start+1, 0o600)
	if _, err := open(path); !errors.Is(err, ErrNoProcess) {
		t.Errorf("another start time: %v", err)
	}
	record(cmd.Process.Pid, start, 0o666)
	if _, err := open(path); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a record that others can write: %v", err)
	}
	record(cmd.Process.Pid, start, 0o600)
	p, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a process that runs: %v", err)
	}
	stdin.Close()
	if err := p.Wait(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := open(path); !errors.Is(err, ErrNoProcess) {
		t.Errorf("a process that nobody has asked for its end: %v", err)
	}
	cmd.Wait()
	if _, err := open(path); !errors.Is(err, ErrNoProcess) {
		t.Errorf("a process that has ended: %v", err)
	}
}

func TestRecord(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	remove, err := Record("999:999")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Server("999:999")
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	remove()
	if _, err := Server("999:999"); !errors.Is(err, ErrNoProcess) {
		t.Errorf("after removal: %v", err)
	}
}

// TestSpellings: symbolic links are followed up to a mount of ours and never
// within: what lies there is not looked at.
func TestSpellings(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"real/mnt/sub", "real/plain"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"link": "real/mnt", "up": "real/../link", "abs": dir + "/link", "loop": "loop", "real/mnt/inside": "../plain"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(filepath.Join(dir, "real"))
	list := []Mount{{Dev: "0:1", Point: dir + "/real/mnt", Type: FSType}}
	for target, want := range map[string]string{
		dir + "/real/mnt": "real/mnt", dir + "/link": "real/mnt", dir + "/up": "real/mnt", dir + "/abs/": "real/mnt",
		"mnt": "real/mnt", "./mnt/.": "real/mnt", "../link": "real/mnt", ".": "real", "missing": "real/missing",
		dir + "/link/inside": "", dir + "/real/mnt/sub": "", dir + "/loop": "",
	} {
		got := spellings(list, target)
		if want == "" && len(got) == 1 {
			continue
		}
		if want == "" || len(got) != 2 || got[1] != filepath.Join(dir, want) {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
	if _, err := find(list, "mnt", spellings(list, "mnt")); err != nil {
		t.Error(err)
	}
}

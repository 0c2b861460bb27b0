package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInotifywait makes the same changes on a local disk, by another client and on the
// server's disk: inotifywait -m -r prints the same on the mount as on the local disk.
func TestInotifywait(t *testing.T) {
	needFUSE(t)
	w := newWorldFor(t, 20*time.Minute)
	w.serve()
	second, local := filepath.Join(w.dir, "second"), filepath.Join(w.dir, "local")
	w.mount("/")
	must(t, os.Mkdir(second, 0o755))
	w.mountAt(w.port, "/", second)
	script := changesOf(uint64(setting(t, "RPYCFS_INOTIFYWAIT_SEED", 1)), setting(t, "RPYCFS_INOTIFYWAIT", 40))

	want := w.inotifywait(script, local, local, nil)
	places := map[string]string{"another client": second}
	if os.Geteuid() == 0 {
		places["the server"] = w.export
	}
	for who, dir := range places {
		// On a busy machine the kernel's queue may overflow, or a call take longer than it
		// is waited for: what is counted as left out is forgiven twice.
		for try := 1; ; try++ {
			before, name := w.status().Lost, fmt.Sprint(path.Base(dir), try)
			got := w.inotifywait(script, filepath.Join(dir, name), filepath.Join(w.mnt, name), want)
			wrong, events := 0, 0
			for i, c := range script {
				if events += len(want[i]); !c.same(got[i], want[i]) {
					wrong++
					t.Logf("%s by %s: %q, on a local disk %q", c, who, got[i], want[i])
				}
			}
			lost := w.status().Lost - before
			t.Logf("%d changes by %s, %d events, %d changes left out", len(script), who, events, lost)
			if wrong == 0 {
				break
			}
			if lost == 0 || try == 3 {
				t.Errorf("%d changes by %s are not told as on a local disk", wrong, who)
				break
			}
		}
	}
	must(t, w.command("umount.rpycfs", second).Run())
}

// inotifywait makes a scene in dir, and then the changes while inotifywait watches what
// is there as seen. It returns what that prints of each. Of what is wanted, if anything
// is, it waits for what comes late: close(2) on a mount does not wait for the server.
func (w *world) inotifywait(script []treeChange, dir, seen string, want [][]string) (events [][]string) {
	w.t.Helper()
	for _, d := range sceneDirs {
		must(w.t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range sceneFiles {
		must(w.t, os.WriteFile(filepath.Join(dir, f), []byte(f), 0o644))
	}
	must(w.t, os.MkdirAll(dir+"-beside", 0o755))
	cmd := w.command("inotifywait", "-m", "-r", "--format", "%e %w%f", "-e",
		"modify,attrib,close_write,moved_to,moved_from,move_self,create,delete,delete_self,unmount", seen)
	l := w.logged(cmd, "Watches established.")
	mark := func(name string) { must(w.t, os.Symlink("nowhere", filepath.Join(dir, name))) }
	// What made the scene may be told of late.
	mark("mark begin")
	if !eventually(patience, func() bool { return strings.Contains(l.text(), "mark begin\n") }) {
		w.t.Fatalf("no event:\n%s", l.text())
	}
	read := len(l.text())
	for i, c := range script {
		if err := c.make(dir); err != nil {
			w.t.Fatalf("%s: %v", c, err)
		}
		name := fmt.Sprintf("mark %d", i)
		mark(name)
		var got []string
		var rest int
		eventually(5*time.Second, func() bool {
			text := l.text()
			at := strings.Index(text[read:], "/"+name+"\n")
			if at < 0 {
				return false
			}
			got, rest = nil, len(text)
			for line := range strings.Lines(text[read:]) {
				line = strings.ReplaceAll(strings.TrimSpace(line), seen, "")
				if !strings.Contains(line, "/mark ") && (len(got) == 0 || got[len(got)-1] != line) {
					got = append(got, line)
				}
			}
			return strings.HasSuffix(text, "\n") && (want == nil || c.same(got, want[i]))
		})
		if rest == 0 {
			w.t.Fatalf("%s: no event afterwards:\n%s", c, tail(l.text()))
		}
		read, events = rest, append(events, got)
	}
	_ = cmd.Process.Signal(unix.SIGTERM)
	_ = cmd.Wait()
	return events
}

var (
	sceneDirs  = []string{"a", "b", "b/sub"}
	sceneFiles = []string{"f0", "a/f1", "a/f2", "b/f3", "b/sub/f4"}
)

// treeChange is a change below a directory; to is for those that have two names.
type treeChange struct {
	what, at, to string
	linked       bool // the file may have several names
}

func (c treeChange) String() string { return strings.TrimSpace(c.what + " " + c.at + " " + c.to) }

// same reports whether the events of a change are those wanted. Of a file with several
// names a client does not say by which it changes it: they may come under another.
func (c treeChange) same(got, want []string) bool {
	if c.linked && len(got) == len(want) {
		for i := range got {
			a, _, _ := strings.Cut(got[i], " ")
			if b, _, _ := strings.Cut(want[i], " "); a != b {
				return false
			}
		}
		return true
	}
	return slices.Equal(got, want)
}

// make makes the change. A name that begins with ../ is that of a directory beside the
// one that is watched.
func (c treeChange) make(dir string) error {
	in := func(name string) string {
		if rest, ok := strings.CutPrefix(name, "../"); ok {
			return dir + "-beside/" + rest
		}
		return filepath.Join(dir, name)
	}
	at, to := in(c.at), in(c.to)
	switch c.what {
	case "create":
		return os.WriteFile(at, nil, 0o644)
	case "write":
		return os.WriteFile(at, []byte(c.at), 0o644)
	case "append":
		return serverChanges[0](at, 1)
	case "truncate":
		return os.Truncate(at, 2)
	case "chmod": // no x bit, which keeps files from being opened for events
		return os.Chmod(at, 0o640)
	case "times":
		return os.Chtimes(at, time.Unix(1, 0), time.Unix(2, 0))
	case "mkdir":
		return os.Mkdir(at, 0o755)
	case "chmod directory":
		return os.Chmod(at, 0o700)
	case "symlink":
		return os.Symlink("nowhere", at)
	case "fifo":
		return unix.Mkfifo(at, 0o644)
	case "link":
		return os.Link(at, to)
	case "rename":
		return os.Rename(at, to)
	case "exchange":
		return unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	case "unlink", "rmdir":
		return os.Remove(at)
	}
	return fmt.Errorf("%s is no change", c.what)
}

// changesOf returns changes that can be made one after another in the scene, from a seed.
func changesOf(seed uint64, n int) (script []treeChange) {
	random := rand.New(rand.NewPCG(seed, 3))
	dirs, files := append([]string{""}, sceneDirs...), slices.Clone(sceneFiles)
	pick := func(names []string) string { return names[random.IntN(len(names))] }
	named, linked := 0, make(map[string]bool)
	fresh := func() string {
		named++
		return path.Join(pick(dirs), fmt.Sprint("n", named))
	}
	without := func(names []string, name string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
	}
	for len(script) < n {
		c := treeChange{what: pick([]string{"create", "create", "write", "append", "truncate", "chmod", "times", "mkdir", "mkdir", "symlink", "fifo",
			"link", "rename", "rename", "rename over", "rename directory", "move out", "move in", "exchange", "unlink", "unlink", "rmdir", "chmod directory"})}
		switch c.what {
		case "create", "symlink", "fifo":
			c.at = fresh()
			if c.what == "create" {
				files = append(files, c.at)
			}
		case "mkdir":
			c.at = fresh()
			dirs = append(dirs, c.at)
		case "link":
			c.at, c.to = pick(files), fresh()
			linked[c.at], linked[c.to] = true, true
			files = append(files, c.to)
		case "rename", "rename over":
			if c.at, c.to = pick(files), fresh(); c.what == "rename over" {
				if c.to = pick(files); c.to == c.at {
					continue
				}
			}
			files = append(without(without(files, c.at), c.to), c.to)
			linked[c.to] = linked[c.at]
			c.what = "rename"
		case "exchange":
			if c.at, c.to = pick(files), pick(files); c.at == c.to {
				continue
			}
			linked[c.at], linked[c.to] = linked[c.to], linked[c.at]
		case "move out", "move in":
			if c.at = pick(files); len(files) < 4 {
				continue
			}
			out := fmt.Sprint("../o", len(script))
			script = append(script, treeChange{what: "rename", at: c.at, to: out})
			files = without(files, c.at)
			if c.what == "move in" {
				c.to = fresh()
				script = append(script, treeChange{what: "rename", at: out, to: c.to})
				files = append(files, c.to)
				linked[c.to] = linked[c.at]
			}
			continue
		case "rename directory":
			c.what, c.at, c.to = "rename", pick(dirs), fresh()
			if c.at == "" || strings.HasPrefix(c.to, c.at+"/") {
				continue
			}
			for _, list := range [][]string{dirs, files} {
				for i, name := range list {
					if rest, ok := strings.CutPrefix(name, c.at); ok && (rest == "" || rest[0] == '/') {
						list[i] = c.to + rest
						linked[list[i]] = linked[name]
					}
				}
			}
		case "unlink":
			if c.at = pick(files); len(files) < 4 {
				continue
			}
			files = without(files, c.at)
		case "rmdir":
			c.at = pick(dirs)
			full := func(name string) bool { return strings.HasPrefix(name, c.at+"/") }
			if c.at == "" || slices.ContainsFunc(dirs, full) || slices.ContainsFunc(files, full) ||
				slices.ContainsFunc(script, func(s treeChange) bool { return full(s.at) && (s.what == "symlink" || s.what == "fifo") }) {
				continue
			}
			dirs = without(dirs, c.at)
		case "chmod directory":
			c.at = pick(dirs)
		default:
			c.at = pick(files)
			c.linked = linked[c.at]
		}
		script = append(script, c)
	}
	return script[:n]
}

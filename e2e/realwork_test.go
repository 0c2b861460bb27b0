package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestRealWork uses a mount as people do, each part in a directory of its own.
// At the end both sides of the mount must hold the same.
func TestRealWork(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve()
	w.mount("/")
	tree := sourceTree(t)

	t.Run("copy", func(t *testing.T) {
		copyTree(t, tree, filepath.Join(w.mnt, "tree"))
		n := sameTree(t, tree, filepath.Join(w.export, "tree"))
		t.Logf("%d entries of %s", n, tree)
		if n < 500 {
			t.Errorf("only %d entries were copied", n)
		}
		sameTree(t, tree, filepath.Join(w.mnt, "tree"))
	})
	t.Run("tar", func(t *testing.T) { w.tar(t, tree) })
	t.Run("git", w.git)
	t.Run("sqlite", w.sqlite)
	t.Run("build", w.goBuild)

	sameTree(t, w.mnt, w.export)
	w.umount()
	w.stop()
}

// sourceTree is a tree with some hundred files or more.
func sourceTree(t *testing.T) string {
	t.Helper()
	if tree := os.Getenv("RPYCFS_E2E_TREE"); tree != "" {
		return tree
	}
	out, err := exec.Command("go", "env", "GOROOT").Output()
	must(t, err)
	return filepath.Join(strings.TrimSpace(string(out)), "src", "crypto")
}

// in returns a command that runs in a directory, for the subtest t.
func (w *world) in(t *testing.T, dir, name string, args ...string) *exec.Cmd {
	sub := *w
	sub.t = t
	cmd := sub.command(name, args...)
	cmd.Dir = dir
	return cmd
}

// tar packs a tree into the mount and unpacks it there.
func (w *world) tar(t *testing.T, tree string) {
	sub := *w
	sub.t = t
	dir := filepath.Join(w.mnt, "tar")
	must(t, os.MkdirAll(filepath.Join(dir, "out"), 0o755))
	sub.run(w.in(t, tree, "tar", "--owner="+strconv.Itoa(os.Getuid()), "--group="+strconv.Itoa(os.Getgid()), "--numeric-owner",
		"-cf", filepath.Join(dir, "tree.tar"), "."))
	sub.run(w.in(t, dir, "tar", "-xf", "tree.tar", "-C", "out"))
	sub.run(w.in(t, dir, "tar", "-df", "tree.tar", "-C", "out")) // compares
	sameTree(t, tree, filepath.Join(w.export, "tar", "out"))
}

// git makes a repository outside and clones it into the mount.
func (w *world) git(t *testing.T) {
	sub := *w
	sub.t = t
	origin := filepath.Join(t.TempDir(), "origin")
	git := func(dir string, args ...string) string {
		t.Helper()
		return sub.run(w.in(t, dir, "git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...))
	}
	copyTree(t, filepath.Join(sourceTree(t), "tls"), origin)
	git(origin, "init", "-q", "-b", "main")
	git(origin, "add", ".")
	git(origin, "commit", "-q", "-m", "first")
	git(w.mnt, "clone", "-q", origin, "clone")
	clone := filepath.Join(w.mnt, "clone")
	if out := git(clone, "status", "--porcelain"); out != "" {
		t.Errorf("git status after clone: %s", out)
	}
	must(t, os.WriteFile(filepath.Join(clone, "new"), []byte("new\n"), 0o644))
	git(clone, "add", "new")
	git(clone, "commit", "-q", "-m", "second")
	git(clone, "gc", "-q")
	git(clone, "fsck", "--strict")
	git(clone, "checkout", "-q", "HEAD^")
	if exists(filepath.Join(w.export, "clone", "new")) {
		t.Error("a file of another commit is left")
	}
}

// sqlite keeps a database in the mount, in its default journal mode.
func (w *world) sqlite(t *testing.T) {
	sub := *w
	sub.t = t
	const inserts = 1000
	var sql strings.Builder
	sql.WriteString("create table t(n integer primary key, text);\n")
	for i := range inserts {
		fmt.Fprintf(&sql, "insert into t values(%d, 'row %d');\n", i, i)
	}
	db := filepath.Join(w.mnt, "test.db")
	fill := w.in(t, w.mnt, "sqlite3", "-bail", db)
	fill.Stdin = strings.NewReader(sql.String())
	sub.run(fill)
	const question = "pragma integrity_check; select count(*), sum(n) from t;"
	want := fmt.Sprintf("ok\n%d|%d\n", inserts, inserts*(inserts-1)/2)
	for _, db := range []string{db, filepath.Join(w.export, "test.db")} {
		if got := sub.run(w.in(t, w.dir, "sqlite3", "-bail", db, question)); got != want {
			t.Errorf("%s: %q, not %q", db, got, want)
		}
	}
}

// goBuild builds and runs a program whose source, result and temporary files are
// in the mount.
func (w *world) goBuild(t *testing.T) {
	sub := *w
	sub.t = t
	dir := filepath.Join(w.mnt, "hello")
	must(t, os.MkdirAll(filepath.Join(dir, "greet"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "tmp"), 0o755))
	for name, text := range map[string]string{
		"go.mod":         "module example.org/hello\n\ngo 1.26\n",
		"main.go":        "package main\n\nimport (\n\t\"os\"\n\n\t\"example.org/hello/greet\"\n)\n\nfunc main() { os.Stdout.WriteString(greet.Text) }\n",
		"greet/greet.go": "package greet\n\nconst Text = \"hello\\n\"\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	must(t, err)
	build := w.in(t, dir, "go", "build", "-o", "hello", ".")
	build.Env = append(w.env(), "GOCACHE="+strings.TrimSpace(string(cache)), "GOTMPDIR="+filepath.Join(dir, "tmp"),
		"GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local")
	sub.run(build)
	if got := sub.run(w.in(t, dir, filepath.Join(dir, "hello"))); got != "hello\n" {
		t.Errorf("the program built in the mount says %q", got)
	}
}

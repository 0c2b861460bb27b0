package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Workloads that are programs of others.

// pattern is what grep looks for.
const pattern = "TODO"

func (l *loads) gocache(name string) string {
	return filepath.Join(filepath.Dir(l.away), "gocache-"+name)
}

// preparePrograms makes what the programs work on.
func (l *loads) preparePrograms() error {
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"config", "core.autocrlf", "false"},
		{"add", "--all", "--force"},
		{"-c", "user.name=bench", "-c", "user.email=bench", "-c", "gc.auto=0", "commit", "--quiet", "--message=tree"},
		{"status", "--porcelain"}, // which brings the index up to date
	} {
		if _, err := run(l.path(), 0, "git", l.git(l.path(), args...)...); err != nil {
			return err
		}
	}
	if err := copyFile(l.path(gitName, "index"), filepath.Join(l.away, "index")); err != nil {
		return err
	}
	if _, err := run(l.away, 0, "git", "clone", "--quiet", "--bare", "--no-hardlinks", l.path(gitName), filepath.Join(l.away, "source.git")); err != nil {
		return err
	}
	if _, err := run(l.away, 0, "tar", "-cf", filepath.Join(l.away, "tree.tar"), "-C", l.path(treeName), "."); err != nil {
		return err
	}
	found, err := run(l.path(treeName), -1, "grep", "-r", "-n", pattern, ".")
	if err != nil {
		return err
	}
	l.matches = sortLines(found)
	if _, err := os.Stat(l.gocache("std")); err == nil {
		return nil
	}
	if err := write(filepath.Join(l.away, "hello.go"), "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println() }\n"); err != nil {
		return err
	}
	_, err = l.goTool(l.gocache("std"), l.away, "build", "-o", filepath.Join(l.away, "hello"), "hello.go")
	return err
}

// list lists a directory in full and counts the files in the answer.
func (l *loads) list(mnt string) (float64, error) {
	text, err := run(mnt, 0, "ls", "-l", l.in(mnt, listName))
	if n := bytes.Count(text, []byte("\n-rw-r--r-- ")); err == nil && n != l.listed {
		err = fmt.Errorf("ls -l lists %d files, want %d", n, l.listed)
	}
	return float64(l.listed), err
}

func (l *loads) find(mnt string) error {
	text, err := run(mnt, 0, "find", l.in(mnt, treeName))
	if n, want := bytes.Count(text, []byte("\n")), len(l.tree.entries)+l.tree.dirs; err == nil && n != want {
		err = fmt.Errorf("find finds %d names, want %d", n, want)
	}
	return err
}

func (l *loads) grep(mnt string) error {
	found, err := run(l.in(mnt, treeName), -1, "grep", "-r", "-n", pattern, ".")
	if err == nil && !bytes.Equal(sortLines(found), l.matches) {
		err = fmt.Errorf("%w: grep finds something else", errContent)
	}
	return err
}

func sortLines(text []byte) []byte {
	lines := bytes.Split(text, []byte("\n"))
	slices.SortFunc(lines, bytes.Compare)
	return bytes.Join(lines, []byte("\n"))
}

// restoreIndex undoes what git has noted in its index of a peer's numbers of files.
func (l *loads) restoreIndex() error {
	index, err := os.ReadFile(filepath.Join(l.away, "index"))
	if err != nil {
		return err
	}
	return os.WriteFile(l.path(gitName, "index"), index, 0o644)
}

func (l *loads) status(mnt string) error {
	changed, err := run(l.in(mnt), 0, "git", l.git(l.in(mnt), "status", "--porcelain")...)
	if err == nil && len(changed) > 0 {
		err = fmt.Errorf("git sees changes:\n%.500s", changed)
	}
	return err
}

// git returns the arguments for a command of git over the tree in dir.
func (l *loads) git(dir string, args ...string) []string {
	return append([]string{"-c", "safe.directory=*", "--git-dir=" + filepath.Join(dir, gitName), "--work-tree=" + filepath.Join(dir, treeName)}, args...)
}

func (l *loads) copyDir() string { return filepath.Join(l.away, "copy") }

func (l *loads) removeCopy() error { return os.RemoveAll(l.copyDir()) }

func (l *loads) copyOut(mnt string) error {
	_, err := run(mnt, 0, "cp", "-r", l.in(mnt, treeName), l.copyDir())
	return err
}

func (l *loads) checkCopy() error { return l.tree.same(l.copyDir()) }

func (l *loads) untar(mnt string) error {
	_, err := run(mnt, 0, "tar", "-xf", filepath.Join(l.away, "tree.tar"), "-C", l.in(mnt, untarName))
	return err
}

func (l *loads) clone(mnt string) error {
	_, err := run(mnt, 0, "git", "-c", "safe.directory=*", "clone", "--quiet", "--no-hardlinks", filepath.Join(l.away, "source.git"), l.in(mnt, cloneName))
	return err
}

func (l *loads) makeDoomed() error {
	if err := os.RemoveAll(l.path(doomedName)); err != nil {
		return err
	}
	_, err := run(l.path(), 0, "cp", "-r", treeName, doomedName)
	return err
}

func (l *loads) remove(mnt string) error {
	_, err := run(mnt, 0, "rm", "-rf", l.in(mnt, doomedName))
	return err
}

func (l *loads) checkRemoved() error {
	_, err := os.Lstat(l.path(doomedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s is still there: %w", doomedName, err)
}

// cleanBuild leaves what has been compiled of the standard library and no more.
func (l *loads) cleanBuild() error {
	if err := errors.Join(os.RemoveAll(l.gocache("cell")), os.RemoveAll(l.path(moduleName, "built"))); err != nil {
		return err
	}
	_, err := run(l.away, 0, "cp", "-a", l.gocache("std"), l.gocache("cell"))
	return err
}

func (l *loads) build(mnt string) (float64, error) {
	_, err := l.goTool(l.gocache("cell"), l.in(mnt, moduleName), "build", "-o", "built", ".")
	return float64(l.modules), err
}

func (l *loads) checkBuilt() error {
	said, err := run(l.away, 0, l.path(moduleName, "built"))
	if err == nil && string(said) != l.prints {
		err = fmt.Errorf("%w: what was built prints %q, want %q", errContent, said, l.prints)
	}
	return err
}

func (l *loads) goTool(cache, dir string, args ...string) ([]byte, error) {
	return run(dir, 0, "env", append([]string{"GOCACHE=" + cache, "GOFLAGS=-buildvcs=false", "GOENV=off", "GOWORK=off",
		"GOPROXY=off", "GOTOOLCHAIN=local", "CGO_ENABLED=0", "go"}, args...)...)
}

func (l *loads) removeDB() error {
	left, err := filepath.Glob(l.path(dbName + "*"))
	for _, name := range left {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// insert makes a transaction of every row.
func (l *loads) insert(mnt string) (float64, error) {
	var text strings.Builder
	text.WriteString("create table t (n integer primary key, text text);\n")
	for i := range l.inserts {
		fmt.Fprintf(&text, "insert into t values (%d, 'row %d');\n", i, i)
	}
	script := filepath.Join(l.away, "script.sql")
	if err := write(script, text.String()); err != nil {
		return 0, err
	}
	_, err := run(mnt, 0, "sqlite3", "-bail", l.in(mnt, dbName), ".read "+script)
	return float64(l.inserts), err
}

func (l *loads) checkDB() error {
	said, err := run(l.away, 0, "sqlite3", l.path(dbName), "pragma integrity_check; select count(*), sum(n) from t where text = 'row ' || n")
	want := fmt.Sprintf("ok\n%d|%d\n", l.inserts, l.inserts*(l.inserts-1)/2)
	if err == nil && string(said) != want {
		err = fmt.Errorf("%w: the database says %q, want %q", errContent, said, want)
	}
	return err
}

// run runs a program in dir, wants it to exit with code (-1: with 0 or 1), and
// returns what it says.
func run(dir string, code int, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said, complained bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complained
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code && (code != -1 || got != 0 && got != 1) {
		return nil, fmt.Errorf("%.300s: %v\n%.1000s", cmd, cmd.ProcessState, &complained)
	}
	return said.Bytes(), nil
}

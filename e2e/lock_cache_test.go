package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLockFresh: who has locked a file sees what others have done to it, and to
// the names beside it, before they unlocked it. All of that is in the kernel's
// cache from before.
func TestLockFresh(t *testing.T) {
	w := newLockWorld(t)
	for i := range setting(t, "RPYCFS_E2E_LOCK_ROUNDS", 20) {
		dir := fmt.Sprintf("d%d", i)
		must(t, os.Mkdir(filepath.Join(w.export, dir), 0o755))
		in := func(base, name string) string { return filepath.Join(base, dir, name) }
		must(t, os.WriteFile(in(w.export, "db"), []byte("old"), 0o644))
		must(t, os.WriteFile(in(w.export, "gone"), []byte("old"), 0o644))
		must(t, os.WriteFile(in(w.export, "replaced"), []byte("old"), 0o644))

		f, err := os.OpenFile(in(w.a, "db"), os.O_RDWR, 0)
		must(t, err)
		fileHolds(t, f, "old")
		_, err = os.Stat(in(w.a, "new"))
		missing(t, err)
		if _, err := os.ReadDir(filepath.Join(w.a, dir)); err != nil { // names with their nodes
			t.Error(err)
		}
		for _, name := range []string{"gone", "replaced"} {
			if _, err := os.Stat(in(w.a, name)); err != nil {
				t.Error(err)
			}
		}

		g, err := os.OpenFile(in(w.b, "db"), os.O_RDWR, 0)
		must(t, err)
		must(t, lockFile("ofd", g, true))
		_, err = g.WriteAt([]byte("newer"), 0)
		must(t, err)
		must(t, os.WriteFile(in(w.b, "new"), []byte("new"), 0o644))
		must(t, os.Remove(in(w.b, "gone")))
		must(t, os.WriteFile(in(w.b, "tmp"), []byte("newer"), 0o644))
		must(t, os.Rename(in(w.b, "tmp"), in(w.b, "replaced")))
		must(t, lockFile("ofd", g, false))
		must(t, g.Close())

		must(t, lockFile([]string{"ofd", "fcntl", "flock"}[i%3], f, true))
		fileHolds(t, f, "newer")
		if _, err := os.Stat(in(w.a, "new")); err != nil {
			t.Errorf("a new name is not seen under the lock: %v", err)
		}
		_, err = os.Stat(in(w.a, "gone"))
		missing(t, err)
		if got, _ := os.ReadFile(in(w.a, "replaced")); string(got) != "newer" {
			t.Errorf("a replaced name shows %q under the lock", got)
		}
		must(t, f.Close())
	}
}

// fileHolds checks size and content of an open file.
func fileHolds(t *testing.T, f *os.File, want string) {
	t.Helper()
	st, err := f.Stat()
	must(t, err)
	b := make([]byte, 100)
	n, err := f.ReadAt(b, 0)
	if string(b[:n]) != want || st.Size() != int64(len(want)) || err != io.EOF {
		t.Errorf("%d bytes, %q, %v; want %q", st.Size(), b[:n], err, want)
	}
}

func missing(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, syscall.ENOENT) {
		t.Errorf("error %v, want ENOENT", err)
	}
}

// TestLockBusy counts under locks of a file that others read, map, write and
// look up beside at the same time: dropping what the kernel has cached of it
// waits for none of them for ever.
func TestLockBusy(t *testing.T) {
	w := newLockWorld(t)
	must(t, os.WriteFile(filepath.Join(w.export, "busy"), bytes.Repeat([]byte("0"), 1<<20), 0o644))
	var stop atomic.Bool
	var others sync.WaitGroup
	for _, base := range []string{w.a, w.b} {
		path := filepath.Join(base, "busy")
		others.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if _, err := os.ReadFile(path); err != nil {
					t.Error(err)
				}
				name := filepath.Join(base, "beside"+strconv.Itoa(i%7))
				_ = os.WriteFile(name, nil, 0o644)
				_, _ = os.Stat(name + "-journal")
				_ = os.Remove(name)
			}
		})
		others.Go(func() { dirty(t, path, &stop) })
	}
	f, err := os.OpenFile(filepath.Join(w.a, "busy"), os.O_RDWR, 0)
	must(t, err)
	g, err := os.OpenFile(filepath.Join(w.b, "busy"), os.O_RDWR, 0)
	must(t, err)
	for range 5 * setting(t, "RPYCFS_E2E_LOCK_ROUNDS", 20) {
		for _, file := range []*os.File{f, g} {
			must(t, lockFile("ofd", file, true))
			must(t, lockFile("ofd", file, false))
		}
	}
	stop.Store(true)
	others.Wait()
	f.Close()
	g.Close()
}

// dirty changes pages of a file through a mapping.
func dirty(t *testing.T, path string, stop *atomic.Bool) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Munmap(m)
	for i := 0; !stop.Load(); i += 4096 {
		m[i%len(m)]++
		if i%(64*4096) == 0 {
			_ = unix.Msync(m, unix.MS_SYNC)
		}
	}
}

// TestLockSQLite lets sqlite3 write one database from two mounts: with a
// rollback journal both at once, with a write-ahead log one after the other; and
// takes it away in the middle of a transaction, whose journal the other mount
// must find.
func TestLockSQLite(t *testing.T) {
	w := newLockWorld(t)
	rounds := setting(t, "RPYCFS_E2E_SQLITE_ROUNDS", 15)
	sql := func(base, db string, statements ...string) string {
		cmd := w.command("sqlite3", "-batch", "-bail", filepath.Join(base, db))
		cmd.Stdin = strings.NewReader(".timeout 60000\n" + strings.Join(statements, "\n"))
		return strings.TrimSpace(w.run(cmd))
	}
	check := func(db string, rows int) {
		t.Helper()
		for _, base := range []string{w.a, w.b, w.export} {
			if got, want := sql(base, db, "pragma integrity_check; select count(*) from t;"), fmt.Sprintf("ok\n%d", rows); got != want {
				t.Errorf("%s through %s: %s, want %s", db, base, got, want)
			}
		}
	}

	sql(w.a, "rollback", "create table t(a, b);")
	var writing sync.WaitGroup
	for _, base := range []string{w.a, w.b} {
		writing.Go(func() {
			for i := range rounds {
				sql(base, "rollback", fmt.Sprintf("begin immediate; insert into t values(%d, randomblob(9000)); insert into t values(1, 2); commit;", i))
			}
		})
	}
	writing.Wait()
	check("rollback", 4*rounds)

	sql(w.a, "wal", "pragma locking_mode=exclusive; pragma journal_mode=wal; create table t(a);")
	for range rounds {
		for _, base := range []string{w.a, w.b} {
			sql(base, "wal", "pragma locking_mode=exclusive; insert into t values(randomblob(9000));")
		}
	}
	sql(w.b, "wal", "pragma locking_mode=exclusive; pragma journal_mode=delete;")
	check("wal", 2*rounds)

	for i := range 3 {
		w.hotJournal(t, []string{w.a, w.b}[i%2])
		check("rollback", 4*rounds)
	}
}

// hotJournal kills a writer whose transaction has reached the database.
func (w *lockWorld) hotJournal(t *testing.T, base string) {
	t.Helper()
	cmd := exec.CommandContext(w.ctx, "sqlite3", "-batch", filepath.Join(base, "rollback"))
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	fmt.Fprintln(in, ".timeout 60000\npragma cache_size=1; begin; update t set a = a + 1000, b = randomblob(9000); select 'reached';")
	b := make([]byte, len("reached"))
	if _, err := io.ReadFull(out, b); err != nil || string(b) != "reached" {
		t.Fatalf("sqlite3: %q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(w.export, "rollback-journal")); err != nil || st.Size() == 0 {
		t.Errorf("there is no journal to find: %v", err)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

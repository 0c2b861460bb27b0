package keeper

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const keeperArg = "keep-for-test"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == keeperArg {
		l, err := net.FileListener(os.NewFile(3, "listener"))
		if err != nil {
			os.Exit(1)
		}
		patience, _ := time.ParseDuration(os.Args[2])
		if Run(l.(*net.UnixListener), patience) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, path string, patience time.Duration) (*Client, map[uint64]int) {
	t.Helper()
	c, found, err := Connect(path, []string{os.Args[0], keeperArg, patience.String()}, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(c.Close)
	return c, found
}

// removed returns an open file that has no name, and what is in it.
func removed(t *testing.T, text string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	must(t, err)
	must(t, os.Remove(f.Name()))
	_, err = f.WriteString(text)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func (c *Client) keeper() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid
}

// gone waits until nothing listens at path any more.
func gone(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if conn, err := dial(path); err != nil {
			return
		} else {
			conn.Close()
		}
	}
	t.Fatal("the keeper does not end")
}

// TestKeep: what was given is there for the next process, what was let go is not.
func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	c, found := connect(t, path, time.Minute)
	if len(found) != 0 {
		t.Fatalf("found %v", found)
	}
	for key := range uint64(500) {
		f := removed(t, fmt.Sprint("content ", key))
		c.Keep(key, int(f.Fd()))
		if key%3 == 0 {
			wait := make(chan struct{})
			c.Drop(key, func() { close(wait) })
			<-wait
		}
	}
	if seen := c.Ended(); !seen.IsZero() {
		t.Errorf("a process before the first had ended at %v", seen)
	}
	ending := time.Now().Round(0)
	c.Close()
	c, found = connect(t, path, time.Minute)
	if seen := c.Ended(); seen.Before(ending) || seen.After(time.Now()) {
		t.Errorf("the process before had ended at %v, not between %v and now", seen, ending)
	}
	for key := range uint64(500) {
		fd, ok := found[key]
		if ok != (key%3 != 0) {
			t.Fatalf("key %d: %t", key, ok)
		}
		if !ok {
			continue
		}
		f := os.NewFile(uintptr(fd), "kept")
		text, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
		if err != nil || string(text) != "content "+strconv.FormatUint(key, 10) {
			t.Errorf("key %d: %q, %v", key, text, err)
		}
		c.Drop(key, func() { f.Close() })
	}
	c.Close()
	gone(t, path) // it has nothing to keep
}

// TestKeeperKilled: a keeper that has died is replaced, and the new one gets all that
// the old one had.
func TestKeeperKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	c, _ := connect(t, path, time.Minute)
	a, b := removed(t, "a"), removed(t, "b")
	c.Keep(1, int(a.Fd()))
	first := c.keeper()
	must(t, unix.Kill(first, unix.SIGKILL))
	for end := time.Now().Add(20 * time.Second); c.keeper() == first; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no other keeper is started")
		}
	}
	c.Keep(2, int(b.Fd()))
	c.Close()
	c, found := connect(t, path, time.Minute)
	if len(found) != 2 {
		t.Errorf("the new keeper has %v", found)
	}
	for key, fd := range found {
		c.Drop(key, func() { unix.Close(fd) })
	}
	c.Close()
	gone(t, path)
}

// TestPatience: a keeper that nobody comes back to ends.
func TestPatience(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	c, _ := connect(t, path, 10*time.Millisecond)
	c.Keep(1, int(removed(t, "x").Fd()))
	c.Close()
	ends(t, c)
}

// TestNotFound: a keeper whose socket is gone ends.
func TestNotFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	c, _ := connect(t, path, time.Hour)
	c.Keep(1, int(removed(t, "x").Fd()))
	must(t, os.Remove(path))
	c.Close()
	ends(t, c)
}

// ends waits for the end of the keeper that c has started.
func ends(t *testing.T, c *Client) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); unix.Kill(c.keeper(), 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the keeper does not end")
		}
	}
}

// TestDeaf: what a process has sent before it died counts, also if it has not heard what
// it was told.
func TestDeaf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	c, _ := connect(t, path, time.Minute)
	c.Keep(1000, int(removed(t, "x").Fd()))
	c.mu.Lock()
	conn := c.conn
	for key := range uint64(50) {
		must(t, send(conn, opKeep, key, int(removed(t, "x").Fd())))
		must(t, send(conn, opDrop, key, -1))
	}
	must(t, send(conn, opKeep, 50, int(removed(t, "x").Fd())))
	c.drop()
	c.closed = true
	c.mu.Unlock()
	c, found := connect(t, path, time.Minute)
	if len(found) != 2 {
		t.Errorf("kept: %v", found)
	}
	for key, fd := range found {
		c.Drop(key, func() { unix.Close(fd) })
	}
	c.Close()
	gone(t, path)
}

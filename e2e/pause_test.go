package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRestartUnderLoad ends the daemon as an init system does, and starts it again, while
// four clients work: none of them sees an error. It prints how long calls wait for that,
// where the init system keeps the listening socket and where nobody listens meanwhile.
func TestRestartUnderLoad(t *testing.T) {
	needFUSE(t)
	restarts := setting(t, "RPYCFS_RESTARTS", 3)
	for _, kept := range []bool{true, false} {
		name := map[bool]string{true: "socket kept", false: "port closed"}[kept]
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if kept {
				w.keepSocket()
			}
			w.serve()
			var clients []*loader
			var working sync.WaitGroup
			stop := make(chan struct{})
			for i := range 4 {
				mnt := filepath.Join(w.dir, fmt.Sprint("mnt", i))
				must(t, os.Mkdir(mnt, 0o755))
				w.mountAt(w.port, "/", mnt)
				c := &loader{t: t, dir: filepath.Join(mnt, fmt.Sprint("dir", i))}
				must(t, os.Mkdir(c.dir, 0o755))
				clients = append(clients, c)
				working.Go(func() { c.work(i, stop) })
			}
			var waits []time.Duration
			for range restarts {
				w.quietly(clients)
				w.restart()
				w.quietly(clients)
				for _, c := range clients {
					waits = append(waits, time.Duration(c.longest.Swap(0)))
				}
			}
			close(stop)
			working.Wait()
			slices.Sort(waits)
			t.Logf("%d restarts: a client's longest call took %v in the middle, %v at most", restarts, waits[len(waits)/2], waits[len(waits)-1])
		})
	}
}

// keepSocket has the daemon started by who listens on its behalf.
func (w *world) keepSocket() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	w.t.Cleanup(func() { l.Close() })
	socket, err := l.(*net.TCPListener).File()
	must(w.t, err)
	w.t.Cleanup(func() { socket.Close() })
	w.port, w.socket = l.Addr().(*net.TCPAddr).Port, socket
}

// loader works in a mount.
type loader struct {
	t       *testing.T
	dir     string
	rounds  atomic.Int64
	longest atomic.Int64 // of its calls since that was asked for last
}

// quietly returns when all clients have done some more rounds.
func (w *world) quietly(clients []*loader) {
	w.t.Helper()
	for i, c := range clients {
		from := c.rounds.Load()
		if !eventually(patience, func() bool { return c.rounds.Load() > from+5 || w.t.Failed() }) {
			w.t.Fatalf("client %d stands still", i)
		}
	}
}

// work makes, writes, reads, renames and removes files until the end, and keeps a log.
func (c *loader) work(who int, stop chan struct{}) {
	log, err := os.OpenFile(filepath.Join(c.dir, fmt.Sprint("log", who)), os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_RDWR, 0o600)
	must(c.t, err)
	defer log.Close()
	var want strings.Builder
	for n := 0; ; n++ {
		select {
		case <-stop:
			if text, err := os.ReadFile(log.Name()); err != nil || string(text) != want.String() {
				c.t.Errorf("client %d: the log holds %d bytes of %d, %v", who, len(text), want.Len(), err)
			}
			return
		default:
		}
		name := filepath.Join(c.dir, fmt.Sprintf("file %d of %d", n, who))
		line := fmt.Sprintf("%d of %d\n", n, who)
		want.WriteString(line)
		for what, do := range map[string]func() error{
			"append": func() error { _, err := log.WriteString(line); return err },
			"file": func() error {
				if err := os.WriteFile(name, []byte(line), 0o600); err != nil {
					return err
				}
				if err := os.Rename(name, name+" moved"); err != nil {
					return err
				}
				if text, err := os.ReadFile(name + " moved"); err != nil || string(text) != line {
					return fmt.Errorf("it holds %q, %w", text, err)
				}
				return os.Remove(name + " moved")
			},
			"directory": func() error {
				if err := os.Mkdir(name, 0o700); err != nil {
					return err
				}
				return os.Remove(name)
			},
		} {
			began := time.Now()
			if err := do(); err != nil {
				c.t.Errorf("client %d, %s: %v", who, what, err)
				return
			}
			if took := int64(time.Since(began)); took > c.longest.Load() {
				c.longest.Store(took)
			}
		}
		c.rounds.Add(1)
	}
}

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/internal/status"
)

// TestReload: SIGHUP takes up new users and keys. Who is there stays, in the same
// connection, also if the new users file is wrong.
func TestReload(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve()
	w.mount("/")
	f, err := os.Create(filepath.Join(w.mnt, "open"))
	must(t, err)
	defer f.Close()
	epoch := w.epoch()
	w.enrol("bar")
	good, err := os.ReadFile(w.users)
	must(t, err)
	for _, text := range []string{"[no end", string(good)} {
		must(t, os.WriteFile(w.users, []byte(text), 0o600))
		must(t, w.daemon.Process.Signal(syscall.SIGHUP))
		_, err = f.WriteString("line\n")
		must(t, err)
	}
	other := filepath.Join(w.dir, "other")
	must(t, os.Mkdir(other, 0o755))
	login := w.login
	w.login = "user=bar,hostkey=accept-new,identity=" + filepath.Join(w.dir, "key-bar")
	w.mountAt(w.port, "/", other)
	w.login = login
	if text, err := os.ReadFile(filepath.Join(other, "open")); err != nil || string(text) != "line\nline\n" {
		t.Errorf("the new user reads %q, %v", text, err)
	}
	if now := w.epoch(); now != epoch {
		t.Errorf("the connection is of epoch %d, before the reload it was %d", now, epoch)
	}
}

// epoch returns the epoch of the mount's connection.
func (w *world) epoch() uint32 {
	w.t.Helper()
	var st status.Document
	must(w.t, json.Unmarshal([]byte(w.run(w.command("rpycfs", "status", "--json", w.mnt))), &st))
	return st.Session.Epoch
}

// TestSocketActivation: the daemon serves the socket that it is given.
func TestSocketActivation(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.keepSocket()
	w.serve()
	w.mount("/")
	must(t, os.WriteFile(filepath.Join(w.mnt, "file"), []byte("x"), 0o644))
	w.umount()
	w.stop()
}

// TestFloods: connections that never authenticate, by the thousand and from many
// addresses, keep nobody from being served or from logging in, and cost the daemon
// bounded memory.
func TestFloods(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve("--log-level=warn")
	w.mount("/")
	must(t, os.WriteFile(filepath.Join(w.export, "file"), []byte("content"), 0o644))
	connections := setting(t, "RPYCFS_E2E_CONNECTIONS", 10000)
	before := resident(t, w.daemon.Process.Pid)
	var peak int
	served := func() time.Duration {
		return w.served(200, func() { peak = max(peak, resident(t, w.daemon.Process.Pid)) })
	}
	quiet := served()
	flood := w.job("knock", w.port, connections)
	during := served()
	other := filepath.Join(w.dir, "other")
	must(t, os.Mkdir(other, 0o755))
	w.mountAt(w.port, "/", other) // a new client logs in among them
	var made int
	flood.end(&made)
	after := served()
	t.Logf("%d connections from %d addresses; p99 of a read %v before, %v during, %v after; daemon %d KiB before, %d at most",
		made, floodAddresses, quiet, during, after, before, peak)
	limit := 64 << 10
	if raceEnabled { // the detector keeps a multiple of what it watches
		limit *= 8
	}
	if peak > limit {
		t.Errorf("the daemon takes %d KiB", peak)
	}
	if made == 0 {
		t.Error("no connection was made")
	}
	if n := descriptors(w.daemon.Process.Pid); n > 700 {
		t.Errorf("the daemon has %d descriptors open", n)
	}
}

// served reads a file of the mount so many times and returns the p99 of that.
func (w *world) served(times int, each func()) time.Duration {
	w.t.Helper()
	took := make([]time.Duration, times)
	for i := range took {
		start := time.Now()
		must(w.t, os.WriteFile(filepath.Join(w.mnt, "probe"), []byte(strconv.Itoa(i)), 0o644))
		text, err := os.ReadFile(filepath.Join(w.mnt, "file"))
		if err != nil || string(text) != "content" {
			w.t.Fatalf("read %q, %v", text, err)
		}
		took[i] = time.Since(start)
		each()
	}
	slices.Sort(took)
	return took[times*99/100]
}

// floodAddresses is from how many addresses a flood comes.
const floodAddresses = 40

// flood is who opens connections and never logs in.
type flood struct {
	port  int
	hello []byte // a TLS ClientHello
	slow  context.Context

	mu    sync.Mutex
	conns []net.Conn
	wait  sync.WaitGroup
}

// knockJob opens connections to a port, 16 at a time, and prints how many were made.
func knockJob(args []string) error {
	var port, connections int
	if err := integers(args, &port, &connections); err != nil {
		return err
	}
	if err := beElsewhere(); err != nil {
		return err
	}
	hello, err := clientHello()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &flood{port: port, slow: ctx, hello: hello}
	var made, next atomic.Int64
	var dialling sync.WaitGroup
	for range 16 {
		dialling.Go(func() {
			for n := int(next.Add(1)); n <= connections; n = int(next.Add(1)) {
				if f.connect(n) {
					made.Add(1)
				}
			}
		})
	}
	dialling.Wait()
	cancel()
	for _, c := range f.conns {
		c.Close()
	}
	f.wait.Wait()
	fmt.Println(made.Load())
	return nil
}

// beElsewhere has this process take no time from others, as if it were on another machine:
// where the kernel shares processors between sessions, its session has to give way too.
func beElsewhere() error {
	if _, err := unix.Setsid(); err != nil {
		return err
	}
	_ = os.WriteFile("/proc/self/autogroup", []byte("19"), 0) // not all kernels have it
	return unix.Setpriority(unix.PRIO_PGRP, 0, 19)            // all threads
}

// clientHello returns the first record that a client sends.
func clientHello() ([]byte, error) {
	here, there := net.Pipe()
	defer there.Close()
	go tls.Client(here, &tls.Config{ServerName: "server", NextProtos: []string{auth.ALPN}}).Handshake()
	head := make([]byte, 5)
	if _, err := io.ReadFull(there, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	_, err := io.ReadFull(there, body)
	return append(head, body...), err
}

// connect makes connection n, which is silent, sends half of a message, garbage, or
// its handshake byte by byte. It reports whether there is a connection.
func (f *flood) connect(n int) bool {
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+n%floodAddresses))}
	c, err := (&net.Dialer{LocalAddr: from}).DialContext(f.slow, "tcp", fmt.Sprintf("127.0.0.1:%d", f.port))
	if err != nil {
		return false // the backlog is full, or this machine has no ports left
	}
	f.mu.Lock()
	f.conns = append(f.conns, c)
	if len(f.conns) > 2000 { // this side has a limit of descriptors too
		f.conns[0].Close()
		f.conns = f.conns[1:]
	}
	f.mu.Unlock()
	switch n % 4 {
	case 1:
		_, _ = c.Write(f.hello[:len(f.hello)/2])
	case 2:
		_, _ = c.Write(bytes.Repeat([]byte{0x17, 0x03, 0x03, 0x40, 0x00}, 200))
	case 3:
		f.wait.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for i := range f.hello {
				select {
				case <-tick.C:
				case <-f.slow.Done():
					return
				}
				if _, err := c.Write(f.hello[i : i+1]); err != nil {
					return
				}
			}
		})
	}
	return true
}

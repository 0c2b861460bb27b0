package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

// server serves the exported tree, and can be killed.
type server interface {
	Port() string
	Start() error
	Kill()
	Stop()
}

// mounter is a client that mounts it.
type mounter interface {
	Mount(ctx context.Context) (*peers.Mounted, error)
}

// candidate is a file system that is broken.
type candidate struct {
	name, how string
	late      time.Duration // how long after its last close a file may take to reach the server
	set       func(*site) (server, func(port string) mounter)
}

var candidates = []candidate{
	{name: "rpycfs", how: "default options", set: func(s *site) (server, func(string) mounter) {
		d := &peers.Rpycfs{Bin: s.bin, State: s.path("state"), Tree: s.path("tree"), Mnt: s.path("mnt")}
		return d, func(port string) mounter { d.Via = port; return d }
	}},
	{name: "sshfs", how: "-o reconnect", set: withSSHFS("reconnect")},
	{name: "sshfs alive", how: "-o reconnect,ServerAliveInterval=5,ServerAliveCountMax=3",
		set: withSSHFS("reconnect", "ServerAliveInterval=5", "ServerAliveCountMax=3")},
	{name: "rclone", how: "mount over sftp, --vfs-cache-mode writes", late: 45 * time.Second,
		set: func(s *site) (server, func(string) mounter) {
			d := &peers.SSHServer{Dir: s.path("state")}
			return d, func(port string) mounter {
				return &peers.Rclone{Server: d, Tree: s.path("tree"), Mnt: s.path("mnt"), Cache: s.path("cache"), Via: port}
			}
		}},
}

func withSSHFS(options ...string) func(*site) (server, func(string) mounter) {
	return func(s *site) (server, func(string) mounter) {
		d := &peers.SSHServer{Dir: s.path("state")}
		return d, func(port string) mounter {
			return &peers.SSHFS{Server: d, Tree: s.path("tree"), Mnt: s.path("mnt"), Options: options, Via: port}
		}
	}
}

// fault is what is done to a connection or a server. do returns when it is mended.
type fault struct {
	name string
	do   func(context.Context, *proxy, server) error
}

var faults = []fault{
	{"reset", func(_ context.Context, p *proxy, _ server) error { p.cut(); return nil }},
	{"half-closed", func(_ context.Context, p *proxy, _ server) error { p.halfClose(); return nil }},
	{"nothing passes for 20 s", func(ctx context.Context, p *proxy, _ server) error {
		defer p.stall()()
		return wait(ctx, 20*time.Second)
	}},
	{"server killed, started again", func(_ context.Context, _ *proxy, s server) error {
		s.Kill()
		return s.Start()
	}},
	{"server away for 30 s", func(ctx context.Context, _ *proxy, s server) error {
		s.Kill()
		if err := wait(ctx, 30*time.Second); err != nil {
			return err
		}
		return s.Start()
	}},
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// site is one file system with its server, in a directory of its own.
type site struct{ dir, bin string }

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// before is how long the programs work before the fault.
const before = 3 * time.Second

// measure lets the programs work on a file system, does something to it, and looks what
// has become of their work.
func (s *site) measure(ctx context.Context, f fault, of candidate) (c cell, err error) {
	c = cell{fault: f, peer: of}
	for _, name := range []string{"", "tree", "state", "mnt", "cache"} {
		if err := os.Mkdir(s.path(name), 0o700); err != nil {
			return c, err
		}
	}
	if err := prepare(s.path("tree")); err != nil {
		return c, err
	}
	server, client := of.set(s)
	if err := server.Start(); err != nil {
		return c, err
	}
	defer server.Stop()
	p, err := newProxy("127.0.0.1:" + server.Port())
	if err != nil {
		return c, err
	}
	defer p.close()
	starting, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	m, err := client(p.port()).Mount(starting)
	if err != nil {
		return c, err
	}
	defer m.Kill()
	w, err := startWorkers(m.Dir)
	if err != nil {
		return c, err
	}
	defer w.end(m)
	stop := context.AfterFunc(ctx, func() { w.end(m) })
	defer stop()
	if err := w.await(); err != nil {
		return c, err
	}
	if err := wait(ctx, before); err != nil {
		return c, err
	}
	if err := f.do(ctx, p, server); err != nil {
		return c, err
	}
	if c.outcomes, err = w.finish(); err != nil {
		return c, errors.Join(err, ctx.Err())
	}
	c.late, _ = losses(s.path("tree"), c.outcomes)
	w.end(m)
	for end := time.Now().Add(of.late); ; {
		c.lost, c.what = losses(s.path("tree"), c.outcomes)
		if c.lost == 0 || time.Now().After(end) {
			return c, nil
		}
		if err := wait(ctx, time.Second); err != nil {
			return c, err
		}
	}
}

// workers is the process of the programs.
type workers struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err bytes.Buffer

	ending sync.Once
}

func startWorkers(dir string) (w *workers, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w = &workers{cmd: exec.Command(exe, workArg, dir)}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.cmd.Stderr = &w.err
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	return w, w.cmd.Start()
}

// await waits until all programs work.
func (w *workers) await() error {
	if line, err := w.out.ReadString('\n'); err != nil {
		return fmt.Errorf("the programs: %q, %w: %s", line, err, &w.err)
	}
	return nil
}

// finish says that all is mended, and returns what the programs met.
func (w *workers) finish() (outcomes map[string]outcome, err error) {
	if _, err := io.WriteString(w.in, "mended\n"); err != nil {
		return nil, err
	}
	if outcomes, err = decode(w.out); err != nil {
		return nil, fmt.Errorf("the programs: %w: %s", err, &w.err)
	}
	return outcomes, nil
}

func decode(r io.Reader) (outcomes map[string]outcome, err error) {
	err = json.NewDecoder(r).Decode(&outcomes)
	return outcomes, err
}

// end ends the process, and the mount first if that holds it up.
func (w *workers) end(m *peers.Mounted) {
	w.ending.Do(func() {
		w.in.Close()
		w.cmd.Process.Kill()
		late := time.AfterFunc(3*time.Second, m.Kill)
		defer late.Stop()
		w.cmd.Wait()
	})
}

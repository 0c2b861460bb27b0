// Package rpycfsd is the daemon: it accepts connections, has them authenticated,
// keeps the sessions that they belong to, and puts the services together.
package rpycfsd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpycfsd/export"
)

// Memory of payloads in flight, in bytes: of the whole daemon, and of one user.
const (
	budgetTotal = 512 << 20
	budgetShare = 128 << 20
)

// stopTimeout is how long running calls have at the end.
const stopTimeout = 4 * time.Second

var errShutdown = errors.New("the daemon is shutting down")

// Config describes a daemon.
type Config struct {
	Path     string // directory to export
	ReadOnly bool
	RunAs    uint8          // whose rights decide: fsproto.RunAsDaemon, RunAsAccount or RunAsCaller
	Listen   []string       // host:port or unix:PATH
	Sockets  []net.Listener // that listen already; the daemon closes them
	State    string         // directory for what the daemon keeps; made if missing
	Users    *auth.Users
	// Keeper is the command that keeps open files while no daemon runs: it finds a
	// listening socket as descriptor 3 and calls keeper.Run. Empty: nobody does.
	Keeper  []string
	TLSCert string // certificate and key files to use in place of the key in State
	TLSKey  string
	Chat    ChatConfig
	// SessionGrace is how long a client's session outlasts its connection, LockGrace
	// how long its locks do; 0: 10 minutes, 30 s.
	SessionGrace, LockGrace time.Duration
	Log                     *slog.Logger
}

// Daemon is a daemon that listens. Serve runs it.
type Daemon struct {
	cfg       Config
	key       auth.Key
	kept      *kept
	export    *export.Export
	chat      *chat
	sessions  *sessions
	auth      *auth.Server
	listeners []net.Listener
	serving   sync.WaitGroup
}

// New opens the export, loads or makes the keys and listens. The error is one
// line that says what to do.
func New(cfg Config) (*Daemon, error) {
	d := &Daemon{cfg: cfg, listeners: slices.Clone(cfg.Sockets)}
	if err := d.open(); err != nil {
		d.closeAll()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open() error {
	cfg := &d.cfg
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		return fmt.Errorf("state directory: %w; choose another with --state", err)
	}
	handleKey, err := loadHandleKey(filepath.Join(cfg.State, "handle.key"))
	if err != nil {
		return err
	}
	if cfg.TLSCert != "" {
		d.key, err = auth.LoadTLSKey(cfg.TLSCert, cfg.TLSKey)
	} else {
		d.key, err = auth.LoadOrCreateKey(cfg.State)
	}
	if err != nil {
		return err
	}
	for _, address := range cfg.Listen {
		ln, err := listen(address)
		if err != nil {
			return fmt.Errorf("cannot listen on %s: %w", address, err)
		}
		d.listeners = append(d.listeners, ln)
	}
	if d.kept, err = openKept(cfg); err != nil {
		return err
	}
	d.export, err = export.Open(export.Config{
		Path: cfg.Path, ReadOnly: cfg.ReadOnly, RunAs: cfg.RunAs, Key: handleKey, Logger: cfg.Log, Keep: d.kept.forExport(),
	})
	if err != nil {
		return err
	}
	if d.chat, err = openChat(cfg.Chat, cfg.State, cfg.Users, cfg.Log); err != nil {
		return err
	}
	d.sessions = newSessions(cfg, d.export, d.chat, d.kept)
	d.sessions.recover(cfg.Users)
	d.auth = &auth.Server{Key: d.key, Users: cfg.Users, Sessions: d.sessions, Logger: cfg.Log, Features: rpc.FeatureCompress}
	return nil
}

func listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(path)
	}
	lc := net.ListenConfig{KeepAlive: -1} // sessions have a ping of their own
	return lc.Listen(context.Background(), "tcp", address)
}

// listenUnix listens on a socket, which may be left over from a daemon that was killed.
func listenUnix(path string) (net.Listener, error) {
	ln, err := net.Listen("unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	conn, dialErr := net.Dial("unix", path)
	if dialErr == nil {
		conn.Close()
	}
	if !errors.Is(dialErr, syscall.ECONNREFUSED) {
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// loadHandleKey reads the key that authenticates file handles, making it at
// first start.
func loadHandleKey(path string) (key [32]byte, err error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		rand.Read(key[:])
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return loadHandleKey(path) // another daemon was faster
		}
		if err != nil {
			return key, err
		}
		_, err = f.Write(key[:])
		return key, errors.Join(err, f.Sync(), f.Close())
	case err != nil:
		return key, err
	case len(b) != len(key):
		return key, fmt.Errorf("%s: %d bytes where %d belong; remove it to have it made anew", path, len(b), len(key))
	}
	return [32]byte(b), nil
}

// Addrs returns the addresses that the daemon listens on.
func (d *Daemon) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(d.listeners))
	for i, ln := range d.listeners {
		addrs[i] = ln.Addr()
	}
	return addrs
}

// Fingerprint returns the fingerprint of the server's key.
func (d *Daemon) Fingerprint() string { return d.key.Fingerprint() }

// Serve serves until ctx ends; then it stops accepting, finishes the calls that
// run and ends all sessions. It returns within 5 seconds of that.
func (d *Daemon) Serve(ctx context.Context) error {
	var accepting sync.WaitGroup
	failed := make(chan error, len(d.listeners))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, ln := range d.listeners {
		accepting.Go(func() {
			if err := d.accept(ctx, ln); err != nil {
				failed <- err
				cancel()
			}
		})
	}
	<-ctx.Done()
	for _, ln := range d.listeners {
		ln.Close()
	}
	accepting.Wait()
	stop, done := context.WithTimeout(context.Background(), stopTimeout)
	defer done()
	d.chat.stop(stop)
	d.sessions.close(stop)
	d.serving.Wait()
	d.closeAll()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// accept takes in connections until the listener is closed. It waits when there
// are no descriptors left.
func (d *Daemon) accept(ctx context.Context, ln net.Listener) error {
	for {
		nc, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				nc.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("listening on %s: %w", ln.Addr(), err)
			}
			d.cfg.Log.Warn("cannot accept a connection", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		d.serving.Go(func() { d.serve(ctx, nc) })
	}
}

func (d *Daemon) serve(ctx context.Context, nc net.Conn) {
	remote := nc.RemoteAddr()
	conn, err := d.auth.Handshake(ctx, nc)
	if err != nil {
		d.cfg.Log.Info("connection refused", "from", remote, "err", err)
		return
	}
	d.sessions.serve(conn)
}

func (d *Daemon) closeAll() {
	for _, ln := range d.listeners {
		ln.Close()
	}
	d.chat.close(d.cfg.Log)
	if d.export != nil {
		d.export.Close()
	}
	d.kept.close()
}

package e2e

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpycfsd"
)

// daemonInProcess serves dir to user foo, password bar, until the test ends.
func daemonInProcess(t *testing.T, dir string, set ...func(*rpycfsd.Config)) *rpycfsd.Daemon {
	t.Helper()
	users := auth.NewUsers()
	must(t, users.SetPassword("foo", "bar"))
	cfg := rpycfsd.Config{
		Path: dir, Listen: []string{"127.0.0.1:0"}, State: t.TempDir(), Users: users, Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range set {
		f(&cfg)
	}
	d, err := rpycfsd.New(cfg)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return d
}

// dialAt logs in at a port and attaches the root.
func dialAt(t *testing.T, d *rpycfsd.Daemon, port int) *client.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	s, err := client.Dial(ctx, client.Config{Address: address, Joined: 2, Auth: &auth.Client{
		Host: address, User: "foo", Fingerprint: d.Fingerprint(), Password: func() (string, error) { return "bar", nil },
	}})
	must(t, err)
	must(t, rpc.Call(ctx, s.Peer(), fsproto.Attach, &fsproto.AttachReq{}, new(fsproto.AttachRes)))
	return s
}

func portOf(d *rpycfsd.Daemon) int { return d.Addrs()[0].(*net.TCPAddr).Port }

// TestSessionResumes cuts the connection of a session: what it holds is there
// afterwards, and only then.
func TestSessionResumes(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644))
	d := daemonInProcess(t, dir)
	p := newProxy(t, portOf(d), false)
	s := dialAt(t, d, p.port)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	var found fsproto.LookupRes
	must(t, rpc.Call(ctx, s.Peer(), fsproto.Lookup, &fsproto.LookupReq{Parent: fsproto.RootNode, Name: "file"}, &found))
	open := fsproto.OpenReq{Node: found.Entry.Node, Handle: 7}
	must(t, rpc.Call(ctx, s.Peer(), fsproto.Open, &open, new(fsproto.OpenRes)))
	must(t, os.Remove(filepath.Join(dir, "file")))
	before := s.State().Epoch
	if p.cut() == 0 {
		t.Fatal("there was nothing to cut")
	}
	into := make([]byte, 10)
	n, err := rpc.CallWith(ctx, s.Peer(), fsproto.Read, &fsproto.ReadReq{Handle: 7, Size: 10}, new(fsproto.AttrRes), rpc.Extra{Into: into})
	if err != nil || string(into[:n]) != "content" {
		t.Errorf("the open file after the cut: %q, %v", into[:n], err)
	}
	if now := s.State(); now.Epoch <= before || !now.Connected {
		t.Errorf("state %+v after epoch %d", now, before)
	}
	must(t, s.Close(ctx))

	other := dialAt(t, d, portOf(d))
	defer other.Close(ctx)
	_, err = rpc.CallWith(ctx, other.Peer(), fsproto.Read, &fsproto.ReadReq{Handle: 7, Size: 10}, new(fsproto.AttrRes), rpc.Extra{Into: into})
	if !errors.Is(err, syscall.EBADF) {
		t.Errorf("another session reads through the handle: %v", err)
	}
}

// TestSessionEnds logs out: the session is over on both sides, and a daemon
// that has forgotten a session ends it at the client as well.
func TestSessionEnds(t *testing.T) {
	d := daemonInProcess(t, t.TempDir())
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s := dialAt(t, d, portOf(d))
	must(t, s.Close(ctx))
	<-s.Done()
	if err := rpc.Call(ctx, s.Peer(), fsproto.Getattr, &fsproto.GetattrReq{Node: fsproto.RootNode}, new(fsproto.AttrRes)); !errors.Is(err, rpc.ErrGone) {
		t.Errorf("a call after the log-out: %v", err)
	}

	p := newProxy(t, portOf(d), false)
	s = dialAt(t, d, p.port)
	defer s.Close(ctx)
	must(t, s.Peer().Logout(ctx)) // behind the client's back
	select {
	case <-s.Done():
	case <-ctx.Done():
		t.Fatal("the client goes on with a session that the daemon has ended")
	}
}

// TestSessionGrace: who comes back later than --session-grace is told that the session
// is over.
func TestSessionGrace(t *testing.T) {
	d := daemonInProcess(t, t.TempDir(), func(cfg *rpycfsd.Config) { cfg.SessionGrace = time.Millisecond })
	p := newProxy(t, portOf(d), false)
	s := dialAt(t, d, p.port)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer s.Close(ctx)
	over := eventually(patience, func() bool {
		p.cut()
		select {
		case <-s.Done():
			return true
		default:
			return false
		}
	})
	if !over {
		t.Error("the session outlives its grace")
	}
}

// TestSessionRoams: a connection that stands still is given up when the network has
// changed, and the session goes on over another one. One that answers is kept.
func TestSessionRoams(t *testing.T) {
	d := daemonInProcess(t, t.TempDir())
	p := newProxy(t, portOf(d), false)
	s := dialAt(t, d, p.port)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	defer s.Close(ctx)

	const settled = 250 * time.Millisecond // what has changed is gathered for a while
	asked := time.Now()
	s.Changed("a test")
	if !eventually(patience, func() bool { return s.Peer().Heard().Sub(asked) > settled }) {
		t.Error("nobody was asked whether the connection stands")
	}
	before := s.State()
	if !before.Connected || before.Epoch != 1 {
		t.Errorf("a connection that answers was given up: %+v", before)
	}
	p.stall(true)
	s.Changed("another test")
	if !eventually(patience, func() bool { return !s.State().Connected }) {
		t.Error("the connection is not given up")
	}
	if err := s.State().LastError; err == nil || !strings.Contains(err.Error(), "after a change") {
		t.Errorf("it was given up because of: %v", err)
	}
	p.stall(false)
	must(t, rpc.Call(ctx, s.Peer(), fsproto.Getattr, &fsproto.GetattrReq{Node: fsproto.RootNode}, new(fsproto.AttrRes)))
	if now := s.State(); !now.Connected || now.Epoch == before.Epoch {
		t.Errorf("afterwards %+v", now)
	}
}

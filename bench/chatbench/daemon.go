package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/rpycfsd"
)

// setUp is what a daemon is told.
type setUp struct {
	Dir   string   // where its state and the exported tree are
	Users []string // who may log in
	Key   string   // the key that all of them log in with, as authorized_keys has it
	// Password is that of mountUser, if he is among them.
	Password string
}

// place is where clients find the daemon.
type place struct{ Address, Fingerprint string }

// server is the daemon in a process of its own, run as rpycfsd runs it, so that
// its memory and its profiles can be asked for.
type server struct {
	cancel  context.CancelFunc
	served  chan error
	profile *os.File
}

func (s *server) methods() methods {
	return methods{
		"serve":    method(s.serve),
		"memory":   method(s.memory),
		"resident": method(func(none) (uint64, error) { return residentSet() }),
		"profile":  method(s.startProfile),
		"heap":     method(s.heap),
		"stop":     method(s.stop),
	}
}

func (s *server) serve(a setUp) (place, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(a.Key))
	if err != nil {
		return place{}, err
	}
	users := auth.NewUsers()
	for _, name := range a.Users {
		if err := users.Add(auth.User{Name: name, Keys: []auth.AuthorizedKey{{Key: key}}}); err != nil {
			return place{}, err
		}
		if name == mountUser {
			if err := users.SetPassword(name, a.Password); err != nil {
				return place{}, err
			}
		}
	}
	tree := filepath.Join(a.Dir, "tree")
	if err := os.MkdirAll(tree, 0o700); err != nil {
		return place{}, err
	}
	d, err := rpycfsd.New(rpycfsd.Config{
		Path: tree, Listen: []string{"127.0.0.1:0"}, State: filepath.Join(a.Dir, "state"), Users: users,
		Chat: rpycfsd.ChatConfig{Rate: -1}, // as fast as it goes
		Log:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return place{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.served = cancel, make(chan error, 1)
	go func() { s.served <- d.Serve(ctx) }()
	return place{d.Addrs()[0].String(), d.Fingerprint()}, nil
}

// memory is what the daemon occupies, in bytes.
type memory struct {
	Heap, Stack, RSS uint64
	Goroutines       int
}

// memory measures after a collection, once what connections leave behind in
// the pools has been given back.
func (s *server) memory(none) (memory, error) {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	rss, err := residentSet()
	return memory{m.HeapAlloc, m.StackInuse, rss, runtime.NumGoroutine()}, err
}

func (m memory) minus(old memory) memory {
	return memory{m.Heap - old.Heap, m.Stack - old.Stack, m.RSS - old.RSS, m.Goroutines - old.Goroutines}
}

// residentSet returns the memory of this process that is in RAM.
func residentSet() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == "VmRSS:" {
			n, err := strconv.ParseUint(string(f[1]), 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("no VmRSS in /proc/self/status")
}

// startProfile writes a CPU profile to the file named, until it is called again
// with no name.
func (s *server) startProfile(name string) (none, error) {
	if s.profile != nil {
		pprof.StopCPUProfile()
		err := s.profile.Close()
		s.profile = nil
		return none{}, err
	}
	if name == "" {
		return none{}, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return none{}, err
	}
	s.profile = f
	return none{}, pprof.StartCPUProfile(f)
}

// heap writes profiles of what lives to name.heap and name.goroutines.
func (s *server) heap(name string) (none, error) {
	runtime.GC()
	for _, kind := range []string{"heap", "goroutine"} {
		f, err := os.Create(name + "." + kind)
		if err != nil {
			return none{}, err
		}
		if err := errors.Join(pprof.Lookup(kind).WriteTo(f, 0), f.Close()); err != nil {
			return none{}, err
		}
	}
	return none{}, nil
}

func (s *server) stop(none) (none, error) {
	if s.cancel == nil {
		return none{}, nil
	}
	s.cancel()
	select {
	case err := <-s.served:
		return none{}, err
	case <-time.After(10 * time.Second):
		return none{}, fmt.Errorf("the daemon does not stop")
	}
}

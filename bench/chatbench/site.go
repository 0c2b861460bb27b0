package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
)

// site is a daemon with its directory and the client processes of one part.
type site struct {
	o        *options
	rep      *report
	part     string
	progress io.Writer

	dir      string
	login    login
	key      string // what authorized_keys has of it
	daemon   *child
	children []*child // of clients
	cleanup  []func() error
}

// newSite makes a directory. close removes it.
func newSite(o *options, rep *report, part string, progress io.Writer) (*site, error) {
	s := &site{o: o, rep: rep, part: part, progress: progress}
	s.login.Seed = make([]byte, ed25519.SeedSize)
	rand.Read(s.login.Seed)
	public, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(s.login.Seed).Public())
	if err != nil {
		return nil, err
	}
	s.key = string(ssh.MarshalAuthorizedKey(public))
	s.dir, err = os.MkdirTemp(o.dir, "chatbench-")
	return s, err
}

func (s *site) state() string { return filepath.Join(s.dir, "state") }

// serve starts a daemon for these users.
func (s *site) serve(users ...[]string) error {
	set := setUp{Dir: s.dir, Key: s.key, Password: benchPassword}
	for _, some := range users {
		set.Users = append(set.Users, some...)
	}
	var err error
	if s.daemon, err = startChild("daemon"); err != nil {
		return err
	}
	return s.daemon.ask("serve", set, &s.login.place)
}

// start starts a client process with a session of each user.
func (s *site) start(users []string) (*child, error) {
	c, err := startChild("clients")
	if err != nil {
		return nil, err
	}
	s.children = append(s.children, c)
	return c, c.ask("dial", dialArgs{s.login, users}, nil)
}

// room starts client processes with attached listeners in a room, which the
// first session makes.
func (s *site) room(name string, users ...[]string) ([]*child, error) {
	var all []*child
	for i, some := range users {
		c, err := s.start(some)
		if err == nil {
			err = c.ask("attach", none{}, nil)
		}
		if err == nil && i == 0 {
			err = c.ask("join", joinArgs{Room: name, Create: len(some) == 1}, nil)
		} else if err == nil {
			err = c.ask("join", joinArgs{Room: name}, nil)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// memory asks for the daemon's memory once all is quiet: buffers are given back
// after some pings.
func (s *site) memory() (m memory, err error) {
	time.Sleep(s.o.quiet)
	return m, s.daemon.ask("memory", none{}, &m)
}

// profile writes a CPU profile of the daemon for as long as f runs, if wanted.
func (s *site) profile(name string, f func() error) error {
	if s.o.profile == "" {
		return f()
	}
	if err := s.daemon.ask("profile", s.o.profile+name+".pprof", nil); err != nil {
		return err
	}
	return errors.Join(f(), s.daemon.ask("profile", "", nil))
}

// step says what is being done.
func (s *site) step(format string, args ...any) {
	fmt.Fprintf(s.progress, "\r\033[K%s: %s", s.part, fmt.Sprintf(format, args...))
}

// close ends everything and removes the directory.
func (s *site) close() error {
	var err error
	for i := len(s.cleanup) - 1; i >= 0; i-- {
		err = errors.Join(err, s.cleanup[i]())
	}
	for _, c := range s.children {
		err = errors.Join(err, c.close())
	}
	if s.daemon != nil {
		err = errors.Join(err, s.daemon.ask("stop", none{}, nil), s.daemon.close())
	}
	fmt.Fprint(s.progress, "\r\033[K")
	return errors.Join(err, os.RemoveAll(s.dir))
}

// names returns names of n users.
func names(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%04d", prefix, i)
	}
	return all
}

// resetAll begins a new count in all processes.
func resetAll(children []*child) error {
	return each(children, func(_ int, c *child) error { return c.ask("reset", none{}, nil) })
}

// awaitAll waits until every session of the processes has this many messages.
func awaitAll(children []*child, want int) (arrivals, error) {
	got := make([]arrivals, len(children))
	err := each(children, func(i int, c *child) error { return c.ask("arrived", uint64(want), &got[i]) })
	sum := arrivals{Least: ^uint64(0), Delays: delays{}}
	for _, a := range got {
		sum.add(a)
	}
	return sum, err
}

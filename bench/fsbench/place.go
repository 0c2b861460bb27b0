package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

// place is a network namespace: a thread of ours stays in it, and what is done
// there is done on that thread. The nil place is the one that we are in.
type place struct {
	do func(func())
	ns *os.File
}

// newPlace makes a namespace with nothing but a loopback interface.
func newPlace() (*place, error) {
	p, err := enterPlace(nil)
	if err != nil {
		return nil, err
	}
	p.do(func() { err = ip("link", "set", "lo", "up") })
	return p, err
}

// enterPlace puts a thread into the namespace ns, or into a new one.
func enterPlace(ns *os.File) (*place, error) {
	work := make(chan func())
	ready := make(chan error)
	p := &place{ns: ns, do: func(f func()) {
		done := make(chan struct{})
		work <- func() { defer close(done); f() }
		<-done
	}}
	go func() {
		runtime.LockOSThread() // for good: this thread is nowhere else any more
		var err error
		if ns != nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		} else if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			p.ns, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		for f := range work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return p, nil
}

// in runs f in p.
func (p *place) in(f func()) {
	if p == nil {
		f()
		return
	}
	p.do(f)
}

func (p *place) listen(addr string) (l net.Listener, err error) {
	p.in(func() { l, err = net.Listen("tcp", addr) })
	return l, err
}

func (p *place) dial(addr string) (c net.Conn, err error) {
	p.in(func() { c, err = net.DialTimeout("tcp", addr, 5*time.Second) })
	return c, err
}

// freePort returns a port that is free at host in p.
func (p *place) freePort(host string) (port string, err error) {
	p.in(func() { port, err = peers.FreePort(host) })
	return port, err
}

// reached reports whether host answers p at all, if only by a refusal.
func (p *place) reached(host string) bool {
	c, err := p.dial(net.JoinHostPort(host, "1"))
	if err == nil {
		c.Close()
	}
	return err == nil || errors.Is(err, syscall.ECONNREFUSED)
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return nil
}

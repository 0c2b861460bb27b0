package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// peer is a way to reach the exported tree.
type peer interface {
	name() string
	// mount starts a new server, where there is one, and a new client.
	mount(ctx context.Context, c *cell) (*mounted, error)
}

// cell is where one peer is measured: a link, both sides of it, and a fresh
// directory for keys, caches and the like.
type cell struct {
	link           *link
	client, server spawn
	tree           string // exported
	mnt            string // an empty directory
	tmp            string
}

// mounted is a tree that can be used. A mount has a process of its own, except
// for the local directory.
type mounted struct {
	dir    string
	proc   *process // nil for the local directory
	server *process // nil where there is none

	settle func(context.Context) error              // waits until what was written is at the server; nil: it is
	calls  func(ctx context.Context) (Calls, error) // counts what was asked; nil: not known
}

// local is the exported directory itself.
type local struct{}

func (local) name() string { return peerLocal }

func (local) mount(_ context.Context, c *cell) (*mounted, error) { return &mounted{dir: c.tree}, nil }

// process is a child of ours that does not outlive us.
type process struct {
	cmd  *exec.Cmd
	out  bytes.Buffer // what it said; read after done
	done chan struct{}
	err  error
}

// spawn says how a process is started. The zero value is a plain child.
type spawn struct {
	place *place
	group *group
	env   []string   // added to ours
	files []*os.File // from descriptor 3 on
}

func (s spawn) with(env ...string) spawn {
	s.env = append(s.env[:len(s.env):len(s.env)], env...)
	return s
}

// start runs a program.
func (s spawn) start(name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), s.env...)
	p.cmd.ExtraFiles = s.files
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if s.group != nil {
		p.cmd.SysProcAttr.UseCgroupFD = true
		p.cmd.SysProcAttr.CgroupFD = int(s.group.file.Fd())
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = time.Second
	var err error
	s.place.in(func() { err = p.cmd.Start() })
	if err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// run runs a program to its end and returns what it says.
func (s spawn) run(ctx context.Context, name string, args ...string) (out []byte, err error) {
	p, err := s.start(name, args...)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	<-p.done
	if p.err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", p.cmd, p.err, &p.out)
	}
	return p.out.Bytes(), nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks the process to end, insists after five seconds, and waits.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.kill()
	}
}

// kill ends the process and its children, and waits.
func (p *process) kill() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// awaitMount waits until dir is a mount point that answers.
func awaitMount(ctx context.Context, dir string, p, server *process) (*mounted, error) {
	m := &mounted{dir: dir, proc: p, server: server}
	for !isMount(dir) {
		select {
		case <-p.done:
			m.kill()
			return nil, fmt.Errorf("%s ended: %v\n%s", p.cmd.Path, p.err, &p.out)
		case <-ctx.Done():
			m.kill()
			return nil, fmt.Errorf("%s does not mount: %w", p.cmd.Path, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
	if _, err := os.ReadDir(dir); err != nil {
		return nil, errors.Join(err, m.unmount())
	}
	return m, nil
}

func isMount(dir string) bool {
	var here, above syscall.Stat_t
	if syscall.Stat(dir, &here) != nil || syscall.Stat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}

// unmount unmounts, waits for the process of the mount and ends the server. If that takes more
// than 20 s, or the directory is still busy after 5, it is an error, and the
// mount is taken down all the same.
func (m *mounted) unmount() error {
	if m.proc == nil {
		return nil
	}
	if m.server != nil {
		defer m.server.stop()
	}
	err := syscall.Unmount(m.dir, 0)
	for until := time.Now().Add(5 * time.Second); err == syscall.EBUSY && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
		err = syscall.Unmount(m.dir, 0)
	}
	if err != nil {
		m.kill()
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	select {
	case <-m.proc.done:
		return nil
	case <-time.After(20 * time.Second):
		m.proc.cmd.Process.Signal(syscall.SIGQUIT) // a Go program tells where it hangs
		select {
		case <-m.proc.done:
		case <-time.After(2 * time.Second):
		}
		m.kill()
		return fmt.Errorf("%s stays after its mount has gone\n%s", m.proc.cmd.Path, &m.proc.out)
	}
}

// kill takes the mount down by force: whoever waits in it gets an error.
func (m *mounted) kill() {
	if m.proc == nil {
		return
	}
	m.proc.kill()
	if m.server != nil {
		m.server.kill()
	}
	syscall.Unmount(m.dir, syscall.MNT_DETACH)
}

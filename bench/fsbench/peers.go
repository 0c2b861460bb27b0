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
	mount(ctx context.Context) (*mounted, error)
}

// mounted is a tree that can be used. A mount has a process of its own, except
// for the local directory.
type mounted struct {
	dir  string
	proc *process // nil for the local directory
}

// local is the exported directory itself.
type local struct{ dir string }

func (l local) name() string { return peerLocal }

func (l local) mount(context.Context) (*mounted, error) { return &mounted{dir: l.dir}, nil }

// process is a child of ours that does not outlive us.
type process struct {
	cmd  *exec.Cmd
	out  bytes.Buffer // what it said; read after done
	done chan struct{}
	err  error
}

// start runs a program; env is added to our environment.
func start(env []string, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
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
func awaitMount(ctx context.Context, dir string, p *process) (*mounted, error) {
	m := &mounted{dir: dir, proc: p}
	for !isMount(dir) {
		select {
		case <-p.done:
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

// unmount unmounts and waits for the process of the mount. If that takes more
// than 20 s, or the directory is still busy after 5, it is an error, and the
// mount is taken down all the same.
func (m *mounted) unmount() error {
	if m.proc == nil {
		return nil
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
	syscall.Unmount(m.dir, syscall.MNT_DETACH)
}

// Package peers starts the servers that are compared, and mounts what they serve.
package peers

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Mounted is a tree that can be used. A mount has a process of its own, except
// for the local directory.
type Mounted struct {
	Dir  string
	Proc *Process // nil for the local directory
}

// Process is a child of ours that does not outlive us.
type Process struct {
	Cmd  *exec.Cmd
	Out  bytes.Buffer // what it said; read after Done
	Done chan struct{}
	Err  error
}

// Spawn says how a process is started. The zero value is a plain child.
type Spawn struct {
	In    func(func()) // runs what it is given in another network namespace
	Group *os.File     // the control group that it belongs to
	Env   []string     // added to ours
	Files []*os.File   // from descriptor 3 on
}

// With returns s with more in the environment.
func (s Spawn) With(env ...string) Spawn {
	s.Env = slices.Concat(s.Env, env)
	return s
}

// Start runs a program.
func (s Spawn) Start(name string, args ...string) (*Process, error) {
	p := &Process{Cmd: exec.Command(name, args...), Done: make(chan struct{})}
	p.Cmd.Env = append(os.Environ(), s.Env...)
	p.Cmd.ExtraFiles = s.Files
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if s.Group != nil {
		p.Cmd.SysProcAttr.UseCgroupFD, p.Cmd.SysProcAttr.CgroupFD = true, int(s.Group.Fd())
	}
	p.Cmd.Stdout, p.Cmd.Stderr = &p.Out, &p.Out
	p.Cmd.WaitDelay = time.Second
	var err error
	s.do(func() { err = p.Cmd.Start() })
	if err != nil {
		return nil, err
	}
	go func() {
		p.Err = p.Cmd.Wait()
		close(p.Done)
	}()
	return p, nil
}

// do runs f where processes are started.
func (s Spawn) do(f func()) {
	if s.In == nil {
		f()
		return
	}
	s.In(f)
}

// Run runs a program to its end and returns what it says.
func (s Spawn) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	p, err := s.Start(name, args...)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, p.Kill)
	defer stop()
	<-p.Done
	if p.Err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", p.Cmd, p.Err, &p.Out)
	}
	return p.Out.Bytes(), nil
}

// Ends are the two sides of a peer. The zero value is this machine on both, over
// loopback.
type Ends struct {
	Host           string // of the server
	Client, Server Spawn
}

func (e *Ends) host() string { return cmp.Or(e.Host, "127.0.0.1") }

// freePort returns a port that nothing listens on at the server.
func (e *Ends) freePort() (port string, err error) {
	e.Server.do(func() { port, err = FreePort(e.host()) })
	return port, err
}

// awaitPort waits until the client's side reaches a port of the server, at most 10 s.
func (e *Ends) awaitPort(port string, p *Process) error {
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
		var c net.Conn
		var err error
		e.Client.do(func() { c, err = net.DialTimeout("tcp", net.JoinHostPort(e.host(), port), time.Second) })
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.Done:
			return fmt.Errorf("%s ended: %v\n%s", p.Cmd.Path, p.Err, &p.Out)
		case <-time.After(10 * time.Millisecond):
		}
	}
	p.Stop()
	return fmt.Errorf("%s does not listen", p.Cmd.Path)
}

// FreePort returns a port that nothing listens on.
func FreePort(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// Stop asks the process to end, insists after five seconds, and waits.
func (p *Process) Stop() {
	p.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.Done:
	case <-time.After(5 * time.Second):
		p.Kill()
	}
}

// Kill ends the process and its children, and waits.
func (p *Process) Kill() {
	syscall.Kill(-p.Cmd.Process.Pid, syscall.SIGKILL)
	<-p.Done
}

// AwaitMount waits until dir is a mount point that answers.
func AwaitMount(ctx context.Context, dir string, p *Process) (*Mounted, error) {
	m := &Mounted{Dir: dir, Proc: p}
	for !IsMount(dir) {
		select {
		case <-p.Done:
			return nil, fmt.Errorf("%s ended: %v\n%s", p.Cmd.Path, p.Err, &p.Out)
		case <-ctx.Done():
			m.Kill()
			return nil, fmt.Errorf("%s does not mount: %w", p.Cmd.Path, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
	if _, err := os.ReadDir(dir); err != nil {
		return nil, errors.Join(err, m.Unmount())
	}
	return m, nil
}

// IsMount reports whether something is mounted on dir.
func IsMount(dir string) bool {
	var here, above syscall.Stat_t
	if syscall.Stat(dir, &here) != nil || syscall.Stat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}

// Unmount unmounts and waits for the process of the mount. If that takes more
// than 20 s, or the directory is still busy after 5, it is an error, and the
// mount is taken down all the same.
func (m *Mounted) Unmount() error {
	if m.Proc == nil {
		return nil
	}
	err := syscall.Unmount(m.Dir, 0)
	for until := time.Now().Add(5 * time.Second); err == syscall.EBUSY && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
		err = syscall.Unmount(m.Dir, 0)
	}
	if err != nil {
		m.Kill()
		return fmt.Errorf("unmount %s: %w", m.Dir, err)
	}
	select {
	case <-m.Proc.Done:
		return nil
	case <-time.After(20 * time.Second):
		m.Proc.Cmd.Process.Signal(syscall.SIGQUIT) // a Go program tells where it hangs
		select {
		case <-m.Proc.Done:
		case <-time.After(2 * time.Second):
		}
		m.Kill()
		return fmt.Errorf("%s stays after its mount has gone\n%s", m.Proc.Cmd.Path, &m.Proc.Out)
	}
}

// Kill takes the mount down by force: whoever waits in it gets an error.
func (m *Mounted) Kill() {
	if m.Proc == nil {
		return
	}
	m.Proc.Kill()
	syscall.Unmount(m.Dir, syscall.MNT_DETACH)
}

// EnterNamespace runs the program again in a mount namespace of its own. Its
// mounts vanish with it then; and no namespace that somebody else makes
// meanwhile gets a copy of them, which would keep them alive after umount.
func EnterNamespace() error {
	const done = "RPYCFS_BENCH_NAMESPACE"
	if os.Getenv(done) != "" {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	args := append([]string{"unshare", "--mount", "--propagation", "private", exe}, os.Args[1:]...)
	return syscall.Exec(unshare, args, append(os.Environ(), done+"=1"))
}

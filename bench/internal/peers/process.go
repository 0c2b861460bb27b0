// Package peers starts the servers that are compared, and mounts what they serve.
package peers

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

// Start runs a program; env is added to our environment.
func Start(env []string, name string, args ...string) (*Process, error) {
	p := &Process{Cmd: exec.Command(name, args...), Done: make(chan struct{})}
	p.Cmd.Env = append(os.Environ(), env...)
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p.Cmd.Stdout, p.Cmd.Stderr = &p.Out, &p.Out
	p.Cmd.WaitDelay = time.Second
	if err := p.Cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.Err = p.Cmd.Wait()
		close(p.Done)
	}()
	return p, nil
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

// awaitMount waits until dir is a mount point that answers.
func awaitMount(ctx context.Context, dir string, p *Process) (*Mounted, error) {
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

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// sshServer is a real sshd on loopback with keys of its own in dir.
type sshServer struct {
	dir  string
	proc *process // once it has been started
	port string
}

func (s *sshServer) userKey() string { return filepath.Join(s.dir, "user_key") }

func (s *sshServer) knownHosts() string { return filepath.Join(s.dir, "known_hosts") }

// start starts sshd in the foreground unless it runs.
func (s *sshServer) start() error {
	if s.proc != nil {
		return nil
	}
	hostKey := filepath.Join(s.dir, "host_key")
	for _, key := range []string{hostKey, s.userKey()} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	var err error
	if s.port, err = freePort(); err != nil {
		return err
	}
	pub, err := os.ReadFile(hostKey + ".pub")
	if err != nil {
		return err
	}
	known := fmt.Sprintf("[127.0.0.1]:%s %s", s.port, pub)
	if err := os.WriteFile(s.knownHosts(), []byte(known), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // its privilege separation wants it
		return err
	}
	conf := filepath.Join(s.dir, "sshd_config")
	if err := os.WriteFile(conf, []byte(s.config(hostKey)), 0o600); err != nil {
		return err
	}
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		return err
	}
	if s.proc, err = start(nil, sshd, "-D", "-e", "-f", conf); err != nil {
		return err
	}
	return awaitPort(s.port, s.proc)
}

// stop ends sshd if it runs.
func (s *sshServer) stop() {
	if s.proc != nil {
		s.proc.stop()
	}
}

func (s *sshServer) config(hostKey string) string {
	return strings.Join([]string{
		"ListenAddress 127.0.0.1",
		"Port " + s.port,
		"HostKey " + hostKey,
		"AuthorizedKeysFile " + s.userKey() + ".pub",
		"PidFile none",
		"StrictModes no",
		"UsePAM no",
		"PermitRootLogin prohibit-password",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"LogLevel ERROR",
		"Subsystem sftp /usr/lib/openssh/sftp-server",
		"",
	}, "\n")
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// awaitPort waits until something listens on port, at most 10 s.
func awaitPort(port string, p *process) error {
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			return c.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %v\n%s", p.cmd.Path, p.err, &p.out)
		case <-time.After(10 * time.Millisecond):
		}
	}
	p.stop()
	return fmt.Errorf("%s does not listen", p.cmd.Path)
}

// sshfs mounts through a server; several may share one.
type sshfs struct {
	label   string
	server  *sshServer
	tree    string
	mnt     string
	options []string
}

func (s *sshfs) name() string { return s.label }

func (s *sshfs) mount(ctx context.Context) (*mounted, error) {
	if err := s.server.start(); err != nil {
		return nil, err
	}
	args := []string{"-f", "-p", s.server.port, "127.0.0.1:" + s.tree, s.mnt,
		"-o", "IdentityFile=" + s.server.userKey(),
		"-o", "UserKnownHostsFile=" + s.server.knownHosts(),
		"-o", "IdentitiesOnly=yes,BatchMode=yes,StrictHostKeyChecking=yes",
		"-F", "none"}
	for _, o := range s.options {
		args = append(args, "-o", o)
	}
	p, err := start(nil, "sshfs", args...)
	if err != nil {
		return nil, err
	}
	return awaitMount(ctx, s.mnt, p)
}

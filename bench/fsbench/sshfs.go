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

// sshServer is a real sshd with keys of its own in dir.
type sshServer struct {
	dir, host, port string
	proc            *process
}

func (s *sshServer) userKey() string { return filepath.Join(s.dir, "user_key") }

func (s *sshServer) knownHosts() string { return filepath.Join(s.dir, "known_hosts") }

// startSSH starts sshd in the foreground.
func startSSH(c *cell) (*sshServer, error) {
	s := &sshServer{dir: c.tmp, host: c.link.host}
	hostKey := filepath.Join(s.dir, "host_key")
	for _, key := range []string{hostKey, s.userKey()} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	var err error
	if s.port, err = c.link.server.freePort(s.host); err != nil {
		return nil, err
	}
	pub, err := os.ReadFile(hostKey + ".pub")
	if err != nil {
		return nil, err
	}
	known := fmt.Sprintf("[%s]:%s %s", s.host, s.port, pub)
	if err := os.WriteFile(s.knownHosts(), []byte(known), 0o600); err != nil {
		return nil, err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // its privilege separation wants it
		return nil, err
	}
	conf := filepath.Join(s.dir, "sshd_config")
	if err := os.WriteFile(conf, []byte(s.config(hostKey)), 0o600); err != nil {
		return nil, err
	}
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		return nil, err
	}
	if s.proc, err = c.server.start(sshd, "-D", "-e", "-f", conf); err != nil {
		return nil, err
	}
	return s, awaitPort(c.link, s.port, s.proc)
}

func (s *sshServer) config(hostKey string) string {
	return strings.Join([]string{
		"ListenAddress " + s.host,
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

// awaitPort waits until the client's side reaches port of the server, at most 10 s.
func awaitPort(k *link, port string, p *process) error {
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
		if c, err := k.client.dial(net.JoinHostPort(k.host, port)); err == nil {
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

// sshfs mounts through an sshd.
type sshfs struct {
	label   string
	options []string
}

func (s *sshfs) name() string { return s.label }

func (s *sshfs) mount(ctx context.Context, c *cell) (*mounted, error) {
	server, err := startSSH(c)
	if err != nil {
		return nil, err
	}
	args := []string{"-f", "-p", server.port, server.host + ":" + c.tree, c.mnt,
		"-o", "IdentityFile=" + server.userKey(),
		"-o", "UserKnownHostsFile=" + server.knownHosts(),
		"-o", "IdentitiesOnly=yes,BatchMode=yes,StrictHostKeyChecking=yes",
		"-F", "none"}
	for _, o := range s.options {
		args = append(args, "-o", o)
	}
	p, err := c.client.start("sshfs", args...)
	if err != nil {
		server.proc.kill()
		return nil, err
	}
	return awaitMount(ctx, c.mnt, p, server.proc)
}

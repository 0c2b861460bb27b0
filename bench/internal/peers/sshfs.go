package peers

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// SSHServer is a real sshd on loopback with keys of its own in Dir.
type SSHServer struct {
	Dir  string
	At   Ends
	proc *Process // while it runs
	port string   // once it has been started
}

func (s *SSHServer) userKey() string { return filepath.Join(s.Dir, "user_key") }

func (s *SSHServer) hostKey() string { return filepath.Join(s.Dir, "host_key") }

func (s *SSHServer) knownHosts() string { return filepath.Join(s.Dir, "known_hosts") }

// Port is where it listens, once it has been started.
func (s *SSHServer) Port() string { return s.port }

// Start starts sshd in the foreground unless it runs.
func (s *SSHServer) Start() (err error) {
	if s.proc != nil {
		return nil
	}
	if s.port == "" {
		if err := s.prepare(); err != nil {
			return err
		}
	}
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		return err
	}
	if s.proc, err = s.At.Server.Start(sshd, "-D", "-e", "-f", filepath.Join(s.Dir, "sshd_config")); err != nil {
		return err
	}
	return s.At.awaitPort(s.port, s.proc)
}

// prepare makes keys and configuration.
func (s *SSHServer) prepare() (err error) {
	for _, key := range []string{s.hostKey(), s.userKey()} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	if s.port, err = s.At.freePort(); err != nil {
		return err
	}
	pub, err := os.ReadFile(s.hostKey() + ".pub")
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.knownHosts(), fmt.Appendf(nil, "%s %s", hostAlias, pub), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // its privilege separation wants it
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, "sshd_config"), []byte(s.config()), 0o600)
}

// hostAlias is the name of the server in known_hosts, whichever port leads to it.
const hostAlias = "bench"

// Kill kills sshd and all processes that serve its connections.
func (s *SSHServer) Kill() {
	if s.proc == nil {
		return
	}
	for _, pid := range descendants(s.proc.Cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	s.proc.Kill()
	s.proc = nil
}

// descendants returns the processes that a process has begun, and those they have.
func descendants(of int) (found []int) {
	children := make(map[int][]int)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
		var state string
		var parent int
		if _, err := fmt.Sscan(rest, &state, &parent); err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		children[parent] = append(children[parent], pid)
	}
	for next := []int{of}; len(next) > 0; next = next[1:] {
		found, next = append(found, children[next[0]]...), append(next, children[next[0]]...)
	}
	return found
}

// Stop ends sshd if it runs.
func (s *SSHServer) Stop() {
	if s.proc != nil {
		s.proc.Stop()
		s.proc = nil
	}
}

func (s *SSHServer) config() string {
	return strings.Join([]string{
		"ListenAddress " + s.At.host(),
		"Port " + s.port,
		"HostKey " + s.hostKey(),
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

// SSHFS mounts through a server; several may share one.
type SSHFS struct {
	Label   string
	Server  *SSHServer
	Tree    string
	Mnt     string
	Options []string
	Via     string // a port that leads to the server; empty: its own
}

// Rclone mounts through the server's sftp. Programs that write need its cache.
type Rclone struct {
	Label   string
	Server  *SSHServer
	Tree    string
	Mnt     string
	Cache   string // directory
	Options []string
	Via     string // a port that leads to the server; empty: its own
}

func (r *Rclone) Name() string { return r.Label }

func (r *Rclone) Mount(ctx context.Context) (*Mounted, error) {
	if err := r.Server.Start(); err != nil {
		return nil, err
	}
	p, err := r.Server.At.Client.Start("rclone", append([]string{"mount", ":sftp:" + r.Tree, r.Mnt, "--config", os.DevNull,
		"--sftp-host", r.Server.At.host(), "--sftp-port", cmp.Or(r.Via, r.Server.port), "--sftp-user", "root",
		"--sftp-key-file", r.Server.userKey(), "--sftp-shell-type", "none",
		"--vfs-cache-mode", "writes", "--cache-dir", r.Cache}, r.Options...)...)
	if err != nil {
		return nil, err
	}
	return AwaitMount(ctx, r.Mnt, p)
}

func (s *SSHFS) Name() string { return s.Label }

func (s *SSHFS) Mount(ctx context.Context) (*Mounted, error) {
	if err := s.Server.Start(); err != nil {
		return nil, err
	}
	args := []string{"-f", "-p", cmp.Or(s.Via, s.Server.port), s.Server.At.host() + ":" + s.Tree, s.Mnt,
		"-o", "IdentityFile=" + s.Server.userKey(),
		"-o", "UserKnownHostsFile=" + s.Server.knownHosts(),
		"-o", "IdentitiesOnly=yes,BatchMode=yes,StrictHostKeyChecking=yes,HostKeyAlias=" + hostAlias,
		"-F", "none"}
	for _, o := range s.Options {
		args = append(args, "-o", o)
	}
	p, err := s.Server.At.Client.Start("sshfs", args...)
	if err != nil {
		return nil, err
	}
	return AwaitMount(ctx, s.Mnt, p)
}

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/login"
)

// loginFlags are the flags of commands that log in.
type loginFlags struct {
	PasswordFile string        `placeholder:"FILE" help:"Take the password from the first line of FILE, which only its owner can read; otherwise it comes from RPYCFS_PASSWORD, or is asked for."`
	Identity     []string      `short:"i" placeholder:"FILE" help:"An ssh key to log in with; may be repeated. Otherwise those of the agent and the usual files."`
	KnownHosts   string        `placeholder:"FILE" help:"Keys of known servers (~/.config/rpycfs/known_hosts)."`
	HostKey      string        `placeholder:"HOW" help:"accept-new, ask or strict, for servers met the first time."`
	Fingerprint  string        `placeholder:"SHA256:…" help:"The server's key must have this fingerprint."`
	Timeout      time.Duration `placeholder:"TIME" help:"How long to wait for the host at first (2s)."`
}

// person describes who logs in, as user or, if that is "", as who runs the program.
func (l *loginFlags) person(user, address string) (p *login.Person, err error) {
	p = &login.Person{
		Address: address, User: user, Identities: l.Identity,
		Fingerprint: l.Fingerprint, HostKey: l.HostKey,
		Hints: login.Hints{Identity: "--identity ", NoMethod: "--password-file FILE, --identity FILE or " + login.PasswordVariable},
	}
	if p.Password, p.HasPassword, err = login.Password(l.PasswordFile); err != nil {
		return nil, fmt.Errorf("--password-file: %w", err)
	}
	for _, path := range l.Identity {
		if err := unix.Access(path, unix.R_OK); err != nil {
			return nil, fmt.Errorf("--identity %s: %w", path, err)
		}
	}
	if p.User == "" {
		if p.User, err = login.UserName(); err != nil {
			return nil, fmt.Errorf("no user name: %w; give USER@HOST", err)
		}
	}
	if p.KnownHosts, err = login.KnownHosts(l.KnownHosts); err != nil {
		return nil, fmt.Errorf("no home directory for known hosts: %w; give --known-hosts FILE", err)
	}
	return p, nil
}

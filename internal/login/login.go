// Package login is how a person logs in to a daemon: where the password comes
// from, which ssh keys are tried, who is asked about an unknown server, and what
// is said when it fails. The programs share it, so that they behave alike.
package login

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/internal/mountopt"
)

// Timeout bounds the first contact unless it is said otherwise: a person waits
// for it, and a host that drops packets never answers.
const Timeout = 1800 * time.Millisecond

// PasswordVariable is the environment variable that may hold the password.
const PasswordVariable = "RPYCFS_PASSWORD"

// Person is who logs in, where, and with what.
type Person struct {
	Address     string // host:port
	User        string
	Password    string
	HasPassword bool     // otherwise a terminal is asked
	Identities  []string // files of ssh keys; empty: the usual ones
	KnownHosts  string   // file of the keys of known daemons
	Fingerprint string   // SHA256:… that the daemon's key must have, or ""
	HostKey     string   // accept-new, ask or strict; "" is the default

	Hints Hints
}

// Hints are how a program's command line spells what messages tell to give.
type Hints struct {
	Identity string // what stands before a file's name, as in "identity="
	NoMethod string // what helps who has neither password nor key
}

// Connect logs in with dial, which gets a context and the log-in's description.
// Until the daemon has answered it has the time that limit allows (0: Timeout);
// after that a person may be asked on term, and has time. The error is one line
// for a person.
func Connect[S any](ctx context.Context, p *Person, term *Terminal, limit time.Duration, dial func(context.Context, *auth.Client) (S, error)) (S, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if limit == 0 {
		limit = Timeout
	}
	silence := time.AfterFunc(limit, func() { cancel(context.DeadlineExceeded) })
	defer silence.Stop()

	var none S
	a, err := p.client(term, func() { silence.Stop() })
	if err != nil {
		return none, err
	}
	s, err := dial(ctx, a)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return none, p.explain(err)
	}
	return s, nil
}

// client describes the log-in. answered is called when the daemon has answered.
func (p *Person) client(term *Terminal, answered func()) (*auth.Client, error) {
	keys := keyring{identities: p.Identities, flag: p.Hints.Identity, term: term}
	a := &auth.Client{
		Host: p.Address, User: p.User,
		KnownHosts: p.KnownHosts, Fingerprint: p.Fingerprint,
		Signers: func() ([]ssh.Signer, error) {
			answered()
			return keys.signers()
		},
	}
	if p.HostKey != "" {
		mode, err := auth.ParseHostKeyMode(p.HostKey)
		if err != nil {
			return nil, fmt.Errorf("option hostkey: %w%w", err, usage{})
		}
		a.HostKey.Mode = mode
	}
	if term != nil {
		a.HostKey.Ask = func(host, fingerprint string) bool {
			return term.confirm(fmt.Sprintf("The server %s is not known. Its key is %s.\nIs that right (yes/no)? ", host, fingerprint))
		}
	}
	switch {
	case p.HasPassword:
		a.Password = func() (string, error) {
			answered() // deriving keys from it takes a slow machine seconds
			return p.Password, nil
		}
	case term != nil:
		a.Password = sync.OnceValues(func() (string, error) {
			answered()
			return term.secret(fmt.Sprintf("Password of %s at %s: ", p.User, p.Address))
		})
	}
	return a, nil
}

// usage marks errors of the command line for errors.Is, and adds no text.
type usage struct{}

func (usage) Error() string { return "" }
func (usage) Unwrap() error { return mountopt.ErrUsage }

// Target is [user@]host[:port] on a command line.
type Target struct {
	User    string // "" if left out
	Address string // host:port
}

// ParseTarget reads [user@]host[:port]; an IPv6 address with a port stands in
// brackets. Errors wrap mountopt.ErrUsage.
func ParseTarget(s string) (Target, error) {
	var t Target
	rest := s
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		t.User, rest = s[:i], s[i+1:]
		if t.User == "" {
			return t, fmt.Errorf("%q has an empty user name; want [user@]host[:port]%w", s, usage{})
		}
	}
	host, port := rest, client.DefaultPort
	switch {
	case strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]"):
		host = rest[1 : len(rest)-1]
	case strings.HasPrefix(rest, "["), strings.Count(rest, ":") == 1:
		h, p, err := net.SplitHostPort(rest)
		if n, nerr := strconv.ParseUint(p, 10, 16); err != nil || nerr != nil || n == 0 {
			return t, fmt.Errorf("%q is not of the form [user@]host[:port]%w", s, usage{})
		}
		host, port = h, p
	case strings.Contains(rest, ":"):
		if _, err := netip.ParseAddr(rest); err != nil {
			return t, fmt.Errorf("%q is not of the form [user@]host[:port]%w", s, usage{})
		}
	}
	if host == "" || strings.ContainsAny(host, "/[]@ \x00") {
		return t, fmt.Errorf("%q is not of the form [user@]host[:port]%w", s, usage{})
	}
	t.Address = net.JoinHostPort(host, port)
	return t, nil
}

// Password returns the password that is written somewhere: in the first line of
// file, unless that is "", or in the environment.
func Password(file string) (password string, ok bool, err error) {
	if file != "" {
		password, err = mountopt.ReadPasswordFile(file)
		return password, err == nil, err
	}
	password, ok = os.LookupEnv(PasswordVariable)
	return password, ok, nil
}

// UserName returns the name of who runs the program, to log in as unless
// another is stated.
func UserName() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", err
	}
	return u.Username, nil
}

// KnownHosts returns the file with the keys of known daemons: as stated, or
// ~/.config/rpycfs/known_hosts, for root too, whose home is not shared.
func KnownHosts(stated string) (string, error) {
	if stated != "" {
		return filepath.Abs(stated)
	}
	if dir, err := os.UserConfigDir(); err == nil {
		return filepath.Join(dir, "rpycfs", "known_hosts"), nil
	}
	// fstab mounts at boot have no $HOME.
	u, err := user.Current()
	if err != nil {
		return "", err
	}
	if u.HomeDir == "" {
		return "", os.ErrNotExist
	}
	return filepath.Join(u.HomeDir, ".config", "rpycfs", "known_hosts"), nil
}

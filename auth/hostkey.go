package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"
)

// HostKeyMode is what happens at the first contact with a server.
type HostKeyMode uint8

const (
	// HostKeyAsk accepts a server that proved that it knows the password's
	// verifier; after a log-in by key it asks.
	HostKeyAsk HostKeyMode = iota
	// HostKeyAcceptNew accepts every server at first contact.
	HostKeyAcceptNew
	// HostKeyStrict accepts only servers that are known.
	HostKeyStrict
)

// ParseHostKeyMode reads "ask", "accept-new" or "strict".
func ParseHostKeyMode(s string) (HostKeyMode, error) {
	switch s {
	case "ask":
		return HostKeyAsk, nil
	case "accept-new":
		return HostKeyAcceptNew, nil
	case "strict":
		return HostKeyStrict, nil
	}
	return 0, fmt.Errorf("host key policy %.40q is not ask, accept-new or strict", s)
}

// HostKeyPolicy decides about servers whose key is not known. A key that differs
// from the known one is refused under every policy.
type HostKeyPolicy struct {
	Mode HostKeyMode
	// Ask asks a person about a server in HostKeyAsk; nil means no.
	Ask func(host, fingerprint string) bool
}

// HostKeyError is a server key that was not accepted. It unwraps to
// ErrHostKeyChanged or ErrHostKeyUnknown.
type HostKeyError struct {
	Host        string
	Fingerprint string   // what the server showed
	Known       []string // what was expected, with where that is written
	reason      error
	note        string
}

func (e *HostKeyError) Error() string {
	s := fmt.Sprintf("%s: %v: it shows %s", e.Host, e.reason, e.Fingerprint)
	if len(e.Known) > 0 {
		s += ", known is " + strings.Join(e.Known, " or ")
	}
	return s + e.note
}

// Unwrap returns ErrHostKeyChanged or ErrHostKeyUnknown.
func (e *HostKeyError) Unwrap() error { return e.reason }

func changedKey(host string, shown ssh.PublicKey, known ...string) error {
	return &HostKeyError{
		Host: host, Fingerprint: ssh.FingerprintSHA256(shown), Known: known, reason: ErrHostKeyChanged,
		note: "; either somebody stands in between, or it was replaced on purpose",
	}
}

func unknownKey(host string, shown ssh.PublicKey) error {
	return &HostKeyError{
		Host: host, Fingerprint: ssh.FingerprintSHA256(shown), reason: ErrHostKeyUnknown,
		note: "; state fingerprint= or hostkey=accept-new if that is right",
	}
}

// checkKnownHosts looks host up in a known_hosts file of OpenSSH's format. It
// returns nil for a key that is known, ErrHostKeyUnknown for a host that is not
// in the file, and ErrHostKeyChanged for any other key. A file that does not
// exist knows no host; one that cannot be read in full is an error.
func checkKnownHosts(path, host string, key ssh.PublicKey) error {
	check, err := knownhosts.New(path)
	if errors.Is(err, fs.ErrNotExist) {
		return unknownKey(host, key)
	}
	if err != nil {
		return err
	}
	var different *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch err := check(host, &net.TCPAddr{IP: net.IPv4zero}, key); {
	case err == nil:
		return nil
	case errors.As(err, &revoked):
		return changedKey(host, key, fmt.Sprintf("that it is revoked (%s:%d)", revoked.Revoked.Filename, revoked.Revoked.Line))
	case !errors.As(err, &different):
		return err
	}
	if len(different.Want) == 0 {
		return unknownKey(host, key)
	}
	var known []string
	for _, k := range different.Want {
		known = append(known, fmt.Sprintf("%s (%s:%d)", ssh.FingerprintSHA256(k.Key), k.Filename, k.Line))
	}
	return changedKey(host, key, known...)
}

// checkHost refuses names that would mean something else in a known_hosts file.
func checkHost(host string) error {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return fmt.Errorf("host for known_hosts: %w", err)
	}
	odd := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(",*?!|#@[]\"'\\", r) }
	if name == "" || port == "" || strings.ContainsFunc(name+port, odd) {
		return fmt.Errorf("%q is no host and port that a known_hosts file can hold", host)
	}
	return nil
}

// recordKnownHost adds host with key to the file unless it is there by now.
// When another key got there first, that is ErrHostKeyChanged. The file is
// locked meanwhile; one write adds one line.
func recordKnownHost(path, host string, key ssh.PublicKey) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := lockFile(path, os.O_RDWR|unix.O_APPEND)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := checkKnownHosts(path, host, key); err == nil || !errors.Is(err, ErrHostKeyUnknown) {
		return err
	}
	line := []byte(knownhosts.Line([]string{host}, key) + "\n")
	if unended, err := lacksNewline(f); err != nil {
		return err
	} else if unended {
		line = append([]byte("\n"), line...)
	}
	if _, err := f.Write(line); err != nil {
		return err
	}
	return f.Sync()
}

// lacksNewline reports whether the last line of f is not ended.
func lacksNewline(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, info.Size()-1); err != nil && err != io.EOF {
		return false, err
	}
	return !bytes.Equal(last, []byte("\n")), nil
}

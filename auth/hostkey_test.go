package auth

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh/knownhosts"
)

// firstContact returns a client that knows no server yet.
func firstContact(t *testing.T) *Client {
	c := testClient(t)
	c.Fingerprint, c.KnownHosts = "", filepath.Join(t.TempDir(), "config", "known_hosts")
	return c
}

func byKey(c *Client) { c.Password, c.scram, c.Signers = nil, nil, signers(testSigner(1)) }

// TestFirstContact is the table of what pins a server and what does not.
func TestFirstContact(t *testing.T) {
	answer := func(yes bool) func(string, string) bool {
		return func(host, fingerprint string) bool {
			return yes && host == "server.example:19912" && fingerprint == testKey(t, 100).Fingerprint()
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*Client)
		want   error
		pinned bool
	}{
		{"password", func(c *Client) { c.HostKey.Ask = func(string, string) bool { t.Error("asked"); return false } }, nil, true},
		{"password, strict", func(c *Client) { c.HostKey.Mode = HostKeyStrict }, ErrHostKeyUnknown, false},
		{"key, nobody to ask", byKey, ErrHostKeyUnknown, false},
		{"key, no", func(c *Client) { byKey(c); c.HostKey.Ask = answer(false) }, ErrHostKeyUnknown, false},
		{"key, yes", func(c *Client) { byKey(c); c.HostKey.Ask = answer(true) }, nil, true},
		{"key, accept-new", func(c *Client) { byKey(c); c.HostKey.Mode = HostKeyAcceptNew }, nil, true},
		{"key, fingerprint", func(c *Client) { byKey(c); c.Fingerprint = testKey(t, 100).Fingerprint() }, nil, false},
		{"fingerprint, strict", func(c *Client) {
			c.HostKey.Mode, c.Fingerprint = HostKeyStrict, testKey(t, 100).Fingerprint()
		}, nil, false},
		{"other fingerprint", func(c *Client) { c.Fingerprint = testKey(t, 101).Fingerprint() }, ErrHostKeyChanged, false},
		{"key and password, nobody to ask", func(c *Client) { c.Signers = signers(testSigner(1)) }, nil, true},
		{"no file", func(c *Client) { c.KnownHosts = "" }, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := testServer(t)
			c := firstContact(t)
			path := c.KnownHosts
			tt.change(c)
			_, _, _, err, _ := login(t, s, c)
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, not %v", err, tt.want)
			}
			err = checkKnownHosts(path, c.Host, s.Key.PublicKey())
			if (err == nil) != tt.pinned {
				t.Errorf("pinned: %v", err)
			}
			if !tt.pinned {
				return
			}
			for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
				if info, err := os.Stat(p); err != nil || info.Mode() != want {
					t.Errorf("%s: %v, %v", p, info.Mode(), err)
				}
			}
			again := firstContact(t) // another process, later
			again.KnownHosts, again.HostKey.Mode = path, HostKeyStrict
			mustLogin(t, s, again)
		})
	}
}

// TestChangedHostKey: the client says nothing to such a server, not even hello,
// whatever the policy; neither at log-in nor when it resumes.
func TestChangedHostKey(t *testing.T) {
	known, _ := testServer(t)
	c := firstContact(t)
	_, _, g := mustLogin(t, known, c)
	other, sessions := testServer(t)
	other.Key = testKey(t, 101)
	for name, connect := range map[string]func(net.Conn) error{
		"log-in, remembered": func(nc net.Conn) error { _, _, err := c.Login(context.Background(), nc); return err },
		"resume":             func(nc net.Conn) error { _, err := c.Resume(context.Background(), nc, g, Resume, 2); return err },
		"log-in, known_hosts": func(nc net.Conn) error {
			fresh := testClient(t)
			fresh.Fingerprint, fresh.KnownHosts, fresh.HostKey.Mode = "", c.KnownHosts, HostKeyAcceptNew
			_, _, err := fresh.Login(context.Background(), nc)
			return err
		},
	} {
		client, server := net.Pipe()
		counter := &countingConn{Conn: server}
		done := serveOn(t, other, counter)
		err := connect(client)
		var h *HostKeyError
		if !errors.Is(err, ErrHostKeyChanged) || !errors.As(err, &h) || h.Fingerprint != other.Key.Fingerprint() || len(h.Known) != 1 {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(h.Error(), other.Key.Fingerprint()) || !strings.Contains(h.Error(), known.Key.Fingerprint()) {
			t.Errorf("%s: the message is %q", name, h)
		}
		if r := <-done; r.err == nil || strings.Contains(r.err.Error(), "hello") {
			t.Errorf("%s: server: %v", name, r.err)
		}
		if n := counter.read.Load(); n > 2500 { // a ClientHello and an alert
			t.Errorf("%s: the server got %d bytes", name, n)
		}
	}
	if sessions.count() != 0 {
		t.Error("logged in")
	}
}

// countingConn counts what is read.
type countingConn struct {
	net.Conn
	read atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// TestResumeWithoutLogin has no key to compare with.
func TestResumeWithoutLogin(t *testing.T) {
	s, _ := testServer(t)
	nc, done := serve(t, s)
	c := testClient(t)
	c.Fingerprint = ""
	if _, err := c.Resume(context.Background(), nc, Grant{}, Join, 1); !errors.Is(err, ErrHostKeyUnknown) {
		t.Error(err)
	}
	<-done
}

// TestKnownHosts reads and extends files of OpenSSH's format.
func TestKnownHosts(t *testing.T) {
	const host = "server.example:19912"
	a, b := testKey(t, 1).PublicKey(), testKey(t, 2).PublicKey()
	line := knownhosts.Line([]string{host}, a)
	hashed := knownhosts.HashHostname(knownhosts.Normalize(host)) + line[strings.Index(line, " "):]
	for _, tt := range []struct {
		name, text string
		want       error // for key a
	}{
		{"empty", "", ErrHostKeyUnknown},
		{"known", line + "\n", nil},
		{"no end of line", "# mine\n\n" + line, nil},
		{"hashed", hashed + "\n", nil},
		{"pattern", strings.Replace(line, "server", "*", 1), nil},
		{"changed", knownhosts.Line([]string{host}, b), ErrHostKeyChanged},
		{"one of two", knownhosts.Line([]string{host}, b) + "\n" + line, nil},
		{"revoked", line + "\n@revoked " + line, ErrHostKeyChanged},
		{"other port", strings.Replace(line, "19912", "19913", 1), ErrHostKeyUnknown},
	} {
		path := tempFile(t, "known_hosts", tt.text)
		if err := checkKnownHosts(path, host, a); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		err := recordKnownHost(path, host, a)
		after, _ := os.ReadFile(path)
		if errors.Is(tt.want, ErrHostKeyUnknown) {
			if err != nil || checkKnownHosts(path, host, a) != nil || !strings.HasPrefix(string(after), tt.text) {
				t.Errorf("%s: recorded as %q, %v", tt.name, after, err)
			}
		} else if !errors.Is(err, tt.want) || string(after) != tt.text {
			t.Errorf("%s: file changed to %q, %v", tt.name, after, err)
		}
	}
	if err := checkKnownHosts(tempFile(t, "known_hosts", "rubbish\n"), host, a); err == nil || errors.Is(err, ErrHostKeyUnknown) {
		t.Errorf("a line that cannot be read: %v", err)
	}
	for _, host := range []string{"", "h", "a b:1", "a,b:1", "*:1", "!a:1", "|1:1", "a\n:1", "#a:1", "a:", ":1"} {
		if checkHost(host) == nil {
			t.Errorf("%q can be a host", host)
		}
	}
	for _, host := range []string{host, "[::1]:19912", "[fe80::1%eth0]:1", "10.0.0.1:22"} {
		path := tempFile(t, "known_hosts", "unended # comment?")
		os.WriteFile(path, []byte("# unended"), 0o600)
		if err := errors.Join(checkHost(host), recordKnownHost(path, host, a), checkKnownHosts(path, host, a)); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// TestKnownHostsTogether: many at once lose nothing, and of two keys for one
// host one is refused.
func TestKnownHostsTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "known_hosts")
	var all sync.WaitGroup
	var changed atomic.Int32
	for i := range 20 {
		all.Go(func() {
			if err := recordKnownHost(path, net.JoinHostPort("h", string(rune('1'+i%9))), testKey(t, byte(i%9)).PublicKey()); err != nil {
				t.Error(err)
			}
			err := recordKnownHost(path, "contested:1", testKey(t, byte(i%2)).PublicKey())
			if errors.Is(err, ErrHostKeyChanged) {
				changed.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), "\n") != 10 || changed.Load() != 10 {
		t.Errorf("%d refused, %v, file:\n%s", changed.Load(), err, text)
	}
}

// TestUnwritableKnownHosts: a log-in does not fail for it, but it is said.
func TestUnwritableKnownHosts(t *testing.T) {
	s, _ := testServer(t)
	c := firstContact(t)
	nowhere := filepath.Join(t.TempDir(), "nowhere") // cannot be made a directory, by root neither
	if err := os.Symlink("missing/missing", nowhere); err != nil {
		t.Fatal(err)
	}
	c.KnownHosts = filepath.Join(nowhere, "known_hosts")
	var warned error
	c.Warn = func(err error) { warned = err }
	mustLogin(t, s, c)
	if warned == nil {
		t.Error("nothing was said")
	}
}

func TestParseHostKeyMode(t *testing.T) {
	for s, want := range map[string]HostKeyMode{"ask": HostKeyAsk, "accept-new": HostKeyAcceptNew, "strict": HostKeyStrict} {
		if m, err := ParseHostKeyMode(s); m != want || err != nil {
			t.Errorf("%s: %v, %v", s, m, err)
		}
	}
	if _, err := ParseHostKeyMode("no"); err == nil {
		t.Error("no is a policy")
	}
}

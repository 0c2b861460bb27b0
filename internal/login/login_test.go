package login

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/internal/mountopt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]Target{
		"host":            {"", "host:19912"},
		"host:1":          {"", "host:1"},
		"alice@host":      {"alice", "host:19912"},
		"a@b@host:65535":  {"a@b", "host:65535"},
		"192.0.2.1:80":    {"", "192.0.2.1:80"},
		"::1":             {"", "[::1]:19912"},
		"alice@[::1]":     {"alice", "[::1]:19912"},
		"alice@[::1]:222": {"alice", "[::1]:222"},
	} {
		if got, err := ParseTarget(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "@host", "alice@", "host:", "host:0", "host:65536", "host:x", ":19912", "[::1", "[::1]x", "[::1]:", "a/b", "1.2.3.4:5:6", "ho st", "a\x00b"} {
		if got, err := ParseTarget(in); !errors.Is(err, mountopt.ErrUsage) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func TestPassword(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "password")
	if err := os.WriteFile(file, []byte("from the file\nnext"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(PasswordVariable, "from the environment")
	if p, ok, err := Password(file); p != "from the file" || !ok || err != nil {
		t.Errorf("%q, %v, %v", p, ok, err)
	}
	if p, ok, err := Password(""); p != "from the environment" || !ok || err != nil {
		t.Errorf("%q, %v, %v", p, ok, err)
	}
	os.Unsetenv(PasswordVariable)
	if p, ok, err := Password(""); p != "" || ok || err != nil {
		t.Errorf("%q, %v, %v", p, ok, err)
	}
	if _, ok, err := Password(filepath.Join(dir, "missing")); ok || err == nil {
		t.Errorf("%v, %v", ok, err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := Password(file); ok || err == nil {
		t.Errorf("a password that all can read: %v, %v", ok, err)
	}
}

func TestKnownHosts(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "/config")
	if got, err := KnownHosts(""); got != "/config/rpycfs/known_hosts" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := KnownHosts("/stated"); got != "/stated" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// person can log in nowhere.
func person() *Person {
	return &Person{Address: "host:1", User: "alice", KnownHosts: "/kh", Hints: Hints{"--identity ", "--password-file FILE"}}
}

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{auth.ErrRefused, "log in to host:1 as alice: wrong user, password or key"},
		{auth.ErrNoMethod, "log in to host:1 as alice: no usable key and no password; give --password-file FILE"},
		{auth.ErrHostKeyChanged, "remove the old line from /kh"},
		{auth.ErrHostKeyUnknown, "log in to host:1 as alice: "},
		{&net.OpError{Err: &net.DNSError{Name: "host"}}, "connect to host:1: no such host; is the name right?"},
		{&net.OpError{Err: syscall.ECONNREFUSED}, "connection refused; is rpycfsd running there, on that port?"},
		{context.DeadlineExceeded, "no answer; is the host up, and the port open?"},
		{errors.New("other"), "connect to host:1: other"},
	} {
		if got := person().explain(tt.err).Error(); !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q", tt.err, got)
		}
	}
	if got := OneLine(errors.New(" a\nb\x1b[c ")); got != "a b [c" {
		t.Errorf("%q", got)
	}
}

// TestSilence: a host that takes the connection and says nothing.
func TestSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := person()
	p.Address = l.Addr().String()
	_, err = Connect(t.Context(), p, nil, 50*time.Millisecond, func(ctx context.Context, a *auth.Client) (*client.Session, error) {
		return client.Dial(ctx, client.Config{Address: p.Address, Auth: a})
	})
	if err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("%v", err)
	}
}

// TestAnswered: once the daemon has answered there is time for a question.
func TestAnswered(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", t.TempDir())
	p := person()
	p.Password, p.HasPassword = "secret", true
	got, err := Connect(t.Context(), p, nil, 100*time.Millisecond, func(ctx context.Context, a *auth.Client) (string, error) {
		if keys, err := a.Signers(); err != nil || len(keys) != 0 {
			t.Errorf("%v, %v", keys, err)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(200 * time.Millisecond): // what the question takes
		}
		return a.Password()
	})
	if got != "secret" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHostKeyOption(t *testing.T) {
	p := person()
	p.HostKey = "sometimes"
	_, err := Connect(t.Context(), p, nil, 0, func(context.Context, *auth.Client) (int, error) { return 0, nil })
	if !errors.Is(err, mountopt.ErrUsage) || !strings.HasPrefix(err.Error(), "option hostkey: ") {
		t.Errorf("%v", err)
	}
}

func writeKey(t *testing.T, path, phrase string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if phrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(phrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKeys(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", filepath.Join(home, "no agent"))
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	usual, stated, locked := filepath.Join(home, ".ssh", "id_ed25519"), filepath.Join(home, "key"), filepath.Join(home, "locked")
	writeKey(t, usual, "")
	writeKey(t, stated, "")
	writeKey(t, locked, "phrase")
	k := keyring{flag: "--identity "}
	if keys, err := k.signers(); len(keys) != 1 || err != nil {
		t.Errorf("the usual one: %d, %v", len(keys), err)
	}
	k.identities = []string{stated}
	if keys, err := k.signers(); len(keys) != 1 || err != nil {
		t.Errorf("the stated one: %d, %v", len(keys), err)
	}
	for path, want := range map[string]string{
		filepath.Join(home, "missing"): "no such file",
		locked:                         "the key is encrypted; add it to the ssh agent",
		home:                           "is a directory",
		os.DevNull:                     "not a private ssh key",
	} {
		k.identities = []string{path}
		if _, err := k.signers(); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "--identity "+path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

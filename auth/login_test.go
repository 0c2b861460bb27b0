package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestPasswordLogin logs in by password and sends something each way.
func TestPasswordLogin(t *testing.T) {
	s, sessions := testServer(t)
	c := testClient(t)
	s.Features, c.Features = 0b0110, 0b1010
	client, server, g := mustLogin(t, s, c)
	if server.User != "alice" || client.User != "alice" || server.Session != g.Session || g.Slots != 64 {
		t.Errorf("client %+v, server %+v, grant %+v", client, server, g)
	}
	if client.Features != 0b0010 || server.Features != 0b0010 || client.Epoch != 1 || server.Epoch != 1 {
		t.Errorf("features %b and %b, epochs %d and %d", client.Features, server.Features, client.Epoch, server.Epoch)
	}
	if sessions.count() != 1 {
		t.Errorf("%d sessions", sessions.count())
	}
	exchange(t, client, server)
}

// exchange sends a message from a to b; it also shows that Hold is in effect.
func exchange(t *testing.T, a, b *Conn) {
	t.Helper()
	message := bytes.Repeat([]byte("x"), 40<<10) // more than one TLS record
	sent := make(chan error, 1)
	go func() {
		_, err := a.Write(message) // would block on a pipe without Hold
		sent <- errors.Join(err, a.Raw.Flush())
	}()
	got := make([]byte, len(message))
	if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, message) {
		t.Fatalf("got %d bytes: %v", len(got), err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// TestWrongPassword also shows that a refused password is asked for again.
func TestWrongPassword(t *testing.T) {
	s, sessions := testServer(t)
	c := testClient(t)
	asked := 0
	c.scram = nil
	c.Password = func() (string, error) { asked++; return "wrong", nil }
	_, _, _, clientErr, serverErr := login(t, s, c)
	if !errors.Is(clientErr, ErrRefused) || !errors.Is(serverErr, ErrRefused) {
		t.Fatalf("client %v, server %v", clientErr, serverErr)
	}
	c.Password = func() (string, error) { asked++; return testPassword, nil }
	mustLogin(t, s, c)
	if asked != 2 || sessions.count() != 1 {
		t.Errorf("asked %d times, %d sessions", asked, sessions.count())
	}
	mustLogin(t, s, c)
	if asked != 2 {
		t.Error("a good password was not remembered")
	}
}

// TestNoSession: who has logged in and gets no session is told why, as far as
// that is the client's business.
func TestNoSession(t *testing.T) {
	s, sessions := testServer(t)
	for cause, want := range map[error]error{
		fmt.Errorf("%w: secret detail", ErrNoAccount): ErrNoAccount,
		errors.New("secret detail"):                   ErrBusy,
	} {
		sessions.refuses = cause
		_, _, _, clientErr, serverErr := login(t, s, testClient(t))
		if !errors.Is(clientErr, want) || strings.Contains(clientErr.Error(), "secret") || !errors.Is(serverErr, cause) {
			t.Errorf("%v: client %v, server %v", cause, clientErr, serverErr)
		}
	}
}

// TestNoPassword: an empty password is not sent, and an error of Password is
// passed on.
func TestNoPassword(t *testing.T) {
	s, _ := testServer(t)
	c := testClient(t)
	c.scram, c.Password = nil, func() (string, error) { return "", nil }
	if _, _, _, err, _ := login(t, s, c); err == nil {
		t.Error("an empty password was sent")
	}
	c.Password = func() (string, error) { return "", io.ErrClosedPipe }
	if _, _, _, err, _ := login(t, s, c); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error of Password: %v", err)
	}
}

// TestSlowPassword: a person who takes their time gets ErrAgain, and the next
// log-in does not ask again.
func TestSlowPassword(t *testing.T) {
	aliceVerifier()
	synctest.Test(t, func(t *testing.T) {
		s, _ := testServer(t)
		s.Deadline = DefaultDeadline
		c := testClient(t)
		c.scram = nil
		asked := 0
		c.Password = func() (string, error) { asked++; time.Sleep(time.Minute); return testPassword, nil }
		if _, _, _, err, _ := login(t, s, c); !errors.Is(err, ErrAgain) {
			t.Fatal(err)
		}
		mustLogin(t, s, c)
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

// TestKeyLogin logs in by each kind of key that is allowed.
func TestKeyLogin(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	for name, key := range map[string]any{"ed25519": testPrivate(9), "rsa": rsaKey, "p256": p256, "p521": p521} {
		t.Run(name, func(t *testing.T) {
			signer, err := ssh.NewSignerFromKey(key)
			if err != nil {
				t.Fatal(err)
			}
			s, sessions := testServer(t)
			if err := s.Users.Add(User{Name: "carol", ReadOnly: true, Root: "a/b", Keys: []AuthorizedKey{{Key: signer.PublicKey()}}}); err != nil {
				t.Fatal(err)
			}
			c := testClient(t)
			c.User, c.Password, c.Signers = "carol", nil, signers(signer)
			client, server, _ := mustLogin(t, s, c)
			if u := sessions.created[0]; u.Name != "carol" || !u.ReadOnly || u.Root != "a/b" {
				t.Errorf("session made for %+v", u)
			}
			exchange(t, server, client)
		})
	}
}

// TestKeysThenPassword: refused keys cost nothing but time, up to a bound.
func TestKeysThenPassword(t *testing.T) {
	s, _ := testServer(t)
	c := testClient(t)
	var many []ssh.Signer
	for i := range byte(12) {
		many = append(many, testSigner(200+i))
	}
	c.Signers = signers(many...)
	mustLogin(t, s, c)
	c.Signers = func() ([]ssh.Signer, error) { return nil, errors.New("no agent") }
	mustLogin(t, s, c)
	c.Signers = signers(append(many[:5:5], testSigner(1))...)
	c.Password = func() (string, error) { t.Error("asked for a password"); return "", nil }
	c.scram = nil
	mustLogin(t, s, c)
}

// TestKeysRefused: what is said when no key does it and there is no password.
func TestKeysRefused(t *testing.T) {
	s, sessions := testServer(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weakSigner, err := ssh.NewSignerFromKey(weak)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, user string
		signers    func() ([]ssh.Signer, error)
		want       error
	}{
		{"bob's key as alice", "alice", signers(testSigner(2)), ErrRefused},
		{"unknown user", "nobody", signers(testSigner(1)), ErrRefused},
		{"unknown key", "alice", signers(testSigner(77)), ErrRefused},
		{"no keys", "alice", signers(), ErrNoMethod},
		{"nothing", "alice", nil, ErrNoMethod},
		{"weak key", "alice", signers(weakSigner), ErrNoMethod},
		{"agent fails", "alice", func() ([]ssh.Signer, error) { return nil, io.ErrClosedPipe }, io.ErrClosedPipe},
	} {
		c := testClient(t)
		c.User, c.Password, c.scram, c.Signers = tt.user, nil, nil, tt.signers
		if _, _, _, err, _ := login(t, s, c); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if sessions.count() != 0 {
		t.Errorf("%d sessions", sessions.count())
	}
}

// TestTooManyKeys: the server's bound does not depend on the client's.
func TestTooManyKeys(t *testing.T) {
	s, _ := testServer(t)
	c, done := rawClient(t, s)
	rawHello(t, c, "alice")
	for range maxKeyTries {
		if k, _ := roundTrip(t, c, &keyMessage{[]byte("no signature")}); k != kindKeyRefused {
			t.Fatalf("answer %d", k)
		}
	}
	if k, _ := roundTrip(t, c, &keyMessage{[]byte("no signature")}); k != kindRefused {
		t.Fatalf("answer %d", k)
	}
	if r := <-done; !errors.Is(r.err, ErrProtocol) {
		t.Error(r.err)
	}
}

// rawHello exchanges hellos for a log-in.
func rawHello(t *testing.T, c *tls.Conn, user string) *serverHello {
	t.Helper()
	if err := send(c, &clientHello{version: Version, purpose: NewSession, user: user}); err != nil {
		t.Fatal(err)
	}
	var hello serverHello
	if _, err := receive(c, &hello); err != nil {
		t.Fatal(err)
	}
	return &hello
}

// roundTrip sends a message and returns the answer.
func roundTrip(t *testing.T, c *tls.Conn, m message) (kind, []byte) {
	t.Helper()
	if err := send(c, m); err != nil {
		t.Fatal(err)
	}
	k, body, err := readFrame(c)
	if err != nil {
		t.Fatal(err)
	}
	return k, body
}

// TestResume resumes and joins, with right and wrong proofs.
func TestResume(t *testing.T) {
	s, sessions := testServer(t)
	c := testClient(t)
	_, _, g := mustLogin(t, s, c)
	wrongSecret, unknown := g, g
	wrongSecret.Secret[0] ^= 1
	unknown.Session[5] = 9
	for _, tt := range []struct {
		name    string
		grant   Grant
		purpose Purpose
		epoch   uint32
		want    error
	}{
		{"join", g, Join, 1, nil},
		{"join a later epoch", g, Join, 2, ErrSessionGone},
		{"resume the same epoch", g, Resume, 1, ErrSessionGone},
		{"wrong secret", wrongSecret, Resume, 2, ErrSessionGone},
		{"unknown session", unknown, Resume, 2, ErrSessionGone},
		{"resume", g, Resume, 2, nil},
		{"join the earlier epoch", g, Join, 1, ErrSessionGone},
		{"join the new epoch", g, Join, 2, nil},
	} {
		nc, done := serve(t, s)
		client, err := c.Resume(context.Background(), nc, tt.grant, tt.purpose, tt.epoch)
		r := <-done
		if !errors.Is(err, tt.want) || !errors.Is(r.err, tt.want) {
			t.Fatalf("%s: client %v, server %v", tt.name, err, r.err)
		}
		if tt.want == nil {
			if r.conn.User != "alice" || r.conn.Session != g.Session || r.conn.Epoch != tt.epoch || r.conn.Purpose != tt.purpose {
				t.Errorf("%s: %+v", tt.name, r.conn)
			}
			exchange(t, client, r.conn)
		}
	}
	s.Users.Delete("alice")
	nc, done := serve(t, s)
	if _, err := c.Resume(context.Background(), nc, g, Resume, 7); !errors.Is(err, ErrSessionGone) {
		t.Errorf("session of a removed user: %v", err)
	}
	<-done
	if e := sessions.sessions[g.Session].epoch; e != 2 {
		t.Errorf("epoch %d after a removed user's try", e)
	}
}

// TestVersions: each side refuses another version and names both.
func TestVersions(t *testing.T) {
	s, _ := testServer(t)
	c, done := rawClient(t, s)
	future := []byte{5, 0, byte(kindClientHello), 2, 0, 'n', 'e', 'w'} // version 2, fields unknown to us
	if _, err := c.Write(future); err != nil {
		t.Fatal(err)
	}
	var r refused
	if _, err := receive(c, &r); err != nil {
		t.Fatal(err)
	}
	if r.reason != reasonVersion || r.version != Version {
		t.Errorf("refused %+v", r)
	}
	if r := <-done; !errors.Is(r.err, ErrVersion) {
		t.Error(r.err)
	}
	for name, m := range map[string][]byte{
		"hello":   {4, 0, byte(kindServerHello), 7, 0, 'x', 'y'},
		"refusal": {7, 0, byte(kindRefused), byte(reasonVersion), 7, 0, 0, 0, 0, 0},
	} {
		nc, done := rawServer(t, testKey(t, 100), func(c *tls.Conn, _ *clientHello) error {
			_, err := c.Write(m)
			return err
		})
		_, _, err := testClient(t).Login(context.Background(), nc)
		var r *Refusal
		if !errors.Is(err, ErrVersion) || !errors.As(err, &r) || r.Version != 7 {
			t.Errorf("%s: %v", name, err)
		}
		<-done
	}
}

// TestCancel ends both sides' handshakes by their contexts.
func TestCancel(t *testing.T) {
	s, _ := testServer(t)
	nc, done := serve(t, s) // a server whose answers nobody relays
	defer nc.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(io.ErrNoProgress)
	if _, _, err := testClient(t).Login(ctx, nc); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("client: %v", err)
	}
	if r := <-done; r.err == nil {
		t.Error("server went on")
	}
	if _, err := s.Handshake(ctx, nc); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("server: %v", err)
	}
	if s.places.total != 0 || len(s.places.byAddress) != 0 {
		t.Errorf("places still taken: %+v", s.places.byAddress)
	}
}

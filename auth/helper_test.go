package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPassword = "correct horse battery staple"

// aliceVerifier is derived once: that takes long on purpose.
var aliceVerifier = sync.OnceValue(func() *verifier {
	v, err := newVerifier(testPassword)
	if err != nil {
		panic(err)
	}
	return v
})

// rightScram holds the right password with its keys already derived, for tests
// that log in often.
var rightScram = sync.OnceValue(func() *Client {
	c := &Client{User: "alice", Password: func() (string, error) { return testPassword, nil }}
	client, err := c.scramClient()
	if err != nil {
		panic(err)
	}
	v := aliceVerifier()
	if _, err := client.GetStoredCredentialsWithError(v.credentials().KeyFactors); err != nil {
		panic(err)
	}
	return c
})

// testSigner returns an Ed25519 key made from one byte.
func testSigner(seed byte) ssh.Signer {
	signer, err := ssh.NewSignerFromKey(testPrivate(seed))
	if err != nil {
		panic(err)
	}
	return signer
}

func testPrivate(seed byte) ed25519.PrivateKey {
	s := make([]byte, ed25519.SeedSize)
	s[0] = seed
	return ed25519.NewKeyFromSeed(s)
}

// testKey returns a server's key made from one byte.
func testKey(t testing.TB, seed byte) Key {
	t.Helper()
	der, err := selfSign(testPrivate(seed))
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKey(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: testPrivate(seed)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// testUsers has alice with password and key 1, and bob with key 2 alone.
func testUsers(t testing.TB) *Users {
	t.Helper()
	u := NewUsers()
	for name, seed := range map[string]byte{"alice": 1, "bob": 2} {
		if err := u.Add(User{Name: name, ReadOnly: name == "bob", Keys: []AuthorizedKey{{Key: testSigner(seed).PublicKey()}}}); err != nil {
			t.Fatal(err)
		}
	}
	u.setVerifier("alice", aliceVerifier())
	return u
}

// testSessions is a Sessions in memory.
type testSessions struct {
	refuses error // what Create fails with

	mu       sync.Mutex
	created  []User
	sessions map[SessionID]*testSession
}

type testSession struct {
	user   string
	secret Secret
	epoch  uint32
}

func (s *testSessions) Create(user User, _ net.Addr) (Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuses != nil {
		return Grant{}, s.refuses
	}
	if s.sessions == nil {
		s.sessions = make(map[SessionID]*testSession)
	}
	s.created = append(s.created, user)
	g := Grant{Session: SessionID{byte(len(s.created))}, Secret: Secret{1, byte(len(s.created))}, Slots: 64}
	s.sessions[g.Session] = &testSession{user: user.Name, secret: g.Secret, epoch: 1}
	return g, nil
}

func (s *testSessions) Secret(id SessionID) (Secret, string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.sessions[id]; ok {
		return e.secret, e.user, true
	}
	return Secret{}, "", false
}

func (s *testSessions) Resume(id SessionID, purpose Purpose, epoch uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.sessions[id]
	switch {
	case purpose == Resume && epoch > e.epoch:
		e.epoch = epoch
		return nil
	case purpose == Join && epoch == e.epoch:
		return nil
	}
	return errors.New("stale epoch")
}

func (s *testSessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.created)
}

func testServer(t testing.TB) (*Server, *testSessions) {
	sessions := &testSessions{}
	return &Server{
		Key: testKey(t, 100), Users: testUsers(t), Sessions: sessions,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Deadline: DefaultDeadline,
	}, sessions
}

// testClient returns a client for alice that knows her password and, by its
// fingerprint, the server of testServer.
func testClient(t testing.TB) *Client {
	return &Client{
		Host: "server.example:19912", User: "alice", Fingerprint: testKey(t, 100).Fingerprint(),
		Password: func() (string, error) { return testPassword, nil }, scram: rightScram().scram,
	}
}

func signers(list ...ssh.Signer) func() ([]ssh.Signer, error) {
	return func() ([]ssh.Signer, error) { return list, nil }
}

// served is how the server's side of a handshake ended.
type served struct {
	conn *Conn
	err  error
}

// serve lets s handle the other end of the connection that it returns.
func serve(t testing.TB, s *Server) (net.Conn, <-chan served) {
	t.Helper()
	client, server := net.Pipe()
	return client, serveOn(t, s, server)
}

func serveOn(t testing.TB, s *Server, nc net.Conn) <-chan served {
	done := make(chan served, 1)
	go func() {
		conn, err := s.Handshake(context.Background(), nc)
		done <- served{conn, err}
	}()
	t.Cleanup(func() { nc.Close() })
	return done
}

// login logs c in at s and returns both ends, or the errors of both sides.
func login(t testing.TB, s *Server, c *Client) (client, server *Conn, g Grant, clientErr, serverErr error) {
	t.Helper()
	nc, done := serve(t, s)
	t.Cleanup(func() { nc.Close() })
	client, g, clientErr = c.Login(context.Background(), nc)
	r := <-done
	return client, r.conn, g, clientErr, r.err
}

// mustLogin is login that must succeed.
func mustLogin(t testing.TB, s *Server, c *Client) (client, server *Conn, g Grant) {
	t.Helper()
	client, server, g, err1, err2 := login(t, s, c)
	if err1 != nil || err2 != nil {
		t.Fatalf("log-in: client %v, server %v", err1, err2)
	}
	return client, server, g
}

// rawClient is the other end of s after TLS, for tests that speak the protocol
// themselves.
func rawClient(t testing.TB, s *Server) (*tls.Conn, <-chan served) {
	t.Helper()
	nc, done := serve(t, s)
	return dialTLS(t, nc), done
}

func dialTLS(t testing.TB, nc net.Conn) *tls.Conn {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	config := tlsConfig()
	config.InsecureSkipVerify = true
	c := tls.Client(nc, config)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

// rawServer lets script play a server with the key of testServer, hellos done.
func rawServer(t testing.TB, key Key, script func(*tls.Conn, *clientHello) error) (net.Conn, <-chan error) {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer server.Close()
		config := tlsConfig()
		config.Certificates = []tls.Certificate{key.certificate}
		c := tls.Server(server, config)
		var hello clientHello
		if _, err := receive(c, &hello); err != nil {
			done <- err
			return
		}
		done <- script(c, &hello)
	}()
	t.Cleanup(func() { server.Close() })
	return client, done
}

func tempFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

package chat_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/rpycfsd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that should happen soon.
const patience = 20 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// server is a daemon that can be stopped and started again.
type server struct {
	t       testing.TB
	cfg     rpycfsd.Config
	keys    map[string]ssh.Signer
	address string
	print   string // fingerprint

	mu   sync.Mutex
	halt func()
}

// newServer starts a daemon for the users, who log in by keys.
func newServer(t testing.TB, users ...string) *server {
	t.Helper()
	s := &server{t: t, keys: make(map[string]ssh.Signer)}
	table := auth.NewUsers()
	for _, name := range users {
		_, private, err := ed25519.GenerateKey(nil)
		must(t, err)
		s.keys[name], err = ssh.NewSignerFromKey(private)
		must(t, err)
		key, err := auth.ParseAuthorizedKey(string(ssh.MarshalAuthorizedKey(s.keys[name].PublicKey())))
		must(t, err)
		must(t, table.Add(auth.User{Name: name, Keys: []auth.AuthorizedKey{key}}))
	}
	s.cfg = rpycfsd.Config{
		Path: t.TempDir(), Listen: []string{"127.0.0.1:0"}, State: t.TempDir(), Users: table,
		Chat: rpycfsd.ChatConfig{Rate: -1}, Log: logger(),
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func logger() *slog.Logger {
	if os.Getenv("CHAT_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// logBuffer is a log that a test looks into.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) has(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.text.String(), text)
}

// into makes a client write its log there.
func (b *logBuffer) into(cfg *chat.Config) {
	cfg.Log = slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (s *server) start() {
	s.t.Helper()
	d, err := rpycfsd.New(s.cfg)
	must(s.t, err)
	s.address, s.print = d.Addrs()[0].String(), d.Fingerprint()
	s.cfg.Listen = []string{s.address}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halt = func() {
		cancel()
		if err := <-served; err != nil {
			s.t.Error(err)
		}
	}
}

func (s *server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halt != nil {
		s.halt()
		s.halt = nil
	}
}

// config is how a user dials the server.
func (s *server) config(user string) chat.Config {
	return chat.Config{Address: s.address, Log: logger(), Auth: &auth.Client{
		Host: s.address, User: user, Fingerprint: s.print,
		Signers: func() ([]ssh.Signer, error) { return []ssh.Signer{s.keys[user]}, nil },
	}}
}

// dial logs a user in until the test ends.
func (s *server) dial(user string, change ...func(*chat.Config)) *chat.Client {
	s.t.Helper()
	cfg := s.config(user)
	for _, f := range change {
		f(&cfg)
	}
	c, err := chat.Dial(testContext(s.t), cfg)
	must(s.t, err)
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return c
}

// withState gives a client a directory.
func withState(dir string) func(*chat.Config) {
	return func(cfg *chat.Config) { cfg.State = dir }
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// next returns the next event of type T, passing over others.
func next[T chat.Event](t testing.TB, c *chat.Client) T {
	t.Helper()
	return nextThat(t, c, func(T) bool { return true })
}

// nextThat returns the next event of type T that fits.
func nextThat[T chat.Event](t testing.TB, c *chat.Client, fits func(T) bool) T {
	t.Helper()
	var none T
	for e := range c.Events(testContext(t)) {
		if x, ok := e.(T); ok && fits(x) {
			return x
		}
	}
	t.Fatalf("no %T comes; the client's error is %v", none, c.Err())
	return none
}

// said returns the next message with text in a room, and fails if its entries
// do not follow one another.
func said(t testing.TB, c *chat.Client, text string) *chat.Message {
	t.Helper()
	return nextThat(t, c, func(m *chat.Message) bool { return m.Text == text })
}

func join(t testing.TB, c *chat.Client, name string) *chat.Room {
	t.Helper()
	r, err := c.Join(testContext(t), name)
	must(t, err)
	return r
}

func say(t testing.TB, r *chat.Room, text string) chat.Message {
	t.Helper()
	m, err := r.Say(testContext(t), text)
	if err != nil {
		t.Fatalf("say %q: %v", text, err)
	}
	return m
}

// eventually asks until the answer is yes.
func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !yes(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never comes to this: " + what)
		}
	}
}

// silentPort returns an address that nobody answers at.
func silentPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return fmt.Sprint(l.Addr())
}

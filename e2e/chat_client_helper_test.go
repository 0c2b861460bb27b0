package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat"
)

// chatPatience bounds a whole chat test's waiting.
const chatPatience = 2 * time.Minute

// chatWorld is a world whose daemon serves a chat to users with ssh keys.
type chatWorld struct {
	*world
	print string   // fingerprint of the daemon's key
	args  []string // of the daemon
}

// newChatWorld starts a daemon for the users.
func newChatWorld(t *testing.T, users ...string) *chatWorld {
	t.Helper()
	w := &chatWorld{world: newWorld(t)}
	w.args = []string{"--users=" + w.users, "--chat-rate=0"}
	for _, name := range users {
		w.enrol(name)
	}
	w.startDaemon()
	key, err := auth.LoadOrCreateKey(filepath.Join(w.dir, "state"))
	must(t, err)
	w.print = key.Fingerprint()
	return w
}

// startDaemon starts the daemon, once more if it was killed.
func (w *chatWorld) startDaemon() {
	w.t.Helper()
	if w.log != nil {
		w.log.Close()
	}
	w.serveWith(w.args)
}

// killDaemon ends the daemon as a crash does.
func (w *chatWorld) killDaemon() {
	w.t.Helper()
	daemon := w.daemon
	w.daemon = nil
	must(w.t, daemon.Process.Kill())
	_ = daemon.Wait()
}

func (w *chatWorld) config(user string) chat.Config {
	return chatConfig(w.port, user, filepath.Join(w.dir, "key-"+user), w.print)
}

// chatConfig is how a user with a key file dials a daemon on this machine.
func chatConfig(port int, user, keyFile, fingerprint string) chat.Config {
	address := "127.0.0.1:" + strconv.Itoa(port)
	return chat.Config{Address: address, Log: slog.New(slog.DiscardHandler), Auth: &auth.Client{
		Host: address, User: user, Fingerprint: fingerprint,
		Signers: func() ([]ssh.Signer, error) {
			text, err := os.ReadFile(keyFile)
			if err != nil {
				return nil, err
			}
			signer, err := ssh.ParsePrivateKey(text)
			return []ssh.Signer{signer}, err
		},
	}}
}

// dial logs a user in until the test ends.
func (w *chatWorld) dial(user string, change ...func(*chat.Config)) *chat.Client {
	w.t.Helper()
	cfg := w.config(user)
	for _, f := range change {
		f(&cfg)
	}
	return w.dialConfig(cfg)
}

func (w *chatWorld) dialConfig(cfg chat.Config) *chat.Client {
	w.t.Helper()
	c, err := chat.Dial(chatContext(w.t), cfg)
	must(w.t, err)
	w.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return c
}

// withState gives a client a directory in the world.
func (w *chatWorld) withState(name string) func(*chat.Config) {
	return func(cfg *chat.Config) { cfg.State = filepath.Join(w.dir, "client-"+name) }
}

func chatContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), chatPatience)
	t.Cleanup(cancel)
	return ctx
}

func joinRoom(t testing.TB, c *chat.Client, name string) *chat.Room {
	t.Helper()
	r, err := c.Join(chatContext(t), name)
	must(t, err)
	return r
}

// hear returns the next event of type T that fits.
func hear[T chat.Event](t testing.TB, c *chat.Client, fits func(T) bool) T {
	t.Helper()
	var none T
	for e := range c.Events(chatContext(t)) {
		if x, ok := e.(T); ok && fits(x) {
			return x
		}
	}
	t.Errorf("%s: no %T comes; the client's error is %v", c.User(), none, c.Err())
	return none
}

// hearText returns the next message with the text.
func hearText(t testing.TB, c *chat.Client, text string) *chat.Message {
	t.Helper()
	return hear(t, c, func(m *chat.Message) bool { return m.Text == text })
}

// listen takes messages of a room until it has n texts. A gap or a message that
// comes twice is an error.
func listen(c *chat.Client, room string, n int, limit time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var texts []string
	last := uint64(0)
	for e := range c.Events(ctx) {
		m, ok := e.(*chat.Message)
		if !ok || m.RoomName != room {
			continue
		}
		if last != 0 && m.Seq != last+1 {
			return texts, fmt.Errorf("%s has entry %d after %d", c.User(), m.Seq, last)
		}
		last = m.Seq
		if m.Said() {
			texts = append(texts, m.Text)
		}
		if len(texts) == n {
			return texts, nil
		}
	}
	return texts, fmt.Errorf("%s has %d of %d messages; the client's error is %w", c.User(), len(texts), n, errors.Join(c.Err(), ctx.Err()))
}

// chatterEnv makes the test binary a chat client: "PORT USER KEYFILE FINGERPRINT
// STATE" ("-" for no state). It prints "ready", then "heard SEQ LENGTH HASH" for each text in
// the lobby. Lines of its standard input are said, each answered with "said SEQ"
// or "failed ERROR"; its end ends the client.
const chatterEnv = "RPYCFS_E2E_CHATTER"

func chatterMain() int {
	var port int
	var user, keyFile, fingerprint, state string
	if _, err := fmt.Sscan(os.Getenv(chatterEnv), &port, &user, &keyFile, &fingerprint, &state); err != nil {
		fmt.Fprintln(os.Stderr, "chatter:", err)
		return 2
	}
	cfg := chatConfig(port, user, keyFile, fingerprint)
	if state != "-" {
		cfg.State = state
	}
	if err := chatter(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "chatter:", err)
		return 1
	}
	return 0
}

func chatter(cfg chat.Config) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := chat.Dial(ctx, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	room, err := c.Join(ctx, "lobby")
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		defer cancel()
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			if m, err := room.Say(ctx, in.Text()); err != nil {
				fmt.Println("failed", err)
			} else {
				fmt.Println("said", m.Seq)
			}
		}
	}()
	for e := range c.Events(ctx) {
		if m, ok := e.(*chat.Message); ok && m.Said() && m.RoomName == "lobby" {
			fmt.Printf("heard %d %s\n", m.Seq, digest(m.Text))
		}
	}
	return nil
}

// digest stands for a text.
func digest(text string) string {
	return fmt.Sprintf("%d %x", len(text), sha256.Sum256([]byte(text)))[:24]
}

// chatterProcess is a client in a process of its own.
type chatterProcess struct {
	user  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
}

// chatter starts a client process and waits until it has joined.
func (w *chatWorld) chatter(user, state string) *chatterProcess {
	w.t.Helper()
	self, err := os.Executable()
	must(w.t, err)
	if state != "-" {
		state = filepath.Join(w.dir, "client-"+state)
	}
	p := &chatterProcess{user: user, cmd: exec.CommandContext(w.ctx, self), lines: make(chan string, 100_000)}
	p.cmd.Env = append(w.env(), fmt.Sprintf("%s=%d %s %s %s %s", chatterEnv, w.port, user, filepath.Join(w.dir, "key-"+user), w.print, state))
	p.cmd.Stderr = os.Stderr
	p.in, err = p.cmd.StdinPipe()
	must(w.t, err)
	out, err := p.cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, p.cmd.Start())
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	w.t.Cleanup(p.end)
	p.expect(w.t, "ready")
	return p
}

// expect waits for a line that begins with word, passing over others, and
// returns the rest of it.
func (p *chatterProcess) expect(t testing.TB, word string) string {
	t.Helper()
	late := time.After(chatPatience)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("the client of %s has ended", p.user)
			}
			if rest, found := strings.CutPrefix(line, word); found {
				return strings.TrimSpace(rest)
			}
		case <-late:
			t.Fatalf("the client of %s prints no %q", p.user, word)
		}
	}
}

// heard waits for n messages and checks that they follow one another.
func (p *chatterProcess) heard(t testing.TB, want []string) {
	t.Helper()
	last := 0
	for i, text := range want {
		line := p.expect(t, "heard")
		number, sum, _ := strings.Cut(line, " ")
		seq, _ := strconv.Atoi(number)
		if last != 0 && seq != last+1 {
			t.Fatalf("%s has entry %d after %d", p.user, seq, last)
		}
		if last = seq; sum != text {
			t.Fatalf("%s has %q as message %d, not %q", p.user, sum, i, text)
		}
	}
}

// kill ends the process as kill -9 does.
func (p *chatterProcess) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	_ = p.cmd.Wait()
}

// end ends the process.
func (p *chatterProcess) end() {
	_ = p.in.Close()
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range p.lines {
		}
		_ = p.cmd.Wait()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		p.kill()
	}
}

// residentSize is the memory of a process, in bytes.
func residentSize(t testing.TB, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			must(t, err)
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/rpc"
)

// serveChat starts a daemon with these arguments for users with ssh keys.
func serveChat(t *testing.T, users []string, args ...string) *chatWorld {
	t.Helper()
	w := &chatWorld{world: newWorld(t)}
	w.users = filepath.Join(w.dir, "users")
	w.args = append([]string{"--users=" + w.users}, args...)
	for _, name := range users {
		w.enrol(name)
	}
	w.startDaemon()
	key, err := auth.LoadOrCreateKey(filepath.Join(w.dir, "state"))
	must(t, err)
	w.print = key.Fingerprint()
	return w
}

// listener is a client of the wire protocol alone: a session with one listener.
type listener struct {
	t       *testing.T
	session *client.Session
	own     rpc.Ref // of the listener
	ref     rpc.Ref // of the chat session
	lobby   rpc.Ref

	mu     sync.Mutex
	events []rpc.Message
}

// attach logs in at a port, attaches a listener and joins the lobby.
func (w *chatWorld) attach(user string, port int) *listener {
	w.t.Helper()
	l, err := w.login(user, port)
	must(w.t, err)
	must(w.t, l.enter())
	return l
}

// login logs in at a port, until the test ends.
func (w *chatWorld) login(user string, port int) (*listener, error) {
	cfg := w.config(user)
	s, err := client.Dial(chatContext(w.t), client.Config{Address: "127.0.0.1:" + strconv.Itoa(port), Auth: cfg.Auth, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	l := &listener{t: w.t.(*testing.T), session: s}
	w.t.Cleanup(l.close)
	return l, nil
}

// enter attaches the listener and joins the lobby.
func (l *listener) enter() error {
	m := new(rpc.Mux)
	rpc.Handle(m, chatproto.Deliver, l.deliver)
	rpc.Handle(m, chatproto.Cut, func(context.Context, *rpc.Request, *chatproto.CutReq, *chatproto.Empty) error {
		l.t.Error("cut off")
		return nil
	})
	ctx := chatContext(l.t)
	ref, err := l.session.Peer().Export(m, nil)
	if err != nil {
		return err
	}
	var attached chatproto.ChatAttachRes
	if err := rpc.Call(ctx, l.session.Peer(), chatproto.Attach, &chatproto.ChatAttachReq{Listener: ref}, &attached); err != nil {
		return err
	}
	l.own, l.ref = ref, attached.Session
	var room chatproto.RoomRes
	_, err = rpc.CallWith(ctx, l.session.Peer(), chatproto.JoinRoom, &chatproto.JoinRoomReq{ID: randomID(), Name: "lobby"}, &room, rpc.Extra{Object: l.ref})
	l.lobby = room.Ref
	return err
}

func (l *listener) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.session.Close(ctx) // the daemon may be gone
}

func (l *listener) deliver(_ context.Context, _ *rpc.Request, req *chatproto.DeliverReq, _ *chatproto.Empty) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if next := uint64(len(l.events)) + 1; req.First != next {
		l.t.Errorf("event %d comes where %d is due", req.First, next)
	}
	for _, e := range req.Events {
		m := chatproto.NewEventBody(e.Kind)
		if err := rpc.Decode(bytes.Clone(e.Body), m); err != nil {
			l.t.Error(err)
		}
		l.events = append(l.events, m)
	}
	return nil
}

// await waits for an event and returns how many of them there are.
func (l *listener) await(what string, is func(rpc.Message) bool) int {
	l.t.Helper()
	n := 0
	if !eventually(patience, func() bool { n = l.count(is); return n > 0 }) {
		l.t.Fatalf("%s does not come", what)
	}
	return n
}

func (l *listener) count(is func(rpc.Message) bool) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.events {
		if is(m) {
			n++
		}
	}
	return n
}

func isPresence(user string, state uint8) func(rpc.Message) bool {
	return func(m rpc.Message) bool {
		p, ok := m.(*chatproto.Presence)
		return ok && p.User == user && p.State == state
	}
}

func isText(text string) func(rpc.Message) bool {
	return func(m rpc.Message) bool {
		e, ok := m.(*chatproto.Message)
		return ok && e.Kind == chatproto.KindText && string(e.Body) == text
	}
}

func (l *listener) say(text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := chatproto.SayReq{ID: randomID(), Kind: chatproto.KindText, Body: []byte(text)}
	_, err := rpc.CallWith(ctx, l.session.Peer(), chatproto.Say, &req, new(chatproto.SayRes), rpc.Extra{Object: l.lobby})
	return chatproto.FromRPC(err)
}

func randomID() (id chatproto.ID) {
	rand.Read(id[:])
	return id
}

// TestChatServer: the daemon's chat over real connections: what is said is
// there after a restart, the files are private, and the word that it stops
// arrives before the connection ends.
func TestChatServer(t *testing.T) {
	w := serveChat(t, []string{"alice", "bob"})
	alice, bob := w.attach("alice", w.port), w.attach("bob", w.port)
	must(t, alice.say("hello"))
	bob.await("the text", isText("hello"))
	for _, name := range []string{"chat.db", "chat.db-wal"} {
		info, err := os.Stat(filepath.Join(w.dir, "state", name))
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}

	// Somebody whose account is a moment old can be spoken to.
	w.enrol("carol")
	ctx := chatContext(t)
	whisper := func(user string) error {
		req := chatproto.WhisperReq{User: user, Say: chatproto.SayReq{ID: randomID(), Kind: chatproto.KindText, Body: []byte("hi")}}
		_, err := rpc.CallWith(ctx, alice.session.Peer(), chatproto.Whisper, &req, new(chatproto.WhisperRes), rpc.Extra{Object: alice.ref})
		return chatproto.FromRPC(err)
	}
	if !eventually(patience, func() bool { return whisper("carol") == nil }) {
		t.Errorf("to carol: %v", whisper("carol"))
	}
	if err := whisper("nobody"); !errors.Is(err, chatproto.ErrNoUser) {
		t.Errorf("to nobody: %v", err)
	}

	w.stop()
	isNotice := func(m rpc.Message) bool { _, ok := m.(*chatproto.Notice); return ok }
	for _, l := range []*listener{alice, bob} {
		if n := l.count(isNotice); n != 1 {
			t.Errorf("%d notices before the end", n)
		}
		if n := l.count(isPresence("alice", chatproto.Offline)) + l.count(isPresence("bob", chatproto.Offline)); n != 0 {
			t.Error("leave events while the server stops")
		}
	}
	w.startDaemon()
	again := w.attach("bob", w.port)
	var page chatproto.HistoryRes
	_, err := rpc.CallWith(ctx, again.session.Peer(), chatproto.History, &chatproto.HistoryReq{}, &page, rpc.Extra{Object: again.lobby})
	must(t, err)
	if n := len(page.Messages); n != 3 || string(page.Messages[n-1].Body) != "hello" {
		t.Errorf("%+v", page)
	}
}

// TestB4LeaveOnce: a client that dies is away and then gone, once; one that logs
// out is gone at once, once.
func TestB4LeaveOnce(t *testing.T) {
	w := serveChat(t, []string{"alice", "bob", "carol"}, "--presence-grace=1500ms")
	bob := w.attach("bob", w.port)
	p := newProxy(t, w.port, false)
	w.attach("alice", p.port)
	bob.await("alice", isPresence("alice", chatproto.Online))
	start := time.Now()
	p.close()
	bob.await("away", isPresence("alice", chatproto.Away))
	bob.await("the leave", isPresence("alice", chatproto.Offline))
	if d := time.Since(start); d < 1500*time.Millisecond {
		t.Errorf("gone after %v", d)
	}

	carol := w.attach("carol", w.port)
	bob.await("carol", isPresence("carol", chatproto.Online))
	start = time.Now()
	must(t, carol.session.Peer().Release(chatContext(t), carol.ref))
	bob.await("the leave", isPresence("carol", chatproto.Offline))
	if d := time.Since(start); d > time.Second {
		t.Errorf("gone %v after the log-out", d)
	}
	carol.close()
	must(t, bob.say("a fence"))
	bob.await("the fence", isText("a fence"))
	for _, user := range []string{"alice", "carol"} {
		if n := bob.count(isPresence(user, chatproto.Offline)); n != 1 {
			t.Errorf("%d leave events of %s", n, user)
		}
	}
}

// TestChatOfReadOnlyUser: who may change no file may speak, on an export that
// nobody may change.
func TestChatOfReadOnlyUser(t *testing.T) {
	w := serveChat(t, []string{"alice"}, "--read-only")
	must(t, auth.EditUsers(w.users, func(u *auth.Users) error {
		user, _ := u.Lookup("alice")
		user.ReadOnly = true
		return u.Add(user)
	}))
	alice := w.attach("alice", w.port)
	must(t, alice.say("hello"))
	alice.await("the text", isText("hello"))
}

// TestChatRate: --chat-rate bounds what one user says.
func TestChatRate(t *testing.T) {
	w := serveChat(t, []string{"alice"}, "--chat-rate=2")
	alice := w.attach("alice", w.port)
	var rate *chatproto.Error
	for n := 0; ; n++ {
		err := alice.say("again")
		if errors.As(err, &rate) {
			if !errors.Is(err, chatproto.ErrRate) || rate.RetryAfter <= 0 || n < 20 {
				t.Errorf("%v after %d", err, n)
			}
			return
		}
		must(t, err)
		if n > 1000 {
			t.Fatal("no limit")
		}
	}
}

// TestChatOff: --no-chat serves none and leaves no database.
func TestChatOff(t *testing.T) {
	w := serveChat(t, []string{"alice"}, "--no-chat")
	cfg := w.config("alice")
	s, err := client.Dial(chatContext(t), client.Config{Address: cfg.Address, Auth: cfg.Auth})
	must(t, err)
	defer s.Close(chatContext(t))
	err = rpc.Call(chatContext(t), s.Peer(), chatproto.Attach, &chatproto.ChatAttachReq{Listener: 1}, new(chatproto.ChatAttachRes))
	if !errors.Is(err, rpc.ErrNoMethod) {
		t.Error(err)
	}
	if exists(filepath.Join(w.dir, "state", "chat.db")) {
		t.Error("there is a database")
	}
}

// TestChatTakenOver: of two daemons with one state directory the first serves
// the chat, both serve files, and the second takes the chat over with what was
// said in it.
func TestChatTakenOver(t *testing.T) {
	w := serveChat(t, []string{"alice"})
	must(t, w.attach("alice", w.port).say("before"))

	first := *w.world
	w.port, w.log = freePort(t), nil
	w.startDaemon()
	cfg := w.config("alice")
	dial := func() error {
		s, err := client.Dial(chatContext(t), client.Config{Address: cfg.Address, Auth: cfg.Auth})
		must(t, err)
		defer s.Close(chatContext(t))
		return chatproto.FromRPC(rpc.Call(chatContext(t), s.Peer(), chatproto.Attach, &chatproto.ChatAttachReq{Listener: 1}, new(chatproto.ChatAttachRes)))
	}
	if err := dial(); !errors.Is(err, chatproto.ErrElsewhere) {
		t.Errorf("while the first daemon runs: %v", err)
	}
	if log := w.daemonLog(); !strings.Contains(log, "another daemon") {
		t.Errorf("the second daemon says:\n%s", log)
	}
	first.stop()
	if !eventually(patience, func() bool { return dial() == nil }) {
		t.Fatalf("not taken over:\n%s", w.daemonLog())
	}
	alice := w.attach("alice", w.port)
	req := &chatproto.HistoryReq{}
	var history chatproto.HistoryRes
	_, err := rpc.CallWith(chatContext(t), alice.session.Peer(), chatproto.History, req, &history, rpc.Extra{Object: alice.lobby})
	must(t, err)
	if n := len(history.Messages); n < 2 || string(history.Messages[n-1].Body) != "before" {
		t.Errorf("history: %+v", history.Messages)
	}
}

// TestChatDoesNotStart: a chat that cannot be served is said in one line that
// tells what to do.
func TestChatDoesNotStart(t *testing.T) {
	w := serveChat(t, []string{"alice"})
	fails := func(code int, want []string, args ...string) {
		t.Helper()
		cmd := w.command("rpycfsd", append([]string{w.export, "--listen=127.0.0.1:0", "--users=" + w.users}, args...)...)
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != code {
			t.Errorf("%q: %v", args, err)
		}
		text := strings.TrimSpace(string(out))
		for _, word := range append(want, "rpycfsd: ") {
			if !strings.Contains(text, word) {
				t.Errorf("%q: %s", args, text)
			}
		}
		if strings.Contains(text, "\n") {
			t.Errorf("more than one line:\n%s", text)
		}
	}
	state := "--state=" + filepath.Join(w.dir, "state")
	fails(2, []string{"--chat-retention"}, state, "--chat-retention=many")
	fails(2, []string{"--chat-retention"}, state, "--chat-retention=0")
	fails(2, []string{"--chat-rate"}, state, "--chat-rate=-1")
	fails(2, []string{"--presence-grace"}, state, "--presence-grace=-1s")
	w.stop()

	path := filepath.Join(w.dir, "state", "chat.db")
	good, err := os.ReadFile(path)
	must(t, err)
	for _, leftover := range []string{"-wal", "-shm"} {
		if exists(path + leftover) {
			t.Errorf("%s is left", leftover)
		}
	}
	newer := bytes.Clone(good)
	newer[63] = 200 // the schema's version, in the file's header
	must(t, os.WriteFile(path, newer, 0o600))
	fails(1, []string{"newer", "chat.db", "--no-chat"}, state)
	must(t, os.WriteFile(path, bytes.Repeat([]byte("this is no database. "), 1000), 0o600))
	fails(1, []string{"chat.db", "restore", "--no-chat"}, state)
	must(t, os.WriteFile(path, good[:len(good)/2], 0o600))
	fails(1, []string{"chat.db", "restore", "--no-chat"}, state)
	must(t, os.WriteFile(path, good, 0o600))
	w.startDaemon()
	w.attach("alice", w.port)
}

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// TestB1TwoDevices: a wrong password is refused and guessing gets slow; one user
// on two devices gets everything on both.
func TestB1TwoDevices(t *testing.T) {
	w := newChatWorld(t, "bob")
	must(t, auth.EditUsers(w.users, func(u *auth.Users) error {
		return errors.Join(u.Add(auth.User{Name: "alice"}), u.SetPassword("alice", testPassword), u.Add(auth.User{Name: "carol"}), u.SetPassword("carol", "x"))
	}))
	w.daemon.Process.Signal(syscall.SIGHUP)
	byPassword := func(user, password string) chat.Config {
		cfg := w.config("bob")
		cfg.Auth = &auth.Client{Host: cfg.Address, User: user, Fingerprint: w.print, Password: func() (string, error) { return password, nil }}
		return cfg
	}
	var guessing sync.WaitGroup
	guessing.Go(func() {
		var last time.Duration
		for try := 1; try <= 6; try++ {
			start := time.Now()
			c, err := chat.Dial(chatContext(t), byPassword("carol", fmt.Sprint("guess ", try)))
			if !errors.Is(err, auth.ErrRefused) {
				t.Errorf("guess %d: %v", try, err)
			}
			if c != nil {
				c.Close()
			}
			last = time.Since(start)
		}
		if last < 3*time.Second {
			t.Errorf("the sixth guess was answered after %v", last)
		}
	})
	defer guessing.Wait()

	one, two := w.dialConfig(byPassword("alice", testPassword)), w.dialConfig(byPassword("alice", testPassword))
	room := joinRoom(t, one, "lobby")
	bob := w.dial("bob")
	theirs := joinRoom(t, bob, "lobby")
	for _, say := range []func() error{
		func() error { _, err := theirs.Say(chatContext(t), "from bob"); return err },
		func() error { _, err := room.Say(chatContext(t), "from the first device"); return err },
		func() error { return bob.Whisper(chatContext(t), "alice", "to alice only") },
	} {
		must(t, say())
	}
	for _, text := range []string{"from bob", "from the first device", "to alice only"} {
		a, b := hearText(t, one, text), hearText(t, two, text)
		if a == nil || b == nil || a.ID != b.ID || a.Seq != b.Seq {
			t.Errorf("%q: %+v and %+v", text, a, b)
		}
	}
}

// eight has eight clients say so many messages each into one room while chaos
// goes on, and returns the log of each.
func eight(t *testing.T, w *chatWorld, clients []*chat.Client, each int, chaos func()) [][]string {
	t.Helper()
	start := time.Now()
	var wait sync.WaitGroup
	logs := make([][]string, len(clients))
	var rooms []*chat.Room
	for _, c := range clients {
		rooms = append(rooms, joinRoom(t, c, "lobby"))
	}
	for i, room := range rooms {
		wait.Go(func() {
			for n := range each {
				if _, err := room.Send(fmt.Sprintf("%d says %d", i, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i, c := range clients {
		wait.Go(func() {
			var err error
			if logs[i], err = listen(c, "lobby", each*len(clients), chatPatience); err != nil {
				t.Error(err)
			}
		})
	}
	chaos()
	wait.Wait()
	took := time.Since(start)
	t.Logf("%d clients, %d messages each: %v, %.0f messages/s", len(clients), each, took, float64(each*len(clients))/took.Seconds())
	return logs
}

// checkLogs checks that all logs are the same, and that each client's messages
// are there once and in the order in which it said them.
func checkLogs(t *testing.T, logs [][]string, each int) {
	t.Helper()
	next := make([]int, len(logs))
	for _, text := range logs[0] {
		var who, n int
		if _, err := fmt.Sscanf(text, "%d says %d", &who, &n); err != nil || who >= len(next) || n != next[who] {
			t.Fatalf("%q comes where message %v is due", text, next)
		}
		next[who]++
	}
	for who, n := range next {
		if n != each {
			t.Errorf("%d messages of client %d", n, who)
		}
	}
	for i, log := range logs[1:] {
		if strings.Join(log, "\n") != strings.Join(logs[0], "\n") {
			t.Errorf("the log of client %d is another than that of client 0", i+1)
		}
	}
}

func eightNames() []string {
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprint("user", i))
	}
	return names
}

// TestB2EightClients: identical logs on all, gap-free, none twice.
// RPYCFS_CHAT_MESSAGES says how many each client says.
func TestB2EightClients(t *testing.T) {
	each := setting(t, "RPYCFS_CHAT_MESSAGES", 150)
	w := newChatWorld(t, eightNames()...)
	var clients []*chat.Client
	for _, name := range eightNames() {
		clients = append(clients, w.dial(name))
	}
	checkLogs(t, eight(t, w, clients, each, func() {}), each)
}

// TestB2EightClientsWithKills: the same while the daemon is killed and started
// again five times.
func TestB2EightClientsWithKills(t *testing.T) {
	each := setting(t, "RPYCFS_CHAT_MESSAGES", 150)
	w := newChatWorld(t, eightNames()...)
	var clients []*chat.Client
	for i, name := range eightNames() {
		c := w.dial(name, func(cfg *chat.Config) {
			if i%2 == 0 {
				w.withState(name)(cfg)
			}
		})
		clients = append(clients, c)
	}
	witness := w.dial("user0", func(cfg *chat.Config) { cfg.NoEvents = true })
	room := joinRoom(t, witness, "lobby")
	kills, at := 0, uint64(0)
	logs := eight(t, w, clients, each, func() {
		for kills < 5 {
			// Each kill comes when some more of the messages are there.
			due := uint64(8 * each * kills / 6)
			if !eventually(chatPatience, func() bool {
				page, err := room.History(chatContext(t), 0, 1)
				if err == nil && len(page) == 1 {
					at = page[0].Seq
				}
				return at >= due+16
			}) {
				t.Error("no messages come")
				return
			}
			w.killDaemon()
			kills++
			w.startDaemon()
		}
	})
	if kills != 5 || at >= uint64(8*each) {
		t.Errorf("%d kills, the last at entry %d: not in the midst", kills, at)
	}
	checkLogs(t, logs, each)
}

// TestF4OneOfTenKilled: a client is killed in the midst of a broadcast; the
// others get everything.
func TestF4OneOfTenKilled(t *testing.T) {
	const n, listeners = 120, 10
	names := []string{"speaker"}
	for i := range listeners {
		names = append(names, fmt.Sprint("ear", i))
	}
	w := newChatWorld(t, names...)
	speaker := w.dial("speaker", func(cfg *chat.Config) { cfg.NoEvents = true })
	room := joinRoom(t, speaker, "lobby")
	var ears []*chatterProcess
	for i := range listeners {
		ears = append(ears, w.chatter(fmt.Sprint("ear", i), "-"))
	}
	var want []string
	for i := range n {
		text := fmt.Sprint("message ", i)
		want = append(want, digest(text))
		if _, err := room.Send(text); err != nil {
			t.Fatal(err)
		}
		if i == n/3 {
			ears[4].expect(t, "heard") // it is in the midst
			ears[4].kill()
		}
	}
	for i, ear := range ears {
		if i != 4 {
			ear.heard(t, want)
		}
	}
	must(t, speaker.Flush(chatContext(t)))
	again := w.chatter("ear4", "-") // its name is not blocked
	if _, err := room.Say(chatContext(t), "welcome back"); err != nil {
		t.Error(err)
	}
	again.heard(t, []string{digest("welcome back")})
}

// TestB5SIGSTOP: one of ten clients stands still; the others get everything
// meanwhile, the daemon does not grow, and the one has it all when it goes on.
// RPYCFS_CHAT_STOPPED is the number of messages of 8 KiB.
func TestB5SIGSTOP(t *testing.T) {
	otherwise := 2000
	if raceEnabled {
		otherwise = 1000 // the race detector makes eleven slow clients
	}
	n := setting(t, "RPYCFS_CHAT_STOPPED", otherwise)
	const listeners, speakers = 10, 4
	names := []string{}
	for i := range listeners {
		names = append(names, fmt.Sprint("ear", i))
	}
	for i := range speakers {
		names = append(names, fmt.Sprint("mouth", i))
	}
	w := newChatWorld(t, names...)
	var ears []*chatterProcess
	for i := range listeners {
		ears = append(ears, w.chatter(fmt.Sprint("ear", i), "-"))
	}
	stopped := ears[3]
	must(t, stopped.cmd.Process.Signal(syscall.SIGSTOP))
	before := residentSize(t, w.daemon.Process.Pid)
	speak(t, w, speakers, n)
	first := hearAll(t, ears[0], n)
	for i, ear := range ears {
		if ear != stopped && i > 0 {
			if log := hearAll(t, ear, n); strings.Join(log, "\n") != strings.Join(first, "\n") {
				t.Errorf("%s has another log", ear.user)
			}
		}
	}
	grown := residentSize(t, w.daemon.Process.Pid) - before
	t.Logf("the daemon has grown by %d KiB", grown>>10)
	limit := int64(64 << 20)
	if raceEnabled {
		limit *= 4 // the race detector keeps a shadow of all memory
	}
	if grown > limit {
		t.Errorf("the daemon has grown by %d MiB", grown>>20)
	}
	if len(stopped.lines) > 0 {
		t.Errorf("the stopped client has printed %d lines", len(stopped.lines))
	}
	must(t, stopped.cmd.Process.Signal(syscall.SIGCONT))
	if log := hearAll(t, stopped, n); strings.Join(log, "\n") != strings.Join(first, "\n") {
		t.Error("the client that was stopped has another log")
	}
}

// speak has n messages of 8 KiB said.
func speak(t *testing.T, w *chatWorld, speakers, n int) {
	t.Helper()
	var wait sync.WaitGroup
	for i := range speakers {
		c := w.dial(fmt.Sprint("mouth", i), func(cfg *chat.Config) { cfg.NoEvents = true })
		room := joinRoom(t, c, "lobby")
		wait.Go(func() {
			for m := range n / speakers {
				if _, err := room.Send(fmt.Sprintf("%d %d ", i, m) + strings.Repeat("x", 8<<10)); err != nil {
					t.Error(err)
				}
			}
			if err := c.Flush(chatContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

// hearAll returns what a client process heard, which must be n messages that
// follow one another.
func hearAll(t *testing.T, p *chatterProcess, n int) []string {
	t.Helper()
	var log []string
	last := 0
	for range n {
		line := p.expect(t, "heard")
		log = append(log, line)
		var seq int
		if _, err := fmt.Sscan(line, &seq); err != nil {
			t.Fatal(err)
		}
		// Between the texts the speakers come in.
		if last != 0 && seq <= last {
			t.Fatalf("%s has entry %d after %d", p.user, seq, last)
		}
		last = seq
	}
	return log
}

// TestH3Outbox: what is said while the daemon is down goes out once and in
// order, also from a process that was killed; and what is acknowledged survives
// a daemon that is killed right after.
func TestH3Outbox(t *testing.T) {
	w := newChatWorld(t, "alice", "bob")
	bob := w.dial("bob")
	joinRoom(t, bob, "lobby")
	alice := w.dial("alice", w.withState("alice"))
	room := joinRoom(t, alice, "lobby")

	w.killDaemon()
	for i := range 3 {
		_, err := room.Send(fmt.Sprint("offline ", i))
		must(t, err)
	}
	w.startDaemon()
	for i := range 3 {
		hearText(t, bob, fmt.Sprint("offline ", i))
	}
	must(t, alice.Flush(chatContext(t)))

	other := w.chatter("alice", "alice")
	w.killDaemon()
	for i := range 3 {
		_, err := fmt.Fprintln(other.in, "last words ", i)
		must(t, err)
		other.expect(t, "failed") // it is in the outbox
	}
	other.kill()
	w.startDaemon()
	heir := w.dial("alice", w.withState("alice"))
	for i := range 3 {
		hearText(t, bob, fmt.Sprint("last words  ", i))
	}
	must(t, heir.Flush(chatContext(t)))

	eventually(chatPatience, func() bool { return alice.Status().Connected }) // or it is queued
	m, err := room.Say(chatContext(t), "acknowledged")
	must(t, err)
	w.killDaemon()
	w.startDaemon()
	page, err := room.History(chatContext(t), 0, 500)
	must(t, err)
	count := make(map[string]int)
	for _, e := range page {
		count[e.Text]++
	}
	for text, n := range count {
		if text != "" && n != 1 {
			t.Errorf("%q is there %d times", text, n)
		}
	}
	if last := page[len(page)-1]; last.ID != m.ID || last.Seq != m.Seq {
		t.Errorf("the newest entry is %+v, not the acknowledged %+v", last, m)
	}
}

// TestH5MarksAgree: the counts of unread messages are the same on two devices.
func TestH5MarksAgree(t *testing.T) {
	w := newChatWorld(t, "alice", "bob")
	one, two, bob := w.dial("alice"), w.dial("alice"), w.dial("bob")
	mine := joinRoom(t, one, "lobby")
	room := joinRoom(t, bob, "lobby")
	var last chat.Message
	for i := range 20 {
		var err error
		last, err = room.Say(chatContext(t), fmt.Sprint("m", i))
		must(t, err)
	}
	hearText(t, one, "m19")
	hearText(t, two, "m19")
	agree := func(want int) {
		t.Helper()
		if !eventually(patience, func() bool {
			for _, c := range []*chat.Client{one, two} {
				if r, err := c.Room("lobby"); err != nil || r.Info().Unread != want {
					return false
				}
			}
			return true
		}) {
			a, _ := one.Room("lobby")
			b, _ := two.Room("lobby")
			t.Errorf("unread: %d and %d, not %d", a.Info().Unread, b.Info().Unread, want)
		}
	}
	// Nobody else reads the events from here on; the tables are kept all the same.
	agree(20)
	must(t, mine.MarkRead(chatContext(t), last.Seq-5))
	agree(5)
	theirs, err := two.Room("lobby")
	must(t, err)
	must(t, theirs.MarkRead(chatContext(t), last.Seq))
	agree(0)
	if _, err := room.Say(chatContext(t), "one more"); err != nil {
		t.Error(err)
	}
	agree(1)
	third := w.dial("alice")
	if r, err := third.Room("lobby"); err != nil || r.Info().Unread != 1 || r.Info().Read != last.Seq {
		t.Errorf("a third device: %+v, %v", r.Info(), err)
	}
}

// TestH6Direct: a direct message waits for who is away, and a third user sees
// nothing of it, live, in the history or by search.
func TestH6Direct(t *testing.T) {
	w := newChatWorld(t, "alice", "bob", "carol")
	alice, carol := w.dial("alice"), w.dial("carol")
	joinRoom(t, carol, "lobby")
	must(t, alice.Whisper(chatContext(t), "bob", "between you and me"))
	bob := w.dial("bob", func(cfg *chat.Config) { cfg.Start = chat.FromUnread })
	m := hearText(t, bob, "between you and me")
	if m.From != "alice" || m.RoomName != "@alice" {
		t.Errorf("%+v", m)
	}
	back, err := bob.Direct(chatContext(t), "alice")
	must(t, err)
	_, err = back.Say(chatContext(t), "and back")
	must(t, err)
	hearText(t, alice, "and back")

	room := joinRoom(t, alice, "lobby")
	_, err = room.Say(chatContext(t), "the end")
	must(t, err)
	heard := hear(t, carol, func(m *chat.Message) bool { return m.Said() })
	if heard.Text != "the end" {
		t.Errorf("carol heard %+v", heard)
	}
	found, _, err := carol.Search(chatContext(t), "between", chat.Cursor{}, 10)
	if len(found) != 0 || err != nil {
		t.Errorf("carol found %+v, %v", found, err)
	}
	if found, _, err = bob.Search(chatContext(t), "between", chat.Cursor{}, 10); len(found) != 1 || err != nil {
		t.Errorf("bob found %+v, %v", found, err)
	}
	if _, err := carol.Room(fmt.Sprint(uint64(m.Room))); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Error(err)
	}
}

// TestChatCuts: connections are cut again and again while much is said; nothing
// is missing or there twice.
func TestChatCuts(t *testing.T) {
	const n = 200
	w := newChatWorld(t, "alice", "bob")
	p := newProxy(t, w.port, false)
	through := func(user string) *chat.Client {
		cfg := w.config(user)
		cfg.Address = fmt.Sprintf("127.0.0.1:%d", p.port)
		return w.dialConfig(cfg)
	}
	alice, bob := through("alice"), through("bob")
	room := joinRoom(t, alice, "lobby")
	joinRoom(t, bob, "lobby")
	ctx, stop := context.WithCancel(context.Background())
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-time.After(time.Duration(20+rand.IntN(60)) * time.Millisecond):
				p.cut()
			case <-ctx.Done():
			}
		}
	})
	defer func() {
		stop()
		cutting.Wait()
	}()
	for i := range n {
		_, err := room.Send(fmt.Sprint(i))
		must(t, err)
	}
	texts, err := listen(bob, "lobby", n, chatPatience)
	must(t, err)
	for i, text := range texts {
		if text != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, text)
		}
	}
}

// TestEchoBot drives the example: it answers to its name and to whispers, also
// after the daemon was killed, and keeps out of everything else.
func TestEchoBot(t *testing.T) {
	w := newChatWorld(t, "alice")
	must(t, auth.EditUsers(w.users, func(u *auth.Users) error {
		return errors.Join(u.Add(auth.User{Name: "echobot"}), u.SetPassword("echobot", testPassword))
	}))
	must(t, w.daemon.Process.Signal(syscall.SIGHUP))
	alice := w.dial("alice")
	room := joinRoom(t, alice, "lobby")
	bot := filepath.Join(w.dir, "echobot")
	build := exec.CommandContext(w.ctx, "go", "build", "-buildvcs=false", "-o", bot, "../examples/echobot")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := w.command(bot, "-address", fmt.Sprintf("127.0.0.1:%d", w.port), "-password-file", w.private("password", testPassword+"\n"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if out.Len() > 0 {
			t.Errorf("the bot says: %s", out.String())
		}
	}()
	hear(t, alice, func(m *chat.Message) bool { return m.Kind == chatproto.KindJoin && m.From == "echobot" })
	for _, text := range []string{"nobody in particular", "echobot: hello there"} {
		_, err := room.Say(chatContext(t), text)
		must(t, err)
	}
	answer := hear(t, alice, func(m *chat.Message) bool { return m.Said() && m.From == "echobot" })
	if answer.Text != "alice said: hello there" || answer.RoomName != "lobby" {
		t.Errorf("%+v", answer)
	}
	w.killDaemon()
	w.startDaemon()
	must(t, alice.Whisper(chatContext(t), "echobot", "secret"))
	answer = hear(t, alice, func(m *chat.Message) bool { return m.Said() && m.From == "echobot" })
	if answer.Text != "alice said: secret" || answer.RoomName != "@echobot" {
		t.Errorf("%+v", answer)
	}
}

package chat_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

func TestSay(t *testing.T) {
	s := newServer(t, "alice", "bob")
	alice, bob := s.dial("alice"), s.dial("bob")
	room := join(t, alice, "lobby")
	join(t, bob, "lobby")
	m := say(t, room, "hello")
	got := said(t, bob, "hello")
	if got.From != "alice" || got.Seq != m.Seq || got.ID != m.ID || got.RoomName != "lobby" || !got.Time.Equal(m.Time) || m.Pending || got.Kind != chatproto.KindText {
		t.Errorf("said %+v, heard %+v", m, got)
	}
	if own := said(t, alice, "hello"); own.ID != m.ID {
		t.Errorf("own message %+v", own)
	}
	if _, err := room.Act(testContext(t), "waves"); err != nil {
		t.Error(err)
	}
	if got := said(t, bob, "waves"); got.Kind != chatproto.KindAction {
		t.Errorf("%+v", got)
	}
	if _, err := room.Say(testContext(t), ""); !errors.Is(err, chatproto.ErrText) {
		t.Error(err)
	}
}

// TestTwoEqualTexts: saying the same twice is two messages.
func TestTwoEqualTexts(t *testing.T) {
	s := newServer(t, "alice")
	room := join(t, s.dial("alice"), "lobby")
	if a, b := say(t, room, "again"), say(t, room, "again"); b.Seq != a.Seq+1 {
		t.Errorf("%d, then %d", a.Seq, b.Seq)
	}
}

// TestJoinedMeanwhile: the entries of a room that the user comes into begin with
// the one that says so.
func TestJoinedMeanwhile(t *testing.T) {
	s := newServer(t, "alice", "bob")
	alice, bob := s.dial("alice"), s.dial("bob")
	room, err := alice.Create(testContext(t), "garden", chatproto.RoomPrivate, "flowers")
	must(t, err)
	say(t, room, "before")
	must(t, room.Invite(testContext(t), "bob"))
	say(t, room, "after")
	changed := nextThat(t, bob, func(e *chat.RoomChanged) bool { return e.New })
	if changed.Room.Name != "garden" || changed.Room.Topic != "flowers" || changed.Room.Owner != "alice" {
		t.Errorf("%+v", changed)
	}
	if m := next[*chat.Message](t, bob); m.Kind != chatproto.KindInvite || m.Target != "bob" || m.From != "alice" {
		t.Errorf("%+v", m)
	}
	if m := next[*chat.Message](t, bob); m.Text != "after" {
		t.Errorf("%+v", m)
	}
	must(t, room.Remove(testContext(t), "bob"))
	if gone := next[*chat.RoomGone](t, bob); gone.Room.Name != "garden" {
		t.Errorf("%+v", gone)
	}
	if _, err := bob.Room("garden"); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Error(err)
	}
}

// TestWhispers: direct messages reach who was away, and only the two.
func TestWhispers(t *testing.T) {
	s := newServer(t, "alice", "bob", "carol")
	alice, carol := s.dial("alice"), s.dial("carol")
	must(t, alice.Whisper(testContext(t), "bob", "psst"))
	if err := alice.Whisper(testContext(t), "nobody", "psst"); !errors.Is(err, chatproto.ErrNoUser) {
		t.Error(err)
	}
	bob := s.dial("bob", func(cfg *chat.Config) { cfg.Start = chat.FromUnread })
	m := next[*chat.Message](t, bob)
	if m.Text != "psst" || m.From != "alice" || m.RoomName != "@alice" {
		t.Errorf("%+v", m)
	}
	back, err := bob.Room("@alice")
	must(t, err)
	say(t, back, "yes?")
	if m := said(t, alice, "yes?"); m.RoomName != "@bob" {
		t.Errorf("%+v", m)
	}
	for _, r := range carol.Rooms() {
		if r.Kind == chatproto.RoomDirect {
			t.Errorf("carol is in %+v", r)
		}
	}
}

func TestStartAndSince(t *testing.T) {
	s := newServer(t, "alice", "bob")
	alice := s.dial("alice")
	room := join(t, alice, "lobby")
	bob := s.dial("bob")
	theirs := join(t, bob, "lobby")
	for i := range 5 {
		say(t, room, fmt.Sprint("m", i))
	}
	third := said(t, bob, "m2")
	must(t, theirs.MarkRead(testContext(t), third.Seq))
	unread := s.dial("bob", func(cfg *chat.Config) { cfg.Start = chat.FromUnread })
	since := s.dial("bob", func(cfg *chat.Config) { cfg.Since = map[string]uint64{"#Lobby": third.Seq + 1} })
	now := s.dial("bob")
	say(t, room, "m5")
	for name, c := range map[string]struct {
		c    *chat.Client
		want string
	}{"unread": {unread, "m3"}, "since": {since, "m4"}, "now": {now, "m5"}} {
		if m := next[*chat.Message](t, c.c); m.Text != c.want {
			t.Errorf("%s: the first message is %q, not %q", name, m.Text, c.want)
		}
	}
}

// checkLog takes the messages of a room until it has seen the wanted number of
// texts, and fails if an entry is missing or comes twice. It returns the texts.
func checkLog(t testing.TB, c *chat.Client, room string, want int) []string {
	t.Helper()
	var texts []string
	last := uint64(0)
	for e := range c.Events(testContext(t)) {
		m, ok := e.(*chat.Message)
		if !ok || m.RoomName != room {
			continue
		}
		if last != 0 && m.Seq != last+1 {
			t.Errorf("%s has entry %d after %d", c.User(), m.Seq, last)
		}
		last = m.Seq
		if m.Said() {
			texts = append(texts, m.Text)
		}
		if len(texts) == want {
			return texts
		}
	}
	t.Fatalf("%s has %d of %d messages", c.User(), len(texts), want)
	return nil
}

// TestRestarts: the daemon goes and comes; every message that was sent is there
// once, on all clients, in one order.
func TestRestarts(t *testing.T) {
	s := newServer(t, "a", "b", "c")
	const each, restarts = 60, 3
	var clients []*chat.Client
	var rooms []*chat.Room
	for _, name := range []string{"a", "b", "c"} {
		c := s.dial(name)
		clients, rooms = append(clients, c), append(rooms, join(t, c, "lobby"))
	}
	var wait sync.WaitGroup
	for i, r := range rooms {
		wait.Go(func() {
			for n := range each {
				if _, err := r.Send(fmt.Sprint(i, "/", n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	logs := make([][]string, len(clients))
	for i, c := range clients {
		wait.Go(func() { logs[i] = checkLog(t, c, "lobby", each*len(clients)) })
	}
	for range restarts {
		s.stop()
		s.start()
		// a message through the new daemon
		if err := clients[0].Flush(testContext(t)); err != nil {
			t.Error(err)
		}
	}
	wait.Wait()
	seen := make(map[string]int)
	for _, text := range logs[0] {
		seen[text]++
	}
	if len(seen) != each*len(clients) {
		t.Errorf("%d different messages", len(seen))
	}
	for _, log := range logs[1:] {
		if fmt.Sprint(log) != fmt.Sprint(logs[0]) {
			t.Errorf("logs differ:\n%v\n%v", logs[0], log)
		}
	}
}

// TestSlowConsumer: who does not take events is cut off, and has them all when
// it goes on.
func TestSlowConsumer(t *testing.T) {
	s := newServer(t, "alice", "bob")
	log := new(logBuffer)
	alice, bob := s.dial("alice", func(cfg *chat.Config) { cfg.NoEvents = true }), s.dial("bob", log.into)
	room := join(t, alice, "lobby")
	join(t, bob, "lobby")
	const n = 450
	padding := strings.Repeat(" ", 15_000) // more in all than the daemon keeps for a listener
	for i := range n {
		_, err := room.Send(fmt.Sprint(i) + padding)
		must(t, err)
	}
	must(t, alice.Flush(testContext(t)))
	texts := checkLog(t, bob, "lobby", n)
	for i, text := range texts {
		if text != fmt.Sprint(i)+padding {
			t.Fatalf("message %d is %.10q", i, text)
		}
	}
	if !log.has("the live feed was cut") {
		t.Error("it was not cut off: this test proves nothing")
	}
}

func TestOffline(t *testing.T) {
	s := newServer(t, "alice", "bob")
	bob := s.dial("bob")
	join(t, bob, "lobby")
	alice := s.dial("alice")
	room := join(t, alice, "lobby")
	s.stop()
	eventually(t, "the connection is lost", func() bool { return !alice.Status().Connected })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	m, err := room.Say(ctx, "while you were away")
	if !errors.Is(err, chat.ErrQueued) || !m.Pending {
		t.Errorf("%+v, %v", m, err)
	}
	if p := alice.Pending(); len(p) != 1 || p[0].Text != "while you were away" || p[0].ID != m.ID || p[0].RoomName != "lobby" {
		t.Errorf("%+v", p)
	}
	if st := alice.Status(); st.Outbox != 1 || st.LastError == nil {
		t.Errorf("%+v", st)
	}
	s.start()
	if got := said(t, bob, "while you were away"); got.ID != m.ID {
		t.Errorf("%+v", got)
	}
	must(t, alice.Flush(testContext(t)))
	if c := nextThat(t, alice, func(e *chat.Connection) bool { return e.Status.Connected }); c.Status.LastError != nil {
		t.Errorf("%+v", c)
	}
}

// TestRefusedForGood: what the server will never take is told of.
func TestRefusedForGood(t *testing.T) {
	s := newServer(t, "alice", "bob")
	alice, bob := s.dial("alice"), s.dial("bob")
	room, err := alice.Create(testContext(t), "secret", chatproto.RoomPrivate, "")
	must(t, err)
	must(t, room.Invite(testContext(t), "bob"))
	nextThat(t, bob, func(e *chat.RoomChanged) bool { return e.New })
	theirs, err := bob.Room("secret")
	must(t, err)
	must(t, room.Remove(testContext(t), "bob"))
	if _, err := theirs.Say(testContext(t), "let me in"); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Error(err)
	}
	id, err := theirs.Send("please")
	must(t, err)
	if f := next[*chat.Failed](t, bob); f.Message.ID != id || !errors.Is(f.Err, chatproto.ErrNoRoom) {
		t.Errorf("%+v", f)
	}
	must(t, bob.Flush(testContext(t)))
}

func TestDialErrors(t *testing.T) {
	s := newServer(t, "alice")
	cfg := s.config("alice")
	cfg.Address = silentPort(t)
	if _, err := chat.Dial(testContext(t), cfg); err == nil {
		t.Error("dialled nobody")
	}
	s.cfg.Chat.Off = true
	s.stop()
	s.start()
	if _, err := chat.Dial(testContext(t), s.config("alice")); err == nil || err.Error() != "the server has no chat service" {
		t.Error(err)
	}
}

// TestGivesUp: who may no longer log in is told.
func TestGivesUp(t *testing.T) {
	s := newServer(t, "alice", "bob")
	alice := s.dial("alice")
	s.stop()
	s.cfg.Users.Delete("alice")
	s.start()
	for range alice.Events(testContext(t)) {
	}
	if alice.Err() == nil {
		t.Fatal("it goes on")
	}
	if _, err := alice.ListRooms(testContext(t)); !errors.Is(err, alice.Err()) {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	s := newServer(t, "alice")
	c, err := chat.Dial(testContext(t), s.config("alice"))
	must(t, err)
	room := join(t, c, "lobby")
	must(t, c.Close())
	for range c.Events(testContext(t)) {
	}
	if _, err := room.Say(testContext(t), "x"); !errors.Is(err, chat.ErrClosed) {
		t.Error(err)
	}
	if err := c.SetAway(testContext(t), true, ""); !errors.Is(err, chat.ErrClosed) {
		t.Error(err)
	}
	if _, err := c.Join(testContext(t), "lobby"); !errors.Is(err, chat.ErrClosed) {
		t.Error(err)
	}
}

// TestRate: who says too much waits, and loses nothing.
func TestRate(t *testing.T) {
	s := newServer(t, "alice")
	s.stop()
	s.cfg.Chat.Rate = 20
	s.start()
	alice := s.dial("alice")
	room := join(t, alice, "lobby")
	const n = 210 // more than are let through at once
	for i := range n {
		_, err := room.Send(fmt.Sprint(i))
		must(t, err)
	}
	for i, text := range checkLog(t, alice, "lobby", n) {
		if text != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, text)
		}
	}
}

// TestPresence: who is there, away and gone; away holds over a restart.
func TestPresence(t *testing.T) {
	s := newServer(t, "alice", "bob")
	alice := s.dial("alice")
	bob, err := chat.Dial(testContext(t), s.config("bob"))
	must(t, err)
	is := func(state uint8, text string) {
		t.Helper()
		p := nextThat(t, alice, func(p *chat.Presence) bool { return p.User == "bob" && p.State == state && p.Text == text })
		found := false
		for _, u := range alice.Users() {
			found = found || u == *p
		}
		if found != (state != chatproto.Offline) {
			t.Errorf("%+v and %+v", p, alice.Users())
		}
	}
	is(chatproto.Online, "")
	must(t, bob.SetAway(testContext(t), true, "lunch"))
	is(chatproto.Away, "lunch")
	s.stop()
	s.start()
	eventually(t, "bob is away again", func() bool {
		for _, u := range alice.Users() {
			if u.User == "bob" && u.State == chatproto.Away && u.Text == "lunch" {
				return true
			}
		}
		return false
	})
	must(t, bob.SetAway(testContext(t), false, "ignored"))
	is(chatproto.Online, "")
	must(t, bob.Close())
	is(chatproto.Offline, "")
}

func TestRooms(t *testing.T) {
	s := newServer(t, "alice", "bob")
	alice, bob := s.dial("alice"), s.dial("bob")
	garden, err := alice.Create(testContext(t), "Garden", chatproto.RoomPublic, "flowers")
	must(t, err)
	if _, err := bob.Create(testContext(t), "garden", chatproto.RoomPublic, ""); !errors.Is(err, chatproto.ErrExists) {
		t.Error(err)
	}
	if _, err := bob.Create(testContext(t), "no name", chatproto.RoomPublic, ""); !errors.Is(err, chatproto.ErrName) {
		t.Error(err)
	}
	_, err = alice.Create(testContext(t), "hidden", chatproto.RoomPrivate, "")
	must(t, err)
	theirs := join(t, bob, "garden")
	list, err := bob.ListRooms(testContext(t))
	must(t, err)
	var names []string
	for _, r := range list {
		names = append(names, fmt.Sprint(r.Name, r.Member))
	}
	if fmt.Sprint(names) != "[Gardentrue lobbyfalse]" && fmt.Sprint(names) != "[Gardentrue lobbytrue]" {
		t.Errorf("bob may know of %v", names)
	}
	if members, err := garden.Members(testContext(t)); fmt.Sprint(members) != "[alice bob]" || err != nil {
		t.Errorf("%v, %v", members, err)
	}
	must(t, theirs.SetTopic(testContext(t), "vegetables"))
	if m := nextThat(t, alice, func(m *chat.Message) bool { return m.Kind == chatproto.KindTopic }); m.Text != "vegetables" || m.From != "bob" {
		t.Errorf("%+v", m)
	}
	eventually(t, "the topic is known", func() bool { return garden.Info().Topic == "vegetables" })
	must(t, theirs.Typing(testContext(t)))
	if e := next[*chat.Typing](t, alice); e.User != "bob" || e.RoomName != "Garden" {
		t.Errorf("%+v", e)
	}
	must(t, theirs.Typing(testContext(t))) // tells nobody
	if err := theirs.SetRetention(testContext(t), 2, 0); !errors.Is(err, chatproto.ErrNotAllowed) {
		t.Error(err)
	}
	must(t, garden.SetRetention(testContext(t), 100, 48*time.Hour))
	for i := range 7 {
		say(t, garden, fmt.Sprint("m", i))
	}
	page, err := theirs.History(testContext(t), 0, 3)
	must(t, err)
	if len(page) != 3 || page[2].Text != "m6" {
		t.Errorf("%+v", page)
	}
	older, err := theirs.History(testContext(t), page[0].Seq, 2)
	must(t, err)
	if len(older) != 2 || older[1].Text != "m3" || older[1].RoomName != "Garden" {
		t.Errorf("%+v", older)
	}
	must(t, theirs.Leave(testContext(t)))
	next[*chat.RoomGone](t, bob)
	if theirs.Info().Member {
		t.Error("still a member")
	}
	if _, err := theirs.History(testContext(t), 0, 1); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Error(err)
	}
	if _, err := bob.Direct(testContext(t), "nobody"); !errors.Is(err, chatproto.ErrNoUser) {
		t.Error(err)
	}
}

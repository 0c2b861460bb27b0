package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// TestH1ForgedSender: a hostile server puts alice's name to what another member
// said, changes what she said, swaps two of her messages, repeats one and makes
// one up. A device of bob's that comes later sees none of it as said by her.
func TestH1ForgedSender(t *testing.T) {
	w := newChatWorld(t, "alice", "bob", "carol")
	device := func(user, name string) *chat.Client {
		return w.dial(user, w.withState(user+"-"+name), func(cfg *chat.Config) { cfg.Device = name })
	}
	alice, bob, carol := device("alice", "laptop"), device("bob", "desk"), device("carol", "desk")
	for _, c := range []*chat.Client{alice, bob, carol} {
		enrolled(t, c)
	}
	vault, err := alice.Create(chatContext(t), "vault", chatproto.RoomSealed, "")
	must(t, err)
	for _, c := range []*chat.Client{bob, carol} {
		must(t, vault.Invite(chatContext(t), c.User()))
		hear(t, c, func(e *chat.RoomChanged) bool { return e.New && e.Room.Name == "vault" })
	}
	truth := make(map[chatproto.ID]chat.Message) // what was said
	say := func(c *chat.Client, text string) chat.Message {
		t.Helper()
		room, err := c.Room("vault")
		must(t, err)
		m, err := room.Say(chatContext(t), text)
		must(t, err)
		truth[m.ID] = m
		hearText(t, bob, text)
		return m
	}
	genuine := say(alice, "this is me")
	stolen := say(carol, "pay carol a thousand")
	damaged := say(alice, "pay nobody")
	swapped := []chat.Message{say(alice, "do not sign"), say(alice, "what bob has drawn up")}
	last := say(carol, "see you")

	w.killDaemon()
	planted := []chatproto.ID{randomID(), randomID()}
	w.doctor(func(exec func(int64, string, ...any)) {
		const byAlice = "(SELECT id FROM users WHERE name = 'alice')"
		key := func(seq uint64) int64 { return entryKey(vault.ID(), seq) }
		exec(1, "UPDATE messages SET sender = "+byAlice+" WHERE key = ?", key(stolen.Seq))
		exec(1, `UPDATE messages SET body = CAST(substr(body, 1, length(body) - 100) ||
			iif(substr(body, -100, 1) = x'00', x'01', x'00') || substr(body, -99) AS BLOB) WHERE key = ?`, key(damaged.Seq))
		exec(1, "UPDATE messages SET key = -1 WHERE key = ?", key(swapped[0].Seq))
		exec(1, "UPDATE messages SET key = ? WHERE key = ?", key(swapped[0].Seq), key(swapped[1].Seq))
		exec(1, "UPDATE messages SET key = ? WHERE key = -1", key(swapped[1].Seq))
		exec(1, `INSERT INTO messages(key, sender, id, kind, time, sent, body)
			SELECT ?, sender, ?, kind, time, sent, body FROM messages WHERE key = ?`, key(last.Seq+1), planted[0][:], key(genuine.Seq))
		exec(1, `INSERT INTO messages(key, sender, id, kind, time, sent, body)
			SELECT ?, sender, ?, ?, time, sent, ? FROM messages WHERE key = ?`, key(last.Seq+2), planted[1][:], chatproto.KindText, []byte("let carol in"), key(genuine.Seq))
		exec(1, "UPDATE rooms SET last = last + 2 WHERE id = ?", int64(vault.ID()))
	})
	w.startDaemon()

	phone := device("bob", "phone")
	code, err := phone.EnrolRequest(chatContext(t))
	must(t, err)
	_, err = bob.Enrol(chatContext(t), code)
	must(t, err)
	enrolled(t, phone)
	if !eventually(patience, func() bool { return holds(t, phone, "vault", genuine.Text) }) {
		t.Fatal("the phone reads nothing")
	}
	for name, c := range map[string]*chat.Client{"the phone": phone, "the old device": bob} {
		page := vaultOf(t, c)
		found := make(map[chatproto.ID]chat.Message)
		for _, m := range page {
			found[m.ID] = m
			was, said := truth[m.ID]
			if believed := m.Said() && !m.Refused && len(m.Warnings) == 0; believed && (!said || m.From != was.From || m.Text != was.Text || m.Seq != was.Seq) {
				t.Errorf("%s takes for true: %+v", name, m)
			}
			if m.Refused && m.Text != "" {
				t.Errorf("%s shows what it refuses: %+v", name, m)
			}
		}
		if m := found[genuine.ID]; m.Refused || len(m.Warnings) > 0 || m.Text != genuine.Text || m.From != "alice" {
			t.Errorf("%s doubts what is genuine: %+v", name, m)
		}
		for _, id := range planted {
			if m, ok := found[id]; !ok || !m.Refused {
				t.Errorf("%s on what was made up: %+v", name, m)
			}
		}
	}
	found := make(map[chatproto.ID]chat.Message)
	for _, m := range vaultOf(t, phone) {
		found[m.ID] = m
	}
	for what, m := range map[string]chat.Message{"another's message": found[stolen.ID], "a changed message": found[damaged.ID]} {
		if !m.Refused || len(m.Warnings) == 0 {
			t.Errorf("%s with alice's name: %+v", what, m)
		}
	}
	if first, later := found[swapped[1].ID], found[swapped[0].ID]; len(first.Warnings) == 0 || !later.Refused {
		t.Errorf("messages in another order: %+v, then %+v", first, later)
	}
}

// vaultOf returns what a device shows of the room.
func vaultOf(t *testing.T, c *chat.Client) []chat.Message {
	t.Helper()
	room, err := c.Room("vault")
	must(t, err)
	page, err := room.History(chatContext(t), 0, chatproto.MaxPage)
	must(t, err)
	return page
}

// TestH2TimeAndNumber: two equal texts are two messages, one that is sent again
// is one, also over connections and a restart of the daemon; number and time are
// the server's whatever the client's clock says.
func TestH2TimeAndNumber(t *testing.T) {
	w := newChatWorld(t, "alice", "bob")
	alice, bob := w.attach("alice", w.port), w.attach("bob", w.port)
	requests := []*chatproto.SayReq{sayReq("again"), sayReq("again")}
	for _, clock := range []int64{1, -1, math.MaxInt64, math.MinInt64, time.Now().Add(24 * time.Hour).UnixMicro()} {
		req := sayReq(fmt.Sprint("it is ", clock))
		req.Sent = clock
		requests = append(requests, req)
	}
	var answers []chatproto.SayRes
	for i, req := range requests {
		before := time.Now().UnixMicro()
		res := *mustAsk(alice, alice.lobby, chatproto.Say, req)
		if after := time.Now().UnixMicro(); res.Time < before || res.Time > after {
			t.Errorf("%q is said at %d, not between %d and %d", req.Body, res.Time, before, after)
		}
		if i > 0 && res.Seq != answers[i-1].Seq+1 {
			t.Errorf("%q is entry %d after %d", req.Body, res.Seq, answers[i-1].Seq)
		}
		answers = append(answers, res)
	}
	again := func(l *listener) {
		t.Helper()
		for i, req := range requests {
			if res := *mustAsk(l, l.lobby, chatproto.Say, req); res != answers[i] {
				t.Errorf("%q, sent again: %+v, not %+v", req.Body, res, answers[i])
			}
			other := *req
			other.Body = []byte("something else")
			if _, err := ask(l, l.lobby, chatproto.Say, &other); !errors.Is(err, chatproto.ErrOtherID) {
				t.Errorf("an id that is taken: %v", err)
			}
		}
	}
	again(alice)
	again(w.attach("alice", w.port))
	alice.fence("all is said", bob)
	for _, req := range requests[2:] {
		if n := bob.count(isText(string(req.Body))); n != 1 {
			t.Errorf("bob heard %q %d times", req.Body, n)
		}
	}
	if n := bob.count(isText("again")); n != 2 {
		t.Errorf("bob heard two equal texts %d times", n)
	}
	w.killDaemon()
	w.startDaemon()
	alice = w.attach("alice", w.port)
	again(alice)

	var said []chatproto.Message
	for _, m := range alice.log(alice.lobby) {
		if m.Kind == chatproto.KindText && string(m.Body) != "all is said" {
			said = append(said, m)
		}
	}
	if len(said) != len(requests) {
		t.Fatalf("%d messages are stored, not %d", len(said), len(requests))
	}
	for i, m := range said {
		req, res := requests[i], answers[i]
		if m.Seq != res.Seq || m.Time != res.Time || m.ID != req.ID || m.Sent != req.Sent || m.From != "alice" || !bytes.Equal(m.Body, req.Body) {
			t.Errorf("entry %+v, said %+v, answered %+v", m, req, res)
		}
	}
}

// TestH4History: history goes back to the first entry, search finds by word,
// phrase, sender, room and day, and both only what the user is a member of.
func TestH4History(t *testing.T) {
	const n = 130
	w := newChatWorld(t, "alice", "bob", "mallory")
	silent := func(cfg *chat.Config) { cfg.NoEvents = true }
	alice, bob := w.dial("alice", silent), w.dial("bob", silent)
	room := joinRoom(t, alice, "lobby")
	theirs := joinRoom(t, bob, "lobby")
	for i := range n {
		_, err := room.Send(fmt.Sprint("line ", i))
		must(t, err)
	}
	must(t, alice.Flush(chatContext(t)))
	_, err := theirs.Say(chatContext(t), "the old machine is out of order")
	must(t, err)
	old, err := room.Say(chatContext(t), "in order to get out")
	must(t, err)

	// Ten days pass in the daemon's files.
	w.killDaemon()
	w.doctor(func(exec func(int64, string, ...any)) {
		ago := (10 * 24 * time.Hour).Microseconds()
		exec(int64(old.Seq), "UPDATE messages SET time = time - ?", ago)
		exec(n+2, "UPDATE places SET time = time - ?", ago)
	})
	w.startDaemon()
	eventually(patience, func() bool { return alice.Status().Connected && bob.Status().Connected })
	_, err = room.Say(chatContext(t), "the new machine is out of order too")
	must(t, err)
	den, err := alice.Create(chatContext(t), "den", chatproto.RoomPrivate, "")
	must(t, err)
	must(t, den.Invite(chatContext(t), "bob"))
	_, err = den.Say(chatContext(t), "out of order, but between us")
	must(t, err)

	if !eventually(patience, func() bool { _, err := bob.Room("den"); return err == nil }) {
		t.Fatal("bob is not told of the den")
	}

	var back []chat.Message
	for before := uint64(0); ; before = back[0].Seq {
		page, err := room.History(chatContext(t), before, 40)
		must(t, err)
		if len(page) == 0 {
			break
		}
		back = append(page, back...)
	}
	for i, m := range back {
		if m.Seq != uint64(i+1) {
			t.Fatalf("entry %d of the history is %d", i+1, m.Seq)
		}
	}
	if len(back) != int(old.Seq)+1 || back[0].Kind != chatproto.KindJoin || back[2].Text != "line 0" {
		t.Errorf("%d entries, the first being %+v", len(back), back[0])
	}

	day := time.Now().Add(-5 * 24 * time.Hour).Format("2006-01-02")
	const oldBob, oldAlice, fresh, secret = "the old machine is out of order", "in order to get out", "the new machine is out of order too", "out of order, but between us"
	for query, want := range map[string][]string{
		`"out of order"`:                    {secret, fresh, oldBob},
		`order out`:                         {secret, fresh, oldAlice, oldBob},
		`"out of order" from:alice`:         {secret, fresh},
		`machine from:bob`:                  {oldBob},
		`order in:den`:                      {secret},
		`order in:lobby`:                    {fresh, oldAlice, oldBob},
		`order before:` + day:               {oldAlice, oldBob},
		`order after:` + day:                {secret, fresh},
		`MACHINE in:#Lobby after:` + day:    {fresh},
		`"machine is out" from:bob`:         {oldBob},
		`"order of out"`:                    nil,
		`"line 7" before:` + day:            {"line 7"},
		`order after:` + day + ` from:bob`:  nil,
		`nothing that was ever said by any`: nil,
	} {
		sameTexts(t, query, search(t, bob, query), want...)
	}

	// Mallory is in the lobby only.
	mallory := w.dial("mallory", silent)
	joinRoom(t, mallory, "lobby")
	sameTexts(t, "mallory's search", search(t, mallory, `"out of order"`), fresh, oldBob)
	if _, _, err := mallory.Search(chatContext(t), "order in:den", chat.Cursor{}, 10); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Errorf("mallory searches the den: %v", err)
	}
	w.removed(t, den, secret)
}

// search returns the texts that are found, page by page.
func search(t *testing.T, c *chat.Client, query string) (texts []string) {
	t.Helper()
	for cursor := (chat.Cursor{}); !cursor.Done(); {
		found, next, err := c.Search(chatContext(t), query, cursor, 2)
		must(t, err)
		for _, m := range found {
			texts = append(texts, m.Text)
		}
		cursor = next
	}
	return texts
}

// removed has bob put out of a room, and checks that neither he nor mallory, who
// never was in it, gets anything of it.
func (w *chatWorld) removed(t *testing.T, den *chat.Room, secret string) {
	t.Helper()
	bob, mallory := w.attach("bob", w.port), w.attach("mallory", w.port)
	held, err := bob.open(den.ID())
	must(t, err)
	find := func(l *listener, room chatproto.RoomID) []string {
		t.Helper()
		found := mustAsk(l, l.ref, chatproto.Search, &chatproto.SearchReq{Room: room, Terms: []string{"between"}})
		return texts(found.Messages)
	}
	sameTexts(t, "a member's search", find(bob, den.ID()), "alice: "+secret)
	if log := texts(bob.log(held)); !slices.Equal(log, []string{"alice: " + secret}) {
		t.Errorf("a member's history: %q", log)
	}
	must(t, den.Remove(chatContext(t), "bob"))
	for who, l := range map[string]*listener{"bob": bob, "mallory": mallory} {
		sameTexts(t, who+"'s search in all rooms", find(l, 0))
		found, err := ask(l, l.ref, chatproto.Search, &chatproto.SearchReq{Room: den.ID(), Terms: []string{"between"}})
		if len(found.Messages) > 0 || err != nil && !errors.Is(err, chatproto.ErrNoRoom) {
			t.Errorf("%s's search in the den: %+v, %v", who, found, err)
		}
		if _, err := ask(l, held, chatproto.History, &chatproto.HistoryReq{}); !errors.Is(err, rpc.ErrNoReference) {
			t.Errorf("%s reads the history: %v", who, err)
		}
		if _, err := l.open(den.ID()); !errors.Is(err, chatproto.ErrNoRoom) {
			t.Errorf("%s opens the den: %v", who, err)
		}
	}
}

// TestH4Retention: --chat-retention trims history and search of the daemon;
// numbers go on, also over a restart, and an id that is trimmed stays spent.
func TestH4Retention(t *testing.T) {
	const keep, n = 20, 70
	w := serveChat(t, []string{"alice"}, fmt.Sprint("--chat-retention=", keep), "--chat-rate=0")
	alice := w.attach("alice", w.port)
	first := sayReq("the first word")
	answer := *mustAsk(alice, alice.lobby, chatproto.Say, first)
	last := answer.Seq
	say := func(text string) {
		t.Helper()
		res := mustAsk(alice, alice.lobby, chatproto.Say, sayReq(text))
		if res.Seq != last+1 {
			t.Fatalf("%q is entry %d after %d", text, res.Seq, last)
		}
		last = res.Seq
	}
	for i := range n {
		say(fmt.Sprint("word ", i))
	}
	trimmed := func() {
		t.Helper()
		var page *chatproto.HistoryRes
		if !eventually(patience, func() bool {
			page = mustAsk(alice, alice.lobby, chatproto.History, &chatproto.HistoryReq{})
			return page.First == last+1-keep
		}) {
			t.Fatalf("entries %d to %d are kept", page.First, page.Last)
		}
		if len(page.Messages) != keep || page.Messages[0].Seq != page.First || page.Last != last {
			t.Errorf("%d entries from %d to %d", len(page.Messages), page.First, page.Last)
		}
		older := mustAsk(alice, alice.lobby, chatproto.History, &chatproto.HistoryReq{Before: page.First})
		if len(older.Messages) != 0 {
			t.Errorf("%d entries that are not kept", len(older.Messages))
		}
		found := mustAsk(alice, alice.ref, chatproto.Search, &chatproto.SearchReq{Terms: []string{"word"}})
		if len(found.Messages) != keep || found.Messages[keep-1].Seq != page.First {
			t.Errorf("%d entries are found", len(found.Messages))
		}
		if res := *mustAsk(alice, alice.lobby, chatproto.Say, first); res != answer {
			t.Errorf("a trimmed message, sent again: %+v, not %+v", res, answer)
		}
	}
	trimmed()
	w.killDaemon()
	w.startDaemon()
	alice = w.attach("alice", w.port)
	trimmed()
	say("word of the day")
	trimmed()
	if found := mustAsk(alice, alice.ref, chatproto.Search, &chatproto.SearchReq{Terms: []string{"first"}}); len(found.Messages) != 0 {
		t.Errorf("what is trimmed is found: %+v", found.Messages)
	}
}

package store

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// bounds returns the room's first and last sequence numbers, and checks that
// exactly these entries are there.
func (c *script) bounds(user string, room chatproto.RoomID) (first, last uint64) {
	c.t.Helper()
	state, err := c.s.Room(background, user, room)
	c.ok(err)
	first, last = state.Info.First, state.Info.Last
	want := first
	for {
		res, err := c.s.History(background, user, room, &chatproto.HistoryReq{After: max(want-1, 0), Before: 0})
		c.ok(err)
		if want == 1 { // After 0 is the end of the log: ask for the first ones by name
			res, err = c.s.History(background, user, room, &chatproto.HistoryReq{Before: chatproto.MaxPage + 1})
			c.ok(err)
		}
		for _, m := range res.Messages {
			if m.Seq != want {
				c.t.Fatalf("entry %d where %d should be", m.Seq, want)
			}
			want++
		}
		if len(res.Messages) == 0 || want > last {
			break
		}
	}
	if want != last+1 {
		c.t.Fatalf("entries end at %d, the room at %d", want-1, last)
	}
	return first, last
}

func TestRetentionByCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	c := script{t: t, s: open(t, Config{Path: path, Retain: Retention{Count: 10}})}
	lobby := c.join("alice", LobbyName)
	c.join("bob", LobbyName)
	first := c.text("word first")
	_, err := c.s.Say(background, "alice", lobby, first)
	c.ok(err)
	for i := range 30 {
		c.say("alice", lobby, fmt.Sprintf("word %d", i))
	}
	if from, to := c.bounds("bob", lobby); from != 24 || to != 33 {
		t.Errorf("%d to %d", from, to)
	}
	if got := c.found("bob", chatproto.SearchReq{Terms: []string{"word"}}); len(got) != 10 {
		t.Errorf("finds %q", got)
	}
	if got := c.found("bob", chatproto.SearchReq{Terms: []string{"first"}}); len(got) != 0 {
		t.Errorf("finds %q", got)
	}
	if state, err := c.s.Room(background, "bob", lobby); err != nil || state.Unread != 10 {
		t.Errorf("%+v, %v", state, err)
	}
	// What has gone is not said again.
	if res, err := c.s.Say(background, "alice", lobby, first); err != nil || res.Seq != 3 || res.Time == 0 {
		t.Errorf("%+v, %v; want the first result", res, err)
	}
	first.Body = []byte("word other")
	_, err = c.s.Say(background, "alice", lobby, first)
	c.want(chatproto.ErrOtherID, err)
	// The owner decides for a room, also to keep all.
	den := c.create("alice", "den", chatproto.RoomPublic)
	c.ok(c.s.SetRetention(background, "alice", den, &chatproto.SetRetentionReq{}))
	for i := range 15 {
		c.say("alice", den, fmt.Sprint(i))
	}
	if from, to := c.bounds("alice", den); from != 1 || to != 16 {
		t.Errorf("%d to %d", from, to)
	}
	c.want(chatproto.ErrNotAllowed, c.s.SetRetention(background, "alice", lobby, &chatproto.SetRetentionReq{Count: 1}))
	c.ok(c.s.Close())
	c.s = open(t, Config{Path: path})
	if from, to := c.bounds("bob", lobby); from != 24 || to != 33 {
		t.Errorf("after a restart %d to %d", from, to)
	}
}

// A limit that is set late is reached step by step, without anybody saying
// anything.
func TestRetentionSteps(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	den := c.create("alice", "den", chatproto.RoomPublic)
	c.fill(den, "alice", 3*trimStep)
	c.ok(c.s.SetRetention(background, "alice", den, &chatproto.SetRetentionReq{Count: 5}))
	if c.room(den).first == 1 {
		t.Error("nothing was removed at once")
	}
	for range 4 { // each goes behind a step that the one before has queued
		c.ok(c.s.do(background, 0, func(*batch) error { return nil }))
	}
	if from, to := c.bounds("alice", den); from != 3*trimStep-3 || to != 3*trimStep+1 {
		t.Errorf("%d to %d", from, to)
	}
	var places int64
	c.ok(c.s.read(background, func(db *conn) (err error) {
		places, _, err = db.number("SELECT count(*) FROM places")
		return err
	}))
	if got := c.found("alice", chatproto.SearchReq{Terms: []string{"filling"}}); len(got) != 5 || places != 5 {
		t.Errorf("finds %d, %d places", len(got), places)
	}
}

// fill says so many messages in one batch.
func (c *script) fill(room chatproto.RoomID, user string, n int) {
	c.t.Helper()
	c.ok(c.s.do(background, 0, func(b *batch) error {
		for i := range n {
			r := b.s.own.rooms[room].clone()
			m := chatproto.Message{ID: c.next(), Kind: chatproto.KindText, From: user, Body: fmt.Appendf(nil, "filling %d", i)}
			b.append(r, m, new(Change))
			b.put(r)
		}
		return nil
	}))
}

func TestRetentionByAge(t *testing.T) {
	clock := newClock()
	path := filepath.Join(t.TempDir(), "chat.db")
	cfg := Config{Path: path, Now: clock.now, Retain: Retention{Age: time.Hour}}
	s := open(t, cfg)
	c := script{t: t, s: s}
	lobby := c.join("alice", LobbyName)
	c.fill(lobby, "alice", 2*trimStep)
	c.ok(c.s.PutMail(background, "alice", &chatproto.Mail{ID: c.next(), Body: []byte("x")}))
	clock.add(time.Hour - time.Second)
	c.say("alice", lobby, "late")
	c.ok(s.sweepOnce(background))
	if from, _ := c.bounds("alice", lobby); from != 1 {
		t.Errorf("from %d before the time", from)
	}
	clock.add(2 * time.Second)
	c.ok(s.sweepOnce(background))
	if from, to := c.bounds("alice", lobby); from != 2*trimStep+2 || to != from {
		t.Errorf("%d to %d", from, to)
	}
	clock.add(24 * time.Hour)
	c.ok(s.sweepOnce(background))
	if from, to := c.bounds("alice", lobby); to != 2*trimStep+2 || from != to+1 {
		t.Errorf("%d to %d of an empty room", from, to)
	}
	if mails, err := s.Mail(background, "alice"); err != nil || len(mails) != 0 {
		t.Errorf("%d letters, %v", len(mails), err)
	}
	// Numbers are not used again, not even after a restart with an empty log.
	c.ok(s.Close())
	c.s = open(t, cfg)
	if seq := c.say("alice", lobby, "after"); seq != 2*trimStep+3 {
		t.Errorf("entry %d", seq)
	}
	// In the end the ids go too.
	clock.add(spentFor + 25*time.Hour)
	for range 4 {
		c.ok(c.s.sweepOnce(background))
	}
	c.ok(c.s.read(background, func(db *conn) error {
		n, _, err := db.number("SELECT count(*) FROM spent")
		if n > 1 {
			t.Errorf("%d ids are kept", n)
		}
		return err
	}))
}

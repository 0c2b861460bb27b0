package chat_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// ready waits until a client's device may use sealed rooms.
func ready(t *testing.T, clients ...*chat.Client) {
	t.Helper()
	for _, c := range clients {
		must(t, c.Enrolled(testContext(t)))
	}
}

// sealedRoom has alice make a sealed room and invite the others into it.
func sealedRoom(t *testing.T, alice *chat.Client, others ...*chat.Client) *chat.Room {
	t.Helper()
	ready(t, append(others, alice)...)
	r, err := alice.Create(testContext(t), "vault", chatproto.RoomSealed, "")
	must(t, err)
	for _, c := range others {
		must(t, r.Invite(testContext(t), c.User()))
		nextThat(t, c, func(e *chat.RoomChanged) bool { return e.New })
	}
	return r
}

func TestNoState(t *testing.T) {
	s := newServer(t, "alice")
	c := s.dial("alice")
	if _, err := c.Create(testContext(t), "vault", chatproto.RoomSealed, ""); !errors.Is(err, chat.ErrNoState) {
		t.Error(err)
	}
	if _, err := c.Devices(testContext(t), "alice"); !errors.Is(err, chat.ErrNoState) {
		t.Error(err)
	}
}

// TestTwoPrograms: two programs of one user share keys, history and outbox; both
// see every entry once and in order.
func TestTwoPrograms(t *testing.T) {
	s := newServer(t, "alice", "bob")
	state := filepath.Join(t.TempDir(), "chat")
	one, two := s.dial("alice", withState(state)), s.dial("alice", withState(state))
	bob := s.dial("bob", withState(t.TempDir()))
	room := sealedRoom(t, one, bob)
	nextThat(t, two, func(e *chat.RoomChanged) bool { return e.New })
	other, err := two.Room("vault")
	must(t, err)
	theirs, err := bob.Room("vault")
	must(t, err)
	const each = 15
	var wait sync.WaitGroup
	for i, r := range []*chat.Room{room, other, theirs} {
		wait.Go(func() {
			for n := range each {
				if _, err := r.Say(testContext(t), fmt.Sprint(i, "/", n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	logs := make([][]string, 3)
	for i, c := range []*chat.Client{one, two, bob} {
		wait.Go(func() { logs[i] = checkLog(t, c, "vault", 3*each) })
	}
	wait.Wait()
	for _, log := range logs[1:] {
		if fmt.Sprint(log) != fmt.Sprint(logs[0]) {
			t.Errorf("logs differ:\n%v\n%v", logs[0], log)
		}
	}
	must(t, room.SetTopic(testContext(t), "whispers"))
	eventually(t, "bob knows the topic", func() bool { return theirs.Info().Topic == "whispers" })
}

// TestSealedOffline: what is said into a sealed room without a connection is
// sealed when it goes out, to who is in the room by then, and the history can be
// read without a connection.
func TestSealedOffline(t *testing.T) {
	s := newServer(t, "alice", "bob")
	state := t.TempDir()
	alice, bob := s.dial("alice", withState(state)), s.dial("bob", withState(t.TempDir()))
	room := sealedRoom(t, alice, bob)
	say(t, room, "first")
	said(t, bob, "first")
	said(t, alice, "first")
	s.stop()
	eventually(t, "the connection is lost", func() bool { return !alice.Status().Connected })
	_, err := room.Send("second")
	must(t, err)
	page, err := room.History(testContext(t), 0, 50)
	must(t, err)
	if len(page) == 0 || page[len(page)-1].Text != "first" {
		t.Errorf("%+v", page)
	}
	found, _, err := alice.Search(testContext(t), "first in:vault", chat.Cursor{}, 5)
	if len(found) != 1 || err != nil {
		t.Errorf("%+v, %v", found, err)
	}
	if p := alice.Pending(); len(p) != 1 || !p[0].Sealed || p[0].RoomName != "vault" {
		t.Errorf("%+v", p)
	}
	s.start()
	if m := said(t, bob, "second"); !m.Sealed || len(m.Warnings) > 0 {
		t.Errorf("%+v", m)
	}
}

// TestOfflineFromTheStart: a program that never reaches the server leaves what
// it says to the next one.
func TestOfflineFromTheStart(t *testing.T) {
	s := newServer(t, "alice", "bob")
	bob := s.dial("bob")
	join(t, bob, "lobby")
	state := t.TempDir()
	s.stop()
	cfg := s.config("alice")
	cfg.State, cfg.Offline, cfg.NoEvents = state, true, true
	c, err := chat.Dial(testContext(t), cfg)
	must(t, err)
	if st := c.Status(); st.Connected || st.LastError == nil {
		t.Errorf("%+v", st)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Whisper(ctx, "bob", "later"); !errors.Is(err, chat.ErrQueued) {
		t.Error(err)
	}
	must(t, c.Close())
	s.start()
	s.dial("alice", withState(state))
	if m := said(t, bob, "later"); m.RoomName != "@alice" {
		t.Errorf("%+v", m)
	}
}

// TestSearchMerges: what the server finds and what this device finds come
// together, newest first, page by page.
func TestSearchMerges(t *testing.T) {
	s := newServer(t, "alice")
	alice := s.dial("alice", withState(t.TempDir()))
	vault := sealedRoom(t, alice)
	lobby := join(t, alice, "lobby")
	var want []string
	for i := range 14 {
		r := []*chat.Room{lobby, vault}[(i/2+i/5)%2]
		text := fmt.Sprintf("needle %d in %s", i, r.Name())
		say(t, r, text)
		say(t, lobby, "hay")
		want = append([]string{text}, want...)
	}
	said(t, alice, want[0])
	must(t, alice.Enrolled(testContext(t)))
	_, err := vault.History(testContext(t), 0, 1) // everything is opened
	must(t, err)
	for _, limit := range []int{1, 3, 5, 100} {
		var got []string
		var cursor chat.Cursor
		for pages := 0; !cursor.Done() && pages < 40; pages++ {
			var found []chat.Message
			found, cursor, err = alice.Search(testContext(t), "needle", cursor, limit)
			must(t, err)
			if len(found) > limit {
				t.Errorf("%d results in a page of %d", len(found), limit)
			}
			for _, m := range found {
				got = append(got, m.Text)
			}
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("in pages of %d:\n%s\nnot\n%s", limit, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if found, _, err := alice.Search(testContext(t), "needle in:lobby from:alice", chat.Cursor{}, 100); err != nil || len(found) == 0 || len(found) == len(want) {
		t.Errorf("%d, %v", len(found), err)
	}
	if _, _, err := alice.Search(testContext(t), "in:nowhere x", chat.Cursor{}, 1); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Error(err)
	}
}

package e2ee

import (
	"errors"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

func TestTwoPeopleTalk(t *testing.T) {
	s := newServer()
	alice, bob := s.person(t, "alice"), s.person(t, "bob")
	room := alice.create("plans")
	alice.invite(room, "bob")
	alice.say(room, "hello bob")
	want(t, bob.pull(room), "hello bob")
	bob.say(room, "hello alice")
	alice.say(room, "how are you")
	want(t, alice.pull(room), "hello bob", "hello alice", "how are you")
	want(t, bob.pull(room), "hello alice", "how are you")
	alice.wantNoWarnings()
	bob.wantNoWarnings()
	if name, err := bob.e.Name(room); err != nil || name != "plans" {
		t.Fatalf("the room's name is %q, %v", name, err)
	}
	if got := len(s.rooms[room].headers); got != 1 {
		t.Fatalf("%d epochs for a room that did not change", got)
	}
}

func TestH7RemovedMemberCannotReadOn(t *testing.T) {
	s := newServer()
	alice, bob, carol := s.person(t, "alice"), s.person(t, "bob"), s.person(t, "carol")
	room := alice.create("plans")
	alice.invite(room, "bob")
	alice.invite(room, "carol")
	alice.say(room, "for three")
	want(t, bob.pull(room), "for three")
	alice.remove(room, "bob")
	alice.say(room, "for two")
	carol.say(room, "without bob")
	want(t, carol.pull(room), "for three", "for two", "without bob")
	carol.wantNoWarnings()

	// Even a server that shows bob everything does not help him.
	s.rooms[room].members = append(s.rooms[room].members, "bob")
	want(t, bob.pull(room))
	bob.wantNoWarnings()
	if err := bob.trySay(room, "still here"); !errors.Is(err, ErrNotMember) {
		t.Fatalf("bob speaks: %v", err)
	}
}

func TestH7NewMemberCannotReadPast(t *testing.T) {
	s := newServer()
	alice, bob := s.person(t, "alice"), s.person(t, "bob")
	room := alice.create("plans")
	alice.say(room, "before bob")
	alice.invite(room, "bob")
	alice.say(room, "with bob")
	var unread int
	for _, o := range bob.receive(room) {
		if o.Status == NoKey {
			unread++
		}
	}
	want(t, bob.got, "alice: with bob")
	if unread != 1 {
		t.Fatalf("%d entries without a key", unread)
	}
	bob.wantNoWarnings()
}

func TestMemberLeavesAndOwnerFollows(t *testing.T) {
	s := newServer()
	alice, bob, carol := s.person(t, "alice"), s.person(t, "bob"), s.person(t, "carol")
	room := alice.create("plans")
	alice.invite(room, "bob")
	bob.invite(room, "carol")
	alice.say(room, "bye")
	alice.leave(room)
	bob.say(room, "alice is gone")
	bob.remove(room, "carol")
	bob.say(room, "alone")
	bob.invite(room, "carol")
	bob.say(room, "again")
	bob.pull(room)
	bob.wantNoWarnings()
	want(t, carol.pull(room), "bye", "alice is gone", "again")
	carol.wantNoWarnings()
}

// A room's log is the same whether it is taken in live or at once, and again.
func TestReceiveIsIdempotent(t *testing.T) {
	s := newServer()
	alice, bob := s.person(t, "alice"), s.person(t, "bob")
	room := alice.create("plans")
	alice.invite(room, "bob")
	for _, text := range []string{"a", "b", "c"} {
		alice.say(room, text)
	}
	// The newest entry first: the others are fetched.
	log := s.rooms[room].kept()
	o, err := bob.e.Receive(t.Context(), bob.v, &log[len(log)-1])
	if err != nil || o.Text != "c" || o.Device != alice.e.DeviceID() {
		t.Fatalf("%+v, %v", o, err)
	}
	want(t, bob.pull(room), "a", "b", "c")
	bob.at[room] = 0
	want(t, bob.pull(room), "a", "b", "c")
	bob.wantNoWarnings()
}

func TestLongestTextFits(t *testing.T) {
	s := newServer()
	alice := s.person(t, "alice")
	room := alice.create("plans")
	text := strings.Repeat("x", chatproto.MaxText)
	alice.say(room, text)
	want(t, alice.pull(room), text)
	if err := alice.trySay(room, text+"x"); !errors.Is(err, chatproto.ErrText) {
		t.Fatalf("too long a text: %v", err)
	}
	for _, bad := range []string{"", "\xff", "a\x00b"} {
		if err := alice.trySay(room, bad); !errors.Is(err, chatproto.ErrText) {
			t.Fatalf("%q: %v", bad, err)
		}
	}
}

func TestTopicAndAction(t *testing.T) {
	s := newServer()
	alice, bob := s.person(t, "alice"), s.person(t, "bob")
	room := alice.create("plans")
	alice.invite(room, "bob")
	for _, kind := range []uint8{chatproto.KindTopic, chatproto.KindAction} {
		id := newID()
		epoch, body, err := alice.e.Seal(t.Context(), alice.v, room, id, kind, "waves")
		must(t, err)
		must(t, s.say("alice", room, id, epoch, body))
	}
	all := bob.receive(room)
	for i, kind := range []uint8{chatproto.KindTopic, chatproto.KindAction} {
		if o := all[len(all)-2+i]; o.Kind != kind || o.Text != "waves" || o.Status != Accepted {
			t.Fatalf("%+v", o)
		}
	}
	if _, _, err := alice.e.Seal(t.Context(), alice.v, room, newID(), chatproto.KindSealed, "x"); !errors.Is(err, chatproto.ErrText) {
		t.Fatal(err)
	}
}

// An epoch made without knowledge of a change that came first is not used, and
// nobody is warned of it.
func TestEpochRacesWithRemoval(t *testing.T) {
	s := newServer()
	alice, bob, carol := s.person(t, "alice"), s.person(t, "bob"), s.person(t, "carol")
	room := alice.create("plans")
	alice.invite(room, "bob")
	alice.invite(room, "carol")
	carol.pull(room)
	alice.pull(room)
	carol.v.down = func(op string) error {
		if op == "putkeys" { // under the server's lock: bob goes right before
			carol.v.down = nil
			id := newID()
			s.mu.Unlock()
			proof, err := alice.e.RemoveProof(t.Context(), alice.v, room, id, "bob")
			must(t, err)
			must(t, s.change(chatproto.KindRemove, "alice", room, id, "bob", proof))
			s.mu.Lock()
		}
		return nil
	}
	carol.say(room, "without bob")
	if n := len(s.rooms[room].headers); n != 2 {
		t.Fatalf("%d epochs", n)
	}
	want(t, alice.pull(room), "without bob")
	alice.wantNoWarnings()
	s.rooms[room].members = append(s.rooms[room].members, "bob")
	want(t, bob.pull(room))
}

func TestGivenUpMessageIsNotMissed(t *testing.T) {
	s := newServer()
	alice, bob := s.person(t, "alice"), s.person(t, "bob")
	room := alice.create("plans")
	alice.invite(room, "bob")
	alice.say(room, "one")
	for range 2 {
		id := newID()
		_, _, err := alice.e.Seal(t.Context(), alice.v, room, id, chatproto.KindText, "never said")
		must(t, err)
		must(t, alice.e.Abandon(room, id))
	}
	alice.say(room, "two")
	alice.say(room, "three")
	want(t, bob.pull(room), "one", "two", "three")
	bob.wantNoWarnings()
}

func TestRetention(t *testing.T) {
	s := newServer()
	alice, bob, carol := s.person(t, "alice"), s.person(t, "bob"), s.person(t, "carol")
	room := alice.create("plans")
	alice.invite(room, "bob")
	alice.say(room, "one")
	bob.pull(room)
	alice.say(room, "two")
	alice.invite(room, "carol")
	alice.say(room, "three")
	alice.say(room, "four")
	r := s.rooms[room]
	r.first = uint64(len(r.log))
	want(t, carol.pull(room), "four")
	carol.wantWarning("taken on trust from a key that alice made: the members are alice, bob, carol")
	want(t, bob.pull(room), "four")
	bob.wantWarning("no longer kept")
	bob.wantWarning("carol came in while entries were missing")
	alice.pull(room)
	alice.warn, bob.warn, carol.warn = nil, nil, nil
	bob.say(room, "five")
	carol.say(room, "six")
	alice.remove(room, "bob")
	carol.say(room, "seven")
	want(t, alice.pull(room), "five", "six", "seven")
	want(t, carol.pull(room), "five", "six", "seven")
	alice.wantNoWarnings()
	carol.wantNoWarnings()
}

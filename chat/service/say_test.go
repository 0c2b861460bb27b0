package service

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// TestB1TwoDevices: one user on two devices gets everything on both.
func TestB1TwoDevices(t *testing.T) {
	w := newWorld(t, Config{})
	laptop, phone, bob := w.device("alice"), w.device("alice"), w.device("bob")
	room := laptop.join("lobby")
	phone.open(room)
	bob.join("lobby")
	laptop.say(room, "from the laptop")
	phone.say(room, "from the phone")
	bob.say(room, "from bob")
	for _, d := range []*device{laptop, phone, bob} {
		d.feed.await(t, "the last text", saying("from bob"))
		if got := d.feed.texts(room); !slices.Equal(got, []string{"from the laptop", "from the phone", "from bob"}) {
			t.Errorf("%s got %q", d.user, got)
		}
	}
	if s := phone.snapshot(); s.User != "alice" || len(s.Rooms) != 1 || s.Rooms[0].Info.Room != room || len(s.Users) != 2 {
		t.Errorf("%+v", s)
	}
}

// TestB2Say: the server sets the sender, the numbers have no gap, and a repeated
// id stores once, however many speak at the same time.
func TestB2Say(t *testing.T) {
	const clients, each = 4, 50
	w := newWorld(t, Config{})
	var devices []*device
	for i := range clients {
		devices = append(devices, w.device(fmt.Sprint("user", i)))
	}
	var room chatproto.RoomID
	for _, d := range devices {
		room = d.join("lobby")
	}
	var wg sync.WaitGroup
	for _, d := range devices {
		wg.Go(func() {
			for i := range each {
				req := sayReq(fmt.Sprint(d.user, " says ", i))
				first, err1 := in(d, room, chatproto.Say, req)
				again, err2 := in(d, room, chatproto.Say, req)
				if err := errors.Join(err1, err2); err != nil || first != again || first.Seq == 0 {
					t.Errorf("%+v, %+v, %v", first, again, err)
				}
			}
		})
	}
	wg.Wait()
	last := uint64(clients + clients*each) // they joined as well
	logs := make([][]chatproto.Message, clients)
	for i, d := range devices {
		d.feed.await(t, "the last entry", func(e any) bool { m, ok := e.(*chatproto.Message); return ok && m.Seq == last })
		for _, m := range of[*chatproto.Message](d.feed) {
			logs[i] = append(logs[i], *m)
		}
	}
	for i, log := range logs {
		for j := range log {
			m := &log[j]
			if m.Seq != uint64(j+i+1) || m.Room != room { // device i came with entry i+1
				t.Fatalf("entry %d of device %d is %+v", j, i, m)
			}
			if m.Kind == chatproto.KindText && string(m.Body[:len(m.From)]) != m.From {
				t.Fatalf("%s is said to have said %q", m.From, m.Body)
			}
			if other := &logs[0][m.Seq-1]; other.ID != m.ID || string(other.Body) != string(m.Body) || other.Time != m.Time {
				t.Fatalf("%+v for one, %+v for another", m, other)
			}
		}
	}
}

// TestB2OtherID: an id that stands for something else is refused.
func TestB2OtherID(t *testing.T) {
	w := newWorld(t, Config{})
	d := w.device("alice")
	room := d.join("lobby")
	req := sayReq("one thing")
	mustIn(d, room, chatproto.Say, req)
	req.Body = []byte("another")
	if _, err := in(d, room, chatproto.Say, req); !errors.Is(err, chatproto.ErrOtherID) {
		t.Error(err)
	}
}

// TestF2Whisper: it reaches all sessions of one user and nobody else, keeps for
// who is away, and fails with errors that tell why.
func TestF2Whisper(t *testing.T) {
	w := newWorld(t, Config{})
	alice, bob1, bob2, mallory := w.device("alice"), w.device("bob"), w.device("bob"), w.device("mallory")
	res := mustAsk(alice, chatproto.Whisper, &chatproto.WhisperReq{User: "bob", Say: *sayReq("psst")})
	if res.State != chatproto.Online || res.Said.Seq != 1 {
		t.Errorf("%+v", res)
	}
	for _, d := range []*device{bob1, bob2, alice} {
		d.feed.await(t, "the whisper", saying("psst"))
		for _, m := range of[*chatproto.Message](d.feed) {
			if m.From != "alice" || m.Room != res.Room {
				t.Errorf("%+v", m)
			}
		}
		rooms := of[*chatproto.RoomState](d.feed)
		if len(rooms) == 0 || rooms[0].Info.Room != res.Room || rooms[0].Info.Last != 0 || rooms[0].Unread != 0 {
			t.Errorf("%s was told of %+v", d.user, rooms)
		}
	}
	for user, want := range map[string]error{"nobody": chatproto.ErrNoUser, "": chatproto.ErrNoUser, "carol": chatproto.ErrOffline} {
		_, err := ask(alice, chatproto.Whisper, &chatproto.WhisperReq{User: user, Now: true, Say: *sayReq("x")})
		if !errors.Is(err, want) {
			t.Errorf("to %q: %v", user, err)
		}
	}
	res = mustAsk(alice, chatproto.Whisper, &chatproto.WhisperReq{User: "carol", Say: *sayReq("for later")})
	if res.State != chatproto.Offline {
		t.Errorf("%+v", res)
	}
	carol := w.device("carol")
	if s := carol.snapshot(); len(s.Rooms) != 1 || s.Rooms[0].Unread != 1 || s.Rooms[0].Info.Peer != "alice" {
		t.Errorf("%+v", s.Rooms)
	}

	// Mallory has the number of the reference that Alice has, and the room's.
	alice.open(res.Room)
	alice.mu.Lock()
	stolen := alice.refs[res.Room]
	alice.mu.Unlock()
	if _, err := call(mallory.peer, chatproto.Say, stolen, sayReq("I am Alice")); !errors.Is(err, rpc.ErrNoReference) {
		t.Error(err)
	}
	if _, err := ask(mallory, chatproto.OpenRoom, &chatproto.OpenRoomReq{Room: res.Room}); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Error(err)
	}
	mallory.fence(w)
	if m := of[*chatproto.Message](mallory.feed); len(m) > 0 {
		t.Errorf("mallory was told %+v", m)
	}
}

// TestH2EqualTexts: two equal texts stay two messages.
func TestH2EqualTexts(t *testing.T) {
	w := newWorld(t, Config{})
	d := w.device("alice")
	room := d.join("lobby")
	one, two := d.say(room, "same"), d.say(room, "same")
	if two.Seq != one.Seq+1 {
		t.Errorf("%+v, %+v", one, two)
	}
	h := mustIn(d, room, chatproto.History, &chatproto.HistoryReq{})
	if len(h.Messages) != 3 || string(h.Messages[1].Body) != "same" || string(h.Messages[2].Body) != "same" {
		t.Errorf("%+v", h)
	}
}

// TestH3Restart: what was acknowledged is there after a restart.
func TestH3Restart(t *testing.T) {
	w := newWorld(t, Config{})
	d := w.device("alice")
	room := d.join("lobby")
	req := sayReq("kept")
	said := mustIn(d, room, chatproto.Say, req)
	d.end()
	w.close()
	w.open(Config{Rate: -1})
	d = w.device("alice")
	d.open(room)
	if again := mustIn(d, room, chatproto.Say, req); again != said {
		t.Errorf("%+v, before %+v", again, said)
	}
}

// TestH5MarksAgree: the count of unread messages is the same on two devices.
func TestH5MarksAgree(t *testing.T) {
	w := newWorld(t, Config{})
	laptop, phone, bob := w.device("alice"), w.device("alice"), w.device("bob")
	room := laptop.join("lobby")
	phone.open(room)
	bob.join("lobby")
	var last chatproto.SayRes
	for i := range 5 {
		last = bob.say(room, fmt.Sprint(i))
	}
	for _, d := range []*device{laptop, phone} {
		if s := d.snapshot(); s.Rooms[0].Unread != 5 {
			t.Errorf("%d unread", s.Rooms[0].Unread)
		}
	}
	mustIn(laptop, room, chatproto.MarkRead, &chatproto.MarkReadReq{Seq: last.Seq - 2})
	is := func(read uint64, unread uint32) func(any) bool {
		return func(e any) bool {
			m, ok := e.(*chatproto.Mark)
			return ok && *m == chatproto.Mark{Room: room, Read: read, Last: last.Seq, Unread: unread}
		}
	}
	for _, d := range []*device{laptop, phone} {
		d.feed.await(t, "the mark", is(last.Seq-2, 2))
	}
	mustIn(phone, room, chatproto.MarkRead, &chatproto.MarkReadReq{Seq: last.Seq + 100})
	laptop.feed.await(t, "the mark", is(last.Seq, 0))
	mustIn(laptop, room, chatproto.MarkRead, &chatproto.MarkReadReq{Seq: 1}) // does not go back
	for _, d := range []*device{laptop, phone, bob} {
		d.fence(w)
	}
	if marks := of[*chatproto.Mark](phone.feed); len(marks) != 2 {
		t.Errorf("%d marks", len(marks))
	}
	if marks := of[*chatproto.Mark](bob.feed); len(marks) != 0 {
		t.Error("bob learns what alice has read")
	}
}

// TestH6ThirdUser: a third user sees nothing of a direct room, live, in the
// history or by searching.
func TestH6ThirdUser(t *testing.T) {
	w := newWorld(t, Config{})
	alice, bob, eve := w.device("alice"), w.device("bob"), w.device("eve")
	res := mustAsk(alice, chatproto.Whisper, &chatproto.WhisperReq{User: "bob", Say: *sayReq("a secret word")})
	bob.feed.await(t, "the whisper", saying("a secret word"))
	eve.fence(w)
	for _, e := range eve.feed.all() {
		switch e.(type) {
		case *chatproto.Presence, *chatproto.Notice:
		default:
			t.Errorf("eve was told %+v", e)
		}
	}
	if s := eve.snapshot(); len(s.Rooms) != 0 {
		t.Errorf("%+v", s.Rooms)
	}
	if _, err := ask(eve, chatproto.OpenRoom, &chatproto.OpenRoomReq{Room: res.Room}); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Error(err)
	}
	found := func(d *device, room chatproto.RoomID) (int, error) {
		r, err := ask(d, chatproto.Search, &chatproto.SearchReq{Room: room, Terms: []string{"secret"}})
		return len(r.Messages), err
	}
	if n, err := found(bob, 0); n != 1 || err != nil {
		t.Errorf("bob finds %d, %v", n, err)
	}
	if n, err := found(eve, 0); n != 0 || err != nil {
		t.Errorf("eve finds %d, %v", n, err)
	}
	if n, err := found(eve, res.Room); n != 0 || err != nil && !errors.Is(err, chatproto.ErrNoRoom) {
		t.Errorf("eve finds %d, %v", n, err)
	}
}

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/store"
	"github.com/rpycfs/rpycfs/rpc"
)

// refused calls every method of a room, and reports those that do not fail with
// want.
func (d *device) refused(room chatproto.RoomID, want error) {
	d.t.Helper()
	check := func(op string, err error) {
		d.t.Helper()
		if !errors.Is(err, want) {
			d.t.Errorf("%s: %v, not %v", op, err, want)
		}
	}
	_, err := in(d, room, chatproto.Say, sayReq("x"))
	check("say", err)
	_, err = in(d, room, chatproto.History, &chatproto.HistoryReq{})
	check("history", err)
	_, err = in(d, room, chatproto.SetTopic, &chatproto.SetTopicReq{ID: newID(), Topic: "x"})
	check("topic", err)
	_, err = in(d, room, chatproto.Invite, &chatproto.MemberReq{ID: newID(), User: "dave"})
	check("invite", err)
	_, err = in(d, room, chatproto.Remove, &chatproto.MemberReq{ID: newID(), User: "alice"})
	check("remove", err)
	_, err = in(d, room, chatproto.Leave, &chatproto.LeaveReq{ID: newID()})
	check("leave", err)
	_, err = in(d, room, chatproto.MarkRead, &chatproto.MarkReadReq{Seq: 1})
	check("mark read", err)
	_, err = in(d, room, chatproto.Typing, &chatproto.TypingReq{})
	check("typing", err)
	_, err = in(d, room, chatproto.Members, &chatproto.MembersReq{})
	check("members", err)
	_, err = in(d, room, chatproto.SetRetention, &chatproto.SetRetentionReq{Count: 1})
	check("retention", err)
	_, err = in(d, room, chatproto.GetKeys, &chatproto.GetKeysReq{})
	check("keys", err)
	_, err = in(d, room, chatproto.PutKeys, &chatproto.PutKeysReq{ID: newID(), Epoch: 1, Header: []byte{1}})
	check("put keys", err)
	box := chatproto.SealedKey{Epoch: 1, Device: chatproto.DeviceID{1}, Box: []byte{1}}
	_, err = in(d, room, chatproto.AddKeys, &chatproto.AddKeysReq{Keys: []chatproto.SealedKey{box}})
	check("add keys", err)
}

// forge gives the device a room object that the service did not mean to give,
// so that the check below the references is met.
func (d *device) forge(room chatproto.RoomID) {
	d.t.Helper()
	a := d.chat.attached[0]
	ref, err := a.peer.Export((&roomObject{attachment: a, room: room}).methods(), nil)
	must(d.t, err)
	d.refs[room] = ref
}

// TestF3Rooms: a room is a reference that members get; who leaves or is put out
// loses it on all devices, and hears nothing of the room any more.
func TestF3Rooms(t *testing.T) {
	w := newWorld(t, Config{})
	alice, bob, phone, eve := w.device("alice"), w.device("bob"), w.device("bob"), w.device("eve")
	room := alice.create(chatproto.RoomPrivate, "plans")

	// To others the room does not exist, by name, by number or by a reference.
	if _, err := ask(eve, chatproto.JoinRoom, &chatproto.JoinRoomReq{ID: newID(), Name: "plans"}); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Error(err)
	}
	if _, err := ask(eve, chatproto.OpenRoom, &chatproto.OpenRoomReq{Room: room}); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Error(err)
	}
	list := mustAsk(eve, chatproto.ListRooms, &chatproto.ListRoomsReq{})
	if len(list.Rooms) != 1 || list.Rooms[0].Name != store.LobbyName {
		t.Errorf("%+v", list)
	}
	eve.forge(room)
	eve.refused(room, chatproto.ErrNoRoom)

	mustIn(alice, room, chatproto.Invite, &chatproto.MemberReq{ID: newID(), User: "bob"})
	for _, d := range []*device{bob, phone} {
		d.feed.await(t, "the room", func(e any) bool { r, ok := e.(*chatproto.RoomState); return ok && r.Info.Room == room })
		d.open(room)
	}
	ref := bob.refs[room]
	bob.open(room)
	if bob.refs[room] != ref {
		t.Error("another reference of the same room")
	}
	bob.say(room, "hello")
	alice.feed.await(t, "the text", saying("hello"))
	got := mustIn(alice, room, chatproto.Members, &chatproto.MembersReq{})
	if !slices.Equal(got.Users, []string{"alice", "bob"}) {
		t.Errorf("%q", got.Users)
	}
	mustIn(bob, room, chatproto.SetTopic, &chatproto.SetTopicReq{ID: newID(), Topic: "what next"})
	alice.feed.await(t, "the topic", func(e any) bool {
		r, ok := e.(*chatproto.RoomState)
		return ok && r.Info.Topic == "what next" && r.Info.Members == 2
	})
	if _, err := in(bob, room, chatproto.Remove, &chatproto.MemberReq{ID: newID(), User: "alice"}); !errors.Is(err, chatproto.ErrNotAllowed) {
		t.Error(err)
	}

	// Put out by the owner.
	mustIn(alice, room, chatproto.Remove, &chatproto.MemberReq{ID: newID(), User: "bob"})
	for _, d := range []*device{bob, phone} {
		d.feed.await(t, "the end", func(e any) bool { g, ok := e.(*chatproto.RoomGone); return ok && g.Room == room })
		d.refused(room, rpc.ErrNoReference)
	}
	alice.say(room, "he is out")
	for _, d := range []*device{bob, phone, eve} {
		d.fence(w)
		if slices.ContainsFunc(d.feed.all(), saying("he is out")) {
			t.Errorf("%s hears of a room that he is not in", d.user)
		}
	}
	found := mustAsk(bob, chatproto.Search, &chatproto.SearchReq{Terms: []string{"hello"}})
	if len(found.Messages) != 0 {
		t.Error("he finds what he said there")
	}

	// Leaving is the same.
	mustIn(alice, room, chatproto.Leave, &chatproto.LeaveReq{ID: newID()})
	alice.refused(room, rpc.ErrNoReference)
}

// TestH4HistoryAndSearch: pages have what they say, and only members see them.
func TestH4HistoryAndSearch(t *testing.T) {
	w := newWorld(t, Config{})
	alice := w.device("alice")
	room := alice.join("lobby")
	for i := range 30 {
		alice.say(room, fmt.Sprint("number ", i))
	}
	page := mustIn(alice, room, chatproto.History, &chatproto.HistoryReq{Before: 21, Limit: 5})
	if len(page.Messages) != 5 || page.Messages[0].Seq != 16 || page.Last != 31 || page.First != 1 {
		t.Errorf("%+v", page)
	}
	if _, err := in(alice, room, chatproto.History, &chatproto.HistoryReq{Before: 2, After: 1}); !errors.Is(err, rpc.ErrBadRequest) {
		t.Error(err)
	}
	res := mustAsk(alice, chatproto.Search, &chatproto.SearchReq{Terms: []string{"number 7"}, From: "alice", Room: room})
	if len(res.Messages) != 1 || string(res.Messages[0].Body) != "number 7" {
		t.Errorf("%+v", res)
	}
	for _, term := range []string{"", "\xff", "a\x00b"} {
		if _, err := ask(alice, chatproto.Search, &chatproto.SearchReq{Terms: []string{term}}); !errors.Is(err, chatproto.ErrText) {
			t.Errorf("%q: %v", term, err)
		}
	}
}

// TestRefusals: what comes from the wire is checked.
func TestRefusals(t *testing.T) {
	w := newWorld(t, Config{})
	d := w.device("alice")
	room := d.join("lobby")
	say := func(change func(*chatproto.SayReq)) error {
		req := sayReq("text")
		change(req)
		_, err := in(d, room, chatproto.Say, req)
		return err
	}
	for name, c := range map[string]struct{ got, want error }{
		"no id":    {say(func(r *chatproto.SayReq) { r.ID = chatproto.ID{} }), rpc.ErrBadRequest},
		"no text":  {say(func(r *chatproto.SayReq) { r.Body = nil }), chatproto.ErrText},
		"not text": {say(func(r *chatproto.SayReq) { r.Body = []byte{0xff} }), chatproto.ErrText},
		"too long": {say(func(r *chatproto.SayReq) { r.Body = slices.Repeat([]byte("x"), chatproto.MaxText+1) }), chatproto.ErrText},
		"sealed":   {say(func(r *chatproto.SayReq) { r.Kind = chatproto.KindSealed }), chatproto.ErrNotAllowed},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v", name, c.got)
		}
	}
	for name, want := range map[string]error{"": chatproto.ErrName, "a b": chatproto.ErrName, "-a": chatproto.ErrName, "lobby": chatproto.ErrExists} {
		if _, err := ask(d, chatproto.CreateRoom, &chatproto.CreateRoomReq{ID: newID(), Kind: chatproto.RoomPublic, Name: name}); !errors.Is(err, want) {
			t.Errorf("room %q: %v", name, err)
		}
	}
	if _, err := in(d, room, chatproto.Invite, &chatproto.MemberReq{ID: newID(), User: "nobody"}); !errors.Is(err, chatproto.ErrNoUser) {
		t.Error(err)
	}
	_, err := ask(d, chatproto.PutMail, &chatproto.PutMailReq{Mail: chatproto.Mail{ID: newID()}})
	if !errors.Is(err, rpc.ErrBadRequest) {
		t.Error(err)
	}
}

// TestTyping: the others in the room are told, not more than once in a while,
// and it is not in the log.
func TestTyping(t *testing.T) {
	w := newWorld(t, Config{})
	alice, bob, eve := w.device("alice"), w.device("bob"), w.device("eve")
	room := alice.join("lobby")
	bob.join("lobby")
	before := alice.say(room, "before")
	for range 20 {
		mustIn(alice, room, chatproto.Typing, &chatproto.TypingReq{})
	}
	if after := alice.say(room, "after"); after.Seq != before.Seq+1 {
		t.Errorf("%+v, %+v", before, after)
	}
	for d, want := range map[*device]int{alice: 0, bob: 1, eve: 0} {
		d.fence(w)
		if n := len(of[*chatproto.TypingEvent](d.feed)); n != want {
			t.Errorf("%s was told %d times", d.user, n)
		}
	}
	u, now := &user{}, time.Now()
	for i, want := range map[time.Duration]bool{0: true, typingEvery - 1: false, typingEvery: true} {
		u.typing = map[chatproto.RoomID]time.Time{1: now}
		if i == 0 {
			u.typing = nil
		}
		if u.types(1, now.Add(i)) != want {
			t.Errorf("after %v", i)
		}
	}
}

// TestMailAndDevices: letters reach the user's own devices, the news of a list
// of devices whoever shares a room.
func TestMailAndDevices(t *testing.T) {
	w := newWorld(t, Config{})
	laptop, phone, bob, eve := w.device("alice"), w.device("alice"), w.device("bob"), w.device("eve")
	laptop.join("lobby")
	bob.join("lobby")
	mail := chatproto.Mail{ID: newID(), From: chatproto.DeviceID{1}, Body: []byte("sealed")}
	mustAsk(laptop, chatproto.PutMail, &chatproto.PutMailReq{Mail: mail})
	mustAsk(laptop, chatproto.PutDevices, &chatproto.PutDevicesReq{Version: 1, List: []byte("signed")})
	for d, want := range map[*device][2]int{laptop: {1, 1}, phone: {1, 1}, bob: {0, 1}, eve: {0, 0}} {
		d.fence(w)
		got := [2]int{len(of[*chatproto.Mail](d.feed)), len(of[*chatproto.DevicesEvent](d.feed))}
		if got != want {
			t.Errorf("%s got %v letters and lists, not %v", d.user, got, want)
		}
	}
	waiting := mustAsk(phone, chatproto.GetMail, &chatproto.GetMailReq{})
	if len(waiting.Mails) != 1 || waiting.Mails[0].Time == 0 || of[*chatproto.Mail](phone.feed)[0].Time != waiting.Mails[0].Time {
		t.Errorf("%+v", waiting)
	}
	mustAsk(phone, chatproto.DropMail, &chatproto.DropMailReq{ID: mail.ID})
	if waiting = mustAsk(laptop, chatproto.GetMail, &chatproto.GetMailReq{}); len(waiting.Mails) != 0 {
		t.Errorf("%+v", waiting)
	}
}

// changed is an entry of a room, with who came or went by it.
func changed(room chatproto.RoomID, seq uint64, kind uint8, from string, came, gone []string) store.Change {
	return store.Change{Room: room, Came: came, Gone: gone, Message: chatproto.Message{Room: room, Seq: seq, Kind: kind, From: from}}
}

// TestOneBatch: what the store commits at once is told as if it had come one by
// one: who came in the middle hears what came after, who went what came before.
func TestOneBatch(t *testing.T) {
	w := newWorld(t, Config{})
	alice, bob := w.device("alice"), w.device("bob")
	room := alice.join("lobby") // bob is not in it any more when the batch has been committed
	bob.fence(w)
	w.svc.Committed([]store.Change{
		changed(room, 2, chatproto.KindText, "alice", nil, nil),
		changed(room, 3, chatproto.KindJoin, "bob", []string{"bob"}, nil),
		changed(room, 4, chatproto.KindText, "alice", nil, nil),
		changed(room, 5, chatproto.KindLeave, "bob", nil, []string{"bob"}),
		changed(room, 6, chatproto.KindText, "alice", nil, nil),
	})
	for d, want := range map[*device][]uint64{alice: {1, 2, 3, 4, 5, 6}, bob: {4, 5}} {
		d.fence(w)
		var got []uint64
		for _, m := range of[*chatproto.Message](d.feed) {
			got = append(got, m.Seq)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s got %v, not %v", d.user, got, want)
		}
	}
	if gone := of[*chatproto.RoomGone](bob.feed); len(gone) != 1 {
		t.Errorf("told %d times to be gone", len(gone))
	}
}

// TestRewind: a room is described to who came as it was then.
func TestRewind(t *testing.T) {
	batch := []store.Change{
		changed(1, 8, chatproto.KindInvite, "alice", []string{"bob"}, nil),
		changed(2, 70, chatproto.KindText, "alice", nil, nil),
		changed(1, 9, chatproto.KindText, "alice", nil, nil),
		changed(1, 10, chatproto.KindText, "bob", nil, nil),
		changed(1, 11, chatproto.KindTopic, "alice", nil, nil),
		changed(1, 12, chatproto.KindSealed, "alice", nil, nil),
	}
	s := chatproto.RoomState{Info: chatproto.RoomInfo{Room: 1, First: 1, Last: 12}, Read: 8, Unread: 2}
	rewind(&s, "bob", batch)
	if s.Info.Last != 7 || s.Read != 7 || s.Unread != 0 {
		t.Errorf("%+v", s)
	}
	// A direct room has no entry for its making.
	s = chatproto.RoomState{Info: chatproto.RoomInfo{Room: 3, First: 1, Last: 1}, Unread: 1}
	rewind(&s, "bob", []store.Change{{Room: 3, Came: []string{"alice", "bob"}}, changed(3, 1, chatproto.KindText, "alice", nil, nil)})
	if s.Info.Last != 0 || s.Unread != 0 {
		t.Errorf("%+v", s)
	}
}

// TestStop: the listeners have the word before it returns, and are not told of
// everybody going; a listener that does not answer is not waited for for ever.
func TestStop(t *testing.T) {
	w := newWorld(t, Config{})
	alice, bob, stopped := w.device("alice"), w.device("bob"), w.device("stopped")
	resume := stopped.feed.stop()
	defer resume()
	w.svc.Notice("something to hang on")
	<-stopped.feed.waiting
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	w.svc.Stop(ctx, "closing")
	bob.end()
	is := func(e any) bool { n, ok := e.(*chatproto.Notice); return ok && n.Text == "closing" }
	alice.feed.await(t, "the notice", is)
	alice.fence(w)
	if n := alice.feed.leaves("bob"); n != 0 {
		t.Error("leave events while the server stops")
	}
}

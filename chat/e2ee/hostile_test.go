package e2ee

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// three returns a room of alice, bob and mallory's server, in which something
// was said.
func three(t *testing.T) (s *server, alice, bob *person, room chatproto.RoomID) {
	t.Helper()
	s = newServer()
	alice, bob = s.person(t, "alice"), s.person(t, "bob")
	room = alice.create("plans")
	alice.invite(room, "bob")
	alice.say(room, "one")
	want(t, bob.pull(room), "one")
	alice.pull(room)
	return s, alice, bob, room
}

// forgedList is a list with a device of the server's, as far as it can make one.
func forgedList(t *testing.T, s *server, user string, seed hash) ([]byte, *deviceKeys) {
	t.Helper()
	raws := s.lists[user]
	l := new(deviceList)
	signed, err := unwrap(raws[len(raws)-1], chatproto.MaxList, l)
	must(t, err)
	evil := newDeviceKeys(hash{1}, hash{2})
	next := *l
	next.Version, next.Prev = l.Version+1, sum(domainList, signed.Body)
	next.Devices = append(slices.Clone(l.Devices), listDevice{Name: "evil", Sign: evil.signPub, Box: evil.boxPub})
	raw, err := signList(&next, seed, nil)
	must(t, err)
	return raw, evil
}

func TestHostileServerAddsDevice(t *testing.T) {
	s, alice, bob, room := three(t)
	raw, _ := forgedList(t, s, "bob", hash{9})
	s.lists["bob"] = append(s.lists["bob"], raw)
	if err := alice.e.Refresh(t.Context(), alice.v, "bob"); !isRefusal(err) {
		t.Fatalf("a forged list: %v", err)
	}
	// Whoever asks for bob's list now speaks to nobody rather than to the server.
	fresh, err := Open(alice.kv, "alice", Options{})
	must(t, err)
	alice.e = fresh
	if err := alice.trySay(room, "two"); !isRefusal(err) {
		t.Fatalf("spoken under a forged list: %v", err)
	}
	devices, err := alice.e.Devices("bob")
	if err != nil || len(devices) != 1 {
		t.Fatalf("bob's devices: %v, %v", devices, err)
	}
	// Nor does bob believe it.
	if err := bob.e.Ready(t.Context(), bob.v); !isRefusal(err) {
		t.Fatalf("bob's own forged list: %v", err)
	}
}

func TestHostileServerAddsMember(t *testing.T) {
	s, alice, bob, room := three(t)
	mallory := s.person(t, "mallory")
	r := s.rooms[room]
	r.members = append(r.members, "mallory")
	// No statement; one of mallory's; one of alice's about another room.
	own := &statement{Room: alice.roomKey(room), Seen: hash{7}, Action: chatproto.KindInvite, Actor: "alice",
		Device: mallory.e.DeviceID(), Version: 1, Target: "mallory", Identity: hash{1}}
	forged, _, err := sign(domainStatement, mallory.e.device.sign, nil, own)
	must(t, err)
	other := alice.create("other")
	id := newID()
	elsewhere, err := alice.e.InviteProof(t.Context(), alice.v, other, id, "mallory")
	must(t, err)
	for _, m := range []chatproto.Message{
		{ID: newID(), Kind: chatproto.KindInvite, From: "alice", Target: "mallory"},
		{Kind: chatproto.KindInvite, From: "alice", Target: "mallory", Body: forged},
		{ID: id, Kind: chatproto.KindInvite, From: "alice", Target: "mallory", Body: elsewhere},
		{ID: newID(), Kind: chatproto.KindJoin, From: "mallory"},
		{ID: newID(), Kind: chatproto.KindCreate, From: "mallory", Body: s.rooms[other].log[0].Body},
	} {
		r.append(m)
		bob.warn = nil
		got := bob.receive(room)
		if len(got) != 1 || got[0].Status != Refused || len(bob.warn) != 1 {
			t.Fatalf("%d by %s: %+v", m.Kind, m.From, got)
		}
	}
	bob.say(room, "not for mallory")
	want(t, alice.pull(room), "not for mallory")
	want(t, mallory.pull(room))
	if err := mallory.trySay(room, "hi"); !errors.Is(err, ErrNotMember) {
		t.Fatalf("mallory speaks: %v", err)
	}
	if who, err := alice.e.Members(room); err != nil || !slices.Equal(who, []string{"alice", "bob"}) {
		t.Fatalf("members: %v, %v", who, err)
	}
}

func (p *person) roomKey(room chatproto.RoomID) hash {
	p.t.Helper()
	var at roomState
	must(p.t, p.e.transact(func(w *work) error { _, err := w.load(keyRoom(room), &at); return err }))
	return at.Room
}

// A statement counts once, and not after those that it is about went.
func TestHostileServerReplaysInvitation(t *testing.T) {
	s, alice, bob, room := three(t)
	spare := newID() // the server took it and said that it did not
	kept, err := alice.e.InviteProof(t.Context(), alice.v, room, spare, "bob")
	must(t, err)
	invite := s.rooms[room].log[1]
	alice.remove(room, "bob")
	alice.say(room, "without bob")
	r := s.rooms[room]
	r.append(invite)
	r.append(chatproto.Message{ID: spare, Kind: chatproto.KindInvite, From: "alice", Target: "bob", Body: kept})
	alice.pull(room)
	alice.wantWarning("it was done before")
	alice.wantWarning("older than bob's departure")
	alice.say(room, "still without")
	r.members = append(r.members, "bob")
	want(t, bob.pull(room))
}

func TestHostileServerReplays(t *testing.T) {
	s, alice, bob, room := three(t)
	r := s.rooms[room]
	said := r.log[len(r.log)-1]
	r.append(said) // the same with another number
	other := said
	other.ID = newID()
	r.append(other) // and with another id
	for range 2 {
		got := bob.receive(room)
		if len(got) != 2 || got[0].Status != Refused || got[1].Status != Refused {
			t.Fatalf("%+v", got)
		}
		bob.at[room] -= 2 // again: the same verdict
	}
	bob.wantWarning("replay")
	// Under the same number there is only one entry.
	twisted := said
	twisted.From = "bob"
	o, err := bob.e.Receive(t.Context(), bob.v, &twisted)
	if err != nil || o.Status != Refused || o.Text != "" {
		t.Fatalf("%+v, %v", o, err)
	}
	_ = alice
}

func TestHostileServerReorders(t *testing.T) {
	s, alice, bob, room := three(t)
	alice.say(room, "two")
	alice.pull(room)
	alice.say(room, "three")
	r := s.rooms[room]
	n := len(r.log)
	a, b := r.log[n-2], r.log[n-1]
	a.Seq, b.Seq = b.Seq, a.Seq
	r.log[n-2], r.log[n-1] = b, a
	bob.pull(room)
	bob.wantWarning("missing")      // of the first, two was to come before
	bob.wantWarning("out of order") // of the second
	bob.wantWarning("the order is not the true one")

	// Messages of two senders, swapped: whoever answers tells.
	s, alice, bob, room = three(t)
	carol := s.person(t, "carol")
	alice.invite(room, "carol")
	alice.say(room, "hi carol")
	carol.pull(room)
	bob.pull(room)
	alice.pull(room)
	alice.say(room, "from alice")
	bob.say(room, "from bob")
	bob.pull(room)
	bob.say(room, "true order")
	want(t, alice.pull(room), "from alice", "from bob", "true order")
	alice.wantNoWarnings()
	carol.v.history = func(_ chatproto.RoomID, log []chatproto.Message) []chatproto.Message {
		n := len(log)
		a, b := log[n-3], log[n-2]
		a.Seq, b.Seq = b.Seq, a.Seq
		log[n-3], log[n-2] = b, a
		return log
	}
	carol.pull(room)
	carol.wantWarning("bob was shown another past of this room")
}

func TestHostileServerDrops(t *testing.T) {
	s, alice, bob, room := three(t)
	alice.say(room, "two")
	alice.say(room, "three")
	alice.say(room, "four")
	r := s.rooms[room]
	last := r.log[len(r.log)-1]
	r.log = r.log[:len(r.log)-3]
	last.Seq = uint64(len(r.log)) + 1
	r.log = append(r.log, last)
	want(t, bob.pull(room), "four")
	bob.wantWarning("2 messages of alice before this one are missing")

	// A message that bob has answered to is withheld from carol.
	s, alice, bob, room = three(t)
	alice.say(room, "two")
	bob.pull(room)
	bob.say(room, "answer")
	carol := s.person(t, "carol")
	r = s.rooms[room]
	r.log = append(r.log[:3], r.log[4:]...)
	for i := range r.log {
		r.log[i].Seq = uint64(i + 1)
	}
	r.members = append(r.members, "carol")
	carol.receive(room)
	carol.wantWarning("missing")
	carol.wantWarning("bob")
}

func TestHostileServerModifies(t *testing.T) {
	s, alice, bob, room := three(t)
	alice.say(room, "two")
	said := s.rooms[room].log[len(s.rooms[room].log)-1]
	for i := range said.Body {
		m := said
		m.Body = bytes.Clone(said.Body)
		m.Body[i] ^= 1 << (i % 8)
		o := bob.try(&m)
		if o.Status != Refused || o.Text != "" || len(o.Warnings) == 0 {
			t.Fatalf("byte %d of a message: %+v", i, o)
		}
	}
	for name, change := range map[string]func(m *chatproto.Message){
		"id":        func(m *chatproto.Message) { m.ID[3] ^= 1 },
		"sender":    func(m *chatproto.Message) { m.From = "bob" },
		"cut":       func(m *chatproto.Message) { m.Body = m.Body[:len(m.Body)-1] },
		"trailing":  func(m *chatproto.Message) { m.Body = append(bytes.Clone(m.Body), 0) },
		"empty":     func(m *chatproto.Message) { m.Body = nil },
		"unsealed":  func(m *chatproto.Message) { m.Kind = chatproto.KindText; m.Body = []byte("plain") },
		"topic":     func(m *chatproto.Message) { m.Kind = chatproto.KindTopic; m.Body = []byte("plain") },
		"statement": func(m *chatproto.Message) { m.Kind = chatproto.KindLeave },
	} {
		m := said
		change(&m)
		if o := bob.try(&m); o.Status != Refused || o.Text != "" || len(o.Warnings) == 0 {
			t.Fatalf("%s: %+v", name, o)
		}
	}
	if o := bob.try(&said); o.Text != "two" || len(o.Warnings) != 0 {
		t.Fatalf("unchanged: %+v", o)
	}
	_ = alice
}

// try receives an entry on a copy of the state, as the next one.
func (p *person) try(m *chatproto.Message) Opened {
	p.t.Helper()
	e, err := Open(p.kv.copy(), p.user, Options{})
	must(p.t, err)
	o, err := e.Receive(p.t.Context(), p.v, m)
	must(p.t, err)
	return o
}

func TestHostileServerSwapsRooms(t *testing.T) {
	s, alice, bob, room := three(t)
	other := alice.create("other")
	alice.invite(other, "bob")
	alice.say(other, "for the other")
	bob.pull(other)
	alice.say(room, "two")
	r, o := s.rooms[room], s.rooms[other]
	// An entry of the other room appears in this one.
	moved := o.log[len(o.log)-1]
	r.append(moved)
	want(t, bob.pull(room), "two")
	bob.wantWarning("not genuine")
	// The whole of the other room under this one's number.
	before := len(bob.got)
	bob.at[room] = 0
	r.log, o.log = o.log, r.log
	for i := range r.log {
		r.log[i].Room = room
	}
	bob.warn = nil
	bob.receive(room)
	if len(bob.got) != before {
		t.Fatalf("texts of another room: %q", bob.got[before:])
	}
	bob.wantWarning("another one under that number")
	// A device that sees it for the first time is told by the signed name.
	carol := s.person(t, "carol")
	r.members = append(r.members, "carol")
	carol.receive(room)
	if name, err := carol.e.Name(room); err != nil || name != "other" {
		t.Fatalf("%q, %v", name, err)
	}
}

func TestH1ForgedSender(t *testing.T) {
	s, alice, bob, room := three(t)
	carol := s.person(t, "carol")
	alice.invite(room, "carol")
	alice.say(room, "hi carol")
	carol.pull(room)
	bob.pull(room)
	r := s.rooms[room]
	h, key := carol.epoch(room)
	// carol knows the key and seals as alice, with her own device, with alice's
	// device's name, and has the server say that alice said it.
	for _, device := range []chatproto.DeviceID{carol.e.DeviceID(), alice.e.DeviceID()} {
		m := &sealedText{Epoch: h.Epoch, Device: device, Counter: 9}
		id := newID()
		context, err := encode(&textContext{Room: h.Room, From: "alice", ID: id})
		must(t, err)
		must(t, encrypt(m, key, h.Room, context, &plainText{chatproto.KindText, "I am alice"}))
		body, _, err := sign(domainSealed, carol.e.device.sign, context, m)
		must(t, err)
		o := bob.try(&chatproto.Message{Room: room, Seq: uint64(len(r.log)) + 1, ID: id, Kind: chatproto.KindSealed, From: "alice", Body: body})
		if o.Status != Refused || o.Text != "" {
			t.Fatalf("forged: %+v", o)
		}
	}
	// The same as herself is good.
	carol.say(room, "I am carol")
	want(t, bob.pull(room), "I am carol")
	bob.wantNoWarnings()
}

func (p *person) epoch(room chatproto.RoomID) (*header, hash) {
	p.t.Helper()
	var h *header
	var key hash
	must(p.t, p.e.transact(func(w *work) error {
		pass, err := p.e.newPass(p.t.Context(), w, p.v, room)
		if err == nil {
			h, key, err = pass.header(pass.room.Epoch)
		}
		return err
	}))
	return h, key
}

func TestHostileServerRollsBackList(t *testing.T) {
	s, alice, bob, room := three(t)
	second := s.device(t, "bob", "second")
	bob.enrol(second)
	must(t, alice.e.Refresh(t.Context(), alice.v, "bob"))
	for name, hook := range map[string]func(string, [][]byte) [][]byte{
		"older":   func(_ string, l [][]byte) [][]byte { return l[:1] },
		"none":    func(string, [][]byte) [][]byte { return nil },
		"another": func(_ string, l [][]byte) [][]byte { return [][]byte{l[0], l[0]} },
	} {
		alice.v.lists = func(user string, l [][]byte) [][]byte {
			if user == "bob" {
				return hook(user, l)
			}
			return l
		}
		if err := alice.e.Refresh(t.Context(), alice.v, "bob"); !isRefusal(err) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	// A member's key for a list that is older than the log has named.
	alice.v.lists = nil
	alice.say(room, "for two devices")
	bob.pull(room)
	h, _ := bob.epoch(room)
	old := *h
	old.Epoch, old.Prev = h.Epoch+1, p2hash(bob, room)
	for i := range old.Recipients {
		if r := &old.Recipients[i]; r.User == "bob" {
			r.Version = 1
			l := new(deviceList)
			signed, err := unwrap(s.lists["bob"][0], chatproto.MaxList, l)
			must(t, err)
			r.List = sum(domainList, signed.Body)
		}
	}
	bob.wantRefusedEpoch(s, room, alice, &old, "old list of bob's devices")
}

// p2hash is the hash of the newest header.
func p2hash(p *person, room chatproto.RoomID) hash {
	p.t.Helper()
	var at roomState
	must(p.t, p.e.transact(func(w *work) error { _, err := w.load(keyRoom(room), &at); return err }))
	return at.Header
}

// wantRefusedEpoch lets maker publish a header and expects that p refuses it, and
// that the room goes on under another.
func (p *person) wantRefusedEpoch(s *server, room chatproto.RoomID, maker *person, h *header, reason string) {
	p.t.Helper()
	h.Maker, h.Device, h.ID = maker.user, maker.e.DeviceID(), newID()
	raw, _, err := sign(domainHeader, maker.e.device.sign, nil, h)
	must(p.t, err)
	must(p.t, maker.v.PutKeys(p.t.Context(), room, &chatproto.PutKeysReq{ID: h.ID, Epoch: h.Epoch, Header: raw}))
	p.receive(room)
	p.wantWarning(reason)
	p.warn = nil
	p.say(room, "on")
	want(p.t, p.pull(room), "on")
	p.wantNoWarnings()
}

func TestHostileServerGhostRecipient(t *testing.T) {
	s, alice, bob, room := three(t)
	mallory := s.person(t, "mallory")
	// The server signs with a device of its own; mallory, who is no member, with
	// hers; a member herself adds a ghost.
	h, _ := bob.epoch(room)
	var ghost recipient
	must(t, alice.e.transact(func(w *work) error {
		p, err := alice.e.sync(t.Context(), w, alice.v, "mallory")
		ghost = recipient{"mallory", 1, p.List}
		return err
	}))
	next := *h
	next.Recipients = append(slices.Clone(h.Recipients), ghost)
	next.Epoch, next.Prev = h.Epoch+1, p2hash(bob, room)
	bob.wantRefusedEpoch(s, room, alice, &next, "sealed to mallory, who is not a proven member")

	s.rooms[room].members = append(s.rooms[room].members, "mallory")
	bob.pull(room)
	next.Epoch, next.Prev = next.Epoch+2, p2hash(bob, room)
	bob.wantRefusedEpoch(s, room, mallory, &next, "mallory is not a proven member")
	_ = alice
}

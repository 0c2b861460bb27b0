package e2ee

import (
	"slices"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// What members, or those who were, can sign is taken only for what it says, and
// only where it belongs.

func TestFormerMemberSpeaksUnderTheOldKey(t *testing.T) {
	s, alice, bob, room := three(t)
	_, body, err := bob.e.Seal(t.Context(), bob.v, room, chatproto.ID{7}, chatproto.KindText, "still here")
	must(t, err)
	alice.remove(room, "bob")
	s.rooms[room].append(chatproto.Message{ID: chatproto.ID{7}, Kind: chatproto.KindSealed, From: "bob", Body: body})
	alice.pull(room)
	alice.wantWarning("bob is not a proven member")
}

func TestMemberMakesBadEpochs(t *testing.T) {
	s, alice, bob, room := three(t)
	next := func(change func(h *header)) *header {
		bob.receive(room)
		alice.receive(room)
		bob.warn = nil
		h, _ := bob.epoch(room)
		n := *h
		n.Epoch, n.Prev, n.Recipients = h.Epoch+1, p2hash(bob, room), slices.Clone(h.Recipients)
		change(&n)
		return &n
	}
	bob.wantRefusedEpoch(s, room, alice, next(func(h *header) { h.Prev[0] ^= 1 }), "does not follow the key before")
	bob.wantRefusedEpoch(s, room, alice, next(func(h *header) { h.Room[0] ^= 1 }), "of another room")
	bob.wantRefusedEpoch(s, room, alice, next(func(h *header) { h.Members[0] ^= 1 }), "another past of the room")
	bob.wantRefusedEpoch(s, room, alice, next(func(h *header) { h.Recipients[1].List[0] ^= 1 }), "another list of bob's devices")
	bob.wantRefusedEpoch(s, room, alice, next(func(h *header) { h.Recipients[1].Version = 9 }), "does not show version 9")

	// An epoch that names another maker than its entry does.
	h := next(func(h *header) {})
	h.Maker, h.Device, h.ID = "alice", alice.e.DeviceID(), newID()
	raw, _, err := sign(domainHeader, alice.e.device.sign, nil, h)
	must(t, err)
	must(t, bob.v.PutKeys(t.Context(), room, &chatproto.PutKeysReq{ID: h.ID, Epoch: h.Epoch, Header: raw}))
	alice.receive(room)
	alice.wantWarning("made for another entry")
}

// A maker hands out a key to some that is not the one it has committed to.
func TestMemberHandsOutTwoKeys(t *testing.T) {
	s, alice, bob, room := three(t)
	carol := s.person(t, "carol")
	alice.invite(room, "carol")
	alice.say(room, "hi carol")
	r := s.rooms[room]
	id := newIdentity(*mustSeed(t, carol))
	for device, pub := range map[chatproto.DeviceID]hash{carol.e.DeviceID(): carol.e.device.boxPub, id.boxName: id.boxPub} {
		box, err := sealKey(carol.e.random, hash{42}, pub)
		must(t, err)
		r.boxes[2][device] = box
	}
	got := carol.receive(room)
	if o := got[len(got)-1]; o.Status != NoKey {
		t.Fatalf("%+v", o)
	}
	carol.say(room, "carol makes another") // and nobody is locked out
	want(t, bob.pull(room), "hi carol", "carol makes another")
}

func mustSeed(t *testing.T, p *person) *hash {
	t.Helper()
	seed, err := p.e.seed()
	must(t, err)
	return seed
}

func TestRevokedDeviceMakesEpoch(t *testing.T) {
	s, alice, bob, room := three(t)
	second := s.device(t, "bob", "second")
	bob.enrol(second)
	second.pull(room)
	_, err := bob.e.Revoke(t.Context(), bob.v, second.e.DeviceID())
	must(t, err)
	alice.receive(room)
	h, _ := alice.epoch(room)
	n := *h
	n.Epoch, n.Prev = h.Epoch+1, p2hash(alice, room)
	alice.wantRefusedEpoch(s, room, second, &n, "has been revoked by bob")
}

func TestStatementsOutOfPlace(t *testing.T) {
	s, alice, bob, room := three(t)
	carol := s.person(t, "carol")
	s.person(t, "mallory")
	r := s.rooms[room]
	refused := func(m chatproto.Message, reason string) {
		t.Helper()
		m.Seq = uint64(len(r.log)) + 1
		m.Room = room
		o := alice.try(&m)
		alice.warn = o.Warnings
		if o.Status != Refused {
			t.Fatalf("%s: %+v", reason, o)
		}
		alice.wantWarning(reason)
	}
	alice.pull(room)
	// An invitation of carol shown as one of mallory, by another, under another id.
	id := newID()
	proof, err := bob.e.InviteProof(t.Context(), bob.v, room, id, "carol")
	must(t, err)
	good := chatproto.Message{ID: id, Kind: chatproto.KindInvite, From: "bob", Target: "carol", Body: proof}
	for _, change := range []func(m *chatproto.Message){
		func(m *chatproto.Message) { m.Target = "mallory" },
		func(m *chatproto.Message) { m.From = "alice" },
		func(m *chatproto.Message) { m.ID = newID() },
		func(m *chatproto.Message) { m.Kind = chatproto.KindRemove },
	} {
		m := good
		change(&m)
		refused(m, "about something else")
	}
	// The same in all but the signature, and by another member's device.
	forged := good
	forged.Body = slices.Clone(good.Body)
	forged.Body[len(forged.Body)-10] ^= 1
	refused(forged, "the signature is wrong")
	st := new(statement)
	_, err = unwrap(good.Body, maxStatement, st)
	must(t, err)
	forged.Body, _, err = sign(domainStatement, carol.e.device.sign, nil, st)
	must(t, err)
	refused(forged, "the signature is wrong")
	// A statement that names another room.
	st = &statement{Room: hash{9}, Seen: hash{8}, Action: chatproto.KindLeave, ID: id}
	must(t, bob.e.transact(func(w *work) (err error) { proof, err = bob.e.state(w, st); return err }))
	refused(chatproto.Message{ID: id, Kind: chatproto.KindLeave, From: "bob", Body: proof}, "about another room")
	// One that bob made before he was put out and came back.
	alice.remove(room, "bob")
	alice.invite(room, "bob")
	alice.pull(room)
	refused(good, "older than bob's membership")
	// A removal of carol made before she came back.
	alice.invite(room, "carol")
	old := newID()
	spare, err := alice.e.RemoveProof(t.Context(), alice.v, room, old, "carol")
	must(t, err)
	alice.remove(room, "carol")
	alice.invite(room, "carol")
	alice.pull(room)
	refused(chatproto.Message{ID: old, Kind: chatproto.KindRemove, From: "alice", Target: "carol", Body: spare}, "older than carol's membership")
}

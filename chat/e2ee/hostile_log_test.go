package e2ee

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Nothing that is signed can be changed in any byte.
func TestEveryByteCounts(t *testing.T) {
	s, alice, bob, room := three(t)
	fresh := func() *person { // knows nothing yet
		p := *bob
		p.kv = newKV()
		for _, key := range []string{keyDevice, keySeed, keyPin("bob"), keyList("bob", 1)} {
			p.kv.m[key] = bob.kv.m[key]
		}
		e, err := Open(p.kv, "bob", Options{})
		must(t, err)
		p.e, p.at, p.warn, p.got = e, map[chatproto.RoomID]uint64{}, nil, nil
		return &p
	}
	r := s.rooms[room]
	flip := func(what string, b []byte, check func(p *person) bool) {
		t.Helper()
		for i := range b {
			b[i] ^= 1 << (i % 8)
			p := fresh()
			p.receiveAtOnce(room)
			if !check(p) {
				t.Fatalf("byte %d of %s: got %q, warnings %q", i, what, p.got, p.warn)
			}
			b[i] ^= 1 << (i % 8)
		}
		p := fresh()
		p.receive(room)
		want(t, p.got, "alice: one")
		p.wantNoWarnings()
	}
	nothing := func(p *person) bool { return len(p.got) == 0 && len(p.warn) > 0 }
	flip("the statement that makes the room", r.log[0].Body, nothing)
	flip("an invitation", r.log[1].Body, nothing)
	flip("a header", r.headers[0], nothing)
	flip("a list", s.lists["alice"][0], nothing)
	// The box is not signed: the key must fit the header.
	flip("a box", r.boxes[1][bob.e.DeviceID()], func(p *person) bool {
		return slices.Equal(p.got, []string{"alice: one"}) // by the recovery box
	})
	_ = alice
}

// receiveAtOnce is receive in one page.
func (p *person) receiveAtOnce(room chatproto.RoomID) {
	p.t.Helper()
	page := p.v.rooms[room].kept()
	all, err := p.e.ReceiveAll(p.t.Context(), p.v, page)
	must(p.t, err)
	for i, o := range all {
		p.warn = append(p.warn, o.Warnings...)
		if o.Kind == chatproto.KindText {
			p.got = append(p.got, page[i].From+": "+o.Text)
		}
	}
}

// The server shows another identity of a user to one of the members.
func TestHostileServerShowsTwoIdentities(t *testing.T) {
	s, alice, bob, room := three(t)
	s.person(t, "carol")
	fake := newServer().device(t, "carol", "fake")
	must(t, fake.e.Ready(t.Context(), fake.v))
	bob.v.lists = func(user string, l [][]byte) [][]byte {
		if user == "carol" {
			return fake.v.server.lists["carol"]
		}
		return l
	}
	must(t, bob.e.transact(func(w *work) error {
		_, err := bob.e.sync(t.Context(), w, bob.v, "carol")
		return err
	}))
	alice.invite(room, "carol")
	bob.pull(room)
	bob.wantWarning("under another identity")
}

func TestHostileServerForgesDeparture(t *testing.T) {
	s, alice, bob, room := three(t)
	s.rooms[room].append(chatproto.Message{ID: newID(), Kind: chatproto.KindRemove, From: "alice", Target: "bob"})
	alice.pull(room)
	alice.wantWarning("bob was put out, which alice has not proven")
	bob.pull(room)
	bob.wantWarning("bob was put out")
	_ = bob
}

// The server claims that entries are gone, so that members are taken anew from an
// old key.
func TestHostileServerFakesGap(t *testing.T) {
	s, alice, bob, room := three(t)
	carol := s.person(t, "carol")
	alice.invite(room, "carol")
	alice.say(room, "hi carol")
	carol.pull(room)
	old := s.rooms[room].log[3] // alice's "one", under the first key
	recent := s.rooms[room].log[len(s.rooms[room].log)-1]
	alice.remove(room, "bob")
	carol.pull(room)
	alice.pull(room)
	r := s.rooms[room]
	for i, m := range []chatproto.Message{old, recent} {
		last, err := carol.e.Last(room)
		must(t, err)
		m.Seq = last + 5
		r.first = m.Seq
		r.log = append(r.log, make([]chatproto.Message, int(m.Seq)-len(r.log))...)
		r.log[m.Seq-1] = m
		carol.warn = nil
		got := carol.receive(room)
		if len(got) != 1 || got[0].Status != Refused {
			t.Fatalf("%d: %+v", i, got)
		}
		carol.wantWarning("no longer kept by the server, or withheld")
	}
	carol.say(room, "without bob")
	h, _ := carol.epoch(room)
	if h.recipient("bob") != nil {
		t.Fatal("bob is back")
	}
	_ = bob
}

// A number of an epoch that cannot be is not taken over.
func TestHostileServerCountsEpochsWrong(t *testing.T) {
	s, alice, bob, room := three(t)
	for _, n := range []uint64{0, 1, 3, 1 << 63, 1<<64 - 1} {
		s.rooms[room].append(chatproto.Message{ID: newID(), Kind: chatproto.KindKeys, From: "alice", Body: binary.LittleEndian.AppendUint64(nil, n)})
	}
	for i, o := range bob.receive(room) {
		if o.Status != Refused {
			t.Fatalf("%d: %+v", i, o)
		}
	}
	bob.say(room, "on")
	want(t, alice.pull(room), "on")
}

// Garbage of any kind is refused, and does not stop what follows.
func TestGarbageDoesNotStopTheRoom(t *testing.T) {
	s, alice, bob, room := three(t)
	r := s.rooms[room]
	for kind := chatproto.KindText; kind <= chatproto.KindKeys; kind++ {
		for _, body := range [][]byte{nil, {1}, bytes.Repeat([]byte{0xff}, 200), make([]byte, 8)} {
			r.append(chatproto.Message{ID: newID(), Kind: kind, From: "bob", Target: "nobody", Body: body})
		}
	}
	if got := bob.pull(room); len(got) != 0 {
		t.Fatalf("%q", got)
	}
	alice.pull(room)
	for _, w := range bob.warn {
		if strings.Contains(w, "%!") {
			t.Fatal(w)
		}
	}
	_ = alice
}

package e2ee

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// enrol lets p enrol another device of its user by code.
func (p *person) enrol(other *person) {
	p.t.Helper()
	if err := other.e.Ready(p.t.Context(), other.v); !errors.Is(err, ErrNotEnrolled) {
		p.t.Fatalf("a new device: %v", err)
	}
	code, err := other.e.Request(p.t.Context(), other.v)
	must(p.t, err)
	d, err := p.e.Enrol(p.t.Context(), p.v, strings.ToLower(strings.ReplaceAll(code, "-", " ")))
	must(p.t, err)
	if d.ID != other.e.DeviceID() || d.Holder || !d.Revoked.IsZero() {
		p.t.Fatalf("enrolled: %+v", d)
	}
	must(p.t, other.e.Ready(p.t.Context(), other.v))
}

func TestEnrolByCode(t *testing.T) {
	s, alice, bob, room := three(t)
	second := s.device(t, "bob", "bob's second")
	if _, err := second.e.Receive(t.Context(), second.v, &s.rooms[room].log[0]); !errors.Is(err, ErrNotEnrolled) {
		t.Fatalf("receives before it is enrolled: %v", err)
	}
	bob.enrol(second)
	want(t, second.pull(room), "one") // the past, too
	alice.say(room, "two")
	want(t, second.pull(room), "two")
	second.say(room, "three")
	want(t, alice.pull(room), "two", "three")
	want(t, bob.pull(room), "two", "three")
	for _, p := range []*person{alice, bob, second} {
		p.wantNoWarnings()
	}
	changes, err := alice.e.Changes()
	must(t, err)
	if len(changes) != 1 || changes[0].User != "bob" || !strings.Contains(changes[0].Text, "new device: bob's second") {
		t.Fatalf("notices: %+v", changes)
	}
	if changes, err = alice.e.Changes(); err != nil || len(changes) != 0 {
		t.Fatalf("notices come twice: %v, %v", changes, err)
	}
	a, err := bob.e.Fingerprint("bob")
	must(t, err)
	if b, err := second.e.Fingerprint("bob"); err != nil || a != b {
		t.Fatalf("%q, %q, %v", a, b, err)
	}
	if len(s.mails["bob"]) != 0 {
		t.Fatalf("%d letters remain", len(s.mails["bob"]))
	}
	third := s.device(t, "bob", "third")
	code, err := third.e.Request(t.Context(), third.v)
	must(t, err)
	if _, err := second.e.Enrol(t.Context(), second.v, code); !errors.Is(err, ErrNotHolder) {
		t.Fatalf("a device that holds no recovery key enrols: %v", err)
	}
}

func TestEnrolWrongCode(t *testing.T) {
	s, _, bob, _ := three(t)
	second := s.device(t, "bob", "second")
	code, err := second.e.Request(t.Context(), second.v)
	must(t, err)
	other := "A"
	if code[0] == 'A' {
		other = "B"
	}
	for _, wrong := range []string{other + code[1:], code[:len(code)-1], code + "A", "", "!", strings.Repeat("A", 500)} {
		if _, err := bob.e.Enrol(t.Context(), bob.v, wrong); !errors.Is(err, ErrCode) {
			t.Fatalf("%q: %v", wrong, err)
		}
	}
	if len(s.lists["bob"]) != 1 {
		t.Fatal("a wrong code has changed the list")
	}
	// A further request voids the code before.
	if _, err := second.e.Request(t.Context(), second.v); err != nil {
		t.Fatal(err)
	}
	if _, err := bob.e.Enrol(t.Context(), bob.v, code); err != nil {
		t.Fatal(err) // the letter is still there
	}
	if err := second.e.Ready(t.Context(), second.v); !errors.Is(err, ErrNotEnrolled) {
		t.Fatalf("an answer under a code that is void: %v", err)
	}
}

func TestHostileServerSwapsKeysInLetter(t *testing.T) {
	s, _, bob, _ := three(t)
	second := s.device(t, "bob", "second")
	code, err := second.e.Request(t.Context(), second.v)
	must(t, err)
	letter := &s.mails["bob"][0]
	good := slices.Clone(letter.Body)
	for i := range good {
		letter.Body = slices.Clone(good)
		letter.Body[i] ^= 1 << (i % 8)
		if _, err := bob.e.Enrol(t.Context(), bob.v, code); !errors.Is(err, ErrCode) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	if len(s.lists["bob"]) != 1 {
		t.Fatal("a forged letter has changed the list")
	}
}

// The server answers the new device itself, and shows it another user's worth of
// lists.
func TestHostileServerAnswersEnrolment(t *testing.T) {
	s, _, bob, _ := three(t)
	second := s.device(t, "bob", "second")
	code, err := second.e.Request(t.Context(), second.v)
	must(t, err)
	evil := newServer()
	fake := evil.person(t, "bob") // an identity of the server's, under bob's name
	must(t, fake.e.addDevice(t.Context(), fake.v, second.e.self(false)))
	second.v.lists = func(string, [][]byte) [][]byte { return evil.lists["bob"] }
	guess, _, err := newCode(fake.e.random)
	must(t, err)
	_, err = fake.e.postAnswer(t.Context(), fake.v, guess, second.e.DeviceID())
	must(t, err)
	s.mails["bob"] = append(s.mails["bob"], evil.mails["bob"]...)
	if err := second.e.Ready(t.Context(), second.v); !errors.Is(err, ErrNotEnrolled) {
		t.Fatalf("the server's answer is taken: %v", err)
	}
	// The true answer, but the false lists.
	_, err = bob.e.Enrol(t.Context(), bob.v, code)
	must(t, err)
	if err := second.e.Ready(t.Context(), second.v); !isRefusal(err) {
		t.Fatalf("false lists are taken: %v", err)
	}
	// The true answer with a byte changed.
	second.v.lists = nil
	letter := &s.mails["bob"][len(s.mails["bob"])-1]
	good := slices.Clone(letter.Body)
	for i := range good {
		letter.Body = slices.Clone(good)
		letter.Body[i] ^= 0x10
		if err := second.e.Ready(t.Context(), second.v); !errors.Is(err, ErrNotEnrolled) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	letter.Body = good
	must(t, second.e.Ready(t.Context(), second.v))
}

func TestRecoveryKey(t *testing.T) {
	s, alice, bob, room := three(t)
	printed, err := bob.e.Recovery()
	must(t, err)
	lone := s.device(t, "bob", "after the fire")
	for i, c := range printed {
		if c == '-' {
			continue
		}
		typo := []byte(printed)
		if typo[i] = 'A'; c == 'A' {
			typo[i] = 'C'
		}
		if err := lone.e.Recover(t.Context(), lone.v, string(typo)); !errors.Is(err, ErrRecovery) {
			t.Fatalf("typo in %d: %v", i, err)
		}
	}
	other, err := alice.e.Recovery()
	must(t, err)
	if err := lone.e.Recover(t.Context(), lone.v, other); !errors.Is(err, ErrRecoveryOld) {
		t.Fatalf("alice's key for bob: %v", err)
	}
	must(t, lone.e.Recover(t.Context(), lone.v, strings.ToLower(printed)))
	must(t, lone.e.Ready(t.Context(), lone.v))
	want(t, lone.pull(room), "one") // the past, by the recovery box
	lone.say(room, "I am back")
	want(t, alice.pull(room), "I am back")
	alice.wantNoWarnings()
	// It is a holder now, and the old device can be revoked from it.
	rotated, err := lone.e.Revoke(t.Context(), lone.v, bob.e.DeviceID())
	must(t, err)
	if !rotated {
		t.Fatal("a device that held the recovery key is gone, and the key remains")
	}
}

func TestRevokedDeviceCannotReadOn(t *testing.T) {
	s, alice, bob, room := three(t)
	second := s.device(t, "bob", "second")
	bob.enrol(second)
	second.pull(room)
	second.say(room, "from the second")
	rotated, err := bob.e.Revoke(t.Context(), bob.v, second.e.DeviceID())
	must(t, err)
	if rotated {
		t.Fatal("the identity changed for nothing")
	}
	must(t, alice.e.Refresh(t.Context(), alice.v, "bob"))
	alice.say(room, "after it was stolen")
	want(t, bob.pull(room), "from the second", "after it was stolen")
	want(t, alice.pull(room), "from the second", "after it was stolen")
	alice.wantNoWarnings() // the message from before stays good
	if err := second.e.Ready(t.Context(), second.v); !errors.Is(err, ErrRevoked) {
		t.Fatalf("a revoked device is ready: %v", err)
	}
	// A thief who keeps the program from noticing has no key.
	thief := newThief(t, s, second, 2)
	want(t, thief.pull(room), "one", "from the second")
	keys := second.e.device
	if len(s.rooms[room].boxes[3]) == 0 {
		t.Fatal("no third epoch")
	}
	for id, box := range s.rooms[room].boxes[3] {
		if _, ok := openKey(box, keys.boxPub, keys.box); ok {
			t.Fatalf("the box of %v opens with a revoked device's key", id)
		}
	}
	// What it says under the old key, nobody takes.
	forged := thief.sealAs(room, 2, "I am bob")
	s.rooms[room].append(forged)
	alice.receive(room)
	alice.wantWarning("present key")
	if _, err := bob.e.Revoke(t.Context(), bob.v, chatproto.DeviceID{1}); !errors.Is(err, ErrNoSuch) {
		t.Fatal(err)
	}
	if _, err := bob.e.Revoke(t.Context(), bob.v, bob.e.DeviceID()); !errors.Is(err, ErrNoSuch) {
		t.Fatal(err)
	}
}

// newThief is a device whose program sees an old list of its own user for ever.
func newThief(t *testing.T, s *server, from *person, version int) *person {
	t.Helper()
	kv := newKV()
	for key, v := range from.kv.m {
		if key == keyDevice {
			kv.m[key] = v
		}
	}
	e, err := Open(kv, from.user, Options{})
	must(t, err)
	v := s.as(from.user)
	v.lists = func(user string, l [][]byte) [][]byte {
		if user == from.user {
			return l[:version]
		}
		return l
	}
	p := &person{t: t, user: from.user, e: e, kv: kv, v: v, at: map[chatproto.RoomID]uint64{}}
	must(t, e.transact(func(w *work) error {
		_, err := e.pinNew(w, from.user, s.lists[from.user][:version])
		return err
	}))
	return p
}

// sealAs seals with any epoch whose key the device has.
func (p *person) sealAs(room chatproto.RoomID, epoch uint64, text string) chatproto.Message {
	p.t.Helper()
	id := newID()
	var m chatproto.Message
	must(p.t, p.e.transact(func(w *work) error {
		pass, err := p.e.newPass(p.t.Context(), w, p.v, room)
		if err != nil {
			return err
		}
		body, err := pass.seal(&sealedText{Epoch: epoch, Device: p.e.DeviceID(), Counter: 50}, id, &plainText{chatproto.KindText, text})
		m = chatproto.Message{ID: id, Kind: chatproto.KindSealed, From: p.user, Body: body}
		return err
	}))
	return m
}

// Between the revocation and the next key, a message from the device is shown
// with a warning.
func TestMessageFromRevokedDeviceIsMarked(t *testing.T) {
	s, alice, bob, room := three(t)
	second := s.device(t, "bob", "second")
	bob.enrol(second)
	second.pull(room)
	second.say(room, "hello")
	alice.pull(room)
	alice.wantNoWarnings()
	h, _ := alice.epoch(room)
	stolen := second.sealAs(room, h.Epoch, "from the thief")
	bob.v.down = func(op string) error {
		if op == "putkeys" {
			return errors.New("the server lets no new key through")
		}
		return nil
	}
	if _, err := bob.e.Revoke(t.Context(), bob.v, second.e.DeviceID()); err == nil {
		t.Fatal("no error")
	}
	must(t, alice.e.Refresh(t.Context(), alice.v, "bob"))
	s.rooms[room].append(stolen)
	alice.pull(room)
	alice.wantWarning("from a device that bob has revoked")

	// Nor does anybody come in by a device that is revoked.
	s.person(t, "mallory")
	thief := newThief(t, s, second, 2)
	thief.receive(room)
	thief.invite(room, "mallory")
	alice.warn = nil
	alice.pull(room)
	alice.wantWarning("from a device that bob has revoked")
	alice.say(room, "not for mallory")
	h, _ = alice.epoch(room)
	if h.recipient("mallory") != nil {
		t.Fatal("mallory gets the key")
	}
}

func TestIdentityRotation(t *testing.T) {
	s, alice, bob, room := three(t)
	second := s.device(t, "bob", "second")
	bob.enrol(second)
	second.pull(room)
	must(t, alice.e.Verify("bob"))
	before, err := alice.e.SafetyNumber("bob")
	must(t, err)
	if mine, err := bob.e.SafetyNumber("alice"); err == nil && mine != before {
		t.Fatalf("%q and %q", before, mine)
	}
	old, err := bob.e.Recovery()
	must(t, err)
	must(t, second.e.Recover(t.Context(), second.v, old)) // a second holder
	// The answer to the publication is lost; the second try ends it.
	second.v.down = func(op string) error {
		if op == "putdevices-lost" {
			return errors.New("connection lost")
		}
		return nil
	}
	if _, err := second.e.Revoke(t.Context(), second.v, bob.e.DeviceID()); err == nil {
		t.Fatal("no error")
	}
	second.v.down = nil
	rotated, err := second.e.Revoke(t.Context(), second.v, bob.e.DeviceID())
	if err != nil || !rotated {
		t.Fatalf("%v, %v", rotated, err)
	}
	must(t, alice.e.Refresh(t.Context(), alice.v, "bob"))
	changes, err := alice.e.Changes()
	must(t, err)
	if !slices.ContainsFunc(changes, func(c Change) bool { return strings.Contains(c.Text, "no longer verified") }) {
		t.Fatalf("notices: %+v", changes)
	}
	if ok, err := alice.e.Verified("bob"); ok || err != nil {
		t.Fatalf("still verified: %v, %v", ok, err)
	}
	if after, err := alice.e.SafetyNumber("bob"); err != nil || after == before {
		t.Fatalf("the safety number stays: %v", err)
	}
	alice.say(room, "to the new bob")
	second.warn = nil
	want(t, second.pull(room), "to the new bob")
	second.wantNoWarnings()
	alice.pull(room)
	alice.wantNoWarnings()

	// The old recovery key is worth nothing any more, the new one opens all.
	lone := s.device(t, "bob", "third")
	if err := lone.e.Recover(t.Context(), lone.v, old); !errors.Is(err, ErrRecoveryOld) {
		t.Fatalf("the old recovery key: %v", err)
	}
	printed, err := second.e.Recovery()
	must(t, err)
	must(t, lone.e.Recover(t.Context(), lone.v, printed))
	want(t, lone.pull(room), "one", "to the new bob")
	if _, err := bob.e.Recovery(); err == nil {
		if err := bob.e.Ready(t.Context(), bob.v); !errors.Is(err, ErrRevoked) {
			t.Fatalf("the old holder: %v", err)
		}
	}
	if _, err := bob.e.Recovery(); !errors.Is(err, ErrRevoked) {
		t.Fatalf("the old holder prints: %v", err)
	}
}

func TestFingerprints(t *testing.T) {
	s, alice, bob, _ := three(t)
	a, err := alice.e.Fingerprint("bob")
	must(t, err)
	if len(strings.Fields(a)) != 12 || len(a) != 71 {
		t.Fatalf("%q", a)
	}
	if b, err := bob.e.Fingerprint("bob"); err != nil || a != b {
		t.Fatalf("%q, %q, %v", a, b, err)
	}
	must(t, alice.e.Verify("bob"))
	if ok, err := alice.e.Verified("bob"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	carol := s.person(t, "carol") // shares no room
	must(t, carol.e.Meet(t.Context(), carol.v, "bob"))
	if b, err := carol.e.Fingerprint("bob"); err != nil || a != b {
		t.Fatalf("%q, %q, %v", a, b, err)
	}
	if err := carol.e.Meet(t.Context(), carol.v, "nobody"); !errors.Is(err, ErrNoDevices) {
		t.Fatal(err)
	}
	if _, err := alice.e.Fingerprint("nobody"); !errors.Is(err, ErrUnknownUser) {
		t.Fatal(err)
	}
	if _, err := s.device(t, "x", "x").e.SafetyNumber("alice"); !errors.Is(err, ErrUnknownUser) {
		t.Fatal(err)
	}
	devices, err := alice.e.Devices("alice")
	if err != nil || len(devices) != 1 || !devices[0].This || !devices[0].Holder || devices[0].Name != "alice's first" {
		t.Fatalf("%+v, %v", devices, err)
	}
}

// Two devices of a new user come at once: one of them is the first.
func TestFirstDeviceRace(t *testing.T) {
	s := newServer()
	one, two := s.device(t, "alice", "one"), s.device(t, "alice", "two")
	one.v.down = func(op string) error {
		if op == "putdevices" {
			one.v.down = nil
			s.mu.Unlock()
			defer s.mu.Lock()
			return two.e.Ready(t.Context(), two.v)
		}
		return nil
	}
	if err := one.e.Ready(t.Context(), one.v); !errors.Is(err, ErrNotEnrolled) {
		t.Fatalf("the loser: %v", err)
	}
	two.enrol(one)
	if _, err := one.e.Recovery(); !errors.Is(err, ErrNotHolder) {
		t.Fatalf("the loser's seed stands for something: %v", err)
	}
}

package e2ee

import (
	"bytes"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// decoders make every message that comes from others or from the KV.
var decoders = []func() rpc.Message{
	func() rpc.Message { return &signed{max: chatproto.MaxHeader} },
	func() rpc.Message { return new(deviceList) },
	func() rpc.Message { return new(statement) },
	func() rpc.Message { return new(header) },
	func() rpc.Message { return new(sealedText) },
	func() rpc.Message { return new(plainText) },
	func() rpc.Message { return new(request) },
	func() rpc.Message { return new(answer) },
	func() rpc.Message { return new(pin) },
	func() rpc.Message { return new(roomState) },
	func() rpc.Message { return new(members) },
	func() rpc.Message { return new(entryRecord) },
	func() rpc.Message { return new(epochRecord) },
	func() rpc.Message { return new(ownRecord) },
	func() rpc.Message { return new(notices) },
}

func seeds() []rpc.Message {
	id := chatproto.ID{1}
	dev := listDevice{Name: "laptop", Sign: hash{1}, Box: hash{2}, Added: 3}
	return []rpc.Message{
		&signed{Body: []byte("body"), Old: make([]byte, 64), max: 4},
		&deviceList{User: "alice", Version: 1, Identity: hash{3}, Devices: []listDevice{dev}},
		&statement{Seen: hash{1}, Action: chatproto.KindInvite, Actor: "alice", Target: "bob", Identity: hash{2}, ID: id},
		&header{Epoch: 1, Maker: "bob", Recipients: []recipient{{"alice", 1, hash{1}}, {"bob", 2, hash{2}}}},
		&sealedText{Epoch: 1, Counter: 2, GivenUp: 1, PrevSeq: 3, Prev: hash{4}, Text: []byte("text")},
		&plainText{chatproto.KindText, "hello"},
		&request{Name: "phone", Sign: hash{1}},
		&answer{Identity: hash{1}, Version: 2},
		&pin{Version: 1, Identities: []hash{{1}}},
		&roomState{Name: "plans", Last: 7, Left: []string{"bob"}},
		&members{List: []member{{User: "alice", Since: 1, By: "alice"}}},
		&entryRecord{Status: Accepted, Warnings: []string{"careful"}},
		&epochRecord{Header: []byte("header")},
		&ownRecord{Last: 3, GivenUp: []uint64{2}},
		&notices{List: []Change{{"bob", "new device"}}},
	}
}

// Whatever decodes has exactly one encoding.
func FuzzDecoders(f *testing.F) {
	for i, m := range seeds() {
		b, err := encode(m)
		if err != nil || len(b) == 0 {
			f.Fatalf("seed %d: %v", i, err)
		}
		if err := rpc.Decode(b, decoders[i]()); err != nil {
			f.Fatalf("seed %d does not decode: %v", i, err)
		}
		f.Add(uint8(i), b)
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		m := decoders[int(kind)%len(decoders)]()
		if rpc.Decode(b, m) != nil {
			return
		}
		again, err := rpc.Encode(nil, m)
		if err != nil || !bytes.Equal(b, again) {
			t.Fatalf("%T: %x encodes as %x, %v", m, b, again, err)
		}
	})
}

// Whatever the server sends as a list of devices is refused or is the user's.
func FuzzList(f *testing.F) {
	s := newServer()
	alice := s.person(f, "alice")
	second := s.device(f, "alice", "second")
	alice.enrol(second)
	first, next := s.lists["alice"][0], s.lists["alice"][1]
	if len(first) == 0 || len(next) == 0 {
		f.Fatal("no seed")
	}
	f.Add(first)
	f.Add(next)
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, h, err := verifyList("alice", nil, hash{}, first)
		must(t, err)
		if got, _, err := verifyList("alice", l, h, raw); err == nil && !bytes.Equal(raw, next) {
			t.Fatalf("a forged list is taken: %+v", got)
		}
	})
}

// Whatever entry the server makes up: refused with a warning, no error, no text.
func FuzzReceive(f *testing.F) {
	s := newServer()
	alice, bob := s.person(f, "alice"), s.person(f, "bob")
	room := alice.create("plans")
	alice.invite(room, "bob")
	alice.say(room, "one")
	bob.pull(room)
	alice.say(room, "two")
	log := s.rooms[room].kept()
	genuine := log[len(log)-1]
	for i := range log {
		if len(log[i].Body) == 0 {
			f.Fatal("no seed")
		}
		f.Add(log[i].Kind, log[i].Body)
	}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		kind = max(1, kind%(chatproto.KindKeys+1))
		m := genuine
		m.Kind, m.Body = kind, body
		bob.t = t
		bob.v = s.as("bob")
		o := bob.try(&m)
		if kind == chatproto.KindSealed && bytes.Equal(body, genuine.Body) {
			if o.Text != "two" {
				t.Fatalf("genuine: %+v", o)
			}
			return
		}
		quiet := kind == chatproto.KindKeys && len(body) == 8 // an epoch that is known to be no news
		if o.Text != "" || o.Status != Refused && !quiet || len(o.Warnings) == 0 && !quiet {
			t.Fatalf("%+v", o)
		}
	})
}

func FuzzCodes(f *testing.F) {
	_, code, err := newCode(bytes.NewReader(make([]byte, codeBytes)))
	if err != nil || len(code) != 24 {
		f.Fatal(code, err)
	}
	printed := printSeed(hash{1, 2, 3})
	if len(printed) != 69 {
		f.Fatal(printed)
	}
	f.Add(code)
	f.Add(printed)
	f.Add("8O1I 0000")
	f.Fuzz(func(t *testing.T, s string) {
		if seed, err := parseSeed(s); err == nil {
			if again, err := parseSeed(printSeed(seed)); err != nil || again != seed {
				t.Fatalf("%q", s)
			}
		}
		if b, err := parseCode(s); err == nil && len(b) != codeBytes {
			t.Fatalf("%q", s)
		}
	})
}

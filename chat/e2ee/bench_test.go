package e2ee

import (
	"fmt"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// BenchmarkReceive takes in pages of 100 messages.
func BenchmarkReceive(b *testing.B) {
	s := newServer()
	alice, bob := s.person(b, "alice"), s.person(b, "bob")
	room := alice.create("plans")
	alice.invite(room, "bob")
	bob.pull(room)
	for i := range b.N {
		alice.say(room, fmt.Sprint(i))
	}
	log := s.rooms[room].kept()[2:]
	b.ResetTimer()
	for len(log) > 0 {
		n := min(100, len(log))
		if _, err := bob.e.ReceiveAll(b.Context(), bob.v, log[:n]); err != nil {
			b.Fatal(err)
		}
		log = log[n:]
	}
}

func BenchmarkSeal(b *testing.B) {
	s := newServer()
	alice := s.person(b, "alice")
	room := alice.create("plans")
	for b.Loop() {
		id := newID()
		if _, _, err := alice.e.Seal(b.Context(), alice.v, room, id, chatproto.KindText, "hello"); err != nil {
			b.Fatal(err)
		}
		if err := alice.e.Said(room, id); err != nil {
			b.Fatal(err)
		}
	}
}

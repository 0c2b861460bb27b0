package chat

import (
	"errors"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/local"
)

// TestSealedStaysSealed: a server that calls a sealed room another kind, later or
// from the start of a session, gets nothing said there in plain words.
func TestSealedStaysSealed(t *testing.T) {
	d := newDouble(t, 2, Config{State: t.TempDir(), NoEvents: true})
	defer func() {
		d.client.cancel()
		d.client.work.Wait()
		d.client.sealed.close()
	}()
	if err := d.client.sealed.state.Keep(local.Entry{Room: 1, Seq: 1, Kind: chatproto.KindText}); err != nil {
		t.Fatal(err)
	}
	d.serve()
	plain := state(3)
	d.mustDeliver(1, &plain, &chatproto.Notice{})
	room, err := d.client.Room("room")
	if err != nil {
		t.Fatal(err)
	}
	if info := room.Info(); info.Kind != chatproto.RoomSealed {
		t.Errorf("%+v", info)
	}
	if _, err := room.Send("only for members"); err != nil {
		t.Fatal(err)
	}
	// The double knows no keys: the message cannot be sealed, and is refused.
	if err := d.client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(d.said) != 0 {
		t.Errorf("the server was told %q", d.said[0].Body)
	}
}

// TestNameOfASealedRoom: another room under the name of a sealed one is warned
// of.
func TestNameOfASealedRoom(t *testing.T) {
	d := newDouble(t, 2, Config{State: t.TempDir()})
	d.client.sealed.pinName("Room")
	d.serve()
	d.mustDeliver(1, message(3))
	d.expect("Warning", "m3")
	d.client.cancel()
	d.client.work.Wait()
	if err := d.client.sealed.close(); err != nil {
		t.Error(err)
	}
}

// TestSealedNeedsState: without keys nothing goes into a sealed room.
func TestSealedNeedsState(t *testing.T) {
	d := newDouble(t, 2, Config{NoEvents: true})
	d.snapshot.Rooms[0].Info.Kind = chatproto.RoomSealed
	d.serve()
	room, err := d.client.Room("room")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := room.Send("x"); !errors.Is(err, ErrNoState) {
		t.Error(err)
	}
	if err := room.SetTopic(t.Context(), "x"); !errors.Is(err, ErrNoState) {
		t.Error(err)
	}
	if err := room.Invite(t.Context(), "bob"); !errors.Is(err, ErrNoState) {
		t.Error(err)
	}
}

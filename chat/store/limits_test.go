package store

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

func TestNamesAndTexts(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	s := c.s
	for _, name := range []string{"", "a b", "-x", "x\n", "a\xff", strings.Repeat("x", chatproto.MaxRoomName+1)} {
		_, err := s.Create(background, "alice", &chatproto.CreateRoomReq{ID: c.next(), Kind: chatproto.RoomPublic, Name: name})
		c.want(chatproto.ErrName, err)
	}
	for _, kind := range []uint8{0, chatproto.RoomDirect, 9} {
		_, err := s.Create(background, "alice", &chatproto.CreateRoomReq{ID: c.next(), Kind: kind, Name: "x"})
		c.want(chatproto.ErrNotAllowed, err)
	}
	room := c.create("alice", "Den", chatproto.RoomPublic)
	for _, name := range []string{"den", "DEN", "Den", "lobby"} {
		_, err := s.Create(background, "bob", &chatproto.CreateRoomReq{ID: c.next(), Kind: chatproto.RoomPrivate, Name: name})
		c.want(chatproto.ErrExists, err)
	}
	for _, bad := range []string{"", "a\x00", "a\xff", strings.Repeat("x", chatproto.MaxText+1)} {
		_, err := s.Say(background, "alice", room, c.text(bad))
		c.want(chatproto.ErrText, err)
	}
	for _, topic := range []string{"a\x00", "a\xff", strings.Repeat("x", chatproto.MaxTopic+1)} {
		c.want(chatproto.ErrText, s.SetTopic(background, "alice", room, &chatproto.SetTopicReq{ID: c.next(), Topic: topic}))
		_, err := s.Create(background, "alice", &chatproto.CreateRoomReq{ID: c.next(), Kind: chatproto.RoomPublic, Name: "x", Topic: topic})
		c.want(chatproto.ErrText, err)
	}
	for _, kind := range []uint8{0, chatproto.KindCreate, chatproto.KindKeys, 99} {
		_, err := s.Say(background, "alice", room, &chatproto.SayReq{ID: c.next(), Kind: kind, Body: []byte("x")})
		c.want(chatproto.ErrNotAllowed, err)
	}
	c.want(chatproto.ErrText, s.Invite(background, "alice", c.create("alice", "vault", chatproto.RoomSealed),
		&chatproto.MemberReq{ID: c.next(), User: "bob", Proof: make([]byte, chatproto.MaxProof+1)}))
	if log := c.log("alice", room); len(log) != 1 {
		t.Errorf("refused, and yet there are %d entries", len(log))
	}
	c.say("alice", room, strings.Repeat("x", chatproto.MaxText))
}

// Limits hold for who comes of his own and for who is brought, and what goes
// makes room.
func TestFull(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	s := c.s
	var rooms []chatproto.RoomID
	for i := range chatproto.MaxRooms {
		rooms = append(rooms, c.create("alice", fmt.Sprint("r", i), chatproto.RoomPrivate))
	}
	full := func(what string) {
		t.Helper()
		_, err := s.Create(background, "alice", &chatproto.CreateRoomReq{ID: c.next(), Kind: chatproto.RoomPublic, Name: "more"})
		c.want(chatproto.ErrFull, err)
		if s.IsMember("alice", rooms[0]) {
			_, err = s.Join(background, "alice", &chatproto.JoinRoomReq{ID: c.next(), Name: LobbyName})
			c.want(chatproto.ErrFull, err)
			_, err = s.Direct(background, "bob", "alice")
			c.want(chatproto.ErrFull, err)
		}
	}
	full("a member of as many as can be")
	c.invite("alice", rooms[0], "bob")
	c.leave("alice", rooms[0])
	full("the maker of as many as can be")
	c.join("alice", LobbyName)
	_, err := s.Direct(background, "bob", "alice")
	c.want(chatproto.ErrFull, err)
	c.leave("bob", rooms[0]) // now it is nobody's
	c.leave("alice", 1)
	c.create("alice", "more", chatproto.RoomPublic)

	crowd := c.create("bob", "crowd", chatproto.RoomPublic)
	c.ok(s.do(background, 0, func(b *batch) error {
		r := s.own.rooms[crowd].clone()
		by := make(map[string]*member)
		for i := range chatproto.MaxMembers {
			by[userName(i)] = &member{since: uint64(i)}
		}
		by["bob"] = by[userName(0)]
		delete(by, userName(0))
		r.members = makeMembers(by)
		b.put(r)
		return nil
	}))
	_, err = s.Join(background, "carol", &chatproto.JoinRoomReq{ID: c.next(), Name: "crowd"})
	c.want(chatproto.ErrFull, err)
	c.want(chatproto.ErrFull, s.Invite(background, "bob", crowd, &chatproto.MemberReq{ID: c.next(), User: "carol"}))
}

// Unread messages are counted up to a limit, whoever asks first, and exactly
// where the limit is not reached.
func TestUnread(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	lobby := c.join("alice", LobbyName)
	c.join("bob", LobbyName)
	c.fill(lobby, "alice", chatproto.MaxUnread+200)
	unread := func(user string) uint32 {
		t.Helper()
		state, err := c.s.Room(background, user, lobby)
		c.ok(err)
		return state.Unread
	}
	for range 2 { // counted as it grew, and then counted anew
		if a, b := unread("alice"), unread("bob"); a != 0 || b != chatproto.MaxUnread {
			t.Errorf("%d and %d", a, b)
		}
		c.s.mu.Lock()
		for _, m := range c.s.seen.rooms[lobby].members.by {
			m.unread = unknown
		}
		c.s.mu.Unlock()
	}
	for _, x := range []struct {
		seq    uint64
		unread uint32
		moved  bool
	}{{102, 1000, true}, {202, 1000, true}, {203, 999, true}, {100, 999, false}, {1 << 63, 0, true}} {
		mark, moved, err := c.s.MarkRead(background, "bob", lobby, x.seq)
		if c.ok(err); mark.Unread != x.unread || moved != x.moved || unread("bob") != x.unread {
			t.Errorf("read up to %d: %+v, %v, then %d; want %+v", x.seq, mark, moved, unread("bob"), x)
		}
	}
	c.say("alice", lobby, "one more")
	if n := unread("bob"); n != 1 {
		t.Errorf("%d unread", n)
	}
}

// The list has what a user may know of, page by page, in order.
func TestList(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	const rooms = chatproto.MaxPage + 20
	c.ok(c.s.do(background, 0, func(b *batch) error {
		for i := range rooms {
			name := fmt.Sprintf("Room%03d", i)
			r, err := b.newRoom(&room{kind: chatproto.RoomPublic, name: name, fold: chatproto.FoldRoomName(name)})
			if err != nil {
				return err
			}
			b.put(r)
		}
		return nil
	}))
	c.create("alice", "room000a", chatproto.RoomPrivate)
	for user, want := range map[string]int{"alice": rooms + 2, "bob": rooms + 1} {
		var names []string
		res := chatproto.ListRoomsRes{More: true}
		for after := ""; res.More; after = names[len(names)-1] {
			var err error
			res, err = c.s.List(background, user, after)
			c.ok(err)
			for _, r := range res.Rooms {
				if len(names) > 0 && chatproto.FoldRoomName(r.Name) <= chatproto.FoldRoomName(names[len(names)-1]) {
					t.Errorf("%s after %s", r.Name, names[len(names)-1])
				}
				names = append(names, r.Name)
			}
		}
		if len(names) != want || names[0] != LobbyName {
			t.Errorf("%s sees %d rooms from %s; want %d", user, len(names), names[0], want)
		}
	}
}

package chat

import (
	"context"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/local"
)

// What the server says about a room decides whether what is said there is
// sealed. So that it cannot talk a client out of it, a room that was sealed once
// is sealed for ever, by its number; and a room that takes the name of a sealed
// one without being sealed is warned of.

// pin corrects what the server says about a room that this device knows as a
// sealed one.
func (s *sealed) pin(i *chatproto.RoomInfo) {
	if s == nil || i.Kind == chatproto.RoomSealed || s.lastKept(i.Room) == 0 {
		return
	}
	s.c.log.Error("the server calls a sealed room another kind", "room", i.Room, "kind", i.Kind)
	i.Kind = chatproto.RoomSealed
}

// namesKey is where the state keeps the folded names of sealed rooms.
const namesKey = "chat/sealed/"

// pinName notes that a sealed room has this name.
func (s *sealed) pinName(name string) {
	key := namesKey + chatproto.FoldRoomName(name)
	known, err := s.state.Get(key)
	if err == nil && known == nil {
		err = s.state.Update(func(tx *local.Tx) error {
			tx.Put(key, []byte{1})
			return nil
		})
	}
	if err != nil {
		s.c.log.Error("sealed rooms", "err", err)
	}
}

// suspect warns, once, of a room that has the name of a sealed one and is not.
func (p *pump) suspect(ctx context.Context, r *room) error {
	s := p.c.sealed
	if s == nil || r.sealed() || r.suspected || r.state.Info.Kind == chatproto.RoomDirect {
		return nil
	}
	known, err := s.state.Get(namesKey + chatproto.FoldRoomName(r.state.Info.Name))
	if err != nil || known == nil {
		return err
	}
	r.suspected = true
	return p.push(ctx, &Warning{Room: r.state.Info.Room, RoomName: r.title(),
		Text: "this is not the sealed room of that name: the server can read what is said here"})
}

package store

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// maxNamed is how many rooms with a name there may be.
const maxNamed = 10000

// Create makes a room with user as its owner and only member. A name that a
// private room has is taken too: that such a room exists is thereby told, and
// nothing else of it.
func (s *Store) Create(ctx context.Context, user string, req *chatproto.CreateRoomReq) (id chatproto.RoomID, err error) {
	if err := checkCreate(req); err != nil {
		return 0, err
	}
	err = s.do(ctx, len(req.Proof), func(b *batch) error {
		id, err = b.create(user, req)
		return err
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

func checkCreate(req *chatproto.CreateRoomReq) error {
	if req.Kind < chatproto.RoomPublic || req.Kind > chatproto.RoomSealed {
		return chatproto.ErrNotAllowed
	}
	if req.Kind == chatproto.RoomSealed && req.Topic != "" {
		return chatproto.ErrNotAllowed
	}
	if err := chatproto.CheckRoomName(req.Name); err != nil {
		return err
	}
	if len(chatproto.FoldRoomName(req.Name)) > 2*chatproto.MaxRoomName {
		return chatproto.ErrName
	}
	if err := checkTopic(req.Topic); err != nil {
		return err
	}
	return checkProof(req.Kind, req.Proof)
}

func checkTopic(topic string) error {
	if len(topic) > chatproto.MaxTopic || !utf8.ValidString(topic) || strings.ContainsRune(topic, 0) {
		return chatproto.ErrText
	}
	return nil
}

// checkProof makes sure that only sealed rooms get signed statements.
func checkProof(kind uint8, proof []byte) error {
	if len(proof) > chatproto.MaxProof {
		return chatproto.ErrText
	}
	if kind != chatproto.RoomSealed && len(proof) > 0 {
		return chatproto.ErrNotAllowed
	}
	return nil
}

func (b *batch) create(user string, req *chatproto.CreateRoomReq) (chatproto.RoomID, error) {
	key, _, err := b.repeated(user, req.ID, entry{kind: chatproto.KindCreate, body: req.Proof})
	if err != nil {
		return 0, err
	}
	own := b.s.own
	if key != 0 {
		r := own.rooms[roomOf(key)]
		if r != nil && (r.name != req.Name || r.kind != req.Kind) {
			return 0, chatproto.ErrOtherID
		}
		return roomOf(key), nil
	}
	fold := chatproto.FoldRoomName(req.Name)
	if own.named[fold] != 0 {
		return 0, chatproto.ErrExists
	}
	if len(own.named) >= maxNamed || own.made[user] >= chatproto.MaxRooms || len(own.of[user]) >= chatproto.MaxRooms {
		return 0, chatproto.ErrFull
	}
	r, err := b.newRoom(&room{kind: req.Kind, name: req.Name, fold: fold, topic: req.Topic, owner: user, maker: user})
	if err != nil {
		return 0, err
	}
	c := Change{Came: []string{user}, Info: true}
	b.append(r, chatproto.Message{ID: req.ID, Kind: chatproto.KindCreate, From: user, Body: req.Proof}, &c)
	b.enter(r, user)
	b.put(r)
	b.changes = append(b.changes, c)
	return r.id, nil
}

// newRoom gives a room its number and stores it. The caller puts it when it is
// complete.
func (b *batch) newRoom(r *room) (*room, error) {
	if b.s.lastRoom >= maxRoom {
		return nil, chatproto.ErrFull
	}
	b.s.lastRoom++
	r.id, r.first, r.members = b.s.lastRoom, 1, makeMembers(make(map[string]*member))
	var fold any
	if r.fold != "" {
		fold = r.fold
	}
	b.exec(`INSERT INTO rooms(id, kind, name, fold, topic, owner, maker, peer1, peer2, first, last, epoch, stale)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, 0, 0)`, uint64(r.id), r.kind, r.name, fold, r.topic,
		b.userOrNull(r.owner), b.userOrNull(r.maker), b.userOrNull(r.peer1), b.userOrNull(r.peer2))
	return r, nil
}

// enter makes user a member of r, a room that was just cloned, as of its newest
// entry. What was said before does not count as unread.
func (b *batch) enter(r *room, user string) {
	b.exec("INSERT INTO members(room, user, since, read) VALUES (?, ?, ?, ?)", uint64(r.id), b.user(user), r.last, r.last)
	r.members = r.members.with(user, &member{since: r.last, read: r.last})
	if r.owner == "" && r.kind != chatproto.RoomDirect && r.id != lobbyID {
		r.owner = user
		b.saveOwner(r)
	}
	b.outdate(r)
}

// exit ends the membership of user in r, a room that was just cloned.
func (b *batch) exit(r *room, user string) {
	b.exec("DELETE FROM members WHERE room = ? AND user = ?", uint64(r.id), b.user(user))
	r.members = r.members.without(user)
	if r.owner == user {
		r.owner = r.members.eldest()
		b.saveOwner(r)
	}
	if r.dead() {
		r.fold = ""
		b.exec("UPDATE rooms SET fold = NULL WHERE id = ?", uint64(r.id))
	}
	b.outdate(r)
}

func (b *batch) saveOwner(r *room) {
	b.exec("UPDATE rooms SET owner = ? WHERE id = ?", b.userOrNull(r.owner), uint64(r.id))
}

// outdate makes the key epochs that r has useless: who is to read has changed.
func (b *batch) outdate(r *room) {
	if r.kind == chatproto.RoomSealed && r.stale != r.epoch {
		r.stale = r.epoch
		b.exec("UPDATE rooms SET stale = ? WHERE id = ?", r.stale, uint64(r.id))
	}
}

// room for one more member, and for one more room of the user.
func (b *batch) hasPlace(r *room, user string) bool {
	return len(r.members.names) < chatproto.MaxMembers && len(b.s.own.of[user]) < chatproto.MaxRooms && r.last < maxSeq
}

// Direct returns the room of user and other, who may be the same, and makes it
// if they have none.
func (s *Store) Direct(ctx context.Context, user, other string) (id chatproto.RoomID, err error) {
	if !s.exists(other) {
		return 0, chatproto.ErrNoUser
	}
	s.mu.RLock()
	id = s.seen.direct[pair(user, other)]
	s.mu.RUnlock()
	if id != 0 {
		return id, nil
	}
	err = s.do(ctx, 0, func(b *batch) error {
		id, err = b.direct(user, other)
		return err
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

// exists reports whether name is an account.
func (s *Store) exists(name string) bool {
	return name != "" && len(name) <= chatproto.MaxUser && utf8.ValidString(name) && (s.cfg.Users == nil || s.cfg.Users(name))
}

func (b *batch) direct(user, other string) (chatproto.RoomID, error) {
	peers := pair(user, other)
	own := b.s.own
	if id := own.direct[peers]; id != 0 {
		return id, nil
	}
	if len(own.of[user]) >= chatproto.MaxRooms || len(own.of[other]) >= chatproto.MaxRooms {
		return 0, chatproto.ErrFull
	}
	r, err := b.newRoom(&room{kind: chatproto.RoomDirect, peer1: peers[0], peer2: peers[1]})
	if err != nil {
		return 0, err
	}
	b.enter(r, user)
	if other != user {
		b.enter(r, other)
	}
	b.put(r)
	b.changes = append(b.changes, Change{Room: r.id, Came: r.members.names, Info: true})
	return r.id, nil
}

// Join makes user a member of a public room. A member is let in again without
// an entry, into a private room too.
func (s *Store) Join(ctx context.Context, user string, req *chatproto.JoinRoomReq) (id chatproto.RoomID, err error) {
	fold := chatproto.FoldRoomName(req.Name)
	err = s.do(ctx, 0, func(b *batch) error {
		id, err = b.join(user, fold, req.ID)
		return err
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

func (b *batch) join(user, fold string, id chatproto.ID) (chatproto.RoomID, error) {
	r := b.s.own.rooms[b.s.own.named[fold]]
	if r == nil || r.secret() && !r.has(user) {
		return 0, chatproto.ErrNoRoom
	}
	if r.has(user) {
		return r.id, nil
	}
	key, _, err := b.repeated(user, id, entry{room: r.id, kind: chatproto.KindJoin})
	if err != nil || key != 0 {
		return roomOf(key), err
	}
	if !b.hasPlace(r, user) {
		return 0, chatproto.ErrFull
	}
	r = r.clone()
	c := Change{Came: []string{user}, Info: true}
	b.append(r, chatproto.Message{ID: id, Kind: chatproto.KindJoin, From: user}, &c)
	b.enter(r, user)
	b.put(r)
	b.changes = append(b.changes, c)
	return r.id, nil
}

// Invite brings a user into a room, which any member may. In a public room it
// saves the other one the joining.
func (s *Store) Invite(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.MemberReq) error {
	exists := s.exists(req.User)
	e := entry{room: id, kind: chatproto.KindInvite, target: req.User, body: req.Proof}
	return s.record(ctx, user, req.ID, e, func(b *batch, r *room) (Change, error) {
		switch {
		case r.kind == chatproto.RoomDirect:
			return Change{}, chatproto.ErrNotAllowed
		case !exists:
			return Change{}, chatproto.ErrNoUser
		case r.has(req.User):
			return Change{}, chatproto.ErrExists
		case !b.hasPlace(r, req.User):
			return Change{}, chatproto.ErrFull
		}
		return Change{Came: []string{req.User}}, checkProof(r.kind, req.Proof)
	})
}

// Remove puts another member out of a room. Only the owner may; in a direct room
// and in the lobby there is none.
func (s *Store) Remove(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.MemberReq) error {
	e := entry{room: id, kind: chatproto.KindRemove, target: req.User, body: req.Proof}
	return s.record(ctx, user, req.ID, e, func(_ *batch, r *room) (Change, error) {
		switch {
		case r.owner != user || req.User == user:
			return Change{}, chatproto.ErrNotAllowed
		case !r.has(req.User):
			return Change{}, chatproto.ErrNoUser
		}
		return Change{Gone: []string{req.User}}, checkProof(r.kind, req.Proof)
	})
}

// Leave ends the user's membership. An owner who leaves is followed by the
// member of longest standing. Nobody leaves a direct room.
func (s *Store) Leave(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.LeaveReq) error {
	e := entry{room: id, kind: chatproto.KindLeave, body: req.Proof}
	return s.record(ctx, user, req.ID, e, func(_ *batch, r *room) (Change, error) {
		if r.kind == chatproto.RoomDirect {
			return Change{}, chatproto.ErrNotAllowed
		}
		return Change{Gone: []string{user}}, checkProof(r.kind, req.Proof)
	})
}

// SetTopic sets a room's topic, which any member may. An empty one is none.
func (s *Store) SetTopic(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.SetTopicReq) error {
	if err := checkTopic(req.Topic); err != nil {
		return err
	}
	e := entry{room: id, kind: chatproto.KindTopic, body: []byte(req.Topic)}
	return s.record(ctx, user, req.ID, e, func(_ *batch, r *room) (Change, error) {
		if r.kind == chatproto.RoomSealed {
			return Change{}, chatproto.ErrNotAllowed
		}
		return Change{}, nil
	})
}

// record carries out a change of a room that an entry records, unless check
// refuses it. check tells whose membership begins or ends.
func (s *Store) record(ctx context.Context, user string, id chatproto.ID, e entry, check func(b *batch, r *room) (Change, error)) error {
	return s.do(ctx, len(e.body), func(b *batch) error {
		if key, _, err := b.repeated(user, id, e); err != nil || key != 0 {
			return err
		}
		r, err := b.room(user, e.room)
		if err != nil {
			return err
		}
		c, err := check(b, r)
		if err == nil && r.last >= maxSeq {
			err = chatproto.ErrFull
		}
		if err != nil {
			return err
		}
		r = r.clone()
		b.append(r, chatproto.Message{ID: id, Kind: e.kind, From: user, Target: e.target, Body: e.body}, &c)
		for _, name := range c.Came {
			b.enter(r, name)
		}
		for _, name := range c.Gone {
			b.exit(r, name)
		}
		if e.kind == chatproto.KindTopic {
			r.topic = string(e.body)
			b.exec("UPDATE rooms SET topic = ? WHERE id = ?", r.topic, uint64(r.id))
		}
		c.Info = true
		b.put(r)
		b.changes = append(b.changes, c)
		return nil
	})
}

package chat

import (
	"context"
	"errors"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// typingEvery is how often the others are told that the user is typing.
const typingEvery = 3 * time.Second

// Room is a room that the user is in. Its methods are safe for concurrent use.
type Room struct {
	c     *Client
	id    chatproto.RoomID
	kind  uint8
	peer  string // the other user of a direct room
	title string
}

// retry calls f with a session, and again with the next one if that ends.
func (c *Client) retry(ctx context.Context, f func(*link) error) error {
	for {
		l, err := c.session(ctx)
		if err != nil {
			return err
		}
		if err = f(l); !errors.Is(err, rpc.ErrGone) || ctx.Err() != nil {
			return err
		}
		l.ended(ctx)
	}
}

// Join makes the user a member of a public room, which may be so already.
func (c *Client) Join(ctx context.Context, name string) (*Room, error) {
	if err := chatproto.CheckRoomName(name); err != nil {
		return nil, err
	}
	req := chatproto.JoinRoomReq{ID: newID(), Name: name}
	var res chatproto.RoomRes
	err := c.retry(ctx, func(l *link) error { return opened(l, &res, call(ctx, l, chatproto.JoinRoom, &req, &res)) })
	if err != nil {
		return nil, err
	}
	return c.learn(&res.Room), nil
}

// opened keeps the reference that a call has brought.
func opened(l *link, res *chatproto.RoomRes, err error) error {
	if err == nil {
		l.keep(res.Room.Info.Room, res.Ref)
	}
	return err
}

// Create makes a room of a kind (chatproto.RoomPublic, RoomPrivate or
// RoomSealed) with the user as its owner.
func (c *Client) Create(ctx context.Context, name string, kind uint8, topic string) (*Room, error) {
	if err := chatproto.CheckRoomName(name); err != nil {
		return nil, err
	}
	if topic != "" {
		if err := chatproto.CheckText(topic, chatproto.MaxTopic); err != nil {
			return nil, err
		}
	}
	req := chatproto.CreateRoomReq{ID: newID(), Kind: kind, Name: name, Topic: topic}
	sealed := kind == chatproto.RoomSealed
	if sealed {
		req.Topic = "" // is said, sealed, once the room is there
	}
	var res chatproto.RoomRes
	err := c.retry(ctx, func(l *link) error {
		if sealed && req.Proof == nil {
			if err := c.sealed.prepare(ctx, l); err != nil {
				return err
			}
			var err error
			if req.Proof, err = c.sealed.engine.CreateProof(ctx, server{l}, req.ID, name); err != nil {
				return err
			}
		}
		return opened(l, &res, call(ctx, l, chatproto.CreateRoom, &req, &res))
	})
	if err != nil {
		return nil, err
	}
	r := c.learn(&res.Room)
	if sealed && topic != "" {
		err = r.SetTopic(ctx, topic)
	}
	return r, err
}

// Direct returns the room of the user and another one. With oneself it is a
// notebook.
func (c *Client) Direct(ctx context.Context, user string) (*Room, error) {
	if r, err := c.Room("@" + user); err == nil {
		return r, nil
	}
	var res chatproto.RoomRes
	err := c.retry(ctx, func(l *link) error {
		return opened(l, &res, call(ctx, l, chatproto.OpenDirect, &chatproto.OpenDirectReq{User: user}, &res))
	})
	if err != nil {
		return nil, err
	}
	return c.learn(&res.Room), nil
}

// Whisper says something to one user, as Room.Say does. It waits for who is not
// there.
func (c *Client) Whisper(ctx context.Context, user, text string) error {
	_, err := c.outbox.say(ctx, destination{peer: user}, chatproto.KindText, text)
	return err
}

// SetAway makes this client away, with a text that tells why, or present again.
// It stays so over lost connections.
func (c *Client) SetAway(ctx context.Context, away bool, text string) error {
	if !away {
		text = ""
	}
	if len(text) > chatproto.MaxAwayText {
		return chatproto.ErrText
	}
	c.mu.Lock()
	c.away, c.awayText = away, text
	c.mu.Unlock()
	return c.retry(ctx, func(l *link) error {
		return call(ctx, l, chatproto.SetAway, &chatproto.SetAwayReq{Away: away, Text: text}, new(chatproto.Empty))
	})
}

func (c *Client) awayState() (bool, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.away, c.awayText
}

// ID is the room's number at its server.
func (r *Room) ID() chatproto.RoomID { return r.id }

// Name is the room's name, @user for a direct room.
func (r *Room) Name() string { return r.title }

// Info returns the room as it stands. Once the user has left it, Member is
// false.
func (r *Room) Info() RoomInfo {
	if info, ok := r.c.roomInfo(r.id); ok {
		return info
	}
	info := RoomInfo{ID: r.id, Kind: r.kind, Peer: r.peer}
	if r.kind != chatproto.RoomDirect {
		info.Name = r.title
	}
	return info
}

func (r *Room) destination() destination {
	return destination{room: r.id, peer: r.peer, seal: r.kind == chatproto.RoomSealed}
}

// Say says something and waits until it is on the server's disk. It goes through
// the outbox: when the connection is lost for some seconds or ctx ends, the
// error is ErrQueued, and the message goes out later, from another process if
// need be and there is Config.State.
func (r *Room) Say(ctx context.Context, text string) (Message, error) {
	return r.c.outbox.say(ctx, r.destination(), chatproto.KindText, text)
}

// Act is Say for what the user does ("/me").
func (r *Room) Act(ctx context.Context, text string) (Message, error) {
	return r.c.outbox.say(ctx, r.destination(), chatproto.KindAction, text)
}

// Send puts what is said into the outbox and returns. The Message event with the
// same ID tells that it is on the server's disk, a Failed event that it was
// refused.
func (r *Room) Send(text string) (chatproto.ID, error) { return r.send(chatproto.KindText, text) }

// SendAct is Send for what the user does.
func (r *Room) SendAct(text string) (chatproto.ID, error) { return r.send(chatproto.KindAction, text) }

func (r *Room) send(kind uint8, text string) (chatproto.ID, error) {
	m, err := r.c.outbox.put(r.destination(), kind, text, false)
	if err != nil {
		return chatproto.ID{}, err
	}
	return m.ID, nil
}

// History returns up to n entries right before a sequence number (0: the newest
// ones), in order. Fewer do not mean the beginning: an empty page does. Of a
// sealed room it is what this device has opened, also without a connection.
func (r *Room) History(ctx context.Context, before uint64, n int) ([]Message, error) {
	if r.kind == chatproto.RoomSealed && r.c.sealed != nil {
		return r.sealedHistory(ctx, before, n)
	}
	var res *chatproto.HistoryRes
	err := r.c.retry(ctx, func(l *link) (err error) {
		res, err = l.history(ctx, r.id, &chatproto.HistoryReq{Before: before, Limit: uint32(min(max(n, 1), chatproto.MaxPage))})
		return err
	})
	if err != nil {
		return nil, err
	}
	page := make([]Message, len(res.Messages))
	row := r.row()
	for i := range res.Messages {
		page[i] = r.c.message(row, &res.Messages[i])
	}
	return page, nil
}

// row returns what is needed of the table's row to make messages.
func (r *Room) row() *room {
	i := r.Info()
	return &room{state: chatproto.RoomState{Info: chatproto.RoomInfo{Room: i.ID, Kind: i.Kind, Name: i.Name, Peer: i.Peer}}}
}

// Members returns who is in the room, ordered by name.
func (r *Room) Members(ctx context.Context) ([]string, error) {
	var res chatproto.MembersRes
	err := r.c.retry(ctx, func(l *link) error {
		return callRoom(ctx, l, r.id, chatproto.Members, &chatproto.MembersReq{}, &res)
	})
	return res.Users, err
}

// SetTopic sets the topic. In a sealed room it is said, sealed, like a text.
func (r *Room) SetTopic(ctx context.Context, topic string) error {
	if topic != "" {
		if err := chatproto.CheckText(topic, chatproto.MaxTopic); err != nil {
			return err
		}
	}
	if r.kind == chatproto.RoomSealed {
		if r.c.sealed == nil {
			return ErrNoState
		}
		_, err := r.c.outbox.say(ctx, r.destination(), chatproto.KindTopic, topic)
		return err
	}
	req := chatproto.SetTopicReq{ID: newID(), Topic: topic}
	return r.c.retry(ctx, func(l *link) error {
		return callRoom(ctx, l, r.id, chatproto.SetTopic, &req, new(chatproto.Empty))
	})
}

// Invite brings a user into the room.
func (r *Room) Invite(ctx context.Context, user string) error {
	req := chatproto.MemberReq{ID: newID(), User: user}
	return r.change(ctx, &req.Proof, func(ctx context.Context, l *link) ([]byte, error) {
		return r.c.sealed.engine.InviteProof(ctx, server{l}, r.id, req.ID, user)
	}, func(ctx context.Context, l *link) error {
		return callRoom(ctx, l, r.id, chatproto.Invite, &req, new(chatproto.Empty))
	})
}

// Remove puts a user out of the room, which only its owner may.
func (r *Room) Remove(ctx context.Context, user string) error {
	req := chatproto.MemberReq{ID: newID(), User: user}
	return r.change(ctx, &req.Proof, func(ctx context.Context, l *link) ([]byte, error) {
		return r.c.sealed.engine.RemoveProof(ctx, server{l}, r.id, req.ID, user)
	}, func(ctx context.Context, l *link) error {
		return callRoom(ctx, l, r.id, chatproto.Remove, &req, new(chatproto.Empty))
	})
}

// Leave ends the user's membership.
func (r *Room) Leave(ctx context.Context) error {
	req := chatproto.LeaveReq{ID: newID()}
	return r.change(ctx, &req.Proof, func(ctx context.Context, l *link) ([]byte, error) {
		return r.c.sealed.engine.LeaveProof(ctx, server{l}, r.id, req.ID)
	}, func(ctx context.Context, l *link) error {
		return callRoom(ctx, l, r.id, chatproto.Leave, &req, new(chatproto.Empty))
	})
}

// change makes a change of the members. In a sealed room it carries a proof,
// which stays the same when the request is sent again.
func (r *Room) change(ctx context.Context, proof *[]byte, prove func(context.Context, *link) ([]byte, error), send func(context.Context, *link) error) error {
	return r.c.retry(ctx, func(l *link) error {
		if r.kind != chatproto.RoomSealed {
			return send(ctx, l)
		}
		s := r.c.sealed
		if err := s.prepare(ctx, l); err != nil {
			return err
		}
		unlock, err := s.state.LockRoom(ctx, r.id)
		if err != nil {
			return err
		}
		defer unlock()
		ctx, cancel := context.WithTimeout(ctx, lockLimit)
		defer cancel()
		if *proof == nil {
			if err := s.catchUp(ctx, l, r.id); err != nil {
				return err
			}
			if *proof, err = prove(ctx, l); err != nil {
				return err
			}
		}
		return send(ctx, l)
	})
}

// MarkRead says that the user has read the room up to a sequence number.
func (r *Room) MarkRead(ctx context.Context, seq uint64) error {
	c := r.c
	c.mu.Lock()
	row := c.rooms[r.id]
	if row == nil {
		c.mu.Unlock()
		return chatproto.ErrNoRoom
	}
	seq = min(seq, row.state.Info.Last)
	before := row.state.Read
	c.mu.Unlock()
	if seq <= before {
		return nil
	}
	err := c.retry(ctx, func(l *link) error {
		return callRoom(ctx, l, r.id, chatproto.MarkRead, &chatproto.MarkReadReq{Seq: seq}, new(chatproto.Empty))
	})
	if err != nil {
		return err
	}
	// The feed tells the new count. If there is nothing after the mark it is
	// known already.
	c.mu.Lock()
	defer c.mu.Unlock()
	if row := c.rooms[r.id]; row != nil && row.state.Read < seq && row.counted <= seq {
		row.state.Read, row.state.Unread, row.counted = seq, 0, seq
	}
	return nil
}

// Typing tells the others that the user is typing. Call it at every key: it
// tells them every few seconds, and nobody while there is no connection.
func (r *Room) Typing(ctx context.Context) error {
	c := r.c
	c.mu.Lock()
	row, l := c.rooms[r.id], c.link
	if !c.up || row == nil || time.Since(row.typed) < typingEvery {
		c.mu.Unlock()
		return nil
	}
	row.typed = time.Now()
	c.mu.Unlock()
	err := callRoom(ctx, l, r.id, chatproto.Typing, &chatproto.TypingReq{}, new(chatproto.Empty))
	if errors.Is(err, rpc.ErrGone) {
		return nil
	}
	return err
}

// SetRetention sets how many entries of the room are kept, and for how long
// (whole seconds); 0 is no bound. Only the owner may.
func (r *Room) SetRetention(ctx context.Context, count uint64, age time.Duration) error {
	req := chatproto.SetRetentionReq{Count: count, Age: uint64(max(age, 0) / time.Second)}
	return r.c.retry(ctx, func(l *link) error {
		return callRoom(ctx, l, r.id, chatproto.SetRetention, &req, new(chatproto.Empty))
	})
}

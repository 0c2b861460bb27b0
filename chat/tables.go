package chat

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// maxRooms bounds the table of rooms, whatever the server says.
const maxRooms = 2 * chatproto.MaxRooms

// room is a row of the table of rooms. It is guarded by Client.mu but for the
// last fields, which belong to the pump.
type room struct {
	state   chatproto.RoomState
	topic   string    // of a sealed room
	counted uint64    // sequence number up to which state.Unread counts
	typed   time.Time // when this user's typing was last told
	ref     bool      // came by a reply; the feed has not told of it yet

	begun     bool
	cursor    uint64 // sequence number up to which entries were handed out
	behind    string // what was last said about entries that cannot be opened
	misnamed  bool   // it was said that the server calls it by another name
	suspected bool   // it was said that it has the name of a sealed room
}

func (r *room) info() RoomInfo {
	i := &r.state.Info
	info := RoomInfo{
		ID: i.Room, Kind: i.Kind, Name: i.Name, Topic: i.Topic, Owner: i.Owner, Peer: i.Peer,
		Members: int(i.Members), First: i.First, Last: i.Last, Read: r.state.Read, Unread: int(r.state.Unread), Member: i.Member,
	}
	if i.Kind == chatproto.RoomSealed {
		info.Topic = r.topic
	}
	return info
}

func (r *room) sealed() bool { return r.state.Info.Kind == chatproto.RoomSealed }

func (r *room) title() string {
	if r.state.Info.Kind == chatproto.RoomDirect {
		return "@" + r.state.Info.Peer
	}
	return r.state.Info.Name
}

// Users returns who is there, ordered by name.
func (c *Client) Users() []Presence {
	c.mu.Lock()
	defer c.mu.Unlock()
	users := make([]Presence, 0, len(c.users))
	for _, p := range c.users {
		users = append(users, presence(&p))
	}
	slices.SortFunc(users, func(a, b Presence) int { return strings.Compare(a.User, b.User) })
	return users
}

func presence(p *chatproto.Presence) Presence {
	return Presence{User: p.User, State: p.State, Text: p.Text, Since: time.UnixMicro(p.Since)}
}

// Rooms returns the rooms that the user is in: by name, then the direct ones.
func (c *Client) Rooms() []RoomInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	rooms := make([]RoomInfo, 0, len(c.rooms))
	for _, r := range c.rooms {
		rooms = append(rooms, r.info())
	}
	key := func(r RoomInfo) string {
		if r.Kind == chatproto.RoomDirect {
			return "\U0010ffff" + r.Peer
		}
		return chatproto.FoldRoomName(r.Name)
	}
	slices.SortFunc(rooms, func(a, b RoomInfo) int { return strings.Compare(key(a), key(b)) })
	return rooms
}

// Room returns a room that the user is in, by its name (with or without "#"),
// as @user for the direct room with a user, or by its number. It asks nobody.
// ErrNoRoom if there is none.
func (c *Client) Room(name string) (*Room, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.find(name)
	if r == nil {
		return nil, chatproto.ErrNoRoom
	}
	return c.handle(r), nil
}

// handle returns the handle of a room. c.mu is held.
func (c *Client) handle(r *room) *Room {
	return &Room{c: c, id: r.state.Info.Room, kind: r.state.Info.Kind, peer: r.state.Info.Peer, title: r.title()}
}

// find returns the room of a name as Room takes it. c.mu is held.
func (c *Client) find(name string) *room {
	user, direct := strings.CutPrefix(name, "@")
	folded := chatproto.FoldRoomName(strings.TrimPrefix(name, "#"))
	for _, r := range c.rooms {
		i := &r.state.Info
		if direct && i.Kind == chatproto.RoomDirect && i.Peer == user ||
			!direct && i.Kind != chatproto.RoomDirect && chatproto.FoldRoomName(i.Name) == folded {
			return r
		}
	}
	if n, err := strconv.ParseUint(name, 10, 64); err == nil {
		return c.rooms[chatproto.RoomID(n)]
	}
	return nil
}

// roomInfo returns a room of the table as it stands.
func (c *Client) roomInfo(id chatproto.RoomID) (RoomInfo, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.rooms[id]; r != nil {
		return r.info(), true
	}
	return RoomInfo{}, false
}

// learn takes in a room that a reply told of.
func (c *Client) learn(s *chatproto.RoomState) *Room {
	c.sealed.pin(&s.Info)
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[s.Info.Room]
	if r == nil && len(c.rooms) < maxRooms {
		r = &room{ref: true}
		c.rooms[s.Info.Room] = r
		r.update(s)
	}
	if r == nil {
		r = &room{state: *s}
	}
	return c.handle(r)
}

// update takes in what the server says about a room.
func (r *room) update(s *chatproto.RoomState) {
	last := max(r.state.Info.Last, s.Info.Last)
	read := max(r.state.Read, s.Read)
	if s.Info.Last >= r.counted {
		r.counted = s.Info.Last
	} else {
		s.Unread = r.state.Unread // ours has counted what came after
	}
	r.state = *s
	r.state.Info.Last, r.state.Read = last, read
}

// applySnapshot brings the tables up to a snapshot. Only the first one brings no
// events: what changed is logged for the pump to hand out.
func (c *Client) applySnapshot(s *chatproto.SnapshotRes) error {
	if s.User != c.user {
		return fmt.Errorf("the server takes %s for %q", c.user, s.User)
	}
	for i := range s.Rooms {
		c.sealed.pin(&s.Rooms[i].Info)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snapshotUsers(s.Users)
	known := make(map[chatproto.RoomID]bool)
	for i := range s.Rooms {
		known[s.Rooms[i].Info.Room] = true
		c.snapshotRoom(&s.Rooms[i])
	}
	for id, r := range c.rooms {
		if !known[id] && !r.ref {
			delete(c.rooms, id)
			c.logEvent(&RoomGone{r.info()})
		}
	}
	c.attached = true
	return nil
}

func (c *Client) snapshotUsers(list []chatproto.Presence) {
	users := make(map[string]chatproto.Presence, len(list))
	for _, p := range list {
		if p.State == chatproto.Offline {
			continue
		}
		users[p.User] = p
		if c.users[p.User] != p {
			e := presence(&p)
			c.logEvent(&e)
		}
	}
	for name, p := range c.users {
		if _, ok := users[name]; !ok {
			c.logEvent(&Presence{User: p.User, State: chatproto.Offline, Since: time.Now()})
		}
	}
	c.users = users
}

func (c *Client) snapshotRoom(s *chatproto.RoomState) {
	r := c.rooms[s.Info.Room]
	isNew := r == nil || r.ref
	if r == nil {
		if len(c.rooms) >= maxRooms {
			return
		}
		r = new(room)
		c.rooms[s.Info.Room] = r
	}
	before := r.info()
	r.ref = false
	r.update(s)
	if !c.attached {
		c.start(r)
		return
	}
	if now := r.info(); now != before {
		c.logEvent(&RoomChanged{Room: now, New: isNew})
	}
}

// start sets where the entries of a room begin at the first attach.
func (c *Client) start(r *room) {
	last := r.state.Info.Last
	r.begun, r.cursor = true, last
	if c.cfg.Start == FromUnread {
		r.cursor = min(last, max(r.state.Read, last-min(last, chatproto.MaxUnread)))
	}
	for name, seq := range c.cfg.Since {
		if c.find(name) == r {
			r.cursor = min(last, seq)
		}
	}
}

// logEvent keeps an event of a snapshot for the pump.
func (c *Client) logEvent(e Event) {
	if !c.attached || c.cfg.NoEvents {
		return
	}
	if len(c.logged) >= maxLog {
		c.logged = c.logged[1:]
	}
	c.logged = append(c.logged, e)
}

// ListRooms returns all rooms that the user may know of, direct ones left out,
// ordered by name.
func (c *Client) ListRooms(ctx context.Context) ([]RoomInfo, error) {
	var all []RoomInfo
	for after := ""; ; {
		var res chatproto.ListRoomsRes
		err := c.retry(ctx, func(l *link) error {
			return call(ctx, l, chatproto.ListRooms, &chatproto.ListRoomsReq{After: after}, &res)
		})
		if err != nil {
			return nil, err
		}
		for i := range res.Rooms {
			all = append(all, c.listed(&res.Rooms[i]))
		}
		if n := len(res.Rooms); !res.More || n == 0 {
			return all, nil
		}
		after = res.Rooms[len(res.Rooms)-1].Name
	}
}

// listed returns a listed room, with what the table knows if the user is in it.
func (c *Client) listed(i *chatproto.RoomInfo) RoomInfo {
	r := room{state: chatproto.RoomState{Info: *i}}
	info := r.info()
	if known, ok := c.roomInfo(i.Room); ok && i.Member {
		info.Read, info.Unread, info.Topic = known.Read, known.Unread, known.Topic
	}
	return info
}

// mark takes in how far the user has read.
func (c *Client) mark(m *chatproto.Mark) (ReadMark, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[m.Room]
	if r == nil || m.Read < r.state.Read {
		return ReadMark{}, false
	}
	r.state.Read = m.Read
	switch {
	case m.Last >= r.counted:
		r.state.Unread, r.counted = m.Unread, m.Last
	case m.Read >= r.counted:
		r.state.Unread = 0
	} // otherwise another mark is on its way, or ours has counted what came after
	return ReadMark{Room: m.Room, RoomName: r.title(), Read: m.Read, Unread: int(r.state.Unread)}, true
}

// count takes in that an entry is there.
func (c *Client) count(r *room, m *chatproto.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.state.Info.Last = max(r.state.Info.Last, m.Seq)
	if m.Seq <= r.counted {
		return
	}
	r.counted = m.Seq
	said := m.Kind == chatproto.KindText || m.Kind == chatproto.KindAction || m.Kind == chatproto.KindSealed
	if said && m.From != c.user && m.Seq > r.state.Read && r.state.Unread < chatproto.MaxUnread {
		r.state.Unread++
	}
}

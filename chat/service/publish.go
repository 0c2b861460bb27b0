package service

import (
	"context"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/store"
)

// typingEvery is how often the others are told that a user types in a room.
const typingEvery = 3 * time.Second

// Committed queues what the store has committed for everybody whom it concerns,
// and revokes the references of who went. It is store.Config.Committed.
func (s *Service) Committed(changes []store.Change) {
	st := s.store.Load()
	if st == nil {
		return // nobody is here yet
	}
	for i := range changes {
		s.tell(st, changes[i:])
	}
}

// tell publishes the first of the changes. Those after it are known to the store
// already.
func (s *Service) tell(st *store.Store, changes []store.Change) {
	c := &changes[0]
	members := membersBefore(st, changes)
	arrivals := s.arrivals(st, changes)
	var entry, info, gone *event
	if c.Message.Seq != 0 {
		entry = newEvent(chatproto.EventMessage, &c.Message)
	}
	if c.Info {
		info = &event{kind: chatproto.EventRoom, room: c.Room}
	}
	if len(c.Gone) > 0 {
		gone = newEvent(chatproto.EventGone, &chatproto.RoomGone{Room: c.Room})
	}
	for _, a := range s.queueChange(c, members, arrivals, entry, info, gone) {
		a.revoke(c.Room)
	}
}

// queueChange queues the events of a change, and returns the attachments of who
// went.
func (s *Service) queueChange(c *store.Change, members []string, arrivals map[string]*event, entry, info, gone *event) (left []*attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range members {
		u := s.users[name]
		if u == nil || arrivals[name] != nil {
			continue
		}
		u.push(entry)
		if slices.Contains(c.Gone, name) {
			u.push(gone)
		} else {
			u.push(info)
		}
	}
	for name, arrival := range arrivals {
		s.users[name].push(arrival)
		s.users[name].push(entry)
	}
	for _, name := range c.Gone {
		if u := s.users[name]; u != nil {
			left = append(left, u.attached...)
		}
	}
	return left
}

// push queues an event for all of the user's listeners; Service.mu is held.
func (u *user) push(e *event) {
	if e == nil {
		return
	}
	for _, a := range u.attached {
		a.push(e)
	}
}

// membersBefore returns the members that the first change found, sorted or not.
// The store knows those after the last one.
func membersBefore(st *store.Store, changes []store.Change) []string {
	room := changes[0].Room
	members := st.Members(room)
	shared := true
	for i := len(changes) - 1; i >= 0; i-- {
		c := &changes[i]
		if c.Room != room || len(c.Came)+len(c.Gone) == 0 {
			continue
		}
		if shared {
			members, shared = slices.Clone(members), false
		}
		members = slices.DeleteFunc(members, func(name string) bool { return slices.Contains(c.Came, name) })
		for _, name := range c.Gone {
			if !slices.Contains(members, name) {
				members = append(members, name)
			}
		}
	}
	return members
}

// arrivals returns, for each user who came with the first change and listens,
// the room as it was just before the entry of that change.
func (s *Service) arrivals(st *store.Store, changes []store.Change) map[string]*event {
	c := &changes[0]
	var arrivals map[string]*event
	for _, name := range c.Came {
		if !s.listens(name) {
			continue
		}
		state, err := st.Room(context.Background(), name, c.Room)
		if err != nil {
			continue // gone again; that is among the changes
		}
		rewind(&state, name, changes)
		if arrivals == nil {
			arrivals = make(map[string]*event)
		}
		arrivals[name] = newEvent(chatproto.EventRoom, &state)
	}
	return arrivals
}

// rewind takes the entries of the changes out of a room's state.
func rewind(state *chatproto.RoomState, user string, changes []store.Change) {
	for i := len(changes) - 1; i >= 0; i-- {
		m := &changes[i].Message
		if m.Room != state.Info.Room || m.Seq == 0 || m.Seq > state.Info.Last {
			continue
		}
		state.Info.Last = m.Seq - 1
		counts := m.Kind <= chatproto.KindSealed && m.From != user && m.Seq > state.Read
		if counts && state.Unread > 0 && state.Unread < chatproto.MaxUnread {
			state.Unread--
		}
	}
	state.Read = min(state.Read, state.Info.Last)
}

func (s *Service) listens(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	return u != nil && len(u.attached) > 0
}

// tellUser queues an event for all listeners of one user.
func (s *Service) tellUser(u *user, e *event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.push(e)
}

// tellTyping queues the news that a user types for the others in the room,
// unless they have been told lately.
func (s *Service) tellTyping(u *user, room chatproto.RoomID) {
	if !u.types(room, time.Now()) {
		return
	}
	e := newEvent(chatproto.EventTyping, &chatproto.TypingEvent{Room: room, User: u.name})
	s.mu.Lock()
	defer s.mu.Unlock()
	// Asked for under the lock, so that nobody hears of it after the end of a
	// membership.
	for _, name := range s.store.Load().Members(room) {
		if other := s.users[name]; other != nil && other != u {
			other.push(e)
		}
	}
}

// types notes that the user types, and reports whether that is news.
func (u *user) types(room chatproto.RoomID, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if at, told := u.typing[room]; told && now.Sub(at) < typingEvery {
		return false
	}
	if u.typing == nil || len(u.typing) >= chatproto.MaxRooms {
		u.typing = make(map[chatproto.RoomID]time.Time)
	}
	u.typing[room] = now
	return true
}

// tellDevices queues the news of a user's list of devices for him and for all
// who share a room with him.
func (s *Service) tellDevices(ctx context.Context, u *user, version uint64) error {
	st := s.store.Load()
	rooms, err := st.RoomsOf(ctx, u.name)
	if err != nil {
		return err
	}
	concerned := map[string]struct{}{u.name: {}}
	for i := range rooms {
		for _, name := range st.Members(rooms[i].Info.Room) {
			concerned[name] = struct{}{}
		}
	}
	e := newEvent(chatproto.EventDevices, &chatproto.DevicesEvent{User: u.name, Version: version})
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range concerned {
		if other := s.users[name]; other != nil {
			other.push(e)
		}
	}
	return nil
}

package store

import (
	"context"
	"database/sql/driver"
	"maps"
	"slices"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// roomFor returns the room if user may know what is in it.
func (s *Store) roomFor(user string, id chatproto.RoomID) (*room, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.seen.rooms[id]
	if r == nil || !r.has(user) {
		return nil, chatproto.ErrNoRoom
	}
	return r, nil
}

// IsMember reports whether user is in the room. It does not touch the disk.
func (s *Store) IsMember(user string, id chatproto.RoomID) bool {
	_, err := s.roomFor(user, id)
	return err == nil
}

// Members returns who is in the room, sorted; nil if there is no such room. The
// slice is shared: it does not change, and must not be changed. It does not
// touch the disk.
func (s *Store) Members(id chatproto.RoomID) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.seen.rooms[id]; r != nil {
		return r.members.names
	}
	return nil
}

// standing is where a member stands in a room at one moment.
type standing struct {
	r      *room
	m      *member
	read   uint64
	unread int64
}

// Room returns a room as user, a member, sees it.
func (s *Store) Room(ctx context.Context, user string, id chatproto.RoomID) (chatproto.RoomState, error) {
	s.mu.RLock()
	r := s.seen.rooms[id]
	if r == nil || !r.has(user) {
		s.mu.RUnlock()
		return chatproto.RoomState{}, chatproto.ErrNoRoom
	}
	st := stand(r, user)
	names := s.view.names
	s.mu.RUnlock()
	return s.complete(ctx, user, names, st)
}

// RoomsOf returns the rooms that user is in, by number, all as of one moment.
func (s *Store) RoomsOf(ctx context.Context, user string) ([]chatproto.RoomState, error) {
	s.mu.RLock()
	var all []standing
	for _, id := range slices.Sorted(maps.Keys(s.seen.of[user])) {
		all = append(all, stand(s.seen.rooms[id], user))
	}
	names := s.view.names
	s.mu.RUnlock()
	states := make([]chatproto.RoomState, 0, len(all))
	for _, st := range all {
		state, err := s.complete(ctx, user, names, st)
		if err != nil {
			return nil, err
		}
		states = append(states, state)
	}
	return states, nil
}

// stand reads where user stands in r. Store.mu is held.
func stand(r *room, user string) standing {
	m := r.members.by[user]
	return standing{r: r, m: m, read: m.read, unread: m.unread}
}

// complete makes the state of a standing; it counts what is unread if that is
// not known yet, and remembers it.
func (s *Store) complete(ctx context.Context, user string, names []string, st standing) (chatproto.RoomState, error) {
	if st.unread < 0 {
		reader := int64(slices.Index(names, user)) + 1
		err := s.read(ctx, func(db *conn) (err error) {
			st.unread, _, err = countUnread(db, st.r, st.read, reader, maxSeq)
			return err
		})
		if err != nil {
			return chatproto.RoomState{}, err
		}
		s.mu.Lock()
		if s.seen.rooms[st.r.id] == st.r && st.m.read == st.read && st.m.unread < 0 {
			st.m.unread = st.unread
		}
		s.mu.Unlock()
	}
	return chatproto.RoomState{Info: st.r.info(user), Read: st.read, Unread: uint32(st.unread)}, nil
}

// List returns a page of the rooms that user may know of, those after the name
// after, by folded name: the public ones, and what user is a member of. Direct
// rooms have no name. It does not touch the disk.
func (s *Store) List(ctx context.Context, user, after string) (res chatproto.ListRoomsRes, err error) {
	if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	fold := chatproto.FoldRoomName(after)
	i, found := slices.BinarySearch(s.seen.folds, fold)
	if found {
		i++
	}
	for _, name := range s.seen.folds[i:] {
		r := s.seen.rooms[s.seen.named[name]]
		if r.secret() && !r.has(user) {
			continue
		}
		if len(res.Rooms) == chatproto.MaxPage {
			res.More = true
			break
		}
		res.Rooms = append(res.Rooms, r.info(user))
	}
	return res, nil
}

const messageColumns = "m.key, m.id, m.kind, m.sender, m.target, m.time, m.sent, m.body"

// messageOf makes an entry of messageColumns.
func messageOf(names []string, row []driver.Value) chatproto.Message {
	key := num(row[0])
	m := chatproto.Message{
		Room: roomOf(key), Seq: seqOf(key), Kind: uint8(num(row[2])),
		From: nameIn(names, row[3]), Target: nameIn(names, row[4]),
		Time: int64(num(row[5])), Sent: int64(num(row[6])), Body: blob(row[7]),
	}
	copy(m.ID[:], blob(row[1]))
	return m
}

// page collects entries up to the limits of a reply.
type page struct {
	limit    int
	size     int
	messages []chatproto.Message
}

func newPage(limit uint32) *page {
	if limit == 0 || limit > chatproto.MaxPage {
		limit = chatproto.MaxPage
	}
	return &page{limit: int(limit)}
}

// add reports whether m has found a place.
func (p *page) add(m chatproto.Message) bool {
	if p.size += len(m.Body); len(p.messages) == p.limit || len(p.messages) > 0 && p.size > chatproto.MaxPageSize {
		return false
	}
	p.messages = append(p.messages, m)
	return true
}

const (
	selectNewer = "SELECT " + messageColumns + " FROM messages m WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
	selectOlder = "SELECT " + messageColumns + " FROM messages m WHERE key > ? AND key < ? ORDER BY key DESC LIMIT ?"
)

// History returns a page of a room's log.
func (s *Store) History(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.HistoryReq) (res chatproto.HistoryRes, err error) {
	s.mu.RLock()
	r, names := s.seen.rooms[id], s.view.names
	s.mu.RUnlock()
	if r == nil || !r.has(user) {
		return res, chatproto.ErrNoRoom
	}
	if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	// What is being committed right now is not there yet.
	above, below, query := uint64(0), r.last+1, selectOlder
	switch {
	case req.After != 0:
		above, query = min(req.After, r.last), selectNewer
	case req.Before != 0:
		below = min(req.Before, below)
	}
	p := newPage(req.Limit)
	err = s.read(ctx, func(db *conn) error {
		return db.query(context.Background(), query, func(row []driver.Value) error {
			if !p.add(messageOf(names, row)) {
				return errEnough
			}
			return nil
		}, keyOf(id, above), keyOf(id, below), p.limit)
	})
	if err != nil {
		return res, err
	}
	if query == selectOlder {
		slices.Reverse(p.messages)
	}
	return chatproto.HistoryRes{First: r.first, Last: r.last, Messages: p.messages}, nil
}

package chat

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/local"
	"github.com/rpycfs/rpycfs/chat/query"
)

// Cursor is where a search goes on. The zero value begins.
type Cursor struct {
	server   uint64    // of the server's next page
	rest     []Message // of the server's last page, not returned yet
	noServer bool      // nothing more from the server beside rest
	position local.Position
	noLocal  bool
	done     bool
}

// Done reports whether there is nothing more to find.
func (c Cursor) Done() bool { return c.done }

// Search looks for texts in the rooms that the user is in, newest first: at the
// server, and for sealed rooms in what this device has opened. text is in the
// language of package query: words, "phrases", from:USER, in:ROOM, before:DATE,
// after:DATE. It returns where to go on, and up to limit messages, at least one
// unless there is nothing more.
func (c *Client) Search(ctx context.Context, text string, from Cursor, limit int) ([]Message, Cursor, error) {
	q, err := query.Parse(text, time.Now)
	if err != nil {
		return nil, Cursor{}, err
	}
	limit = min(max(limit, 1), chatproto.MaxPage)
	if from.done {
		return nil, from, nil
	}
	s := &search{c: c, q: q, limit: limit, cursor: from}
	if err := s.where(); err != nil {
		return nil, from, err
	}
	if err := s.fetch(ctx); err != nil {
		return nil, from, err
	}
	return s.merge(), s.cursor, nil
}

// search is one step of a search.
type search struct {
	c      *Client
	q      query.Query
	limit  int
	cursor Cursor

	room   chatproto.RoomID   // 0: all
	sealed []chatproto.RoomID // to be looked through here

	remote []Message
	near   []Message
	at     []local.Position
}

// where finds out which rooms to look through.
func (s *search) where() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.q.In != "" {
		r := s.c.find(s.q.In)
		if r == nil {
			return chatproto.ErrNoRoom
		}
		s.room = r.state.Info.Room
		if r.sealed() {
			s.cursor.noServer = true
		}
	}
	for id, r := range s.c.rooms {
		if r.sealed() && (s.room == 0 || s.room == id) {
			s.sealed = append(s.sealed, id)
		}
	}
	if len(s.sealed) == 0 || s.c.sealed == nil {
		s.cursor.noLocal = true
	}
	return nil
}

// fetch gets the next messages of either side.
func (s *search) fetch(ctx context.Context) (err error) {
	if !s.cursor.noLocal {
		var found []local.Entry
		found, s.at, err = s.c.sealed.state.Search(s.q, s.sealed, s.cursor.position, s.limit)
		if err != nil {
			return err
		}
		for i := range found {
			s.near = append(s.near, s.c.entry(s.c.row(found[i].Room), &found[i]))
		}
	}
	s.remote = s.cursor.rest
	for len(s.remote) == 0 && !s.cursor.noServer {
		if err := s.page(ctx); err != nil {
			return err
		}
	}
	return nil
}

// page gets the server's next page. It may be empty and not the last one: the
// server searches for a bounded time.
func (s *search) page(ctx context.Context) error {
	req := chatproto.SearchReq{
		Room: s.room, From: s.q.From, Terms: s.q.Terms, Cursor: s.cursor.server, Limit: uint32(s.limit),
		After: micro(s.q.After), Before: micro(s.q.Before),
	}
	var res chatproto.SearchRes
	err := s.c.retry(ctx, func(l *link) error { return call(ctx, l, chatproto.Search, &req, &res) })
	if err != nil {
		return err
	}
	if old := s.cursor.server; old != 0 && res.Cursor >= old {
		return errors.New("the server's search does not go on")
	}
	for i := range res.Messages {
		m := &res.Messages[i]
		s.remote = append(s.remote, s.c.message(s.c.row(m.Room), m))
	}
	s.cursor.server, s.cursor.noServer = res.Cursor, res.Cursor == 0
	return nil
}

func micro(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// row returns what is needed of a room to make messages.
func (c *Client) row(id chatproto.RoomID) *room {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.rooms[id]; r != nil {
		return &room{state: r.state}
	}
	return &room{state: chatproto.RoomState{Info: chatproto.RoomInfo{Room: id}}}
}

// merge takes the newest of both sides and moves the cursor past them. It stops
// where one side may have more that is newer than what the other one has left.
func (s *search) merge() []Message {
	var found []Message
	r, n := 0, 0
	for len(found) < s.limit {
		remote, near := r < len(s.remote), n < len(s.near)
		moreRemote := !remote && !s.cursor.noServer
		moreNear := !near && !s.cursor.noLocal && len(s.near) == s.limit
		if moreRemote || moreNear || !remote && !near {
			break
		}
		if remote && (!near || !s.remote[r].Time.Before(s.near[n].Time)) {
			found = append(found, s.remote[r])
			r++
		} else {
			found = append(found, s.near[n])
			s.cursor.position = s.at[n]
			n++
		}
	}
	s.cursor.rest = s.remote[r:]
	s.cursor.noLocal = s.cursor.noLocal || n == len(s.near) && len(s.near) < s.limit
	s.cursor.done = s.cursor.noServer && len(s.cursor.rest) == 0 && s.cursor.noLocal
	return slices.Clip(found)
}

package chat

import (
	"context"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/local"
	"github.com/rpycfs/rpycfs/chat/query"
)

// Cursor is where a search goes on. The zero value begins.
type Cursor struct {
	server   uint64 // of the page that comes next, or has been used in part
	used     int    // of that page
	noServer bool   // nothing more from the server
	position local.Position
	noLocal  bool
	done     bool
}

// Done reports whether there is nothing more to find.
func (c Cursor) Done() bool { return c.done }

// Search looks for texts in the rooms that the user is in, newest first: at the
// server, and for sealed rooms in what this device has opened. text is in the
// language of package query: words, "phrases", from:USER, in:ROOM, before:DATE,
// after:DATE. It returns up to limit messages and where to go on.
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
	next   uint64 // cursor after remote; 0: there is no more
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

// fetch gets the next page of either side. The server's page is as long as its
// part that was used already and the limit.
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
	if s.cursor.noServer {
		return nil
	}
	req := chatproto.SearchReq{
		Room: s.room, From: s.q.From, Terms: s.q.Terms, Cursor: s.cursor.server, Limit: uint32(min(s.limit, chatproto.MaxPage)),
		After: micro(s.q.After), Before: micro(s.q.Before),
	}
	var res chatproto.SearchRes
	err = s.c.retry(ctx, func(l *link) error { return call(ctx, l, chatproto.Search, &req, &res) })
	if err != nil {
		return err
	}
	s.next = res.Cursor
	for i := range res.Messages {
		if i >= s.cursor.used {
			m := &res.Messages[i]
			s.remote = append(s.remote, s.c.message(s.c.row(m.Room), m))
		}
	}
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
		moreRemote := !remote && !s.cursor.noServer && s.next != 0
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
	s.cursor.used += r
	if r == len(s.remote) {
		s.cursor.server, s.cursor.used = s.next, 0
		s.cursor.noServer = s.cursor.noServer || s.next == 0
	}
	s.cursor.noLocal = s.cursor.noLocal || n == len(s.near) && len(s.near) < s.limit
	s.cursor.done = s.cursor.noServer && s.cursor.noLocal
	return slices.Clip(found)
}

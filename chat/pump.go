package chat

import (
	"context"
	"fmt"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// pump makes events of what a link's feed delivers. It runs on the client's
// run goroutine: entries of one room are handed out by nobody else, so that a
// cursor per room is enough for "each once, in order".
type pump struct {
	link *link
	c    *Client
}

// push hands an event to the program. It waits until the program takes it, the
// session is over or the client is closed.
func (p *pump) push(ctx context.Context, e Event) error {
	if p.c.cfg.NoEvents {
		return nil
	}
	select {
	case p.c.queue <- e:
		return nil
	default:
	}
	select {
	case p.c.queue <- e:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// catchUp hands out what a snapshot has changed, and then the entries that the
// rooms have above their cursors.
func (p *pump) catchUp(ctx context.Context) error {
	c := p.c
	for len(c.logged) > 0 {
		if err := p.push(ctx, c.logged[0]); err != nil {
			return err
		}
		c.logged = c.logged[1:]
	}
	if c.cfg.NoEvents {
		return nil
	}
	if err := p.keys(ctx); err != nil {
		return err
	}
	for _, r := range c.roomList() {
		if r.ref && !r.begun {
			continue // the feed will tell of it
		}
		if err := p.begin(ctx, r); err != nil {
			return err
		}
		if err := p.suspect(ctx, r); err != nil {
			return err
		}
		if err := p.fill(ctx, r, c.lastOf(r)); err != nil {
			return err
		}
	}
	return nil
}

// cut asks for a snapshot because events were dropped, unless a snapshot has
// been taken since.
func (p *pump) cut(ctx context.Context, first uint64) error {
	if first < p.link.next {
		return nil
	}
	p.c.log.Debug("the live feed was cut", "event", first)
	if err := p.link.sync(ctx); err != nil {
		return err
	}
	return p.catchUp(ctx)
}

func (c *Client) roomList() []*room {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*room, 0, len(c.rooms))
	for _, r := range c.rooms {
		all = append(all, r)
	}
	return all
}

func (c *Client) lastOf(r *room) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.state.Info.Last
}

// take handles a delivery. Events below the snapshot's number are contained in
// it. A delivery beyond the expected number means that some were lost.
func (p *pump) take(ctx context.Context, b batch) error {
	if b.first > p.link.next {
		if err := p.cut(ctx, b.first); err != nil {
			return err
		}
	}
	for i, m := range b.events {
		if b.first+uint64(i) < p.link.next || m == nil {
			continue
		}
		if err := p.event(ctx, m); err != nil {
			return err
		}
	}
	p.link.next = max(p.link.next, b.first+uint64(len(b.events)))
	return nil
}

func (p *pump) event(ctx context.Context, m rpc.Message) error {
	switch m := m.(type) {
	case *chatproto.Message:
		return p.message(ctx, m)
	case *chatproto.Presence:
		return p.presence(ctx, m)
	case *chatproto.RoomState:
		return p.room(ctx, m)
	case *chatproto.RoomGone:
		return p.gone(ctx, m.Room)
	case *chatproto.Mark:
		if e, ok := p.c.mark(m); ok {
			return p.push(ctx, &e)
		}
	case *chatproto.TypingEvent:
		if info, ok := p.c.roomInfo(m.Room); ok {
			return p.push(ctx, &Typing{Room: m.Room, RoomName: info.Title(), User: m.User})
		}
	case *chatproto.Notice:
		return p.push(ctx, &Notice{m.Text})
	case *chatproto.DevicesEvent:
		return p.devicesChanged(ctx, m.User)
	case *chatproto.Mail:
		return p.keys(ctx)
	}
	return nil
}

func (p *pump) presence(ctx context.Context, m *chatproto.Presence) error {
	c := p.c
	c.mu.Lock()
	if m.State == chatproto.Offline {
		delete(c.users, m.User)
	} else if _, known := c.users[m.User]; known || len(c.users) < chatproto.MaxUsers {
		c.users[m.User] = *m
	}
	c.mu.Unlock()
	e := presence(m)
	return p.push(ctx, &e)
}

// room takes in that the user came into a room, or that it changed. The event of
// a room that the user came into precedes its first entry.
func (p *pump) room(ctx context.Context, s *chatproto.RoomState) error {
	c := p.c
	c.sealed.pin(&s.Info)
	c.mu.Lock()
	r := c.rooms[s.Info.Room]
	if r == nil && len(c.rooms) < maxRooms {
		r = &room{ref: true}
		c.rooms[s.Info.Room] = r
	}
	if r == nil {
		c.mu.Unlock()
		return nil
	}
	isNew := r.ref
	if !r.begun {
		r.begun, r.cursor = true, s.Info.Last
	}
	r.ref = false
	r.update(s)
	e := RoomChanged{Room: r.info(), New: isNew}
	c.mu.Unlock()
	if err := p.push(ctx, &e); err != nil {
		return err
	}
	return p.suspect(ctx, r)
}

func (p *pump) gone(ctx context.Context, id chatproto.RoomID) error {
	c := p.c
	c.mu.Lock()
	r := c.rooms[id]
	if r == nil {
		c.mu.Unlock()
		return nil
	}
	delete(c.rooms, id)
	e := RoomGone{r.info()}
	c.mu.Unlock()
	p.link.forget(id)
	return p.push(ctx, &e)
}

// begin finds where the entries of a room begin that the user came into
// meanwhile: with the one that says so.
func (p *pump) begin(ctx context.Context, r *room) error {
	if r.begun {
		return nil
	}
	cursor := uint64(0)
	if r.state.Info.Kind != chatproto.RoomDirect {
		page, err := p.history(ctx, r.state.Info.Room, &chatproto.HistoryReq{})
		if err != nil {
			return p.pass(r, err)
		}
		cursor = page.Last
		for i := range page.Messages {
			if p.c.cameBy(&page.Messages[i]) {
				cursor = page.Messages[i].Seq - 1
			}
		}
	}
	r.begun, r.cursor = true, cursor
	return nil
}

// cameBy reports whether the user came into a room by this entry.
func (c *Client) cameBy(m *chatproto.Message) bool {
	switch m.Kind {
	case chatproto.KindCreate, chatproto.KindJoin:
		return m.From == c.user
	case chatproto.KindInvite:
		return m.Target == c.user
	}
	return false
}

// message takes in an entry. What is missing before it is fetched.
func (p *pump) message(ctx context.Context, m *chatproto.Message) error {
	c := p.c
	c.mu.Lock()
	r := c.rooms[m.Room]
	c.mu.Unlock()
	if r == nil {
		return nil // the user is no longer in it
	}
	if !r.begun {
		r.begun, r.cursor = true, m.Seq-min(m.Seq, 1)
	}
	switch {
	case c.cfg.NoEvents:
		c.count(r, m)
		r.cursor = max(r.cursor, m.Seq)
	case m.Seq <= r.cursor:
	case r.sealed() && c.sealed != nil:
		return p.fillSealed(ctx, r, m.Seq, m)
	case m.Seq > r.cursor+1:
		if err := p.fill(ctx, r, m.Seq-1); err != nil {
			return err
		}
		fallthrough
	default:
		c.count(r, m)
		return p.hand(ctx, r, c.message(r, m))
	}
	return nil
}

// hand hands out the next entry of a room.
func (p *pump) hand(ctx context.Context, r *room, m Message) error {
	if m.Seq <= r.cursor {
		return nil
	}
	if err := p.push(ctx, &m); err != nil {
		return err
	}
	r.cursor = m.Seq
	return nil
}

// fill hands out the entries of a room up to a sequence number.
func (p *pump) fill(ctx context.Context, r *room, upTo uint64) error {
	if r.sealed() && p.c.sealed != nil {
		return p.fillSealed(ctx, r, upTo, nil)
	}
	for r.cursor < upTo {
		page, err := p.history(ctx, r.state.Info.Room, &chatproto.HistoryReq{After: r.cursor})
		if err != nil {
			return p.pass(r, err)
		}
		if len(page.Messages) == 0 {
			return nil // kept no longer, or the snapshot is older than the room
		}
		if first := page.Messages[0].Seq; first > r.cursor+1 {
			if err := p.missing(ctx, r, first); err != nil {
				return err
			}
		}
		for i := range page.Messages {
			m := &page.Messages[i]
			p.c.count(r, m)
			if err := p.hand(ctx, r, p.c.message(r, m)); err != nil {
				return err
			}
		}
	}
	return nil
}

// missing tells that entries before first are no longer kept.
func (p *pump) missing(ctx context.Context, r *room, first uint64) error {
	text := fmt.Sprintf("%d entries are no longer kept by the server", first-r.cursor-1)
	if err := p.push(ctx, &Warning{Room: r.state.Info.Room, RoomName: r.title(), Text: text}); err != nil {
		return err
	}
	r.cursor = first - 1
	return nil
}

// history fetches a page and checks that it is one.
func (p *pump) history(ctx context.Context, room chatproto.RoomID, req *chatproto.HistoryReq) (*chatproto.HistoryRes, error) {
	return p.link.history(ctx, room, req)
}

func (l *link) history(ctx context.Context, room chatproto.RoomID, req *chatproto.HistoryReq) (*chatproto.HistoryRes, error) {
	res := new(chatproto.HistoryRes)
	if err := callRoom(ctx, l, room, chatproto.History, req, res); err != nil {
		return nil, err
	}
	next := req.After + 1
	for i := range res.Messages {
		m := &res.Messages[i]
		if m.Room != room || m.Seq < next || i > 0 && m.Seq != next || req.Before > 0 && m.Seq >= req.Before {
			return nil, fmt.Errorf("%w: history of room %d has entry %d of room %d for %d", rpc.ErrBadRequest, room, m.Seq, m.Room, next)
		}
		next = m.Seq + 1
	}
	return res, nil
}

// pass lets a room be that the user is no longer in; the feed will tell.
func (p *pump) pass(r *room, err error) error {
	if isService(err) {
		p.c.log.Warn("entries of a room cannot be fetched", "room", r.state.Info.Room, "err", err)
		return nil
	}
	return err
}

// message makes a Message of an entry that is not sealed, or cannot be opened.
func (c *Client) message(r *room, m *chatproto.Message) Message {
	e := Message{
		Room: m.Room, RoomName: r.title(), Seq: m.Seq, ID: m.ID, Kind: m.Kind, From: m.From, Target: m.Target,
		Time: time.UnixMicro(m.Time), Sent: sentTime(m.Sent),
	}
	switch m.Kind {
	case chatproto.KindText, chatproto.KindAction, chatproto.KindTopic:
		e.Text = string(m.Body)
	case chatproto.KindSealed:
		e.Sealed, e.Closed = true, true
	}
	return e
}

func sentTime(micro int64) time.Time {
	if micro == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micro)
}

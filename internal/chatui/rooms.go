package chatui

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// room returns the room with this id, or nil.
func (m *model) room(id chatproto.RoomID) *roomView {
	for _, r := range m.rooms {
		if r.info.ID == id {
			return r
		}
	}
	return nil
}

func (m *model) roomChanged(info chat.RoomInfo) *roomView {
	r := m.room(info.ID)
	if r == nil {
		r = &roomView{me: m.client.User()}
		m.rooms = append(m.rooms, r)
	}
	if info.Unread > 0 && r.newAfter == 0 && r != m.current {
		r.newAfter = max(info.Read, 1)
	}
	r.info = info
	slices.SortFunc(m.rooms, func(a, b *roomView) int {
		return cmp.Or(
			cmp.Compare(a.group(), b.group()),
			strings.Compare(strings.ToLower(a.info.Title()), strings.ToLower(b.info.Title())),
			cmp.Compare(a.info.ID, b.info.ID))
	})
	return r
}

// group puts direct rooms below the others.
func (r *roomView) group() int {
	if r.info.Kind == chatproto.RoomDirect {
		return 1
	}
	return 0
}

func (m *model) roomGone(info chat.RoomInfo) {
	at := slices.IndexFunc(m.rooms, func(r *roomView) bool { return r.info.ID == info.ID })
	if at < 0 {
		return
	}
	gone := m.rooms[at]
	m.rooms = slices.Delete(m.rooms, at, at+1)
	if m.current == gone {
		m.current = m.home
		if len(m.rooms) > 0 {
			m.current = m.rooms[max(0, at-1)]
		}
	}
	m.note(kindNote, "you are no longer in "+title(&info))
}

// open makes the room with this name the shown one: a room that the user is in,
// @user, or a public room to join.
func (m *model) open(name string) tea.Cmd {
	return m.call(func(ctx context.Context) tea.Msg {
		user, direct := strings.CutPrefix(name, "@")
		r, err := m.client.Room(name)
		switch {
		case err == nil:
		case direct:
			r, err = m.client.Direct(ctx, user)
		default:
			r, err = m.client.Join(ctx, name)
		}
		if err != nil {
			return openedMsg{name: name, err: err}
		}
		return openedMsg{name: name, room: r.Info()}
	})
}

func (m *model) opened(msg openedMsg) tea.Cmd {
	if msg.err != nil {
		m.note(kindError, msg.name+": "+m.reason(msg.err))
		return nil
	}
	r := m.room(msg.room.ID)
	if r == nil {
		r = m.roomChanged(msg.room)
	}
	return m.show(r)
}

// reason is an error as a person reads it.
func (m *model) reason(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "the server does not answer"
	}
	return err.Error()
}

// show makes r the current room.
func (m *model) show(r *roomView) tea.Cmd {
	if r == nil || r == m.current {
		return nil
	}
	if m.current.scroll == 0 && m.current.past == nil {
		m.current.newAfter = 0
		m.current.live.trim()
	}
	m.current, m.complete, m.search = r, nil, nil
	if r.opened && !r.shown().failed {
		return nil
	}
	r.opened, r.shown().failed = true, false
	return tea.Batch(m.earlier(r), m.loadMembers(r))
}

// handleOf returns the room of the client. It may be called from commands.
func (m *model) handleOf(id chatproto.RoomID) (Room, error) {
	return m.client.Room(strconv.FormatUint(uint64(id), 10))
}

func (m *model) loadMembers(r *roomView) tea.Cmd {
	id := r.info.ID
	return m.call(func(ctx context.Context) tea.Msg {
		h, err := m.handleOf(id)
		if err != nil {
			return nil
		}
		users, err := h.Members(ctx)
		if err != nil {
			return nil
		}
		slices.Sort(users)
		return membersMsg{id, users}
	})
}

// earlier loads the page before what is shown.
func (m *model) earlier(r *roomView) tea.Cmd {
	s := r.shown()
	if s.loading || s.failed || s.atStart || r == m.home {
		return nil
	}
	return m.loadPage(r, s, s.first(), false)
}

// later loads the page after what is shown of the past.
func (m *model) later(r *roomView) tea.Cmd {
	s := r.past
	if s == nil || s.loading || s.failed {
		return nil
	}
	return m.loadPage(r, s, s.last()+pageSize+1, true)
}

func (m *model) loadPage(r *roomView, s *stretch, before uint64, after bool) tea.Cmd {
	s.loading = true
	id := r.info.ID
	return m.call(func(ctx context.Context) tea.Msg {
		h, err := m.handleOf(id)
		if err != nil {
			return pageMsg{room: id, of: s, err: err}
		}
		messages, err := h.History(ctx, before, pageSize)
		return pageMsg{id, s, after, messages, err}
	})
}

func (m *model) page(msg pageMsg) {
	msg.of.loading, msg.of.failed = false, msg.err != nil
	r := m.room(msg.room)
	if r == nil {
		return
	}
	if msg.err != nil {
		m.noteIn(r, kindError, "history: "+m.reason(msg.err))
		return
	}
	had := msg.of.last()
	msg.of.add(msg.messages...)
	if !msg.after {
		first := msg.of.first()
		msg.of.atStart = len(msg.messages) == 0 || first <= 1 || first <= r.info.First
	} else if r.past == msg.of && had > 0 {
		r.scroll += r.countAfter(had, m.paneWidth())
	}
	r.joinUp()
	if r.target > 0 && had == 0 && msg.of != &r.live {
		m.scrollTo(r, r.target)
	}
}

package chatui

import (
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
)

// take takes a batch of events.
func (m *model) take(events []chat.Event) tea.Cmd {
	below := make(map[*roomView]uint64)
	if m.current.scroll > 0 {
		below[m.current] = m.current.shown().last()
	}
	before := m.belowCount(below)
	var cmds []tea.Cmd
	for _, e := range events {
		cmds = append(cmds, m.event(e))
	}
	for r := range below {
		r.scroll += max(0, m.belowCount(below)-before)
	}
	return tea.Batch(cmds...)
}

// belowCount counts the lines after the entry that is given for the current room.
func (m *model) belowCount(of map[*roomView]uint64) int {
	for r, seq := range of {
		return r.countAfter(seq, m.paneWidth())
	}
	return 0
}

func (m *model) event(e chat.Event) tea.Cmd {
	switch e := e.(type) {
	case *chat.Message:
		m.message(e)
	case *chat.Presence:
		m.users[e.User] = *e
	case *chat.RoomChanged:
		m.roomChanged(e.Room)
		if m.current == m.home {
			return m.show(m.room(e.Room.ID))
		}
	case *chat.RoomGone:
		m.roomGone(e.Room)
	case *chat.ReadMark:
		if r := m.room(e.Room); r != nil {
			r.info.Read, r.info.Unread = e.Read, e.Unread
			r.marked = max(r.marked, e.Read)
		}
	case *chat.Typing:
		if r := m.room(e.Room); r != nil && e.User != m.client.User() {
			if r.typing == nil {
				r.typing = make(map[string]time.Time)
			}
			if len(r.typing) < maxTyping {
				r.typing[e.User] = m.now().Add(chat.TypingFor)
			}
		}
	case *chat.Notice:
		m.note(kindNote, "server: "+e.Text)
	case *chat.Connection:
		m.connection(e.Status)
	case *chat.Warning:
		m.warning(e)
	case *chat.Failed:
		m.failed(e)
	}
	return nil
}

// maxTyping bounds how many are remembered to be typing in one room.
const maxTyping = 16

func (m *model) message(e *chat.Message) {
	r := m.room(e.Room)
	if r == nil {
		return // the room's own event comes with it
	}
	if e.Pending {
		r.pend(*e)
		return
	}
	if !r.arrived(e) {
		return
	}
	if e.Said() && !e.Refused && e.From != m.client.User() {
		r.info.Unread++
		if r.newAfter == 0 && (r != m.current || !m.focused || r.scroll > 0) {
			r.newAfter = e.Seq - 1
		}
	} else if e.From == m.client.User() {
		r.newAfter = 0
	}
	if r != m.current || r.scroll == 0 {
		r.live.trim()
	}
}

func (m *model) connection(s chat.Status) {
	switch {
	case s.Connected && m.lost:
		m.note(kindNote, "connected again")
	case !s.Connected && !m.lost:
		m.note(kindNote, "there is no connection; what you say waits until it is back")
	}
	m.status, m.lost = s, !s.Connected
	if s.Connected {
		m.current.shown().failed = false
		m.refresh()
	}
}

func (m *model) warning(w *chat.Warning) {
	r := m.room(w.Room)
	if r == nil {
		r = m.current
	}
	m.noteIn(r, kindWarning, w.Text)
}

func (m *model) failed(f *chat.Failed) {
	r := m.room(f.Message.Room)
	if r == nil {
		r = m.current
	}
	r.unpend(f.Message.ID)
	m.noteIn(r, kindError, "not sent: "+f.Err.Error()+"\n"+f.Message.Text)
}

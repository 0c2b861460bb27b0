package chatui

import (
	"context"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/internal/clean"
)

// newlineMark stands for the end of a line in the input, which has one line.
const newlineMark = "↵"

// key does what a key asks for.
func (m *model) key(k tea.KeyPressMsg) tea.Cmd {
	name := k.String()
	if name != "tab" && name != "shift+tab" {
		m.complete = nil
	}
	if m.search != nil {
		if cmd, taken := m.searchKey(name); taken {
			return cmd
		}
	}
	if cmd, taken := m.moveKey(name); taken {
		return cmd
	}
	switch name {
	case "ctrl+c":
		if m.input.Value() == "" {
			return tea.Quit
		}
		m.input.Reset()
	case "ctrl+d":
		if m.input.Value() == "" {
			return tea.Quit
		}
		return m.edit(k)
	case "enter":
		return m.enter()
	case "alt+enter", "ctrl+j":
		return m.edit(tea.PasteMsg{Content: newlineMark})
	case "tab":
		m.completeWord(1)
	case "shift+tab":
		m.completeWord(-1)
	case "up":
		m.setInput(m.past.earlier(m.input.Value()))
	case "down":
		m.setInput(m.past.later(m.input.Value()))
	case "f1":
		m.help()
	case "ctrl+l":
		return tea.ClearScreen
	case "ctrl+z":
		return tea.Suspend
	case "esc":
		m.toEnd()
	default:
		return m.edit(k)
	}
	return nil
}

// moveKey does what the keys for scrolling and for changing the room ask for.
func (m *model) moveKey(name string) (cmd tea.Cmd, taken bool) {
	page := max(1, m.paneHeight()-2)
	switch name {
	case "pgup":
		m.scroll(page)
	case "pgdown":
		m.scroll(-page)
	case "shift+up":
		m.scroll(1)
	case "shift+down":
		m.scroll(-1)
	case "ctrl+home":
		m.scroll(1 << 20)
	case "ctrl+end":
		m.toEnd()
	case "ctrl+n", "alt+down":
		return m.step(1), true
	case "ctrl+p", "alt+up":
		return m.step(-1), true
	case "alt+a":
		return m.nextUnread(), true
	default:
		if digit, ok := strings.CutPrefix(name, "alt+"); ok && len(digit) == 1 && digit >= "1" && digit <= "9" {
			if i := int(digit[0] - '1'); i < len(m.rooms) {
				return m.show(m.rooms[i]), true
			}
			return nil, true
		}
		return nil, false
	}
	return nil, true
}

// scroll moves the message pane up by n lines; View keeps it in bounds.
func (m *model) scroll(n int) {
	m.current.shown().failed = false
	m.current.scroll = max(0, m.current.scroll+n)
}

// toEnd shows the newest messages.
func (m *model) toEnd() {
	m.current.scroll, m.current.past, m.current.target = 0, nil, 0
	m.current.live.failed = false
}

// step goes n rooms down the list.
func (m *model) step(n int) tea.Cmd {
	for i, r := range m.rooms {
		if r == m.current {
			return m.show(m.rooms[(i+n+len(m.rooms))%len(m.rooms)])
		}
	}
	return nil
}

// nextUnread goes to the next room with something new, after the current one.
func (m *model) nextUnread() tea.Cmd {
	at := 0
	for i, r := range m.rooms {
		if r == m.current {
			at = i + 1
		}
	}
	for i := range m.rooms {
		if r := m.rooms[(at+i)%len(m.rooms)]; r.info.Unread > 0 {
			return m.show(r)
		}
	}
	return nil
}

// mouseEvent scrolls, and shows the room that is clicked on.
func (m *model) mouseEvent(msg tea.MouseMsg) tea.Cmd {
	e := msg.Mouse()
	switch msg.(type) {
	case tea.MouseWheelMsg:
		switch e.Button {
		case tea.MouseWheelUp:
			m.scroll(3)
		case tea.MouseWheelDown:
			m.scroll(-3)
		}
	case tea.MouseClickMsg:
		if i := e.Y - 1 + m.listOffset(); e.X < m.listWidth() && e.Y >= 1 && e.Y <= m.paneHeight() && i < len(m.rooms) {
			return m.show(m.rooms[i])
		}
	}
	return nil
}

// paste puts a text into the input, its ends of lines as marks.
func (m *model) paste(text string) tea.Cmd {
	text = strings.TrimSuffix(clean.Text(text), "\n")
	return m.edit(tea.PasteMsg{Content: strings.ReplaceAll(text, "\n", newlineMark)})
}

// edit passes a key or a text on to the input, and tells the others that
// something is being typed.
func (m *model) edit(msg tea.Msg) tea.Cmd {
	before := m.input.Value()
	var cmd tea.Cmd
	m.input, cmd = m.input.Update(msg)
	value := m.input.Value()
	if value == before || value == "" || strings.HasPrefix(value, "/") && !strings.HasPrefix(value, "//") || m.current == m.home {
		return cmd
	}
	id := m.current.info.ID
	return tea.Batch(cmd, m.call(func(ctx context.Context) tea.Msg {
		if r, err := m.handleOf(id); err == nil {
			_ = r.Typing(ctx) // it is of no account
		}
		return nil
	}))
}

func (m *model) setInput(text string) {
	m.input.SetValue(text)
	m.input.CursorEnd()
}

// enter says the line, or does what the command in it asks for.
func (m *model) enter() tea.Cmd {
	text := strings.TrimRight(m.input.Value(), " ")
	if strings.TrimLeft(text, " ") == "" {
		return nil
	}
	m.past.add(text)
	m.input.Reset()
	line := strings.ReplaceAll(text, newlineMark, "\n")
	if !strings.HasPrefix(line, "/") {
		return m.say(line)
	}
	if strings.HasPrefix(line, "//") {
		return m.say(line[1:])
	}
	return m.command(line[1:])
}

// say sends a text to the current room.
func (m *model) say(text string) tea.Cmd {
	return m.send(chatproto.KindText, text)
}

func (m *model) send(kind uint8, text string) tea.Cmd {
	r := m.current
	if r == m.home {
		m.note(kindError, "you are in no room; /join one first")
		return nil
	}
	if err := chatproto.CheckText(text, chatproto.MaxText); err != nil {
		m.note(kindError, err.Error())
		return nil
	}
	m.toEnd()
	id := r.info.ID
	return m.enqueue(func() tea.Msg {
		h, err := m.handleOf(id)
		var sent chatproto.ID
		switch {
		case err != nil:
		case kind == chatproto.KindAction:
			sent, err = h.SendAct(text)
		default:
			sent, err = h.Send(text)
		}
		return sentMsg{room: r, text: text, err: err, msg: chat.Message{
			Room: id, ID: sent, Kind: kind, From: m.client.User(), Text: text, Pending: true,
		}}
	})
}

// enqueue runs f after everything that was put into the queue before: the order
// of what is said stays.
func (m *model) enqueue(f func() tea.Msg) tea.Cmd {
	m.queue = append(m.queue, f)
	return m.dequeue()
}

func (m *model) dequeue() tea.Cmd {
	if m.sending || len(m.queue) == 0 {
		return nil
	}
	f := m.queue[0]
	m.queue, m.sending = m.queue[1:], true
	return func() tea.Msg { return f() }
}

func (m *model) sent(msg sentMsg) tea.Cmd {
	m.sending = false
	switch {
	case msg.err != nil:
		m.noteIn(msg.room, kindError, "not sent: "+m.reason(msg.err)+"\n"+msg.text)
	case msg.note != "":
		m.noteIn(msg.room, kindNote, msg.note)
	default:
		msg.room.pend(msg.msg)
	}
	m.status = m.client.Status()
	return m.dequeue()
}

// afterwards does what the new screen asks for: it tells the server what has
// been read, and loads what comes into sight.
func (m *model) afterwards() tea.Cmd {
	r := m.current
	if r == m.home || m.search != nil {
		return nil
	}
	lines, top := r.lines(m.paneWidth(), m.paneHeight())
	var cmds []tea.Cmd
	if top && r.opened {
		cmds = append(cmds, m.earlier(r))
	}
	if r.past != nil && r.scroll == 0 {
		cmds = append(cmds, m.later(r))
	}
	var seen uint64
	for _, l := range lines {
		seen = max(seen, l.seq)
	}
	if m.focused && seen > max(r.marked, r.info.Read) && !r.marking && m.status.Connected {
		cmds = append(cmds, m.markRead(r, seen))
	}
	return tea.Batch(cmds...)
}

func (m *model) markRead(r *roomView, seq uint64) tea.Cmd {
	r.marking = true
	id := r.info.ID
	return m.call(func(ctx context.Context) tea.Msg {
		h, err := m.handleOf(id)
		if err == nil {
			err = h.MarkRead(ctx, seq)
		}
		return markedMsg{id, seq, err}
	})
}

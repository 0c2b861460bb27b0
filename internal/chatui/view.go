package chatui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/internal/clean"
)

// The screen:
//
//	header      the room, its topic
//	list │ pane rooms, and what was said
//	status      connection, who types
//	input
const (
	otherRows   = 3  // header, status, input
	listFrom    = 60 // columns from which there is room for the list
	smallList   = 16
	largeList   = 22
	largeFrom   = 100
	prompt      = "> "
	minimalSize = 5
)

func (m *model) paneHeight() int { return max(1, m.height-otherRows) }

// border is what stands between the list and the pane.
const border = "│ "

// listWidth is the width of the room list with its border.
func (m *model) listWidth() int {
	switch {
	case m.width < listFrom:
		return 0
	case m.width < largeFrom:
		return smallList + 2
	}
	return largeList + 2
}

func (m *model) paneWidth() int { return max(minimalSize, m.width-m.listWidth()) }

// View draws the screen.
func (m *model) View() tea.View {
	pane := m.pane()
	list := m.list()
	rows := []string{styleHeader.Render(clean.Pad(m.header(), m.width))}
	for i := range m.paneHeight() {
		var text string
		if i < len(pane) {
			text = pane[i]
		}
		if m.listWidth() > 0 {
			text = list[i] + styleDim.Render(border) + text
		}
		rows = append(rows, text)
	}
	input, x := m.inputLine()
	rows = append(rows, m.statusLine(), input)
	v := tea.NewView(strings.Join(rows, "\n"))
	v.AltScreen, v.ReportFocus = true, true
	v.WindowTitle = "rpycfs chat " + title(&m.current.info)
	if m.mouse {
		v.MouseMode = tea.MouseModeCellMotion
	}
	v.Cursor = tea.NewCursor(x, len(rows)-1)
	return v
}

// pane returns the lines of the message pane; messages stand at its bottom.
func (m *model) pane() []string {
	width, height := m.paneWidth(), m.paneHeight()
	if m.search != nil {
		return m.search.lines(m, width, height)
	}
	lines, _ := m.current.lines(width, height)
	out := make([]string, max(0, height-len(lines)), height)
	for _, l := range lines {
		out = append(out, l.text)
	}
	return out
}

// roomTitle is a room's name as it is shown: #name or @user.
func roomTitle(name string) string {
	name = clean.Line(name)
	if strings.HasPrefix(name, "@") {
		return name
	}
	return "#" + name
}

func title(info *chat.RoomInfo) string {
	if info.ID == 0 {
		return "rpycfs"
	}
	return roomTitle(info.Title())
}

func (m *model) header() string {
	info := &m.current.info
	text := " " + title(info)
	switch {
	case info.ID == 0:
		return text + "  /rooms lists the rooms, /join goes into one, /help tells more"
	case info.Kind == chatproto.RoomDirect:
		p := m.users[info.Peer]
		text += "  " + presence(p.State)
		if p.Text != "" {
			text += ": " + clean.Line(p.Text)
		}
		return text
	}
	if what := roomKind(info.Kind); what != "" {
		text += " · " + what
	}
	text += " · " + Members(max(info.Members, len(m.current.members)))
	if info.Topic != "" {
		text += " · " + clean.Line(info.Topic)
	}
	return text
}

// listOffset is the first room that the list shows.
func (m *model) listOffset() int {
	at := slices.Index(m.rooms, m.current)
	return max(0, at-m.paneHeight()+1)
}

// list returns the rows of the room list.
func (m *model) list() []string {
	width := m.listWidth() - 2
	if width < 0 {
		return nil
	}
	rows := make([]string, m.paneHeight())
	for i := range rows {
		rows[i] = strings.Repeat(" ", width)
		if at := i + m.listOffset(); at < len(m.rooms) {
			rows[i] = m.listRow(m.rooms[at], width)
		}
	}
	return rows
}

func (m *model) listRow(r *roomView, width int) string {
	name, count := title(&r.info), ""
	if r != m.current || r.scroll > 0 || !m.focused {
		count = unreadCount(r.info.Unread)
	}
	dot := " "
	if r.info.Kind == chatproto.RoomDirect {
		dot = m.presenceDot(r.info.Peer)
	}
	// One column for the dot, one between, one before the border.
	text := clean.Pad(name, width-3-len(count)) + " " + count
	switch {
	case r == m.current:
		return dot + styleSelected.Render(text) + " "
	case count != "":
		return dot + styleUnread.Render(text) + " "
	}
	return dot + text + " "
}

func unreadCount(n int) string {
	switch {
	case n <= 0:
		return ""
	case n >= chatproto.MaxUnread:
		return "1k+"
	}
	return fmt.Sprint(n)
}

// presenceDot shows by its form, too, whether a user is there.
func (m *model) presenceDot(user string) string {
	switch m.users[user].State {
	case chatproto.Online:
		return styleOnline.Render("●")
	case chatproto.Away:
		return styleAway.Render("◐")
	}
	return styleDim.Render("○")
}

// statusLine tells about the connection first, then about what goes on.
func (m *model) statusLine() string {
	var parts []string
	trouble := m.connectionText()
	if trouble != "" {
		parts = append(parts, trouble)
	}
	if r := m.current; r.past != nil {
		parts = append(parts, "older messages; Esc shows the newest")
	} else if r.scroll > 0 {
		parts = append(parts, m.belowText(r))
	}
	if t := m.typingText(); t != "" {
		parts = append(parts, t)
	}
	if p := m.users[m.client.User()]; p.State == chatproto.Away && m.status.Connected {
		parts = append(parts, "you are away")
	}
	if m.listWidth() == 0 {
		if u := m.unreadText(); u != "" {
			parts = append(parts, u)
		}
	}
	if trouble == "" {
		parts = append(parts, clean.Line(m.client.User()+" at "+m.server))
	}
	return styleStatus.Render(clean.Pad(" "+strings.Join(parts, " · "), m.width))
}

// connectionText is empty while all is well.
func (m *model) connectionText() string {
	s := m.status
	waiting := ""
	switch {
	case s.Outbox == 1:
		waiting = "1 message waits"
	case s.Outbox > 1:
		waiting = fmt.Sprintf("%d messages wait", s.Outbox)
	}
	switch {
	case m.ended != nil:
		return "the session is over"
	case s.Connected:
		return ""
	}
	text := "reconnecting"
	if wait := s.NextTry.Sub(m.now()); wait > 0 {
		text += fmt.Sprintf(", next try in %d s", int((wait+time.Second-1)/time.Second))
	}
	if waiting != "" {
		text += "; " + waiting
	}
	return text
}

func (m *model) belowText(r *roomView) string {
	if r.info.Unread > 0 {
		return "↓ " + unreadCount(r.info.Unread) + " new below"
	}
	return fmt.Sprintf("↓ %d lines below", r.scroll)
}

func (m *model) typingText() string {
	var names []string
	for user := range m.current.typing {
		names = append(names, userName(user))
	}
	slices.Sort(names)
	switch len(names) {
	case 0:
		return ""
	case 1:
		return names[0] + " is typing"
	case 2:
		return names[0] + " and " + names[1] + " are typing"
	}
	return "several are typing"
}

// unreadText stands in for the list where there is no room for it.
func (m *model) unreadText() string {
	var parts []string
	for _, r := range m.rooms {
		if n := unreadCount(r.info.Unread); n != "" && r != m.current {
			parts = append(parts, title(&r.info)+" "+n)
		}
	}
	return strings.Join(parts, " ")
}

// inputLine draws the input around the cursor, and returns the cursor's column.
func (m *model) inputLine() (text string, x int) {
	room := max(1, m.width-len(prompt)-1)
	value := []rune(m.input.Value())
	pos := m.input.Position()
	begin := 0
	for clean.Width(clean.Line(string(value[begin:pos]))) > room {
		begin += max(1, (pos-begin)/4)
	}
	before := clean.Line(string(value[begin:pos]))
	x = clean.Width(before)
	after := clean.Truncate(clean.Line(string(value[pos:])), max(0, room-x+1))
	return prompt + before + after, len(prompt) + x
}

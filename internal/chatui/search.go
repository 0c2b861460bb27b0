package chatui

import (
	"context"
	"slices"

	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/internal/clean"
)

// searchPage is how many results are asked for at once.
const searchPage = 50

// search is the search view: results, newest first.
type search struct {
	query   string
	results []chat.Message
	cursor  chat.Cursor
	at      int  // the selected one
	top     int  // the first one on the screen
	done    bool // there are no more
	loading bool
	err     error
}

// foundMsg is a page of results.
type foundMsg struct {
	of       *search
	messages []chat.Message
	cursor   chat.Cursor
	err      error
}

// startSearch opens the search view.
func (m *model) startSearch(query string) tea.Cmd {
	m.search = &search{query: query}
	return m.more()
}

// more loads the next page of results.
func (m *model) more() tea.Cmd {
	s := m.search
	if s.loading || s.done {
		return nil
	}
	s.loading = true
	query, cursor := s.query, s.cursor
	return m.call(func(ctx context.Context) tea.Msg {
		messages, next, err := m.client.Search(ctx, query, cursor, searchPage)
		return foundMsg{s, messages, next, err}
	})
}

func (m *model) found(msg foundMsg) {
	s := msg.of
	s.loading, s.err = false, msg.err
	s.results = append(s.results, msg.messages...)
	s.cursor = msg.cursor
	s.done = msg.err != nil || msg.cursor.Done()
}

// searchKey does what a key asks for in the search view.
func (m *model) searchKey(name string) (cmd tea.Cmd, taken bool) {
	s, page := m.search, max(1, m.paneHeight()-3)
	switch name {
	case "up":
		s.at--
	case "down":
		s.at++
	case "pgup":
		s.at -= page
	case "pgdown":
		s.at += page
	case "esc":
		m.search = nil
		return nil, true
	case "enter":
		if m.input.Value() != "" {
			return nil, false
		}
		return m.jump(), true
	default:
		return nil, false
	}
	s.at = max(0, min(s.at, len(s.results)-1))
	if s.at > len(s.results)-page {
		return m.more(), true
	}
	return nil, true
}

// jump shows the selected result in its room.
func (m *model) jump() tea.Cmd {
	s := m.search
	if s.at >= len(s.results) {
		return nil
	}
	found := s.results[s.at]
	m.search = nil
	r := m.room(found.Room)
	if r == nil {
		m.note(kindError, "you are no longer in that room")
		return nil
	}
	cmd := m.show(r)
	r.target = found.Seq
	if first := r.live.first(); first > 0 && first <= found.Seq {
		r.past = nil
		m.scrollTo(r, found.Seq)
		return cmd
	}
	r.past = &stretch{}
	return tea.Batch(cmd, m.loadAround(r, found.Seq))
}

// loadAround loads a page with the entry seq in the middle.
func (m *model) loadAround(r *roomView, seq uint64) tea.Cmd {
	return m.loadPage(r, r.past, seq+pageSize/2, false)
}

// scrollTo puts the entry seq into the middle of the pane.
func (m *model) scrollTo(r *roomView, seq uint64) {
	below := r.countAfter(seq, m.paneWidth())
	r.scroll = max(0, below-m.paneHeight()/2)
}

// lines draws the search view.
func (s *search) lines(m *model, width, height int) []string {
	head := "search: " + clean.Line(s.query)
	switch {
	case s.loading:
		head += "  …"
	case s.err != nil:
		head += "  " + clean.Line(m.reason(s.err))
	case len(s.results) == 0:
		head += "  nothing found"
	}
	lines := []string{styleUnread.Render(clean.Truncate(head, width))}
	rows := max(1, height-2)
	s.top = max(0, min(s.top, s.at), s.at-rows+1)
	for i := s.top; i < len(s.results) && i < s.top+rows; i++ {
		text := clean.Truncate(resultLine(&s.results[i]), width)
		if i == s.at {
			text = styleSelected.Render(clean.Pad(text, width))
		}
		lines = append(lines, text)
	}
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	return append(lines, styleDim.Render(clean.Truncate("↑↓ select · Enter shows it in its room · Esc closes", width)))
}

func resultLine(r *chat.Message) string {
	head := r.Time.Local().Format("2006-01-02 15:04 ") + roomTitle(r.RoomName) + " "
	if r.Kind == chatproto.KindAction {
		return head + "* " + userName(r.From) + " " + clean.Line(r.Text)
	}
	if !slices.Contains([]uint8{chatproto.KindText, chatproto.KindSealed}, r.Kind) {
		return head + Record(r)
	}
	return head + "<" + userName(r.From) + "> " + clean.Line(r.Text)
}

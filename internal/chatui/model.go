package chatui

import (
	"context"
	"slices"
	"time"

	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

const (
	pageSize    = 100              // entries of history asked for at once
	callTimeout = 15 * time.Second // for what asks the server
	maxBatch    = 256              // events taken at once
)

// model is the whole state. Only Bubble Tea's goroutine touches it.
type model struct {
	ctx    context.Context
	client Client
	server string // shown in the status line
	start  string // room to open first
	now    func() time.Time

	width, height int
	focused       bool
	mouse         bool

	rooms   []*roomView // in the order of the list
	current *roomView   // never nil
	home    *roomView   // shown while there is no room
	users   map[string]chat.Presence
	status  chat.Status
	lost    bool  // the connection, and it was said
	ended   error // the client gave up

	input    textinput.Model
	past     inputHistory
	complete *completion
	search   *search
	queue    []func() tea.Msg // what is sent, one after the other
	sending  bool

	events chan chat.Event
}

// newModel returns the model of a client. Events come through a channel that
// pump fills.
func newModel(ctx context.Context, client Client, server, start string, now func() time.Time) *model {
	m := &model{
		ctx: ctx, client: client, server: server, start: start, now: now,
		width: 80, height: 24, focused: true,
		users:  make(map[string]chat.Presence),
		home:   &roomView{info: chat.RoomInfo{Name: "rpycfs"}, opened: true},
		input:  textinput.New(),
		events: make(chan chat.Event, maxBatch),
	}
	m.home.live.atStart = true
	m.current = m.home
	m.input.Prompt = ""
	m.input.SetVirtualCursor(false)
	m.input.CharLimit = chatproto.MaxText
	m.input.KeyMap.Paste = key.NewBinding(key.WithDisabled()) // the terminal pastes
	m.input.Focus()
	m.refresh()
	return m
}

// refresh takes over what the client knows at once.
func (m *model) refresh() {
	m.status = m.client.Status()
	for _, p := range m.client.Users() {
		m.users[p.User] = p
	}
	known := make(map[chatproto.RoomID]bool)
	for _, info := range m.client.Rooms() {
		known[info.ID] = true
		m.roomChanged(info)
	}
	for _, r := range slices.Clone(m.rooms) {
		if !known[r.info.ID] {
			m.roomGone(r.info)
		}
	}
	for _, p := range m.client.Pending() {
		if r := m.room(p.Room); r != nil {
			r.pend(p)
		}
	}
}

// Messages of the model's own commands.
type (
	tickMsg   struct{}
	eventsMsg []chat.Event
	endedMsg  struct{}
	// openedMsg tells that a room is there to be shown.
	openedMsg struct {
		name string
		room chat.RoomInfo
		err  error
	}
	// pageMsg is a page of history for a stretch of a room.
	pageMsg struct {
		room     chatproto.RoomID
		of       *stretch
		after    bool // it comes after what is there
		messages []chat.Message
		err      error
	}
	membersMsg struct {
		room  chatproto.RoomID
		users []string
	}
	// noteMsg is an answer to a command.
	noteMsg struct {
		room *roomView
		kind kind
		text string
	}
	// sentMsg tells what became of something that went into the outbox.
	sentMsg struct {
		room *roomView
		msg  chat.Message
		note string // shown when it is there
		text string // what was to be sent, if it failed
		err  error
	}
	markedMsg struct {
		room chatproto.RoomID
		seq  uint64
		err  error
	}
)

// Init starts what runs all the time, and opens the first room.
func (m *model) Init() tea.Cmd {
	return tea.Batch(m.nextEvents(), tick(), m.open(m.start))
}

func tick() tea.Cmd {
	return tea.Tick(time.Second, func(time.Time) tea.Msg { return tickMsg{} })
}

// pump hands the client's events over until they end.
func (m *model) pump() {
	defer close(m.events)
	for e := range m.client.Events(m.ctx) {
		select {
		case m.events <- e:
		case <-m.ctx.Done():
			return
		}
	}
}

// nextEvents waits for events and takes all that are there.
func (m *model) nextEvents() tea.Cmd {
	return func() tea.Msg {
		e, ok := <-m.events
		if !ok {
			return endedMsg{}
		}
		batch := eventsMsg{e}
		for len(batch) < maxBatch {
			select {
			case e, ok := <-m.events:
				if !ok {
					return batch
				}
				batch = append(batch, e)
			default:
				return batch
			}
		}
		return batch
	}
}

// call runs f with a time-out beside the model.
func (m *model) call(f func(ctx context.Context) tea.Msg) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(m.ctx, callTimeout)
		defer cancel()
		return f(ctx)
	}
}

// Update does what a message asks for.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	cmd := m.handle(msg)
	return m, tea.Batch(cmd, m.afterwards())
}

func (m *model) handle(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.FocusMsg:
		m.focused = true
	case tea.BlurMsg:
		m.focused = false
	case tea.KeyPressMsg:
		return m.key(msg)
	case tea.PasteMsg:
		return m.paste(msg.Content)
	case tea.MouseMsg:
		return m.mouseEvent(msg)
	case tickMsg:
		m.tick()
		return tick()
	case eventsMsg:
		return tea.Batch(m.take(msg), m.nextEvents())
	case endedMsg:
		m.end()
	default:
		return m.answer(msg)
	}
	return nil
}

// answer takes what commands have brought.
func (m *model) answer(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case openedMsg:
		return m.opened(msg)
	case pageMsg:
		m.page(msg)
	case membersMsg:
		if r := m.room(msg.room); r != nil {
			r.members = msg.users
		}
	case noteMsg:
		m.noteIn(msg.room, msg.kind, msg.text)
	case sentMsg:
		return m.sent(msg)
	case markedMsg:
		if r := m.room(msg.room); r != nil {
			r.marked, r.marking = max(r.marked, msg.seq), false
			if msg.err == nil && msg.seq >= r.info.Last {
				r.info.Read, r.info.Unread = msg.seq, 0
			}
		}
	case foundMsg:
		m.found(msg)
	}
	return nil
}

func (m *model) tick() {
	m.status = m.client.Status()
	now := m.now()
	for _, r := range m.rooms {
		for user, until := range r.typing {
			if now.After(until) {
				delete(r.typing, user)
			}
		}
	}
}

// end says why there will be no more events.
func (m *model) end() {
	m.ended = m.client.Err()
	if m.ended == nil {
		m.ended = chat.ErrClosed
	}
	m.note(kindError, "the session is over: "+m.ended.Error()+"; /quit ends this program")
}

// note shows something of this program's own in the current room.
func (m *model) note(k kind, text string) { m.noteIn(m.current, k, text) }

func (m *model) noteIn(r *roomView, k kind, text string) {
	if r == nil {
		r = m.current
	}
	r.live.note(k, text, m.now())
	if r == m.current && r.past == nil {
		r.scroll = 0
	}
}

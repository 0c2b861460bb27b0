package chatui

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
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
	if r.opened {
		return nil
	}
	r.opened = true
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
	if s.loading || s.atStart || r == m.home {
		return nil
	}
	return m.loadPage(r, s, s.first(), false)
}

// later loads the page after what is shown of the past.
func (m *model) later(r *roomView) tea.Cmd {
	s := r.past
	if s == nil || s.loading {
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
	msg.of.loading = false
	r := m.room(msg.room)
	if r == nil {
		return
	}
	if msg.err != nil {
		if msg.of == &r.live && r.live.first() == 0 {
			r.opened = false // showing it again tries again
		}
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

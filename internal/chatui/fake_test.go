package chatui

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"go.uber.org/goleak"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

var update = flag.Bool("update", false, "write the screens to testdata")

func TestMain(m *testing.M) {
	time.Local = time.UTC
	goleak.VerifyTestMain(m)
}

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// fakeClient is a server of the test's own making, without any waiting.
type fakeClient struct {
	rooms  []*fakeRoom
	users  []chat.Presence
	status chat.Status
	fail   error // of whatever asks the server
	calls  []string
	found  []chat.Message
}

func newFake() *fakeClient {
	c := &fakeClient{status: chat.Status{Connected: true}}
	c.addRoom("lobby", chatproto.RoomPublic)
	c.addRoom("dev", chatproto.RoomPublic).info.Topic = "the next release"
	c.addRoom("plans", chatproto.RoomSealed)
	c.addRoom("bob", chatproto.RoomDirect)
	c.users = []chat.Presence{
		{User: "alice", State: chatproto.Online}, {User: "bob", State: chatproto.Online}, {User: "carol", State: chatproto.Away, Text: "lunch"},
	}
	return c
}

func (c *fakeClient) addRoom(name string, kind uint8) *fakeRoom {
	r := &fakeRoom{c: c, members: []string{"alice", "bob"}}
	r.info = chat.RoomInfo{ID: chatproto.RoomID(len(c.rooms) + 1), Kind: kind, Name: name, Members: 2, Member: true}
	if kind == chatproto.RoomDirect {
		r.info.Name, r.info.Peer = "", name
	}
	c.rooms = append(c.rooms, r)
	return r
}

func (c *fakeClient) called(format string, args ...any) error {
	c.calls = append(c.calls, fmt.Sprintf(format, args...))
	return c.fail
}

func (c *fakeClient) User() string            { return "alice" }
func (c *fakeClient) Status() chat.Status     { return c.status }
func (c *fakeClient) Err() error              { return errors.New("wrong password") }
func (c *fakeClient) Users() []chat.Presence  { return c.users }
func (c *fakeClient) Pending() []chat.Message { return nil }
func (c *fakeClient) Events(context.Context) iter.Seq[chat.Event] {
	return func(yield func(chat.Event) bool) { yield(&chat.Notice{Text: "from the pump"}) }
}

func (c *fakeClient) Rooms() (infos []chat.RoomInfo) {
	for _, r := range c.rooms {
		if r.info.Member {
			infos = append(infos, r.info)
		}
	}
	return infos
}

func (c *fakeClient) ListRooms(context.Context) ([]chat.RoomInfo, error) { return c.Rooms(), c.fail }

func (c *fakeClient) Room(name string) (Room, error) {
	for _, r := range c.rooms {
		if (r.info.Title() == name || strconv.Itoa(int(r.info.ID)) == name) && r.info.Member {
			return r, nil
		}
	}
	return nil, chatproto.ErrNoRoom
}

func (c *fakeClient) Join(_ context.Context, name string) (Room, error) {
	if name == "nowhere" {
		return nil, chatproto.ErrNoRoom
	}
	r := c.addRoom(name, chatproto.RoomPublic)
	return r, c.called("join %s", name)
}

func (c *fakeClient) Create(_ context.Context, name string, kind uint8, topic string) (Room, error) {
	if chatproto.CheckRoomName(name) != nil {
		return nil, chatproto.ErrName
	}
	r := c.addRoom(name, kind)
	r.info.Topic = topic
	return r, c.called("create %s %d %q", name, kind, topic)
}

func (c *fakeClient) Direct(_ context.Context, user string) (Room, error) {
	if user == "nobody" {
		return nil, chatproto.ErrNoUser
	}
	return c.addRoom(user, chatproto.RoomDirect), c.called("direct %s", user)
}

func (c *fakeClient) Whisper(_ context.Context, user, text string) error {
	return c.called("whisper %s %s", user, text)
}

func (c *fakeClient) SetAway(_ context.Context, away bool, text string) error {
	return c.called("away %v %s", away, text)
}

func (c *fakeClient) Search(_ context.Context, text string, _ chat.Cursor, _ int) ([]chat.Message, chat.Cursor, error) {
	return c.found, chat.Cursor{}, c.called("search %s", text)
}

func (c *fakeClient) Devices(_ context.Context, user string) ([]chat.Device, error) {
	return []chat.Device{{ID: chatproto.DeviceID{0xab, 0xcd}, Name: "laptop", Added: noon, This: true}, {ID: chatproto.DeviceID{0xab, 0xff}, Name: "phone", Added: noon}},
		c.called("devices %s", user)
}

func (c *fakeClient) Fingerprint(_ context.Context, user string) (string, error) {
	return "finger of " + user, c.fail
}
func (c *fakeClient) Verify(_ context.Context, user string) error  { return c.called("verify %s", user) }
func (c *fakeClient) Enrolled(context.Context) error               { return c.fail }
func (c *fakeClient) EnrolRequest(context.Context) (string, error) { return "CODE-1", c.fail }
func (c *fakeClient) Enrol(_ context.Context, code string) (chat.Device, error) {
	return chat.Device{Name: "phone"}, c.called("enrol %s", code)
}
func (c *fakeClient) Revoke(_ context.Context, id chatproto.DeviceID) (bool, error) {
	return true, c.called("revoke %s", id)
}
func (c *fakeClient) Recovery() (string, error) { return "RECOVERY", c.fail }
func (c *fakeClient) Recover(_ context.Context, key string) error {
	return c.called("recover %s", key)
}

type fakeRoom struct {
	c       *fakeClient
	info    chat.RoomInfo
	log     []chat.Message
	members []string
	sent    int
}

func (r *fakeRoom) Info() chat.RoomInfo { return r.info }

func (r *fakeRoom) Send(text string) (chatproto.ID, error) {
	r.sent++
	return chatproto.ID{byte(r.info.ID), byte(r.sent)}, r.c.called("send %s %s", r.info.Title(), text)
}

func (r *fakeRoom) SendAct(text string) (chatproto.ID, error) {
	r.sent++
	return chatproto.ID{byte(r.info.ID), byte(r.sent)}, r.c.called("act %s %s", r.info.Title(), text)
}

func (r *fakeRoom) History(_ context.Context, before uint64, n int) ([]chat.Message, error) {
	end := len(r.log)
	if before > 0 {
		end = min(end, int(before)-1)
	}
	return slices.Clone(r.log[max(0, end-n):end]), r.c.called("history %s %d", r.info.Title(), before)
}

func (r *fakeRoom) Members(context.Context) ([]string, error) {
	return slices.Clone(r.members), r.c.fail
}

func (r *fakeRoom) SetTopic(_ context.Context, topic string) error {
	return r.c.called("topic %s", topic)
}
func (r *fakeRoom) Invite(_ context.Context, user string) error { return r.c.called("invite %s", user) }
func (r *fakeRoom) Remove(_ context.Context, user string) error { return r.c.called("kick %s", user) }
func (r *fakeRoom) Leave(context.Context) error                 { return r.c.called("leave %s", r.info.Title()) }
func (r *fakeRoom) MarkRead(_ context.Context, seq uint64) error {
	return r.c.called("read %s %d", r.info.Title(), seq)
}
func (r *fakeRoom) Typing(context.Context) error { return r.c.called("typing %s", r.info.Title()) }

// say puts a message into the room's log and returns it as an event.
func (r *fakeRoom) say(from, text string) *chat.Message {
	return r.record(chatproto.KindText, from, text)
}

func (r *fakeRoom) record(kind uint8, from, text string) *chat.Message {
	seq := uint64(len(r.log) + 1)
	r.info.First, r.info.Last = 1, seq
	m := chat.Message{
		Room: r.info.ID, RoomName: r.info.Title(), Seq: seq, ID: chatproto.ID{0xff, byte(r.info.ID), byte(seq >> 8), byte(seq)},
		Kind: kind, From: from, Text: text, Time: noon.Add(time.Duration(seq) * time.Minute),
	}
	r.log = append(r.log, m)
	return &m
}

// screen drives a model.
type screen struct {
	t    *testing.T
	c    *fakeClient
	m    *model
	quit bool
}

func newScreen(t *testing.T, c *fakeClient, width, height int) *screen {
	t.Helper()
	s := &screen{t: t, c: c}
	s.m = newModel(t.Context(), c, "server:19912", "lobby", func() time.Time { return noon })
	s.msg(tea.WindowSizeMsg{Width: width, Height: height})
	s.run(s.m.open("lobby"))
	return s
}

// run runs a command and everything that follows from it.
func (s *screen) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case nil:
	case tea.BatchMsg:
		for _, c := range msg {
			s.run(c)
		}
	case tea.QuitMsg:
		s.quit = true
	default:
		s.msg(msg)
	}
}

func (s *screen) msg(msg tea.Msg) {
	_, cmd := s.m.Update(msg)
	s.run(cmd)
}

// events lets the events happen, in one batch.
func (s *screen) events(events ...chat.Event) {
	s.run(s.m.take(events))
	s.run(s.m.afterwards())
}

var keys = map[string]tea.Key{
	"enter": {Code: tea.KeyEnter}, "tab": {Code: tea.KeyTab}, "up": {Code: tea.KeyUp}, "down": {Code: tea.KeyDown},
	"pgup": {Code: tea.KeyPgUp}, "pgdown": {Code: tea.KeyPgDown}, "esc": {Code: tea.KeyEscape}, "f1": {Code: tea.KeyF1},
	"ctrl+c": {Code: 'c', Mod: tea.ModCtrl}, "ctrl+n": {Code: 'n', Mod: tea.ModCtrl}, "ctrl+p": {Code: 'p', Mod: tea.ModCtrl},
	"ctrl+d": {Code: 'd', Mod: tea.ModCtrl}, "shift+tab": {Code: tea.KeyTab, Mod: tea.ModShift},
	"alt+a": {Code: 'a', Mod: tea.ModAlt}, "alt+2": {Code: '2', Mod: tea.ModAlt}, "alt+enter": {Code: tea.KeyEnter, Mod: tea.ModAlt},
	"left": {Code: tea.KeyLeft}, "backspace": {Code: tea.KeyBackspace}, "ctrl+home": {Code: tea.KeyHome, Mod: tea.ModCtrl},
	"shift+up": {Code: tea.KeyUp, Mod: tea.ModShift},
}

// press presses keys; what is no name of one is typed.
func (s *screen) press(names ...string) {
	s.t.Helper()
	for _, name := range names {
		if k, ok := keys[name]; ok {
			s.msg(tea.KeyPressMsg(k))
			continue
		}
		for _, r := range name {
			s.msg(tea.KeyPressMsg{Code: r, Text: string(r)})
		}
	}
}

// text is the screen without colours and trailing blanks.
func (s *screen) text() string {
	s.t.Helper()
	rows := strings.Split(ansi.Strip(s.m.View().Content), "\n")
	if len(rows) != s.m.height {
		s.t.Errorf("%d rows on a screen of %d", len(rows), s.m.height)
	}
	for i, r := range rows {
		if w := ansi.StringWidthWc(r); w > s.m.width {
			s.t.Errorf("row %d has %d of %d cells: %q", i, w, s.m.width, r)
		}
		rows[i] = strings.TrimRight(r, " ")
	}
	return strings.Join(rows, "\n") + "\n"
}

func (s *screen) shows(want ...string) {
	s.t.Helper()
	text := s.text()
	for _, w := range want {
		if !strings.Contains(text, w) {
			s.t.Errorf("the screen lacks %q:\n%s", w, text)
		}
	}
}

func (s *screen) hides(unwanted ...string) {
	s.t.Helper()
	text := s.text()
	for _, w := range unwanted {
		if strings.Contains(text, w) {
			s.t.Errorf("the screen has %q:\n%s", w, text)
		}
	}
}

// golden compares the screen with a file.
func (s *screen) golden(name string) {
	s.t.Helper()
	path := filepath.Join("testdata", name+".txt")
	got := s.text()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if got != string(want) {
		s.t.Errorf("screen %s:\n%s\nwant:\n%s", name, got, want)
	}
}

// did reports the calls since the last time, those for history and read marks left out.
func (s *screen) did() (calls []string) {
	for _, c := range s.c.calls {
		if !strings.HasPrefix(c, "history ") && !strings.HasPrefix(c, "read ") && !strings.HasPrefix(c, "typing ") {
			calls = append(calls, c)
		}
	}
	s.c.calls = nil
	return calls
}

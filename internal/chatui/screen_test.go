package chatui

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// furnished is a client with something to show.
func furnished() *fakeClient {
	c := newFake()
	lobby, dev, bob := c.rooms[0], c.rooms[1], c.rooms[3]
	lobby.record(chatproto.KindCreate, "alice", "").Time = noon
	lobby.log[0].Time = noon.Add(-24 * time.Hour)
	lobby.record(chatproto.KindJoin, "bob", "")
	lobby.say("bob", "Hello. This is a message that is long enough to need more than one line on a terminal of eighty columns.")
	lobby.record(chatproto.KindAction, "bob", "waves")
	lobby.say("alice", "日本語の文章も正しい幅で折り返されます。幅の計算は端末と同じでなければなりません。")
	lobby.say("bob", "two\nlines")
	lobby.record(chatproto.KindTopic, "bob", "all sorts of things")
	for i := range 5 {
		dev.say("bob", fmt.Sprint("message ", i))
	}
	dev.info.Read, dev.info.Unread = 2, 3
	bob.say("bob", "psst")
	bob.info.Unread = 1
	return c
}

// TestScreens compares whole screens with testdata; run with -update to write them.
func TestScreens(t *testing.T) {
	for _, size := range []struct{ w, h int }{{80, 24}, {40, 10}, {120, 30}} {
		name := func(what string) string { return fmt.Sprintf("%s-%dx%d", what, size.w, size.h) }
		t.Run(name("screens"), func(t *testing.T) {
			s := newScreen(t, furnished(), size.w, size.h)
			s.golden(name("lobby"))
			s.press("ctrl+p")
			s.golden(name("dev"))
			s.press("/help", "enter")
			s.golden(name("help"))
		})
	}
}

func TestTinyScreens(t *testing.T) {
	s := newScreen(t, furnished(), 80, 24)
	for _, size := range []struct{ w, h int }{{1, 1}, {5, 4}, {10, 3}, {59, 5}, {60, 5}, {300, 100}} {
		s.msg(tea.WindowSizeMsg{Width: size.w, Height: size.h})
		if rows := strings.Count(s.m.View().Content, "\n") + 1; rows > max(4, size.h) {
			t.Errorf("%dx%d: %d rows", size.w, size.h, rows)
		}
	}
	s.msg(tea.WindowSizeMsg{Width: 80, Height: 24})
	s.golden("lobby-80x24")
}

// TestSay: what is said shows at once as waiting, and then as said.
func TestSay(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	s.press("hello there", "enter")
	s.shows("  …   <alice> hello there", "\n>\n")
	lobby := s.c.rooms[0]
	m := lobby.say("alice", "hello there")
	m.ID = chatproto.ID{1, 1}
	s.events(m)
	s.shows("12:01 <alice> hello there")
	s.hides("…")
	if got := s.did(); !slices.Equal(got, []string{"send lobby hello there"}) {
		t.Errorf("%q", got)
	}

	s.press("/me waves", "enter", "//slash", "enter", "two", "alt+enter", "lines", "enter")
	s.shows("* alice waves", "<alice> /slash", "<alice> two\n", "      lines")
	if got := s.did(); !slices.Equal(got, []string{"act lobby waves", "send lobby /slash", "send lobby two\nlines"}) {
		t.Errorf("%q", got)
	}
	s.msg(tea.PasteMsg{Content: "a\n\tb\x1b[31m\n"})
	s.shows("> a↵    b␛[31m\n")
	s.press("enter")
	if got := s.did(); !slices.Equal(got, []string{"send lobby a\n    b␛[31m"}) {
		t.Errorf("%q", got)
	}
}

// TestAcknowledgedFirst: the acknowledgement may overtake the end of Send.
func TestAcknowledgedFirst(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	m := s.c.rooms[0].say("alice", "quick")
	m.ID = chatproto.ID{1, 1}
	s.events(m)
	s.press("quick", "enter")
	if strings.Count(s.text(), "quick") != 1 {
		t.Errorf("shown twice:\n%s", s.text())
	}
}

func TestFailed(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	s.press("spam", "enter")
	s.events(&chat.Failed{Message: chat.Message{Room: 1, ID: chatproto.ID{1, 1}, Text: "spam"}, Err: chatproto.ErrNotAllowed})
	s.shows("!   not sent: not allowed in this room", "      spam")
	s.hides("…")
	s.c.fail = errors.New("disk full")
	s.press("more", "enter")
	s.shows("not sent: disk full")
}

// TestHarmless: what others write moves nothing but itself.
func TestHarmless(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {40, 10}} {
		s := newScreen(t, newFake(), size[0], size[1])
		lobby := s.c.rooms[0]
		for _, text := range []string{
			"\x1b[2J\x1b[31mred\x1b]0;title\x07\x9b5A\u009b5A",
			"\u202eright to left\u2066\u200f",
			"x" + strings.Repeat("\u0301", 8<<10),
			strings.Repeat("\u200d👩", 500),
			"a\rb\x00c\x7f\v\f",
			"bad \xff utf",
		} {
			s.events(lobby.say("bob", text))
			s.events(lobby.say("e\x1b[2Jvil user\n12:00 <bob>", text), lobby.record(chatproto.KindAction, "bob", text), lobby.record(chatproto.KindTopic, "bob", text))
			s.events(&chat.Notice{Text: text}, &chat.Warning{Text: text, Room: 1}, &chat.Typing{Room: 1, User: text},
				&chat.Presence{User: text, State: chatproto.Away, Text: text}, &chat.Failed{Err: errors.New(text), Message: chat.Message{Room: 1, Text: text}})
			s.c.found = []chat.Message{{Room: 1, RoomName: text, From: text, Text: text, Kind: chatproto.KindText}}
			for range 3 {
				check(t, s)
				s.press("pgup")
			}
			s.press("/search x", "enter")
			check(t, s)
			s.press("esc", "esc")
		}
		s.events(&chat.RoomChanged{Room: chat.RoomInfo{ID: 9, Kind: chatproto.RoomPublic, Name: "\x1b[31m\u202eevil", Topic: "\x1b]0;x\x07", Member: true}})
		s.c.rooms[0].info.Name = "\x1b[5m"
		s.press("/rooms", "enter", "/who", "enter", "/devices", "enter", "ctrl+n")
		check(t, s)
	}
}

// check looks for what must not be on a screen: control characters other than
// this program's own colours, turned text.
func check(t *testing.T, s *screen) {
	t.Helper()
	for _, r := range s.text() {
		if r != '\n' && unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Bidi_Control, r) {
			t.Fatalf("%U on the screen:\n%q", r, s.text())
		}
	}
	for seq := range strings.SplitSeq(s.m.View().Content, "\x1b") {
		if _, rest, found := strings.Cut(seq, "m"); seq != "" && found && !strings.HasPrefix(seq, "[") && rest != "" {
			t.Fatalf("an escape sequence that is no colour: %q", seq)
		}
	}
	if title := s.m.View().WindowTitle; strings.ContainsFunc(title, unicode.IsControl) {
		t.Fatalf("window title %q", title)
	}
}

// TestPiles: 16 KiB on one cell cost little.
func TestPiles(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	start := time.Now()
	for range 50 {
		s.events(s.c.rooms[0].say("bob", "x"+strings.Repeat("\u0301", 8<<10)), s.c.rooms[0].say("bob", strings.Repeat("\n", 16<<10)+"end"))
	}
	s.text()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	s.shows("more lines")
}

func TestScrollBack(t *testing.T) {
	c := newFake()
	for i := range 450 {
		c.rooms[0].say("bob", fmt.Sprint("number ", i+1, "."))
	}
	s := newScreen(t, c, 80, 24)
	s.shows("number 450.")
	for range 15 {
		s.press("pgup")
	}
	s.hides("number 450.")
	s.shows("lines below")
	s.press("ctrl+home")
	for range 4 { // each press loads what comes into sight
		s.press("ctrl+home")
	}
	s.shows("number 1.")
	before := s.text()
	s.events(c.rooms[0].say("bob", "something new"))
	if got := s.text(); strings.Replace(got, "1 new below", "", 1) == got {
		t.Errorf("nothing tells of the new message:\n%s", got)
	} else if strings.Split(got, "\n")[5] != strings.Split(before, "\n")[5] {
		t.Errorf("the text moved:\n%s", got)
	}
	s.press("esc")
	s.shows("something new", "─ new ─")
	s.press("shift+up")
	s.hides("something new")
}

// TestHistoryFails: what did not come is asked for again by scrolling, not by
// itself.
func TestHistoryFails(t *testing.T) {
	c := newFake()
	for i := range 150 {
		c.rooms[0].say("bob", fmt.Sprint("number ", i+1, "."))
	}
	s := newScreen(t, c, 80, 24)
	s.c.fail = chatproto.ErrRate
	s.press("ctrl+home")
	if n := strings.Count(fmt.Sprint(s.c.calls), "history lobby 51"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	s.press("esc")
	s.shows("history: too much at once")
	s.c.fail = nil
	s.press("ctrl+home", "ctrl+home")
	s.shows("number 1.")
}

func TestReadMarks(t *testing.T) {
	s := newScreen(t, furnished(), 80, 24)
	if !slices.Contains(s.c.calls, "read lobby 7") {
		t.Errorf("%q", s.c.calls)
	}
	s.shows("#dev         3", "●@bob         1")
	s.press("alt+a", "alt+a")
	s.shows("─ new ─", "message 4")
	s.hides("#dev         3", "@bob         1")
	if !slices.Contains(s.c.calls, "read @bob 1") || !slices.Contains(s.c.calls, "read dev 5") {
		t.Errorf("%q", s.c.calls)
	}
	s.msg(tea.BlurMsg{})
	s.c.calls = nil
	s.events(s.c.rooms[1].say("bob", "unseen"))
	if slices.Contains(s.c.calls, "read dev 6") {
		t.Error("marked as read without anybody looking")
	}
	s.msg(tea.FocusMsg{})
	if !slices.Contains(s.c.calls, "read dev 6") {
		t.Errorf("%q", s.c.calls)
	}
	s.events(s.c.rooms[3].say("bob", "again"))
	s.shows("@bob         1")
	s.events(&chat.ReadMark{Room: 4, Read: 2})
	s.hides("@bob         1")
}

func TestSearchAndJump(t *testing.T) {
	c := newFake()
	for i := range 1000 {
		c.rooms[1].say("bob", fmt.Sprint("number ", i+1, "."))
	}
	c.found = []chat.Message{c.rooms[1].log[899], c.rooms[1].log[99]}
	s := newScreen(t, c, 80, 24)
	s.press("/search number from:bob", "enter")
	s.shows("search: number from:bob", "2026-11-22 03:00 #dev <bob> number 900.", "<bob> number 100.")
	s.press("down", "enter")
	s.shows("number 100.", "older messages", "#dev · ")
	s.hides("number 900.")
	for range 200 { // down to the newest
		s.press("pgdown")
	}
	s.shows("number 1000.")
	s.hides("older messages")
	s.press("/search number", "enter", "enter")
	s.shows("number 900.")
	s.press("/search number", "enter", "esc", "esc")
	s.shows("number 1000.")
	s.c.found = nil
	s.press("/search none", "enter")
	s.shows("nothing found")
	s.c.fail = chatproto.ErrRate
	s.press("/search bad", "enter")
	s.shows("too much at once")
}

func TestConnection(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	s.shows("alice at server:19912")
	s.c.status = chat.Status{NextTry: noon.Add(2500 * time.Millisecond), Outbox: 2}
	s.events(&chat.Connection{Status: s.c.status})
	s.shows("reconnecting, next try in 3 s; 2 messages wait", "there is no connection")
	s.c.status = chat.Status{Connected: true}
	s.m.tick()
	s.events(&chat.Connection{Status: s.c.status})
	s.shows("alice at server:19912", "connected again")
	s.events(&chat.Typing{Room: 1, User: "bob"}, &chat.Typing{Room: 2, User: "carol"})
	s.shows("bob is typing")
	s.hides("carol is typing")
	s.m.now = func() time.Time { return noon.Add(time.Minute) }
	s.m.tick()
	s.hides("is typing")
	s.events(&chat.Presence{User: "alice", State: chatproto.Away})
	s.shows("you are away")
	s.msg(endedMsg{})
	s.shows("the session is over: wrong password")
}

func TestWarnings(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	m := s.c.rooms[2].say("bob", "text")
	m.Warnings = []string{"bob's device phone is new"}
	s.press("/join plans", "enter")
	s.shows("#plans · sealed · 2 members")
	s.events(&chat.Warning{Room: 3, Text: "a message is missing"})
	s.shows("!   a message is missing")
	forged := s.c.rooms[2].say("bob", "pay mallory")
	forged.Refused = true
	s.events(forged)
	s.shows("claims to be from bob is not genuine")
	s.hides("mallory")
	r := s.m.room(3)
	r.live.entries[0].msg.Warnings = m.Warnings
	r.live.entries[0].width = 0
	s.shows("!   bob's device phone is new")
}

func TestRoomsComeAndGo(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	s.events(&chat.RoomChanged{Room: chat.RoomInfo{ID: 77, Kind: chatproto.RoomPublic, Name: "annex", Member: true}, New: true})
	s.shows(" #annex")
	if s.m.rooms[0].info.Name != "annex" {
		t.Error("not in order")
	}
	s.events(&chat.RoomGone{Room: s.c.rooms[0].info})
	s.shows("you are no longer in #lobby", " #dev · ")
	for _, r := range []int{1, 2, 3} {
		s.events(&chat.RoomGone{Room: s.c.rooms[r].info})
	}
	s.events(&chat.RoomGone{Room: chat.RoomInfo{ID: 77}})
	s.shows(" rpycfs  /rooms lists the rooms")
	s.press("nobody hears this", "enter", "/topic x", "enter")
	s.shows("you are in no room")
	if got := s.did(); len(got) > 0 {
		t.Errorf("%q", got)
	}
	s.events(&chat.RoomChanged{Room: s.c.rooms[0].info, New: true})
	s.shows(" #lobby · ")
}

func TestPump(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	s.m.pump()
	got := s.m.nextEvents()()
	if batch, ok := got.(eventsMsg); !ok || len(batch) != 1 {
		t.Fatalf("%#v", got)
	}
	if got := s.m.nextEvents()(); got != (endedMsg{}) {
		t.Errorf("%#v", got)
	}
}

func TestMouse(t *testing.T) {
	s := newScreen(t, furnished(), 80, 24)
	if s.m.View().MouseMode != tea.MouseModeNone {
		t.Error("the mouse is taken from the start")
	}
	s.press("/mouse", "enter")
	if s.m.View().MouseMode == tea.MouseModeNone {
		t.Error("no mouse")
	}
	s.msg(tea.MouseClickMsg{X: 3, Y: 1, Button: tea.MouseLeft})
	s.shows(" #dev · ")
	s.msg(tea.MouseWheelMsg{Button: tea.MouseWheelUp})
	s.msg(tea.MouseWheelMsg{Button: tea.MouseWheelDown})
	s.msg(tea.MouseClickMsg{X: 3, Y: 23, Button: tea.MouseLeft})
	s.msg(tea.MouseClickMsg{X: 3, Y: 0, Button: tea.MouseLeft})
	s.shows(" #dev · ")
}

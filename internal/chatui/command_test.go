package chatui

import (
	"slices"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

func TestParseCommand(t *testing.T) {
	for _, tt := range []struct{ line, name, args, problem string }{
		{"join dev", "join", "dev", ""},
		{"JOIN   dev ", "join", "dev", ""},
		{"j dev", "join", "dev", ""},
		{"m", "", "", "/m may be /msg or /me or /mouse"},
		{"me", "", "", "usage: /me TEXT"},
		{"me  waves  twice", "me", "waves  twice", ""},
		{"msg bob", "msg", "bob", ""},
		{"who", "who", "", ""},
		{"q", "quit", "", ""},
		{"", "", "", "a command is missing"},
		{"nonsense x", "", "", "unknown command /nonsense; nothing was sent"},
		{"etc/passwd is a file", "", "", "unknown command /etc/passwd"},
		{"search", "", "", "usage: /search WORDS"},
	} {
		c, args, problem := parseCommand(tt.line)
		if tt.problem != "" {
			if !strings.HasPrefix(problem, tt.problem) {
				t.Errorf("%q: problem %q", tt.line, problem)
			}
			continue
		}
		if problem != "" || c.name != tt.name || args != tt.args {
			t.Errorf("%q: %v, %q, %q", tt.line, c, args, problem)
		}
	}
}

// TestCommands: each command asks the client for the right thing.
func TestCommands(t *testing.T) {
	for _, tt := range []struct {
		line  string
		calls []string
		shows []string
	}{
		{"/join #new", []string{"join new"}, []string{" #new · 2 members"}},
		{"/join dev", nil, []string{" #dev · 2 members · the next release"}},
		{"/join nowhere", nil, []string{"nowhere: no such room"}},
		{"/leave", []string{"leave lobby"}, nil},
		{"/leave #dev", []string{"leave dev"}, nil},
		{"/leave other", nil, []string{"no such room"}},
		{"/rooms", nil, []string{"#dev  2 members, you are in it  the next release", "#plans  2 members, sealed"}},
		{"/create fort", []string{`create fort 1 ""`}, []string{" #fort · "}},
		{"/create fort a topic", []string{`create fort 1 "a topic"`}, []string{"a topic"}},
		{"/create #fort private a topic", []string{`create fort 2 "a topic"`}, []string{" #fort · private · "}},
		{"/create fort sealed", []string{`create fort 3 ""`}, []string{" #fort · sealed · "}},
		{"/create ../x", nil, []string{"not a name"}},
		{"/who", nil, []string{"alice  online", "bob  online"}},
		{"/who dev", nil, []string{"bob  online"}},
		{"/msg @carol hello you", []string{"whisper carol hello you"}, []string{"to @carol: hello you"}},
		{"/msg carol", []string{"direct carol"}, []string{" @carol  away: lunch"}},
		{"/msg bob", nil, []string{" @bob  online"}},
		{"/msg nobody", nil, []string{"@nobody: no such user"}},
		{"/topic", nil, []string{"no topic"}},
		{"/topic new things", []string{"topic new things"}, nil},
		{"/invite @carol", []string{"invite carol"}, nil},
		{"/kick bob", []string{"kick bob"}, nil},
		{"/away at lunch", []string{"away true at lunch"}, []string{"you are away"}},
		{"/back", []string{"away false "}, []string{"you are back"}},
		{"/verify bob", nil, []string{"finger of bob", "/verify bob"}},
		{"/verify bob yes", []string{"verify bob"}, []string{"bob is verified"}},
		{"/verify bob no", nil, []string{"usage: /verify"}},
		{"/devices", []string{"devices alice"}, []string{"your devices:", "laptop  since 2026-11-21, this one"}},
		{"/devices bob", []string{"devices bob"}, []string{"devices of bob"}},
		{"/devices enrol", nil, []string{"/devices enrol CODE-1"}},
		{"/devices enrol CODE-1", []string{"enrol CODE-1"}, []string{"device phone is enrolled"}},
		{"/devices revoke abf", []string{"devices alice", "revoke abff0000000000000000000000000000"}, []string{"is revoked; the recovery key has changed"}},
		{"/devices revoke ab", []string{"devices alice"}, []string{"give more digits"}},
		{"/devices revoke ee", []string{"devices alice"}, []string{"no such device"}},
		{"/devices revoke", nil, []string{"usage: /devices"}},
		{"/devices recovery", nil, []string{"recovery key: RECOVERY"}},
		{"/devices recover KEY", []string{"recover KEY"}, []string{"enrolled by the recovery key"}},
		{"/nonsense", nil, []string{"unknown command /nonsense; nothing was sent"}},
		{"/help", nil, []string{"//TEXT  say a line"}},
	} {
		t.Run(tt.line, func(t *testing.T) {
			s := newScreen(t, newFake(), 112, 40)
			s.c.calls = nil
			s.press(tt.line, "enter")
			if got := s.did(); !slices.Equal(got, tt.calls) {
				t.Errorf("calls %q, want %q", got, tt.calls)
			}
			s.shows(tt.shows...)
			check(t, s)
		})
	}
}

// TestCommandsFail: an error of the server is shown, whatever was asked for.
func TestCommandsFail(t *testing.T) {
	for _, line := range []string{"/join x", "/leave", "/rooms", "/create x", "/who", "/msg bob hi", "/msg dora", "/me x", "/topic x", "/invite x",
		"/kick x", "/search x", "/away", "/back", "/devices", "/devices enrol", "/devices enrol x", "/devices recovery", "/devices recover x", "/verify bob", "/verify bob yes", "hello"} {
		s := newScreen(t, newFake(), 110, 40)
		s.c.fail = chatproto.ErrFull
		s.press(line, "enter")
		if !strings.Contains(s.text(), "a limit of the server is reached") {
			t.Errorf("%s:\n%s", line, s.text())
		}
	}
}

func TestQuit(t *testing.T) {
	for _, keys := range [][]string{{"/quit", "enter"}, {"ctrl+c"}, {"ctrl+d"}, {"x", "ctrl+c", "ctrl+c"}} {
		s := newScreen(t, newFake(), 80, 24)
		s.press(keys[:len(keys)-1]...)
		if s.quit {
			t.Errorf("%q: too early", keys)
		}
		s.press(keys[len(keys)-1])
		if !s.quit {
			t.Errorf("%q: still there", keys)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, tt := range []struct {
		keys []string
		want string
	}{
		{[]string{"b", "tab"}, "bob: "},
		{[]string{"B", "tab"}, "bob: "},
		{[]string{"hello b", "tab"}, "hello bob "},
		{[]string{"hello @c", "tab"}, "hello @carol "},
		{[]string{"see #d", "tab"}, "see #dev "},
		{[]string{"#", "tab"}, "#dev "},
		{[]string{"#", "tab", "tab"}, "#lobby "},
		{[]string{"#", "tab", "tab", "tab", "tab"}, "#dev "},
		{[]string{"#", "shift+tab"}, "#plans "},
		{[]string{"/cr", "tab"}, "/create "},
		{[]string{"/m", "tab", "tab", "tab"}, "/mouse "},
		{[]string{"/invite c", "tab"}, "/invite carol "},
		{[]string{"nothing ", "tab"}, "nothing bob "},
		{[]string{"zz", "tab"}, "zz"},
		{[]string{"tab"}, ""},
		{[]string{"b and more", "left", "left", "left", "left", "left", "left", "left", "left", "left", "tab"}, "bob: and more"},
	} {
		s := newScreen(t, newFake(), 80, 24)
		s.press(tt.keys...)
		if got := s.m.input.Value(); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.keys, got, tt.want)
		}
	}
}

func TestInputHistory(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	s.press("one", "enter", "two", "enter", "two", "enter", "draft")
	for _, tt := range []struct{ key, want string }{
		{"up", "two"}, {"up", "one"}, {"up", "one"}, {"down", "two"}, {"down", "draft"}, {"down", "draft"},
	} {
		s.press(tt.key)
		if got := s.m.input.Value(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.key, got, tt.want)
		}
	}
}

// TestLongInput keeps the cursor on the screen, behind wide characters too.
func TestLongInput(t *testing.T) {
	for _, text := range []string{strings.Repeat("long ", 100), strings.Repeat("長い", 100)} {
		s := newScreen(t, newFake(), 40, 10)
		s.press(text)
		s.text()
		if x := s.m.View().Cursor.X; x < 20 || x > 39 {
			t.Errorf("the cursor is at %d", x)
		}
		for range 1000 {
			s.press("left")
		}
		if x := s.m.View().Cursor.X; x != 2 {
			t.Errorf("the cursor is at %d", x)
		}
	}
	s := newScreen(t, newFake(), 40, 10)
	s.press("日本")
	if x := s.m.View().Cursor.X; x != 6 {
		t.Errorf("the cursor is at %d", x)
	}
	s.press("left")
	if x := s.m.View().Cursor.X; x != 4 {
		t.Errorf("the cursor is at %d", x)
	}
}

func TestTyping(t *testing.T) {
	s := newScreen(t, newFake(), 80, 24)
	s.c.calls = nil
	s.press("/", "x")
	if slices.Contains(s.c.calls, "typing lobby") {
		t.Error("a command counts as typing")
	}
	s.press("ctrl+c", "h")
	if !slices.Contains(s.c.calls, "typing lobby") {
		t.Error("not told")
	}
}

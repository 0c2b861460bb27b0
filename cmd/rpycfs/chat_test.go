package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"pgregory.net/rapid"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

func TestMessageText(t *testing.T) {
	at := time.Date(2026, 11, 21, 10, 43, 0, 0, time.Local)
	for want, m := range map[string]chat.Message{
		"#lobby <alice> text\n":                                   {Kind: chatproto.KindText, Text: "text"},
		"#lobby <alice> two\n    lines\n":                         {Kind: chatproto.KindText, Text: "two\nlines\n"},
		"#lobby <alice> a\n    2026-11-21 10:43 #lobby <bob> b\n": {Kind: chatproto.KindText, Text: "a\n2026-11-21 10:43 #lobby <bob> b"},
		"#lobby <alice> ␛[31m\ufffd\n":                            {Kind: chatproto.KindText, Text: "\x1b[31m\u202e"},
		"#lobby * alice waves\n":                                  {Kind: chatproto.KindAction, Text: "waves"},
		"#lobby <alice> (sealed; this device cannot open it)\n":   {Kind: chatproto.KindSealed},
		"#lobby - alice made the room\n":                          {Kind: chatproto.KindCreate},
		"#lobby - alice joined\n":                                 {Kind: chatproto.KindJoin},
		"#lobby - alice left\n":                                   {Kind: chatproto.KindLeave},
		"#lobby - alice invited bob\n":                            {Kind: chatproto.KindInvite, Target: "bob"},
		"#lobby - alice removed bob\n":                            {Kind: chatproto.KindRemove, Target: "bob"},
		"#lobby - alice set the topic: a↵b\n":                     {Kind: chatproto.KindTopic, Text: "a\nb"},
		"#lobby - alice made a new room key\n":                    {Kind: chatproto.KindKeys},
		"#lobby <alice> hm\n    ! a new device␛\n":                {Kind: chatproto.KindText, Text: "hm", Warnings: []string{"a new device\x1b"}},
		"#lobby - an entry that claims to be from alice is not genuine, and is not shown\n": {Kind: chatproto.KindText, Text: "forged", Refused: true},
		"#lobby - alice: an entry of kind 99 that this program does not know\n":             {Kind: 99},
	} {
		m.RoomName, m.From, m.Time = "lobby", "alice", at
		if got := messageText(&m); got != "2026-11-21 10:43 "+want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	m := chat.Message{RoomName: "@e\x1bvil", From: "a b>\n<c", Kind: chatproto.KindText, Text: "x", Time: at}
	if got := messageText(&m); got != "2026-11-21 10:43 @e␛vil <a_b>↵<c> x\n" {
		t.Errorf("%q", got)
	}
}

// TestJSON: what is printed is the message, and nothing in it moves a cursor.
func TestJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune("a\x00\x1b\n\t\u007f\u009b\u202e\u2028\u200d\ufeff😀\U000e0041\"\\<日")))).Draw(t, "text")
		var out strings.Builder
		p := printer{&out, true}
		if err := p.message(&chat.Message{RoomName: "lobby", Kind: chatproto.KindText, Text: text}); err != nil {
			t.Fatal(err)
		}
		line, ok := strings.CutSuffix(out.String(), "\n")
		if !ok || strings.ContainsFunc(line, func(r rune) bool { return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) }) {
			t.Fatalf("%q", out.String())
		}
		var back jsonMessage
		if err := json.Unmarshal([]byte(line), &back); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if back.Text != strings.ToValidUTF8(text, "\ufffd") || back.Kind != "text" || back.Room != "lobby" {
			t.Fatalf("%q became %q", text, back.Text)
		}
	})
}

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", 40<<10)
	in := bufio.NewReaderSize(strings.NewReader("one\r\n\n"+long+"\ntwo\nlast"), chatproto.MaxText+2)
	var lines []string
	for {
		line, err := readLine(in)
		if err != nil && line == "" {
			break
		}
		lines = append(lines, line)
	}
	if len(lines) != 5 || lines[0] != "one" || lines[1] != "" || lines[3] != "two" || lines[4] != "last" {
		t.Fatalf("%.50q", lines)
	}
	if n := len(lines[2]); n <= chatproto.MaxText || n > chatproto.MaxText+2 {
		t.Errorf("a long line has %d bytes", n)
	}
}

func TestStateDir(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_STATE_HOME", "")
	for _, tt := range []struct {
		login chatLogin
		xdg   string
		want  string
	}{
		{chatLogin{}, "", filepath.Join(home, ".local/state/rpycfs/chat")},
		{chatLogin{}, "relative", filepath.Join(home, ".local/state/rpycfs/chat")},
		{chatLogin{}, "/xdg", "/xdg/rpycfs/chat"},
		{chatLogin{State: "/stated"}, "/xdg", "/stated"},
		{chatLogin{State: "/stated", NoState: true}, "", ""},
	} {
		t.Setenv("XDG_STATE_HOME", tt.xdg)
		if got, err := tt.login.stateDir(); got != tt.want || err != nil {
			t.Errorf("%+v: %q, %v", tt, got, err)
		}
	}
	os.Unsetenv("HOME")
	t.Setenv("XDG_STATE_HOME", "")
	if _, err := new(chatLogin).stateDir(); err == nil {
		t.Error("no home, and no error")
	}
}

// TestChatUsage: both forms of the command line, and what makes no sense.
func TestChatUsage(t *testing.T) {
	t.Setenv("RPYCFS_PASSWORD", "x")
	t.Setenv("HOME", t.TempDir())
	for _, tt := range []struct {
		code int
		want string
		args []string
	}{
		{2, "empty user name", []string{"@host"}},
		{2, "not of the form", []string{"host:0", "lobby"}},
		{2, "not of the form", []string{"say", "host:0", "lobby", "text"}},
		{2, "expected", []string{"say"}},
		{2, "expected", []string{"log", "host"}},
		{2, "expected", []string{}},
		{2, "unknown flag", []string{"host", "--nonsense"}},
		{1, "empty, too long", []string{"say", "host", "lobby", ""}},
		{1, "empty, too long", []string{"say", "host", "lobby", "a\x00b"}},
		{2, "can't be used together", []string{"devices", "host", "--request", "--recovery"}},
		{1, "--identity /nowhere: no such file", []string{"rooms", "host", "--identity=/nowhere"}},
		{1, "no such file", []string{"rooms", "host", "--password-file=/nowhere"}},
		{1, "refused", []string{"rooms", "127.0.0.1:1"}},
		{1, "refused", []string{"say", "127.0.0.1:1", "@bob", "a server that nobody has seen"}},
	} {
		code, stdout, stderr := rpycfs("", append([]string{"chat"}, tt.args...)...)
		if code != tt.code || stdout != "" || !strings.Contains(stderr, tt.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: %d, %q, %q", tt.args, code, stdout, stderr)
		}
	}
	if code, stdout, _ := rpycfs("", "chat", "--help"); code != 0 || !strings.Contains(stdout, "rpycfs chat HOST [ROOM]") || !strings.Contains(stdout, "chat say") {
		t.Errorf("%d, %q", code, stdout)
	}
}

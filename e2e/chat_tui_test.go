package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/chat"
)

// tmuxTerminal is a terminal of tmux's own that a program runs in.
type tmuxTerminal struct {
	w      *chatWorld
	socket string
}

// terminal runs a shell command in a terminal of a size.
func (w *chatWorld) terminal(width, height int, command string) *tmuxTerminal {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "rpycfs-tmux-") // a socket's path must be short
	must(w.t, err)
	term := &tmuxTerminal{w: w, socket: filepath.Join(dir, "s")}
	w.t.Cleanup(func() {
		_ = term.command("kill-server").Run()
		os.RemoveAll(dir)
	})
	term.tmux("new-session", "-d", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height), command)
	return term
}

func (t *tmuxTerminal) command(args ...string) *exec.Cmd {
	return t.w.command("tmux", append([]string{"-S", t.socket, "-u", "-f", "/dev/null"}, args...)...)
}

func (t *tmuxTerminal) tmux(args ...string) string {
	t.w.t.Helper()
	return t.w.run(t.command(args...))
}

// keys presses keys, by tmux's names.
func (t *tmuxTerminal) keys(names ...string) {
	t.w.t.Helper()
	t.tmux(append([]string{"send-keys"}, names...)...)
}

// line types a line and presses Enter.
func (t *tmuxTerminal) line(text string) {
	t.w.t.Helper()
	t.tmux("send-keys", "-l", text)
	t.keys("Enter")
}

func (t *tmuxTerminal) screen() string {
	t.w.t.Helper()
	return t.tmux("capture-pane", "-p")
}

// shows waits until all of the texts are on the screen.
func (t *tmuxTerminal) shows(texts ...string) string {
	t.w.t.Helper()
	return t.until(fmt.Sprintf("to show %q", texts), func(screen string) bool {
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return false
			}
		}
		return true
	})
}

// hides waits until the text is gone from the screen.
func (t *tmuxTerminal) hides(text string) {
	t.w.t.Helper()
	t.until(fmt.Sprintf("to lose %q", text), func(screen string) bool { return !strings.Contains(screen, text) })
}

func (t *tmuxTerminal) until(what string, ok func(string) bool) (screen string) {
	t.w.t.Helper()
	if !eventually(patience, func() bool {
		screen = t.screen()
		return ok(screen)
	}) {
		t.w.t.Fatalf("the screen is expected %s:\n%s", what, screen)
	}
	return screen
}

// chatCommand is the shell command that opens the interface for a user.
func (w *chatWorld) chatCommand(user string, args ...string) string {
	words := append([]string{filepath.Join(bin, "rpycfs"), "chat", user + "@127.0.0.1:" + strconv.Itoa(w.port),
		"--identity=" + filepath.Join(w.dir, "key-"+user), "--fingerprint=" + w.print, "--timeout=20s"}, args...)
	return strings.Join(words, " ") + "; echo ended $?; exec cat"
}

// TestChatInterface drives the terminal interface as a person does.
func TestChatInterface(t *testing.T) {
	w := newChatWorld(t, "alice", "bob")
	bob := w.dial("bob")
	lobby := joinRoom(t, bob, "lobby")
	said := func(text string) {
		t.Helper()
		_, err := lobby.Say(chatContext(t), text)
		must(t, err)
	}
	for i := range 250 {
		text := fmt.Sprintf("line %d.", i+1)
		if i == 20 {
			text += " The needle."
		}
		_, err := lobby.Send(text)
		must(t, err)
	}
	must(t, bob.Flush(chatContext(t)))

	alice := w.terminal(80, 24, w.chatCommand("alice"))
	alice.shows("#lobby · 2 members", "line 250.", "alice joined", "alice at 127.0.0.1:")

	t.Run("say", func(t *testing.T) {
		alice.line("Hello, bob.")
		alice.shows("<alice> Hello, bob.")
		hearText(t, bob, "Hello, bob.")
		said("日本語も大丈夫")
		said("\x1b[2J\x1b[31mred\u202etxt\a")
		alice.shows("<bob> 日本語も大丈夫", "<bob> ␛[2J␛[31mred\ufffdtxt␇", "Hello, bob.")
		alice.line("/nonsense")
		alice.shows("unknown command /nonsense; nothing was sent")
	})
	t.Run("scroll", func(t *testing.T) {
		for !strings.Contains(alice.screen(), "line 1.") {
			before := alice.screen()
			alice.keys("PageUp")
			alice.until("to move", func(s string) bool { return s != before })
		}
		alice.shows("lines below")
		alice.keys("Escape")
		alice.shows("Hello, bob.")
	})
	t.Run("search", func(t *testing.T) {
		alice.line("/search needle from:bob")
		alice.shows("search: needle from:bob", "#lobby <bob> line 21. The needle.", "Esc closes")
		alice.keys("Enter")
		alice.shows("line 20.", "line 21. The needle.", "line 22.")
		alice.hides("Hello, bob.")
		alice.keys("Escape")
		alice.shows("Hello, bob.")
	})
	t.Run("resize", func(t *testing.T) {
		alice.tmux("resize-window", "-x", "40", "-y", "10")
		screen := alice.until("to be 40 by 10", func(s string) bool { return !strings.Contains(s, "│") })
		if rows := strings.Count(screen, "\n"); rows != 10 {
			t.Errorf("%d rows:\n%s", rows, screen)
		}
		said("after the resize")
		alice.shows("after the resize")
		alice.tmux("resize-window", "-x", "110", "-y", "30")
		alice.shows("│", "after the resize", "Hello, bob.")
		alice.tmux("resize-window", "-x", "80", "-y", "24")
	})
	t.Run("whisper", func(t *testing.T) {
		must(t, bob.Whisper(chatContext(t), "alice", "a word in your ear"))
		alice.shows("●@bob         1")
		alice.line("/msg bob")
		alice.shows(" @bob  online", "<bob> a word in your ear")
		alice.line("I am listening")
		hearText(t, bob, "I am listening")
		alice.keys("M-1")
		alice.shows("#lobby · 2 members")
	})
	t.Run("completion and history", func(t *testing.T) {
		alice.keys("b", "Tab")
		alice.shows("> bob:")
		alice.keys("C-c", "Up", "Up")
		alice.shows("> /msg bob")
		alice.keys("C-c")
		alice.hides("> /msg")
	})
	t.Run("restart", func(t *testing.T) { testRestart(t, w, alice, bob) })
	t.Run("quit", func(t *testing.T) {
		alice.line("/quit")
		alice.shows("ended 0")
		alice.hides("#lobby")
		if _, err := os.Stat(filepath.Join(w.dir, "home/.local/state/rpycfs/chat")); err != nil {
			t.Error(err)
		}
	})
}

// testRestart: what is said while the daemon is down waits, and arrives once.
func testRestart(t *testing.T, w *chatWorld, alice *tmuxTerminal, bob *chat.Client) {
	w.killDaemon()
	alice.shows("reconnecting")
	alice.line("said while it was down")
	alice.shows("…   <alice> said while it was down", "1 message waits")
	w.startDaemon()
	hearText(t, bob, "said while it was down")
	alice.hides("reconnecting")
	alice.hides("…   <alice>")
	screen := alice.shows("<alice> said while it was down")
	if n := strings.Count(screen, "said while it was down"); n != 1 {
		t.Errorf("it is there %d times:\n%s", n, screen)
	}
}

// TestChatInterfaceFails: what keeps it from starting is one line, and the
// terminal is as it was.
func TestChatInterfaceFails(t *testing.T) {
	w := newChatWorld(t, "alice")
	w.enrol("bob")
	must(t, os.Rename(filepath.Join(w.dir, "key-bob"), filepath.Join(w.dir, "key-alice")))
	term := w.terminal(80, 24, "RPYCFS_PASSWORD=wrong "+w.chatCommand("alice"))
	term.shows("wrong user, password or key", "ended 1")
}

// coloured is a change of the colour of writing.
var coloured = regexp.MustCompile(`\x1b\[(\d+;)*(3[0-8]|9[0-7])\b`)

// TestChatInterfaceNoColour: NO_COLOR is honoured, and what colours tell is told
// otherwise.
func TestChatInterfaceNoColour(t *testing.T) {
	w := newChatWorld(t, "alice", "bob")
	lobby := joinRoom(t, w.dial("bob"), "lobby")
	_, err := lobby.Say(chatContext(t), "in which colour?")
	must(t, err)
	for env, want := range map[string]bool{"NO_COLOR=1 ": false, "NO_COLOR= ": true} {
		term := w.terminal(80, 24, env+w.chatCommand("alice"))
		term.shows("<bob> in which colour?")
		if got := coloured.MatchString(term.tmux("capture-pane", "-e", "-p")); got != want {
			t.Errorf("%scolours: %v", env, got)
		}
	}
}

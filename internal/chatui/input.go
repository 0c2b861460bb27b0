package chatui

import (
	"slices"
	"strings"
	"unicode"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// maxPast bounds how many lines are remembered.
const maxPast = 200

// inputHistory is what was entered before.
type inputHistory struct {
	lines []string
	at    int    // the shown one, counted from the end; 0: none
	draft string // what was in the input before the first step back
}

func (h *inputHistory) add(line string) {
	h.at, h.draft = 0, ""
	if n := len(h.lines); n > 0 && h.lines[n-1] == line {
		return
	}
	h.lines = append(h.lines, line)
	if len(h.lines) > maxPast {
		h.lines = slices.Clone(h.lines[1:])
	}
}

// earlier returns the line before the shown one.
func (h *inputHistory) earlier(shown string) string {
	if h.at == len(h.lines) {
		return shown
	}
	if h.at == 0 {
		h.draft = shown
	}
	h.at++
	return h.lines[len(h.lines)-h.at]
}

// later returns the line after the shown one; after the last, what stood there
// at first.
func (h *inputHistory) later(shown string) string {
	if h.at == 0 {
		return shown
	}
	h.at--
	if h.at == 0 {
		return h.draft
	}
	return h.lines[len(h.lines)-h.at]
}

// completion is the state between two presses of Tab.
type completion struct {
	head, tail string // around the completed word
	words      []string
	at         int
}

// completeWord completes the word before the cursor, or goes on to the next
// possibility.
func (m *model) completeWord(step int) {
	c := m.complete
	if c == nil {
		c = m.newCompletion()
		if len(c.words) == 0 {
			return
		}
		if step < 0 {
			c.at = len(c.words) - 1
		}
		m.complete = c
	} else {
		c.at = (c.at + step + len(c.words)) % len(c.words)
	}
	head := c.head + c.words[c.at]
	m.input.SetValue(head + c.tail)
	m.input.SetCursor(len([]rune(head)))
}

func (m *model) newCompletion() *completion {
	value := []rune(m.input.Value())
	pos := m.input.Position()
	begin := pos
	for begin > 0 && !unicode.IsSpace(value[begin-1]) {
		begin--
	}
	c := &completion{head: string(value[:begin]), tail: strings.TrimPrefix(string(value[pos:]), " ")}
	word := string(value[begin:pos])
	if word != "" || c.head != "" {
		c.words = m.candidates(c.head, word)
	}
	return c
}

// candidates returns what word may become, with what follows it.
func (m *model) candidates(head, word string) (words []string) {
	add := func(candidate, after string) {
		if len(candidate) >= len(word) && strings.EqualFold(candidate[:len(word)], word) {
			words = append(words, candidate+after)
		}
	}
	switch {
	case head == "" && strings.HasPrefix(word, "/"):
		for _, c := range commands {
			add("/"+c.name, " ")
		}
	case strings.HasPrefix(word, "#"):
		for _, r := range m.rooms {
			if r.info.Kind != chatproto.RoomDirect {
				add("#"+r.info.Name, " ")
			}
		}
	default:
		prefix, after := "", " "
		if strings.HasPrefix(word, "@") {
			prefix = "@"
		} else if head == "" {
			after = ": "
		}
		for _, user := range m.people() {
			add(prefix+user, after)
		}
	}
	return words
}

// people returns whom one may want to name: members of the current room first,
// then everybody who is there.
func (m *model) people() []string {
	me := m.client.User()
	var names, others []string
	for _, u := range m.current.members {
		if u != me {
			names = append(names, u)
		}
	}
	for u := range m.users {
		if u != me && !slices.Contains(m.current.members, u) {
			others = append(others, u)
		}
	}
	slices.Sort(others)
	return append(names, others...)
}

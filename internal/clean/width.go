package clean

import (
	"strings"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// widths counts as terminals without a mode for grapheme clusters do.
var widths = runewidth.Condition{StrictEmojiNeutral: true}

// Width returns how many cells clean text takes at most: terminals that draw
// joined characters as one take fewer.
func Width(s string) int {
	w, last := 0, 0
	for _, r := range s {
		n := cells(r, last)
		w += n
		if n > 0 {
			last = n
		}
	}
	return w
}

// cells returns the width of r after a character of the width last.
func cells(r rune, last int) int {
	switch {
	case r >= ' ' && r <= '~':
		return 1
	case r == '\ufe0f' && last == 1:
		return 1 // the picture takes two cells, the character that it is made of one
	case isSelector(r):
		return 0
	}
	return widths.RuneWidth(r)
}

// Truncate cuts clean text to at most width cells; what was cut ends in "…".
func Truncate(s string, width int) string {
	if Width(s) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	head, _ := cut(s, width-1)
	return head + "…"
}

// Pad cuts or fills clean text with blanks to width cells.
func Pad(s string, width int) string {
	s = Truncate(s, width)
	return s + strings.Repeat(" ", max(0, width-Width(s)))
}

// cut splits s after as many characters as fit into width cells; what is drawn
// onto the last of them stays with it.
func cut(s string, width int) (head, tail string) {
	w, last := 0, 0
	for i, r := range s {
		n := cells(r, last)
		if w+n > width {
			return s[:i], s[i:]
		}
		w += n
		if n > 0 {
			last = n
		}
	}
	return s, ""
}

// Wrap breaks one line of clean text into lines of at most width cells, between
// words where it can. The blanks at a break are left out. There is at least one
// line.
func Wrap(s string, width int) []string {
	width = max(width, 2) // the widest character
	var lines []string
	for {
		head, tail := cut(s, width)
		if tail == "" {
			return append(lines, head)
		}
		if at := lastBreak(head, tail); at > 0 {
			head, tail = s[:at], s[at:]
		}
		lines = append(lines, strings.TrimRight(head, " "))
		if s = strings.TrimLeft(tail, " "); s == "" {
			return lines
		}
	}
}

// lastBreak returns where a line may end that is head and goes on with tail; 0
// if there is no good place.
func lastBreak(head, tail string) int {
	if tail[0] == ' ' {
		return len(head)
	}
	if i := strings.LastIndexByte(head, ' '); i >= 0 && strings.Trim(head[:i], " ") != "" {
		if han := lastWide(head); han > i {
			return han
		}
		return i + 1
	}
	return lastWide(head)
}

// lastWide returns the end of the last wide letter in head, after which a line
// may end: scripts of wide letters put no blanks between words.
func lastWide(head string) int {
	for i := len(head); i > 0; {
		r, size := utf8.DecodeLastRuneInString(head[:i])
		if cells(r, 0) == 2 {
			return i
		}
		i -= size
	}
	return 0
}

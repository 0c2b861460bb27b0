// Package clean makes text from others harmless on a terminal: nothing in it
// moves the cursor, changes colours, asks the terminal for something, turns the
// direction of writing, hides, or piles up on one cell.
//
// What was taken out is shown where a person should know of it: a control
// character as its picture (␛), what turns text around and what is no character
// as U+FFFD. What merely takes no room is left out. Cleaning what is clean
// changes nothing.
package clean

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxMarks   = 4 // marks on one base character
	maxJoiners = 8 // joiners in one chain of joined characters
	maxRun     = 4 // characters in a row that a terminal may draw into one cell
	tab        = "    "

	replacement = '\uFFFD'
	circle      = '◌' // carries a mark that has no base
)

// Line makes s harmless and keeps it on one line: an end of line becomes ↵, a
// tab a blank. The result has at most two cells for each byte of s.
func Line(s string) string { return clean(s, false) }

// Text makes s harmless and keeps its lines, ended by "\n"; a tab becomes four
// blanks. The result has at most four cells for each byte of s.
func Text(s string) string { return clean(s, true) }

func clean(s string, lines bool) string {
	if plain(s) {
		return s
	}
	c := cleaner{lines: lines}
	c.out.Grow(len(s))
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == '\r' && strings.HasPrefix(s[i+1:], "\n") {
			i++
			continue
		}
		c.add(r)
		i += size
	}
	return c.out.String()
}

// plain reports whether s is printable ASCII, as most texts are.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// cleaner holds what the last characters of the output allow to follow.
type cleaner struct {
	out   strings.Builder
	lines bool

	base    rune // last character that takes room; 0 at the beginning of a line
	marks   int  // on base
	varied  bool // base has its variation selector
	joiner  rune // waits for a character to join base with
	joiners int  // in the chain that base is part of
	run     int  // length of the run that base is part of
}

func (c *cleaner) add(r rune) {
	switch {
	case r == '\n' || r == '\u2028' || r == '\u2029':
		c.newline()
	case r == '\t':
		c.tab()
	case r < ' ':
		c.put('␀' + r)
	case r == 0x7f:
		c.put('␡')
	case r < 0x7f:
		c.put(r)
	case r == '\u200c' || r == '\u200d':
		if joins(c.base) {
			c.joiner = r
		}
	case isSelector(r):
		c.selector(r)
	case isMark(r):
		c.mark(r)
	case unicode.Is(unicode.Zs, r) && r != '\u3000':
		c.put(' ')
	case isHidden(r):
	case !isShown(r):
		c.put(replacement)
	default:
		c.put(r)
	}
}

func (c *cleaner) newline() {
	if !c.lines {
		c.put('↵')
		return
	}
	c.out.WriteByte('\n')
	c.base, c.marks, c.joiner, c.joiners, c.run = 0, 0, 0, 0, 0
}

func (c *cleaner) tab() {
	if !c.lines {
		c.put(' ')
		return
	}
	for _, r := range tab {
		c.put(r)
	}
}

// put writes a character that takes room.
func (c *cleaner) put(r rune) {
	joined := c.joiner != 0 && joins(r) && c.joiners < maxJoiners
	if joined {
		c.out.WriteRune(c.joiner)
		c.joiners++
	} else {
		c.joiners = 0
	}
	c.joiner = 0
	if runs(r) {
		if c.run == maxRun {
			return
		}
		c.run++
	} else {
		c.run = 0
	}
	c.out.WriteRune(r)
	c.base, c.marks, c.varied = r, 0, false
}

// mark writes a character that is drawn onto the one before.
func (c *cleaner) mark(r rune) {
	c.joiner = 0
	if c.base == 0 {
		c.put(circle)
	}
	if c.marks < maxMarks {
		c.marks++
		c.out.WriteRune(r)
	}
}

// selector writes a character that chooses how the one right before is drawn.
func (c *cleaner) selector(r rune) {
	if c.base == 0 || c.base == ' ' || c.marks > 0 || c.varied || c.joiner != 0 {
		return
	}
	c.varied = true
	c.out.WriteRune(r)
}

// joins reports whether a joiner beside r can mean anything.
func joins(r rune) bool {
	return r > 0x7f && (unicode.IsLetter(r) || unicode.Is(unicode.So, r) || r == '♂' || r == '♀')
}

// isSelector reports whether r is a variation selector: text and emoji style,
// and the forms of Han characters.
func isSelector(r rune) bool {
	return r >= 0xfe00 && r <= 0xfe0f || r >= 0xe0100 && r <= 0xe01ef
}

// isMark reports whether r is drawn onto what stands before it: combining marks,
// the vowels and finals of Hangul syllables, the colours of skin.
func isMark(r rune) bool {
	return unicode.Is(unicode.M, r) && !isHidden(r) ||
		r >= 0x1161 && r <= 0x11ff || r >= 0xd7b0 && r <= 0xd7ff ||
		r >= 0x1f3fb && r <= 0x1f3ff
}

// isHidden reports whether r shows nothing by itself and is of no use here:
// zero-width blanks, marks of direction, tags, fillers.
func isHidden(r rune) bool {
	switch {
	case r == '\u00ad', r == '\u061c', r == '\u180e', r == '\ufeff',
		r >= 0x200b && r <= 0x200f, r >= 0x2060 && r <= 0x2064, r >= 0x206a && r <= 0x206f,
		r >= 0xe0000 && r <= 0xe0fff:
		return true
	}
	return unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r)
}

// isShown reports whether r is a character that terminals know the width of.
func isShown(r rune) bool {
	return r != replacement && unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S, unicode.Zs, unicode.Co)
}

// runs reports whether characters like r in a row may be drawn as one: the
// initials of Hangul syllables, and letters that precede their base.
func runs(r rune) bool {
	return r >= 0x1100 && r <= 0x115f || r >= 0xa960 && r <= 0xa97c || unicode.Is(prepended, r)
}

var prepended = &unicode.RangeTable{
	R16: []unicode.Range16{{Lo: 0x0d4e, Hi: 0x0d4e, Stride: 1}},
	R32: []unicode.Range32{
		{Lo: 0x111c2, Hi: 0x111c3, Stride: 1}, {Lo: 0x1193f, Hi: 0x1193f, Stride: 1},
		{Lo: 0x11941, Hi: 0x11941, Stride: 1}, {Lo: 0x11a3a, Hi: 0x11a3a, Stride: 1},
		{Lo: 0x11a84, Hi: 0x11a89, Stride: 1}, {Lo: 0x11d46, Hi: 0x11d46, Stride: 1},
		{Lo: 0x11f02, Hi: 0x11f02, Stride: 1},
	},
}

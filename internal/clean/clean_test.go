package clean

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"plain ASCII ~!":              "plain ASCII ~!",
		"\x1b[31mred\x1b[0m":          "␛[31mred␛[0m",
		"\x1b]0;title\x07":            "␛]0;title␇",
		"a\x00b\x7f":                  "a␀b␡",
		"\u009b31m":                   "\ufffd31m",
		"\x9b31m":                     "\ufffd31m",
		"bad \xff\xfe":                "bad \ufffd\ufffd",
		"two\r\nlines\n":              "two↵lines↵",
		"over\rwritten":               "over␍written",
		"a\tb":                        "a b",
		"\u2028\u2029\u0085":          "↵↵\ufffd",
		"user\u202etxt.exe":           "user\ufffdtxt.exe",
		"\u2066x\u2069\u202a\u202c":   "\ufffdx\ufffd\ufffd\ufffd",
		"a\u200eb\u200fc\u061cd":      "abcd",
		"zero\u200bwidth\ufeff\u2060": "zerowidth",
		"soft\u00adhyphen\u180e":      "softhyphen",
		"a\U000e0041\U000e007fb":      "ab",
		"filler\u3164\uffa0\u115f":    "filler",
		"no\u00a0break\u2003em":       "no break em",
		"\ufffe\uffff\ufdd0":          "\ufffd\ufffd\ufffd",
		"日本語\u3000한국어":                "日本語\u3000한국어",
		"e\u0301":                     "e\u0301",
		"\u0301alone":                 "◌\u0301alone",
		"Z\u0301\u0302\u0303\u0304\u0305\u0306algo": "Z\u0301\u0302\u0303\u0304algo",
		"❤\ufe0f":              "❤\ufe0f",
		"❤\ufe0f\ufe0f\ufe0e":  "❤\ufe0f",
		"\ufe0fx":              "x",
		"葛\U000e0100":          "葛\U000e0100",
		"👨\u200d👩\u200d👧":      "👨\u200d👩\u200d👧",
		"🏳\ufe0f\u200d🌈":       "🏳\ufe0f\u200d🌈",
		"👍🏽":                   "👍🏽",
		"می\u200cخواهم":        "می\u200cخواهم",
		"क्\u200dष":            "क्\u200dष",
		"a\u200db \u200d":      "ab ",
		"👨\u200d\u200d\u200d👩": "👨\u200d👩",
		"ends\u200d":           "ends",
		"مرحبا עולם":           "مرحبا עולם",
		"\ue0b0 private":       "\ue0b0 private",
	} {
		if got := Line(in); got != want {
			t.Errorf("Line(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\nb\nc":      "a\nb\nc",
		"\tindented":     "    indented",
		"x\n\u0301y":     "x\n◌\u0301y",
		"a\u2028b":       "a\nb",
		"👨\u200d\n👩":     "👨\n👩",
		"\x1b[2J\nhello": "␛[2J\nhello",
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestPilesCostLittle: 16 KiB of what is drawn onto one cell.
func TestPilesCostLittle(t *testing.T) {
	start := time.Now()
	for _, r := range []rune{'\u0301', '\u200d', '\ufe0f', '\u1161', '🏽', '\u115f', '\u200b', '\U000e0101', '\u0e49'} {
		in := "x" + strings.Repeat(string(r), 16<<10/utf8.RuneLen(r))
		got := Line(in)
		if len(got) > 64 || Width(got) > 16 {
			t.Errorf("%U: %d bytes, %d cells", r, len(got), Width(got))
		}
	}
	for _, r := range []rune{'\u1100', '\u0d4e'} {
		if got := Line("x" + strings.Repeat(string(r), 5000)); utf8.RuneCountInString(got) != 1+maxRun {
			t.Errorf("%U: %d runes", r, utf8.RuneCountInString(got))
		}
	}
	chain := Line(strings.Repeat("👨\u200d", 2000))
	if longest := longestChain(chain); longest != maxJoiners {
		t.Errorf("a chain of %d joiners", longest)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// longestChain counts the joiners of the longest chain of joined characters.
func longestChain(s string) (longest int) {
	n, joined := 0, false
	for _, r := range s {
		switch {
		case r == '\u200d' || r == '\u200c':
			n, joined = n+1, true
			longest = max(longest, n)
		case isMark(r) || isSelector(r):
		case joined:
			joined = false
		default:
			n = 0
		}
	}
	return longest
}

// check states what holds for all that comes out of clean.
func check(t interface{ Errorf(string, ...any) }, in, out string, lines bool) {
	if !utf8.ValidString(out) {
		t.Errorf("%q: not UTF-8: %q", in, out)
	}
	marks := 0
	for i, r := range out {
		switch {
		case r == '\n' && lines:
		case unicode.Is(unicode.Cc, r), unicode.Is(unicode.Bidi_Control, r),
			unicode.Is(unicode.Cf, r) && r != '\u200c' && r != '\u200d',
			unicode.In(r, unicode.Zl, unicode.Zp, unicode.Cs):
			t.Errorf("%q: %U at %d of %q", in, r, i, out)
		}
		if isMark(r) {
			marks++
			if marks > maxMarks || i == 0 || out[i-1] == '\n' {
				t.Errorf("%q: mark %U at %d of %q", in, r, i, out)
			}
		} else if !isSelector(r) {
			marks = 0
		}
	}
	if longestChain(out) > maxJoiners {
		t.Errorf("%q: too many joiners in %q", in, out)
	}
	perByte := 2
	if lines {
		perByte = 4
	}
	if w := Width(out); w > perByte*len(in) {
		t.Errorf("%q: %d cells from %d bytes", in, w, len(in))
	}
	if again := clean(out, lines); again != out {
		t.Errorf("%q: cleaned twice: %q, then %q", in, out, again)
	}
}

// nasty are the pieces that random texts are made of.
var nasty = []string{"a", "word ", " ", "\n", "\r", "\t", "\x1b[1m", "\x07", "\u009b", "\xff", "\xe2\x80", "\u0301", "\u20e3",
	"\u200b", "\u200c", "\u200d", "\u200e", "\u202e", "\u2066", "\ufe0f", "\U000e0020", "\U000e0100", "日", "ｱ", "👩", "❤", "🏽", "🇩", "क", "्",
	"ا", "\u115f", "\u1100", "\u1161", "\u3164", "\u0d4e", "\u0600", "\ufffd", "◌", "\u2028", "\u00a0", "\u3000", "♂", "\ue000"}

func TestClean(t *testing.T) {
	text := rapid.OneOf(
		rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.SampledFrom(nasty)), func(s []string) string { return strings.Join(s, "") }),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(t *rapid.T) {
		in, width := text.Draw(t, "text"), rapid.IntRange(-1, 30).Draw(t, "width")
		for _, lines := range []bool{false, true} {
			check(t, in, clean(in, lines), lines)
		}
		line := Line(in)
		if got := Truncate(line, width); Width(got) > max(width, 0) {
			t.Errorf("Truncate(%q, %d) = %q", line, width, got)
		}
		if got := Pad(line, width); Width(got) != max(width, 0) {
			t.Errorf("Pad(%q, %d) = %q", line, width, got)
		}
		checkWrap(t, line, width)
	})
}

func checkWrap(t *rapid.T, line string, width int) {
	wrapped := Wrap(line, width)
	for _, l := range wrapped {
		if Width(l) > max(width, 2) {
			t.Errorf("Wrap(%q, %d): %q has %d cells", line, width, l, Width(l))
		}
	}
	if len(wrapped) == 0 {
		t.Errorf("Wrap(%q, %d): no line", line, width)
	}
	noBlanks := func(s string) string { return strings.ReplaceAll(s, " ", "") }
	if got := noBlanks(strings.Join(wrapped, "")); got != noBlanks(line) {
		t.Errorf("Wrap(%q, %d) = %q", line, width, wrapped)
	}
}

func TestWrap(t *testing.T) {
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"", 10, ""},
		{"the quick brown fox", 10, "the quick|brown fox"},
		{"the quick  brown", 10, "the quick|brown"},
		{"exactly 10", 10, "exactly 10"},
		{"incomprehensibility", 8, "incompre|hensibil|ity"},
		{"see incomprehensibility", 8, "see|incompre|hensibil|ity"},
		{"    indented text", 12, "    indented|text"},
		{"日本語の長い文章です", 7, "日本語|の長い|文章で|す"},
		{"abc日本語", 6, "abc日|本語"},
		{"ee\u0301\u0302ee", 2, "ee\u0301\u0302|ee"},
		{"trailing   ", 10, "trailing"},
	} {
		if got := strings.Join(Wrap(tt.in, tt.width), "|"); got != tt.want {
			t.Errorf("Wrap(%q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

func TestWidth(t *testing.T) {
	for in, want := range map[string]int{
		"abc": 3, "日本": 4, "e\u0301": 1, "❤\ufe0f": 2, "❤": 1, "👍🏽": 4, "ｱ": 1, "한": 2, "└─●": 3, "": 0, "葛\U000e0100": 2,
	} {
		if got := Width(in); got != want {
			t.Errorf("Width(%q) = %d, want %d", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	seeds := append([]string{strings.Join(nasty, ""), "\x1b]8;;http://x\x1b\\y\x1b]8;;\x1b\\"}, nasty...)
	for _, s := range seeds {
		if s == "" {
			f.Fatal("an empty seed")
		}
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, in string, width int) {
		check(t, in, Line(in), false)
		check(t, in, Text(in), true)
		width = min(max(width, 0), 200)
		for _, l := range Wrap(Line(in), width) {
			if Width(l) > max(width, 2) {
				t.Errorf("Wrap(%q, %d): %q", Line(in), width, l)
			}
		}
	})
}

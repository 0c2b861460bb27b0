// Command ansisvg draws what a terminal shows as a picture: it reads lines with
// colours, as "tmux capture-pane -e -p" prints them, and writes SVG.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"html"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/rpycfs/rpycfs/internal/clean"
)

func main() {
	title := flag.String("title", "", "title of the picture, for who cannot see it")
	flag.Parse()
	if err := draw(os.Stdin, os.Stdout, *title); err != nil {
		fmt.Fprintln(os.Stderr, "ansisvg:", err)
		os.Exit(1)
	}
}

// Sizes in pixels, and the colours of the terminal.
const (
	cellWidth  = 8.4
	cellHeight = 18
	margin     = 12
	fontSize   = 14

	background = "#1c1f26"
	foreground = "#d8dbe2"
)

var basic = [16]string{
	"#2b303b", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d8dbe2",
	"#5c6370", "#ff7b85", "#b5e08f", "#ffd68a", "#7cc3ff", "#de8ff5", "#6fd5e0", "#ffffff",
}

// style is how characters are drawn.
type style struct {
	fg, bg             string // "" is the terminal's own
	bold, dim, reverse bool
}

// run is characters of one style beside each other.
type run struct {
	style
	text string
	x, w int // in cells
}

func draw(in io.Reader, out io.Writer, title string) error {
	var rows [][]run
	width := 0
	scanner := bufio.NewScanner(in)
	for scanner.Scan() {
		row, w := parse(scanner.Text())
		rows, width = append(rows, row), max(width, w)
	}
	if err := scanner.Err(); err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	pw, ph := 2*margin+float64(width)*cellWidth, 2*margin+len(rows)*cellHeight
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" width="%.0f" height="%d" role="img">`+"\n", pw, ph, pw, ph)
	fmt.Fprintf(w, "<title>%s</title>\n", html.EscapeString(title))
	fmt.Fprintf(w, `<rect width="100%%" height="100%%" rx="8" fill="%s"/>`+"\n", background)
	fmt.Fprintf(w, `<g font-family="ui-monospace,'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace" font-size="%d" xml:space="preserve">`+"\n", fontSize)
	for y, row := range rows {
		for _, r := range row {
			r.draw(w, y)
		}
	}
	fmt.Fprintln(w, "</g>\n</svg>")
	return w.Flush()
}

func (r *run) draw(w io.Writer, row int) {
	fg, bg := r.fg, r.bg
	if r.reverse {
		fg, bg = bg, fg
		if fg == "" {
			fg = background
		}
		if bg == "" {
			bg = foreground
		}
	}
	if fg == "" {
		fg = foreground
	}
	x, y := margin+float64(r.x)*cellWidth, margin+row*cellHeight
	if bg != "" {
		fmt.Fprintf(w, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x, y, float64(r.w)*cellWidth, cellHeight, bg)
	}
	extra := ""
	if r.bold {
		extra += ` font-weight="bold"`
	}
	if r.dim {
		extra += ` opacity="0.6"`
	}
	for _, word := range words(r.text) {
		width := float64(clean.Width(word)) * cellWidth
		if strings.TrimSpace(word) != "" {
			fmt.Fprintf(w, `<text x="%.1f" y="%d" textLength="%.1f" lengthAdjust="spacingAndGlyphs" fill="%s"%s>%s</text>`+"\n",
				x, y+fontSize, width, fg, extra, html.EscapeString(word))
		}
		x += width
	}
}

// parse splits a line into runs, and returns its width in cells.
func parse(line string) (runs []run, width int) {
	var s style
	for line != "" {
		if rest, ok := strings.CutPrefix(line, "\x1b["); ok {
			codes, after, found := strings.Cut(rest, "m")
			if !found || strings.Trim(codes, "0123456789;:") != "" {
				line = rest
				continue
			}
			s.set(codes)
			line = after
			continue
		}
		text := line
		if i := strings.IndexByte(line, '\x1b'); i == 0 {
			line = line[1:] // another kind of sequence
			continue
		} else if i > 0 {
			text = line[:i]
		}
		line = line[len(text):]
		w := clean.Width(text)
		runs = append(runs, run{s, text, width, w})
		width += w
	}
	return runs, width
}

// words splits a text so that a font with other widths shifts nothing far: after
// blanks, and around wide characters.
func words(text string) (words []string) {
	begin, wide := 0, false
	runes := []rune(text)
	for i, r := range runes {
		w := clean.Width(string(r)) == 2
		if i > begin && (w != wide || runes[i-1] == ' ' && r != ' ') {
			words, begin = append(words, string(runes[begin:i])), i
		}
		wide = w
	}
	return append(words, string(runes[begin:]))
}

// set takes the parameters of an SGR sequence.
func (s *style) set(codes string) {
	var n []int
	for code := range strings.FieldsFuncSeq(codes+";", func(r rune) bool { return r == ';' || r == ':' }) {
		v, _ := strconv.Atoi(code)
		n = append(n, v)
	}
	if len(n) == 0 {
		n = []int{0}
	}
	for i := 0; i < len(n); i++ {
		switch c := n[i]; {
		case c == 0:
			*s = style{}
		case c == 1:
			s.bold = true
		case c == 2:
			s.dim = true
		case c == 7:
			s.reverse = true
		case c == 22:
			s.bold, s.dim = false, false
		case c == 27:
			s.reverse = false
		case c >= 30 && c <= 37:
			s.fg = basic[c-30]
		case c >= 90 && c <= 97:
			s.fg = basic[c-90+8]
		case c >= 40 && c <= 47:
			s.bg = basic[c-40]
		case c == 39:
			s.fg = ""
		case c == 49:
			s.bg = ""
		case c == 38 || c == 48:
			colour, used := extended(n[i+1:])
			if i += used; c == 38 {
				s.fg = colour
			} else {
				s.bg = colour
			}
		}
	}
}

// extended reads 5;N or 2;R;G;B, and tells how many numbers that took.
func extended(n []int) (colour string, used int) {
	switch {
	case len(n) >= 2 && n[0] == 5:
		return palette(n[1]), 2
	case len(n) >= 4 && n[0] == 2:
		return fmt.Sprintf("#%02x%02x%02x", n[1]&255, n[2]&255, n[3]&255), 4
	}
	return "", len(n)
}

// palette is a colour of the 256.
func palette(n int) string {
	level := func(v int) int {
		if v == 0 {
			return 0
		}
		return 55 + 40*v
	}
	switch {
	case n < 16:
		return basic[n&15]
	case n < 232:
		n -= 16
		return fmt.Sprintf("#%02x%02x%02x", level(n/36), level(n/6%6), level(n%6))
	}
	grey := 8 + 10*(min(n, 255)-232)
	return fmt.Sprintf("#%02x%02x%02x", grey, grey, grey)
}

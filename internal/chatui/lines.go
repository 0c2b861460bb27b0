package chatui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/internal/clean"
)

const (
	timeWidth = 6   // "15:04 "
	maxName   = 24  // cells of a name
	maxLines  = 200 // lines of one message
)

// line is a line of the message pane.
type line struct {
	text string
	seq  uint64 // of the message that it shows; 0: of none
}

// lines returns what is on the screen: height lines, or fewer if there are no
// more, that end r.scroll lines above the end. It corrects r.scroll if that is
// beyond the beginning, and tells whether the beginning is reached.
func (r *roomView) lines(width, height int) (window []line, top bool) {
	var upward []line // from the end
	push := func(texts []string, seq uint64) {
		for _, t := range slices.Backward(texts) {
			upward = append(upward, line{t, seq})
		}
	}
	if r.past == nil {
		for i := range slices.Backward(r.pending) {
			push(pendingLines(&r.pending[i], width), 0)
		}
	}
	entries, fresh := r.shown().entries, r.firstNew()
	i := len(entries) - 1
	for ; i >= 0 && len(upward) < r.scroll+height; i-- {
		var before *entry
		if i > 0 {
			before = entries[i-1]
		}
		push(entries[i].draw(width, r.target), entries[i].messageSeq())
		push(separators(before, entries[i], width, fresh), 0)
	}
	top = i < 0 && len(upward) <= r.scroll+height
	r.scroll = max(0, min(r.scroll, len(upward)-height))
	upward = upward[r.scroll:min(len(upward), r.scroll+height)]
	slices.Reverse(upward)
	return upward, top
}

// countAfter returns how many lines follow the entry with the number seq.
func (r *roomView) countAfter(seq uint64, width int) (n int) {
	if r.past == nil {
		for i := range r.pending {
			n += len(pendingLines(&r.pending[i], width))
		}
	}
	entries, fresh := r.shown().entries, r.firstNew()
	for i := len(entries) - 1; i >= 0 && entries[i].seq > seq; i-- {
		var before *entry
		if i > 0 {
			before = entries[i-1]
		}
		n += len(entries[i].draw(width, r.target)) + len(separators(before, entries[i], width, fresh))
	}
	return n
}

// firstNew returns the number of the first message of others that is new; 0:
// there is none.
func (r *roomView) firstNew() uint64 {
	if r.newAfter == 0 {
		return 0
	}
	entries := r.shown().entries
	at, _ := slices.BinarySearchFunc(entries, &entry{seq: r.newAfter + 1}, (*entry).compare)
	for _, e := range entries[at:] {
		if e.kind == kindMessage && e.msg.Said() && e.msg.From != r.me {
			return e.seq
		}
	}
	return 0
}

// separators returns the lines between two entries; before may be nil, fresh is
// the first new message.
func separators(before, e *entry, width int, fresh uint64) (lines []string) {
	if before == nil || !sameDay(before.at, e.at) {
		lines = append(lines, styleDim.Render(rule(e.at.Local().Format("Monday, 2 January 2006"), width)))
	}
	if fresh > 0 && e.messageSeq() == fresh {
		lines = append(lines, styleNew.Render(rule("new", width)))
	}
	return lines
}

func sameDay(a, b time.Time) bool {
	a, b = a.Local(), b.Local()
	return a.YearDay() == b.YearDay() && a.Year() == b.Year()
}

// rule is a horizontal line with a word in it.
func rule(word string, width int) string {
	word = clean.Truncate(" "+word+" ", max(0, width-4))
	left := max(0, width-clean.Width(word)) / 2
	right := max(0, width-clean.Width(word)-left)
	return strings.Repeat("─", left) + word + strings.Repeat("─", right)
}

func (e *entry) messageSeq() uint64 {
	if e.kind == kindMessage {
		return e.seq
	}
	return 0
}

// draw returns the entry's lines, each at most width cells wide.
func (e *entry) draw(width int, target uint64) []string {
	if e.width != width {
		e.width = width
		if e.kind == kindMessage {
			e.lines = messageLines(&e.msg, e.at.Local().Format("15:04"), width)
		} else {
			e.lines = e.noteLines(width)
		}
	}
	if target > 0 && e.messageSeq() == target && len(e.lines) > 0 {
		lines := slices.Clone(e.lines)
		lines[0] = styleSelected.Render(e.at.Local().Format("15:04")) + strings.TrimPrefix(lines[0], styleDim.Render(e.at.Local().Format("15:04")))
		return lines
	}
	return e.lines
}

func (e *entry) noteLines(width int) []string {
	style, mark := styleDim, "-"
	switch e.kind {
	case kindWarning:
		style, mark = styleWarning, "!"
	case kindError:
		style, mark = styleError, "!"
	}
	var lines []string
	for _, text := range bodyLines(e.text, width) {
		lines = append(lines, "  "+style.Render(mark)+"   "+style.Render(text))
		mark = " "
	}
	return lines
}

// bodyLines cleans and wraps a text for the room right of the time.
func bodyLines(text string, width int) (lines []string) {
	all := strings.Split(strings.TrimRight(clean.Text(text), "\n"), "\n")
	for i, l := range all {
		lines = append(lines, clean.Wrap(l, width-timeWidth)...)
		if len(lines) >= maxLines {
			more := fmt.Sprintf("… and %d more lines; rpycfs chat log shows them", len(lines)-maxLines+len(all)-i)
			return append(lines[:maxLines-1], clean.Truncate(more, width-timeWidth))
		}
	}
	return lines
}

// messageLines draws an entry of the log with what stands in the place of the
// time.
func messageLines(m *chat.Message, stamp string, width int) []string {
	head, style, text := "", styleDim, ""
	name := userName(m.From)
	kind := m.Kind
	if m.Refused {
		kind, text = 0, "- an entry that claims to be from "+name+" is not genuine, and is not shown"
	}
	switch kind {
	case 0:
	case chatproto.KindText:
		head, style, text = "<"+name+">", nameStyle(m.From), m.Text
	case chatproto.KindAction:
		head, style, text = "* "+name, nameStyle(m.From), m.Text
	case chatproto.KindSealed:
		head, style, text = "<"+name+">", nameStyle(m.From), "(sealed; this device cannot open it)"
	default:
		text = Record(m)
	}
	lines := bodyLines(strings.TrimSpace(head+" "+text), width)
	for i, l := range lines {
		tail, found := strings.CutPrefix(l, head)
		switch {
		case head == "":
			l = styleDim.Render(l)
		case i == 0 && found:
			l = style.Render(head) + tail
		}
		if i > 0 {
			stamp = strings.Repeat(" ", timeWidth-1)
		}
		lines[i] = styleDim.Render(stamp) + " " + l
	}
	for _, w := range m.Warnings {
		for _, l := range bodyLines(w, width) {
			lines = append(lines, "  "+styleWarning.Render("!")+"   "+styleWarning.Render(l))
		}
	}
	return lines
}

// Record tells in a line, harmless on a terminal, what was done in a room.
func Record(m *chat.Message) string {
	from, target := userName(m.From), userName(m.Target)
	switch m.Kind {
	case chatproto.KindCreate:
		return "- " + from + " made the room"
	case chatproto.KindJoin:
		return "- " + from + " joined"
	case chatproto.KindLeave:
		return "- " + from + " left"
	case chatproto.KindInvite:
		return "- " + from + " invited " + target
	case chatproto.KindRemove:
		return "- " + from + " removed " + target
	case chatproto.KindTopic:
		return "- " + from + " set the topic: " + clean.Line(m.Text)
	case chatproto.KindKeys:
		return "- " + from + " made a new room key"
	}
	return fmt.Sprintf("- %s: an entry of kind %d that this program does not know", from, m.Kind)
}

// pendingLines draws a message of the outbox.
func pendingLines(m *chat.Message, width int) []string { return messageLines(m, "  …  ", width) }

// userName makes a user's name fit to be shown: no blanks, which would make one
// name look like a name and a text.
func userName(name string) string {
	return strings.ReplaceAll(clean.Truncate(clean.Line(name), maxName), " ", "_")
}

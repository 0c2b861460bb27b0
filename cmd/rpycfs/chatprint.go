package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/internal/chatui"
	"github.com/rpycfs/rpycfs/internal/clean"
)

// printer prints messages, for people or for programs.
type printer struct {
	out  io.Writer
	json bool
}

// jsonMessage is what --json prints of a message. The names are part of the
// interface, and are listed in rpycfs(1).
type jsonMessage struct {
	Room     string   `json:"room"` // name, or @user
	Seq      uint64   `json:"seq"`
	ID       string   `json:"id"`
	Kind     string   `json:"kind"`
	From     string   `json:"from"`
	Target   string   `json:"target,omitempty"`
	Text     string   `json:"text"`
	Time     string   `json:"time"`
	Sent     string   `json:"sent,omitempty"`
	Sealed   bool     `json:"sealed,omitempty"`
	Closed   bool     `json:"closed,omitempty"`  // this device has no key for it
	Refused  bool     `json:"refused,omitempty"` // not genuine
	Device   string   `json:"device,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// kindNames are the values of "kind".
var kindNames = map[uint8]string{
	chatproto.KindText: "text", chatproto.KindAction: "action", chatproto.KindSealed: "sealed", chatproto.KindCreate: "create",
	chatproto.KindJoin: "join", chatproto.KindLeave: "leave", chatproto.KindInvite: "invite", chatproto.KindRemove: "remove",
	chatproto.KindTopic: "topic", chatproto.KindKeys: "keys",
}

func (p *printer) message(m *chat.Message) error {
	if p.json {
		j := jsonMessage{
			Room: m.RoomName, Seq: m.Seq, ID: m.ID.String(), Kind: kindNames[m.Kind], From: m.From, Target: m.Target,
			Text: m.Text, Time: jsonTime(m.Time), Sent: jsonTime(m.Sent), Sealed: m.Sealed, Closed: m.Closed, Refused: m.Refused, Warnings: m.Warnings,
		}
		if m.Device != (chatproto.DeviceID{}) {
			j.Device = m.Device.String()
		}
		return p.object(j)
	}
	_, err := io.WriteString(p.out, messageText(m))
	return err
}

func jsonTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// object prints v as a line of JSON in which every character that a terminal may
// obey is written as an escape.
func (p *printer) object(v any) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(p.out, escapeJSON(b.String()))
	return err
}

func escapeJSON(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r >= ' ' && r <= '~' || r > '~' && unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S):
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// continued begins the further lines of a message of several lines.
const continued = "    "

// messageText is a message as a person reads it, with the end of its line.
func messageText(m *chat.Message) string {
	var b strings.Builder
	b.WriteString(m.Time.Local().Format("2006-01-02 15:04 "))
	b.WriteString(roomTitle(m.RoomName) + " " + said(m) + "\n")
	for _, w := range m.Warnings {
		b.WriteString(continued + "! " + clean.Line(w) + "\n")
	}
	return b.String()
}

// said tells who said or did what.
func said(m *chat.Message) string {
	from := person(m.From)
	if m.Refused {
		return "- an entry that claims to be from " + from + " is not genuine, and is not shown"
	}
	switch m.Kind {
	case chatproto.KindText:
		return "<" + from + "> " + indented(m.Text)
	case chatproto.KindAction:
		return "* " + from + " " + indented(m.Text)
	case chatproto.KindSealed:
		return "<" + from + "> (sealed; this device cannot open it)"
	}
	return chatui.Record(m)
}

// indented sets the further lines of a text in, so that none looks like a
// message of its own.
func indented(text string) string {
	return strings.ReplaceAll(strings.TrimRight(clean.Text(text), "\n"), "\n", "\n"+continued)
}

// person is a user's name without blanks.
func person(name string) string { return strings.ReplaceAll(clean.Line(name), " ", "_") }

// roomTitle is #name or @user.
func roomTitle(name string) string {
	name = person(name)
	if strings.HasPrefix(name, "@") {
		return name
	}
	return "#" + name
}

// table prints lines of cells, ended by tabs, in columns without blanks at the end.
type table struct {
	out   io.Writer
	text  strings.Builder
	cells *tabwriter.Writer
}

func newTable(out io.Writer) *table {
	t := &table{out: out}
	t.cells = tabwriter.NewWriter(&t.text, 0, 0, 2, ' ', 0)
	return t
}

func (t *table) Write(p []byte) (int, error) { return t.cells.Write(p) }

// Flush prints the lines.
func (t *table) Flush() error {
	if err := t.cells.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(t.text.String()) {
		if _, err := fmt.Fprintln(t.out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

var stateNames = map[uint8]string{chatproto.Offline: "offline", chatproto.Away: "away", chatproto.Online: "online"}

var roomKinds = map[uint8]string{
	chatproto.RoomPublic: "public", chatproto.RoomPrivate: "private", chatproto.RoomSealed: "sealed", chatproto.RoomDirect: "direct",
}

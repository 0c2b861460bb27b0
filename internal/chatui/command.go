package chatui

import (
	"strings"

	tea "charm.land/bubbletea/v2"
)

// command is one of the commands that a line may begin with.
type command struct {
	name  string
	usage string // what follows the name
	help  string
	needs int  // words that must follow
	room  bool // it is about the current room
	run   func(m *model, args string) tea.Cmd
}

// commands is the table of all commands, in the order of the help. It is filled
// in init, because the help ranges over it.
var commands []command

func init() {
	commands = []command{
		{"join", "ROOM", "go into a room, or show it", 1, false, (*model).cmdJoin},
		{"leave", "[ROOM]", "leave a room", 0, false, (*model).cmdLeave},
		{"rooms", "", "list the rooms that there are", 0, false, (*model).cmdRooms},
		{"create", "ROOM [private|sealed] [TOPIC]", "make a room; in a sealed one the server cannot read", 1, false, (*model).cmdCreate},
		{"who", "[ROOM]", "list who is in a room", 0, false, (*model).cmdWho},
		{"msg", "USER [TEXT]", "write to one user, or show what was written", 1, false, (*model).cmdMsg},
		{"me", "TEXT", "say what you do", 1, true, (*model).cmdMe},
		{"topic", "[TEXT]", "show or set the topic", 0, true, (*model).cmdTopic},
		{"invite", "USER", "bring a user into the room", 1, true, (*model).cmdInvite},
		{"kick", "USER", "put a user out of the room", 1, true, (*model).cmdKick},
		{"search", "WORDS", `search; also "a phrase", from:USER in:ROOM after:DATE before:DATE`, 1, false, (*model).cmdSearch},
		{"away", "[WHY]", "tell that you are away", 0, false, (*model).cmdAway},
		{"back", "", "tell that you are back", 0, false, (*model).cmdBack},
		{"devices", "[USER | enrol [CODE] | revoke ID | recovery | recover KEY]", "devices for sealed rooms", 0, false, (*model).cmdDevices},
		{"verify", "USER [yes]", "compare a user's keys", 1, false, (*model).cmdVerify},
		{"mouse", "", "let the mouse scroll and choose rooms, or not", 0, false, (*model).cmdMouse},
		{"help", "", "show this", 0, false, (*model).cmdHelp},
		{"quit", "", "end", 0, false, func(*model, string) tea.Cmd { return tea.Quit }},
	}
}

// parseCommand finds the command that a line without its "/" begins with. A
// name may be cut short if no other begins like it. problem is what to tell if
// there is none or if words are missing.
func parseCommand(line string) (c *command, args, problem string) {
	name, args, _ := strings.Cut(strings.TrimSpace(line), " ")
	name, args = strings.ToLower(name), strings.TrimSpace(args)
	if name == "" {
		return nil, "", "a command is missing after the /; /help lists them, // says a line that begins with /"
	}
	var found []*command
	for i := range commands {
		switch c := &commands[i]; {
		case c.name == name:
			found = []*command{c}
		case strings.HasPrefix(c.name, name) && (len(found) != 1 || found[0].name != name):
			found = append(found, c)
		}
	}
	switch {
	case len(found) == 0:
		return nil, "", "unknown command /" + name + "; nothing was sent; /help lists the commands"
	case len(found) > 1:
		return nil, "", "/" + name + " may be " + joinNames(found) + "; nothing was sent"
	}
	c = found[0]
	if len(strings.Fields(args)) < c.needs {
		return nil, "", "usage: /" + c.name + " " + c.usage
	}
	return c, args, ""
}

func joinNames(found []*command) string {
	var names []string
	for _, c := range found {
		names = append(names, "/"+c.name)
	}
	return strings.Join(names, " or ")
}

// command does what a line that began with "/" asks for.
func (m *model) command(line string) tea.Cmd {
	c, args, problem := parseCommand(line)
	if problem == "" && c.room && m.current == m.home {
		problem = "you are in no room; /join one first"
	}
	if problem != "" {
		m.note(kindError, problem)
		return nil
	}
	return c.run(m, args)
}

// help shows the commands and the keys.
func (m *model) help() {
	var b strings.Builder
	for _, c := range commands {
		b.WriteString(strings.TrimSpace("/"+c.name+" "+c.usage) + "  " + c.help + "\n")
	}
	b.WriteString("//TEXT  say a line that begins with /\n" +
		"Tab completes · ↑ ↓ earlier lines · PgUp PgDn scroll · Esc newest · Ctrl-N Ctrl-P next, previous room\n" +
		"Alt-A next unread room · Alt-Enter new line · Ctrl-C empties the line, then ends")
	m.note(kindNote, b.String())
}

func (m *model) cmdHelp(string) tea.Cmd {
	m.help()
	return nil
}

func (m *model) cmdMouse(string) tea.Cmd {
	m.mouse = !m.mouse
	text := "the mouse is the terminal's again"
	if m.mouse {
		text = "the mouse scrolls and chooses rooms; hold Shift to select text; /mouse gives it back"
	}
	m.note(kindNote, text)
	return nil
}

package chatui

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/internal/clean"
)

// ask runs f beside the model and shows what it returns in the room that is
// current now.
func (m *model) ask(f func(ctx context.Context) (string, error)) tea.Cmd {
	r := m.current
	return m.call(func(ctx context.Context) tea.Msg {
		text, err := f(ctx)
		if err != nil {
			return noteMsg{r, kindError, m.reason(err)}
		}
		if text == "" {
			return nil
		}
		return noteMsg{r, kindNote, text}
	})
}

// roomName is a room's name without the "#" that people write.
func roomName(arg string) string { return strings.TrimPrefix(arg, "#") }

func (m *model) cmdJoin(args string) tea.Cmd { return m.open(roomName(args)) }

func (m *model) cmdLeave(args string) tea.Cmd {
	name := roomName(args)
	if name == "" {
		if m.current == m.home {
			m.note(kindError, "you are in no room")
			return nil
		}
		name = m.current.info.Title()
	}
	return m.ask(func(ctx context.Context) (string, error) {
		r, err := m.client.Room(name)
		if err != nil {
			return "", err
		}
		return "", r.Leave(ctx)
	})
}

func (m *model) cmdRooms(string) tea.Cmd {
	return m.ask(func(ctx context.Context) (string, error) {
		rooms, err := m.client.ListRooms(ctx)
		if err != nil {
			return "", err
		}
		var b strings.Builder
		for i := range rooms {
			fmt.Fprintln(&b, describeRoom(&rooms[i]))
		}
		return b.String(), nil
	})
}

// describeRoom is a line of the list of rooms.
func describeRoom(r *chat.RoomInfo) string {
	text := fmt.Sprintf("%s  %s", title(r), Members(r.Members))
	if what := roomKind(r.Kind); what != "" {
		text += ", " + what
	}
	if r.Member {
		text += ", you are in it"
	}
	if r.Topic != "" {
		text += "  " + clean.Line(r.Topic)
	}
	return text
}

// Members is a number of members in words.
func Members(n int) string {
	if n == 1 {
		return "1 member"
	}
	return fmt.Sprintf("%d members", n)
}

// roomKind is empty for public and direct rooms.
func roomKind(kind uint8) string {
	switch kind {
	case chatproto.RoomPrivate:
		return "private"
	case chatproto.RoomSealed:
		return "sealed"
	}
	return ""
}

func (m *model) cmdCreate(args string) tea.Cmd {
	name, rest, _ := strings.Cut(args, " ")
	kind, rest := chatproto.RoomPublic, strings.TrimSpace(rest)
	switch word, topic, _ := strings.Cut(rest, " "); word {
	case "public":
		rest = topic
	case "private":
		kind, rest = chatproto.RoomPrivate, topic
	case "sealed":
		kind, rest = chatproto.RoomSealed, topic
	}
	name = roomName(name)
	return m.call(func(ctx context.Context) tea.Msg {
		r, err := m.client.Create(ctx, name, kind, strings.TrimSpace(rest))
		if err != nil {
			return openedMsg{name: "#" + name, err: err}
		}
		return openedMsg{name: name, room: r.Info()}
	})
}

func (m *model) cmdWho(args string) tea.Cmd {
	name := roomName(args)
	if name == "" {
		if m.current == m.home {
			m.note(kindNote, strings.Join(m.everybody(), "\n"))
			return nil
		}
		name = m.current.info.Title()
	}
	return m.ask(func(ctx context.Context) (string, error) {
		r, err := m.client.Room(name)
		if err != nil {
			return "", err
		}
		users, err := r.Members(ctx)
		if err != nil {
			return "", err
		}
		present := make(map[string]chat.Presence)
		for _, p := range m.client.Users() {
			present[p.User] = p
		}
		slices.Sort(users)
		for i, u := range users {
			users[i] = describeUser(u, present[u])
		}
		return strings.Join(users, "\n"), nil
	})
}

// everybody describes all users that are there.
func (m *model) everybody() (lines []string) {
	for _, u := range m.people() {
		lines = append(lines, describeUser(u, m.users[u]))
	}
	return lines
}

func describeUser(name string, p chat.Presence) string {
	text := userName(name) + "  " + presence(p.State)
	if p.Text != "" {
		text += ": " + clean.Line(p.Text)
	}
	return text
}

func presence(state uint8) string {
	switch state {
	case chatproto.Online:
		return "online"
	case chatproto.Away:
		return "away"
	}
	return "offline"
}

func (m *model) cmdMsg(args string) tea.Cmd {
	user, text, _ := strings.Cut(args, " ")
	user, text = strings.TrimPrefix(user, "@"), strings.TrimSpace(text)
	if text == "" {
		return m.open("@" + user)
	}
	r := m.current
	return m.enqueue(func() tea.Msg {
		ctx, cancel := context.WithTimeout(m.ctx, callTimeout)
		defer cancel()
		err := m.client.Whisper(ctx, user, text)
		note := "to @" + user + ": " + text
		if errors.Is(err, chat.ErrQueued) {
			note, err = note+"\n("+err.Error()+")", nil
		}
		return sentMsg{room: r, text: "/msg " + user + " " + text, note: note, err: err}
	})
}

func (m *model) cmdMe(args string) tea.Cmd { return m.send(chatproto.KindAction, args) }

func (m *model) cmdTopic(args string) tea.Cmd {
	r := m.current
	if args == "" {
		text := "no topic"
		if r.info.Topic != "" {
			text = "topic: " + r.info.Topic
		}
		m.note(kindNote, text)
		return nil
	}
	return m.inRoom(func(ctx context.Context, r Room) error { return r.SetTopic(ctx, args) })
}

// inRoom does something with the current room.
func (m *model) inRoom(f func(ctx context.Context, r Room) error) tea.Cmd {
	id := m.current.info.ID
	return m.ask(func(ctx context.Context) (string, error) {
		r, err := m.handleOf(id)
		if err != nil {
			return "", err
		}
		return "", f(ctx, r)
	})
}

func (m *model) cmdInvite(args string) tea.Cmd {
	user := strings.TrimPrefix(args, "@")
	return m.inRoom(func(ctx context.Context, r Room) error { return r.Invite(ctx, user) })
}

func (m *model) cmdKick(args string) tea.Cmd {
	user := strings.TrimPrefix(args, "@")
	return m.inRoom(func(ctx context.Context, r Room) error { return r.Remove(ctx, user) })
}

func (m *model) cmdSearch(args string) tea.Cmd { return m.startSearch(args) }

func (m *model) cmdAway(args string) tea.Cmd {
	return m.ask(func(ctx context.Context) (string, error) {
		return "you are away; /back ends that", m.client.SetAway(ctx, true, args)
	})
}

func (m *model) cmdBack(string) tea.Cmd {
	return m.ask(func(ctx context.Context) (string, error) {
		return "you are back", m.client.SetAway(ctx, false, "")
	})
}

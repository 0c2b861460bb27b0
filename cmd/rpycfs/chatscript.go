package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/internal/chatui"
	"github.com/rpycfs/rpycfs/internal/clean"
)

// chatSay is rpycfs chat say.
type chatSay struct {
	chatLogin
	Room   string   `arg:"" placeholder:"ROOM|@USER" help:"Where to say it: a room's name, or @USER."`
	Text   []string `arg:"" optional:"" help:"What to say; without it, or as -, all of standard input."`
	Action bool     `help:"Say what you do, as /me does."`
}

// Run says one message. While the server cannot be reached it waits in the
// outbox, which is a success of its own kind.
func (s *chatSay) Run(env *environment) error {
	text, err := s.text(env)
	if err != nil {
		return err
	}
	err = s.with(env, chat.Config{Offline: true, NoEvents: true}, func(ctx context.Context, c *chat.Client) error {
		return s.say(ctx, c, text)
	})
	if errors.Is(err, chat.ErrQueued) && s.NoState {
		return errors.New("the server cannot be reached; with --no-state nothing waits")
	}
	if errors.Is(err, chat.ErrQueued) {
		return &failure{exitQueued, fmt.Errorf("queued: %w; the next rpycfs chat with this server sends it", err)}
	}
	return err
}

func (s *chatSay) text(env *environment) (string, error) {
	text := strings.Join(s.Text, " ")
	if text == "" || text == "-" {
		all, err := io.ReadAll(io.LimitReader(env.stdin, chatproto.MaxText+2))
		if err != nil {
			return "", err
		}
		text = strings.TrimRight(string(all), "\r\n")
	}
	return text, chatproto.CheckText(text, chatproto.MaxText)
}

func (s *chatSay) say(ctx context.Context, c *chat.Client, text string) error {
	if user, direct := strings.CutPrefix(s.Room, "@"); direct && !s.Action {
		return c.Whisper(ctx, user, text)
	}
	r, err := openRoom(ctx, c, s.Room)
	if err != nil {
		return err
	}
	if s.Action {
		_, err = r.Act(ctx, text)
	} else {
		_, err = r.Say(ctx, text)
	}
	return err
}

// chatLog is rpycfs chat log.
type chatLog struct {
	chatLogin
	Room   string  `arg:"" placeholder:"ROOM|@USER" help:"A room that you are in, or @USER."`
	Number uint64  `short:"n" default:"50" help:"How many of the newest entries; 0 prints all."`
	Since  *uint64 `placeholder:"SEQ" help:"All entries after the one with this number."`
	Follow bool    `short:"f" help:"Go on printing what is said."`
	JSON   bool    `name:"json" help:"Print one JSON object per line."`
}

// Run prints a room's log.
func (l *chatLog) Run(env *environment) error {
	c, err := l.connect(env, chat.Config{NoEvents: !l.Follow})
	if err != nil {
		return err
	}
	err = l.print(env, c)
	return errors.Join(err, finish(env, c))
}

func (l *chatLog) print(env *environment, c *chat.Client) error {
	r, err := memberRoom(c, l.Room)
	if err != nil {
		return err
	}
	p := printer{env.stdout, l.JSON}
	info := r.Info()
	var after uint64 // the last one that is not wanted
	switch {
	case l.Since != nil:
		after = *l.Since
	case l.Number > 0 && l.Number < info.Last:
		after = info.Last - l.Number
	}
	if info.First > 0 {
		after = max(after, info.First-1)
	}
	if err := printHistory(env.ctx, &p, r, after, info.Last); err != nil {
		return err
	}
	if !l.Follow {
		return nil
	}
	return follow(env, c, &p, info.ID, max(after, info.Last))
}

// window is how many entries are held while history is printed.
const window = 100

// printHistory prints the entries with numbers above after, up to last.
func printHistory(ctx context.Context, p *printer, r *chat.Room, after, last uint64) error {
	for after < last {
		end := min(after+window, last)
		messages, err := between(ctx, r, after, end)
		if err != nil {
			return err
		}
		for i := range messages {
			if err := p.message(&messages[i]); err != nil {
				return err
			}
		}
		after = end
	}
	return nil
}

// between returns the entries with numbers above after, up to end. A page may be
// shorter than asked for, so that it takes several.
func between(ctx context.Context, r *chat.Room, after, end uint64) (messages []chat.Message, err error) {
	for before := end + 1; before > after+1; {
		callCtx, cancel := context.WithTimeout(ctx, callTimeout)
		page, err := r.History(callCtx, before, int(before-after-1))
		cancel()
		if err != nil {
			return nil, err
		}
		page = slices.DeleteFunc(page, func(m chat.Message) bool { return m.Seq <= after || m.Seq >= before })
		if len(page) == 0 {
			break
		}
		messages = append(page, messages...)
		before = page[0].Seq
	}
	return messages, nil
}

// follow prints the room's entries above after, as they come.
func follow(env *environment, c *chat.Client, p *printer, id chatproto.RoomID, after uint64) error {
	var told teller
	for e := range c.Events(env.ctx) {
		switch e := e.(type) {
		case *chat.Message:
			if e.Room != id || e.Pending || e.Seq <= after {
				continue
			}
			if err := p.message(e); err != nil {
				return err
			}
		case *chat.RoomGone:
			if e.Room.ID == id {
				return errors.New("you are no longer in " + roomTitle(e.Room.Title()))
			}
		default:
			told.report(env, e)
		}
	}
	return c.Err()
}

// chatSearch is rpycfs chat search.
type chatSearch struct {
	chatLogin
	Query  []string `arg:"" help:"Words, \"a phrase\", from:USER, in:ROOM, after:DATE, before:DATE."`
	Number int      `short:"n" default:"50" help:"At most so many results, the newest first."`
	JSON   bool     `name:"json" help:"Print one JSON object per line."`
}

// Run prints what is found.
func (s *chatSearch) Run(env *environment) error {
	// A phrase that the shell has taken the quotes from is one again.
	words := slices.Clone(s.Query)
	for i, w := range words {
		if len(words) > 1 && strings.Contains(w, " ") && !strings.Contains(w, `"`) {
			words[i] = `"` + w + `"`
		}
	}
	p := printer{env.stdout, s.JSON}
	return s.with(env, chat.Config{NoEvents: true}, func(ctx context.Context, c *chat.Client) error {
		var cursor chat.Cursor
		for left := s.Number; left > 0 && !cursor.Done(); {
			found, next, err := c.Search(ctx, strings.Join(words, " "), cursor, min(left, window))
			if err != nil {
				return err
			}
			for i := range found {
				if err := p.message(&found[i]); err != nil {
					return err
				}
			}
			left -= len(found)
			cursor = next
			if len(found) == 0 {
				break
			}
		}
		return nil
	})
}

// chatRooms is rpycfs chat rooms.
type chatRooms struct {
	chatLogin
	JSON bool `name:"json" help:"Print one JSON object per line."`
}

// jsonRoom is what --json prints of a room.
type jsonRoom struct {
	Room    string `json:"room"` // name, or @user
	Kind    string `json:"kind"`
	Topic   string `json:"topic"`
	Owner   string `json:"owner,omitempty"`
	Members int    `json:"members"`
	Member  bool   `json:"member"`
	Last    uint64 `json:"last"`
	Unread  int    `json:"unread"`
}

// Run prints the rooms that the user may know of, and the direct ones.
func (r *chatRooms) Run(env *environment) error {
	return r.with(env, chat.Config{NoEvents: true}, func(ctx context.Context, c *chat.Client) error {
		all, err := c.ListRooms(ctx)
		if err != nil {
			return err
		}
		own := make(map[chatproto.RoomID]chat.RoomInfo)
		for _, info := range c.Rooms() {
			own[info.ID] = info
			if info.Kind == chatproto.RoomDirect {
				all = append(all, info)
			}
		}
		for i := range all {
			if info, ok := own[all[i].ID]; ok {
				all[i] = info // with what is unread
			}
		}
		return r.print(env, all)
	})
}

func (r *chatRooms) print(env *environment, rooms []chat.RoomInfo) error {
	p := printer{env.stdout, r.JSON}
	table := newTable(env.stdout)
	for i := range rooms {
		info := &rooms[i]
		if r.JSON {
			err := p.object(jsonRoom{
				Room: info.Title(), Kind: roomKinds[info.Kind], Topic: info.Topic, Owner: info.Owner,
				Members: info.Members, Member: info.Member, Last: info.Last, Unread: info.Unread,
			})
			if err != nil {
				return err
			}
			continue
		}
		in := "-"
		if info.Member {
			in = fmt.Sprintf("%d unread", info.Unread)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", roomTitle(info.Title()), roomKinds[info.Kind], chatui.Members(info.Members), in, clean.Line(info.Topic))
	}
	return table.Flush()
}

// chatWho is rpycfs chat who.
type chatWho struct {
	chatLogin
	Room string `arg:"" optional:"" help:"List the members of this room, there or not."`
	JSON bool   `name:"json" help:"Print one JSON object per line."`
}

// jsonUser is what --json prints of a user.
type jsonUser struct {
	User  string `json:"user"`
	State string `json:"state"`
	Text  string `json:"text,omitempty"`
	Since string `json:"since,omitempty"`
}

// Run prints users.
func (w *chatWho) Run(env *environment) error {
	return w.with(env, chat.Config{NoEvents: true}, func(ctx context.Context, c *chat.Client) error {
		users := withSelf(c.Users(), c.User())
		if w.Room != "" {
			r, err := memberRoom(c, w.Room)
			if err != nil {
				return err
			}
			names, err := r.Members(ctx)
			if err != nil {
				return err
			}
			users = presences(names, users)
		}
		return w.print(env, users)
	})
}

// withSelf adds who asks, of whom the server may not have told yet.
func withSelf(users []chat.Presence, me string) []chat.Presence {
	if slices.ContainsFunc(users, func(p chat.Presence) bool { return p.User == me }) {
		return users
	}
	users = append(users, chat.Presence{User: me, State: chatproto.Online})
	slices.SortFunc(users, func(a, b chat.Presence) int { return strings.Compare(a.User, b.User) })
	return users
}

// presences returns the presence of each name; who is not known to be there is
// offline.
func presences(names []string, users []chat.Presence) []chat.Presence {
	out := make([]chat.Presence, len(names))
	for i, name := range names {
		out[i].User = name
		if at := slices.IndexFunc(users, func(p chat.Presence) bool { return p.User == name }); at >= 0 {
			out[i] = users[at]
		}
	}
	return out
}

func (w *chatWho) print(env *environment, users []chat.Presence) error {
	p := printer{env.stdout, w.JSON}
	table := newTable(env.stdout)
	for _, u := range users {
		if w.JSON {
			if err := p.object(jsonUser{User: u.User, State: stateNames[u.State], Text: u.Text, Since: jsonTime(u.Since)}); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", person(u.User), stateNames[u.State], clean.Line(u.Text))
	}
	return table.Flush()
}

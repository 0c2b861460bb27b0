package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// The model says what the store should do, in the plainest way: everything is
// kept in lists and looked through.

type modelRoom struct {
	id           chatproto.RoomID
	kind         uint8
	name, topic  string
	owner        string
	a, b         string // of a direct room
	log          []chatproto.Message
	first        uint64
	epoch, stale uint64
	keep         uint64
	members      []modelMember // in the order in which they came
}

type modelMember struct {
	name string
	read uint64
}

func (r *modelRoom) member(user string) *modelMember {
	for i := range r.members {
		if r.members[i].name == user {
			return &r.members[i]
		}
	}
	return nil
}

func (r *modelRoom) last() uint64 { return uint64(len(r.log)) }

func (r *modelRoom) unread(m *modelMember) (n uint32) {
	for _, e := range r.log {
		if e.Seq >= r.first && e.Seq > m.read && e.Kind <= chatproto.KindSealed && e.From != m.name && n < chatproto.MaxUnread {
			n++
		}
	}
	return n
}

type model struct {
	t     *rapid.T
	s     *Store
	users []string
	pre   string
	fresh uint64
	rooms []*modelRoom
	said  map[string]map[chatproto.ID]chatproto.Message // by user
}

func (m *model) user() string { return rapid.SampledFrom(m.users).Draw(m.t, "user") }

func (m *model) anyRoom() *modelRoom {
	if len(m.rooms) == 0 {
		m.t.Skip("no room yet")
	}
	return rapid.SampledFrom(m.rooms).Draw(m.t, "room")
}

// actor draws somebody who acts in r, mostly a member.
func (m *model) actor(r *modelRoom) string {
	if len(r.members) == 0 || rapid.IntRange(0, 4).Draw(m.t, "stranger") == 0 {
		return m.user()
	}
	return r.members[rapid.IntRange(0, len(r.members)-1).Draw(m.t, "member")].name
}

// id draws an id, one that is sometimes used already.
func (m *model) id() chatproto.ID {
	if rapid.IntRange(0, 3).Draw(m.t, "again") > 0 {
		m.fresh++
		return idOf(1000 + m.fresh)
	}
	return idOf(uint64(rapid.IntRange(990, 1010).Draw(m.t, "id")))
}

func (m *model) expect(what string, got, want error) {
	m.t.Helper()
	if want == nil && got != nil || want != nil && !errors.Is(got, want) {
		m.t.Fatalf("%s: %v; want %v", what, got, want)
	}
}

// known returns what user has done with an id before. The error tells that it
// was something else.
func (m *model) known(user string, e chatproto.Message) (*chatproto.Message, error) {
	old, known := m.said[user][e.ID]
	if !known {
		return nil, nil
	}
	if old.Room != e.Room || old.Kind != e.Kind || old.Target != e.Target || string(old.Body) != string(e.Body) {
		return nil, chatproto.ErrOtherID
	}
	return &old, nil
}

// record adds an entry. Its time is the store's business.
func (m *model) record(r *modelRoom, e chatproto.Message) {
	e.Room, e.Seq = r.id, r.last()+1
	r.log = append(r.log, e)
	if m.said[e.From] == nil {
		m.said[e.From] = make(map[chatproto.ID]chatproto.Message)
	}
	m.said[e.From][e.ID] = e
}

func (m *model) trim(r *modelRoom) {
	if r.keep > 0 && r.last()+1 > r.keep+r.first {
		r.first = r.last() + 1 - r.keep
	}
}

func (m *model) enter(r *modelRoom, user string) {
	r.members = append(r.members, modelMember{name: user, read: r.last()})
	if r.owner == "" && r.kind != chatproto.RoomDirect {
		r.owner = user
	}
	r.stale = r.epoch
}

func (m *model) exit(r *modelRoom, user string) {
	r.members = slices.DeleteFunc(r.members, func(x modelMember) bool { return x.name == user })
	r.stale = r.epoch
	if r.owner != user {
		return
	}
	if r.owner = ""; len(r.members) > 0 {
		r.owner = r.members[0].name
	}
}

func (m *model) named(name string) *modelRoom {
	for _, r := range m.rooms {
		if r.name == name && (r.kind == chatproto.RoomPublic || len(r.members) > 0) {
			return r
		}
	}
	return nil
}

func (m *model) name() string {
	return m.pre + rapid.SampledFrom([]string{"den", "Yard", "hall"}).Draw(m.t, "name")
}

func (m *model) Create(*rapid.T) {
	user, name := m.user(), m.name()
	req := &chatproto.CreateRoomReq{ID: m.id(), Name: name, Kind: rapid.Uint8Range(chatproto.RoomPublic, chatproto.RoomSealed).Draw(m.t, "kind")}
	id, err := m.s.Create(background, user, req)
	if old, known := m.said[user][req.ID]; known {
		i := slices.IndexFunc(m.rooms, func(r *modelRoom) bool { return r.id == old.Room })
		if r := m.rooms[i]; old.Kind != chatproto.KindCreate {
			m.expect("create", err, chatproto.ErrOtherID)
		} else if alive := r.kind == chatproto.RoomPublic || len(r.members) > 0; alive && (r.name != name || r.kind != req.Kind) {
			m.expect("create", err, chatproto.ErrOtherID)
		} else if m.expect("create", err, nil); id != old.Room {
			m.t.Fatalf("created again as %d, was %d", id, old.Room)
		}
		return
	}
	if m.named(name) != nil {
		m.expect("create", err, chatproto.ErrExists)
		return
	}
	m.expect("create", err, nil)
	r := &modelRoom{id: id, kind: req.Kind, name: name, first: 1, owner: user}
	m.record(r, chatproto.Message{ID: req.ID, Kind: chatproto.KindCreate, From: user})
	m.enter(r, user)
	m.rooms = append(m.rooms, r)
}

func (m *model) Direct(*rapid.T) {
	a, b := m.user(), m.user()
	id, err := m.s.Direct(background, a, b)
	m.expect("direct", err, nil)
	for _, r := range m.rooms {
		if r.kind == chatproto.RoomDirect && (r.a == a && r.b == b || r.a == b && r.b == a) {
			if r.id != id {
				m.t.Fatalf("direct room %d, was %d", id, r.id)
			}
			return
		}
	}
	r := &modelRoom{id: id, kind: chatproto.RoomDirect, a: a, b: b, first: 1}
	if m.enter(r, a); a != b {
		m.enter(r, b)
	}
	m.rooms = append(m.rooms, r)
}

func (m *model) Join(*rapid.T) {
	user, name, id := m.user(), m.name(), m.id()
	got, err := m.s.Join(background, user, &chatproto.JoinRoomReq{ID: id, Name: name})
	r := m.named(name)
	if r == nil || r.kind != chatproto.RoomPublic && r.member(user) == nil {
		m.expect("join", err, chatproto.ErrNoRoom)
		return
	}
	if r.member(user) == nil {
		old, other := m.known(user, chatproto.Message{Room: r.id, ID: id, Kind: chatproto.KindJoin})
		if other != nil {
			m.expect("join", err, other)
			return
		}
		if old == nil {
			m.record(r, chatproto.Message{ID: id, Kind: chatproto.KindJoin, From: user})
			m.enter(r, user)
			m.trim(r)
		}
	}
	if m.expect("join", err, nil); got != r.id {
		m.t.Fatalf("joined %d; want %d", got, r.id)
	}
}

// change carries out what Invite, Remove, Leave and SetTopic have in common:
// why tells why it is refused, apply what it does.
func (m *model) change(what string, r *modelRoom, e chatproto.Message, err error, why func() error, apply func()) {
	m.t.Helper()
	e.Room = r.id
	old, want := m.known(e.From, e)
	if want == nil && old == nil {
		if want = chatproto.ErrNoRoom; r.member(e.From) != nil {
			want = why()
		}
	}
	if m.expect(what, err, want); want == nil && old == nil {
		m.record(r, e)
		apply()
		m.trim(r)
	}
}

func (m *model) Invite(*rapid.T) {
	r := m.anyRoom()
	user, other, id := m.actor(r), m.user(), m.id()
	err := m.s.Invite(background, user, r.id, &chatproto.MemberReq{ID: id, User: other})
	e := chatproto.Message{ID: id, Kind: chatproto.KindInvite, From: user, Target: other}
	m.change("invite", r, e, err, func() error {
		switch {
		case r.kind == chatproto.RoomDirect:
			return chatproto.ErrNotAllowed
		case r.member(other) != nil:
			return chatproto.ErrExists
		}
		return nil
	}, func() { m.enter(r, other) })
}

func (m *model) Remove(*rapid.T) {
	r := m.anyRoom()
	user, other, id := m.actor(r), m.user(), m.id()
	err := m.s.Remove(background, user, r.id, &chatproto.MemberReq{ID: id, User: other})
	e := chatproto.Message{ID: id, Kind: chatproto.KindRemove, From: user, Target: other}
	m.change("remove", r, e, err, func() error {
		switch {
		case r.owner != user || user == other:
			return chatproto.ErrNotAllowed
		case r.member(other) == nil:
			return chatproto.ErrNoUser
		}
		return nil
	}, func() { m.exit(r, other) })
}

func (m *model) Leave(*rapid.T) {
	r := m.anyRoom()
	user, id := m.actor(r), m.id()
	err := m.s.Leave(background, user, r.id, &chatproto.LeaveReq{ID: id})
	m.change("leave", r, chatproto.Message{ID: id, Kind: chatproto.KindLeave, From: user}, err, func() error {
		if r.kind == chatproto.RoomDirect {
			return chatproto.ErrNotAllowed
		}
		return nil
	}, func() { m.exit(r, user) })
}

func (m *model) SetTopic(*rapid.T) {
	r := m.anyRoom()
	user, id := m.actor(r), m.id()
	topic := rapid.SampledFrom([]string{"", "tea", "coffee"}).Draw(m.t, "topic")
	err := m.s.SetTopic(background, user, r.id, &chatproto.SetTopicReq{ID: id, Topic: topic})
	m.change("topic", r, chatproto.Message{ID: id, Kind: chatproto.KindTopic, From: user, Body: []byte(topic)}, err, func() error {
		if r.kind == chatproto.RoomSealed {
			return chatproto.ErrNotAllowed
		}
		return nil
	}, func() { r.topic = topic })
}

func (m *model) Say(*rapid.T) { m.say(m.anyRoom()) }

// sayKind draws a kind that mostly suits the room.
func (m *model) sayKind(r *modelRoom) uint8 {
	if r.kind == chatproto.RoomSealed && rapid.Bool().Draw(m.t, "suits") {
		return chatproto.KindSealed
	}
	return rapid.Uint8Range(chatproto.KindText, chatproto.KindSealed).Draw(m.t, "kind")
}

// Burst has several members talk in one room, more than it may keep.
func (m *model) Burst(*rapid.T) {
	r := m.anyRoom()
	for range rapid.IntRange(3, 8).Draw(m.t, "n") {
		m.say(r)
	}
}

func (m *model) say(r *modelRoom) {
	user := m.actor(r)
	req := &chatproto.SayReq{
		ID: m.id(), Kind: m.sayKind(r),
		Epoch: r.epoch + rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(m.t, "ahead"),
		Body:  []byte(rapid.SampledFrom([]string{"one", "two", "three"}).Draw(m.t, "text")),
	}
	res, err := m.s.Say(background, user, r.id, req)
	e := chatproto.Message{Room: r.id, ID: req.ID, Kind: req.Kind, From: user, Body: req.Body}
	want := r.last() + 1
	if old, _ := m.known(user, e); old != nil {
		want = old.Seq
	}
	m.change("say", r, e, err, func() error {
		switch {
		case (r.kind == chatproto.RoomSealed) != (req.Kind == chatproto.KindSealed):
			return chatproto.ErrNotAllowed
		case r.kind == chatproto.RoomSealed && (req.Epoch != r.epoch || r.epoch <= r.stale):
			return chatproto.ErrStaleKey
		}
		return nil
	}, func() {})
	if err == nil && res.Seq != want {
		m.t.Fatalf("said as %d; want %d", res.Seq, want)
	}
}

func (m *model) PutKeys(*rapid.T) {
	r := m.anyRoom()
	user := m.actor(r)
	req := &chatproto.PutKeysReq{ID: m.id(), Epoch: r.epoch + rapid.Uint64Range(0, 2).Draw(m.t, "epoch")}
	err := m.s.PutKeys(background, user, r.id, req)
	e := chatproto.Message{ID: req.ID, Kind: chatproto.KindKeys, From: user, Body: []byte{byte(req.Epoch), 0, 0, 0, 0, 0, 0, 0}}
	m.change("keys", r, e, err, func() error {
		switch {
		case r.kind != chatproto.RoomSealed:
			return chatproto.ErrNotAllowed
		case req.Epoch != r.epoch+1:
			return chatproto.ErrConflict
		}
		return nil
	}, func() { r.epoch = req.Epoch })
}

func (m *model) MarkRead(*rapid.T) {
	r := m.anyRoom()
	user := m.actor(r)
	seq := rapid.Uint64Range(0, r.last()+2).Draw(m.t, "seq")
	mark, moved, err := m.s.MarkRead(background, user, r.id, seq)
	who := r.member(user)
	if who == nil {
		m.expect("mark", err, chatproto.ErrNoRoom)
		return
	}
	m.expect("mark", err, nil)
	wantMoved := min(seq, r.last()) > who.read
	who.read = max(who.read, min(seq, r.last()))
	if want := (chatproto.Mark{Room: r.id, Read: who.read, Unread: r.unread(who)}); mark != want || moved != wantMoved {
		m.t.Fatalf("mark %+v, moved %v; want %+v, %v", mark, moved, want, wantMoved)
	}
}

func (m *model) SetRetention(*rapid.T) {
	r := m.anyRoom()
	user := m.actor(r)
	keep := rapid.Uint64Range(0, 8).Draw(m.t, "keep")
	err := m.s.SetRetention(background, user, r.id, &chatproto.SetRetentionReq{Count: keep})
	switch {
	case r.member(user) == nil:
		m.expect("retention", err, chatproto.ErrNoRoom)
	case r.owner != user:
		m.expect("retention", err, chatproto.ErrNotAllowed)
	default:
		m.expect("retention", err, nil)
		r.keep = keep
		m.trim(r)
	}
}

// check compares everything that the users can see.
func (m *model) check() {
	read := make(map[chatproto.RoomID]bool)
	for _, user := range m.users {
		states, err := m.s.RoomsOf(background, user)
		m.expect("rooms", err, nil)
		for _, r := range m.rooms {
			i := slices.IndexFunc(states, func(s chatproto.RoomState) bool { return s.Info.Room == r.id })
			who := r.member(user)
			if m.s.IsMember(user, r.id) != (who != nil) || (i >= 0) != (who != nil) {
				m.t.Fatalf("room %d: is %s in it? %v", r.id, user, who)
			}
			if who == nil {
				continue
			}
			want := chatproto.RoomState{Info: chatproto.RoomInfo{
				Room: r.id, Kind: r.kind, Name: r.name, Topic: r.topic, Owner: r.owner, Members: uint32(len(r.members)),
				First: r.first, Last: r.last(), Epoch: r.epoch, Member: true,
			}, Read: who.read, Unread: r.unread(who)}
			if r.kind == chatproto.RoomDirect {
				if want.Info.Peer = r.b; user == r.b {
					want.Info.Peer = r.a
				}
			}
			if states[i] != want {
				m.t.Fatalf("%s sees %+v\nwant %+v", user, states[i], want)
			}
			states = slices.Delete(states, i, i+1)
			if !read[r.id] {
				read[r.id] = true
				m.checkLog(user, r)
			}
		}
		if len(states) > 0 {
			m.t.Fatalf("%s also sees %+v", user, states)
		}
	}
}

func (m *model) checkLog(user string, r *modelRoom) {
	res, err := m.s.History(background, user, r.id, &chatproto.HistoryReq{})
	m.expect("history", err, nil)
	want := r.log[r.first-1:]
	if len(res.Messages) != len(want) {
		m.t.Fatalf("room %d: %d entries; want %d", r.id, len(res.Messages), len(want))
	}
	time := int64(0)
	for i, got := range res.Messages {
		if got.Time < time || got.Time == 0 {
			m.t.Fatalf("room %d: time %d after %d", r.id, got.Time, time)
		}
		time, got.Time = got.Time, 0
		if fmt.Sprint(got) != fmt.Sprint(want[i]) {
			m.t.Fatalf("room %d: entry %+v\nwant %+v", r.id, got, want[i])
		}
	}
	found, err := m.s.Search(background, user, &chatproto.SearchReq{Room: r.id, Terms: []string{"one"}})
	m.expect("search", err, nil)
	n := 0
	for _, e := range want {
		if e.Kind <= chatproto.KindAction && string(e.Body) == "one" && r.kind != chatproto.RoomSealed {
			n++
		}
	}
	if len(found.Messages) != n {
		m.t.Fatalf("room %d: %d found; want %d", r.id, len(found.Messages), n)
	}
}

// Whatever is done in whatever order, the store does what the model does, and
// still does after it was opened again.
func TestModel(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "chat.db")}
	s, run := open(t, cfg), 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		m := &model{t: rt, s: s, pre: fmt.Sprintf("r%d.", run), said: make(map[string]map[chatproto.ID]chatproto.Message)}
		for i := range 4 {
			m.users = append(m.users, fmt.Sprintf("u%d.%d", run, i))
		}
		actions := map[string]func(*rapid.T){
			"create": m.Create, "direct": m.Direct, "join": m.Join, "invite": m.Invite, "remove": m.Remove, "leave": m.Leave,
			"topic": m.SetTopic, "say": m.Say, "burst": m.Burst, "burst more": m.Burst, "keys": m.PutKeys, "mark": m.MarkRead, "retention": m.SetRetention,
		}
		rt.Repeat(actions)
		m.check()
		if run%8 == 0 {
			if err := s.Close(); err != nil {
				rt.Fatal(err)
			}
			s = open(t, cfg)
			m.s = s
			m.check()
		}
	})
}

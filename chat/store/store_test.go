package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"flag"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crashChild()
	}
	// A check is some 60 transactions. The command line may still ask for more.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var background = context.Background()

// open opens the store at path, "" for a new one.
func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "chat.db")
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	s, err := Open(background, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// testClock is a clock that the test moves.
type testClock struct{ nanos atomic.Int64 }

func newClock() *testClock {
	c := new(testClock)
	c.nanos.Store(1_700_000_000e9)
	return c
}

func (c *testClock) now() time.Time      { return time.Unix(0, c.nanos.Load()) }
func (c *testClock) add(d time.Duration) { c.nanos.Add(int64(d)) }

// ids makes ids that differ.
type ids uint64

func (i *ids) next() chatproto.ID { *i++; return idOf(uint64(*i)) }

// script carries out what its methods say and ends the test if it fails.
type script struct {
	t testing.TB
	s *Store
	ids
}

func (c *script) create(user, name string, kind uint8) chatproto.RoomID {
	c.t.Helper()
	id, err := c.s.Create(background, user, &chatproto.CreateRoomReq{ID: c.next(), Kind: kind, Name: name})
	c.ok(err)
	return id
}

func (c *script) join(user, name string) chatproto.RoomID {
	c.t.Helper()
	id, err := c.s.Join(background, user, &chatproto.JoinRoomReq{ID: c.next(), Name: name})
	c.ok(err)
	return id
}

func (c *script) invite(user string, room chatproto.RoomID, who string) {
	c.t.Helper()
	c.ok(c.s.Invite(background, user, room, &chatproto.MemberReq{ID: c.next(), User: who}))
}

func (c *script) say(user string, room chatproto.RoomID, text string) uint64 {
	c.t.Helper()
	res, err := c.s.Say(background, user, room, c.text(text))
	c.ok(err)
	return res.Seq
}

func (c *script) text(text string) *chatproto.SayReq {
	return &chatproto.SayReq{ID: c.next(), Kind: chatproto.KindText, Body: []byte(text)}
}

func (c *script) leave(user string, room chatproto.RoomID) {
	c.t.Helper()
	c.ok(c.s.Leave(background, user, room, &chatproto.LeaveReq{ID: c.next()}))
}

func (c *script) ok(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *script) want(want, err error) {
	c.t.Helper()
	if !errors.Is(err, want) {
		c.t.Errorf("%v; want %v", err, want)
	}
}

// room returns the room as readers have it.
func (c *script) room(id chatproto.RoomID) room {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	return *c.s.seen.rooms[id]
}

// log returns the room's whole log as user sees it.
func (c *script) log(user string, room chatproto.RoomID) (all []chatproto.Message) {
	c.t.Helper()
	for after := uint64(0); ; {
		req := &chatproto.HistoryReq{After: after}
		if after == 0 {
			req = &chatproto.HistoryReq{Before: chatproto.MaxPage + 1}
		}
		res, err := c.s.History(background, user, room, req)
		c.ok(err)
		if len(res.Messages) == 0 {
			return all
		}
		all = append(all, res.Messages...)
		after = all[len(all)-1].Seq
	}
}

func TestFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := script{t: t, s: open(t, Config{Path: path})}
	c.say("alice", c.join("alice", LobbyName), "hello")
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 4 { // the database, its log, the log's index, the lock
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
	if _, err := Open(background, Config{Path: path}); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := Open(background, Config{Path: filepath.Join(path, "x")}); err == nil {
		t.Error("opened below a file")
	}
	if _, err := Open(background, Config{Path: filepath.Dir(path) + "/no/chat.db"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened in a directory that is not there: %v", err)
	}
}

// The connections have what durability rests on.
func TestPragmas(t *testing.T) {
	s := open(t, Config{})
	err := s.do(background, 0, func(b *batch) error {
		for pragma, want := range map[string]int64{"synchronous": 2, "foreign_keys": 1, "trusted_schema": 0, "query_only": 0, "busy_timeout": 10000} {
			if got, _, err := b.db.number("PRAGMA " + pragma); got != want || err != nil {
				t.Errorf("%s is %d, %v; want %d", pragma, got, err, want)
			}
		}
		return b.db.query(background, "PRAGMA journal_mode", func(row []driver.Value) error {
			if text(row[0]) != "wal" {
				t.Errorf("journal mode %q", text(row[0]))
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
	err = s.read(background, func(db *conn) error { return db.exec("DELETE FROM rooms") })
	if err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("a reader wrote: %v", err)
	}
}

func TestLobby(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	lobby := c.join("alice", "Lobby")
	if c.join("bob", LobbyName) != lobby {
		t.Fatal("two lobbies")
	}
	state, err := c.s.Room(background, "alice", lobby)
	want := chatproto.RoomInfo{Room: lobby, Kind: chatproto.RoomPublic, Name: LobbyName, Members: 2, First: 1, Last: 2, Member: true}
	if c.ok(err); state.Info != want || state.Read != 1 || state.Unread != 0 {
		t.Errorf("%+v; want %+v", state, want)
	}
	c.want(chatproto.ErrNotAllowed, c.s.Remove(background, "alice", lobby, &chatproto.MemberReq{ID: c.next(), User: "bob"}))
	c.leave("alice", lobby)
	c.leave("bob", lobby)
	if c.join("carol", LobbyName); c.room(lobby).owner != "" {
		t.Error("the lobby belongs to somebody")
	}
}

// What was stored is there after the next start, exactly.
func TestReopen(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "chat.db"), Retain: Retention{Count: 500}}
	s := open(t, cfg)
	c := script{t: t, s: s}
	public, private := c.create("alice", "public", chatproto.RoomPublic), c.create("alice", "private", chatproto.RoomPrivate)
	sealed, abandoned := c.create("bob", "sealed", chatproto.RoomSealed), c.create("bob", "gone", chatproto.RoomPrivate)
	c.join("bob", "PUBLIC")
	c.invite("alice", private, "bob")
	c.say("alice", public, "one")
	c.say("bob", public, "two")
	c.ok(s.SetTopic(background, "bob", public, &chatproto.SetTopicReq{ID: c.next(), Topic: "a topic"}))
	c.ok(s.SetRetention(background, "alice", public, &chatproto.SetRetentionReq{Age: 86400}))
	_, _, err := s.MarkRead(background, "alice", public, 3)
	c.ok(err)
	direct, err := s.Direct(background, "bob", "alice")
	c.ok(err)
	c.say("bob", direct, "psst")
	c.ok(s.PutKeys(background, "bob", sealed, &chatproto.PutKeysReq{ID: c.next(), Epoch: 1, Header: []byte("h")}))
	c.leave("bob", abandoned)
	var before [2][]chatproto.RoomState
	for i, user := range []string{"alice", "bob"} {
		before[i], err = s.RoomsOf(background, user)
		c.ok(err)
	}
	log := c.log("alice", public)
	c.ok(s.Close())

	c.s = open(t, cfg)
	for i, user := range []string{"alice", "bob"} {
		after, err := c.s.RoomsOf(background, user)
		if c.ok(err); !reflect.DeepEqual(after, before[i]) {
			t.Errorf("%s: %+v\nwas %+v", user, after, before[i])
		}
	}
	if got := c.log("alice", public); !reflect.DeepEqual(got, log) || len(log) != 5 {
		t.Errorf("log %+v\nwas %+v", got, log)
	}
	if keep := c.room(public).keep; *keep != (Retention{Age: 24 * time.Hour}) || c.room(private).keep != nil {
		t.Errorf("retention %v", keep)
	}
	if next := c.create("alice", "gone", chatproto.RoomPublic); next <= direct {
		t.Errorf("room number %d again", next)
	}
}

func TestClosed(t *testing.T) {
	s := open(t, Config{})
	c := script{t: t, s: s}
	lobby := c.join("alice", LobbyName)
	c.ok(s.Close())
	c.ok(s.Close())
	_, err := s.Say(background, "alice", lobby, c.text("x"))
	c.want(ErrClosed, err)
	_, err = s.History(background, "alice", lobby, &chatproto.HistoryReq{})
	c.want(ErrClosed, err)
	_, err = s.Search(background, "alice", &chatproto.SearchReq{})
	c.want(ErrClosed, err)
}

// Nothing is read by who is not a member, before, between and after.
func TestMembershipOnEveryRead(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	s := c.s
	room := c.create("alice", "den", chatproto.RoomPrivate)
	sealed := c.create("alice", "vault", chatproto.RoomSealed)
	c.say("alice", room, "secret plan")
	direct, err := s.Direct(background, "alice", "bob")
	c.ok(err)
	c.say("alice", direct, "secret word")
	refused := func(when string) {
		t.Helper()
		for _, id := range []chatproto.RoomID{room, sealed, direct, 999} {
			checks := map[string]func() error{
				"Room":     func() error { _, err := s.Room(background, "eve", id); return err },
				"History":  func() error { _, err := s.History(background, "eve", id, &chatproto.HistoryReq{}); return err },
				"Search":   func() error { _, err := s.Search(background, "eve", &chatproto.SearchReq{Room: id}); return err },
				"Keys":     func() error { _, err := s.Keys(background, "eve", id, &chatproto.GetKeysReq{}); return err },
				"MarkRead": func() error { _, _, err := s.MarkRead(background, "eve", id, 1); return err },
				"Say":      func() error { _, err := s.Say(background, "eve", id, c.text("x")); return err },
				"SetTopic": func() error { return s.SetTopic(background, "eve", id, &chatproto.SetTopicReq{ID: c.next()}) },
				"Invite":   func() error { return s.Invite(background, "eve", id, &chatproto.MemberReq{ID: c.next(), User: "eve"}) },
				"Remove": func() error {
					return s.Remove(background, "eve", id, &chatproto.MemberReq{ID: c.next(), User: "alice"})
				},
				"Leave":   func() error { return s.Leave(background, "eve", id, &chatproto.LeaveReq{ID: c.next()}) },
				"PutKeys": func() error { return s.PutKeys(background, "eve", id, &chatproto.PutKeysReq{ID: c.next(), Epoch: 1}) },
				"AddKeys": func() error { return s.AddKeys(background, "eve", id, &chatproto.AddKeysReq{}) },
				"SetRetention": func() error {
					return s.SetRetention(background, "eve", id, &chatproto.SetRetentionReq{Count: 1})
				},
			}
			for name, check := range checks {
				if err := check(); !errors.Is(err, chatproto.ErrNoRoom) {
					t.Errorf("%s, room %d: %s: %v", when, id, name, err)
				}
			}
			if s.IsMember("eve", id) {
				t.Errorf("%s: a member of %d", when, id)
			}
		}
		for _, name := range []string{"den", "vault", "nothing", ""} {
			_, err := s.Join(background, "eve", &chatproto.JoinRoomReq{ID: c.next(), Name: name})
			c.want(chatproto.ErrNoRoom, err)
		}
		list, err := s.List(background, "eve", "")
		if c.ok(err); len(list.Rooms) != 1 || list.Rooms[0].Name != LobbyName {
			t.Errorf("%s: sees %+v", when, list.Rooms)
		}
		found, err := s.Search(background, "eve", &chatproto.SearchReq{Terms: []string{"secret"}})
		if c.ok(err); len(found.Messages) != 0 {
			t.Errorf("%s: finds %+v", when, found.Messages)
		}
	}
	refused("never in")
	c.invite("alice", room, "eve")
	c.invite("alice", sealed, "eve")
	if got := c.log("eve", room); len(got) != 3 || string(got[1].Body) != "secret plan" {
		t.Errorf("a member reads %+v", got)
	}
	c.leave("eve", room)
	c.ok(s.Remove(background, "alice", sealed, &chatproto.MemberReq{ID: c.next(), User: "eve"}))
	refused("out again")
}

func TestDirect(t *testing.T) {
	c := script{t: t, s: open(t, Config{Users: func(name string) bool { return name != "nobody" }})}
	id, err := c.s.Direct(background, "zoe", "bob")
	c.ok(err)
	if again, err := c.s.Direct(background, "bob", "zoe"); again != id || err != nil {
		t.Errorf("%d, %v; want %d", again, err, id)
	}
	state, err := c.s.Room(background, "zoe", id)
	if c.ok(err); state.Info.Peer != "bob" || state.Info.Kind != chatproto.RoomDirect || state.Info.Members != 2 || state.Info.Owner != "" {
		t.Errorf("%+v", state)
	}
	notes, err := c.s.Direct(background, "bob", "bob")
	if c.ok(err); notes == id || len(c.s.Members(notes)) != 1 {
		t.Errorf("notebook %d of %v", notes, c.s.Members(notes))
	}
	for _, name := range []string{"nobody", "", "a\xff", strings.Repeat("x", 65)} {
		_, err = c.s.Direct(background, "bob", name)
		c.want(chatproto.ErrNoUser, err)
	}
	c.want(chatproto.ErrNotAllowed, c.s.Leave(background, "bob", id, &chatproto.LeaveReq{ID: c.next()}))
	c.want(chatproto.ErrNotAllowed, c.s.Invite(background, "bob", id, &chatproto.MemberReq{ID: c.next(), User: "eve"}))
	c.want(chatproto.ErrNotAllowed, c.s.Remove(background, "bob", id, &chatproto.MemberReq{ID: c.next(), User: "zoe"}))
	c.say("bob", id, "hi")
	if state, err = c.s.Room(background, "zoe", id); err != nil || state.Unread != 1 {
		t.Errorf("%+v, %v", state, err)
	}
}

func TestOwners(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	owner := func(id chatproto.RoomID) string { return c.room(id).owner }
	room := c.create("alice", "den", chatproto.RoomPublic)
	c.join("zoe", "den")
	c.join("bob", "den")
	c.want(chatproto.ErrNotAllowed, c.s.Remove(background, "zoe", room, &chatproto.MemberReq{ID: c.next(), User: "bob"}))
	c.want(chatproto.ErrNotAllowed, c.s.Remove(background, "alice", room, &chatproto.MemberReq{ID: c.next(), User: "alice"}))
	c.want(chatproto.ErrNoUser, c.s.Remove(background, "alice", room, &chatproto.MemberReq{ID: c.next(), User: "eve"}))
	c.leave("alice", room)
	if owner(room) != "zoe" {
		t.Errorf("owner %q after alice, want zoe, who is longer in than bob", owner(room))
	}
	c.ok(c.s.Remove(background, "zoe", room, &chatproto.MemberReq{ID: c.next(), User: "bob"}))
	c.leave("zoe", room)
	if owner(room) != "" {
		t.Errorf("owner %q of an empty room", owner(room))
	}
	if c.join("bob", "den"); owner(room) != "bob" {
		t.Errorf("owner %q; want the first who came", owner(room))
	}
	// A private room that everybody has left gives up its name.
	private := c.create("alice", "vault", chatproto.RoomPrivate)
	_, err := c.s.Create(background, "bob", &chatproto.CreateRoomReq{ID: c.next(), Kind: chatproto.RoomPublic, Name: "Vault"})
	c.want(chatproto.ErrExists, err)
	c.leave("alice", private)
	if again := c.create("bob", "Vault", chatproto.RoomPublic); again == private || c.s.Members(private) != nil {
		t.Errorf("room %d, members %v", again, c.s.Members(private))
	}
}

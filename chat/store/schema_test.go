package store

import (
	"database/sql/driver"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// database makes a database by hand.
func database(t *testing.T, statements ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "chat.db")
	c, err := dial(path, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if err := c.script(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRefusedDatabases(t *testing.T) {
	for name, x := range map[string]struct {
		statements string
		want       error
	}{
		"newer":          {"PRAGMA application_id = 0x72707963; PRAGMA user_version = 999", ErrNewer},
		"foreign":        {"CREATE TABLE t(x)", errForeign},
		"foreign mark":   {"PRAGMA application_id = 7", errForeign},
		"foreign number": {"CREATE TABLE t(x); PRAGMA user_version = 1", errForeign},
	} {
		path := database(t, x.statements)
		_, err := Open(background, Config{Path: path})
		if !errors.Is(err, x.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want %v", name, err, x.want)
		}
		if _, err := Open(background, Config{Path: path}); !errors.Is(err, x.want) {
			t.Errorf("%s, again: %v: the lock was kept", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "chat.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is no database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(background, Config{Path: path}); err == nil {
		s.Close()
		t.Error("opened a text file")
	}
}

// An old database gets the steps that it lacks, each wholly or not at all, and
// keeps what is in it.
func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	s := open(t, Config{Path: path})
	c := script{t: t, s: s}
	lobby := c.join("alice", LobbyName)
	c.say("alice", lobby, "kept")
	c.ok(s.Close())

	steps := append(migrations[:len(migrations):len(migrations)],
		"CREATE TABLE later(x INTEGER); INSERT INTO later SELECT count(*) FROM messages",
		"ALTER TABLE later ADD COLUMN y; INSERT INTO no_such_table VALUES (1)")
	db, err := dial(path, false)
	c.ok(err)
	err = migrate(db, steps)
	if err == nil || !strings.Contains(err.Error(), "schema 3") {
		t.Errorf("a broken step: %v", err)
	}
	version, _, err := db.number("PRAGMA user_version")
	if c.ok(err); version != int64(len(migrations))+1 {
		t.Errorf("version %d", version)
	}
	if n, _, err := db.number("SELECT x FROM later"); n != 2 || err != nil {
		t.Errorf("the step found %d entries, %v", n, err)
	}
	if _, _, err := db.number("SELECT y FROM later"); err == nil {
		t.Error("half of a step stayed")
	}
	steps[len(steps)-1] = "ALTER TABLE later ADD COLUMN y"
	c.ok(migrate(db, steps))
	c.ok(migrate(db, steps)) // nothing is left to do
	c.ok(db.close())
	if _, err := Open(background, Config{Path: path}); !errors.Is(err, ErrNewer) {
		t.Errorf("the older program opens it: %v", err)
	}
}

// The first schema never changes: databases of that version are out there. This
// one was written by hand from it, without the code that writes today.
func TestFirstVersion(t *testing.T) {
	path := database(t, migrations[0], `
		PRAGMA application_id = 0x72707963; PRAGMA user_version = 1;
		INSERT INTO users VALUES (1, 'alice'), (2, 'bob');
		INSERT INTO rooms VALUES (1, 1, 'lobby', 'lobby', 'tea', NULL, NULL, NULL, NULL, 1, 0, 0, 0, NULL, NULL);
		INSERT INTO members VALUES (1, 1, 1, 1), (1, 2, 2, 2);
		INSERT INTO messages VALUES
			(1099511627777, 1, x'00000000000000000000000000000001', 5, NULL, 100, 0, NULL, x''),
			(1099511627778, 2, x'00000000000000000000000000000002', 5, NULL, 200, 0, NULL, x''),
			(1099511627779, 1, x'00000000000000000000000000000003', 1, NULL, 300, 299, 1, CAST('old words' AS BLOB));
		INSERT INTO places VALUES (1, 1099511627779, 300);
		INSERT INTO words(rowid, body, scope) VALUES (1, 'old words', 'r1 u1 e0');`)
	c := script{t: t, s: open(t, Config{Path: path})}
	state, err := c.s.Room(background, "bob", 1)
	want := chatproto.RoomInfo{Room: 1, Kind: chatproto.RoomPublic, Name: "lobby", Topic: "tea", Members: 2, First: 1, Last: 3, Member: true}
	if c.ok(err); state.Info != want || state.Read != 2 || state.Unread != 1 {
		t.Errorf("%+v", state)
	}
	if got := c.found("bob", chatproto.SearchReq{Terms: []string{"words"}, From: "alice"}); len(got) != 1 {
		t.Errorf("finds %q", got)
	}
	if seq := c.say("bob", 1, "new words"); seq != 4 || len(c.log("alice", 1)) != 4 {
		t.Errorf("entry %d", seq)
	}
	if got := c.found("bob", chatproto.SearchReq{Terms: []string{"words"}}); len(got) != 2 {
		t.Errorf("finds %q", got)
	}
}

// A database with a table that the program does not expect does not come apart
// silently: users without a gap are what numbers rest on.
func TestGapInUsers(t *testing.T) {
	path := database(t, migrations[0], "PRAGMA application_id = 0x72707963; PRAGMA user_version = 1; INSERT INTO users VALUES (2, 'bob')")
	if _, err := Open(background, Config{Path: path}); err == nil || !strings.Contains(err.Error(), "gap") {
		t.Errorf("%v", err)
	}
}

func TestQueryEndsEarly(t *testing.T) {
	s := open(t, Config{})
	stop := errors.New("stop")
	err := s.read(background, func(db *conn) error {
		return db.query(background, "SELECT 1 UNION SELECT 2", func([]driver.Value) error { return stop })
	})
	if !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

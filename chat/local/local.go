// Package local keeps what a chat client must not lose: the outbox, the keys of
// sealed rooms, and what was read in them. It is one SQLite database per server
// and user, shared by all programs of that user on this machine.
//
// Which messages of the outbox belong to which program is told by owner locks:
// each State has an owner id and holds a flock on a file of that name. The rows
// of an owner whose lock is free are anybody's (Adopt). Every flock is on an
// open file of its own, so that two States in one process keep apart too.
//
// Locks, in order: a room's (LockRoom), the directory's, State.write.
package local

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	_ "modernc.org/sqlite" // the database driver

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Errors of this package.
var (
	// ErrNewer means that a later version of the program has written the state.
	ErrNewer = errors.New("the state was written by a newer version of this program")
	// ErrFull means that MaxQueued messages wait.
	ErrFull = errors.New("the outbox is full")
)

const busyTimeout = 20 * time.Second

// State is the state of one user at one server. Its methods are safe for
// concurrent use, by several programs as well.
type State struct {
	dir   string
	owner string
	alive *os.File // the owner's lock
	db    *sql.DB  // changes are on the disk when they have been made
	lazy  *sql.DB  // changes may be lost with the machine's power

	write sync.Mutex // one writer of this process at a time: SQLite's own wait polls
}

// Open opens the state in dir, which is made if need be, for its owner alone.
func Open(dir string) (*State, error) {
	for _, d := range []string{dir, filepath.Join(dir, "owners"), filepath.Join(dir, "rooms")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	s := &State{dir: dir}
	err := s.locked(func() error {
		if err := s.enter(); err != nil {
			return err
		}
		return s.open()
	})
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("chat state in %s: %w", dir, err)
	}
	return s, nil
}

func (s *State) open() (err error) {
	path := filepath.Join(s.dir, "chat.db")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if s.db, err = openDB(path, "FULL"); err != nil {
		return err
	}
	if s.lazy, err = openDB(path, "NORMAL"); err != nil {
		return err
	}
	return migrate(s.db)
}

// openDB opens the database; transactions take the write lock when they begin.
func openDB(path, synchronous string) (*sql.DB, error) {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"journal_mode(WAL)", "synchronous(" + synchronous + ")", "foreign_keys(1)", "secure_delete(1)",
	}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4)
	return db, db.Ping()
}

// Close closes the state. What waits in its outbox is anybody's from then on.
func (s *State) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.db, s.lazy} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.alive != nil {
		errs = append(errs, os.Remove(s.alive.Name()), s.alive.Close())
		s.alive = nil
	}
	return errors.Join(errs...)
}

// enter takes an owner id and removes what dead owners have left. The
// directory's lock is held.
func (s *State) enter() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "owners"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if dead, release := s.dead(e.Name()); dead {
			release()
		}
	}
	s.owner = rand.Text()
	s.alive, err = os.OpenFile(s.ownerFile(s.owner), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return flock(s.alive, syscall.LOCK_EX|syscall.LOCK_NB)
}

func (s *State) ownerFile(owner string) string {
	return filepath.Join(s.dir, "owners", filepath.Base(owner))
}

// dead reports whether nobody holds the owner's lock. If so, release removes
// its file. The directory's lock is held, so that no owner can be between
// making its file and locking it.
func (s *State) dead(owner string) (dead bool, release func()) {
	f, err := os.OpenFile(s.ownerFile(owner), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return true, func() {}
	}
	if err != nil {
		return false, nil
	}
	if flock(f, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		f.Close()
		return false, nil
	}
	return true, func() {
		os.Remove(f.Name())
		f.Close()
	}
}

// locked runs f while no other State of the directory is opened or adopts.
func (s *State) locked(f func() error) error {
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := flock(lock, syscall.LOCK_EX); err != nil {
		return err
	}
	return f()
}

// LockRoom waits until no other State has the room locked, and locks it until
// unlock is called or the process ends.
func (s *State) LockRoom(ctx context.Context, room chatproto.RoomID) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "rooms", fmt.Sprint(uint64(room))), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	const shortest, longest = time.Millisecond, 50 * time.Millisecond
	for wait := shortest; ; wait = min(2*wait, longest) {
		switch err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			f.Close()
			return nil, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// change runs f in a transaction of db.
func (s *State) change(db *sql.DB, f func(*sql.Tx) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// migrations lead from one user_version to the next. They are never changed,
// only added to.
var migrations = []string{
	`CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
	CREATE TABLE outbox (
		n INTEGER PRIMARY KEY AUTOINCREMENT,
		owner TEXT NOT NULL,
		room INTEGER NOT NULL,   -- 0: a direct message
		peer TEXT NOT NULL,      -- to whom a direct message goes
		id BLOB NOT NULL UNIQUE,
		kind INTEGER NOT NULL,
		text TEXT NOT NULL,
		sent INTEGER NOT NULL,   -- microseconds since 1970 UTC
		seal INTEGER NOT NULL,   -- 1: goes out sealed or not at all
		epoch INTEGER NOT NULL,  -- of sealed
		sealed BLOB              -- NULL: not sealed yet, or not to be
	);
	CREATE INDEX outbox_owner ON outbox (owner, n);
	CREATE TABLE entries (
		n INTEGER PRIMARY KEY,
		room INTEGER NOT NULL,
		seq INTEGER NOT NULL,
		id BLOB NOT NULL,
		kind INTEGER NOT NULL,
		sender TEXT NOT NULL,
		target TEXT NOT NULL,
		time INTEGER NOT NULL,   -- server's clock, microseconds since 1970 UTC
		sent INTEGER NOT NULL,
		device BLOB NOT NULL,
		text TEXT NOT NULL,
		closed INTEGER NOT NULL, -- 1: no key, 2: refused
		warnings TEXT NOT NULL,  -- JSON
		UNIQUE (room, seq)
	);
	CREATE INDEX entries_time ON entries (time, n);
	CREATE VIRTUAL TABLE words USING fts5(text, content='entries', content_rowid='n', tokenize='unicode61 remove_diacritics 2');
	CREATE TRIGGER entries_insert AFTER INSERT ON entries BEGIN
		INSERT INTO words(rowid, text) VALUES (new.n, new.text);
	END;
	CREATE TRIGGER entries_delete AFTER DELETE ON entries BEGIN
		INSERT INTO words(words, rowid, text) VALUES ('delete', old.n, old.text);
	END;`,
}

// migrate brings the schema up to date.
func migrate(db *sql.DB) error {
	var version int
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(migrations) {
		return fmt.Errorf("%w (its version is %d, this program's %d)", ErrNewer, version, len(migrations))
	}
	for v := version; v < len(migrations); v++ {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		_, err = tx.Exec(migrations[v] + fmt.Sprintf("; PRAGMA user_version = %d", v+1))
		if err != nil {
			return errors.Join(fmt.Errorf("migration %d: %w", v+1, err), tx.Rollback())
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return nil
}

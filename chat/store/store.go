// Package store keeps the chat service's rooms and what was said in them in an
// SQLite database.
//
// One goroutine, the writer, makes all changes. It takes what has been queued,
// checks each change against the rooms in memory, writes what is allowed in one
// transaction with one fsync, and only then lets readers see it, tells the
// service (Config.Committed) and answers the callers. Under load a batch forms
// while the one before it is being synchronised; nothing is ever delayed to make
// one.
//
// Rooms, members and read marks are in memory. Entries are read from the
// database over connections of their own, which the writer does not hold up.
// Whatever a user reads, membership is checked in the call.
//
// Store.mu guards what readers see, and is held neither while the database is
// used nor during Committed. All methods may be called concurrently.
package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// ErrClosed is the error of a call after Close.
var ErrClosed = errors.New("chat store: closed")

// ErrInUse is the error of opening a database that is open already.
var ErrInUse = errors.New("chat store: the database is in use by another process")

// LobbyName is the name of the public room that every store has. It belongs to
// nobody.
const LobbyName = "lobby"

// lobbyID is the number of the first room that a store makes.
const lobbyID chatproto.RoomID = 1

// readers is how many reads of the database run at the same time.
const readers = 4

// Change is something committed to a room's log or its members.
type Change struct {
	Message    chatproto.Message // the entry; Seq 0: no entry (only room attributes changed)
	Room       chatproto.RoomID
	Came, Gone []string // users whose membership began or ended with it
	Info       bool     // the room's info other than First and Last changed (topic, members, owner, epoch)
}

// Retention is how much of a room is kept.
type Retention struct {
	Count uint64        // entries; 0: all
	Age   time.Duration // 0: for ever
}

// Config is what a Store is made with.
type Config struct {
	Path  string                 // database file, made with mode 0600; its directory exists
	Users func(name string) bool // whether an account exists; nil: all
	// Committed is called by the writer, in commit order, after the disk has
	// the changes and before the callers return. It may call the reading
	// methods, which see the whole batch already, and none of the others.
	Committed func([]Change)
	Retain    Retention        // for rooms that set none
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: slog.Default
}

// Store is the database of the chat service.
type Store struct {
	cfg  Config
	log  *slog.Logger
	lock *os.File // held as long as the store is open

	queue   queue
	written chan struct{} // closed when the writer has ended
	idle    chan *conn    // reading connections that nobody uses
	stop    context.CancelFunc

	searchTime time.Duration // the constant of the same name, but for tests

	swept   chan struct{} // closed when the sweeper has ended
	closing sync.Once

	// Used by the writer only.
	writer     *conn
	own        *state
	clock      int64 // the newest time that was given, microseconds
	lastRoom   chatproto.RoomID
	place      int64 // the newest place in the index
	names      []string
	ids        map[string]int64
	commitHook func() error // in tests: called before a commit, may fail it

	mu   sync.RWMutex
	seen *state
	view view
}

// view is the rest of what readers see.
type view struct {
	names []string // by number-1; only ever appended to
	place int64
}

// Open opens the database, brings it to the present schema, and makes it with
// its lobby if there is none. ErrNewer and ErrInUse are what it may fail with
// beside the errors of the file.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, log: cfg.Log, own: newState(), seen: newState(), ids: make(map[string]int64),
		queue:      queue{wake: make(chan struct{}, 1)},
		searchTime: searchTime,
		written:    make(chan struct{}), swept: make(chan struct{}), idle: make(chan *conn, readers),
	}
	if err := s.open(path); err != nil {
		s.release()
		return nil, fmt.Errorf("%s: %w", cfg.Path, err)
	}
	sweeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	go s.write()
	go s.sweep(sweeping)
	return s, nil
}

func (s *Store) open(path string) error {
	lock, err := lockFile(path)
	if err != nil {
		return err
	}
	s.lock = lock
	if s.writer, err = dial(path, false); err != nil {
		return err
	}
	if err := migrate(s.writer, migrations); err != nil {
		return err
	}
	if err := s.load(); err != nil {
		return err
	}
	for range readers {
		c, err := dial(path, true)
		if err != nil {
			return err
		}
		s.idle <- c
	}
	return nil
}

// lockFile makes sure that the database is private, and that nobody else has it
// open: what is in memory would not be true any more.
func lockFile(path string) (*os.File, error) {
	for _, name := range []string{path, path + "-lock"} {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Chmod(0o600); err != nil {
			f.Close()
			return nil, err
		}
		if name == path {
			f.Close()
			continue
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, ErrInUse
			}
			return nil, err
		}
		return f, nil
	}
	panic("unreachable")
}

// Close carries out what is queued, waits for reads to end, and closes the
// database. Later calls fail with ErrClosed.
func (s *Store) Close() (err error) {
	s.closing.Do(func() {
		s.stop()
		<-s.swept
		s.queue.close()
		<-s.written
		err = s.release()
	})
	return err
}

// release closes what is open. Nobody uses the writer any more.
func (s *Store) release() error {
	var errs []error
	if s.writer != nil {
		for range cap(s.idle) {
			if s.stop == nil && len(s.idle) == 0 {
				break // Open has failed before it had made them all
			}
			errs = append(errs, (<-s.idle).close())
		}
		close(s.idle)
		errs = append(errs, s.writer.close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// read runs f with a connection that only reads. It waits for one to be free.
func (s *Store) read(ctx context.Context, f func(db *conn) error) error {
	select {
	case c, open := <-s.idle:
		if !open {
			return ErrClosed
		}
		defer func() { s.idle <- c }()
		return f(c)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// load reads users, rooms and members, and makes the lobby if there is none.
func (s *Store) load() error {
	if err := s.loadUsers(); err != nil {
		return err
	}
	if err := s.loadRooms(); err != nil {
		return err
	}
	var err error
	if s.place, _, err = s.writer.number("SELECT max(place) FROM places"); err != nil {
		return err
	}
	s.view = view{names: s.names, place: s.place}
	if s.lastRoom == 0 {
		c := &change{run: func(b *batch) error {
			r, err := b.newRoom(&room{kind: chatproto.RoomPublic, name: LobbyName, fold: LobbyName})
			if err == nil {
				b.put(r)
			}
			return err
		}}
		s.transact([]*change{c})
		return c.err
	}
	return nil
}

func (s *Store) loadUsers() error {
	return s.writer.query(context.Background(), "SELECT id, name FROM users ORDER BY id", func(row []driver.Value) error {
		name := text(row[1])
		s.names = append(s.names, name)
		s.ids[name] = int64(len(s.names))
		if int64(num(row[0])) != int64(len(s.names)) {
			return errors.New("chat store: the table of users has a gap")
		}
		return nil
	})
}

// loadRooms fills both states. Rooms that nobody will see again are left out.
func (s *Store) loadRooms() error {
	var list []*room
	err := s.writer.query(context.Background(), `SELECT id, kind, name, coalesce(fold, ''), topic, owner, maker, peer1, peer2,
		first, last, epoch, stale, keep_count, keep_age FROM rooms ORDER BY id`, func(row []driver.Value) error {
		r := &room{
			id: chatproto.RoomID(num(row[0])), kind: uint8(num(row[1])), name: text(row[2]), fold: text(row[3]),
			topic: text(row[4]), owner: s.nameOf(row[5]), maker: s.nameOf(row[6]), peer1: s.nameOf(row[7]), peer2: s.nameOf(row[8]),
			first: num(row[9]), last: num(row[10]), epoch: num(row[11]), stale: num(row[12]),
		}
		if row[13] != nil {
			r.keep = &Retention{Count: num(row[13]), Age: time.Duration(num(row[14])) * time.Second}
		}
		s.lastRoom = r.id
		list = append(list, r)
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range list {
		if err := s.loadRoom(r); err != nil {
			return err
		}
		if !r.dead() {
			s.own.put(r)
			s.seen.put(r)
		}
	}
	return nil
}

// loadRoom completes r with its members and the end of its log.
func (s *Store) loadRoom(r *room) error {
	by := make(map[string]*member)
	ctx := context.Background()
	err := s.writer.query(ctx, "SELECT user, since, read FROM members WHERE room = ?", func(row []driver.Value) error {
		by[s.nameOf(row[0])] = &member{since: num(row[1]), read: num(row[2]), unread: unknown}
		return nil
	}, uint64(r.id))
	if err != nil {
		return err
	}
	r.members = makeMembers(by)
	return s.writer.query(ctx, "SELECT key, time FROM messages WHERE key >= ? AND key <= ? ORDER BY key DESC LIMIT 1", func(row []driver.Value) error {
		r.last = max(r.last, seqOf(num(row[0])))
		s.clock = max(s.clock, int64(num(row[1])))
		return nil
	}, keyOf(r.id, 0), keyOf(r.id, maxSeq))
}

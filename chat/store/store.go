// Package store keeps the chat service's rooms and messages on the server's disk.
package store

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// ErrClosed is the error of a call after Close.
var ErrClosed = errors.New("chat store: closed")

// LobbyName is the name of the public room that every store has.
const LobbyName = "lobby"

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
	Path      string                 // database file; its directory exists; the file is made 0600
	Users     func(name string) bool // whether an account exists; nil: all
	Committed func([]Change)         // called by the writer, in commit order, after the disk has it and before the callers return; must not call the store's changing methods, may call reading ones
	Retain    Retention              // for rooms that set none
	Now       func() time.Time       // nil: time.Now
	Log       *slog.Logger           // nil: slog.Default
}

// Store is the database.
type Store struct{}

// Open opens the database.
func Open(ctx context.Context, cfg Config) (*Store, error) { return nil, errors.ErrUnsupported }

// Close waits for what is queued.
func (s *Store) Close() error { return errors.ErrUnsupported }

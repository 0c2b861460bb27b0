// Package service is the server's side of chat: sessions, presence, rooms as
// references, and the delivery of events. Package store keeps what lasts.
//
// # Who holds what
//
// A Session belongs to a session of the daemon. The client attaches listeners to
// it; each attachment is an object of its own with a feed of events, its own
// references of rooms, and a place in the user's presence. Releasing the
// attachment's reference is the log-out; the end of the session, or a listener
// that answers a delivery with an error, has the same effect. An attachment whose
// session has lost its connection stays: its feed fills, and is delivered when
// the connection is back.
//
// # Feeds and snapshots
//
// Events of a feed are numbered from 1. They are queued in the order in which
// the store committed what they tell of, before whoever caused them gets an
// answer. A goroutine exists for a feed only while something is to be delivered;
// one delivery is under way at a time and takes along what has come meanwhile. A
// queue that overflows is dropped: the numbers of what was dropped are used up,
// the listener is told once by chat_cut, and the feed stands still until a
// snapshot is asked for. Numbers grow through all of this, so a cut whose number
// lies below a snapshot's Next is contained in that snapshot.
//
// A snapshot takes its place in the feed (Next) and the presence of all users in
// one step, and reads the rooms after that. So what the events below Next tell is
// contained in it. Of the events from Next on, those that were committed before
// the rooms were read may be contained as well. That does no harm:
//
//   - An entry (EventMessage) has its room and sequence number. The client knows
//     by it whether it has the entry, and whether RoomState.Unread, which counts
//     up to Info.Last of the same RoomState, has counted it.
//   - Room, gone, presence, mark and devices events are states. Applying one
//     again, and then the ones after it, ends in the same state.
//   - Mail is found in chat_mail until it is dropped.
//
// An EventRoom for a user who came into a room precedes the entry that records
// it, and its Info.Last is the number before that entry: from there on every
// entry of the room is in the feed. Any other EventRoom, and every EventMark,
// holds how things stand when the event is sent; several of the same room that
// wait are one.
//
// # Locks
//
// Service.mu, then attachment.queue.mu; attachment.mu, user.mu are taken alone.
// Reading methods of the store may be called under them, and never call back. No
// lock is held while the other side is called, a reference is revoked or the
// store's changing methods are called. The store's writer calls Committed, which
// only queues events: it never waits for a listener.
package service

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/store"
)

// Defaults of Config.
const (
	DefaultGrace     = 30 * time.Second
	DefaultAwayAfter = 15 * time.Second
	DefaultRate      = 20
)

// Config describes a service. The zero value of each field has a default.
type Config struct {
	// Users reports whether an account exists; nil: all do.
	Users func(name string) bool
	// Grace is how long a user whose connection is lost is not yet offline.
	Grace time.Duration
	// AwayAfter is how long such a user is not yet away; at most half of Grace.
	AwayAfter time.Duration
	// Rate is how many messages a user may say per second in the long run; all
	// other limits of rates are in proportion. Negative: no limits.
	Rate float64
	// Log receives what goes wrong; nil discards.
	Log *slog.Logger
}

// Service is the chat service of a daemon. Its methods are safe for concurrent
// use.
type Service struct {
	cfg    Config
	store  atomic.Pointer[store.Store]
	pumps  sync.WaitGroup // goroutines that deliver
	queued budget

	mu       sync.Mutex
	users    map[string]*user // everybody who was here since the start
	feeds    map[*attachment]struct{}
	stopping bool // no presence is told any more
	closed   bool
}

var errClosed = errors.New("the chat service has ended")

// New returns a service without a store. Use gives it one.
func New(cfg Config) *Service {
	if cfg.Grace <= 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.AwayAfter <= 0 {
		cfg.AwayAfter = DefaultAwayAfter
	}
	cfg.AwayAfter = min(cfg.AwayAfter, cfg.Grace/2)
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	if cfg.Users == nil {
		cfg.Users = func(string) bool { return true }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, users: make(map[string]*user), feeds: make(map[*attachment]struct{})}
}

// Use sets the store, whose Config.Committed is this service's method. It is
// called once. Before it, nobody can attach.
func (s *Service) Use(st *store.Store) { s.store.Store(st) }

// Notice tells all listeners a word of the server, at most
// chatproto.MaxNotice bytes.
func (s *Service) Notice(text string) {
	e := newEvent(chatproto.EventNotice, &chatproto.Notice{Text: text})
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.feeds {
		a.push(e)
	}
}

// Stop tells all listeners why the service is about to end, and waits until
// they have it or ctx ends. That the users go is not told any more.
func (s *Service) Stop(ctx context.Context, text string) {
	s.mu.Lock()
	s.stopping = true
	waiting := make([]*attachment, 0, len(s.feeds))
	for a := range s.feeds {
		if a.session.phase == here {
			waiting = append(waiting, a)
		}
	}
	s.mu.Unlock()
	s.Notice(text)
	for _, a := range waiting {
		select {
		case <-a.drained():
		case <-ctx.Done():
			return
		}
	}
}

// Close ends all attachments and waits for the deliveries under way. It is
// called when the peers of all sessions have ended; those would not return
// before.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed, s.stopping = true, true
	all := make([]*attachment, 0, len(s.feeds))
	for a := range s.feeds {
		all = append(all, a)
	}
	for _, u := range s.users {
		u.stop()
	}
	s.mu.Unlock()
	for _, a := range all {
		a.end(errClosed)
	}
	s.pumps.Wait()
}

// user returns the record of a user and makes it if need be; s.mu is held.
func (s *Service) user(name string) *user {
	u := s.users[name]
	if u == nil {
		u = &user{name: name, shown: chatproto.Presence{User: name}}
		s.users[name] = u
	}
	return u
}

package chat

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/e2ee"
	"github.com/rpycfs/rpycfs/chat/local"
	"github.com/rpycfs/rpycfs/rpc"
)

// sealed is what a client with a state directory has: the state itself, and the
// device's keys. nil stands for none.
//
// Entries of a sealed room go through the engine in order, once for all programs
// on this machine, and what they hold is kept in the state: everybody reads them
// there. State.LockRoom makes it one program at a time, for sealing and saying
// as well, so that what is sealed first is also said first.
type sealed struct {
	c      *Client
	state  *local.State
	engine *e2ee.Engine

	mu     sync.Mutex
	ready  bool   // this device may act for the user
	warned string // why not, when it was last said
}

// stateDir returns the directory of a server and user below Config.State. The
// server is told by the fingerprint of its key if the program was given that,
// otherwise by its address.
func stateDir(cfg *Config) (string, error) {
	server := cfg.Auth.Fingerprint
	if server == "" {
		server = cfg.Address
	}
	sum := sha256.Sum256([]byte(server))
	user := url.PathEscape(cfg.Auth.User)
	if user == "" || user == "." || user == ".." {
		return "", fmt.Errorf("%q is no user's name", cfg.Auth.User)
	}
	return filepath.Join(cfg.State, fmt.Sprintf("%x", sum[:16]), user), nil
}

func openSealed(c *Client) (*sealed, error) {
	if c.cfg.State == "" {
		return nil, nil
	}
	dir, err := stateDir(&c.cfg)
	if err != nil {
		return nil, err
	}
	state, err := local.Open(dir)
	if err != nil {
		return nil, err
	}
	engine, err := e2ee.Open(kv{state}, c.user, e2ee.Options{Name: c.cfg.Device})
	if err != nil {
		return nil, errors.Join(err, state.Close())
	}
	return &sealed{c: c, state: state, engine: engine}, nil
}

// kv is a state as package e2ee wants it.
type kv struct{ *local.State }

func (k kv) Update(f func(e2ee.Tx) error) error {
	return k.State.Update(func(tx *local.Tx) error { return f(tx) })
}

func (s *sealed) close() error {
	if s == nil {
		return nil
	}
	return s.state.Close()
}

func (s *sealed) store() *local.State {
	if s == nil {
		return nil
	}
	return s.state
}

func (c *Client) deviceID() chatproto.DeviceID {
	if c.sealed == nil {
		return chatproto.DeviceID{}
	}
	return c.sealed.engine.DeviceID()
}

// prepare makes sure that this device may act for the user.
func (s *sealed) prepare(ctx context.Context, l *link) error {
	if s == nil {
		return ErrNoState
	}
	s.mu.Lock()
	ready := s.ready
	s.mu.Unlock()
	if ready {
		return nil
	}
	err := s.engine.Ready(ctx, server{l})
	s.mu.Lock()
	s.ready = err == nil
	s.mu.Unlock()
	return err
}

func (s *sealed) lastKept(room chatproto.RoomID) uint64 {
	last, err := s.state.Last(room)
	if err != nil {
		s.c.log.Error("sealed history", "err", err)
	}
	return last
}

// lostConnection reports whether err says nothing about what was asked.
func lostConnection(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, rpc.ErrGone) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// isService reports whether err is a refusal of the service.
func isService(err error) bool {
	var e *chatproto.Error
	return errors.As(err, &e)
}

// sealedLater reports whether a message may yet be sealed after this error.
func sealedLater(err error) bool { return errors.Is(err, e2ee.ErrBusy) }

func (s *sealed) isMember(room chatproto.RoomID, user string) bool {
	members, err := s.engine.Members(room)
	if err != nil {
		return false
	}
	for _, m := range members {
		if m == user {
			return true
		}
	}
	return false
}

// open takes the entries of a room up to a sequence number through the engine
// and keeps what they hold.
func (s *sealed) open(ctx context.Context, l *link, room chatproto.RoomID, upTo uint64, live *chatproto.Message) error {
	if s.lastKept(room) >= upTo {
		return nil
	}
	unlock, err := s.state.LockRoom(ctx, room)
	if err != nil {
		return err
	}
	defer unlock()
	return s.openLocked(ctx, l, room, upTo, live)
}

// openLocked is open with the room locked.
func (s *sealed) openLocked(ctx context.Context, l *link, room chatproto.RoomID, upTo uint64, live *chatproto.Message) error {
	for last := s.lastKept(room); last < upTo; {
		var page []chatproto.Message
		if live != nil && live.Seq == last+1 {
			page = []chatproto.Message{*live}
		} else {
			res, err := l.history(ctx, room, &chatproto.HistoryReq{After: last})
			if err != nil {
				return err
			}
			page = res.Messages
		}
		if len(page) == 0 {
			return nil
		}
		if err := s.receive(ctx, l, page); err != nil {
			return err
		}
		last = page[len(page)-1].Seq
	}
	return nil
}

// receive takes entries through the engine and keeps what they hold.
func (s *sealed) receive(ctx context.Context, l *link, page []chatproto.Message) error {
	opened, err := s.engine.ReceiveAll(ctx, server{l}, page)
	if err != nil {
		return err
	}
	if len(opened) != len(page) {
		return fmt.Errorf("%d of %d entries were decided", len(opened), len(page))
	}
	entries := make([]local.Entry, len(page))
	for i := range page {
		entries[i] = kept(&page[i], &opened[i])
	}
	return s.state.Keep(entries...)
}

// kept makes the entry that is kept of one that was received.
func kept(m *chatproto.Message, o *e2ee.Opened) local.Entry {
	e := local.Entry{
		Room: m.Room, Seq: m.Seq, ID: m.ID, Kind: m.Kind, From: m.From, Target: m.Target, Time: m.Time, Sent: m.Sent,
		Device: o.Device, Warnings: o.Warnings,
	}
	switch o.Status {
	case e2ee.Accepted:
		e.Kind, e.Text = o.Kind, o.Text
	case e2ee.NoKey:
		e.Closed = local.NoKey
	default:
		e.Closed = local.Refused
	}
	return e
}

// entry makes a Message of an entry that is kept.
func (c *Client) entry(r *room, e *local.Entry) Message {
	return Message{
		Room: e.Room, RoomName: r.title(), Seq: e.Seq, ID: e.ID, Kind: e.Kind, From: e.From, Target: e.Target, Text: e.Text,
		Time: time.UnixMicro(e.Time), Sent: sentTime(e.Sent), Device: e.Device, Warnings: e.Warnings,
		Sealed: e.Kind <= chatproto.KindSealed || e.Kind == chatproto.KindTopic,
		Closed: e.Closed == local.NoKey, Refused: e.Closed == local.Refused,
	}
}

// countEntry is count for an entry that was kept, in whatever words it was
// sealed.
func (c *Client) countEntry(r *room, e *local.Entry) {
	kind := e.Kind
	if kind == chatproto.KindTopic {
		kind = chatproto.KindSealed // as the server counts
	}
	c.count(r, &chatproto.Message{Seq: e.Seq, Kind: kind, From: e.From})
}

// lockLimit is how long a room stays locked for one step: without a connection
// other programs are not to wait for it.
const lockLimit = 10 * time.Second

// say seals a message and says it. What was sealed is kept, so that it is said
// again as the same bytes. context.DeadlineExceeded if it takes too long.
func (s *sealed) say(ctx context.Context, l *link, m *outgoing, req *chatproto.SayReq, res *chatproto.SayRes) error {
	if err := s.prepare(ctx, l); err != nil {
		return err
	}
	unlock, err := s.state.LockRoom(ctx, m.Room)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	if m.Sealed == nil {
		if err := s.seal(ctx, l, m); err != nil {
			return err
		}
	}
	req.Kind, req.Epoch, req.Body = chatproto.KindSealed, m.Epoch, m.Sealed
	err = callRoom(ctx, l, m.Room, chatproto.Say, req, res)
	switch {
	case err == nil:
		return s.engine.Said(m.Room, m.ID)
	case errors.Is(err, chatproto.ErrStaleKey), errors.Is(err, chatproto.ErrConflict):
		m.Sealed = nil
	case isService(err) && !temporary(err) && !errors.Is(err, chatproto.ErrRate):
		return errors.Join(err, s.engine.Abandon(m.Room, m.ID))
	}
	return err
}

// seal seals a message to who is in the room by now.
func (s *sealed) seal(ctx context.Context, l *link, m *outgoing) error {
	if err := s.catchUp(ctx, l, m.Room); err != nil {
		return err
	}
	epoch, body, err := s.engine.Seal(ctx, server{l}, m.Room, m.ID, m.Kind, m.Text)
	if err != nil {
		return err
	}
	m.Epoch, m.Sealed = epoch, body
	return s.state.SetSealed(m.N, epoch, body)
}

// catchUp opens all entries that a locked room has by now.
func (s *sealed) catchUp(ctx context.Context, l *link, room chatproto.RoomID) error {
	last := s.lastKept(room)
	for {
		if err := s.openLocked(ctx, l, room, last+1, nil); err != nil {
			return err
		}
		now := s.lastKept(room)
		if now == last {
			return nil
		}
		last = now
	}
}

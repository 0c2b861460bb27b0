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

// keys looks after this device's keys: after the log-in, and when another device
// has sent a letter. A device that has just been enrolled reads what it could
// not before.
func (p *pump) keys(ctx context.Context) error {
	s := p.c.sealed
	if s == nil {
		return nil
	}
	s.mu.Lock()
	before := s.ready
	s.ready = false
	s.mu.Unlock()
	if err := s.prepare(ctx, p.link); err != nil {
		return p.unready(ctx, err)
	}
	if err := p.changes(ctx); err != nil || before {
		return err
	}
	for _, r := range p.c.roomList() {
		if !r.sealed() || !r.begun || s.lastKept(r.state.Info.Room) >= r.cursor {
			continue
		}
		if err := p.fillSealed(ctx, r, p.c.lastOf(r), nil); err != nil {
			return err
		}
		p.c.mu.Lock()
		e := RoomChanged{Room: r.info()}
		p.c.mu.Unlock()
		if err := p.push(ctx, &e); err != nil {
			return err
		}
	}
	return nil
}

func (s *sealed) lastKept(room chatproto.RoomID) uint64 {
	last, err := s.state.Last(room)
	if err != nil {
		s.c.log.Error("sealed history", "err", err)
	}
	return last
}

// unready tells, once, why this device cannot read sealed rooms. An error of the
// connection is returned.
func (p *pump) unready(ctx context.Context, err error) error {
	s := p.c.sealed
	if lostConnection(ctx, err) {
		return err
	}
	s.mu.Lock()
	said := s.warned == err.Error()
	s.warned = err.Error()
	s.mu.Unlock()
	if said || !p.c.hasSealed() {
		return nil
	}
	return p.push(ctx, &Warning{Text: err.Error()})
}

// hasSealed reports whether the user is in a sealed room.
func (c *Client) hasSealed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.rooms {
		if r.sealed() {
			return true
		}
	}
	return false
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

// devicesChanged takes in that a user's list of devices has changed.
func (p *pump) devicesChanged(ctx context.Context, user string) error {
	s := p.c.sealed
	if s == nil || p.c.cfg.NoEvents {
		return nil
	}
	if user == p.c.user {
		if err := p.keys(ctx); err != nil {
			return err
		}
	}
	if err := s.engine.Refresh(ctx, server{p.link}, user); err != nil {
		if lostConnection(ctx, err) {
			return err
		}
		p.c.log.Warn("devices", "user", user, "err", err)
	}
	return p.changes(ctx)
}

// changes tells of changed devices in the sealed rooms that are shared with
// their user.
func (p *pump) changes(ctx context.Context) error {
	changes, err := p.c.sealed.engine.Changes()
	if err != nil {
		p.c.log.Error("devices", "err", err)
		return nil
	}
	for _, change := range changes {
		warnings := []Warning{}
		for _, r := range p.c.roomList() {
			if r.sealed() && p.c.sealed.isMember(r.state.Info.Room, change.User) {
				warnings = append(warnings, Warning{Room: r.state.Info.Room, RoomName: r.title()})
			}
		}
		if len(warnings) == 0 {
			warnings = append(warnings, Warning{})
		}
		for _, w := range warnings {
			w.User, w.Text = change.User, change.Text
			if err := p.push(ctx, &w); err != nil {
				return err
			}
		}
	}
	return nil
}

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

// fillSealed opens the entries of a sealed room up to a sequence number and
// hands out those above the cursor. live is the last of them, if it is there.
func (p *pump) fillSealed(ctx context.Context, r *room, upTo uint64, live *chatproto.Message) error {
	s := p.c.sealed
	err := s.prepare(ctx, p.link)
	if err == nil {
		err = s.open(ctx, p.link, r.state.Info.Room, upTo, live)
	}
	switch {
	case err == nil:
	case lostConnection(ctx, err):
		return err
	case isService(err):
		return p.pass(r, err)
	default:
		return p.handClosed(ctx, r, upTo, err)
	}
	r.behind = ""
	for r.cursor < upTo {
		entries, err := s.state.After(r.state.Info.Room, r.cursor, chatproto.MaxPage)
		if err != nil || len(entries) == 0 {
			return err
		}
		if first := entries[0].Seq; first > r.cursor+1 {
			if err := p.missing(ctx, r, first); err != nil {
				return err
			}
		}
		for i := range entries {
			p.c.countEntry(r, &entries[i])
			if err := p.hand(ctx, r, p.c.entry(r, &entries[i])); err != nil {
				return err
			}
		}
	}
	return p.checkRoom(ctx, r)
}

// handClosed hands out entries that this device cannot open, and says why.
func (p *pump) handClosed(ctx context.Context, r *room, upTo uint64, why error) error {
	if r.behind != why.Error() {
		r.behind = why.Error()
		if err := p.push(ctx, &Warning{Room: r.state.Info.Room, RoomName: r.title(), Text: why.Error()}); err != nil {
			return err
		}
	}
	for r.cursor < upTo {
		page, err := p.history(ctx, r.state.Info.Room, &chatproto.HistoryReq{After: r.cursor})
		if err != nil {
			return p.pass(r, err)
		}
		if len(page.Messages) == 0 {
			return nil
		}
		if first := page.Messages[0].Seq; first > r.cursor+1 {
			if err := p.missing(ctx, r, first); err != nil {
				return err
			}
		}
		for i := range page.Messages {
			p.c.count(r, &page.Messages[i])
			if err := p.hand(ctx, r, p.c.message(r, &page.Messages[i])); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkRoom takes over what the room's log says about it, and warns if the
// server calls it by another name than its maker.
func (p *pump) checkRoom(ctx context.Context, r *room) error {
	s := p.c.sealed
	topic, err := s.state.Topic(r.state.Info.Room)
	if err != nil {
		return err
	}
	p.c.mu.Lock()
	changed := topic != r.topic
	r.topic = topic
	e := RoomChanged{Room: r.info()}
	p.c.mu.Unlock()
	if changed {
		if err := p.push(ctx, &e); err != nil {
			return err
		}
	}
	name, err := s.engine.Name(r.state.Info.Room)
	if err != nil || name == r.state.Info.Name || r.misnamed {
		return nil
	}
	r.misnamed = true
	return p.push(ctx, &Warning{Room: r.state.Info.Room, RoomName: r.title(),
		Text: fmt.Sprintf("the server calls this room %q, but its maker named it %q", r.state.Info.Name, name)})
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

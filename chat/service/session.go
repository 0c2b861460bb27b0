package service

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// maxAttached bounds the attachments of one session. One that has ended counts
// until its last delivery has.
const maxAttached = 8

// phase is how a session stands:
//
//	(new) ──Connected──▶ here ──Lost──▶ silent ──AwayAfter──▶ away ──Grace──▶ gone
//	                      ▲                │                   │              │
//	                      └───Connected────┴───────────────────┴──────────────┘
type phase uint8

const (
	gone   phase = iota // not connected for longer than the grace, or not yet
	away                // not connected for longer than AwayAfter
	silent              // not connected
	here
)

// Session is the chat of one session of the daemon. Its methods are safe for
// concurrent use.
type Session struct {
	svc  *Service
	user *user

	// Guarded by Service.mu.
	attached []*attachment
	places   int // taken by attachments, ended ones with a delivery included
	phase    phase
	turn     int         // counts Connected, Lost and Close: a timer of an earlier turn does nothing
	timer    *time.Timer // to the next phase
	closed   bool
}

// NewSession returns the chat of a session of user. Close must be called when
// that ends.
func (s *Service) NewSession(user string) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Session{svc: s, user: s.user(user)}
}

// Register makes the session's root service answer chat_attach.
func (c *Session) Register(m *rpc.Mux) {
	rpc.Handle(m, chatproto.Attach, c.attach)
}

// Connected tells that a connection of the session stands.
func (c *Session) Connected() {
	s := c.svc
	s.mu.Lock()
	defer s.mu.Unlock()
	c.move(here)
}

// Lost tells that the session has no connection any more, and for how long
// nothing had been heard when that was noticed.
func (c *Session) Lost(silence time.Duration) {
	s := c.svc
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.phase == here {
		c.move(silent)
		c.after(max(s.cfg.AwayAfter-silence, 0), func() {
			c.move(away)
			c.after(max(s.cfg.Grace-max(s.cfg.AwayAfter, silence), 0), func() {
				c.move(gone)
				for _, a := range c.attached {
					a.cutOff() // nothing is kept for who may never come back
				}
			})
		})
	}
}

// after calls f with Service.mu held, unless the session has moved on; so it is
// held here.
func (c *Session) after(d time.Duration, f func()) {
	turn := c.turn
	c.timer = time.AfterFunc(d, func() {
		c.svc.mu.Lock()
		defer c.svc.mu.Unlock()
		if c.turn == turn {
			f()
		}
	})
}

// move puts the session into a phase; Service.mu is held.
func (c *Session) move(p phase) {
	if c.closed {
		return
	}
	c.turn++
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.phase = p
	c.svc.refresh(c.user)
}

// Close ends the session's attachments at once.
func (c *Session) Close() {
	s := c.svc
	s.mu.Lock()
	c.move(gone)
	c.closed = true
	all := slices.Clone(c.attached)
	s.mu.Unlock()
	for _, a := range all {
		a.end(errSessionEnded)
	}
}

// attach answers chat_attach.
func (c *Session) attach(_ context.Context, r *rpc.Request, req *chatproto.ChatAttachReq, res *chatproto.ChatAttachRes) error {
	if req.Listener == 0 {
		return fmt.Errorf("%w: no listener", rpc.ErrBadRequest)
	}
	if c.svc.store.Load() == nil {
		return chatproto.ErrElsewhere
	}
	if err := c.user.charge(c.svc, change); err != nil {
		return err
	}
	if err := c.reserve(); err != nil {
		return err
	}
	a := newAttachment(c, r.Peer, req.Listener)
	ref, err := r.Peer.Export(a.methods(), func() { a.end(errLogout) })
	if err != nil {
		a.end(err)
		return err
	}
	if !a.setSelf(ref) {
		r.Peer.Revoke(ref)
		return rpc.ErrGone
	}
	if err := c.admit(a); err != nil {
		a.end(err)
		return err
	}
	res.Session = ref
	return nil
}

// reserve takes a place for an attachment.
func (c *Session) reserve() error {
	c.svc.mu.Lock()
	defer c.svc.mu.Unlock()
	if c.places >= maxAttached {
		return chatproto.ErrFull
	}
	c.places++
	return nil
}

// free gives a place back.
func (c *Session) free() {
	c.svc.mu.Lock()
	defer c.svc.mu.Unlock()
	c.places--
}

// admit lets events reach the attachment, and others see its user.
func (c *Session) admit(a *attachment) error {
	s := c.svc
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed, c.closed, a.dismissed:
		return rpc.ErrGone
	case len(c.user.attached) == 0 && s.attachedUsers() >= chatproto.MaxUsers:
		return chatproto.ErrFull
	}
	a.admitted = true
	s.feeds[a] = struct{}{}
	c.attached = append(c.attached, a)
	c.user.attached = append(c.user.attached, a)
	s.refresh(c.user)
	return nil
}

// attachedUsers counts the users with an attachment; s.mu is held.
func (s *Service) attachedUsers() int {
	if len(s.feeds) < chatproto.MaxUsers {
		return len(s.feeds) // at most so many, which is all that is asked
	}
	n := 0
	for _, u := range s.users {
		if len(u.attached) > 0 {
			n++
		}
	}
	return n
}

// dismiss takes the attachment out; the others see its user go.
func (c *Session) dismiss(a *attachment) {
	s := c.svc
	s.mu.Lock()
	defer s.mu.Unlock()
	a.dismissed = true
	if !a.admitted {
		return
	}
	delete(s.feeds, a)
	is := func(b *attachment) bool { return a == b }
	c.attached = slices.DeleteFunc(c.attached, is)
	c.user.attached = slices.DeleteFunc(c.user.attached, is)
	s.refresh(c.user)
}

package service

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// What is told of one user's presence: so many changes per second in the long
// run, and at once. Of those between, the last one is told.
const (
	presenceRate  = 1
	presenceBurst = 5
)

// user is somebody who was here since the start, and what bounds them.
type user struct {
	name string

	// Guarded by Service.mu.
	attached []*attachment
	shown    chatproto.Presence // what the others were told
	changes  bucket             // of shown
	later    *time.Timer        // runs while a change waits to be told

	mu     sync.Mutex
	rates  [prices]bucket
	peers  map[string]struct{} // users with whom a direct room exists; nil: not asked yet
	typing map[chatproto.RoomID]time.Time
}

// presence is how the user stands; Service.mu is held.
func (u *user) presence() chatproto.Presence {
	p := chatproto.Presence{User: u.name}
	var since time.Time
	for _, a := range u.attached {
		state, text := a.presence()
		switch {
		case state < p.State:
		case state > p.State, !a.awaySince.Before(since):
			p.State, p.Text, since = state, text, a.awaySince
		}
	}
	return p
}

// presence is how the attachment stands; Service.mu is held.
func (a *attachment) presence() (state uint8, text string) {
	switch p := a.session.phase; {
	case p == gone:
		return chatproto.Offline, ""
	case a.away:
		return chatproto.Away, a.awayText
	case p == away:
		return chatproto.Away, ""
	}
	return chatproto.Online, ""
}

// refresh tells all listeners how the user stands, if that is news; s.mu is
// held.
func (s *Service) refresh(u *user) {
	p := u.presence()
	if s.stopping || u.later != nil || p.State == u.shown.State && p.Text == u.shown.Text {
		return
	}
	now := time.Now()
	if wait := u.changes.take(now, presenceRate, presenceBurst); wait > 0 {
		u.later = time.AfterFunc(wait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			u.later = nil
			s.refresh(u)
		})
		return
	}
	p.Since = now.UnixMicro()
	u.shown = p
	e := newEvent(chatproto.EventPresence, &p)
	for a := range s.feeds {
		a.push(e)
	}
}

// stop ends what would be told later; Service.mu is held.
func (u *user) stop() {
	if u.later != nil {
		u.later.Stop()
	}
}

// maxAwayTexts bounds the reasons for being away in one snapshot, in bytes, so
// that it stays below what a reply may hold. What exceeds it is left out.
const maxAwayTexts = 256 << 10

// present returns the users that are there, as they were shown to the others;
// s.mu is held.
func (s *Service) present() []chatproto.Presence {
	var all []chatproto.Presence
	texts := 0
	for a := range s.feeds {
		u := a.session.user
		if u.attached[0] != a || u.shown.State == chatproto.Offline {
			continue
		}
		p := u.shown
		if texts += len(p.Text); texts > maxAwayTexts {
			p.Text = ""
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b chatproto.Presence) int { return strings.Compare(a.User, b.User) })
	return all
}

// state returns the presence of a user.
func (s *Service) state(name string) uint8 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[name]; u != nil {
		return u.presence().State
	}
	return chatproto.Offline
}

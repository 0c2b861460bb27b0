package chat

import (
	"context"
	"fmt"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

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
	if err != nil {
		return nil // not known yet
	}
	s.pinName(name)
	if name == r.state.Info.Name || r.misnamed {
		return nil
	}
	r.misnamed = true
	return p.push(ctx, &Warning{Room: r.state.Info.Room, RoomName: r.title(),
		Text: fmt.Sprintf("the server calls this room %q, but its maker named it %q", r.state.Info.Name, name)})
}

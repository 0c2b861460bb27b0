package e2ee

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"slices"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// renew makes sure that the room's key is sealed to whom it should be, and is not
// of the epoch that the server has refused.
func (e *Engine) renew(ctx context.Context, srv Server, room chatproto.RoomID, refused uint64) error {
	for range maxTries {
		req, rest, err := e.planEpoch(ctx, srv, room, refused)
		if err != nil {
			return err
		}
		if req != nil {
			err = srv.PutKeys(ctx, room, req)
		}
		if err == nil && rest != nil {
			err = e.putRest(ctx, srv, room, rest)
		}
		if err != nil && !errors.Is(err, chatproto.ErrConflict) || req == nil {
			return err
		}
		// What came first is in the log before the entry of the epoch.
		if err := e.catchUp(ctx, srv, room, math.MaxUint64); err != nil {
			return err
		}
		if err := e.syncMembers(ctx, srv, room); err != nil {
			return err
		}
	}
	return ErrBusy
}

// planEpoch returns the request for the epoch that is needed, nil if none is, and
// the boxes to be added to it or to the present one.
func (e *Engine) planEpoch(ctx context.Context, srv Server, room chatproto.RoomID, refused uint64) (req *chatproto.PutKeysReq, rest []chatproto.SealedKey, err error) {
	err = e.transact(func(w *work) error {
		p, err := e.ready(ctx, w, srv, room)
		if err != nil {
			return err
		}
		to, err := p.recipients()
		if err != nil {
			return err
		}
		if p.current(to) && p.room.Epoch != refused {
			req = nil
			rest, err = p.dueRest()
		} else if req, rest, err = p.newEpoch(to); err == nil && len(rest) > 0 {
			err = w.store(keyRest(room), &number{A: req.Epoch})
		}
		if err != nil {
			return err
		}
		return p.save()
	})
	return req, rest, err
}

// dueRest returns the boxes of the present epoch if this device made it and did
// not get to adding them all; nil otherwise.
func (p *pass) dueRest() ([]chatproto.SealedKey, error) {
	var due number
	if ok, err := p.load(keyRest(p.id), &due); !ok || err != nil {
		return nil, err
	}
	h, key, err := p.header(p.room.Epoch)
	if err != nil || due.A != p.room.Epoch || h.Device != p.e.device.id {
		return nil, err
	}
	return p.boxes(h, key)
}

// putRest adds boxes for which the request of their epoch had no room.
func (e *Engine) putRest(ctx context.Context, srv Server, room chatproto.RoomID, rest []chatproto.SealedKey) error {
	if err := addKeys(ctx, srv, room, rest); err != nil {
		return err
	}
	return e.transact(func(w *work) error {
		w.drop(keyRest(room))
		return nil
	})
}

// ready returns a pass in which this user is a proven member. If entries were
// missing and nothing has been said since, members are taken from the newest key.
func (e *Engine) ready(ctx context.Context, w *work, srv Server, room chatproto.RoomID) (*pass, error) {
	p, err := e.newPass(ctx, w, srv, room)
	if err != nil {
		return nil, err
	}
	if p.room.Adopt {
		if err := p.adoptNewest(); err != nil {
			return nil, err
		}
	}
	switch {
	case p.room.Room == hash{}:
		return nil, ErrUnproven
	case p.who.get(e.user) == nil:
		return nil, ErrNotMember
	}
	return p, nil
}

// adoptNewest is adopt with the newest epoch that the server has.
func (p *pass) adoptNewest() error {
	epochs, err := p.srv.Keys(p.ctx, p.id, p.e.device.id, max(p.room.Top, 1))
	if err != nil {
		return err
	}
	if len(epochs) == 0 {
		return ErrUnproven
	}
	v := new(verdict)
	if err := p.adopt(v, epochs[len(epochs)-1].Epoch, p.room.Last); err != nil {
		return err
	}
	for _, text := range v.Warnings {
		if err := p.notice(p.e.user, text); err != nil {
			return err
		}
	}
	return nil
}

// recipients returns to whom a key has to be sealed now: the proven members with
// the newest known versions of their lists. Somebody whom a device brought in
// that has been revoked since, before any key confirmed it, is left out.
func (p *pass) recipients() ([]recipient, error) {
	var to []recipient
	for _, x := range p.who.List {
		if !x.Confirmed {
			doubtful, err := p.revoked(x.By, x.Device)
			if err != nil {
				return nil, err
			}
			if doubtful {
				continue
			}
		}
		known, err := p.pin(x.User)
		if err != nil {
			return nil, err
		}
		if known == nil {
			return nil, refuse("the server shows no list of %s's devices", x.User)
		}
		to = append(to, recipient{User: x.User, Version: known.Version, List: known.List})
	}
	slices.SortFunc(to, func(a, b recipient) int { return cmp.Compare(a.User, b.User) })
	return to, nil
}

// current tells whether the newest epoch is valid, open, made after all changes of
// the membership, and sealed to exactly those.
func (p *pass) current(to []recipient) bool {
	if p.room.Epoch == 0 || p.room.Epoch != p.room.Top {
		return false
	}
	h, key, err := p.header(p.room.Epoch)
	return err == nil && h != nil && key != hash{} && h.Members == p.room.Members && slices.Equal(h.Recipients, to)
}

// newEpoch returns the request for a new epoch, and the boxes that do not fit
// into it.
func (p *pass) newEpoch(to []recipient) (*chatproto.PutKeysReq, []chatproto.SealedKey, error) {
	var key hash
	h := &header{
		Room: p.room.Room, Epoch: p.room.Top + 1, Prev: p.room.Header, Members: p.room.Members,
		Maker: p.e.user, Device: p.e.device.id, Recipients: to,
	}
	for _, b := range [][]byte{key[:], h.ID[:]} {
		if _, err := io.ReadFull(p.e.random, b); err != nil {
			return nil, nil, err
		}
	}
	h.Commit = commitment(h.Room, h.Epoch, key)
	raw, _, err := sign(domainHeader, p.e.device.sign, nil, h)
	if err != nil || len(raw) > chatproto.MaxHeader {
		return nil, nil, errors.Join(err, ErrTooMany)
	}
	keys, err := p.boxes(h, key)
	if err != nil {
		return nil, nil, err
	}
	fit := min(len(keys), (p.e.keysSize-64-len(raw))/sealedKeySize)
	if fit < 0 {
		return nil, nil, ErrTooMany
	}
	rest := keys[fit:]
	if len(rest) == 0 {
		rest = nil
	}
	return &chatproto.PutKeysReq{ID: h.ID, Epoch: h.Epoch, Header: raw, Keys: keys[:fit]}, rest, nil
}

// boxes seals the key to all devices and recovery boxes of the recipients, to
// this device first.
func (p *pass) boxes(h *header, key hash) ([]chatproto.SealedKey, error) {
	var keys []chatproto.SealedKey
	add := func(id chatproto.DeviceID, pub hash) error {
		box, err := sealKey(p.e.random, key, pub)
		keys = append(keys, chatproto.SealedKey{Epoch: h.Epoch, Device: id, Box: box})
		return err
	}
	for _, r := range h.Recipients {
		l, err := p.loadList(r.User, r.Version)
		if err != nil {
			return nil, err
		}
		for _, d := range l.Devices {
			if d.Revoked == 0 {
				if err := add(deviceID(d.Sign, d.Box), d.Box); err != nil {
					return nil, err
				}
			}
		}
		if err := add(recoveryID(l.Recovery), l.Recovery); err != nil {
			return nil, err
		}
	}
	own := slices.IndexFunc(keys, func(k chatproto.SealedKey) bool { return k.Device == p.e.device.id })
	if own > 0 {
		keys[0], keys[own] = keys[own], keys[0]
	}
	return keys, nil
}

// renewAll makes new keys for all rooms that need them.
func (e *Engine) renewAll(ctx context.Context, srv Server) error {
	rooms, err := e.rooms()
	if err != nil {
		return err
	}
	var failed error
	for _, room := range rooms {
		err := e.prepare(ctx, srv, room, true)
		if err == nil {
			err = e.renewStarted(ctx, srv, room)
		}
		if err == nil || errors.Is(err, chatproto.ErrNoRoom) || errors.Is(err, ErrNotMember) || errors.Is(err, ErrUnproven) {
			continue
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// renewStarted is renew of a room that has a key already.
func (e *Engine) renewStarted(ctx context.Context, srv Server, room chatproto.RoomID) error {
	var at roomState
	err := e.transact(func(w *work) error {
		at = roomState{}
		_, err := w.load(keyRoom(room), &at)
		return err
	})
	if err != nil || at.Top == 0 {
		return err
	}
	return e.renew(ctx, srv, room, 0)
}

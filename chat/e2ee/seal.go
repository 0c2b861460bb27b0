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

// Seal returns the body of a KindSealed entry, and the epoch that goes with it in
// the request. kind is KindText, KindAction or KindTopic. Before it seals it
// makes sure that the room's key is sealed to the present devices of the proven
// members and to nobody else, and makes a new key otherwise.
//
// The caller stores what it returns and sends the same bytes again until the
// server has answered; then it calls Said. After ErrStaleKey it calls Seal with
// the same id again, which keeps the message's place among the device's others.
// Messages of a room must be sent in the order in which they were first sealed.
// A message that will not be sent any more is given to Abandon.
func (e *Engine) Seal(ctx context.Context, srv Server, room chatproto.RoomID, id chatproto.ID, kind uint8, text string) (epoch uint64, body []byte, err error) {
	plain := &plainText{kind, text}
	if err := plain.check(); err != nil {
		return 0, nil, err
	}
	refused, err := e.sealedBefore(room, id)
	if err == nil {
		err = e.prepare(ctx, srv, room, refused != 0)
	}
	if err != nil {
		return 0, nil, err
	}
	for range maxTries {
		if err := e.renew(ctx, srv, room, refused); err != nil {
			return 0, nil, err
		}
		epoch, body, err = e.sealNow(ctx, srv, room, id, plain)
		if !errors.Is(err, errStale) {
			return epoch, body, err
		}
	}
	return 0, nil, ErrBusy
}

// maxTries bounds how often a key is made anew because others were faster.
const maxTries = 8

// errStale means that the present key is not sealed to whom it should be.
var errStale = errors.New("e2ee: the room needs a new key")

// sealedBefore returns the epoch that a message was last sealed with, which the
// server has refused; 0: none.
func (e *Engine) sealedBefore(room chatproto.RoomID, id chatproto.ID) (uint64, error) {
	var n number
	err := e.transact(func(w *work) error {
		n = number{}
		_, err := w.load(keyOut(room, id), &n)
		return err
	})
	return n.B, err
}

// prepare learns of what changed. It asks the server the first time for each
// room, and whenever the server has said that something changed.
func (e *Engine) prepare(ctx context.Context, srv Server, room chatproto.RoomID, changed bool) error {
	e.mu.Lock()
	fresh := e.fresh[room]
	e.mu.Unlock()
	if fresh && !changed {
		return nil
	}
	if err := e.catchUp(ctx, srv, room, math.MaxUint64); err != nil {
		return err
	}
	if err := e.syncMembers(ctx, srv, room); err != nil {
		return err
	}
	e.mu.Lock()
	e.fresh[room] = true
	e.mu.Unlock()
	return nil
}

// syncMembers fetches the lists of all proven members.
func (e *Engine) syncMembers(ctx context.Context, srv Server, room chatproto.RoomID) error {
	who, err := e.Members(room)
	if err != nil {
		return err
	}
	for _, user := range who {
		err := e.transact(func(w *work) error {
			_, err := e.sync(ctx, w, srv, user)
			return err
		})
		if err != nil {
			return asRefusal(user, err)
		}
	}
	return nil
}

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
	fit := min(len(keys), (chatproto.MaxKeysSize-64-len(raw))/sealedKeySize)
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

// sealNow seals with the newest epoch, or returns errStale. The counter is on
// disk before it is used.
func (e *Engine) sealNow(ctx context.Context, srv Server, room chatproto.RoomID, id chatproto.ID, plain *plainText) (epoch uint64, body []byte, err error) {
	err = e.transact(func(w *work) error {
		p, err := e.ready(ctx, w, srv, room)
		if err != nil {
			return err
		}
		to, err := p.recipients()
		if err != nil {
			return err
		}
		if !p.current(to) {
			return errStale
		}
		t := &sealedText{Epoch: p.room.Epoch, Device: e.device.id}
		if t.Counter, t.GivenUp, err = w.nextCounter(room, id, t.Epoch); err != nil {
			return err
		}
		if p.room.Chain != (hash{}) {
			t.PrevSeq, t.Prev = p.room.Last, p.room.Chain
		}
		epoch = t.Epoch
		body, err = p.seal(t, id, plain)
		return err
	})
	return epoch, body, err
}

// seal encrypts and signs.
func (p *pass) seal(t *sealedText, id chatproto.ID, plain *plainText) ([]byte, error) {
	_, key, err := p.header(t.Epoch)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(p.e.random, t.Nonce[:]); err != nil {
		return nil, err
	}
	context, err := encode(&textContext{Room: p.room.Room, From: p.e.user, ID: id})
	if err != nil {
		return nil, err
	}
	if err := encrypt(t, key, p.room.Room, context, plain); err != nil {
		return nil, err
	}
	body, _, err := sign(domainSealed, p.e.device.sign, context, t)
	return body, err
}

// nextCounter returns the counter of a message, the same for the same id, and how
// many right before it were given up. It notes the epoch.
func (w *work) nextCounter(room chatproto.RoomID, id chatproto.ID, epoch uint64) (counter uint64, givenUp uint32, err error) {
	var own ownRecord
	if _, err := w.load(keyOwn(room), &own); err != nil {
		return 0, 0, err
	}
	var n number
	have, err := w.load(keyOut(room, id), &n)
	if err != nil {
		return 0, 0, err
	}
	if !have {
		own.Last++
		n.A = own.Last
		if err := w.store(keyOwn(room), &own); err != nil {
			return 0, 0, err
		}
	}
	n.B = epoch
	if err := w.store(keyOut(room, id), &n); err != nil {
		return 0, 0, err
	}
	for slices.Contains(own.GivenUp, n.A-1-uint64(givenUp)) {
		givenUp++
	}
	return n.A, givenUp, nil
}

// Said forgets what is kept for sealing a message again. Call it when the server
// has stored the message.
func (e *Engine) Said(room chatproto.RoomID, id chatproto.ID) error {
	return e.transact(func(w *work) error {
		var own ownRecord
		var n number
		have, err := w.load(keyOut(room, id), &n)
		if !have || err != nil {
			return err
		}
		if _, err := w.load(keyOwn(room), &own); err != nil {
			return err
		}
		// What was given up before it, it has told.
		own.GivenUp = slices.DeleteFunc(own.GivenUp, func(g uint64) bool { return g < n.A })
		w.drop(keyOut(room, id))
		return w.store(keyOwn(room), &own)
	})
}

// Abandon gives up a message that was sealed and that the server has refused for
// good. The next one tells the receivers not to miss it.
func (e *Engine) Abandon(room chatproto.RoomID, id chatproto.ID) error {
	return e.transact(func(w *work) error {
		var own ownRecord
		var n number
		have, err := w.load(keyOut(room, id), &n)
		if !have || err != nil {
			return err
		}
		if _, err := w.load(keyOwn(room), &own); err != nil {
			return err
		}
		own.GivenUp = append(own.GivenUp, n.A)
		own.GivenUp = own.GivenUp[max(0, len(own.GivenUp)-1024):]
		w.drop(keyOut(room, id))
		return w.store(keyOwn(room), &own)
	})
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

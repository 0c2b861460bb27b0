package e2ee

import (
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

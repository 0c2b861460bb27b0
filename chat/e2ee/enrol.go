package e2ee

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// Ready makes sure that this device may act for its user: it publishes the first
// list of a user who has none, takes the answer to a Request, and otherwise
// returns ErrNotEnrolled or ErrRevoked, or a *Refusal if the server shows a list
// that is not the user's. Call it after each log-in, and when mail comes while
// it last returned ErrNotEnrolled.
func (e *Engine) Ready(ctx context.Context, srv Server) error {
	err := e.transact(func(w *work) error {
		p, err := w.pin(e.user)
		if p == nil || err != nil {
			return errors.Join(err, ErrNotEnrolled)
		}
		if _, err := e.sync(ctx, w, srv, e.user); err != nil {
			return err
		}
		return nil
	})
	if errors.Is(err, ErrNotEnrolled) {
		return e.begin(ctx, srv)
	}
	if err == nil {
		_, err = e.finishRotation(ctx, srv)
	}
	if err != nil {
		return err
	}
	return e.transact(func(w *work) error { _, err := e.enrolled(w); return err })
}

// begin is Ready of a device that knows no identity of its user yet.
func (e *Engine) begin(ctx context.Context, srv Server) error {
	raws, err := fetchLists(ctx, srv, e.user, 1)
	if err != nil {
		return err
	}
	seed, err := e.firstSeed(len(raws) == 0)
	if err != nil {
		return err
	}
	if len(raws) == 0 {
		if raws, err = e.publishFirst(ctx, srv, seed); err != nil {
			return err
		}
	}
	if seed != nil {
		err := e.adoptOwn(raws, func(p *pin, _ *deviceList) bool {
			return p.identity() == newIdentity(*seed).pub
		})
		if err == nil || !isRefusal(err) {
			return err
		}
		// Another device of the user was faster; the seed stands for nothing.
		if err := e.transact(func(w *work) error { w.drop(keySeed); return nil }); err != nil {
			return err
		}
	}
	return e.takeAnswer(ctx, srv, raws)
}

func isRefusal(err error) bool {
	var r *Refusal
	return errors.As(err, &r)
}

// firstSeed returns the seed that this device holds, and draws one if it may.
func (e *Engine) firstSeed(draw bool) (*hash, error) {
	var s single
	var have bool
	err := e.transact(func(w *work) error {
		var err error
		if have, err = w.load(keySeed, &s); have || err != nil || !draw {
			return err
		}
		if _, err := io.ReadFull(e.random, s.Hash[:]); err != nil {
			return err
		}
		have = true
		return w.store(keySeed, &s)
	})
	if err != nil || !have {
		return nil, err
	}
	return &s.Hash, nil
}

// publishFirst publishes version 1 with this device and returns all lists there
// are then.
func (e *Engine) publishFirst(ctx context.Context, srv Server, seed *hash) ([][]byte, error) {
	l := &deviceList{User: e.user, Version: 1, Devices: []listDevice{e.self(true)}}
	raw, err := signList(l, *seed, nil)
	if err != nil {
		return nil, err
	}
	if err := srv.PutDevices(ctx, 1, raw); err != nil && !errors.Is(err, chatproto.ErrConflict) {
		return nil, err
	}
	raws, err := fetchLists(ctx, srv, e.user, 1)
	if err == nil && len(raws) == 0 {
		err = refuse("the server does not show the list of devices that it has just taken")
	}
	return raws, err
}

// self is this device in a list.
func (e *Engine) self(holder bool) listDevice {
	return listDevice{
		Name: e.name, Sign: e.device.signPub, Box: e.device.boxPub,
		Added: e.now().UnixMicro(), Holder: holder,
	}
}

// adoptOwn pins the own user's lists if they verify and are accepted by mine,
// which gets the pin and the list of a version.
func (e *Engine) adoptOwn(raws [][]byte, mine func(p *pin, newest *deviceList) bool) error {
	return e.transact(func(w *work) error {
		p, err := e.pinNew(w, e.user, raws)
		if err != nil {
			return err
		}
		l, err := w.loadList(e.user, p.Version)
		if err != nil {
			return err
		}
		if !mine(p, l) {
			return refuse("the list of devices is not of the identity that was expected")
		}
		w.drop(keyPending)
		return inUse(l, e.device.id)
	})
}

// Request draws a code for this device, posts its letter, and returns the code
// for the person to enter on a device that holds the recovery key (Enrol there).
// Ready succeeds once the answer has come. A further Request voids the code
// before. ErrExists if this device is enrolled already.
func (e *Engine) Request(ctx context.Context, srv Server) (code string, err error) {
	secret, code, err := newCode(e.random)
	if err != nil {
		return "", err
	}
	m := &request{Name: e.name, Sign: e.device.signPub, Box: e.device.boxPub}
	if m.MAC, err = m.mac(secret, e.user); err != nil {
		return "", err
	}
	body, err := encode(m)
	if err != nil {
		return "", err
	}
	mail := chatproto.Mail{From: e.device.id, Body: body}
	if _, err := io.ReadFull(e.random, mail.ID[:]); err != nil {
		return "", err
	}
	err = e.transact(func(w *work) error {
		if p, err := w.pin(e.user); err != nil || p != nil {
			return errors.Join(err, chatproto.ErrExists)
		}
		var s single
		copy(s.Hash[:], secret)
		return w.store(keyPending, &s)
	})
	if err != nil {
		return "", err
	}
	return code, srv.PutMail(ctx, mail)
}

func (m *request) mac(code []byte, user string) (hash, error) {
	bare := *m
	bare.MAC = hash{}
	b, err := encode(&bare)
	return mac(code, domainRequest, user, b), err
}

func (m *answer) mac(code []byte, user string) (hash, error) {
	bare := *m
	bare.MAC = hash{}
	b, err := encode(&bare)
	return mac(code, domainAnswer, user, b), err
}

// takeAnswer looks for the answer to the pending request. Letters that do not
// fit the code are passed over: they are not of a device that was given it.
func (e *Engine) takeAnswer(ctx context.Context, srv Server, raws [][]byte) error {
	var code single
	var pending bool
	err := e.transact(func(w *work) (err error) { pending, err = w.load(keyPending, &code); return err })
	if err != nil || !pending {
		return errors.Join(err, ErrNotEnrolled)
	}
	mails, err := srv.Mail(ctx)
	if err != nil {
		return err
	}
	for _, mail := range mails {
		a := new(answer)
		if rpc.Decode(mail.Body, a) != nil || a.Device != e.device.id {
			continue
		}
		want, err := a.mac(code.Hash[:codeBytes], e.user)
		if err != nil || !hmac.Equal(want[:], a.MAC[:]) {
			continue
		}
		if err := e.adoptOwn(raws, a.names(e.user, raws)); err != nil {
			return err
		}
		e.Retry()
		return srv.DropMail(ctx, mail.ID)
	}
	return ErrNotEnrolled
}

// names returns the check that lists are those which the answer vouches for.
func (a *answer) names(user string, raws [][]byte) func(*pin, *deviceList) bool {
	return func(p *pin, _ *deviceList) bool {
		if a.Version == 0 || a.Version > uint64(len(raws)) {
			return false
		}
		l := new(deviceList)
		s, err := unwrap(raws[a.Version-1], chatproto.MaxList, l)
		return err == nil && l.Identity == a.Identity && sum(domainList, s.Body) == a.List
	}
}

// Enrol enrols the device that shows the code: it is added to the user's list,
// gets the keys of all rooms' pasts, and is told whose it is. Only on a holder of
// the recovery key. ErrCode if no device waits with that code. After an error
// of the connection it can be repeated.
func (e *Engine) Enrol(ctx context.Context, srv Server, code string) (Device, error) {
	secret, err := parseCode(code)
	if err != nil {
		return Device{}, err
	}
	if _, err := e.seed(); err != nil {
		return Device{}, err
	}
	req, letter, err := e.findRequest(ctx, srv, secret)
	if err != nil {
		return Device{}, err
	}
	id := deviceID(req.Sign, req.Box)
	if err := e.addDevice(ctx, srv, listDevice{Name: req.Name, Sign: req.Sign, Box: req.Box, Added: e.now().UnixMicro()}); err != nil {
		return Device{}, err
	}
	if err := e.handOver(ctx, srv, id, req.Box); err != nil {
		return Device{}, fmt.Errorf("the device is enrolled, but not all keys were handed over: %w", err)
	}
	d, err := e.postAnswer(ctx, srv, secret, id)
	if err == nil {
		err = srv.DropMail(ctx, letter)
	}
	return d, err
}

// findRequest returns the letter that fits the code.
func (e *Engine) findRequest(ctx context.Context, srv Server, code []byte) (*request, chatproto.ID, error) {
	mails, err := srv.Mail(ctx)
	if err != nil {
		return nil, chatproto.ID{}, err
	}
	for _, mail := range mails {
		r := new(request)
		if rpc.Decode(mail.Body, r) != nil {
			continue
		}
		if want, err := r.mac(code, e.user); err == nil && hmac.Equal(want[:], r.MAC[:]) {
			return r, mail.ID, nil
		}
	}
	return nil, chatproto.ID{}, ErrCode
}

// postAnswer tells the new device whose it is.
func (e *Engine) postAnswer(ctx context.Context, srv Server, code []byte, id chatproto.DeviceID) (Device, error) {
	a := &answer{Device: id}
	var out Device
	err := e.peek(e.user, func(w *work, p *pin) error {
		l, err := w.loadList(e.user, p.Version)
		if err != nil {
			return err
		}
		d := l.device(id)
		if d == nil || d.Revoked != 0 {
			return ErrNoSuch
		}
		out = e.describe(d)
		a.Identity, a.Version, a.List = p.identity(), p.Version, p.List
		a.MAC, err = a.mac(code, e.user)
		return err
	})
	if err != nil {
		return Device{}, err
	}
	mail := chatproto.Mail{From: e.device.id, To: id}
	if _, err := io.ReadFull(e.random, mail.ID[:]); err != nil {
		return Device{}, err
	}
	if mail.Body, err = encode(a); err != nil {
		return Device{}, err
	}
	return out, srv.PutMail(ctx, mail)
}

// addDevice adds a device to the own list, or makes one that is there a holder if
// d is one. A revoked device never comes back.
func (e *Engine) addDevice(ctx context.Context, srv Server, d listDevice) error {
	seed, err := e.seed()
	if err != nil {
		return err
	}
	return e.publish(ctx, srv, func(l *deviceList) (*hash, *hash, error) {
		have := l.device(deviceID(d.Sign, d.Box))
		switch {
		case have == nil:
			l.Devices = append(l.Devices, d)
		case have.Revoked != 0:
			return nil, nil, ErrRevoked
		case have.Holder || !d.Holder:
			return nil, nil, errUnchanged
		default:
			have.Holder = true
		}
		return seed, nil, nil
	})
}

// seed returns the recovery seed if this device holds the one in force.
func (e *Engine) seed() (*hash, error) {
	var s single
	err := e.peek(e.user, func(w *work, p *pin) error {
		if _, err := e.enrolled(w); err != nil {
			return err
		}
		for _, key := range []string{keySeed, keyNewSeed} {
			have, err := w.load(key, &s)
			if err != nil || have && newIdentity(s.Hash).pub == p.identity() {
				return err
			}
		}
		return ErrNotHolder
	})
	if errors.Is(err, ErrUnknownUser) {
		err = ErrNotEnrolled
	}
	return &s.Hash, err
}

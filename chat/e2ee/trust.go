package e2ee

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Refresh fetches the lists of a user's devices. Call it when the server tells of
// a new one (chatproto.EventDevices), then Changes. It does nothing for a user
// that no room has asked for yet. A *Refusal is for the person to see: the server
// shows a list that the user cannot have made.
func (e *Engine) Refresh(ctx context.Context, srv Server, user string) error {
	return e.transact(func(w *work) error {
		p, err := w.pin(user)
		if p == nil || err != nil {
			return err
		}
		_, err = e.sync(ctx, w, srv, user)
		return err
	})
}

// Meet fetches the lists of a user's devices, and pins the identity of one who was
// not known, so that it can be compared before a room is shared. ErrNoDevices if
// the user has none.
func (e *Engine) Meet(ctx context.Context, srv Server, user string) error {
	return e.transact(func(w *work) error {
		_, err := e.sync(ctx, w, srv, user)
		return err
	})
}

// Changes returns the notices since the last call, each once, oldest first.
func (e *Engine) Changes() ([]Change, error) {
	var n notices
	err := e.transact(func(w *work) error {
		n = notices{}
		if ok, err := w.load(keyNotices, &n); !ok {
			return err
		}
		w.drop(keyNotices)
		return nil
	})
	return n.List, err
}

// Devices returns the devices of a user as last known, revoked ones included, in
// the order in which they were added. ErrUnknownUser if nothing is known.
func (e *Engine) Devices(user string) ([]Device, error) {
	var devices []Device
	err := e.peek(user, func(w *work, p *pin) error {
		l, err := w.loadList(user, p.Version)
		if err != nil {
			return err
		}
		devices = nil
		for _, d := range l.Devices {
			devices = append(devices, e.describe(&d))
		}
		return nil
	})
	return devices, err
}

func (e *Engine) describe(d *listDevice) Device {
	id := deviceID(d.Sign, d.Box)
	out := Device{ID: id, Name: d.Name, Added: time.UnixMicro(d.Added), Holder: d.Holder, This: id == e.device.id}
	if d.Revoked != 0 {
		out.Revoked = time.UnixMicro(d.Revoked)
	}
	return out
}

// peek runs fn with what is known of a user.
func (e *Engine) peek(user string, fn func(w *work, p *pin) error) error {
	return e.transact(func(w *work) error {
		p, err := w.pin(user)
		if err != nil {
			return err
		}
		if p == nil {
			return ErrUnknownUser
		}
		return fn(w, p)
	})
}

// Fingerprint returns 60 digits in groups of five that stand for the identity
// key of a user, the engine's own included.
func (e *Engine) Fingerprint(user string) (string, error) {
	var out string
	err := e.peek(user, func(w *work, p *pin) error {
		id := p.identity()
		out = digits(domainDigits, []byte(user), id[:])
		return nil
	})
	return out, err
}

// SafetyNumber returns 60 digits in groups of five that this user and another
// see alike exactly if each has the other's true identity key.
func (e *Engine) SafetyNumber(user string) (string, error) {
	var out string
	err := e.peek(user, func(w *work, p *pin) error {
		own, err := w.pin(e.user)
		if err != nil {
			return err
		}
		if own == nil {
			return ErrNotEnrolled
		}
		a, b := own.identity(), p.identity()
		one, other := sum(domainSafety, []byte(e.user), a[:]), sum(domainSafety, []byte(user), b[:])
		if bytes.Compare(one[:], other[:]) > 0 {
			one, other = other, one
		}
		out = digits(domainSafety, one[:], other[:])
		return nil
	})
	return out, err
}

// digits returns 60 digits, 199 bits, of a hash.
func digits(domain string, parts ...[]byte) string {
	s := sum(domain, parts...)
	h := sha512.Sum512(s[:])
	groups := make([]string, 12)
	for i := range groups {
		var b [8]byte
		copy(b[3:], h[5*i:5*i+5])
		groups[i] = fmt.Sprintf("%05d", binary.BigEndian.Uint64(b[:])%100000)
	}
	return strings.Join(groups, " ")
}

// Verify notes that a person has compared the user's identity over another way
// than this server. It holds until the identity changes.
func (e *Engine) Verify(user string) error {
	return e.peek(user, func(w *work, p *pin) error {
		p.Verified = p.identity()
		return w.store(keyPin(user), p)
	})
}

// Verified tells whether the user's present identity was compared.
func (e *Engine) Verified(user string) (bool, error) {
	var ok bool
	err := e.peek(user, func(w *work, p *pin) error {
		ok = p.Verified == p.identity()
		return nil
	})
	return ok, err
}

// enrolled returns the pin of the own user if this device is in use.
func (e *Engine) enrolled(w *work) (*pin, error) {
	p, err := w.pin(e.user)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, ErrNotEnrolled
	}
	l, err := w.loadList(e.user, p.Version)
	if err != nil {
		return nil, err
	}
	return p, inUse(l, e.device.id)
}

func inUse(l *deviceList, id chatproto.DeviceID) error {
	d := l.device(id)
	switch {
	case d == nil:
		return ErrNotEnrolled
	case d.Revoked != 0:
		return ErrRevoked
	}
	return nil
}

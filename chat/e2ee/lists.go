package e2ee

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// loadDevice returns the keys of this device, and makes them at first use.
func (e *Engine) loadDevice() (*deviceKeys, error) {
	var s deviceSecrets
	err := e.transact(func(w *work) error {
		if ok, err := w.load(keyDevice, &s); ok || err != nil {
			return err
		}
		for _, b := range []*hash{&s.Sign, &s.Box} {
			if _, err := io.ReadFull(e.random, b[:]); err != nil {
				return err
			}
		}
		return w.store(keyDevice, &s)
	})
	if err != nil {
		return nil, err
	}
	return newDeviceKeys(s.Sign, s.Box), nil
}

// device returns a device of the list, or nil.
func (l *deviceList) device(id chatproto.DeviceID) *listDevice {
	for i := range l.Devices {
		if deviceID(l.Devices[i].Sign, l.Devices[i].Box) == id {
			return &l.Devices[i]
		}
	}
	return nil
}

// inUse returns how many devices are not revoked.
func (l *deviceList) inUse() int {
	n := 0
	for i := range l.Devices {
		if l.Devices[i].Revoked == 0 {
			n++
		}
	}
	return n
}

// checkDevices refuses a list that names a device twice or too many.
func (l *deviceList) checkDevices() error {
	seen := make(map[chatproto.DeviceID]bool, len(l.Devices))
	for _, d := range l.Devices {
		id := deviceID(d.Sign, d.Box)
		if seen[id] {
			return refuse("names a device twice")
		}
		seen[id] = true
	}
	if l.inUse() > chatproto.MaxDevices {
		return refuse("names too many devices")
	}
	return nil
}

// verifyList returns the list that raw is, if it follows prev, and its hash.
// prev is nil for the first version, whose identity is taken as it is.
func verifyList(user string, prev *deviceList, prevHash hash, raw []byte) (*deviceList, hash, error) {
	l := new(deviceList)
	s, err := unwrap(raw, chatproto.MaxList, l)
	switch {
	case err != nil:
		return nil, hash{}, refuse("is damaged (%v)", err)
	case l.User != user:
		return nil, hash{}, refuse("is that of another user")
	case !s.by(domainList, l.Identity, nil):
		return nil, hash{}, refuse("is not signed by its identity")
	}
	if err := l.checkDevices(); err != nil {
		return nil, hash{}, err
	}
	if prev == nil {
		if l.Version != 1 || len(s.Old) != 0 {
			return nil, hash{}, refuse("is not the first one")
		}
		return l, sum(domainList, s.Body), nil
	}
	return l, sum(domainList, s.Body), l.follows(prev, prevHash, s)
}

// follows refuses a list that does not go on from prev.
func (l *deviceList) follows(prev *deviceList, prevHash hash, s *signed) error {
	switch {
	case l.Version != prev.Version+1 || l.Prev != prevHash:
		return refuse("does not follow the one before")
	case l.Identity == prev.Identity && len(s.Old) != 0:
		return refuse("rotates to the same identity")
	case l.Identity == prev.Identity && l.Recovery != prev.Recovery:
		return refuse("changes the recovery box without the identity")
	case l.Identity != prev.Identity && !rotatedBy(prev.Identity, s):
		return refuse("changes the identity without the consent of the one before")
	case len(l.Devices) < len(prev.Devices):
		return refuse("forgets a device")
	}
	for i, old := range prev.Devices {
		d := l.Devices[i]
		if d.Sign != old.Sign || d.Box != old.Box || d.Name != old.Name || d.Added != old.Added {
			return refuse("changes a device")
		}
		if old.Revoked != 0 && d.Revoked != old.Revoked {
			return refuse("brings back a revoked device")
		}
	}
	return nil
}

func rotatedBy(old hash, s *signed) bool {
	if len(s.Old) != 64 {
		return false
	}
	was := signed{Body: s.Body, Sig: [64]byte(s.Old)}
	return was.by(domainRotation, old, nil)
}

// loadList returns a list that was verified before.
func (w *work) loadList(user string, version uint64) (*deviceList, error) {
	l := new(deviceList)
	ok, err := w.load(keyList(user, version), l)
	if err == nil && !ok {
		err = fmt.Errorf("e2ee: the state lacks list %d of %s", version, user)
	}
	return l, err
}

// pin returns what is known of a user; nil: nothing.
func (w *work) pin(user string) (*pin, error) {
	p := new(pin)
	ok, err := w.load(keyPin(user), p)
	if !ok {
		return nil, err
	}
	return p, err
}

// sync fetches the newest lists of a user and returns the pin. A *Refusal says
// that the server's answer is not honest; ErrNoDevices that there is no list.
// The user's own identity is never taken on trust: ErrNotEnrolled.
func (e *Engine) sync(ctx context.Context, w *work, srv Server, user string) (*pin, error) {
	p, err := w.pin(user)
	if err != nil {
		return nil, err
	}
	if p == nil && user == e.user {
		return nil, ErrNotEnrolled
	}
	from := uint64(1)
	if p != nil {
		from = p.Version
	}
	raws, err := fetchLists(ctx, srv, user, from)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return e.pinNew(w, user, raws)
	}
	return e.extend(w, user, p, raws)
}

func fetchLists(ctx context.Context, srv Server, user string, from uint64) ([][]byte, error) {
	raws, err := srv.Devices(ctx, user, from)
	if errors.Is(err, chatproto.ErrNoUser) {
		return nil, nil
	}
	if err == nil && len(raws) > maxLists {
		err = refuse("the server shows %d lists of %s's devices", len(raws), user)
	}
	return raws, err
}

// pinNew takes a user's lists from the first one on.
func (e *Engine) pinNew(w *work, user string, raws [][]byte) (*pin, error) {
	if len(raws) == 0 {
		return nil, ErrNoDevices
	}
	l, h, err := verifyList(user, nil, hash{}, raws[0])
	if err != nil {
		return nil, refuse("%s's list of devices %v", user, err)
	}
	p := &pin{Version: 1, List: h, Identities: []hash{l.Identity}}
	if err := w.store(keyList(user, 1), l); err != nil {
		return nil, err
	}
	return p, e.follow(w, user, p, l, raws[1:], false)
}

// extend takes the lists after the pinned one, which the server shows again.
func (e *Engine) extend(w *work, user string, p *pin, raws [][]byte) (*pin, error) {
	if len(raws) == 0 {
		return nil, refuse("the server no longer shows version %d of %s's list of devices", p.Version, user)
	}
	l := new(deviceList)
	s, err := unwrap(raws[0], chatproto.MaxList, l)
	if err != nil || sum(domainList, s.Body) != p.List {
		return nil, refuse("the server shows another version %d of %s's list of devices than before", p.Version, user)
	}
	return p, e.follow(w, user, p, l, raws[1:], true)
}

// follow takes lists that follow l, which p has pinned, and notes what changed.
// Those before one that is refused are kept.
func (e *Engine) follow(w *work, user string, p *pin, l *deviceList, raws [][]byte, tell bool) error {
	for _, raw := range raws {
		next, h, err := verifyList(user, l, p.List, raw)
		if err != nil {
			if broken := w.store(keyPin(user), p); broken != nil {
				return broken
			}
			return refuse("%s's list of devices %v", user, err)
		}
		if tell {
			if err := e.tellChange(w, user, p, l, next); err != nil {
				return err
			}
		}
		if next.Identity != p.identity() {
			p.Identities = append(slices.Clip(p.Identities), next.Identity)
		}
		p.Version, p.List = next.Version, h
		if err := w.store(keyList(user, p.Version), next); err != nil {
			return err
		}
		l = next
	}
	return w.store(keyPin(user), p)
}

// tellChange notes what a person should know of the step from old to next.
func (e *Engine) tellChange(w *work, user string, p *pin, old, next *deviceList) error {
	var texts []string
	if old.Identity != next.Identity {
		text := user + " has a new identity, vouched for by the old one"
		if p.Verified == old.Identity {
			text += "; it is no longer verified"
		}
		texts = append(texts, text)
	}
	for i, d := range next.Devices {
		id := deviceID(d.Sign, d.Box)
		switch {
		case i >= len(old.Devices):
			texts = append(texts, fmt.Sprintf("%s has a new device: %s (%s)", user, d.Name, shortID(id)))
		case d.Revoked != 0 && old.Devices[i].Revoked == 0:
			texts = append(texts, fmt.Sprintf("%s has revoked a device: %s (%s)", user, d.Name, shortID(id)))
		}
	}
	return w.notice(user, texts...)
}

func shortID(id chatproto.DeviceID) string { return id.String()[:8] }

// maxNotices bounds the notices that nobody fetches; the oldest go.
const maxNotices = 256

func (w *work) notice(user string, texts ...string) error {
	if len(texts) == 0 {
		return nil
	}
	var n notices
	if _, err := w.load(keyNotices, &n); err != nil {
		return err
	}
	for _, t := range texts {
		n.List = append(n.List, Change{user, t})
	}
	n.List = n.List[max(0, len(n.List)-maxNotices):]
	return w.store(keyNotices, &n)
}

// at returns a user's list of a version, fetching what is not known yet. A
// *Refusal says that there is no such list, or another one.
func (e *Engine) at(ctx context.Context, w *work, srv Server, user string, version uint64) (*deviceList, *pin, error) {
	p, err := w.pin(user)
	if err != nil {
		return nil, nil, err
	}
	if p == nil || p.Version < version {
		if p, err = e.sync(ctx, w, srv, user); err != nil {
			return nil, nil, asRefusal(user, err)
		}
	}
	if version == 0 || version > p.Version {
		return nil, nil, refuse("the server does not show version %d of %s's list of devices", version, user)
	}
	l, err := w.loadList(user, version)
	return l, p, err
}

// asRefusal makes a missing list a *Refusal.
func asRefusal(user string, err error) error {
	if errors.Is(err, ErrNoDevices) {
		return refuse("the server shows no list of %s's devices", user)
	}
	return err
}

// signer returns the key of a device that is in use in a version of its user's
// list.
func (e *Engine) signer(ctx context.Context, w *work, srv Server, user string, version uint64, id chatproto.DeviceID) (hash, error) {
	l, _, err := e.at(ctx, w, srv, user, version)
	if err != nil {
		return hash{}, err
	}
	d := l.device(id)
	switch {
	case d == nil:
		return hash{}, refuse("the device is not %s's", user)
	case d.Revoked != 0:
		return hash{}, refuse("the device has been revoked by %s", user)
	}
	return d.Sign, nil
}

// publish adds a version to the user's own list. edit changes a copy of the
// newest one and returns the seeds of the identity to sign with; it is run again
// when another device was faster. It returns errUnchanged if nothing is to do.
func (e *Engine) publish(ctx context.Context, srv Server, edit func(l *deviceList) (seed, old *hash, err error)) error {
	for range 8 {
		err := e.publishOnce(ctx, srv, edit)
		if errors.Is(err, errUnchanged) {
			return nil
		}
		if !errors.Is(err, chatproto.ErrConflict) {
			return err
		}
	}
	return ErrBusy
}

var errUnchanged = errors.New("e2ee: nothing to change")

func (e *Engine) publishOnce(ctx context.Context, srv Server, edit func(l *deviceList) (seed, old *hash, err error)) error {
	next := new(deviceList)
	err := e.transact(func(w *work) error {
		p, err := e.sync(ctx, w, srv, e.user)
		if err != nil {
			return err
		}
		next, err = w.loadList(e.user, p.Version)
		next.Prev = p.List
		return err
	})
	if err != nil {
		return err
	}
	next.Version++
	next.Devices = slices.Clone(next.Devices)
	seed, old, err := edit(next)
	if err != nil {
		return err
	}
	if err := next.checkDevices(); err != nil || len(next.Devices) > maxListed {
		return ErrTooMany
	}
	raw, err := signList(next, *seed, old)
	if err != nil {
		return err
	}
	if err := srv.PutDevices(ctx, next.Version, raw); err != nil {
		return err
	}
	return e.transact(func(w *work) error {
		_, err := e.sync(ctx, w, srv, e.user)
		return err
	})
}

// signList signs with the identity of seed, and with that of old unless nil.
func signList(l *deviceList, seed hash, old *hash) ([]byte, error) {
	id := newIdentity(seed)
	l.Identity, l.Recovery = id.pub, id.boxPub
	var raw []byte
	var err error
	if old == nil {
		raw, _, err = sign(domainList, id.sign, nil, l)
	} else {
		raw, _, err = signTwice(domainList, id.sign, newIdentity(*old).sign, nil, l)
	}
	if errors.Is(err, rpc.ErrTooLong) || len(raw) > chatproto.MaxList {
		return nil, ErrTooMany
	}
	return raw, err
}

package e2ee

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// keysEntry takes in the entry by which a new epoch begins.
func (p *pass) keysEntry(v *verdict, m *chatproto.Message) error {
	if len(m.Body) != 8 {
		return v.blame(refuse("the entry is damaged"), "a new key that names %s as its maker is refused", m.From)
	}
	epoch := binary.LittleEndian.Uint64(m.Body)
	if epoch != p.room.Top+1 && (!p.room.Partial || epoch <= p.room.Top || epoch > maxEpoch) {
		return v.blame(refuse("its number is not the next"), "a new key that names %s as its maker is refused", m.From)
	}
	p.room.Top = epoch
	if p.room.Adopt {
		return nil
	}
	err := p.accept(v, m, epoch)
	switch {
	case errors.Is(err, errOutdated):
		return nil
	case errors.Is(err, errOtherPast):
		// This side has missed entries, and knows less than the maker.
		p.room.Adopt = true
		return nil
	}
	return v.blame(err, "a new key that names %s as its maker is refused", m.From)
}

// maxEpoch bounds the numbers that a server can claim after a gap.
const maxEpoch = 1 << 48

// errOutdated: the maker did not know of a change of the membership that came
// first. Nobody uses such an epoch; its maker makes another.
var errOutdated = errors.New("e2ee: outdated epoch")

// errOtherPast: the maker knows another past, as far as this side can tell, which
// has missed entries.
var errOtherPast = errors.New("e2ee: epoch of another past")

// accept makes epoch the room's, if its header holds.
func (p *pass) accept(v *verdict, m *chatproto.Message, epoch uint64) error {
	h, s, err := p.fetchHeader(epoch)
	if err != nil {
		return err
	}
	v.Device = h.Device
	if err := p.checkMaker(h, s); err != nil {
		return err
	}
	if h.Maker != m.From || h.ID != m.ID {
		return refuse("it was made for another entry")
	}
	if err := p.checkPlace(h); err != nil {
		return err
	}
	for i := range h.Recipients {
		if err := p.checkRecipient(&h.Recipients[i], p.who.get(h.Recipients[i].User)); err != nil {
			return err
		}
	}
	for i := range h.Recipients {
		who := p.who.get(h.Recipients[i].User)
		who.Confirmed, who.Floor = true, h.Recipients[i].Version
	}
	if p.who.get(p.e.user) != nil && h.recipient(p.e.user) == nil {
		v.warn("%s has made a key without you: what follows cannot be read until somebody makes another", h.Maker)
	}
	return p.use(h, s)
}

// use makes a verified header's epoch the newest.
func (p *pass) use(h *header, s *signed) error {
	p.room.Epoch, p.room.Header = h.Epoch, sum(domainHeader, s.Body)
	key, err := p.fetchKey(h)
	if err != nil {
		return err
	}
	return p.store(keyEpoch(p.id, h.Epoch), &epochRecord{Header: s.Body, Key: key})
}

// fetchEpoch returns an epoch with the box of a device; nil: the server has none.
func (p *pass) fetchEpoch(device chatproto.DeviceID, epoch uint64) (*chatproto.KeyEpoch, error) {
	find := func() *chatproto.KeyEpoch {
		i := slices.IndexFunc(p.keys[device], func(k chatproto.KeyEpoch) bool { return k.Epoch == epoch })
		if i < 0 {
			return nil
		}
		return &p.keys[device][i]
	}
	if k := find(); k != nil {
		return k, nil
	}
	epochs, err := p.srv.Keys(p.ctx, p.id, device, epoch)
	if err != nil {
		return nil, err
	}
	p.keys[device] = epochs
	return find(), nil
}

func (p *pass) fetchHeader(epoch uint64) (*header, *signed, error) {
	k, err := p.fetchEpoch(p.e.device.id, epoch)
	if err != nil {
		return nil, nil, err
	}
	if k == nil {
		return nil, nil, refuse("the server withholds its header")
	}
	h := new(header)
	s, err := unwrap(k.Header, chatproto.MaxHeader, h)
	if err != nil || len(s.Old) != 0 || h.Epoch != epoch {
		return nil, nil, refuse("its header is damaged")
	}
	return h, s, nil
}

// checkMaker checks that a device of the maker signed the header.
func (p *pass) checkMaker(h *header, s *signed) error {
	version := h.recipient(h.Maker).Version
	if who := p.who.get(h.Maker); who != nil {
		version = max(version, who.Floor)
	}
	key, err := p.e.signer(p.ctx, p.work, p.srv, h.Maker, version, h.Device)
	if err != nil {
		return err
	}
	if !s.by(domainHeader, key, nil) {
		return refuse("the signature is wrong")
	}
	return nil
}

// checkPlace checks that the header belongs to this room at this point of its log.
func (p *pass) checkPlace(h *header) error {
	if h.Room != p.room.Room || p.room.Room == (hash{}) {
		return refuse("it is of another room")
	}
	if p.who.get(h.Maker) == nil {
		return refuse("%s is not a proven member", h.Maker)
	}
	if h.Epoch <= p.room.Epoch {
		return refuse("it is older than the present one")
	}
	if h.Members != p.room.Members {
		var seen number
		known, err := p.load(keySeen(p.id, h.Members), &seen)
		switch {
		case err != nil:
			return err
		case known:
			return errOutdated
		case p.room.Partial:
			return errOtherPast
		}
		return refuse("%s speaks of another past of the room", h.Maker)
	}
	if h.Prev != p.room.Header {
		if p.room.Partial {
			return errOtherPast
		}
		return refuse("it does not follow the key before")
	}
	return nil
}

// checkRecipient checks that a recipient is a proven member, and its list the one
// that this side sees, not older than what the log has named.
func (p *pass) checkRecipient(r *recipient, who *member) error {
	if who == nil {
		return refuse("it is sealed to %s, who is not a proven member", r.User)
	}
	if r.Version < who.Floor {
		return refuse("it is sealed to an old list of %s's devices", r.User)
	}
	return p.checkList(r)
}

func (p *pass) checkList(r *recipient) error {
	l, _, err := p.e.at(p.ctx, p.work, p.srv, r.User, r.Version)
	if err != nil {
		return err
	}
	body, err := encode(l)
	if err != nil {
		return err
	}
	if sum(domainList, body) != r.List {
		return refuse("its maker sees another list of %s's devices than this device", r.User)
	}
	return nil
}

// fetchKey returns the key of a header that has been verified; zero: the server
// has no box for this device that holds it.
func (p *pass) fetchKey(h *header) (hash, error) {
	d := p.e.device
	key, err := p.openBox(h, d.id, d.boxPub, d.box)
	if err != nil || key != (hash{}) {
		return key, err
	}
	for _, name := range []string{keySeed, keyNewSeed} {
		var s single
		if ok, err := p.load(name, &s); !ok || err != nil {
			if err != nil {
				return hash{}, err
			}
			continue
		}
		id := newIdentity(s.Hash)
		if key, err := p.openBox(h, id.boxName, id.boxPub, id.box); err != nil || key != (hash{}) {
			return key, err
		}
	}
	return hash{}, nil
}

func (p *pass) openBox(h *header, device chatproto.DeviceID, pub, secret hash) (hash, error) {
	k, err := p.fetchEpoch(device, h.Epoch)
	if k == nil || err != nil {
		return hash{}, err
	}
	key, ok := openKey(k.Box, pub, secret)
	if !ok || commitment(h.Room, h.Epoch, key) != h.Commit {
		return hash{}, nil
	}
	return key, nil
}

// adopt takes the room's members from the header of an epoch, after entries were
// missing. Only one whom this side knew as a member may vouch; where it knew none,
// the first is taken on trust, and that is said.
func (p *pass) adopt(v *verdict, epoch, seq uint64) error {
	h, s, err := p.fetchHeader(epoch)
	if err != nil {
		return err
	}
	if err := p.checkMaker(h, s); err != nil {
		return err
	}
	known := p.room.Room != hash{}
	if known && h.Room != p.room.Room {
		return refuse("it is of another room")
	}
	if known && p.who.get(h.Maker) == nil {
		return refuse("%s is not a proven member", h.Maker)
	}
	if known && h.Epoch <= p.room.Epoch {
		return p.resume(h, s)
	}
	now, err := p.adopted(h, seq)
	if err != nil {
		return err
	}
	p.warnAdopted(v, h, now, known)
	p.who = *now
	p.room.Room, p.room.Members, p.room.Owner = h.Room, h.Members, ""
	p.room.Adopt, p.room.Left = false, nil
	p.room.Top = max(p.room.Top, h.Epoch)
	if err := p.store(keySeen(p.id, h.Members), &number{A: seq}); err != nil {
		return err
	}
	return p.use(h, s)
}

// resume ends a time of missing entries in which no key was made: the members
// are those from before, but for those who left. An older key brings nobody back.
func (p *pass) resume(h *header, s *signed) error {
	if sum(domainHeader, s.Body) != p.room.Header {
		return refuse("it is sealed with an old key")
	}
	for _, user := range p.room.Left {
		if err := p.putOut(user, p.room.Last); err != nil {
			return err
		}
	}
	p.room.Adopt, p.room.Left = false, nil
	return nil
}

// adopted returns the members that a header names, without those who left since.
func (p *pass) adopted(h *header, seq uint64) (*members, error) {
	now := new(members)
	for i := range h.Recipients {
		r := &h.Recipients[i]
		if err := p.checkList(r); err != nil {
			return nil, err
		}
		if slices.Contains(p.room.Left, r.User) {
			continue
		}
		x := member{User: r.User, Since: seq, By: h.Maker, Device: h.Device, Confirmed: true, Floor: r.Version}
		if old := p.who.get(r.User); old != nil {
			x = *old
			x.Floor = max(x.Floor, r.Version)
		}
		now.List = append(now.List, x)
	}
	return now, nil
}

func (p *pass) warnAdopted(v *verdict, h *header, now *members, known bool) {
	var came []string
	for _, x := range now.List {
		if p.who.get(x.User) == nil {
			came = append(came, x.User)
		}
	}
	switch {
	case !known:
		v.warn("taken on trust from a key that %s made: the members are %s", h.Maker, strings.Join(came, ", "))
	case len(came) > 0:
		v.warn("%s came in while entries were missing; this is taken on trust from a key that %s made", strings.Join(came, ", "), h.Maker)
	}
}

// later tells whether the server has a later epoch, made by a device that is
// still in use. What came before it is no news of a device that was revoked.
func (p *pass) later() (bool, error) {
	from := p.room.Epoch + 1
	for range maxPages {
		epochs, err := p.srv.Keys(p.ctx, p.id, p.e.device.id, from)
		if err != nil || len(epochs) == 0 {
			return false, err
		}
		for _, k := range epochs {
			h := new(header)
			s, err := unwrap(k.Header, chatproto.MaxHeader, h)
			if err != nil || h.Room != p.room.Room || h.Epoch < from {
				continue
			}
			from = h.Epoch + 1
			good, err := p.vouches(h, s)
			if good || err != nil {
				return good, err
			}
		}
		if epochs[len(epochs)-1].Epoch >= from {
			return false, nil // the last of them was of no use
		}
	}
	return false, nil
}

// maxPages bounds how many pages of keys are asked for on behalf of one entry.
const maxPages = 16

// vouches tells whether a header is signed by a device that is still in use.
func (p *pass) vouches(h *header, s *signed) (bool, error) {
	if err := p.checkMaker(h, s); err != nil {
		if isRefusal(err) {
			return false, nil
		}
		return false, err
	}
	revoked, err := p.revoked(h.Maker, h.Device)
	return !revoked, err
}

// renewKey looks for a key that has come since, once per engine until Retry.
func (p *pass) renewKey(epoch uint64, h *header) (hash, error) {
	at := epochKey{p.id, epoch}
	p.e.mu.Lock()
	asked := p.e.asked[at]
	p.e.asked[at] = true
	p.e.mu.Unlock()
	if asked {
		return hash{}, nil
	}
	key, err := p.fetchKey(h)
	if err != nil || key == (hash{}) {
		if err != nil {
			p.e.Retry()
		}
		return hash{}, err
	}
	body, err := encode(h)
	if err != nil {
		return hash{}, err
	}
	return key, p.store(keyEpoch(p.id, epoch), &epochRecord{Header: body, Key: key})
}

// Retry lets Receive look again for keys that the server did not have. Call it
// when boxes may have come: after Recover, or when another device tells.
func (e *Engine) Retry() {
	e.mu.Lock()
	clear(e.asked)
	e.mu.Unlock()
}

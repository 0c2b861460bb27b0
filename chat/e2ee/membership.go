package e2ee

import (
	"slices"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// membership takes in an entry by which somebody comes or goes. One that no
// member has proven brings nobody in; but it does put out, because sealing to
// fewer is the safe side.
func (p *pass) membership(v *verdict, m *chatproto.Message, h hash) error {
	var err error
	if p.room.Adopt {
		p.skip(m)
	} else if err = p.prove(v, m); err != nil {
		err = p.unproven(v, m, err)
	}
	if err != nil {
		return err
	}
	p.room.Members = sum(domainMembers, p.room.Members[:], h[:])
	return p.store(keySeen(p.id, p.room.Members), &number{A: m.Seq})
}

// skip notes who leaves while the members are not known.
func (p *pass) skip(m *chatproto.Message) {
	if user := leaver(m); user != "" && len(p.room.Left) < chatproto.MaxMembers {
		p.room.Left = append(p.room.Left, user)
	}
}

// leaver returns who an entry puts out; empty: nobody.
func leaver(m *chatproto.Message) string {
	switch m.Kind {
	case chatproto.KindRemove:
		return m.Target
	case chatproto.KindLeave:
		return m.From
	}
	return ""
}

func (p *pass) unproven(v *verdict, m *chatproto.Message, err error) error {
	user := leaver(m)
	if isRefusal(err) && m.Kind == chatproto.KindLeave && p.who.get(user) == nil {
		return nil // who was never proven to be a member leaves as silently
	}
	switch m.Kind {
	case chatproto.KindCreate:
		err = v.blame(err, "who made this room is not proven")
	case chatproto.KindInvite:
		err = v.blame(err, "%s was brought in, which %s has not proven: nothing is sealed to %s", m.Target, m.From, m.Target)
	case chatproto.KindRemove:
		err = v.blame(err, "%s was put out, which %s has not proven: nothing more is sealed to %s", m.Target, m.From, m.Target)
	case chatproto.KindLeave:
		err = v.blame(err, "%s has not proven to have left: nothing more is sealed to %s", m.From, m.From)
	default:
		err = v.blame(err, "%s came in uninvited: nothing is sealed to %s", m.From, m.From)
	}
	if err != nil || user == "" {
		return err
	}
	return p.putOut(user, m.Seq)
}

// prove applies the entry if its statement proves it.
func (p *pass) prove(v *verdict, m *chatproto.Message) error {
	st := new(statement)
	s, err := unwrap(m.Body, maxStatement, st)
	switch {
	case err != nil:
		return refuse("there is no statement of a member")
	case len(s.Old) != 0:
		return refuse("the statement is damaged")
	case st.Action != m.Kind || st.Actor != m.From || st.Target != m.Target || st.ID != m.ID:
		return refuse("the statement is about something else")
	}
	v.Device = st.Device
	version := st.Version
	if actor := p.who.get(st.Actor); actor != nil {
		version = max(version, actor.Floor)
	}
	key, err := p.e.signer(p.ctx, p.work, p.srv, st.Actor, version, st.Device)
	if err != nil {
		return err
	}
	if !s.by(domainStatement, key, nil) {
		return refuse("the signature is wrong")
	}
	return p.apply(v, m, st, sum(domainStatement, s.Body))
}

// apply applies a statement whose signature is right, once.
func (p *pass) apply(v *verdict, m *chatproto.Message, st *statement, h hash) error {
	var used number
	ok, err := p.load(keyDone(p.id, h), &used)
	if err != nil {
		return err
	}
	if ok {
		return refuse("it was done before")
	}
	switch st.Action {
	case chatproto.KindCreate:
		err = p.created(m, st)
	case chatproto.KindInvite:
		err = p.invited(m, st)
	case chatproto.KindRemove:
		err = p.removed(m, st)
	default:
		err = p.left(m, st)
	}
	if err != nil {
		return err
	}
	if err := p.warnIfRevoked(v, st.Actor, st.Device); err != nil {
		return err
	}
	return p.store(keyDone(p.id, h), &number{A: m.Seq})
}

// warnIfRevoked warns of what a device has signed that is revoked by now, unless
// a later key shows that it is no news: a thief of the device and the server
// could have made it after the revocation.
func (p *pass) warnIfRevoked(v *verdict, user string, device chatproto.DeviceID) error {
	revoked, err := p.revoked(user, device)
	if err != nil || !revoked {
		return err
	}
	before, err := p.later()
	if err == nil && !before {
		v.warn("this comes from a device that %s has revoked since", user)
	}
	return err
}

// revoked tells whether a device is revoked in the newest known list, or not
// there.
func (p *pass) revoked(user string, device chatproto.DeviceID) (bool, error) {
	known, err := p.pin(user)
	if err != nil || known == nil {
		return true, err
	}
	l, err := p.loadList(user, known.Version)
	if err != nil {
		return true, err
	}
	d := l.device(device)
	return d == nil || d.Revoked != 0, nil
}

func (p *pass) created(m *chatproto.Message, st *statement) error {
	if m.Seq != 1 || p.room.Last != 0 {
		return refuse("the room exists")
	}
	p.room.Room, p.room.Name, p.room.Owner = st.Room, st.Name, st.Actor
	p.who.List = []member{{User: st.Actor, Since: 1, By: st.Actor, Device: st.Device, Confirmed: true, Floor: st.Version}}
	return nil
}

// actor returns the member who made a statement, and the number of the entry up
// to which the membership was known to it.
func (p *pass) actor(st *statement) (*member, uint64, error) {
	if st.Room != p.room.Room || p.room.Room == (hash{}) {
		return nil, 0, refuse("the statement is about another room")
	}
	a := p.who.get(st.Actor)
	if a == nil {
		return nil, 0, refuse("%s is not a member", st.Actor)
	}
	var seen number
	ok, err := p.load(keySeen(p.id, st.Seen), &seen)
	switch {
	case err != nil:
		return nil, 0, err
	case !ok:
		return nil, 0, refuse("%s speaks of another past of the room", st.Actor)
	case seen.A < a.Since:
		return nil, 0, refuse("the statement is older than %s's membership", st.Actor)
	}
	return a, seen.A, nil
}

func (p *pass) invited(m *chatproto.Message, st *statement) error {
	_, seen, err := p.actor(st)
	if err != nil {
		return err
	}
	if p.who.get(st.Target) != nil {
		return refuse("%s is a member", st.Target)
	}
	var gone number // since when, and newest version of the list
	if _, err := p.load(keyGone(p.id, st.Target), &gone); err != nil {
		return err
	}
	if seen < gone.A {
		return refuse("the statement is older than %s's departure", st.Target)
	}
	if err := p.sameIdentity(st); err != nil {
		return err
	}
	if len(p.who.List) >= chatproto.MaxMembers {
		return refuse("the room is full")
	}
	p.who.List = append(p.who.List, member{
		User: st.Target, Since: m.Seq, By: st.Actor, Device: st.Device, Floor: gone.B,
	})
	return nil
}

// sameIdentity refuses an invitation of somebody whom the inviter knows under
// another identity key than this side.
func (p *pass) sameIdentity(st *statement) error {
	known, err := p.pin(st.Target)
	if err == nil && (known == nil || !slices.Contains(known.Identities, st.Identity)) {
		known, err = p.e.sync(p.ctx, p.work, p.srv, st.Target)
	}
	if err != nil {
		return asRefusal(st.Target, err)
	}
	if !slices.Contains(known.Identities, st.Identity) {
		return refuse("%s knows %s under another identity than this device", st.Actor, st.Target)
	}
	return nil
}

func (p *pass) removed(m *chatproto.Message, st *statement) error {
	a, seen, err := p.actor(st)
	if err != nil {
		return err
	}
	if p.room.Owner != "" && p.room.Owner != a.User {
		return refuse("%s does not own the room", a.User)
	}
	if t := p.who.get(st.Target); t != nil && seen < t.Since {
		return refuse("the statement is older than %s's membership", st.Target)
	}
	return p.putOut(st.Target, m.Seq)
}

func (p *pass) left(m *chatproto.Message, st *statement) error {
	if _, _, err := p.actor(st); err != nil {
		return err
	}
	return p.putOut(st.Actor, m.Seq)
}

// putOut ends a membership. The member of longest standing follows an owner.
func (p *pass) putOut(user string, seq uint64) error {
	out := p.who.get(user)
	if out == nil {
		return nil
	}
	gone := number{A: seq, B: out.Floor}
	p.who.List = slices.DeleteFunc(p.who.List, func(x member) bool { return x.User == user })
	if p.room.Owner == user {
		p.room.Owner = ""
		if len(p.who.List) > 0 {
			p.room.Owner = p.who.List[0].User
		}
	}
	return p.store(keyGone(p.id, user), &gone)
}

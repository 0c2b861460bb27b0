package e2ee

import (
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// sealed takes in a sealed message.
func (p *pass) sealed(v *verdict, m *chatproto.Message) error {
	t := new(sealedText)
	s, err := unwrap(m.Body, chatproto.MaxBody, t)
	if err != nil || len(s.Old) != 0 {
		return v.blame(refuse("it is damaged"), "a message that names %s as its sender is not genuine", m.From)
	}
	if p.room.Adopt {
		if err := p.adopt(v, t.Epoch, m.Seq); err != nil {
			return v.blame(err, "a message that names %s as its sender cannot be checked", m.From)
		}
	}
	v.Device = t.Device
	if err := p.genuine(v, m, t, s); err != nil {
		return v.blame(err, "a message that names %s as its sender is not genuine", m.From)
	}
	if err := p.checkPrev(v, m, t); err != nil {
		return err
	}
	return p.open(v, m, t)
}

// genuine checks who signed a message, for which room and epoch, and counts it.
func (p *pass) genuine(v *verdict, m *chatproto.Message, t *sealedText, s *signed) error {
	if p.room.Epoch == 0 || t.Epoch != p.room.Epoch {
		return refuse("it is not sealed with the room's present key")
	}
	if p.who.get(m.From) == nil {
		return refuse("%s is not a proven member", m.From)
	}
	h, _, err := p.header(t.Epoch)
	if err != nil {
		return err
	}
	r := h.recipient(m.From)
	if r == nil {
		return refuse("%s has no part in the room's present key", m.From)
	}
	key, err := p.e.signer(p.ctx, p.work, p.srv, m.From, r.Version, t.Device)
	if err != nil {
		return err
	}
	context, err := encode(&textContext{Room: p.room.Room, From: m.From, ID: m.ID})
	if err != nil {
		return err
	}
	if !s.by(domainSealed, key, context) {
		return refuse("the signature is wrong")
	}
	if err := p.count(v, m, t); err != nil {
		return err
	}
	return p.warnIfRevoked(v, m.From, t.Device)
}

// count checks that the message's number comes after that of the device's message
// before. Numbers that the device says it gave up are not missing.
func (p *pass) count(v *verdict, m *chatproto.Message, t *sealedText) error {
	key := keyCount(p.id, m.From, t.Device)
	var last number
	known, err := p.load(key, &last)
	if err != nil {
		return err
	}
	if t.Counter <= last.A {
		return refuse("it was said before (replay), or out of order")
	}
	missing := t.Counter - last.A - 1
	if missing > uint64(t.GivenUp) && (known || !p.room.Partial) {
		missing -= uint64(t.GivenUp)
		if missing == 1 {
			v.warn("a message of %s before this one is missing", m.From)
		} else {
			v.warn("%d messages of %s before this one are missing", missing, m.From)
		}
	}
	return p.store(key, &number{A: t.Counter})
}

// checkPrev compares the past that the sender knew with the one shown here.
func (p *pass) checkPrev(v *verdict, m *chatproto.Message, t *sealedText) error {
	if t.PrevSeq == 0 {
		return nil
	}
	if t.PrevSeq >= m.Seq {
		v.warn("%s answered to what the server shows later: the order is not the true one", m.From)
		return nil
	}
	if p.room.Chain == (hash{}) {
		return p.restoreChain(t)
	}
	var rec entryRecord
	ok, err := p.load(keyEntry(p.id, t.PrevSeq), &rec)
	if err != nil || !ok || rec.Chain == (hash{}) {
		return err
	}
	if rec.Chain != t.Prev {
		v.warn("%s was shown another past of this room than this device: entries are changed, left out or reordered", m.From)
	}
	return nil
}

// maxRestored bounds the work that one message can cause.
const maxRestored = 1024

// restoreChain goes on from the chain that a sender vouches for, after entries
// were missing here. Entries seen since are added to it.
func (p *pass) restoreChain(t *sealedText) error {
	if p.room.Last-t.PrevSeq > maxRestored {
		return nil // a later message will do
	}
	chain := t.Prev
	for seq := t.PrevSeq; seq <= p.room.Last; seq++ {
		var rec entryRecord
		ok, err := p.load(keyEntry(p.id, seq), &rec)
		if err != nil {
			return err
		}
		switch {
		case !ok && seq == t.PrevSeq:
			continue // the sender saw it, this side did not
		case !ok:
			return nil
		case seq > t.PrevSeq:
			chain = sum(domainChain, chain[:], rec.Hash[:])
		}
		rec.Chain = chain
		if err := p.store(keyEntry(p.id, seq), &rec); err != nil {
			return err
		}
	}
	p.room.Chain = chain
	return nil
}

// open decrypts a genuine message.
func (p *pass) open(v *verdict, m *chatproto.Message, t *sealedText) error {
	v.Kind = 0
	h, key, err := p.header(t.Epoch)
	if err != nil {
		return err
	}
	if h == nil {
		return v.blame(refuse("its key is not known"), "a message of %s", m.From)
	}
	if key == (hash{}) {
		if key, err = p.renewKey(t.Epoch, h); err != nil {
			return err
		}
	}
	if key == (hash{}) {
		v.Status = NoKey
		return nil
	}
	context, err := encode(&textContext{Room: p.room.Room, From: m.From, ID: m.ID})
	if err != nil {
		return err
	}
	plain, err := decrypt(t, key, p.room.Room, context)
	if err != nil {
		return v.blame(refuse("%s signed it, but it does not open", m.From), "a message is damaged")
	}
	v.Status, v.Kind, v.Text = Accepted, plain.Kind, plain.Text
	return nil
}

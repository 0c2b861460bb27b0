package e2ee

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// pass takes in entries of one room's log, in order, inside one work. Errors of
// its methods that are a *Refusal are about the entry; others end the pass, and
// nothing of it is kept.
type pass struct {
	*work
	ctx  context.Context
	e    *Engine
	srv  Server
	id   chatproto.RoomID
	room roomState
	who  members
	keys map[chatproto.DeviceID][]chatproto.KeyEpoch // fetched in this pass
}

func (e *Engine) newPass(ctx context.Context, w *work, srv Server, room chatproto.RoomID) (*pass, error) {
	p := &pass{work: w, ctx: ctx, e: e, srv: srv, id: room, keys: make(map[chatproto.DeviceID][]chatproto.KeyEpoch)}
	if _, err := e.enrolled(w); err != nil {
		return nil, err
	}
	if _, err := w.load(keyRoom(room), &p.room); err != nil {
		return nil, err
	}
	_, err := w.load(keyMembers(room), &p.who)
	return p, err
}

// save puts the room's state into the work.
func (p *pass) save() error {
	if err := p.store(keyMembers(p.id), &p.who); err != nil {
		return err
	}
	return p.store(keyRoom(p.id), &p.room)
}

// verdict collects what becomes of an entry.
type verdict struct {
	Opened
}

func (v *verdict) warn(format string, args ...any) {
	v.Warnings = append(v.Warnings, fmt.Sprintf(format, args...))
}

// blame makes a *Refusal the verdict; other errors are returned.
func (v *verdict) blame(err error, format string, args ...any) error {
	var r *Refusal
	if !errors.As(err, &r) {
		return err
	}
	v.Status, v.Kind, v.Text = Refused, 0, ""
	v.warn("%s: %s", fmt.Sprintf(format, args...), r.Reason)
	return nil
}

// take takes in the next entry, which may be missing some before it.
func (p *pass) take(m *chatproto.Message) (Opened, error) {
	v := &verdict{Opened{Status: Accepted, Kind: m.Kind}}
	if m.Seq != p.room.Last+1 {
		p.gap(v, m.Seq)
	}
	if p.room.First == 0 {
		p.room.First = m.Seq
	}
	h := entryHash(m)
	if err := p.judge(v, m, h); err != nil {
		return Opened{}, err
	}
	if p.room.Chain != (hash{}) || m.Seq == 1 {
		p.room.Chain = sum(domainChain, p.room.Chain[:], h[:])
	}
	p.room.Last = m.Seq
	rec := entryRecord{Hash: h, Chain: p.room.Chain, Status: v.Status, Device: v.Device, Warnings: v.Warnings}
	return v.Opened, p.store(keyEntry(p.id, m.Seq), &rec)
}

// gap notes that entries before number next are missing.
func (p *pass) gap(v *verdict, next uint64) {
	if p.room.Last == 0 {
		v.warn("the beginning of the room is no longer kept by the server, or withheld; its members are taken from the key of the first message that follows")
	} else {
		v.warn("entries %d to %d are no longer kept by the server, or withheld", p.room.Last+1, next-1)
	}
	p.room.Chain = hash{}
	p.room.Adopt, p.room.Partial = true, true
}

func (p *pass) judge(v *verdict, m *chatproto.Message, h hash) error {
	switch m.Kind {
	case chatproto.KindCreate, chatproto.KindInvite, chatproto.KindRemove, chatproto.KindLeave, chatproto.KindJoin:
		return p.membership(v, m, h)
	case chatproto.KindKeys:
		return p.keysEntry(v, m)
	case chatproto.KindSealed:
		return p.sealed(v, m)
	}
	return v.blame(refuse("it is not sealed"), "a message that names %s as its sender is not genuine", m.From)
}

// again is take for an entry that was taken in before.
func (p *pass) again(m *chatproto.Message) (Opened, error) {
	v := &verdict{Opened{Status: Accepted, Kind: m.Kind}}
	var rec entryRecord
	ok, err := p.load(keyEntry(p.id, m.Seq), &rec)
	switch {
	case err != nil:
		return Opened{}, err
	case !ok:
		return v.Opened, v.blame(refuse("it comes too late to be checked"), "entry %d", m.Seq)
	case rec.Hash != entryHash(m):
		err := v.blame(refuse("the server has shown another one under that number"), "entry %d", m.Seq)
		return v.Opened, err
	}
	v.Status, v.Device, v.Warnings = rec.Status, rec.Device, rec.Warnings
	switch {
	case v.Status == Refused:
		v.Kind = 0
	case m.Kind == chatproto.KindSealed:
		return v.Opened, p.reopen(v, m)
	}
	return v.Opened, nil
}

// reopen opens a sealed entry that was found genuine before.
func (p *pass) reopen(v *verdict, m *chatproto.Message) error {
	t := new(sealedText)
	if _, err := unwrap(m.Body, chatproto.MaxBody, t); err != nil {
		return err // it decoded before
	}
	return p.open(v, m, t)
}

// Receive takes an entry of a sealed room. Every entry must be handed to it, in
// order; those missing before it are fetched and taken in first, and may be
// handed to it later. The same entry again gives the same result, or a better one
// if a key has come meanwhile. An error means that nothing was decided and the
// call is to be repeated; what the server forged is no error but Refused.
func (e *Engine) Receive(ctx context.Context, srv Server, m *chatproto.Message) (Opened, error) {
	out, err := e.ReceiveAll(ctx, srv, []chatproto.Message{*m})
	if err != nil {
		return Opened{}, err
	}
	return out[0], nil
}

// ReceiveAll is Receive for entries of one room that follow one another, in one
// update of the KV.
func (e *Engine) ReceiveAll(ctx context.Context, srv Server, page []chatproto.Message) ([]Opened, error) {
	if len(page) == 0 {
		return nil, nil
	}
	room := page[0].Room
	for i := range page {
		if page[i].Room != room || page[i].Seq != page[0].Seq+uint64(i) || page[i].Seq == 0 {
			return nil, fmt.Errorf("e2ee: entries %d of room %d is not in order", page[i].Seq, room)
		}
	}
	if err := e.catchUp(ctx, srv, room, page[0].Seq-1); err != nil {
		return nil, err
	}
	var out []Opened
	err := e.transact(func(w *work) error {
		var err error
		out, err = e.takeAll(ctx, w, srv, room, page)
		return err
	})
	return out, err
}

func (e *Engine) takeAll(ctx context.Context, w *work, srv Server, room chatproto.RoomID, page []chatproto.Message) ([]Opened, error) {
	p, err := e.newPass(ctx, w, srv, room)
	if err != nil {
		return nil, err
	}
	out := make([]Opened, len(page))
	for i := range page {
		if page[i].Seq <= p.room.Last {
			out[i], err = p.again(&page[i])
		} else {
			out[i], err = p.take(&page[i])
		}
		if err != nil {
			return nil, err
		}
	}
	return out, p.save()
}

// catchUp takes in what the server has after the last entry taken in, up to
// number until.
func (e *Engine) catchUp(ctx context.Context, srv Server, room chatproto.RoomID, until uint64) error {
	for {
		var at roomState
		err := e.transact(func(w *work) error {
			at = roomState{}
			_, err := w.load(keyRoom(room), &at)
			return err
		})
		if err != nil || at.Last >= until {
			return err
		}
		page, err := srv.History(ctx, room, at.Last)
		if err != nil {
			return err
		}
		if page = usable(page, room, at.Last, until); len(page) == 0 {
			return nil
		}
		err = e.transact(func(w *work) error {
			_, err := e.takeAll(ctx, w, srv, room, page)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// usable returns the entries of a page of history that go on after number last
// without a gap among themselves, up to number until.
func usable(page []chatproto.Message, room chatproto.RoomID, last, until uint64) []chatproto.Message {
	page = slices.Clone(page)
	for i := range page {
		page[i].Room = room
		if page[i].Seq <= last || page[i].Seq > until || i > 0 && page[i].Seq != page[i-1].Seq+1 {
			return page[:i]
		}
	}
	return page
}

// header returns the header and key of a valid epoch; nil: there is none.
func (p *pass) header(epoch uint64) (*header, hash, error) {
	var rec epochRecord
	ok, err := p.load(keyEpoch(p.id, epoch), &rec)
	if !ok || err != nil {
		return nil, hash{}, err
	}
	h := new(header)
	return h, rec.Key, rpc.Decode(rec.Header, h)
}

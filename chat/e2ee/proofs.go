package e2ee

import (
	"context"
	"io"
	"math"
	"slices"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// CreateProof returns the proof of the request that makes a sealed room. id is
// the request's, which is to be repeated with the same proof.
func (e *Engine) CreateProof(ctx context.Context, srv Server, id chatproto.ID, name string) ([]byte, error) {
	if err := chatproto.CheckRoomName(name); err != nil {
		return nil, err
	}
	st := &statement{Name: name, Action: chatproto.KindCreate, ID: id}
	if _, err := io.ReadFull(e.random, st.Room[:]); err != nil {
		return nil, err
	}
	var raw []byte
	err := e.transact(func(w *work) (err error) {
		if err = e.syncOwn(ctx, w, srv); err == nil {
			raw, err = e.state(w, st)
		}
		return err
	})
	return raw, err
}

// InviteProof returns the proof of the request that brings a user into a room;
// see CreateProof. ErrNoDevices: the user has to log in once with a client that
// knows sealed rooms.
func (e *Engine) InviteProof(ctx context.Context, srv Server, room chatproto.RoomID, id chatproto.ID, user string) ([]byte, error) {
	st := &statement{Action: chatproto.KindInvite, ID: id, Target: user}
	return e.prove(ctx, srv, room, st, func(p *pass) error {
		known, err := e.sync(ctx, p.work, srv, user)
		if err == nil {
			st.Identity = known.identity()
		}
		return err
	})
}

// RemoveProof returns the proof of the request that puts a user out; see
// CreateProof. Others accept it from the room's owner only.
func (e *Engine) RemoveProof(ctx context.Context, srv Server, room chatproto.RoomID, id chatproto.ID, user string) ([]byte, error) {
	st := &statement{Action: chatproto.KindRemove, ID: id, Target: user}
	return e.prove(ctx, srv, room, st, nil)
}

// LeaveProof returns the proof of the request by which this user leaves; see
// CreateProof.
func (e *Engine) LeaveProof(ctx context.Context, srv Server, room chatproto.RoomID, id chatproto.ID) ([]byte, error) {
	return e.prove(ctx, srv, room, &statement{Action: chatproto.KindLeave, ID: id}, nil)
}

// prove makes a statement about a room as it is now.
func (e *Engine) prove(ctx context.Context, srv Server, room chatproto.RoomID, st *statement, fill func(p *pass) error) ([]byte, error) {
	if err := e.catchUp(ctx, srv, room, math.MaxUint64); err != nil {
		return nil, err
	}
	var raw []byte
	err := e.transact(func(w *work) error {
		if err := e.syncOwn(ctx, w, srv); err != nil {
			return err
		}
		p, err := e.ready(ctx, w, srv, room)
		if err != nil {
			return err
		}
		if fill != nil {
			if err := fill(p); err != nil {
				return err
			}
		}
		st.Room, st.Seen = p.room.Room, p.room.Members
		raw, err = e.state(w, st)
		return err
	})
	return raw, err
}

// syncOwn makes sure that this device is still in use.
func (e *Engine) syncOwn(ctx context.Context, w *work, srv Server) error {
	if _, err := e.sync(ctx, w, srv, e.user); err != nil {
		return err
	}
	_, err := e.enrolled(w)
	return err
}

// state signs a statement of this device.
func (e *Engine) state(w *work, st *statement) ([]byte, error) {
	own, err := e.enrolled(w)
	if err != nil {
		return nil, err
	}
	st.Actor, st.Device, st.Version = e.user, e.device.id, own.Version
	raw, _, err := sign(domainStatement, e.device.sign, nil, st)
	return raw, err
}

// Name returns the room's name as its maker signed it, for comparison with what
// the server calls it: a server that exchanges the names of two rooms makes
// people say things to the wrong ones. Empty if the room's beginning is not
// kept. ErrUnproven if nothing is proven of the room.
func (e *Engine) Name(room chatproto.RoomID) (string, error) {
	var at roomState
	err := e.transact(func(w *work) error {
		at = roomState{}
		_, err := w.load(keyRoom(room), &at)
		if err == nil && at.Room == (hash{}) {
			err = ErrUnproven
		}
		return err
	})
	return at.Name, err
}

// Last returns the number of the last entry that was taken in; 0: none.
func (e *Engine) Last(room chatproto.RoomID) (uint64, error) {
	var at roomState
	err := e.transact(func(w *work) error {
		at = roomState{}
		_, err := w.load(keyRoom(room), &at)
		return err
	})
	return at.Last, err
}

// Members returns the proven members of a room, ordered by name: those to whom
// messages are sealed.
func (e *Engine) Members(room chatproto.RoomID) ([]string, error) {
	var users []string
	err := e.transact(func(w *work) error {
		var who members
		if _, err := w.load(keyMembers(room), &who); err != nil {
			return err
		}
		users = nil
		for _, x := range who.List {
			users = append(users, x.User)
		}
		return nil
	})
	slices.Sort(users)
	return users, err
}

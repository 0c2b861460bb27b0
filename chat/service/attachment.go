package service

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

var (
	errLogout       = errors.New("logged out of the chat")
	errSessionEnded = errors.New("the session has ended")
)

// attachment is a listener and the object that its client got for it.
type attachment struct {
	session  *Session
	peer     *rpc.Peer
	listener rpc.Ref
	ctx      context.Context // ends with the attachment
	cancel   context.CancelCauseFunc
	queue    queue

	// Guarded by Service.mu.
	admitted, dismissed bool
	away                bool // the client said so
	awayText            string
	awaySince           time.Time

	mu    sync.Mutex
	over  bool
	self  rpc.Ref
	rooms map[chatproto.RoomID]*roomObject // references that the client holds
}

func newAttachment(c *Session, peer *rpc.Peer, listener rpc.Ref) *attachment {
	a := &attachment{session: c, peer: peer, listener: listener}
	a.ctx, a.cancel = context.WithCancelCause(peer.Context())
	a.queue.budget, a.queue.next = &c.svc.queued, 1
	return a
}

// user is whose attachment it is.
func (a *attachment) user() *user { return a.session.user }

// setSelf keeps the attachment's own reference, unless it has ended already.
func (a *attachment) setSelf(ref rpc.Ref) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.self = ref
	return !a.over
}

// end ends the attachment, once: its references are revoked, nothing more is
// delivered, and its user is seen to go.
func (a *attachment) end(cause error) {
	a.mu.Lock()
	if a.over {
		a.mu.Unlock()
		return
	}
	a.over = true
	self, rooms := a.self, a.rooms
	a.rooms = nil
	a.mu.Unlock()

	a.session.dismiss(a)
	if !a.queue.close() {
		a.session.free()
	}
	a.cancel(cause)
	a.peer.Revoke(self)
	for _, o := range rooms {
		a.peer.Revoke(o.ref)
	}
	a.session.svc.cfg.Log.Debug("chat: detached", "user", a.user().name, "cause", cause)
}

// open returns the client's reference of a room, which exists only once.
func (a *attachment) open(room chatproto.RoomID) (rpc.Ref, error) {
	a.mu.Lock()
	o := a.rooms[room]
	a.mu.Unlock()
	if o != nil {
		return o.ref, nil
	}
	o = &roomObject{attachment: a, room: room}
	ref, err := a.peer.Export(o.methods(), func() { a.released(o) })
	if err != nil {
		return 0, err
	}
	kept := a.keep(o, ref)
	if kept != ref {
		a.peer.Revoke(ref)
	}
	// Who ended the membership meanwhile may have looked before there was
	// something to revoke.
	if !a.store().IsMember(a.user().name, room) {
		a.revoke(room)
		return 0, chatproto.ErrNoRoom
	}
	if kept == 0 {
		return 0, rpc.ErrGone
	}
	return kept, nil
}

// keep enters a reference and returns the one that counts; 0 if the attachment
// has ended.
func (a *attachment) keep(o *roomObject, ref rpc.Ref) rpc.Ref {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return 0
	}
	if other := a.rooms[o.room]; other != nil {
		return other.ref
	}
	if a.rooms == nil {
		a.rooms = make(map[chatproto.RoomID]*roomObject)
	}
	o.ref = ref
	a.rooms[o.room] = o
	return ref
}

// released forgets a reference that the client gave up.
func (a *attachment) released(o *roomObject) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rooms[o.room] == o {
		delete(a.rooms, o.room)
	}
}

// revoke ends the client's reference of a room.
func (a *attachment) revoke(room chatproto.RoomID) {
	a.mu.Lock()
	o := a.rooms[room]
	delete(a.rooms, room)
	a.mu.Unlock()
	if o != nil {
		a.peer.Revoke(o.ref)
	}
}

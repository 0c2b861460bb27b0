package service

import (
	"context"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/store"
	"github.com/rpycfs/rpycfs/rpc"
)

// on makes m answer op with h, for the price.
func on[Req, Res any](m *rpc.Mux, a *attachment, op *rpc.Op[Req, Res], p price, h func(ctx context.Context, req *Req, res *Res) error) {
	rpc.Handle(m, op, func(ctx context.Context, _ *rpc.Request, req *Req, res *Res) error {
		if err := a.user().charge(a.session.svc, p); err != nil {
			return err
		}
		return h(ctx, req, res)
	})
}

// methods are those of a chat session.
func (a *attachment) methods() *rpc.Mux {
	m := new(rpc.Mux)
	on(m, a, chatproto.Snapshot, read, a.snapshot)
	on(m, a, chatproto.ListRooms, read, a.listRooms)
	on(m, a, chatproto.CreateRoom, meet, a.createRoom)
	on(m, a, chatproto.JoinRoom, change, a.joinRoom)
	on(m, a, chatproto.OpenRoom, read, a.openRoom)
	on(m, a, chatproto.OpenDirect, change, a.openDirect)
	on(m, a, chatproto.Whisper, talk, a.whisper)
	on(m, a, chatproto.Search, search, a.search)
	on(m, a, chatproto.SetAway, change, a.setAway)
	on(m, a, chatproto.GetDevices, read, a.getDevices)
	on(m, a, chatproto.PutDevices, change, a.putDevices)
	on(m, a, chatproto.GetMail, read, a.getMail)
	on(m, a, chatproto.PutMail, change, a.putMail)
	on(m, a, chatproto.DropMail, change, a.dropMail)
	return m
}

func (a *attachment) store() *store.Store { return a.session.svc.store.Load() }

// snapshot takes its place in the feed and sees the users at one moment. The
// rooms are read after it; see the package comment.
func (a *attachment) snapshot(ctx context.Context, _ *chatproto.SnapshotReq, res *chatproto.SnapshotRes) (err error) {
	s := a.session.svc
	s.mu.Lock()
	res.User = a.user().name
	res.Next = a.resume()
	res.Users = s.present()
	s.mu.Unlock()
	res.Rooms, err = a.store().RoomsOf(ctx, a.user().name)
	return err
}

func (a *attachment) listRooms(ctx context.Context, req *chatproto.ListRoomsReq, res *chatproto.ListRoomsRes) (err error) {
	if req.After != "" && chatproto.CheckRoomName(req.After) != nil {
		return chatproto.ErrName
	}
	*res, err = a.store().List(ctx, a.user().name, req.After)
	return err
}

// room answers with a room that the user is in, and its reference.
func (a *attachment) room(ctx context.Context, room chatproto.RoomID, res *chatproto.RoomRes) (err error) {
	if res.Room, err = a.store().Room(ctx, a.user().name, room); err != nil {
		return err
	}
	res.Ref, err = a.open(room)
	return err
}

func (a *attachment) createRoom(ctx context.Context, req *chatproto.CreateRoomReq, res *chatproto.RoomRes) error {
	if err := checkCreate(req); err != nil {
		return err
	}
	room, err := a.store().Create(ctx, a.user().name, req)
	if err != nil {
		return err
	}
	return a.room(ctx, room, res)
}

func (a *attachment) joinRoom(ctx context.Context, req *chatproto.JoinRoomReq, res *chatproto.RoomRes) error {
	if err := checkID(req.ID); err != nil {
		return err
	}
	if err := chatproto.CheckRoomName(req.Name); err != nil {
		return err
	}
	room, err := a.store().Join(ctx, a.user().name, req)
	if err != nil {
		return err
	}
	return a.room(ctx, room, res)
}

func (a *attachment) openRoom(ctx context.Context, req *chatproto.OpenRoomReq, res *chatproto.RoomRes) error {
	return a.room(ctx, req.Room, res)
}

func (a *attachment) openDirect(ctx context.Context, req *chatproto.OpenDirectReq, res *chatproto.RoomRes) error {
	room, err := a.direct(ctx, req.User)
	if err != nil {
		return err
	}
	return a.room(ctx, room, res)
}

// direct returns the room of the user and another one. The first time it costs
// what meeting somebody costs.
func (a *attachment) direct(ctx context.Context, other string) (chatproto.RoomID, error) {
	s, u := a.session.svc, a.user()
	if other == "" || !s.cfg.Users(other) {
		return 0, chatproto.ErrNoUser
	}
	known, err := u.knows(ctx, a.store(), other)
	if err != nil {
		return 0, err
	}
	if !known {
		if err := u.charge(s, meet); err != nil {
			return 0, err
		}
	}
	room, err := a.store().Direct(ctx, u.name, other)
	if err == nil && !known {
		u.meets(other)
	}
	return room, err
}

// knows reports whether the user had a direct room with another one when that
// was last looked at.
func (u *user) knows(ctx context.Context, st *store.Store, other string) (bool, error) {
	u.mu.Lock()
	asked := u.peers != nil
	_, known := u.peers[other]
	u.mu.Unlock()
	if asked {
		return known, nil
	}
	rooms, err := st.RoomsOf(ctx, u.name)
	if err != nil {
		return false, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.peers == nil {
		u.peers = make(map[string]struct{})
	}
	for i := range rooms {
		if info := &rooms[i].Info; info.Kind == chatproto.RoomDirect {
			u.peers[info.Peer] = struct{}{}
		}
	}
	_, known = u.peers[other]
	return known, nil
}

// meets notes that the user has a direct room with another one. The store
// bounds how many there are.
func (u *user) meets(other string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.peers[other] = struct{}{}
}

func (a *attachment) whisper(ctx context.Context, req *chatproto.WhisperReq, res *chatproto.WhisperRes) (err error) {
	s := a.session.svc
	if err := checkSay(&req.Say); err != nil {
		return err
	}
	if req.User == "" || !s.cfg.Users(req.User) {
		return chatproto.ErrNoUser
	}
	if req.Now && s.state(req.User) == chatproto.Offline {
		return chatproto.ErrOffline
	}
	if res.Room, err = a.direct(ctx, req.User); err != nil {
		return err
	}
	res.Said, err = a.store().Say(ctx, a.user().name, res.Room, &req.Say)
	res.State = s.state(req.User)
	return err
}

func (a *attachment) search(ctx context.Context, req *chatproto.SearchReq, res *chatproto.SearchRes) (err error) {
	if err := checkSearch(req); err != nil {
		return err
	}
	*res, err = a.store().Search(ctx, a.user().name, req)
	return err
}

func (a *attachment) setAway(_ context.Context, req *chatproto.SetAwayReq, _ *chatproto.Empty) error {
	text := req.Text
	if !req.Away {
		text = ""
	}
	if err := checkOptional(text, chatproto.MaxAwayText); err != nil {
		return err
	}
	s := a.session.svc
	s.mu.Lock()
	defer s.mu.Unlock()
	a.away, a.awayText, a.awaySince = req.Away, text, time.Now()
	s.refresh(a.user())
	return nil
}

func (a *attachment) getDevices(ctx context.Context, req *chatproto.GetDevicesReq, res *chatproto.GetDevicesRes) (err error) {
	if req.User == "" || !a.session.svc.cfg.Users(req.User) {
		return chatproto.ErrNoUser
	}
	*res, err = a.store().Devices(ctx, req)
	return err
}

func (a *attachment) putDevices(ctx context.Context, req *chatproto.PutDevicesReq, _ *chatproto.Empty) error {
	if len(req.List) == 0 || req.Version == 0 {
		return rpc.ErrBadRequest
	}
	if err := a.store().PutDevices(ctx, a.user().name, req); err != nil {
		return err
	}
	// It is stored, so the answer is yes even if nobody can be told.
	if err := a.session.svc.tellDevices(context.WithoutCancel(ctx), a.user(), req.Version); err != nil {
		a.session.svc.cfg.Log.Warn("chat: a list of devices was not announced", "user", a.user().name, "err", err)
	}
	return nil
}

func (a *attachment) getMail(ctx context.Context, _ *chatproto.GetMailReq, res *chatproto.GetMailRes) (err error) {
	res.Mails, err = a.store().Mail(ctx, a.user().name)
	return err
}

func (a *attachment) putMail(ctx context.Context, req *chatproto.PutMailReq, _ *chatproto.Empty) error {
	m := &req.Mail
	if err := checkID(m.ID); err != nil {
		return err
	}
	if len(m.Body) == 0 || m.From == (chatproto.DeviceID{}) {
		return rpc.ErrBadRequest
	}
	m.Body = slices.Clone(m.Body) // the request's memory is reused
	if err := a.store().PutMail(ctx, a.user().name, m); err != nil {
		return err
	}
	a.session.svc.tellUser(a.user(), newEvent(chatproto.EventMail, m))
	return nil
}

func (a *attachment) dropMail(ctx context.Context, req *chatproto.DropMailReq, _ *chatproto.Empty) error {
	if err := checkID(req.ID); err != nil {
		return err
	}
	return a.store().DropMail(ctx, a.user().name, req.ID)
}

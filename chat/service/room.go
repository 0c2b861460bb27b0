package service

import (
	"context"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// roomObject is a room as one attachment's client holds it. The store checks the
// membership on every call all the same.
type roomObject struct {
	attachment *attachment
	room       chatproto.RoomID
	ref        rpc.Ref // guarded by attachment.mu until it is entered there, then it does not change
}

// methods are those of a room.
func (o *roomObject) methods() *rpc.Mux {
	m, a := new(rpc.Mux), o.attachment
	on(m, a, chatproto.Say, talk, o.say)
	on(m, a, chatproto.History, read, o.history)
	on(m, a, chatproto.SetTopic, change, o.setTopic)
	on(m, a, chatproto.Invite, meet, o.invite)
	on(m, a, chatproto.Remove, change, o.remove)
	on(m, a, chatproto.Leave, change, o.leave)
	on(m, a, chatproto.MarkRead, read, o.markRead)
	on(m, a, chatproto.Typing, read, o.typing)
	on(m, a, chatproto.Members, read, o.members)
	on(m, a, chatproto.SetRetention, change, o.setRetention)
	on(m, a, chatproto.GetKeys, read, o.getKeys)
	on(m, a, chatproto.PutKeys, change, o.putKeys)
	on(m, a, chatproto.AddKeys, change, o.addKeys)
	return m
}

func (o *roomObject) user() string { return o.attachment.user().name }

func (o *roomObject) say(ctx context.Context, req *chatproto.SayReq, res *chatproto.SayRes) (err error) {
	if err := checkSay(req); err != nil {
		return err
	}
	*res, err = o.attachment.store().Say(ctx, o.user(), o.room, req)
	return err
}

func (o *roomObject) history(ctx context.Context, req *chatproto.HistoryReq, res *chatproto.HistoryRes) (err error) {
	if req.Before != 0 && req.After != 0 {
		return rpc.ErrBadRequest
	}
	*res, err = o.attachment.store().History(ctx, o.user(), o.room, req)
	return err
}

func (o *roomObject) setTopic(ctx context.Context, req *chatproto.SetTopicReq, _ *chatproto.Empty) error {
	if err := checkID(req.ID); err != nil {
		return err
	}
	if err := checkOptional(req.Topic, chatproto.MaxTopic); err != nil {
		return err
	}
	return o.attachment.store().SetTopic(ctx, o.user(), o.room, req)
}

func (o *roomObject) invite(ctx context.Context, req *chatproto.MemberReq, _ *chatproto.Empty) error {
	if err := checkID(req.ID); err != nil {
		return err
	}
	if req.User == "" || !o.attachment.session.svc.cfg.Users(req.User) {
		return chatproto.ErrNoUser
	}
	return o.attachment.store().Invite(ctx, o.user(), o.room, req)
}

// remove works for users whose account is gone as well.
func (o *roomObject) remove(ctx context.Context, req *chatproto.MemberReq, _ *chatproto.Empty) error {
	if err := checkID(req.ID); err != nil {
		return err
	}
	if req.User == "" {
		return chatproto.ErrNoUser
	}
	return o.attachment.store().Remove(ctx, o.user(), o.room, req)
}

func (o *roomObject) leave(ctx context.Context, req *chatproto.LeaveReq, _ *chatproto.Empty) error {
	if err := checkID(req.ID); err != nil {
		return err
	}
	return o.attachment.store().Leave(ctx, o.user(), o.room, req)
}

func (o *roomObject) markRead(ctx context.Context, req *chatproto.MarkReadReq, _ *chatproto.Empty) error {
	a := o.attachment
	_, moved, err := a.store().MarkRead(ctx, o.user(), o.room, req.Seq)
	if err == nil && moved {
		a.session.svc.tellUser(a.user(), &event{kind: chatproto.EventMark, room: o.room})
	}
	return err
}

func (o *roomObject) typing(context.Context, *chatproto.TypingReq, *chatproto.Empty) error {
	a := o.attachment
	if !a.store().IsMember(o.user(), o.room) {
		return chatproto.ErrNoRoom
	}
	a.session.svc.tellTyping(a.user(), o.room)
	return nil
}

func (o *roomObject) members(_ context.Context, _ *chatproto.MembersReq, res *chatproto.MembersRes) error {
	st := o.attachment.store()
	res.Users = st.Members(o.room)
	// Asked afterwards: who is a member now may have seen the members before.
	if !st.IsMember(o.user(), o.room) {
		return chatproto.ErrNoRoom
	}
	return nil
}

func (o *roomObject) setRetention(ctx context.Context, req *chatproto.SetRetentionReq, _ *chatproto.Empty) error {
	return o.attachment.store().SetRetention(ctx, o.user(), o.room, req)
}

func (o *roomObject) getKeys(ctx context.Context, req *chatproto.GetKeysReq, res *chatproto.GetKeysRes) (err error) {
	*res, err = o.attachment.store().Keys(ctx, o.user(), o.room, req)
	return err
}

func (o *roomObject) putKeys(ctx context.Context, req *chatproto.PutKeysReq, _ *chatproto.Empty) error {
	if err := checkPutKeys(req); err != nil {
		return err
	}
	return o.attachment.store().PutKeys(ctx, o.user(), o.room, req)
}

func (o *roomObject) addKeys(ctx context.Context, req *chatproto.AddKeysReq, _ *chatproto.Empty) error {
	if err := checkBoxes(req.Keys, 0); err != nil {
		return err
	}
	return o.attachment.store().AddKeys(ctx, o.user(), o.room, req)
}

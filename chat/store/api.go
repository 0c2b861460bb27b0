package store

import (
	"context"
	"errors"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

func (s *Store) Say(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.SayReq) (chatproto.SayRes, error) {
	return chatproto.SayRes{}, errors.ErrUnsupported
}
func (s *Store) Direct(ctx context.Context, user, other string) (chatproto.RoomID, error) {
	return 0, errors.ErrUnsupported
}
func (s *Store) Create(ctx context.Context, user string, req *chatproto.CreateRoomReq) (chatproto.RoomID, error) {
	return 0, errors.ErrUnsupported
}
func (s *Store) Join(ctx context.Context, user string, req *chatproto.JoinRoomReq) (chatproto.RoomID, error) {
	return 0, errors.ErrUnsupported
}
func (s *Store) SetTopic(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.SetTopicReq) error {
	return errors.ErrUnsupported
}
func (s *Store) Invite(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.MemberReq) error {
	return errors.ErrUnsupported
}
func (s *Store) Remove(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.MemberReq) error {
	return errors.ErrUnsupported
}
func (s *Store) Leave(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.LeaveReq) error {
	return errors.ErrUnsupported
}

// MarkRead moves the user's read mark up to seq; moved is false if it was there already.
func (s *Store) MarkRead(ctx context.Context, user string, room chatproto.RoomID, seq uint64) (mark chatproto.Mark, moved bool, err error) {
	return mark, false, errors.ErrUnsupported
}
func (s *Store) SetRetention(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.SetRetentionReq) error {
	return errors.ErrUnsupported
}
func (s *Store) PutKeys(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.PutKeysReq) error {
	return errors.ErrUnsupported
}
func (s *Store) AddKeys(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.AddKeysReq) error {
	return errors.ErrUnsupported
}
func (s *Store) PutDevices(ctx context.Context, user string, req *chatproto.PutDevicesReq) error {
	return errors.ErrUnsupported
}

// PutMail stores the letter; it sets mail.Time.
func (s *Store) PutMail(ctx context.Context, user string, mail *chatproto.Mail) error {
	return errors.ErrUnsupported
}
func (s *Store) DropMail(ctx context.Context, user string, id chatproto.ID) error {
	return errors.ErrUnsupported
}

func (s *Store) IsMember(user string, room chatproto.RoomID) bool { return false }

// Members returns the members, sorted; the slice is shared and must not be changed.
func (s *Store) Members(room chatproto.RoomID) []string { return nil }
func (s *Store) Room(ctx context.Context, user string, room chatproto.RoomID) (chatproto.RoomState, error) {
	return chatproto.RoomState{}, errors.ErrUnsupported
}
func (s *Store) RoomsOf(ctx context.Context, user string) ([]chatproto.RoomState, error) {
	return nil, errors.ErrUnsupported
}
func (s *Store) List(ctx context.Context, user, after string) (chatproto.ListRoomsRes, error) {
	return chatproto.ListRoomsRes{}, errors.ErrUnsupported
}
func (s *Store) History(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.HistoryReq) (chatproto.HistoryRes, error) {
	return chatproto.HistoryRes{}, errors.ErrUnsupported
}
func (s *Store) Search(ctx context.Context, user string, req *chatproto.SearchReq) (chatproto.SearchRes, error) {
	return chatproto.SearchRes{}, errors.ErrUnsupported
}
func (s *Store) Devices(ctx context.Context, req *chatproto.GetDevicesReq) (chatproto.GetDevicesRes, error) {
	return chatproto.GetDevicesRes{}, errors.ErrUnsupported
}
func (s *Store) Keys(ctx context.Context, user string, room chatproto.RoomID, req *chatproto.GetKeysReq) (chatproto.GetKeysRes, error) {
	return chatproto.GetKeysRes{}, errors.ErrUnsupported
}
func (s *Store) Mail(ctx context.Context, user string) ([]chatproto.Mail, error) {
	return nil, errors.ErrUnsupported
}

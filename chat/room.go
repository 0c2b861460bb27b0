package chat

import (
	"context"
	"errors"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Room is a room that the user is in. Its methods are safe for concurrent use.
type Room struct{}

func (r *Room) ID() chatproto.RoomID { return 0 }
func (r *Room) Name() string         { return "" } // as RoomInfo.Title
func (r *Room) Info() RoomInfo       { return RoomInfo{} }
func (r *Room) Say(ctx context.Context, text string) (Message, error) {
	return Message{}, errors.ErrUnsupported
}
func (r *Room) Act(ctx context.Context, text string) (Message, error) {
	return Message{}, errors.ErrUnsupported
}
func (r *Room) Send(text string) (chatproto.ID, error) { return chatproto.ID{}, errors.ErrUnsupported }
func (r *Room) SendAct(text string) (chatproto.ID, error) {
	return chatproto.ID{}, errors.ErrUnsupported
}

// before 0: the newest; fewer than n do not mean the end, an empty page does
func (r *Room) History(ctx context.Context, before uint64, n int) ([]Message, error) {
	return nil, errors.ErrUnsupported
}
func (r *Room) Members(ctx context.Context) ([]string, error)    { return nil, errors.ErrUnsupported }
func (r *Room) SetTopic(ctx context.Context, topic string) error { return errors.ErrUnsupported }
func (r *Room) Invite(ctx context.Context, user string) error    { return errors.ErrUnsupported }
func (r *Room) Remove(ctx context.Context, user string) error    { return errors.ErrUnsupported }
func (r *Room) Leave(ctx context.Context) error                  { return errors.ErrUnsupported }
func (r *Room) MarkRead(ctx context.Context, seq uint64) error   { return errors.ErrUnsupported }
func (r *Room) Typing(ctx context.Context) error                 { return errors.ErrUnsupported } // throttled; call it at every key
func (r *Room) SetRetention(ctx context.Context, count uint64, age time.Duration) error {
	return errors.ErrUnsupported
}

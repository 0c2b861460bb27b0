package chat

import (
	"context"
	"fmt"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/e2ee"
	"github.com/rpycfs/rpycfs/rpc"
)

// server is a link as package e2ee wants it.
type server struct{ *link }

var _ e2ee.Server = server{}

// maxLists bounds the lists of devices of one user that are fetched at once.
const maxLists = 4096

func (s server) Devices(ctx context.Context, user string, from uint64) ([][]byte, error) {
	var all [][]byte
	for {
		var res chatproto.GetDevicesRes
		req := chatproto.GetDevicesReq{User: user, From: from + uint64(len(all))}
		if err := call(ctx, s.link, chatproto.GetDevices, &req, &res); err != nil {
			return nil, err
		}
		all = append(all, res.Lists...)
		switch {
		case !res.More || len(res.Lists) == 0:
			return all, nil
		case len(all) > maxLists:
			return nil, fmt.Errorf("%w: %d lists of devices", rpc.ErrBadRequest, len(all))
		}
	}
}

func (s server) PutDevices(ctx context.Context, version uint64, list []byte) error {
	return call(ctx, s.link, chatproto.PutDevices, &chatproto.PutDevicesReq{Version: version, List: list}, new(chatproto.Empty))
}

func (s server) Mail(ctx context.Context) ([]chatproto.Mail, error) {
	var res chatproto.GetMailRes
	err := call(ctx, s.link, chatproto.GetMail, &chatproto.GetMailReq{}, &res)
	return res.Mails, err
}

func (s server) PutMail(ctx context.Context, m chatproto.Mail) error {
	return call(ctx, s.link, chatproto.PutMail, &chatproto.PutMailReq{Mail: m}, new(chatproto.Empty))
}

func (s server) DropMail(ctx context.Context, id chatproto.ID) error {
	return call(ctx, s.link, chatproto.DropMail, &chatproto.DropMailReq{ID: id}, new(chatproto.Empty))
}

func (s server) Keys(ctx context.Context, room chatproto.RoomID, device chatproto.DeviceID, from uint64) ([]chatproto.KeyEpoch, error) {
	var res chatproto.GetKeysRes
	err := callRoom(ctx, s.link, room, chatproto.GetKeys, &chatproto.GetKeysReq{Device: device, From: from}, &res)
	return res.Epochs, err
}

func (s server) PutKeys(ctx context.Context, room chatproto.RoomID, req *chatproto.PutKeysReq) error {
	return callRoom(ctx, s.link, room, chatproto.PutKeys, req, new(chatproto.Empty))
}

func (s server) AddKeys(ctx context.Context, room chatproto.RoomID, keys []chatproto.SealedKey) error {
	return callRoom(ctx, s.link, room, chatproto.AddKeys, &chatproto.AddKeysReq{Keys: keys}, new(chatproto.Empty))
}

func (s server) History(ctx context.Context, room chatproto.RoomID, after uint64) ([]chatproto.Message, error) {
	res, err := s.link.history(ctx, room, &chatproto.HistoryReq{After: after})
	if err != nil {
		return nil, err
	}
	return res.Messages, nil
}

package service

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// What comes from the wire is checked here before the store is asked. Lengths
// have been checked by the codec.

// checkID refuses the ID that nobody draws.
func checkID(id chatproto.ID) error {
	if id == (chatproto.ID{}) {
		return fmt.Errorf("%w: no id", rpc.ErrBadRequest)
	}
	return nil
}

// checkOptional is chatproto.CheckText for a text that may be empty.
func checkOptional(text string, limit int) error {
	if text == "" {
		return nil
	}
	return chatproto.CheckText(text, limit)
}

func checkSay(req *chatproto.SayReq) error {
	if err := checkID(req.ID); err != nil {
		return err
	}
	if req.Kind != chatproto.KindSealed {
		return chatproto.CheckText(string(req.Body), chatproto.MaxText)
	}
	if len(req.Body) == 0 {
		return chatproto.ErrText
	}
	return nil
}

func checkCreate(req *chatproto.CreateRoomReq) error {
	if err := checkID(req.ID); err != nil {
		return err
	}
	if err := chatproto.CheckRoomName(req.Name); err != nil {
		return err
	}
	if req.Kind == chatproto.RoomSealed && req.Topic != "" {
		return chatproto.ErrNotAllowed
	}
	return checkOptional(req.Topic, chatproto.MaxTopic)
}

func checkSearch(req *chatproto.SearchReq) error {
	for _, term := range req.Terms {
		if term == "" || !utf8.ValidString(term) || strings.ContainsRune(term, 0) {
			return chatproto.ErrText
		}
	}
	return nil
}

func checkPutKeys(req *chatproto.PutKeysReq) error {
	if err := checkID(req.ID); err != nil {
		return err
	}
	if req.Epoch == 0 || len(req.Header) == 0 {
		return rpc.ErrBadRequest
	}
	for i := range req.Keys {
		if req.Keys[i].Epoch != req.Epoch {
			return rpc.ErrBadRequest
		}
	}
	return checkBoxes(req.Keys, len(req.Header))
}

// checkBoxes checks sealed keys that come with size bytes of other things.
func checkBoxes(keys []chatproto.SealedKey, size int) error {
	for i := range keys {
		k := &keys[i]
		if k.Epoch == 0 || k.Device == (chatproto.DeviceID{}) || len(k.Box) == 0 {
			return rpc.ErrBadRequest
		}
		size += len(k.Box)
	}
	if size > chatproto.MaxKeysSize {
		return rpc.ErrBadRequest
	}
	return nil
}

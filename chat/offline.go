package chat

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/local"
)

// roomsKey is where the state keeps which rooms the user is in, so that a client
// that begins without a connection can take what is said in them.
const roomsKey = "chat/rooms"

// knownRoom is a room of the table as the state keeps it.
type knownRoom struct {
	ID   chatproto.RoomID
	Kind uint8
	Name string `json:",omitempty"`
	Peer string `json:",omitempty"`
}

// rememberRooms keeps the table of rooms, if it is the server's word and has
// changed.
func (c *Client) rememberRooms() {
	c.mu.Lock()
	attached := c.attached
	var rooms []knownRoom
	for _, r := range c.rooms {
		i := &r.state.Info
		rooms = append(rooms, knownRoom{i.Room, i.Kind, i.Name, i.Peer})
	}
	c.mu.Unlock()
	if c.sealed == nil || !attached {
		return
	}
	slices.SortFunc(rooms, func(a, b knownRoom) int { return cmp.Compare(a.ID, b.ID) })
	text, err := json.Marshal(rooms)
	if err == nil {
		var before []byte
		if before, err = c.sealed.state.Get(roomsKey); err == nil && !bytes.Equal(before, text) {
			err = c.sealed.state.Update(func(tx *local.Tx) error {
				tx.Put(roomsKey, text)
				return nil
			})
		}
	}
	if err != nil {
		c.log.Warn("the list of rooms was not kept", "err", err)
	}
}

// recallRooms fills the table with the rooms of the last connection. The first
// snapshot puts it right.
func (c *Client) recallRooms() {
	if c.sealed == nil {
		return
	}
	text, err := c.sealed.state.Get(roomsKey)
	if err != nil || text == nil {
		return
	}
	var rooms []knownRoom
	if err := json.Unmarshal(text, &rooms); err != nil {
		c.log.Warn("the list of rooms cannot be read", "err", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range rooms[:min(len(rooms), maxRooms)] {
		r := new(room)
		r.state.Info = chatproto.RoomInfo{Room: k.ID, Kind: k.Kind, Name: k.Name, Peer: k.Peer, Member: true}
		c.rooms[k.ID] = r
	}
}

package fsproto

import (
	"strings"

	"github.com/rpycfs/rpycfs/rpc"
)

// NamesReq asks for the names that users and groups have on the server, by
// their numbers.
type NamesReq struct {
	Users  []uint32 // at most MaxOwners
	Groups []uint32 // at most MaxOwners
}

// Fields lists the fields of m.
func (m *NamesReq) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Users, MaxOwners, 4, (*rpc.Codec).U32)
	rpc.List(c, &m.Groups, MaxOwners, 4, (*rpc.Codec).U32)
}

// NamesRes holds the names in the order in which they were asked for, "" for a
// number that has none.
type NamesRes struct {
	Users  []string
	Groups []string
}

// Fields lists the fields of m.
func (m *NamesRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Users, MaxOwners, 4, ownerName)
	rpc.List(c, &m.Groups, MaxOwners, 4, ownerName)
}

// IDsReq asks for the numbers that users and groups have on the server, by
// their names.
type IDsReq struct {
	Users  []string // at most MaxOwners
	Groups []string // at most MaxOwners
}

// Fields lists the fields of m.
func (m *IDsReq) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Users, MaxOwners, 4, ownerName)
	rpc.List(c, &m.Groups, MaxOwners, 4, ownerName)
}

// Owner is the number of a user or group, if there is one of that name.
type Owner struct {
	Known bool
	ID    uint32 // with Known
}

// Fields lists the fields of m.
func (m *Owner) Fields(c *rpc.Codec) {
	c.Bool(&m.Known)
	if m.Known {
		c.U32(&m.ID)
	}
}

// IDsRes holds the numbers in the order in which they were asked for.
type IDsRes struct {
	Users  []Owner
	Groups []Owner
}

// Fields lists the fields of m.
func (m *IDsRes) Fields(c *rpc.Codec) {
	each := func(c *rpc.Codec, o *Owner) { o.Fields(c) }
	rpc.List(c, &m.Users, MaxOwners, 1, each)
	rpc.List(c, &m.Groups, MaxOwners, 1, each)
}

// ownerName is the name of a user or group. Names with NUL do not decode.
func ownerName(c *rpc.Codec, v *string) {
	c.String(v, MaxOwnerName)
	if strings.IndexByte(*v, 0) >= 0 {
		c.Fail(rpc.ErrValue)
	}
}

package rpc

import (
	"context"
	"fmt"
	"sort"
	"sync"
)

// Access says what an operation may change. Every operation states it; the zero
// value is refused when the operation is defined.
type Access uint8

const (
	// Query changes nothing. It takes no slot and may be executed again after
	// a lost connection.
	Query Access = iota + 1
	// State changes only what the session itself holds: handles, references,
	// numbers. It takes a slot and is executed exactly once.
	State
	// Change alters what the service serves. It takes a slot, is executed
	// exactly once, and is refused where the service is read-only.
	Change
)

func (a Access) String() string {
	switch a {
	case Query:
		return "query"
	case State:
		return "state"
	case Change:
		return "change"
	}
	return fmt.Sprintf("access(%d)", uint8(a))
}

// Trait adds a property to an operation in Define.
type Trait uint8

const (
	// Quick operations neither block nor touch a disk; their handlers run on
	// the connection's reader.
	Quick Trait = 1 << iota
	// CarriesData means that the request has a payload after its message.
	CarriesData
	// ReturnsData means that the reply has a payload after its message.
	ReturnsData
	// Compresses means that the payload, or the reply if it has none, may be compressed
	// when it is long: it is file data or names, and nothing that others may not guess at
	// by how long it gets beside something of theirs.
	Compresses
)

// Info describes an operation apart from its message types.
type Info struct {
	Number uint16
	Name   string
	Access Access
	Traits Trait

	// NewReq and NewRes return empty messages, for tests, fuzz seeds and
	// documentation that range over the table.
	NewReq, NewRes func() Message

	index  int // place in opCounts
	invoke func(handler any, ctx context.Context, r *Request, meta []byte, reply *Codec) error
}

// Has reports whether the operation was defined with t.
func (i *Info) Has(t Trait) bool { return i.Traits&t != 0 }

// Slotted reports whether calls of the operation occupy a slot.
func (i *Info) Slotted() bool { return i.Access != Query }

// Op is an operation with its message types.
type Op[Req, Res any] struct {
	Info
	reqFields func(*Codec, *Req)
	resFields func(*Codec, *Res)
}

type fields[T any] interface {
	*T
	Message
}

var table struct {
	sync.Mutex
	ops map[uint16]*Info
}

// Define declares an operation once for both sides. Numbers are unique in the
// whole program (the top byte is the service); a number used twice, a missing
// name or a missing access class panics at start-up.
func Define[Req, Res any, PReq fields[Req], PRes fields[Res]](number uint16, name string, access Access, traits ...Trait) *Op[Req, Res] {
	if access < Query || access > Change {
		panic(fmt.Sprintf("rpc: operation %q states no access class", name))
	}
	op := &Op[Req, Res]{
		Info: Info{
			Number: number, Name: name, Access: access,
			NewReq: func() Message { return PReq(new(Req)) },
			NewRes: func() Message { return PRes(new(Res)) },
		},
		reqFields: func(c *Codec, m *Req) { PReq(m).Fields(c) },
		resFields: func(c *Codec, m *Res) { PRes(m).Fields(c) },
	}
	op.Info.invoke = op.invoke
	for _, t := range traits {
		op.Traits |= t
	}
	if op.Slotted() && op.Has(ReturnsData) {
		panic(fmt.Sprintf("rpc: operation %q takes a slot and returns data, which no reply cache holds", name))
	}
	table.Lock()
	defer table.Unlock()
	if old := table.ops[number]; old != nil || name == "" {
		panic(fmt.Sprintf("rpc: operation %#04x %q is defined twice or has no name", number, name))
	}
	if table.ops == nil {
		table.ops = make(map[uint16]*Info)
	}
	op.index = len(table.ops)
	table.ops[number] = &op.Info
	return op
}

// Ops returns all operations that the program defines, by number.
func Ops() []*Info {
	table.Lock()
	defer table.Unlock()
	ops := make([]*Info, 0, len(table.ops))
	for _, op := range table.ops {
		ops = append(ops, op)
	}
	sort.Slice(ops, func(i, j int) bool { return ops[i].Number < ops[j].Number })
	return ops
}

package rpc

import "context"

// stub to be replaced
type Peer struct{}
type Ref uint64
type Dep struct{ Slot, Seq uint32 }
type Extra struct {
	Object   Ref
	Cred     uint32
	Data     []byte
	Into     []byte
	After    []Dep
	Reserved bool
	Started  func(Dep)
}

func Call[Req, Res any](ctx context.Context, p *Peer, op *Op[Req, Res], req *Req, res *Res) error {
	_, err := CallWith(ctx, p, op, req, res, Extra{})
	return err
}
func CallWith[Req, Res any](ctx context.Context, p *Peer, op *Op[Req, Res], req *Req, res *Res, x Extra) (int, error) {
	panic("soon")
}

const MaxPayload = 1 << 20
const headroom = 512

type buffer struct{ b []byte }

func newBuffer(n int) *buffer { return &buffer{make([]byte, n)} }
func (b *buffer) free()       {}

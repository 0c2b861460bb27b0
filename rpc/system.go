package rpc

import "context"

// The RPC layer's own operations. They belong to every session and are called
// on its root.
var (
	opRelease = Define[releaseReq, empty](0x0001, "release_ref", State, Quick)
	opLogout  = Define[empty, empty](0x0002, "logout", State, Quick)
)

// maxRelease bounds the references of one release.
const maxRelease = 4096

type empty struct{}

func (*empty) Fields(*Codec) {}

type releaseReq struct{ Refs []Ref }

func (m *releaseReq) Fields(c *Codec) { List(c, &m.Refs, maxRelease, 8, (*Codec).Ref) }

// system returns the methods that every peer answers beside its services.
func (p *Peer) system() *Mux {
	m := new(Mux)
	Handle(m, opRelease, func(_ context.Context, _ *Request, req *releaseReq, _ *empty) error {
		for _, ref := range req.Refs {
			p.Revoke(ref)
		}
		return nil
	})
	Handle(m, opLogout, func(context.Context, *Request, *empty, *empty) error {
		if p.cfg.OnLogout == nil {
			return ErrNoMethod
		}
		p.cfg.OnLogout()
		return nil
	})
	return m
}

// Logout tells the other side that the session is over. The answer comes before
// the other side closes the connection.
func (p *Peer) Logout(ctx context.Context) error {
	return Call(ctx, p, opLogout, &empty{}, &empty{})
}

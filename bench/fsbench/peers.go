package main

import (
	"context"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

// peer is a way to reach the exported tree.
type peer interface {
	Name() string
	Mount(ctx context.Context) (*peers.Mounted, error)
}

// local is the exported directory itself.
type local struct{ dir string }

func (l local) Name() string { return peerLocal }

func (l local) Mount(context.Context) (*peers.Mounted, error) {
	return &peers.Mounted{Dir: l.dir}, nil
}

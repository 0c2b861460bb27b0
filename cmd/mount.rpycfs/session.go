package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/internal/login"
	"github.com/rpycfs/rpycfs/mount"
	"github.com/rpycfs/rpycfs/rpc"
)

const (
	// attachTimeout bounds what comes between log-in and mount.
	attachTimeout = 10 * time.Second
	// joinedConnections stand beside the main one: one for small calls, two for file data.
	joinedConnections = 3
)

// hints are how the options that help with a log-in are spelled.
var hints = login.Hints{
	Identity: "identity=",
	NoMethod: "credentials=FILE, identity=FILE or " + login.PasswordVariable,
}

// dial logs in. calls answers the daemon's; nil: none.
func dial(ctx context.Context, j *job, term *login.Terminal, calls *mount.Callbacks, log *slog.Logger) (*client.Session, error) {
	var root *rpc.Mux
	if calls != nil {
		root = calls.Mux()
	}
	return login.Connect(ctx, &j.Person, term, j.Timeo, func(ctx context.Context, a *auth.Client) (*client.Session, error) {
		a.Warn = func(err error) { log.Warn("log-in", "err", err) }
		return client.Dial(ctx, client.Config{Address: j.Address, Others: j.Others, Auth: a, Root: root, Joined: joinedConnections, Compress: j.Compress, Log: log})
	})
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/client"
)

const (
	// connectTimeout bounds the first contact unless timeo= says otherwise: a
	// person waits for it, and a host that drops packets never answers.
	connectTimeout = 1800 * time.Millisecond
	// attachTimeout bounds what comes between log-in and mount.
	attachTimeout = 10 * time.Second
	// joinedConnections stand beside the main one: one for small calls, two for file data.
	joinedConnections = 3
)

// dial logs in. The time-out holds until the daemon has answered: after that a
// person may be asked for a password, and has time.
func dial(ctx context.Context, j *job, term *terminal, log *slog.Logger) (*client.Session, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bound := connectTimeout
	if j.Timeout > 0 {
		bound = j.Timeout
	}
	silence := time.AfterFunc(bound, func() { cancel(context.DeadlineExceeded) })
	defer silence.Stop()

	a, err := j.login(term, func() { silence.Stop() })
	if err != nil {
		return nil, err
	}
	a.Warn = func(err error) { log.Warn("log-in", "err", err) }
	s, err := client.Dial(ctx, client.Config{Address: j.Address, Auth: a, Joined: joinedConnections, Log: log})
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, explainDial(j, err)
	}
	return s, nil
}

// login describes the log-in. answered is called when the daemon has answered.
func (j *job) login(term *terminal, answered func()) (*auth.Client, error) {
	keys := keyring{identities: j.Identities, term: term}
	a := &auth.Client{
		Host: j.Address, User: j.User,
		KnownHosts: j.KnownHosts, Fingerprint: j.Fingerprint,
		Signers: func() ([]ssh.Signer, error) {
			answered()
			return keys.signers()
		},
	}
	if j.HostKey != "" {
		mode, err := auth.ParseHostKeyMode(j.HostKey)
		if err != nil {
			return nil, fail(exitUsage, "option hostkey: %w", err)
		}
		a.HostKey.Mode = mode
	}
	if term != nil {
		a.HostKey.Ask = func(host, fingerprint string) bool {
			return term.confirm(fmt.Sprintf("The server %s is not known. Its key is %s.\nIs that right (yes/no)? ", host, fingerprint))
		}
	}
	switch {
	case j.HasPassword:
		a.Password = func() (string, error) {
			answered() // deriving keys from it takes a slow machine seconds
			return j.Password, nil
		}
	case term != nil:
		ask := sync.OnceValues(func() (string, error) {
			answered()
			return term.secret(fmt.Sprintf("Password of %s at %s: ", j.User, j.Address))
		})
		a.Password = ask
	}
	return a, nil
}

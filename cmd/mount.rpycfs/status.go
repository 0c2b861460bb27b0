package main

import (
	"context"
	"os"
	"time"

	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/internal/status"
	"github.com/rpycfs/rpycfs/internal/version"
	"github.com/rpycfs/rpycfs/mount"
)

// answerStatus answers rpycfs status from now on.
func (s *serving) answerStatus(j *job, fs *mount.FS) error {
	mounted := time.Now()
	tell := func() *status.Document {
		return &status.Document{
			Version:    status.Version,
			MountPoint: j.Dir, Source: j.Source, Device: s.mounted.Dev,
			Server: s.session.State().Server, User: j.User,
			PID: os.Getpid(), Program: version.Version, Mounted: mounted,
			Session: sessionStatus(s.session),
			Status:  fs.Status(),
		}
	}
	var err error
	s.status, err = status.Serve(s.mounted.Dev, tell, s.log)
	return err
}

func sessionStatus(session *client.Session) status.Session {
	peer, state := session.Peer(), session.State()
	s := status.Session{
		State: status.Reconnecting, Since: state.Since, Epoch: state.Epoch,
		RTT: peer.RTT().Nanoseconds(), Heard: peer.Heard(),
	}
	failure := state.LastError
	select {
	case <-session.Done():
		s.State, failure = status.Over, context.Cause(peer.Context())
	default:
		if state.Connected {
			s.State = status.Connected
		} else {
			s.NextTry = state.NextTry
		}
	}
	if failure != nil {
		s.LastError = failure.Error()
	}
	return s
}

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/internal/status"
	"github.com/rpycfs/rpycfs/internal/version"
	"github.com/rpycfs/rpycfs/mount"
	"github.com/rpycfs/rpycfs/rpc"
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
		Compression: compressionStatus(peer.Compression()),
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

// compressionStatus says how a session compresses.
func compressionStatus(s rpc.CompressStats) status.Compression {
	c := status.Compression{
		Mode:     [...]string{rpc.CompressOff: "off", rpc.CompressAuto: "auto", rpc.CompressOn: "on"}[s.How],
		Received: s.Received.Bytes, ReceivedWire: s.Received.Wire,
		Sent: s.Sent.Bytes, SentWire: s.Sent.Wire, SentPlain: s.SentPlain,
	}
	rate := fmt.Sprintf(": data arrives at %.1f MB/s", float64(s.Rate)/1e6)
	switch {
	case s.How == rpc.CompressOff:
		c.Receiving, c.Sending = "off", "off"
	case !s.Known:
		c.Receiving = "off: not connected, or to a daemon that does not know it"
		c.Sending = c.Receiving
	case s.How == rpc.CompressOn:
		c.Receiving, c.Sending = "on", "on"
	default:
		switch {
		case s.Asks && s.Rate == 0:
			c.Receiving = "on: the way is long, and it is not known yet how fast data arrives"
		case s.Asks:
			c.Receiving = "on" + rate
		case s.Local:
			c.Receiving = "off: the daemon is on this machine"
		case s.Rate == 0:
			c.Receiving = "off: it is not known yet how fast data arrives"
		default:
			c.Receiving = "off" + rate
		}
		c.Sending = "off: the daemon has not asked for it"
		if s.Asked {
			c.Sending = "on: the daemon asks for it"
		}
	}
	return c
}

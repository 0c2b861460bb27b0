package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/rpc"
)

// login is how a client process logs in.
type login struct {
	place
	Seed []byte // of the private key
}

// loginsAtOnce is of one process: the daemon bounds the connections from one
// address that have not logged in yet.
const loginsAtOnce = 4

// callLimit bounds every call; nothing takes that long unless it hangs.
const callLimit = 2 * time.Minute

func (l *login) auth(user string) (*auth.Client, error) {
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(l.Seed))
	if err != nil {
		return nil, err
	}
	return &auth.Client{
		Host: l.Address, User: user, Fingerprint: l.Fingerprint,
		Signers: func() ([]ssh.Signer, error) { return []ssh.Signer{signer}, nil },
	}, nil
}

// clients is a client process: sessions, each of a user of its own.
type clients struct {
	delays   hist // from the sender's clock to here
	sessions []*session
}

func (c *clients) methods() methods {
	return methods{
		"dial":    method(c.dial),
		"attach":  method(c.attach),
		"join":    method(c.join),
		"arrived": method(c.arrived),
		"reset":   method(c.reset),
		"say":     method(c.say),
		"history": method(c.history),
		"search":  method(c.search),
		"close":   method(c.close),
	}
}

// session is one user's session with its listener.
type session struct {
	owner *clients
	*client.Session
	chat rpc.Ref // the chat session
	room rpc.Ref // the room that was joined last
	id   chatproto.RoomID

	log log
}

// dialArgs asks for sessions of these users.
type dialArgs struct {
	login
	Users []string
}

// dial logs in without attaching.
func (c *clients) dial(a dialArgs) (none, error) {
	first := len(c.sessions)
	for range a.Users {
		c.sessions = append(c.sessions, &session{owner: c})
	}
	return none{}, parallel(len(a.Users), loginsAtOnce, func(i int) error {
		who, err := a.auth(a.Users[i])
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		defer cancel()
		s := c.sessions[first+i]
		s.Session, err = client.Dial(ctx, client.Config{Address: a.Address, Auth: who})
		return err
	})
}

// attach hands over a listener for each session that has none.
func (c *clients) attach(none) (none, error) {
	return none{}, c.all(func(s *session) error {
		if s.chat != 0 {
			return nil
		}
		listener, err := s.Peer().Export(s.listener(), nil)
		if err != nil {
			return err
		}
		var res chatproto.ChatAttachRes
		err = call(s, 0, chatproto.Attach, &chatproto.ChatAttachReq{Listener: listener}, &res)
		s.chat = res.Session
		return err
	})
}

// joinArgs names the room that the sessions join, or make.
type joinArgs struct {
	Room   string
	Create bool // make it
	Each   bool // each session makes one of its own, whose name begins so
}

func (c *clients) join(a joinArgs) (none, error) {
	err := c.all(func(s *session) error {
		name := a.Room
		if a.Each {
			name += "-" + newID().String()
		}
		var res chatproto.RoomRes
		var err error
		if a.Create || a.Each {
			err = call(s, s.chat, chatproto.CreateRoom, &chatproto.CreateRoomReq{ID: newID(), Kind: chatproto.RoomPublic, Name: name}, &res)
		} else {
			err = call(s, s.chat, chatproto.JoinRoom, &chatproto.JoinRoomReq{ID: newID(), Name: name}, &res)
		}
		if err != nil {
			return err
		}
		s.enter(&res)
		return nil
	})
	return none{}, err
}

func (s *session) enter(res *chatproto.RoomRes) {
	s.room, s.id = res.Ref, res.Room.Info.Room
	s.log.begin(s.id, res.Room.Info.Last)
}

func (c *clients) close(none) (none, error) {
	err := c.all(func(s *session) error { return s.Close(context.Background()) })
	c.sessions = nil
	return none{}, err
}

// all calls f for all sessions, many at once.
func (c *clients) all(f func(*session) error) error {
	return parallel(len(c.sessions), 32, func(i int) error { return f(c.sessions[i]) })
}

// call calls a method of an object of the server.
func call[Req, Res any](s *session, object rpc.Ref, op *rpc.Op[Req, Res], req *Req, res *Res) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if _, err := rpc.CallWith(ctx, s.Peer(), op, req, res, rpc.Extra{Object: object}); err != nil {
		return fmt.Errorf("%s: %w", op.Name, chatproto.FromRPC(err))
	}
	return nil
}

func newID() (id chatproto.ID) {
	rand.Read(id[:])
	return id
}

// parallel calls f for 0 to n-1, some at once.
func parallel(n, atOnce int, f func(i int) error) error {
	var wg sync.WaitGroup
	places := make(chan struct{}, atOnce)
	errs := make([]error, n)
	for i := range n {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			errs[i] = f(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

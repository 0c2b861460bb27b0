// Package client is a session to a daemon: it dials, logs in, and when the
// connection is lost dials again and resumes, so that calls in flight are
// answered over whatever connection comes next.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/rpc"
)

// DefaultPort is where a daemon listens unless it is told otherwise.
const DefaultPort = "19912"

// Back-off between attempts to reach the daemon again, and how long one attempt
// may take.
const (
	minBackoff    = 50 * time.Millisecond
	maxBackoff    = 5 * time.Second
	wantedBackoff = time.Second // while a call waits
	attemptLimit  = 10 * time.Second
	// resumeLimit is how long a daemon may take to resume a session over a fresh
	// connection, at first: connections that were made just before the link was lost
	// stand still. It doubles up to attemptLimit, for a daemon that is busy.
	resumeLimit   = 2500 * time.Millisecond
	logoutTimeout = 2 * time.Second
)

// Config describes a session. It is not changed once Dial has it.
type Config struct {
	// Address is host:port, or unix:PATH.
	Address string
	// Others are further addresses of the daemon. Whichever answers first is taken; its
	// key has to be the one of Address, which is the name that the key is known by.
	Others []string
	// Auth logs in. Dial sets its Features.
	Auth *auth.Client
	// Root answers the server's calls; it may be nil.
	Root *rpc.Mux
	// Joined is how many connections join the main one: the first for small
	// calls, the others for file data.
	Joined int
	// Compress says when file data is compressed, if the daemon knows it.
	Compress rpc.Compress
	// Notify, if not nil, is told each time the state has changed, in order. It
	// must not block, nor close the session.
	Notify func(State)
	// Log receives what goes wrong; nil discards.
	Log *slog.Logger
}

// Session is a session to a daemon. Its methods are safe for concurrent use.
type Session struct {
	cfg    Config
	dialer *dialer
	peer   *rpc.Peer
	grant  auth.Grant

	server string // of the addresses, the one that the newest connection goes to; run's

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{} // the session is over

	changed chan string   // capacity 1
	wake    chan struct{} // capacity 1: the next attempt is to be made at once

	mu    sync.Mutex
	state State
}

// State tells how the session stands.
type State struct {
	Connected bool
	Server    string    // of the addresses, the one that the connection goes to, or went to
	Since     time.Time // of Connected being what it is
	Epoch     uint32
	LastError error     // why the last connection or attempt failed
	NextTry   time.Time // while not connected
}

// Dial connects to the daemon and logs in. ctx bounds that, not the session.
// The error is of the network (net.Error) or one of package auth's.
func Dial(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Session{
		cfg: cfg, dialer: newDialer(), done: make(chan struct{}), changed: make(chan string, 1), wake: make(chan struct{}, 1),
	}
	if cfg.Compress != rpc.CompressOff {
		cfg.Auth.Features |= rpc.FeatureCompress
	}
	conn, err := s.login(ctx)
	if err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.peer = rpc.NewPeer(rpc.Config{
		Root: cfg.Root, Client: true, Log: cfg.Log,
		CallSlots: s.grant.Slots, ReservedSlots: s.grant.Slots / 3, Compress: cfg.Compress,
	})
	go s.run(conn)
	return s, nil
}

// login dials and logs in; once more if the password came too late for the
// first connection.
func (s *Session) login(ctx context.Context) (*auth.Conn, error) {
	for {
		nc, to, err := s.dialer.dial(ctx, s.servers(), false)
		if err != nil {
			return nil, err
		}
		s.server = to.server
		conn, grant, err := s.cfg.Auth.Login(ctx, nc)
		if errors.Is(err, auth.ErrAgain) {
			continue
		}
		s.grant = grant
		return conn, err
	}
}

// servers are the daemon's addresses.
func (s *Session) servers() []string { return append([]string{s.cfg.Address}, s.cfg.Others...) }

// Changed tells the session that the network may have become another one, which it
// notices by itself, too. A connection that does not answer soon is given up, and
// without one the next attempt is made at once.
func (s *Session) Changed(what string) {
	select {
	case s.changed <- what:
	default: // one is being looked at
	}
}

const (
	// settle is how long changes of the network are gathered.
	settle = 200 * time.Millisecond
	// answerLimit is how long a ping may take then, or four usual round trips.
	answerLimit = time.Second
)

// roam reacts to changes of the network until the session is over.
func (s *Session) roam() {
	w := watchChanges(s.cfg.Log)
	defer w.stop()
	for {
		var what string
		select {
		case what = <-w.C:
		case what = <-s.changed:
		case <-s.ctx.Done():
			return
		case <-s.peer.Context().Done():
			return
		}
		s.cfg.Log.Debug("the network may have changed", "what", what)
		s.probe(what)
	}
}

// probe sees whether the connection stands, and gives it up if not.
func (s *Session) probe(what string) {
	tick := time.NewTicker(settle / 4)
	defer tick.Stop()
	limit := max(answerLimit, 4*s.peer.RTT())
	for start := time.Now(); ; {
		asked := time.Since(start) > settle
		switch {
		case asked && s.peer.Turns()%2 == 0: // none, or one that is being opened
			select {
			case s.wake <- struct{}{}:
			default:
			}
			return
		case asked && s.peer.Heard().Sub(start) > settle:
			return
		case asked && s.peer.Quiet() > limit:
			s.peer.Drop(fmt.Errorf("no answer after a change: %s", what))
			return
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		case <-s.peer.Context().Done():
			return
		}
	}
}

// Peer is this side of the session, for calls.
func (s *Session) Peer() *rpc.Peer { return s.peer }

// Done is closed when the session is over: closed from this side, or unknown to
// the server.
func (s *Session) Done() <-chan struct{} { return s.done }

// State returns how the session stands.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Close logs out, if there is a connection to do it over, and ends the session.
// It returns when nothing of it is left.
func (s *Session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, logoutTimeout)
	defer cancel()
	var err error
	if s.peer.Connected() {
		err = s.peer.Logout(rpc.Leaving(ctx))
	}
	s.cancel()
	s.peer.End(errors.New("closed"))
	<-s.done
	return err
}

// run keeps the session connected until it is over.
func (s *Session) run(conn *auth.Conn) {
	defer close(s.done)
	var roaming sync.WaitGroup
	roaming.Go(s.roam)
	defer roaming.Wait()
	for conn != nil {
		s.connected(conn.Epoch)
		err := s.serve(conn)
		if s.ctx.Err() != nil {
			return
		}
		s.cfg.Log.Warn("connection lost", "server", s.cfg.Address, "err", err)
		s.lost(err)
		conn = s.reconnect(conn.Epoch)
	}
}

// serve runs the connection and those that join it.
func (s *Session) serve(conn *auth.Conn) error {
	ctx, cancel := context.WithCancel(s.ctx)
	var joined sync.WaitGroup
	server := s.server
	for range s.cfg.Joined {
		joined.Add(1)
		go func() {
			defer joined.Done()
			s.join(ctx, server, conn.Epoch)
		}()
	}
	err := s.peer.Serve(transport{conn}, conn.Epoch)
	cancel()
	joined.Wait()
	return err
}

// join adds a connection. Without it the main connection carries the data,
// so that a failure is no more than slower.
func (s *Session) join(ctx context.Context, server string, epoch uint32) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	nc, _, err := s.dialer.dial(ctx, []string{server}, true)
	if err == nil {
		var conn *auth.Conn
		if conn, err = s.cfg.Auth.Resume(ctx, nc, s.grant, auth.Join, epoch); err == nil {
			err = s.peer.ServeJoined(transport{conn}, epoch)
		}
	}
	s.cfg.Log.Debug("joined connection ended", "server", s.cfg.Address, "err", err)
}

// reconnect resumes the session in a higher epoch. It returns nil when the
// session is over.
func (s *Session) reconnect(epoch uint32) *auth.Conn {
	backoff, limit := minBackoff, resumeLimit
	servers := s.servers()
	for {
		// Every attempt has its own epoch: the server may have taken one whose
		// answer was lost.
		epoch++
		conn, server, err := s.resume(epoch, servers, limit)
		switch {
		case err == nil:
			s.server = server
			s.cfg.Log.Info("connection resumed", "server", server, "epoch", epoch)
			return conn
		case errors.Is(err, auth.ErrSessionGone):
			// At another address it may be known.
			if servers = slices.DeleteFunc(servers, func(other string) bool { return other == server }); len(servers) > 0 {
				continue
			}
			s.cfg.Log.Error("session lost", "server", server, "err", err)
			s.peer.End(err)
			return nil
		case s.ctx.Err() != nil:
			return nil
		case server != "" && errors.Is(err, context.DeadlineExceeded):
			limit = min(2*limit, attemptLimit)
		}
		switch s.pause(err, backoff/2+rand.N(backoff/2)) {
		case closed:
			return nil
		case woken:
			backoff, limit = minBackoff, resumeLimit
		case rested:
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// How a pause has ended.
type ending uint8

const (
	rested ending = iota
	woken         // by a change of the network
	closed        // the session is
)

// pause waits before the next attempt, less long while a call waits.
func (s *Session) pause(why error, wait time.Duration) ending {
	wanted := wantedBackoff/2 + rand.N(wantedBackoff/2)
	if s.peer.Waiting() > 0 {
		wait = min(wait, wanted)
	}
	until := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		s.failed(why, until)
		select {
		case <-timer.C:
			return rested
		case <-s.wake:
			return woken
		case <-s.ctx.Done():
			return closed
		case <-s.peer.Wanted():
			if soon := time.Now().Add(wanted); soon.Before(until) {
				until = soon
				timer.Reset(wanted)
			}
		}
	}
}

// resume makes an attempt to resume the session. server is the one that was connected
// to, if one was; it has so long to answer.
func (s *Session) resume(epoch uint32, servers []string, limit time.Duration) (conn *auth.Conn, server string, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, attemptLimit)
	defer cancel()
	nc, to, err := s.dialer.dial(ctx, servers, true)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel = context.WithTimeout(s.ctx, limit)
	defer cancel()
	conn, err = s.cfg.Auth.Resume(ctx, nc, s.grant, auth.Resume, epoch)
	s.dialer.works(to, err == nil)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return conn, to.server, err
}

func (s *Session) connected(epoch uint32) {
	s.change(func(st *State) { *st = State{Connected: true, Server: s.server, Since: time.Now(), Epoch: epoch} })
}

func (s *Session) lost(err error) {
	s.change(func(st *State) { *st = State{Server: st.Server, Since: time.Now(), Epoch: st.Epoch, LastError: err} })
}

func (s *Session) failed(err error, next time.Time) {
	s.change(func(st *State) { st.LastError, st.NextTry = err, next })
}

// change sets the state and tells about it. Only run's goroutine does.
func (s *Session) change(set func(*State)) {
	s.mu.Lock()
	set(&s.state)
	now := s.state
	s.mu.Unlock()
	if s.cfg.Notify != nil {
		s.cfg.Notify(now)
	}
}

// transport lets the RPC layer flush what the connection holds back.
type transport struct{ *auth.Conn }

func (t transport) Flush() error { return t.Raw.Flush() }

func (t transport) Features() uint64 { return t.Conn.Features }

// Close does without TLS's farewell, which would wait for a peer that does not
// read; frames tell where the data ends.
func (t transport) Close() error { return t.Raw.Close() }

// Explain turns an error of Dial into one line for a person: what failed, at
// which address, and what to do.
func Explain(address, user string, err error) string {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.Is(err, auth.ErrRefused):
		return fmt.Sprintf("%s refused user %q: wrong user, password or key", address, user)
	case errors.As(err, &dns):
		return fmt.Sprintf("cannot find %s: no such host; check the name", dns.Name)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s does not answer: check host, port and firewall", address)
	case errors.As(err, &op):
		return fmt.Sprintf("cannot reach %s: %v; check that rpycfsd runs there and the port is right", address, op.Err)
	}
	return fmt.Sprintf("%s: %v", address, err)
}

package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/rpycfs/rpycfs/internal/bufconn"
)

// Sessions is where a server keeps its sessions. The methods are called from
// several goroutines.
type Sessions interface {
	// Create makes a session for a user who has just logged in. ErrNoAccount is
	// passed on to the client; after any other error it is told to try later.
	Create(user User, remote net.Addr) (Grant, error)
	// Secret returns the secret and the user of a session.
	Secret(id SessionID) (secret Secret, user string, ok bool)
	// Resume is called when a connection has proven that it belongs to the
	// session. Resume raises the epoch to the given one, Join demands that it
	// is the given one; both in one step with the check. An error refuses the
	// connection: with ErrBusy for a while, with any other for good.
	Resume(id SessionID, purpose Purpose, epoch uint32) error
}

// Limits before a peer is authenticated, where a Server states none.
const (
	DefaultDeadline         = 30 * time.Second
	DefaultPlaces           = 256
	DefaultPlacesPerAddress = 32
	DefaultHandshakeBytes   = 24 << 10

	// maxKeyTries is how many keys a client may try on one connection.
	maxKeyTries = 6
)

// errEvicted ends a handshake whose place another connection has taken.
var errEvicted = fmt.Errorf("%w: too many connections before log-in", ErrBusy)

// Server is the server's side of the handshake. Its fields are set before the
// first use and not changed after. It is safe for concurrent use.
type Server struct {
	Key      Key
	Users    *Users
	Sessions Sessions
	Logger   *slog.Logger // nil: slog.Default

	Features uint64 // feature bits that this server has

	// Limits before authentication; zero means the default.
	Deadline         time.Duration // for the whole handshake, without imposed delays
	Places           int           // connections at once
	PlacesPerAddress int           // connections at once from one address
	HandshakeBytes   int64         // bytes read from one connection

	guesses throttle
	places  places
	turns   turns
}

// Handshake authenticates the client at the other end of nc. On success nothing
// is left of deadlines, and writes to the connection wait for Raw.Flush. On
// error nc is closed. Cancelling ctx ends the handshake.
func (s *Server) Handshake(ctx context.Context, nc net.Conn) (conn *Conn, err error) {
	address := addressKey(nc.RemoteAddr())
	ctx, evict := context.WithCancelCause(ctx)
	defer evict(nil)
	place := s.places.take(address, orDefault(s.Places, DefaultPlaces), orDefault(s.PlacesPerAddress, DefaultPlacesPerAddress),
		func() { evict(errEvicted) })
	defer s.places.leave(place)
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer func() {
		if p := recover(); p != nil {
			s.logger().Error("panic in a handshake", "panic", p, "stack", string(debug.Stack()))
			err = errors.New("internal error in the handshake")
		}
		if !stop() {
			err = context.Cause(ctx) // whatever failed, failed for this reason
		}
		if err != nil {
			nc.Close()
			conn = nil
		}
	}()
	s.refreshUsers()
	h := &serverHandshake{server: s, socket: nc, address: address, remote: nc.RemoteAddr(), turn: s.turns.take()}
	defer h.turn.give()
	h.raw = bufconn.New(turnConn{nc, h.turn})
	return h.run(ctx)
}

// refreshUsers takes changes of the users file into account.
func (s *Server) refreshUsers() {
	reloaded, err := s.Users.refresh()
	if err != nil {
		s.logger().Error("users file not reloaded; the earlier users stay", "err", err)
	} else if reloaded {
		s.logger().Info("users file reloaded")
		for _, p := range s.Users.Problems() {
			s.logger().Warn("authorized keys", "problem", p)
		}
	}
}

func (s *Server) logger() *slog.Logger {
	if s.Logger != nil {
		return s.Logger
	}
	return slog.Default()
}

func orDefault[T int | int64 | time.Duration](v, byDefault T) T {
	if v > 0 {
		return v
	}
	return byDefault
}

// serverHandshake is one handshake:
//
//	TLS → client hello → server hello ┬ new session: (key → key refused)* ┬ key → granted
//	                                  │                                   └ scram ×4 → granted
//	                                  └ resume, join: proof → resumed
//
// Every step can end in refused, and then the connection is closed.
type serverHandshake struct {
	server   *Server
	socket   net.Conn
	raw      *bufconn.Conn
	turn     *turn
	tls      *tls.Conn
	address  string // what limits count by
	remote   net.Addr
	deadline time.Time

	hello clientHello
	nonce [nonceSize]byte
}

func (h *serverHandshake) run(ctx context.Context) (*Conn, error) {
	s := h.server
	h.deadline = time.Now().Add(orDefault(s.Deadline, DefaultDeadline))
	if err := h.raw.SetDeadline(h.deadline); err != nil {
		return nil, err
	}
	h.raw.LimitReads(orDefault(s.HandshakeBytes, DefaultHandshakeBytes))
	config := tlsConfig()
	config.Certificates = []tls.Certificate{s.Key.certificate}
	h.tls = tls.Server(h.raw, config)
	if err := h.tls.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	if err := checkALPN(h.tls); err != nil {
		return nil, err
	}
	conn, err := h.converse(ctx)
	if err != nil {
		return nil, h.refuse(err)
	}
	if err := h.raw.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	h.raw.Conn = h.socket
	h.raw.Hold()
	return conn, nil
}

// refuse tells the client what it may know of err, and returns err.
func (h *serverHandshake) refuse(err error) error {
	var r reason
	switch {
	case errors.Is(err, ErrVersion):
		r = reasonVersion
	case errors.Is(err, ErrRefused):
		r = reasonDenied
	case errors.Is(err, ErrSessionGone):
		r = reasonGone
	case errors.Is(err, ErrNoAccount):
		r = reasonAccount
	case errors.Is(err, ErrBusy):
		r = reasonBusy
	case errors.Is(err, ErrProtocol):
		r = reasonProtocol
	default:
		return err // the connection is broken; nobody is there to be told
	}
	// A client that cannot be written to sees the connection close.
	_ = send(h.tls, newRefused(r, 0))
	return err
}

// converse exchanges hellos and does what the client's purpose is.
func (h *serverHandshake) converse(ctx context.Context) (*Conn, error) {
	if _, err := receive(h.tls, &h.hello); err != nil {
		return nil, err
	}
	rand.Read(h.nonce[:])
	if err := send(h.tls, &serverHello{version: Version, features: h.server.Features, nonce: h.nonce}); err != nil {
		return nil, err
	}
	conn := &Conn{Conn: h.tls, Raw: h.raw, Purpose: h.hello.purpose, Features: h.hello.features & h.server.Features}
	if h.hello.purpose != NewSession {
		return conn, h.belong(conn)
	}
	return conn, h.logIn(ctx, conn)
}

// logIn lets the client try keys, then a password.
func (h *serverHandshake) logIn(ctx context.Context, conn *Conn) error {
	for tries := 0; ; tries++ {
		var key keyMessage
		var first scramMessage
		m, err := receive(h.tls, &key, &first)
		if err != nil {
			return err
		}
		if m == &first {
			return h.password(ctx, conn, first.text)
		}
		if tries == maxKeyTries {
			return protocolError("more than %d keys", maxKeyTries)
		}
		accepted, err := h.tryKey(&key)
		if err != nil {
			return err
		}
		if accepted {
			return h.grant(conn, "key")
		}
		if err := send(h.tls, &keyRefused{}); err != nil {
			return err
		}
	}
}

// tryKey reports whether the signature is right and its key logs the user in. It
// looks for the key only among the keys of that user, and only when it has
// signed; without the private key nobody learns whose key is known here.
func (h *serverHandshake) tryKey(m *keyMessage) (bool, error) {
	s := &statement{user: h.hello.user, serverKey: h.server.Key.public.Marshal()}
	exported, err := exporter(h.tls, labelKey)
	if err != nil {
		return false, err
	}
	copy(s.exporter[:], exported)
	key, err := verifySignature(m.signature, s)
	if err != nil {
		h.server.logger().Info("log-in by key refused", "remote", h.remote, "user", h.hello.user, "err", err)
		return false, nil
	}
	if !h.server.Users.accepts(h.hello.user, key) {
		h.server.logger().Info("log-in by key refused: not a key of this user", "remote", h.remote, "user", h.hello.user)
		return false, nil
	}
	return true, nil
}

// password holds the SCRAM conversation. Whether the user exists makes no
// difference to the client: neither in messages nor in time.
func (h *serverHandshake) password(ctx context.Context, conn *Conn, first string) error {
	user := h.hello.user
	if err := checkClientFirst(first, user); err != nil {
		return err
	}
	exported, err := exporter(h.tls, labelBinding)
	if err != nil {
		return err
	}
	v, real := h.server.Users.passwordOf(user, h.server.Key.fakes)
	scram, err := serverScram(exported, v)
	if err != nil {
		return err
	}
	challenge, err := scram.Step(first)
	if err != nil {
		return protocolError("SCRAM: %w", err)
	}
	if err := send(h.tls, &scramMessage{challenge}); err != nil {
		return err
	}
	var final scramMessage
	if _, err := receive(h.tls, &final); err != nil {
		return err
	}
	if err := h.slowDown(ctx); err != nil {
		return err
	}
	signature, err := scram.Step(final.text)
	if err != nil || !scram.Valid() || !real {
		h.server.logger().Warn("log-in by password refused", "remote", h.remote, "user", user)
		return ErrRefused
	}
	h.server.guesses.succeeded(h.address, user)
	return h.grant(conn, "password", &scramMessage{signature})
}

// slowDown waits for as long as earlier failures demand. The wait does not count
// against the deadline.
func (h *serverHandshake) slowDown(ctx context.Context) error {
	wait := h.server.guesses.guess(h.address, h.hello.user)
	if wait == 0 {
		return nil
	}
	h.deadline = h.deadline.Add(wait)
	if err := h.raw.SetDeadline(h.deadline); err != nil {
		return err
	}
	h.turn.give()
	defer h.turn.again()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// grant makes the session and tells the client, after the messages of before.
func (h *serverHandshake) grant(conn *Conn, method string, before ...message) error {
	user, ok := h.server.Users.Lookup(h.hello.user)
	if !ok { // removed since it was checked
		return ErrRefused
	}
	g, err := h.server.Sessions.Create(user, h.remote)
	if errors.Is(err, ErrNoAccount) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	conn.User, conn.Session, conn.Epoch = user.Name, g.Session, 1
	h.server.logger().Info("logged in", "remote", h.remote, "user", user.Name, "method", method)
	return send(h.tls, append(before, &granted{g})...)
}

// belong checks that the connection belongs to the session that it names.
func (h *serverHandshake) belong(conn *Conn) error {
	var m proofMessage
	if _, err := receive(h.tls, &m); err != nil {
		return err
	}
	exported, err := exporter(h.tls, labelProof)
	if err != nil {
		return err
	}
	secret, user, known := h.server.Sessions.Secret(h.hello.session)
	want := proof(secret, exported, &h.hello, &h.nonce) // also without a session: same time
	if !hmac.Equal(want[:], m.mac[:]) || !known {
		return ErrSessionGone
	}
	if _, ok := h.server.Users.Lookup(user); !ok {
		return fmt.Errorf("%w: its user was removed", ErrSessionGone)
	}
	if err := h.server.Sessions.Resume(h.hello.session, h.hello.purpose, h.hello.epoch); errors.Is(err, ErrBusy) {
		return err
	} else if err != nil {
		return fmt.Errorf("%w: %w", ErrSessionGone, err)
	}
	conn.User, conn.Session, conn.Epoch = user, h.hello.session, h.hello.epoch
	return send(h.tls, &resumed{})
}

package auth

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/xdg-go/scram"
	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/internal/bufconn"
)

const (
	// DefaultTimeout is how long a client waits for the next message.
	DefaultTimeout = 30 * time.Second

	// maxServerBytes bounds what a client reads before it has logged in.
	maxServerBytes = 64 << 10

	// patience is how long Password may take before the connection is given up:
	// well below a server's deadline.
	patience = DefaultDeadline / 2
)

// Client is the client's side of the handshake for one user at one server. Its
// fields are set before the first use and not changed after. It is safe for
// concurrent use.
type Client struct {
	Host string // host:port as known_hosts has it
	User string

	// Password returns the password; it may ask a person. It is called when no
	// key was accepted. The password is remembered until it is refused. nil
	// means that there is none.
	Password func() (string, error)
	// Signers returns the ssh keys to try, in order; at most 6 of them are. Keys
	// that cannot be used are passed over. nil means that there are none.
	Signers func() ([]ssh.Signer, error)

	KnownHosts  string // path of the known_hosts file; "" keeps nothing
	Fingerprint string // SHA256:… that the server's key must have; KnownHosts is not used then
	HostKey     HostKeyPolicy

	Features uint64        // feature bits that this client has
	Timeout  time.Duration // for each message of the server; 0: DefaultTimeout
	Warn     func(error)   // gets what does not stop a log-in; may be nil

	mu     sync.Mutex
	server ssh.PublicKey // the server's key since the first log-in
	scram  *scram.Client // holds the password once it is there
}

// Login logs in over nc and returns the new session. It tries keys first, then
// the password. On error nc is closed.
func (c *Client) Login(ctx context.Context, nc net.Conn) (*Conn, Grant, error) {
	if err := CheckUserName(c.User); err != nil {
		nc.Close()
		return nil, Grant{}, err
	}
	h := c.handshake(nc, clientHello{purpose: NewSession, user: c.User})
	var g Grant
	conn, err := h.run(ctx, func() (err error) {
		g, err = h.logIn()
		return err
	})
	if err != nil {
		return nil, Grant{}, err
	}
	conn.User, conn.Session, conn.Epoch = c.User, g.Session, 1
	return conn, g, nil
}

// Resume connects nc to a session that exists: in a higher epoch for Resume, in
// its epoch for Join. The server must have the key that it had at Login. On
// error nc is closed.
func (c *Client) Resume(ctx context.Context, nc net.Conn, g Grant, purpose Purpose, epoch uint32) (*Conn, error) {
	h := c.handshake(nc, clientHello{purpose: purpose, session: g.Session, epoch: epoch})
	conn, err := h.run(ctx, func() error { return h.belong(g.Secret) })
	if err != nil {
		return nil, err
	}
	conn.User, conn.Session, conn.Epoch = c.User, g.Session, epoch
	return conn, nil
}

// clientHandshake is one handshake; see serverHandshake for its course.
type clientHandshake struct {
	client *Client
	raw    *bufconn.Conn
	tls    *tls.Conn
	hello  clientHello
	peer   serverHello

	key   ssh.PublicKey // what the server showed
	known bool          // it is the one that was expected
}

func (c *Client) handshake(nc net.Conn, hello clientHello) *clientHandshake {
	hello.version, hello.features = Version, c.Features
	rand.Read(hello.nonce[:])
	return &clientHandshake{client: c, raw: bufconn.New(nc), hello: hello}
}

// run connects, exchanges hellos and does the rest by finish. It closes the
// connection on error.
func (h *clientHandshake) run(ctx context.Context, finish func() error) (conn *Conn, err error) {
	stop := context.AfterFunc(ctx, func() { h.raw.Close() })
	defer func() {
		if !stop() {
			err = context.Cause(ctx) // whatever failed, failed for this reason
		}
		if err != nil {
			h.raw.Close()
			conn = nil
		}
	}()
	if err := h.connect(ctx); err != nil {
		return nil, err
	}
	if err := finish(); err != nil {
		return nil, err
	}
	if err := h.raw.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	h.raw.Hold()
	return &Conn{
		Conn: h.tls, Raw: h.raw, Purpose: h.hello.purpose,
		Features: h.hello.features & h.peer.features,
	}, nil
}

// connect sets TLS up, with the check of the server's key, and exchanges hellos.
func (h *clientHandshake) connect(ctx context.Context) error {
	h.raw.LimitReads(maxServerBytes)
	if err := h.patient(); err != nil {
		return err
	}
	config := tlsConfig()
	config.InsecureSkipVerify = true // the key is pinned, not certified: checkServer
	config.VerifyConnection = h.checkServer
	h.tls = tls.Client(h.raw, config)
	if err := h.tls.HandshakeContext(ctx); err != nil {
		return tlsError(err)
	}
	if err := checkALPN(h.tls); err != nil {
		return err
	}
	if err := h.send(&h.hello); err != nil {
		return err
	}
	_, err := h.receive(&h.peer)
	return err
}

// tlsError says what a failed TLS handshake most likely means.
func tlsError(err error) error {
	var host *HostKeyError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &host):
		return err
	case errors.As(err, &plain):
		return protocolError("the server does not speak TLS; is that an rpycfs port?")
	}
	if err == io.EOF {
		return fmt.Errorf("the server closed the connection at once (too many connections, or no rpycfs port): %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("TLS: %w", err)
}

// patient gives the server time for its next message.
func (h *clientHandshake) patient() error {
	return h.raw.SetDeadline(time.Now().Add(orDefault(h.client.Timeout, DefaultTimeout)))
}

// send sends one message, within the time for the answer.
func (h *clientHandshake) send(m message) error {
	if err := h.patient(); err != nil {
		return err
	}
	return send(h.tls, m)
}

// receive reads one of the wanted messages; a refusal becomes an error.
func (h *clientHandshake) receive(want ...message) (message, error) {
	if err := h.patient(); err != nil {
		return nil, err
	}
	var r refused
	m, err := receive(h.tls, append(want, &r)...)
	if err == nil && m == &r {
		err = r.refusal()
	}
	return m, err
}

// checkServer runs in the middle of the TLS handshake: a key that must not be
// accepted ends it before this side has sent anything but its first flight.
func (h *clientHandshake) checkServer(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return protocolError("the server has no certificate")
	}
	key, err := ssh.NewPublicKey(state.PeerCertificates[0].PublicKey)
	if err != nil {
		return protocolError("the server's key: %w", err)
	}
	if err := checkPublicKey(key); err != nil {
		return protocolError("the server's key: %w", err)
	}
	h.key = key
	err = h.client.checkKey(key)
	h.known = err == nil
	if errors.Is(err, ErrHostKeyUnknown) && h.hello.purpose == NewSession && h.client.HostKey.Mode != HostKeyStrict {
		return nil // decided in settle
	}
	return err
}

// checkKey compares the server's key with what is known, the most certain first.
func (c *Client) checkKey(key ssh.PublicKey) error {
	c.mu.Lock()
	remembered := c.server
	c.mu.Unlock()
	shown := ssh.FingerprintSHA256(key)
	switch {
	case c.Fingerprint != "" && strings.TrimRight(c.Fingerprint, "=") != shown:
		return changedKey(c.Host, key, c.Fingerprint+" (stated)")
	case remembered != nil && !sameKey(remembered, key):
		return changedKey(c.Host, key, ssh.FingerprintSHA256(remembered)+" (at log-in)")
	case c.Fingerprint != "" || remembered != nil:
		return nil
	case c.KnownHosts == "":
		return unknownKey(c.Host, key)
	}
	if err := checkHost(c.Host); err != nil {
		return err
	}
	return checkKnownHosts(c.KnownHosts, strings.ToLower(c.Host), key)
}

// settle decides about a server at first contact, after the log-in has
// succeeded and before anything is done with it. proven means that the server
// has proven that it knows the user's verifier.
func (h *clientHandshake) settle(proven bool) error {
	c := h.client
	if !h.known && !proven && !c.acceptsNew() {
		if c.HostKey.Ask == nil || !c.HostKey.Ask(c.Host, ssh.FingerprintSHA256(h.key)) {
			return unknownKey(c.Host, h.key)
		}
	}
	if !h.known && c.KnownHosts != "" {
		err := recordKnownHost(c.KnownHosts, strings.ToLower(c.Host), h.key)
		if errors.Is(err, ErrHostKeyChanged) {
			return err
		}
		if err != nil && c.Warn != nil {
			c.Warn(fmt.Errorf("the server's key was not recorded: %w", err))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server != nil && !sameKey(c.server, h.key) { // two first log-ins at once
		return changedKey(c.Host, h.key, ssh.FingerprintSHA256(c.server)+" (at log-in)")
	}
	c.server = h.key
	return nil
}

func (c *Client) acceptsNew() bool { return c.HostKey.Mode == HostKeyAcceptNew }

// belong proves that this connection belongs to the session.
func (h *clientHandshake) belong(secret Secret) error {
	exported, err := exporter(h.tls, labelProof)
	if err != nil {
		return err
	}
	mac := proof(secret, exported, &h.hello, &h.peer.nonce)
	if err := h.send(&proofMessage{mac}); err != nil {
		return err
	}
	_, err = h.receive(&resumed{})
	return err
}

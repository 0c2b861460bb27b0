// Package auth turns a network connection into an authenticated one: TLS 1.3,
// the protocol's hello, and a log-in bound to the TLS session. It keeps the
// server's key, the users file and the client's known hosts. Above it nothing
// knows the cryptography; below it is only net.Conn.
package auth

import (
	"crypto/tls"

	"github.com/rpycfs/rpycfs/internal/bufconn"
)

// Version is the protocol version that this package speaks.
const Version = 1

// SessionID names a session. It is no secret.
type SessionID [16]byte

// Secret proves that a connection belongs to a session. It crosses the wire
// once, inside TLS, when the session is made.
type Secret [32]byte

// Purpose is what a connection is for.
type Purpose uint8

const (
	// NewSession logs in.
	NewSession Purpose = iota + 1
	// Resume replaces a session's lost main connection, in a higher epoch.
	Resume
	// Join adds a connection to the session's current epoch.
	Join
)

// Grant is what the daemon tells a client whose log-in succeeded.
type Grant struct {
	Session SessionID
	Secret  Secret
	Slots   uint32 // slots for calls of the client
}

// Conn is an authenticated connection. It speaks TLS over Raw, which holds
// writes back until Raw.Flush once Raw.Hold has been called.
type Conn struct {
	*tls.Conn
	Raw *bufconn.Conn

	Purpose  Purpose
	User     string    // authenticated name
	Session  SessionID // the session that the connection belongs to
	Epoch    uint32    // the epoch that it is valid in; 1 for a new session
	Features uint64    // feature bits that both sides have
}

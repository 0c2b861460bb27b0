package auth

import (
	"errors"
	"fmt"
	"time"
)

// Errors that a log-in, a resumption or a join can end with. What the functions
// of this package return unwraps to them where one of them applies.
var (
	// ErrRefused means that the user, the password or the key was wrong. The
	// server says no more than that.
	ErrRefused = errors.New("wrong user, password or key")
	// ErrHostKeyChanged means that the server's key is not the one that is
	// known for it, or has been revoked. Nothing was sent to the server.
	ErrHostKeyChanged = errors.New("the server's key has changed")
	// ErrHostKeyUnknown means that the server's key is not known and nothing
	// allowed it to be accepted.
	ErrHostKeyUnknown = errors.New("the server's key is not known")
	// ErrVersion means that the two sides speak different protocol versions.
	ErrVersion = errors.New("protocol versions differ")
	// ErrSessionGone means that the session has ended, or that the proof of
	// belonging to it was wrong; the server does not tell which.
	ErrSessionGone = errors.New("the session has ended")
	// ErrNoAccount means that the log-in was right, and that the server has no
	// account that the user may act as.
	ErrNoAccount = errors.New("the server has no account for this user")
	// ErrBusy means that the server has reached a limit; later it may work.
	ErrBusy = errors.New("the server is busy, try again later")
	// ErrProtocol means that the peer sent something that is not allowed.
	ErrProtocol = errors.New("the peer broke the protocol")
	// ErrWeakServer means that the server asked for fewer or more iterations of
	// the password's hash than are acceptable.
	ErrWeakServer = errors.New("the server asks for an unacceptable password hash")
	// ErrAgain means that the password took so long to come that the server has
	// given up on this connection. It is remembered: log in again on a new one.
	ErrAgain = errors.New("the password came too late for this connection")
	// ErrNoMethod means that there was neither a key nor a password to try.
	ErrNoMethod = errors.New("no usable key and no password")
)

// reason is why a server refuses, on the wire.
type reason uint8

const (
	reasonDenied   reason = 1 // wrong user, password or key
	reasonVersion  reason = 2 // unknown protocol version
	reasonGone     reason = 3 // no such session, or a wrong proof
	reasonBusy     reason = 4 // a limit is reached
	reasonProtocol reason = 5 // a message that is not allowed here
	reasonAccount  reason = 6 // logged in, but no account to act as
)

var reasonErrors = map[reason]error{
	reasonDenied: ErrRefused, reasonVersion: ErrVersion, reasonGone: ErrSessionGone,
	reasonBusy: ErrBusy, reasonProtocol: ErrProtocol,
	reasonAccount: ErrNoAccount,
}

// Refusal is what a client gets when the server refuses it in so many words.
type Refusal struct {
	Version uint16        // the server's protocol version
	Wait    time.Duration // for ErrBusy: when to try again; 0 if the server does not say
	reason  reason
}

func (r *Refusal) Error() string {
	switch {
	case r.reason == reasonVersion:
		return fmt.Sprintf("the server speaks protocol version %d, this program version %d", r.Version, Version)
	case r.Wait > 0:
		return fmt.Sprintf("%v (in %v)", r.Unwrap(), r.Wait)
	}
	return r.Unwrap().Error()
}

// Unwrap returns the error above that the refusal means.
func (r *Refusal) Unwrap() error {
	if err, ok := reasonErrors[r.reason]; ok {
		return err
	}
	return ErrProtocol
}

// protocolError describes a breach of the protocol by the peer.
func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrProtocol, fmt.Errorf(format, args...))
}

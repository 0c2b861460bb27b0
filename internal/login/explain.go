package login

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/rpycfs/rpycfs/auth"
)

// Messages say what was done, to what, why it failed and what to do, in one
// line. They never tell apart a user that does not exist from a wrong password,
// because the daemon does not.

// explain says why no session came to be.
func (p *Person) explain(err error) error {
	at := fmt.Sprintf("log in to %s as %s", p.Address, p.User)
	var timeout net.Error
	var dns *net.DNSError
	switch {
	case errors.Is(err, auth.ErrRefused):
		return fmt.Errorf("%s: wrong user, password or key", at)
	case errors.Is(err, auth.ErrNoMethod):
		return fmt.Errorf("%s: no usable key and no password; give %s", at, p.Hints.NoMethod)
	case errors.Is(err, auth.ErrHostKeyChanged):
		return fmt.Errorf("%s: %w; if that is right, remove the old line from %s", at, hostKey(err), p.KnownHosts)
	case errors.Is(err, auth.ErrHostKeyUnknown):
		return fmt.Errorf("%s: %w", at, hostKey(err))
	case errors.As(err, &dns):
		return fmt.Errorf("connect to %s: no such host; is the name right?", p.Address)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("connect to %s: connection refused; is rpycfsd running there, on that port?", p.Address)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("connect to %s: no answer; is the host up, and the port open?", p.Address)
	}
	return fmt.Errorf("connect to %s: %w", p.Address, err)
}

func hostKey(err error) error {
	var h *auth.HostKeyError
	if errors.As(err, &h) {
		return h
	}
	return err
}

// OneLine makes sure that a message is one, and that what comes from the other
// side moves no cursor.
func OneLine(err error) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(err.Error()))
}

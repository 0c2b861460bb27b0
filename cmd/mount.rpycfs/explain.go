package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/rpycfs/rpycfs/auth"
)

// Messages say what was done, to what, why it failed and what to do, in one
// line. They never tell apart a user that does not exist from a wrong password,
// because the daemon does not.

// explainDial says why no session came to be.
func explainDial(j *job, err error) error {
	at := fmt.Sprintf("log in to %s as %s", j.Address, j.User)
	var timeout net.Error
	var dns *net.DNSError
	switch {
	case errors.Is(err, auth.ErrRefused):
		return fail(exitMount, "%s: wrong user, password or key", at)
	case errors.Is(err, auth.ErrNoMethod):
		return fail(exitMount, "%s: no usable key and no password; give credentials=FILE, identity=FILE or RPYCFS_PASSWORD", at)
	case errors.Is(err, auth.ErrHostKeyChanged):
		return fail(exitMount, "%s: %w; if that is right, remove the old line from %s", at, hostKey(err), j.KnownHosts)
	case errors.Is(err, auth.ErrHostKeyUnknown):
		return fail(exitMount, "%s: %w", at, hostKey(err))
	case errors.As(err, &dns):
		return fail(exitMount, "connect to %s: no such host; is the name right?", j.Address)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail(exitMount, "connect to %s: connection refused; is rpycfsd running there, on that port?", j.Address)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fail(exitMount, "connect to %s: no answer; is the host up, and the port open?", j.Address)
	}
	return fail(exitMount, "connect to %s: %w", j.Address, err)
}

func hostKey(err error) error {
	var h *auth.HostKeyError
	if errors.As(err, &h) {
		return h
	}
	return err
}

// explainAttach says why the daemon does not give the directory.
func explainAttach(j *job, err error) error {
	what := fmt.Sprintf("mount %s", j.Source)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(exitMount, "%s: the server has no such directory", what)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		return fail(exitMount, "%s: not a directory on the server, or a symbolic link", what)
	case errors.Is(err, fs.ErrPermission):
		return fail(exitMount, "%s: the server does not let %s in there", what, j.User)
	}
	return fail(exitMount, "%s: %w", what, err)
}

// explainMount says why the kernel does not take the mount.
func explainMount(j *job, err error) error {
	what := fmt.Sprintf("mount %s on %s", j.Source, j.Dir)
	switch {
	case errors.Is(err, syscall.EPERM) && os.Geteuid() == 0:
		return fail(exitMount, "%s: mounting is not permitted; this is a container without CAP_SYS_ADMIN", what)
	case errors.Is(err, syscall.ENODEV):
		return fail(exitSystem, "%s: the kernel has no FUSE; try: modprobe fuse", what)
	}
	return fail(exitMount, "%s: %w", what, err)
}

// oneLine makes sure that a message is one, and that what comes from the other
// side moves no cursor.
func oneLine(err error) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(err.Error()))
}

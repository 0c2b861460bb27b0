package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/rpycfs/rpycfs/rpc"
)

// Messages say what was done, to what, why it failed and what to do, in one
// line. They never tell apart a user that does not exist from a wrong password,
// because the daemon does not.

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
	case errors.Is(err, rpc.ErrNoMethod):
		return fail(exitMount, "%s: the server is too old for idmap=name", what)
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

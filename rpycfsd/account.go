package rpycfsd

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/identity"
	"github.com/rpycfs/rpycfs/rpycfsd/export"
)

// exportIdentity returns what a user who has just logged in is to the export of a
// daemon in mode runAs. Where the user acts as a local account, this is when the
// account and its groups are read; a session keeps them. The error is
// auth.ErrNoAccount if there is none, or none that the user may act as.
func exportIdentity(u *auth.User, runAs uint8) (export.Identity, error) {
	id := export.Identity{Name: u.Name, Root: u.Root, ReadOnly: u.ReadOnly, NoRootSquash: u.NoRootSquash, RunAs: runAs}
	if runAs == fsproto.RunAsCaller && !u.Trusted {
		id.RunAs = fsproto.RunAsAccount // nothing that the client says counts
	}
	if id.RunAs != fsproto.RunAsAccount {
		return id, nil
	}
	var err error
	if id.Account, err = accountOf(u); err != nil {
		return id, fmt.Errorf("%w: %w", auth.ErrNoAccount, err)
	}
	return id, nil
}

// accountOf returns the identity of the local account with a user's name. One
// with user id 0 is for users with no-root-squash.
func accountOf(u *auth.User) (id identity.ID, err error) {
	account, err := user.Lookup(u.Name)
	if err != nil {
		return id, err
	}
	uid, err := parseID(account.Uid)
	if err != nil {
		return id, err
	}
	gid, err := parseID(account.Gid)
	if err != nil {
		return id, err
	}
	names, err := account.GroupIds()
	if err != nil {
		return id, fmt.Errorf("groups of account %s: %w", u.Name, err)
	}
	groups := make([]uint32, len(names))
	for i, name := range names {
		if groups[i], err = parseID(name); err != nil {
			return id, err
		}
	}
	if uid != 0 {
		return identity.New(uid, gid, groups)
	}
	if !u.NoRootSquash {
		return id, errors.New("account " + u.Name + " is root's; a user who may act as root needs no-root-squash (rpycfs passwd --no-root-squash)")
	}
	return identity.Root(gid, groups)
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("account: %w", err)
	}
	return uint32(n), nil
}

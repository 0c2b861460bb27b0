package fsproto

import (
	"errors"

	"github.com/rpycfs/rpycfs/rpc"
)

// Undecided is the detail of the EIO with which a change is answered whose daemon was
// killed in the middle of it, if it cannot be told whether it was made: a program on
// the server has changed the same since.
const Undecided = "undecided"

// IsUndecided reports whether an error of a call is of that kind.
func IsUndecided(err error) bool {
	var e *rpc.Error
	return errors.As(err, &e) && string(e.Detail) == Undecided
}

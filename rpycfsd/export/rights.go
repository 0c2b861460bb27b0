package export

import (
	"context"
	"fmt"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/identity"
	"github.com/rpycfs/rpycfs/rpc"
)

// Whose rights decide (Config.RunAs). Where it is the daemon's, a handler runs
// where it was called and every as below is nil. Otherwise it runs on a thread of
// the one identity that the operation is done as, and the kernel decides: about
// permissions, set-id bits, quota and reserved space. What only finds out where
// an object is (acquire, verify) goes back to the daemon's rights; nothing ever
// goes the other way.

// whose says with whose rights an operation is done where the daemon's do not
// count for everything.
type whose uint8

const (
	// asCaller: the identity behind the call's credential.
	asCaller whose = iota
	// asOpener: who opened the file that the request names, as rights belong to
	// open files. Requests that name none are the caller's.
	asOpener
	// asDaemon: the daemon, without a change of threads. Only for what asks the
	// kernel for no right: bookkeeping of the session, and system calls on a
	// descriptor that check nothing but how it was opened.
	asDaemon
)

// call is a request, and whom the handler runs as.
type call struct {
	*rpc.Request
	ctx    context.Context // that of the request
	as     *identity.ID    // nil: the daemon
	change *change         // nil: it changes nothing
	plan   *plan           // nil: there is no record of it
}

// killsPriv reports whether set-id bits must be dropped here because the client
// asks for it: the kernel does so by itself unless root does the change.
func (c call) killsPriv(asked bool) bool { return asked && c.as != nil && c.as.IsRoot() }

// rights returns whom a request is done as, nil for the daemon. EINVAL for a
// credential that is not registered, EBADF for a file that is not open. mu is
// held.
func (s *Session) rights(w whose, cred uint32, req any) (*identity.ID, error) {
	as, known := s.creds[cred]
	if !known {
		return nil, fmt.Errorf("unknown credential %d: %w", cred, syscall.EINVAL)
	}
	if s.id.RunAs == fsproto.RunAsDaemon || w == asDaemon {
		return nil, nil
	}
	if w == asOpener {
		if num := openFileOf(req); num != 0 {
			h := s.handles[num]
			if h == nil {
				return nil, syscall.EBADF
			}
			as = h.as
		}
	}
	if as == nil { // it would be the daemon
		return nil, fmt.Errorf("no identity to act as: %w", syscall.EPERM)
	}
	return as, nil
}

// openFileOf returns the open file whose opener's rights decide about a request,
// 0 if it is not done through one. A setattr is, as far as it is ftruncate(2);
// owner, mode and times ask who is calling.
func openFileOf(req any) fsproto.Handle {
	switch req := req.(type) {
	case *fsproto.WriteReq:
		return req.Handle
	case *fsproto.FsyncReq:
		return req.Handle
	case *fsproto.FallocateReq:
		return req.Handle
	case *fsproto.CopyReq:
		return req.To
	case *fsproto.SetattrReq:
		if req.Mask&^(fsproto.SetSize|fsproto.SetKillPriv) == 0 {
			return req.Handle
		}
	}
	return 0
}

// ownRights returns whose rights stand behind credential 0 of a user's session,
// which is there before any other is registered: the daemon's (nil), the
// account's, or the client's root.
func (e *Export) ownRights(id Identity) (*identity.ID, error) {
	if (id.RunAs == fsproto.RunAsDaemon) != (e.pool == nil) {
		return nil, fmt.Errorf("a session in mode %d of an export in mode %d", id.RunAs, e.cfg.RunAs)
	}
	switch id.RunAs {
	case fsproto.RunAsAccount:
		account := id.Account
		return &account, nil
	case fsproto.RunAsCaller:
		root, err := id.squash(0, 0, nil)
		return &root, err
	}
	return nil, nil
}

// squash returns the identity of a credential that a client has stated. Unless
// the user is exempt, root is nobody there, and so is root's group wherever it
// stands, as the kernel's NFS server has it (exports(5), root_squash).
func (id Identity) squash(uid, gid uint32, groups []uint32) (identity.ID, error) {
	if id.NoRootSquash {
		if uid == 0 {
			return identity.Root(gid, groups)
		}
		return identity.New(uid, gid, groups)
	}
	nobody := func(n uint32) uint32 {
		if n == 0 {
			return identity.Nobody
		}
		return n
	}
	squashed := make([]uint32, len(groups))
	for i, g := range groups {
		squashed[i] = nobody(g)
	}
	return identity.New(nobody(uid), nobody(gid), squashed)
}

// cred registers a credential, or replaces one: calls that run and files that are
// open stay what they were. Only in a caller's session is it worth what it says;
// in others it just has to be known.
func (s *Session) cred(_ call, req *fsproto.CredReq, _ *fsproto.Empty) error {
	if req.ID == 0 {
		return syscall.EINVAL
	}
	as := s.own
	if s.id.RunAs == fsproto.RunAsCaller {
		id, err := s.id.squash(req.UID, req.GID, req.Groups)
		if err != nil {
			return fmt.Errorf("credential: %w: %w", err, syscall.EINVAL)
		}
		as = &id
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.creds[req.ID]; !known && len(s.creds) > MaxCreds {
		return syscall.ENFILE
	}
	s.creds[req.ID] = as
	if s.kept() {
		old := s.credCells[req.ID]
		s.credCells[req.ID] = s.e.put(recCred, &credRec{session: s.key, req: *req}, nil)
		old.Free()
	}
	return nil
}

// runAs runs a handler as somebody.
func (e *Export) runAs(ctx context.Context, as identity.ID, f func() error) (err error) {
	if failed := e.pool.Do(ctx, as, func() { err = f() }); failed != nil {
		return failed
	}
	return err
}

// asDaemon runs f with the daemon's rights, whomever the handler runs as.
func (e *Export) asDaemon(f func()) {
	if e.pool == nil {
		f()
		return
	}
	identity.Outside(f)
}

// restricted reports whether rules must be kept that the kernel does not apply
// to a privileged daemon. It applies them to whom a handler runs as otherwise.
func (e *Export) restricted() bool { return e.pool == nil && e.priv.Any }

package export

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/identity"
	"github.com/rpycfs/rpycfs/rpc"
)

var errClosed = fmt.Errorf("session is closed: %w", rpc.ErrGone)

// method ties an operation to its handler.
type method struct {
	op       *rpc.Info
	register func(*Session, *rpc.Mux)
	call     func(*Session, context.Context, *rpc.Request, rpc.Message, rpc.Message) error
}

// define makes a method that is done with the rights of w, the caller's unless
// said otherwise. Whatever calls the handler goes through Session.admit.
func define[Req, Res any](op *rpc.Op[Req, Res], h func(*Session, call, *Req, *Res) error, w ...whose) method {
	w = append(w, asCaller)
	serve := func(s *Session, c call, req *Req, res *Res) error {
		if op.Access == rpc.Change && s.readOnly {
			if err := s.refuse(req); err != nil {
				return err
			}
		}
		err := h(s, c, req, res)
		if isErrno(err, syscall.ENOSPC, syscall.EDQUOT) && s.e.giveUpRemoved() {
			err = h(s, c, req, res)
		}
		return err
	}
	run := func(s *Session, ctx context.Context, r *rpc.Request, req *Req, res *Res) error {
		err := s.begin(ctx)
		if err != nil {
			return err
		}
		defer s.end()
		as, err := s.admit(&op.Info, w[0], r, req)
		var c *change
		if err == nil && op.Access != rpc.Query && !s.readOnly {
			c, err = s.beginChange(ctx, req, r.Again)
		}
		defer func() {
			if c != nil {
				c.futile = isErrno(err, syscall.EEXIST)
			}
			c.end()
			if err == nil {
				c.tell(req, res)
			}
		}()
		if err == nil {
			s.cover(req)
		}
		var d doing
		if err == nil && op.Access != rpc.Query {
			d = s.doing(req)
		}
		if err == nil {
			err = s.awaitChange(ctx, req)
		}
		if err == nil {
			err = s.awaitDelayed(ctx, req)
		}
		began := s.e.leases.now()
		var p *plan
		if err == nil && op.Access != rpc.Query {
			if err = s.e.reached("begun"); err == nil {
				p, err = s.plan(ctx, r, c, req)
			}
			if err == nil {
				err = s.e.reached("noted")
			}
		}
		defer p.done()
		made := false
		if err == nil && r.Again {
			made, err = p.decide(call{r, ctx, as, c, p}, req, res)
		}
		once := func() error {
			if as == nil {
				return serve(s, call{r, ctx, nil, c, p}, req, res)
			}
			return s.e.runAs(ctx, *as, func() error { return serve(s, call{r, ctx, as, c, p}, req, res) })
		}
		if err == nil && !made {
			err = once()
		}
		if err == nil {
			err = s.undelayed(ctx, req, res, func() error {
				*res = *new(Res)
				return once()
			})
		}
		if r.Again {
			s.letGo(&r.Slot)
		}
		if err == nil && op.Access != rpc.Query {
			err = s.e.reached("made")
		}
		if err == nil {
			s.grantAll(began, c != nil, req, res)
			d.done(res)
		}
		if err != nil {
			s.report(op.Name, err)
		}
		return err
	}
	return method{
		op: &op.Info,
		register: func(s *Session, mux *rpc.Mux) {
			rpc.Handle(mux, op, func(ctx context.Context, r *rpc.Request, req *Req, res *Res) error {
				return run(s, ctx, r, req, res)
			})
		},
		call: func(s *Session, ctx context.Context, r *rpc.Request, req, res rpc.Message) error {
			return run(s, ctx, r, any(req).(*Req), any(res).(*Res))
		},
	}
}

// methods holds the handler of every operation of fsproto that clients call, and
// says of those that are not done as the caller whom they are done as.
var methods = []method{
	define(fsproto.Attach, (*Session).attach),
	define(fsproto.Resolve, (*Session).resolve),
	define(fsproto.Forget, (*Session).forget, asDaemon),
	define(fsproto.Cred, (*Session).cred, asDaemon),
	define(fsproto.Names, (*Session).names, asDaemon),
	define(fsproto.IDs, (*Session).ids, asDaemon),
	define(fsproto.Leases, (*Session).leases, asDaemon),
	define(fsproto.Watch, (*Session).watch),
	define(fsproto.Lookup, (*Session).lookup),
	define(fsproto.Getattr, (*Session).getattr, asDaemon),
	define(fsproto.Setattr, (*Session).setattr, asOpener),
	define(fsproto.Access, (*Session).access),
	define(fsproto.Statfs, (*Session).statfs, asDaemon),
	define(fsproto.Readlink, (*Session).readlink, asDaemon),
	define(fsproto.Syncfs, (*Session).syncfs, asDaemon),
	define(fsproto.Open, (*Session).open),
	define(fsproto.Create, (*Session).create),
	define(fsproto.Read, (*Session).read, asDaemon),
	define(fsproto.Readfile, (*Session).readfile),
	define(fsproto.Write, (*Session).write, asOpener),
	define(fsproto.Fsync, (*Session).fsync, asOpener),
	define(fsproto.Release, (*Session).release, asDaemon),
	define(fsproto.Releases, (*Session).releases, asDaemon),
	define(fsproto.Fallocate, (*Session).fallocate, asOpener),
	define(fsproto.Lseek, (*Session).lseek, asDaemon),
	define(fsproto.CopyFileRange, (*Session).copyFileRange, asOpener),
	define(fsproto.Tmpfile, (*Session).tmpfile),
	define(fsproto.Getlk, (*Session).getlk, asDaemon),
	define(fsproto.Setlk, (*Session).setlk, asDaemon),
	define(fsproto.Cancellk, (*Session).cancellk, asDaemon),
	define(fsproto.Opendir, (*Session).opendir),
	define(fsproto.Readdir, (*Session).readdir),
	define(fsproto.Tree, (*Session).tree),
	define(fsproto.Mkdir, (*Session).mkdir),
	define(fsproto.Mknod, (*Session).mknod),
	define(fsproto.Symlink, (*Session).symlink),
	define(fsproto.Link, (*Session).link),
	define(fsproto.Unlink, (*Session).unlink),
	define(fsproto.Rmdir, (*Session).rmdir),
	define(fsproto.Rename, (*Session).rename),
	define(fsproto.Getxattr, (*Session).getxattr),
	define(fsproto.Setxattr, (*Session).setxattr),
	define(fsproto.Listxattr, (*Session).listxattr),
	define(fsproto.Removexattr, (*Session).removexattr),
}

// Register makes mux answer all operations of the file service for s.
func (s *Session) Register(mux *rpc.Mux) {
	for _, m := range methods {
		m.register(s, mux)
	}
}

// begin counts a call, unless it comes too late. It ends with end. A fenced session
// has to know that it is, first.
func (s *Session) begin(ctx context.Context) error {
	if err := s.awaitFence(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	s.calls++
	return nil
}

// admit decides whether a request may reach its handler, and whom that runs as.
// The rule for read-only exports stands in define and in refuse, by the
// operation's access class, so that no operation can be forgotten; open alone
// decides by its flags.
func (s *Session) admit(op *rpc.Info, w whose, r *rpc.Request, req any) (*identity.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	early := op.Number == fsproto.Attach.Number || op.Number == fsproto.Cred.Number || op.Number == fsproto.Watch.Number
	if s.top == nil && !early {
		return nil, fmt.Errorf("%s before attach: %w", op.Name, syscall.ESTALE)
	}
	return s.rights(w, r.Cred, req)
}

// awaitFence returns when the session knows that it has lost its leases, if it has.
func (s *Session) awaitFence(ctx context.Context) error {
	fenced := s.fencedFrom()
	if fenced == nil {
		return ctx.Err()
	}
	late := time.NewTimer(fenceTimeout)
	defer late.Stop()
	select {
	case <-fenced:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		return fmt.Errorf("the client has not answered that it lost its leases: %w", syscall.EIO)
	}
}

// refuse returns why a change is not made on a read-only export: EROFS, but
// EEXIST where Linux finds out first that a name is taken. A create that may
// open an existing file goes on to its handler, which never makes one.
func (s *Session) refuse(req any) error {
	switch req := req.(type) {
	case *fsproto.CreateReq:
		return s.refuseName(req.Parent, req.Name, req.Flags&fsproto.OpenExclusive == 0)
	case *fsproto.MkdirReq:
		return s.refuseName(req.Parent, req.Name, false)
	case *fsproto.MknodReq:
		return s.refuseName(req.Parent, req.Name, false)
	case *fsproto.SymlinkReq:
		return s.refuseName(req.Parent, req.Name, false)
	case *fsproto.LinkReq:
		return s.refuseName(req.Parent, req.Name, false)
	}
	return syscall.EROFS
}

// refuseName returns EROFS if there is no such entry; else EEXIST, or nil if an
// existing one will do.
func (s *Session) refuseName(parent fsproto.Node, name string, mayExist bool) error {
	d, err := s.dir(parent)
	if err != nil {
		return err
	}
	defer d.done()
	switch _, err := d.p.StatAt(name); {
	case isErrno(err, syscall.ENOENT):
		return syscall.EROFS
	case err != nil:
		return err
	case mayExist:
		return nil
	}
	return syscall.EEXIST
}

// report logs why a call failed; the text does not reach the other side.
func (s *Session) report(op string, err error) {
	var errno syscall.Errno
	if errors.As(err, &errno) || errors.Is(err, context.Canceled) || errors.Is(err, rpc.ErrGone) {
		s.log.Debug("call failed", "op", op, "err", err)
		return
	}
	s.log.Error("call failed", "op", op, "err", err)
}

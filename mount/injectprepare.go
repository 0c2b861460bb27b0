package mount

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// askTimeout bounds the calls that are made before an injection.
const askTimeout = 10 * time.Second

// errProgram says that who opened a file to write would be in the way of running it.
var errProgram = errors.New("it may be a program, and is not opened for writing")

// prepare decides which call tells of a change, and finds out what the kernel is to be
// told with it. The daemon is asked now, because the kernel will hold locks later.
func (in *injector) prepare(e *fsproto.Event) (*injection, error) {
	ctx, cancel := context.WithTimeout(in.ctx, askTimeout)
	defer cancel()
	event := *e
	j := in.newInjection(&event)
	var err error
	switch e.What {
	case fsproto.EventCreate:
		err = j.prepareCreate(ctx)
	case fsproto.EventDelete:
		err = j.prepareDelete(ctx)
	case fsproto.EventRename:
		err = j.prepareRename(ctx)
	default:
		err = j.prepareChange(ctx)
	}
	if err != nil {
		j.clean()
		return nil, err
	}
	return j, nil
}

func (j *injection) prepareCreate(ctx context.Context) error {
	e := j.event
	if e.Dir == 0 {
		return errStale
	}
	s, err := j.find(ctx, e.Dir, e.Name)
	if err != nil {
		return err
	}
	if e.Kind == 0 && s.entry != nil {
		e.Kind = s.entry.Attr.Type()
	}
	if s.entry == nil || s.entry.Attr.Type() != e.Kind {
		s = j.by.unknown(e.Kind) // it is gone again
	}
	j.create(s)
	return nil
}

// prepareDelete shows the kernel what was there, with one link more than is left.
func (j *injection) prepareDelete(ctx context.Context) error {
	e := j.event
	s, err := j.known(ctx, e.Node, e.Kind)
	if err != nil {
		return err
	}
	if e.Dir == 0 {
		if s.unknown {
			return errStale
		}
		e.Dir, e.Name = j.by.void.node, voidEntry
	}
	s.entry.Attr.Nlink++
	j.remove(s)
	return nil
}

// prepareRename shows the kernel under the old name what has the new one now.
func (j *injection) prepareRename(ctx context.Context) error {
	e := j.event
	if e.Dir|e.NewDir == 0 || e.Exchange && (e.Dir == 0 || e.NewDir == 0) {
		return errStale
	}
	moved, err := j.foundAs(ctx, e.NewDir, e.NewName, e.Node, e.Kind)
	if err != nil {
		return err
	}
	var replaced *shown
	switch {
	case e.Exchange:
		if replaced, err = j.foundAs(ctx, e.Dir, e.Name, e.Replaced, 0); err != nil {
			return err
		}
	case e.Replaced != 0 && e.NewDir != 0 && e.Replaced != moved.entry.Node:
		if replaced, err = j.known(ctx, e.Replaced, 0); err != nil {
			return err
		}
		replaced.entry.Attr.Nlink++
	}
	j.rename(moved, replaced)
	return nil
}

// prepareChange is for changes of a node itself. They are told under the name that the
// daemon gives, so that who watches the directory hears of it, too.
func (j *injection) prepareChange(ctx context.Context) error {
	e := j.event
	s, err := j.foundAs(ctx, e.Dir, e.Name, e.Node, e.Kind)
	switch {
	case err != nil:
		return err
	case s.unknown || s.gone:
		return errStale
	case e.What == fsproto.EventClose && (s.entry.Attr.Type() != fsproto.ModeRegular || s.entry.Attr.Mode&0o111 != 0):
		return errProgram
	}
	j.node, j.attr = s.entry.Node, &s.entry.Attr
	if s.dir == 0 && !s.entry.Attr.IsDir() {
		s.dir, s.name = j.by.void.node, voidEntry
		j.drop = append(j.drop, s)
	}
	if s.dir != 0 {
		j.shown = []*shown{s}
	}
	j.touch(s)
	return nil
}

// foundAs finds what a name in a directory stands for. If it is not the node that it
// should be, or if there is no directory, the node is shown without a name.
func (j *injection) foundAs(ctx context.Context, dir fsproto.Node, name string, node fsproto.Node, kind uint32) (*shown, error) {
	if dir != 0 {
		s, err := j.find(ctx, dir, name)
		if err != nil {
			return nil, err
		}
		if e := s.entry; e != nil && (node == 0 || e.Node == node) && (kind == 0 || node != 0 || e.Attr.Type() == kind) {
			return s, nil
		}
	}
	return j.known(ctx, node, kind)
}

// find looks a name up at the daemon.
func (j *injection) find(ctx context.Context, dir fsproto.Node, name string) (*shown, error) {
	fs := j.by.fs
	defer fs.naming.begin()()
	var res fsproto.LookupRes
	if err := callAs(ctx, fs, ownHeader(), fsproto.Lookup, &fsproto.LookupReq{Parent: dir, Name: name}, &res); err != nil {
		return nil, err
	}
	s := &shown{dir: dir, name: name, keep: true, lease: res.Parent.Lease}
	if res.Exists {
		if !introducible(res.Entry.Node) {
			return nil, syscall.EIO
		}
		fs.nodes.note(&res.Entry, dir, name)
		fs.trimmer.check()
		j.held = append(j.held, res.Entry.Node)
		s.entry = &res.Entry
	}
	return s, nil
}

// known shows a node without a name; if the kernel does not know it, one that does not
// exist.
func (j *injection) known(ctx context.Context, n fsproto.Node, kind uint32) (*shown, error) {
	fs := j.by.fs
	if n == 0 || n != fsproto.RootNode && !fs.nodes.again(n) {
		return j.by.unknown(kind), nil
	}
	if n != fsproto.RootNode {
		j.held = append(j.held, n)
	}
	var res fsproto.AttrRes
	err := callAs(ctx, fs, ownHeader(), fsproto.Getattr, &fsproto.GetattrReq{Node: n}, &res)
	switch {
	case errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.ENOENT):
		s := j.by.unknown(kind)
		s.unknown, s.gone, s.entry.Node, s.entry.Attr.Ino = false, true, n, fs.nodes.inoOf(n)
		return s, nil
	case err != nil:
		return nil, err
	case kind != 0 && res.Attr.Type() != kind:
		return nil, errStale
	}
	return &shown{entry: &fsproto.Entry{Node: n, Attr: res.Attr}}, nil
}

// unknown shows a node that exists for the call only; kind 0 is a regular file's.
func (in *injector) unknown(kind uint32) *shown {
	if kind == 0 {
		kind = fsproto.ModeRegular
	}
	n := in.fs.newNode()
	return &shown{unknown: true, entry: &fsproto.Entry{Node: n, Attr: fsproto.Attr{Ino: uint64(n), Mode: kind | 0o600}}}
}

// ownHeader is that of requests that this process makes of itself.
func ownHeader() *fuse.InHeader {
	h := &fuse.InHeader{}
	h.Uid, h.Gid, h.Pid = uint32(os.Geteuid()), uint32(os.Getegid()), uint32(os.Getpid())
	return h
}

package mount

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// leftBehind clears up after a change that was given up before it was answered and has
// been answered now. The kernel was told that it has failed, and goes by what it had
// before; nobody calls back for a change of one's own. Nor will it close what has been
// opened, or forget a node that it was never told of.
func (fs *FS) leftBehind(req, res any, err error) {
	switch r := req.(type) {
	case *fsproto.MkdirReq:
		fs.dropName(r.Parent, r.Name)
	case *fsproto.MknodReq:
		fs.dropName(r.Parent, r.Name)
	case *fsproto.SymlinkReq:
		fs.dropName(r.Parent, r.Name)
	case *fsproto.LinkReq:
		fs.dropName(r.Parent, r.Name)
		fs.notices.invalidate(r.Node)
	case *fsproto.UnlinkReq:
		fs.dropName(r.Parent, r.Name)
	case *fsproto.RenameReq:
		fs.dropName(r.Parent, r.Name)
		fs.dropName(r.NewParent, r.NewName)
	case *fsproto.CreateReq:
		fs.dropName(r.Parent, r.Name)
		fs.unopened(r.Handle, err)
	case *fsproto.TmpfileReq:
		fs.unopened(r.Handle, err)
	case *fsproto.OpenReq:
		fs.store.drop(r.Node) // it may have been truncated
		fs.notices.invalidate(r.Node)
		fs.unopened(r.Handle, err)
	case *fsproto.SetattrReq:
		fs.store.drop(r.Node)
		fs.notices.invalidate(r.Node)
	case *fsproto.SetxattrReq:
		fs.notices.invalidate(r.Node)
	case *fsproto.RemovexattrReq:
		fs.notices.invalidate(r.Node)
	case *fsproto.FallocateReq:
		fs.dropFile(r.Handle)
	case *fsproto.CopyReq:
		fs.dropFile(r.To)
	}
	if r, ok := res.(*fsproto.CreateRes); ok && err == nil && introducible(r.Entry.Node) {
		fs.backlog.begin()
		if !fs.forgets.add(fsproto.Forgotten{Node: r.Entry.Node, Stamp: r.Entry.Stamp}) {
			fs.backlog.end(1)
		}
	}
}

// dropName drops a name, and the attributes of its directory.
func (fs *FS) dropName(dir fsproto.Node, name string) {
	fs.nodes.touch(dir)
	fs.notices.forgetNames(dir, []string{name})
	fs.notices.invalidate(dir)
}

// dropFile drops what the kernel and we have of an open file.
func (fs *FS) dropFile(h fsproto.Handle) {
	if f := fs.handles.file(uint64(h)); f != nil {
		fs.store.drop(f.node)
		fs.notices.invalidate(f.node)
	}
}

// unopened closes what was opened for nobody.
func (fs *FS) unopened(h fsproto.Handle, err error) {
	if err == nil {
		_ = rpc.Call(fs.link.ctx, fs.peer, fsproto.Release, &fsproto.ReleaseReq{Handle: h}, &fsproto.Empty{})
	}
}

// undecided counts changes of which it cannot be told whether they were made.
type undecided struct {
	mu     sync.Mutex
	status UndecidedStatus
}

// note takes the error of a call.
func (u *undecided) note(op string, err error) {
	if !fsproto.IsUndecided(err) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.status = UndecidedStatus{u.status.Count + 1, op, time.Now()}
}

func (u *undecided) get() *UndecidedStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.status.Count == 0 {
		return nil
	}
	s := u.status
	return &s
}

// unwritten counts what the kernel had taken for written and the daemon has not: pages
// of mappings. Who calls fsync(2), msync(2) or close(2) is told by the kernel.
type unwritten struct {
	mu     sync.Mutex
	status UnwrittenStatus
}

func (u *unwritten) note(bytes int, st fuse.Status) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.status.Bytes += uint64(bytes)
	u.status.Error = st.String()
	u.status.Last = time.Now()
}

func (u *unwritten) get() *UnwrittenStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.status.Bytes == 0 {
		return nil
	}
	s := u.status
	return &s
}

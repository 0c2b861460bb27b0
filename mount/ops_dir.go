package mount

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// makeNode makes an entry and tells the kernel of its node. link shares it: the
// node is known there, and the reply takes one more reference.
func makeNode[Req any](fs *FS, cancel <-chan struct{}, h *fuse.InHeader, op *rpc.Op[Req, fsproto.CreateNodeRes], req *Req, parent fsproto.Node, name string, out *fuse.EntryOut) fuse.Status {
	if st := nameStatus(name); !st.Ok() {
		return st
	}
	return fs.withSpace(cancel, func() fuse.Status {
		return makeNodeOnce(fs, cancel, h, op, req, parent, name, out)
	})
}

func makeNodeOnce[Req any](fs *FS, cancel <-chan struct{}, h *fuse.InHeader, op *rpc.Op[Req, fsproto.CreateNodeRes], req *Req, parent fsproto.Node, name string, out *fuse.EntryOut) fuse.Status {
	defer fs.naming.begin()()
	defer fs.nodes.changing(parent)()
	fs.whole.making(parent, name)
	var res fsproto.CreateNodeRes
	st := call(fs, cancel, h, op, req, &res)
	if st == fuse.Status(syscall.ENFILE) {
		fs.ahead.dropAll()
		fs.trimmer.refused()
	}
	fs.nodes.touch(parent, res.Entry.Node)
	if !st.Ok() {
		return st
	}
	fs.hot.made(parent, name, res.Entry.Node)
	if op.Number == fsproto.Mkdir.Number && fs.leases.valid(res.Entry.Node, res.Entry.Attr.Lease) {
		fs.whole.made(res.Entry.Node, res.Entry.Attr.Lease)
	}
	return fs.introduce(out, &res.Entry, false, parent, name, res.Parent.Lease)
}

// Mkdir makes a directory. The kernel leaves the umask to the daemon, which
// knows whether a default ACL replaces it.
func (fs *FS) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	req := fsproto.MkdirReq{
		Parent: fsproto.Node(in.NodeId), Name: name,
		Mode: in.Mode & fsproto.ModePerm, Umask: in.Umask & 0o777, NewNode: fs.newNode(),
	}
	return makeNode(fs, cancel, &in.InHeader, fsproto.Mkdir, &req, req.Parent, name, out)
}

// Mknod makes a file of any kind but directory and symlink.
func (fs *FS) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	req := fsproto.MknodReq{
		Parent: fsproto.Node(in.NodeId), Name: name,
		Mode: in.Mode & (fsproto.ModeType | fsproto.ModePerm), Umask: in.Umask & 0o777, NewNode: fs.newNode(),
	}
	req.RdevMajor, req.RdevMinor = decodeDev(in.Rdev)
	return makeNode(fs, cancel, &in.InHeader, fsproto.Mknod, &req, req.Parent, name, out)
}

// Symlink makes a symbolic link.
func (fs *FS) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if len(target) > fsproto.MaxPath {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	req := fsproto.SymlinkReq{
		Parent: fsproto.Node(h.NodeId), Name: name, Target: []byte(target), NewNode: fs.newNode(),
	}
	return makeNode(fs, cancel, h, fsproto.Symlink, &req, req.Parent, name, out)
}

// Link makes another name for a file.
func (fs *FS) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	req := fsproto.LinkReq{Node: fsproto.Node(in.Oldnodeid), Parent: fsproto.Node(in.NodeId), Name: name}
	if st := fs.settleFor(cancel, &in.InHeader, req.Node); !st.Ok() {
		return st
	}
	defer fs.nodes.touch(req.Node)
	return makeNode(fs, cancel, &in.InHeader, fsproto.Link, &req, req.Parent, name, out)
}

// Unlink removes an entry that is no directory.
func (fs *FS) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.remove(cancel, h, fsproto.Unlink, name)
}

// Rmdir removes an empty directory.
func (fs *FS) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.remove(cancel, h, fsproto.Rmdir, name)
}

func (fs *FS) remove(cancel <-chan struct{}, h *fuse.InHeader, op *rpc.Op[fsproto.UnlinkReq, fsproto.UnlinkRes], name string) fuse.Status {
	if st := nameStatus(name); !st.Ok() {
		return st
	}
	req := fsproto.UnlinkReq{Parent: fsproto.Node(h.NodeId), Name: name}
	defer fs.nodes.changing(req.Parent)()
	var res fsproto.UnlinkRes
	st := call(fs, cancel, h, op, &req, &res)
	fs.nodes.touch(req.Parent, res.Node)
	if st.Ok() {
		fs.hot.made(req.Parent, name, 0)
	}
	return st
}

// Rename moves an entry, with the flags of renameat2(2).
func (fs *FS) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if st := nameStatus(oldName, newName); !st.Ok() {
		return st
	}
	const both = fsproto.RenameNoReplace | fsproto.RenameExchange
	if in.Flags&^both != 0 || in.Flags == both {
		return fuse.EINVAL // RENAME_WHITEOUT is for the layers of overlayfs
	}
	req := fsproto.RenameReq{
		Parent: fsproto.Node(in.NodeId), Name: oldName,
		NewParent: fsproto.Node(in.Newdir), NewName: newName, Flags: in.Flags,
	}
	brings := []entryName{{req.NewParent, newName}}
	if req.Flags&fsproto.RenameExchange != 0 {
		brings = append(brings, entryName{req.Parent, oldName})
	}
	defer fs.nodes.changing(req.Parent)()
	defer fs.nodes.moving(brings...)()
	for _, e := range brings {
		fs.whole.making(e.dir, e.name)
	}
	var res fsproto.RenameRes
	st := callWithSpace(fs, cancel, &in.InHeader, fsproto.Rename, &req, &res)
	fs.nodes.touch(req.Parent, req.NewParent, res.Node, res.Replaced)
	if !st.Ok() {
		return st
	}
	fs.nodes.renamed(res.Node, req.NewParent, newName)
	fs.hot.made(req.NewParent, newName, res.Node)
	exchanged := fsproto.Node(0)
	if in.Flags == fsproto.RenameExchange {
		exchanged = res.Replaced
		fs.nodes.renamed(exchanged, req.Parent, oldName)
	}
	fs.hot.made(req.Parent, oldName, exchanged)
	return fuse.OK
}

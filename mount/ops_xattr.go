package mount

import (
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
)

// xattrName refuses what the protocol does not carry.
func xattrName(name string) fuse.Status {
	if name == "" || len(name) > fsproto.MaxXattrName {
		return fuse.ERANGE // what setxattr(2) says of such names
	}
	return fuse.OK
}

const aclPrefix = "system.posix_acl_"

// absent answers for attributes that this mount does not have, so that ls and
// cp, which ask for them with every file, do not wait for the daemon. EOPNOTSUPP
// makes them ask no more. A daemon that serves as itself has no labels to give;
// the kernel asks for security.capability at the first write to a file, and is
// told that there is none.
func (fs *FS) absent(name string) (st fuse.Status, absent bool) {
	switch {
	case strings.HasPrefix(name, aclPrefix) && !fs.acl:
		return fuse.Status(syscall.EOPNOTSUPP), true
	case fs.runAs != fsproto.RunAsDaemon:
		return fuse.OK, false
	case name == "security.capability":
		return fuse.Status(syscall.ENODATA), true
	case strings.HasPrefix(name, "security."):
		return fuse.Status(syscall.EOPNOTSUPP), true
	}
	return fuse.OK, false
}

// GetXAttr reads an attribute into dest. If dest is too small the size needed
// is returned with ERANGE; go-fuse turns that into an answer when the program
// only asked for the size.
func (fs *FS) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if st := xattrName(attr); !st.Ok() {
		return 0, st
	}
	if st, absent := fs.absent(attr); absent {
		return 0, st
	}
	req := fsproto.GetxattrReq{Node: fsproto.Node(h.NodeId), Name: attr}
	var res fsproto.XattrRes
	if st := call(fs, cancel, h, fsproto.Getxattr, &req, &res); !st.Ok() {
		return 0, fs.noACL(attr, st)
	}
	if len(res.Value) > len(dest) {
		return uint32(len(res.Value)), fuse.ERANGE
	}
	return uint32(copy(dest, res.Value)), fuse.OK
}

// noACL says that there is no ACL where the server's file system has none: the
// kernel asks before it checks permissions, and would pass EOPNOTSUPP on to who
// opens a file.
func (fs *FS) noACL(attr string, st fuse.Status) fuse.Status {
	if fs.kernelChecks && st == fuse.Status(syscall.EOPNOTSUPP) && strings.HasPrefix(attr, aclPrefix) {
		return fuse.Status(syscall.ENODATA)
	}
	return st
}

// ListXAttr lists names, each followed by NUL; sizes as in GetXAttr.
func (fs *FS) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	req := fsproto.NodeReq{Node: fsproto.Node(h.NodeId)}
	var res fsproto.ListxattrRes
	if st := call(fs, cancel, h, fsproto.Listxattr, &req, &res); !st.Ok() {
		return 0, st
	}
	res.Names = slices.DeleteFunc(res.Names, func(name string) bool {
		_, absent := fs.absent(name)
		return absent
	})
	size := 0
	for _, name := range res.Names {
		size += len(name) + 1
	}
	if size > len(dest) {
		return uint32(size), fuse.ERANGE
	}
	list := dest[:0]
	for _, name := range res.Names {
		list = append(append(list, name...), 0)
	}
	return uint32(size), fuse.OK
}

// SetXAttr sets an attribute.
func (fs *FS) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if st := xattrName(attr); !st.Ok() {
		return st
	}
	if strings.HasPrefix(attr, aclPrefix) && !fs.acl {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	if len(data) > fsproto.MaxXattr {
		return fuse.Status(syscall.E2BIG)
	}
	if in.Flags&^(fsproto.XattrCreate|fsproto.XattrReplace) != 0 {
		return fuse.EINVAL
	}
	req := fsproto.SetxattrReq{Node: fsproto.Node(in.NodeId), Name: attr, Value: data, Flags: in.Flags}
	st, done := fs.aloneIf(true, cancel, &in.InHeader, req.Node)
	if !st.Ok() {
		return st
	}
	defer done(nil)
	var res fsproto.AttrRes
	st = callWithSpace(fs, cancel, &in.InHeader, fsproto.Setxattr, &req, &res)
	fs.nodes.touch(req.Node)
	fs.nodes.update(req.Node, func(n *node) { n.may = 0 })
	return st
}

// RemoveXAttr removes an attribute.
func (fs *FS) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	if st := xattrName(attr); !st.Ok() {
		return st
	}
	req := fsproto.RemovexattrReq{Node: fsproto.Node(h.NodeId), Name: attr}
	st, done := fs.aloneIf(true, cancel, h, req.Node)
	if !st.Ok() {
		return st
	}
	defer done(nil)
	var res fsproto.AttrRes
	st = call(fs, cancel, h, fsproto.Removexattr, &req, &res)
	fs.nodes.touch(req.Node)
	fs.nodes.update(req.Node, func(n *node) { n.may = 0 })
	return st
}

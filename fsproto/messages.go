package fsproto

import "github.com/rpycfs/rpycfs/rpc"

// NodeReq names a node.
type NodeReq struct{ Node Node }

// Fields lists the fields of m.
func (m *NodeReq) Fields(c *rpc.Codec) { c.U64((*uint64)(&m.Node)) }

// HandleReq names an open file.
type HandleReq struct{ Handle Handle }

// Fields lists the fields of m.
func (m *HandleReq) Fields(c *rpc.Codec) { c.U64((*uint64)(&m.Handle)) }

// AttrRes answers with the attributes of the node that the request touched.
type AttrRes struct{ Attr Attr }

// Fields lists the fields of m.
func (m *AttrRes) Fields(c *rpc.Codec) { m.Attr.Fields(c) }

// EntryRes answers with a node.
type EntryRes struct{ Entry Entry }

// Fields lists the fields of m.
func (m *EntryRes) Fields(c *rpc.Codec) { m.Entry.Fields(c) }

// AttachReq makes the directory at Path, seen from the user's root, node 1 of
// the session. No component may be a symbolic link. A session attaches once.
type AttachReq struct{ Path []string }

// Fields lists the fields of m.
func (m *AttachReq) Fields(c *rpc.Codec) { rpc.List(c, &m.Path, MaxPath/2, 5, name) }

// Modes of AttachRes.RunAs: whose rights decide in this session. A daemon that
// runs as the caller serves a user whom it does not trust as the account.
const (
	RunAsDaemon  uint8 = iota // the daemon's user, for everybody
	RunAsAccount              // the local account of the authenticated user
	RunAsCaller               // the credential that comes with each call
)

// Flags of AttachRes.
const (
	ExportReadOnly uint32 = 1 << iota // nothing can be changed
	ExportVolatile                    // file handles need (parent, name) to be resolved
	exportFlagsEnd
)

// AttachRes describes the export.
type AttachRes struct {
	Entry    Entry
	Flags    uint32 // Export… bits
	RunAs    uint8
	UID, GID uint32 // the identity behind credential 0 on the server: the daemon, the account, or what root is there
}

// Fields lists the fields of m.
func (m *AttachRes) Fields(c *rpc.Codec) {
	m.Entry.Fields(c)
	c.Flags(&m.Flags, exportFlagsEnd-1)
	c.U8(&m.RunAs)
	if m.RunAs > RunAsCaller {
		c.Fail(rpc.ErrValue)
	}
	c.U32(&m.UID)
	c.U32(&m.GID)
}

// ResolveReq finds a node again by its file handle. Where handles are volatile
// the node must still be entry Name of Parent, a node that is known already.
type ResolveReq struct {
	FileHandle FileHandle
	Volatile   bool
	Parent     Node   // with Volatile
	Name       string // with Volatile
}

// Fields lists the fields of m.
func (m *ResolveReq) Fields(c *rpc.Codec) {
	c.Bytes((*[]byte)(&m.FileHandle), MaxFileHandle)
	c.Bool(&m.Volatile)
	if m.Volatile {
		c.U64((*uint64)(&m.Parent))
		name(c, &m.Name)
	}
}

// Forgotten is a node that the client gives up. The server drops it unless a
// later reply than Stamp has named it.
type Forgotten struct {
	Node  Node
	Stamp uint64
}

// ForgetReq gives up nodes. Unknown ones are passed over. A client waits for the
// replies to the calls that could name a node and were under way when it was done
// with it: the stamp covers the replies that it has not seen yet, too.
type ForgetReq struct{ Nodes []Forgotten }

// Fields lists the fields of m.
func (m *ForgetReq) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Nodes, MaxForget, 16, func(c *rpc.Codec, f *Forgotten) {
		c.U64((*uint64)(&f.Node))
		c.U64(&f.Stamp)
	})
}

// CredReq registers a credential under an ID of the client's choice (not 0),
// replacing an earlier one. Calls name it; what it is worth the server decides:
// something only with RunAsCaller, where user and group 0 become 65534 unless the
// user has no-root-squash. An id of 2³²−1 is no id (EINVAL). A replacement does not
// concern calls that are under way, nor open files: what is done through one is
// done with the rights of the credential that opened it. Credential 0 need not be
// registered.
type CredReq struct {
	ID       uint32
	UID, GID uint32
	Groups   []uint32
}

// Fields lists the fields of m.
func (m *CredReq) Fields(c *rpc.Codec) {
	c.U32(&m.ID)
	c.U32(&m.UID)
	c.U32(&m.GID)
	rpc.List(c, &m.Groups, MaxGroups, 4, (*rpc.Codec).U32)
}

// LookupReq asks for entry Name of directory Parent.
type LookupReq struct {
	Parent Node
	Name   string
}

// Fields lists the fields of m.
func (m *LookupReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Parent))
	name(c, &m.Name)
}

// LookupRes answers a lookup. That there is no such entry is an answer too, and
// carries the directory's attributes like any other.
type LookupRes struct {
	Parent Attr
	Exists bool
	Entry  Entry // with Exists
}

// Fields lists the fields of m.
func (m *LookupRes) Fields(c *rpc.Codec) {
	m.Parent.Fields(c)
	c.Bool(&m.Exists)
	if m.Exists {
		m.Entry.Fields(c)
	}
}

// GetattrReq asks for attributes, through Handle unless it is 0.
type GetattrReq struct {
	Node   Node
	Handle Handle
}

// Fields lists the fields of m.
func (m *GetattrReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Node))
	c.U64((*uint64)(&m.Handle))
}

// Bits of SetattrReq.Mask.
const (
	SetMode     uint32 = 1 << iota
	SetUID             // change the owner
	SetGID             // change the group
	SetSize            // truncate or extend
	SetAtime           // to Atime
	SetMtime           // to Mtime
	SetAtimeNow        // to the server's clock
	SetMtimeNow        // to the server's clock
	SetKillPriv        // with SetSize: drop set-id bits as a write does
	setMaskEnd
)

// SetattrReq changes the attributes that Mask names, in one operation as far as
// the server's file system allows: size first, then owner, mode and times.
type SetattrReq struct {
	Node         Node
	Handle       Handle // 0, or an open file whose rights decide about SetSize
	Mask         uint32
	Mode         uint32 // permission bits
	UID, GID     uint32
	Size         uint64
	Atime, Mtime Time
}

// Fields lists the fields of m.
func (m *SetattrReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Node))
	c.U64((*uint64)(&m.Handle))
	c.Flags(&m.Mask, setMaskEnd-1)
	c.U32(&m.Mode)
	c.U32(&m.UID)
	c.U32(&m.GID)
	c.U64(&m.Size)
	m.Atime.Fields(c)
	m.Mtime.Fields(c)
}

// AccessReq asks whether the caller's credential may do all of Mask (bits
// AccessExec, AccessWrite, AccessRead; 0 asks for existence). EACCES if not. The
// reply tells of all three rights, whatever Mask is (Attr.Access).
type AccessReq struct {
	Node Node
	Mask uint8
}

// Fields lists the fields of m.
func (m *AccessReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Node))
	c.U8(&m.Mask)
	if m.Mask > 7 {
		c.Fail(rpc.ErrValue)
	}
}

// StatfsReq asks about the file system that holds Node.
type StatfsReq = NodeReq

// StatfsRes is what statfs(2) tells. Blocks are units of FragmentSize bytes.
type StatfsRes struct {
	Blocks, BlocksFree, BlocksAvail uint64
	Files, FilesFree                uint64
	BlockSize, FragmentSize         uint32
	NameLen                         uint32
}

// Fields lists the fields of m.
func (m *StatfsRes) Fields(c *rpc.Codec) {
	c.U64(&m.Blocks)
	c.U64(&m.BlocksFree)
	c.U64(&m.BlocksAvail)
	c.U64(&m.Files)
	c.U64(&m.FilesFree)
	c.U32(&m.BlockSize)
	c.U32(&m.FragmentSize)
	c.U32(&m.NameLen)
}

// SyncfsReq puts the whole file system that holds directory Node on stable
// storage (syncfs(2)). It may be repeated.
type SyncfsReq = NodeReq

// ReadlinkReq asks for the target of a symbolic link.
type ReadlinkReq = NodeReq

// ReadlinkRes holds the target, any bytes but NUL.
type ReadlinkRes struct {
	Target []byte
	Attr   Attr
}

// Fields lists the fields of m.
func (m *ReadlinkRes) Fields(c *rpc.Codec) {
	c.Bytes(&m.Target, MaxPath)
	m.Attr.Fields(c)
}

// GetxattrReq asks for the value of an extended attribute. ENODATA if none.
type GetxattrReq struct {
	Node Node
	Name string
}

// Fields lists the fields of m.
func (m *GetxattrReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Node))
	c.String(&m.Name, MaxXattrName)
}

// XattrRes holds the value of an extended attribute.
type XattrRes struct {
	Value []byte
	Attr  Attr
}

// Fields lists the fields of m.
func (m *XattrRes) Fields(c *rpc.Codec) {
	c.Bytes(&m.Value, MaxXattr)
	m.Attr.Fields(c)
}

// Flags of SetxattrReq, as setxattr(2) has them.
const (
	XattrCreate  uint32 = 1
	XattrReplace uint32 = 2
)

// SetxattrReq sets an extended attribute.
type SetxattrReq struct {
	Node  Node
	Name  string
	Value []byte
	Flags uint32 // Xattr… bits
}

// Fields lists the fields of m.
func (m *SetxattrReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Node))
	c.String(&m.Name, MaxXattrName)
	c.Bytes(&m.Value, MaxXattr)
	c.Flags(&m.Flags, XattrCreate|XattrReplace)
}

// ListxattrRes holds the names of extended attributes.
type ListxattrRes struct {
	Names []string
	Attr  Attr
}

// Fields lists the fields of m.
func (m *ListxattrRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Names, MaxXattr/2, 5, func(c *rpc.Codec, s *string) { c.String(s, MaxXattrName) })
	m.Attr.Fields(c)
}

// RemovexattrReq removes an extended attribute.
type RemovexattrReq = GetxattrReq

package fsproto

import "github.com/rpycfs/rpycfs/rpc"

// ReaddirReq reads entries of an open directory after the one that Cookie
// belongs to; 0 starts at the beginning. The reply ends when it reaches Size
// bytes or MaxEntries.
type ReaddirReq struct {
	Handle  Handle
	Cookie  uint64
	Size    uint32 // bytes of reply, at most MaxData
	Entries bool   // nodes and attributes too
}

// Fields lists the fields of m.
func (m *ReaddirReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Handle))
	c.U64(&m.Cookie)
	c.U32(&m.Size)
	if m.Size > MaxData {
		c.Fail(rpc.ErrTooLong)
	}
	c.Bool(&m.Entries)
}

// Dirent is one entry of a directory. "." and ".." are not listed.
type Dirent struct {
	Name   string
	Cookie uint64 // opaque; continues after this entry
	Ino    uint64
	Type   uint32 // ModeType bits; 0: unknown
	Known  bool   // Entry is set
	Entry  Entry
}

// Fields lists the fields of m.
func (m *Dirent) Fields(c *rpc.Codec) {
	name(c, &m.Name)
	c.U64(&m.Cookie)
	c.U64(&m.Ino)
	c.U32(&m.Type)
	c.Bool(&m.Known)
	if m.Known {
		m.Entry.Fields(c)
	}
}

// DirentSize is the encoded size of an entry with a name of n bytes, in bytes;
// of one with node and attributes and a file handle of h bytes if known.
func DirentSize(n int, known bool, h int) int {
	size := 4 + n + 8 + 8 + 4 + 1
	if known {
		size += entryLeast + h
	}
	return size
}

// ReaddirRes holds entries in the server's order. End is set when the last one
// is the directory's last.
type ReaddirRes struct {
	Dir     Attr
	End     bool
	Entries []Dirent
}

// Fields lists the fields of m.
func (m *ReaddirRes) Fields(c *rpc.Codec) {
	m.Dir.Fields(c)
	c.Bool(&m.End)
	rpc.List(c, &m.Entries, MaxEntries, 26, func(c *rpc.Codec, d *Dirent) { d.Fields(c) })
}

// CreateNodeRes answers mkdir, mknod, symlink and link.
type CreateNodeRes = CreateRes

// MkdirReq makes a directory. The effective mode is Mode &^ Umask, or what the
// parent's default ACL says.
type MkdirReq struct {
	Parent      Node
	Name        string
	Mode, Umask uint32
	NewNode     Node // number for the node, with the ClientChosen bit
}

// Fields lists the fields of m.
func (m *MkdirReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Parent))
	name(c, &m.Name)
	c.U32(&m.Mode)
	c.U32(&m.Umask)
	c.U64((*uint64)(&m.NewNode))
}

// MknodReq makes a regular file, FIFO, socket or device. Mode holds the type.
type MknodReq struct {
	Parent               Node
	Name                 string
	Mode, Umask          uint32
	RdevMajor, RdevMinor uint32
	NewNode              Node
}

// Fields lists the fields of m.
func (m *MknodReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Parent))
	name(c, &m.Name)
	c.U32(&m.Mode)
	c.U32(&m.Umask)
	c.U32(&m.RdevMajor)
	c.U32(&m.RdevMinor)
	c.U64((*uint64)(&m.NewNode))
}

// SymlinkReq makes a symbolic link. Target is any bytes but NUL, not empty.
type SymlinkReq struct {
	Parent  Node
	Name    string
	Target  []byte
	NewNode Node
}

// Fields lists the fields of m.
func (m *SymlinkReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Parent))
	name(c, &m.Name)
	c.Bytes(&m.Target, MaxPath)
	for _, b := range m.Target {
		if b == 0 {
			c.Fail(rpc.ErrValue)
		}
	}
	c.U64((*uint64)(&m.NewNode))
}

// LinkReq makes another name for Node.
type LinkReq struct {
	Node   Node
	Parent Node
	Name   string
}

// Fields lists the fields of m.
func (m *LinkReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Node))
	c.U64((*uint64)(&m.Parent))
	name(c, &m.Name)
}

// UnlinkReq removes an entry: unlink anything but a directory, rmdir an empty
// directory.
type UnlinkReq struct {
	Parent Node
	Name   string
}

// Fields lists the fields of m.
func (m *UnlinkReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Parent))
	name(c, &m.Name)
}

// UnlinkRes tells which node lost a name, 0 if the session does not know it,
// and its attributes afterwards.
type UnlinkRes struct {
	Parent Attr
	Node   Node
	Attr   Attr // with Node
}

// Fields lists the fields of m.
func (m *UnlinkRes) Fields(c *rpc.Codec) {
	m.Parent.Fields(c)
	nodeAttr(c, &m.Node, &m.Attr)
}

// nodeAttr is a node number and, unless it is 0, the node's attributes.
func nodeAttr(c *rpc.Codec, n *Node, a *Attr) {
	c.U64((*uint64)(n))
	if *n != 0 {
		a.Fields(c)
	}
}

// Flags of RenameReq, as renameat2(2) has them.
const (
	RenameNoReplace uint32 = 1
	RenameExchange  uint32 = 2
)

// RenameReq renames an entry. Both flags together are refused.
type RenameReq struct {
	Parent    Node
	Name      string
	NewParent Node
	NewName   string
	Flags     uint32 // Rename… bits
}

// Fields lists the fields of m.
func (m *RenameReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Parent))
	name(c, &m.Name)
	c.U64((*uint64)(&m.NewParent))
	name(c, &m.NewName)
	c.Flags(&m.Flags, RenameNoReplace|RenameExchange)
	if m.Flags == RenameNoReplace|RenameExchange {
		c.Fail(rpc.ErrValue)
	}
}

// RenameRes tells the nodes that were moved and replaced (or exchanged), 0 if
// the session does not know them, and the attributes of all.
type RenameRes struct {
	Parent, NewParent Attr
	Node              Node
	Attr              Attr // with Node
	Replaced          Node
	ReplacedAttr      Attr // with Replaced
}

// Fields lists the fields of m.
func (m *RenameRes) Fields(c *rpc.Codec) {
	m.Parent.Fields(c)
	m.NewParent.Fields(c)
	nodeAttr(c, &m.Node, &m.Attr)
	nodeAttr(c, &m.Replaced, &m.ReplacedAttr)
}

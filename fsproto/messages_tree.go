package fsproto

import (
	"cmp"
	"strings"

	"github.com/rpycfs/rpycfs/rpc"
)

// TreeReq lists directories, from their beginning and with nodes and attributes, in the
// order given. With Below each is followed by the directories in it, and so on. The first
// one is told in part if it would be longer than First. The others are at most Size long;
// one for which there is no room any more is passed over, with those below it.
type TreeReq struct {
	Dirs  []Node
	First uint32 // bytes; 0: the first one is like the others
	Size  uint32 // bytes; both together are at most MaxData
	Below bool
	Order uint8 // Tree…: of directories in one
}

// Orders of entries (TreeReq.Order).
const (
	TreeAsListed uint8 = iota
	TreeByName         // of the names' bytes
	TreeByInode        // of the inode numbers
	TreeOrders         // how many there are
)

// TreeCompare compares entries by one of the orders but that of listings.
func TreeCompare(order uint8, a, b *Dirent) int {
	if order == TreeByInode {
		return cmp.Compare(a.Ino, b.Ino)
	}
	return strings.Compare(a.Name, b.Name)
}

// Fields lists the fields of m.
func (m *TreeReq) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Dirs, MaxTree, 8, func(c *rpc.Codec, n *Node) { c.U64((*uint64)(n)) })
	c.U32(&m.First)
	c.U32(&m.Size)
	if m.First > MaxData || m.Size > MaxData-m.First {
		c.Fail(rpc.ErrTooLong)
	}
	c.Bool(&m.Below)
	c.U8(&m.Order)
	if m.Order >= TreeOrders {
		c.Fail(rpc.ErrValue)
	}
}

// TreeDir is a directory of a tree. End is set when Entries are all of it. Who may list
// it may open it, too.
type TreeDir struct {
	Node    Node
	Failed  bool     // it cannot be listed; nothing follows
	Dir     Attr     // unless Failed
	End     bool     // unless Failed
	Entries []Dirent // unless Failed
}

// TreeDirSize is the encoded size of a TreeDir without its entries, in bytes.
const TreeDirSize = 8 + 1 + attrSize + 1 + 4

// Fields lists the fields of m.
func (m *TreeDir) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Node))
	c.Bool(&m.Failed)
	if m.Failed {
		return
	}
	m.Dir.Fields(c)
	c.Bool(&m.End)
	rpc.List(c, &m.Entries, MaxEntries, 26, func(c *rpc.Codec, d *Dirent) { d.Fields(c) })
}

// TreeRes holds directories in the order in which they were listed. Those that were
// asked for and are not among them were not come to.
type TreeRes struct{ Dirs []TreeDir }

// Fields lists the fields of m.
func (m *TreeRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Dirs, MaxTree, 9, func(c *rpc.Codec, d *TreeDir) { d.Fields(c) })
}

// FilePart is a part of a file.
type FilePart struct {
	Node   Node
	Offset uint64
	Size   uint32 // at most MaxData
}

// ReadfileReq opens files for reading, reads a part of each and closes them. All parts
// together are at most MaxData.
type ReadfileReq struct{ Parts []FilePart }

// Fields lists the fields of m.
func (m *ReadfileReq) Fields(c *rpc.Codec) {
	left := uint32(MaxData)
	rpc.List(c, &m.Parts, MaxTree, 20, func(c *rpc.Codec, p *FilePart) {
		c.U64((*uint64)(&p.Node))
		c.U64(&p.Offset)
		c.U32(&p.Size)
		if p.Size > left {
			c.Fail(rpc.ErrTooLong)
			return
		}
		left -= p.Size
	})
}

// FileData is what was read of a part. The session may open the file for reading. Fewer
// bytes than were asked for mean the end of the file.
type FileData struct {
	Read bool   // it could be opened and read, and is not shared (OpenRes)
	Attr Attr   // with Read
	Data []byte // with Read
}

// ReadfileRes answers for the parts that were asked for, in their order; those at the end
// may be missing.
type ReadfileRes struct{ Parts []FileData }

// Fields lists the fields of m.
func (m *ReadfileRes) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Parts, MaxTree, 1, func(c *rpc.Codec, d *FileData) {
		c.Bool(&d.Read)
		if d.Read {
			d.Attr.Fields(c)
			c.Bytes(&d.Data, MaxData)
		}
	})
}

// Package fsproto is the file service's protocol: the operations, their
// messages, and the numbers in them. Both sides import it; it does nothing.
//
// All numbers are the protocol's own, with Linux's values where they agree;
// host values are translated at the edges. Names and link targets are bytes.
package fsproto

import (
	"time"

	"github.com/rpycfs/rpycfs/rpc"
)

// Limits of the file service, in bytes unless noted.
const (
	MaxName       = 255     // one path component
	MaxPath       = 4096    // a symlink's target; all components of an attach path together
	MaxFileHandle = 128     // a persistent file handle
	MaxXattrName  = 255     // name of an extended attribute
	MaxXattr      = 1 << 16 // value of an extended attribute, and a list of their names
	MaxData       = 1 << 20 // payload of one read or write
	MaxEntries    = 8192    // entries in one readdir reply
	MaxGroups     = 64      // supplementary groups of a credential
	MaxForget     = 4096    // nodes in one forget
	MaxReleases   = 1024    // handles in one releases
	MaxCreds      = 1024    // credentials of one session, without credential 0
	MaxOwners     = 128     // users, and groups, in one names or ids
	MaxOwnerName  = 256     // name of a user or group
	MaxRecalls    = 1024    // nodes in one recall
	MaxRecallName = 64      // names of one directory in one recall
	MaxEvents     = 256     // changes in one events
	MaxTree       = 1024    // directories in one tree, parts of files in one readfile
)

// Node numbers name files and directories within one session. 1 is the root
// that the session attached; numbers with the top bit set are chosen by the
// client for what it creates, all others by the server. A number is never
// reused within a session. A node that was made under a number of the client's
// choice and turns out to be known already answers to both.
type Node uint64

// RootNode is the attached root.
const RootNode Node = 1

// ClientChosen is the bit that marks numbers chosen by the client.
const ClientChosen = 1 << 63

// Handle numbers name open files and directories within one session. They are
// chosen by the client, without the ClientChosen bit having a meaning, never 0
// and never reused.
type Handle uint64

// FileHandle finds a node again across sessions and restarts of the daemon. It
// is opaque, authenticated by the server and at most MaxFileHandle bytes.
type FileHandle []byte

// Time is a point in time since 1970-01-01 UTC. Nsec is below 10⁹.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Fields lists the fields of t.
func (t *Time) Fields(c *rpc.Codec) {
	c.I64(&t.Sec)
	c.U32(&t.Nsec)
	if t.Nsec >= uint32(time.Second) {
		c.Fail(rpc.ErrValue)
	}
}

// File types and mode bits, as in <sys/stat.h> on Linux.
const (
	ModeType    = 0o170000
	ModeFIFO    = 0o010000
	ModeChar    = 0o020000
	ModeDir     = 0o040000
	ModeBlock   = 0o060000
	ModeRegular = 0o100000
	ModeSymlink = 0o120000
	ModeSocket  = 0o140000
	ModeSetUID  = 0o4000
	ModeSetGID  = 0o2000
	ModeSticky  = 0o1000
	ModePerm    = 0o7777
)

// Flags of Attr.
const (
	AttrNoXattrs uint32 = 1 << iota // the node has no extended attributes and no ACL
	AttrHasBtime                    // Btime is known
	attrFlagsEnd
)

// Bits of Attr.Access: what the asking credential may do. The bits say nothing
// unless AccessKnown is among them; a reply to access has it and tells about all
// three rights at once.
const (
	AccessExec  uint8 = 1
	AccessWrite uint8 = 2
	AccessRead  uint8 = 4
	AccessKnown uint8 = 8
	accessBits        = 15
)

// Attr are the attributes of a node. Every reply that touches a node carries
// them.
type Attr struct {
	Ino                        uint64 // the server's inode number
	Size                       uint64 // bytes
	Blocks                     uint64 // 512-byte units
	BlockSize                  uint32 // preferred for I/O, bytes
	Mode                       uint32 // type and permission bits
	Nlink                      uint32
	UID, GID                   uint32 // the server's
	RdevMajor, RdevMinor       uint32
	Atime, Mtime, Ctime, Btime Time
	Change                     uint64 // differs whenever data or attributes differ
	Lease                      uint64 // the lease that the session holds on the node now, maybe LeaseBrief; 0: none
	Flags                      uint32 // Attr… bits
	Access                     uint8  // Access… bits
}

// attrSize is the encoded size of Attr, in bytes.
const attrSize = 3*8 + 7*4 + 4*12 + 2*8 + 4 + 1

// Fields lists the fields of a.
func (a *Attr) Fields(c *rpc.Codec) {
	c.U64(&a.Ino)
	c.U64(&a.Size)
	c.U64(&a.Blocks)
	c.U32(&a.BlockSize)
	c.U32(&a.Mode)
	c.U32(&a.Nlink)
	c.U32(&a.UID)
	c.U32(&a.GID)
	c.U32(&a.RdevMajor)
	c.U32(&a.RdevMinor)
	a.Atime.Fields(c)
	a.Mtime.Fields(c)
	a.Ctime.Fields(c)
	a.Btime.Fields(c)
	c.U64(&a.Change)
	c.U64(&a.Lease)
	c.Flags(&a.Flags, attrFlagsEnd-1)
	c.U8(&a.Access)
	if a.Access&^accessBits != 0 {
		c.Fail(rpc.ErrValue)
	}
}

// Type returns the file type bits of the mode.
func (a *Attr) Type() uint32 { return a.Mode & ModeType }

// IsDir reports whether the attributes are a directory's.
func (a *Attr) IsDir() bool { return a.Type() == ModeDir }

// Entry is a node as a reply introduces it to the client. Stamp rises with
// every reply that names the node; forget sends the last one seen.
type Entry struct {
	Node       Node
	Stamp      uint64
	FileHandle FileHandle // empty: the server has none for it
	Attr       Attr
}

// Fields lists the fields of e.
func (e *Entry) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&e.Node))
	c.U64(&e.Stamp)
	c.Bytes((*[]byte)(&e.FileHandle), MaxFileHandle)
	e.Attr.Fields(c)
}

const entryLeast = 8 + 8 + 4 + attrSize

// name is one path component. The empty name, ".", ".." and names with "/" or
// NUL do not decode.
func name(c *rpc.Codec, v *string) {
	c.String(v, MaxName)
	if !ValidName(*v) {
		c.Fail(rpc.ErrValue)
	}
}

// ValidName reports whether s may be the name of a directory entry: 1 to
// MaxName bytes, not "." or "..", without "/" and NUL.
func ValidName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > MaxName {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] == '/' || s[i] == 0 {
			return false
		}
	}
	return true
}

// Empty is a message without fields.
type Empty struct{}

// Fields lists no fields.
func (*Empty) Fields(*rpc.Codec) {}

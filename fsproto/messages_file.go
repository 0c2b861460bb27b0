package fsproto

import "github.com/rpycfs/rpycfs/rpc"

// Flags of OpenReq and CreateReq: exactly one access mode, and the others as
// open(2) means them. The client resolves O_NOFOLLOW, O_CLOEXEC and O_NOCTTY.
const (
	OpenRead      uint32 = 0
	OpenWrite     uint32 = 1
	OpenReadWrite uint32 = 2
	OpenAccess    uint32 = 3 // mask of the access mode; 3 itself is refused
	OpenExclusive uint32 = 1 << 2
	OpenTruncate  uint32 = 1 << 3
	OpenAppend    uint32 = 1 << 4
	OpenSync      uint32 = 1 << 5 // O_SYNC
	OpenDataSync  uint32 = 1 << 6 // O_DSYNC
	OpenDirect    uint32 = 1 << 7
	OpenNoAtime   uint32 = 1 << 8
	OpenDir       uint32 = 1 << 9  // O_DIRECTORY
	OpenExec      uint32 = 1 << 10 // for execve(2): with OpenRead alone, the right to execute is enough
	OpenKillPriv  uint32 = 1 << 11 // with OpenTruncate: drop set-id bits as a write does
	OpenDelay     uint32 = 1 << 12 // the client wants to delay writes: see LeaseWrite
	openFlags            = 1<<13 - 1
)

func openFlagsField(c *rpc.Codec, v *uint32) {
	c.Flags(v, openFlags)
	if *v&OpenAccess == OpenAccess {
		c.Fail(rpc.ErrValue)
	}
}

// OpenReq opens Node (a regular file for open, a directory for opendir) under a
// handle number that the client chose.
type OpenReq struct {
	Node   Node
	Handle Handle
	Flags  uint32 // Open… bits
}

// Fields lists the fields of m.
func (m *OpenReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Node))
	c.U64((*uint64)(&m.Handle))
	openFlagsField(c, &m.Flags)
}

// OpenRes answers an open with the attributes after it.
type OpenRes struct {
	Attr Attr
	// Shared says that this session and others have the file open and one of them may
	// write: reads and writes are not to be answered from a cache.
	Shared bool
}

// Fields lists the fields of m.
func (m *OpenRes) Fields(c *rpc.Codec) {
	m.Attr.Fields(c)
	c.Bool(&m.Shared)
}

// CreateReq creates entry Name of Parent as a regular file and opens it; without
// OpenExclusive an existing one is opened. The effective mode is Mode &^ Umask,
// or what the parent's default ACL says.
type CreateReq struct {
	Parent      Node
	Name        string
	Mode, Umask uint32
	Flags       uint32 // Open… bits
	NewNode     Node   // number for the node, with the ClientChosen bit
	Handle      Handle
}

// Fields lists the fields of m.
func (m *CreateReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Parent))
	name(c, &m.Name)
	c.U32(&m.Mode)
	c.U32(&m.Umask)
	openFlagsField(c, &m.Flags)
	c.U64((*uint64)(&m.NewNode))
	c.U64((*uint64)(&m.Handle))
}

// CreateRes answers create. Entry.Node is the number to use from now on; it
// differs from NewNode when the file was known before.
type CreateRes struct {
	Parent Attr
	Entry  Entry
}

// Fields lists the fields of m.
func (m *CreateRes) Fields(c *rpc.Codec) {
	m.Parent.Fields(c)
	m.Entry.Fields(c)
}

// TmpfileReq creates a file without a name (O_TMPFILE) in the file system of
// directory Parent and opens it.
type TmpfileReq struct {
	Parent      Node
	Mode, Umask uint32
	Flags       uint32
	NewNode     Node
	Handle      Handle
}

// Fields lists the fields of m.
func (m *TmpfileReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Parent))
	c.U32(&m.Mode)
	c.U32(&m.Umask)
	openFlagsField(c, &m.Flags)
	c.U64((*uint64)(&m.NewNode))
	c.U64((*uint64)(&m.Handle))
}

// ReadReq reads Size bytes at Offset. The data comes as the reply's payload;
// fewer bytes mean the end of the file.
type ReadReq struct {
	Handle Handle
	Offset uint64
	Size   uint32 // at most MaxData
}

// Fields lists the fields of m.
func (m *ReadReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Handle))
	c.U64(&m.Offset)
	c.U32(&m.Size)
	if m.Size > MaxData {
		c.Fail(rpc.ErrTooLong)
	}
}

// Flags of WriteReq.
const (
	WriteAppend   uint32 = 1 << iota // at the end of the file, whatever Offset says
	WriteKillPriv                    // drop set-id bits
	WriteSync                        // as with O_SYNC, for this write
	WriteDataSync                    // as with O_DSYNC, for this write
	writeFlagsEnd
)

// WriteReq writes the request's payload at Offset.
type WriteReq struct {
	Handle Handle
	Offset uint64
	Flags  uint32 // Write… bits
}

// Fields lists the fields of m.
func (m *WriteReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Handle))
	c.U64(&m.Offset)
	c.Flags(&m.Flags, writeFlagsEnd-1)
}

// WriteRes tells how many bytes were written, where, and the attributes (with
// the new size) after it.
type WriteRes struct {
	Count  uint32
	Offset uint64
	Attr   Attr
}

// Fields lists the fields of m.
func (m *WriteRes) Fields(c *rpc.Codec) {
	c.U32(&m.Count)
	c.U64(&m.Offset)
	m.Attr.Fields(c)
}

// FsyncReq puts a file or directory on stable storage.
type FsyncReq struct {
	Handle   Handle
	DataOnly bool // fdatasync(2)
}

// Fields lists the fields of m.
func (m *FsyncReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Handle))
	c.Bool(&m.DataOnly)
}

// ReleaseReq closes a handle. An unknown one is an error (EBADF).
type ReleaseReq = HandleReq

// ReleasesReq closes many handles. Unknown ones are passed over.
type ReleasesReq struct{ Handles []Handle }

// Fields lists the fields of m.
func (m *ReleasesReq) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Handles, MaxReleases, 8, func(c *rpc.Codec, h *Handle) { c.U64((*uint64)(h)) })
}

// Modes of FallocateReq, as fallocate(2) has them.
const (
	FallocKeepSize  uint32 = 0x01
	FallocPunchHole uint32 = 0x02
	FallocZeroRange uint32 = 0x10
)

// FallocateReq allocates, punches or zeroes a range.
type FallocateReq struct {
	Handle         Handle
	Mode           uint32 // Falloc… bits
	Offset, Length uint64
}

// Fields lists the fields of m.
func (m *FallocateReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Handle))
	c.Flags(&m.Mode, FallocKeepSize|FallocPunchHole|FallocZeroRange)
	c.U64(&m.Offset)
	c.U64(&m.Length)
}

// Whence of LseekReq.
const (
	SeekData uint8 = 3
	SeekHole uint8 = 4
)

// LseekReq finds data or a hole at or after Offset. ENXIO beyond the end.
type LseekReq struct {
	Handle Handle
	Offset uint64
	Whence uint8
}

// Fields lists the fields of m.
func (m *LseekReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Handle))
	c.U64(&m.Offset)
	c.U8(&m.Whence)
	if m.Whence != SeekData && m.Whence != SeekHole {
		c.Fail(rpc.ErrValue)
	}
}

// LseekRes holds the offset found.
type LseekRes struct {
	Offset uint64
	Attr   Attr
}

// Fields lists the fields of m.
func (m *LseekRes) Fields(c *rpc.Codec) {
	c.U64(&m.Offset)
	m.Attr.Fields(c)
}

// CopyReq copies a range between two open files on the server.
type CopyReq struct {
	From       Handle
	FromOffset uint64
	To         Handle
	ToOffset   uint64
	Length     uint64
}

// Fields lists the fields of m.
func (m *CopyReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.From))
	c.U64(&m.FromOffset)
	c.U64((*uint64)(&m.To))
	c.U64(&m.ToOffset)
	c.U64(&m.Length)
}

// CopyRes tells how many bytes were copied (fewer than asked is no error) and
// the attributes of the target.
type CopyRes struct {
	Count uint64
	Attr  Attr
}

// Fields lists the fields of m.
func (m *CopyRes) Fields(c *rpc.Codec) {
	c.U64(&m.Count)
	m.Attr.Fields(c)
}

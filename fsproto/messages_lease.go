package fsproto

import "github.com/rpycfs/rpycfs/rpc"

// A lease is the server's promise to call the client back before what a reply has
// told of a node is no longer so. On a file it covers attributes and data; on a
// directory its attributes and, for every name, which node that is, or that there
// is none. A session gets leases once it has called leases. Attr.Lease of a reply is,
// without LeaseBrief, a number that rises with every change in the export: a recall that names a higher
// one has overtaken the reply, whose lease is void then.

// LeaseBrief is set in Attr.Lease where programs on the server may change the node
// without the server's knowing, as it has no means to watch it. The lease promises
// what others do as to changes by sessions. Beyond that, what the reply tells is good
// for a second.
const LeaseBrief = 1 << 63

// LeaseWrite is set in Attr.Lease of the file in replies to create and to open, if that
// was asked for (OpenDelay), and the session alone has the file open, and a lease on it.
// The client may answer writes to it, and changes of its attributes, before it sends
// them: nobody else is told of the file before the client has been called back for
// RecallWrite, or for anything else about the file, and has answered. It ends with that,
// and when the session has the file open for writing no more.
const LeaseWrite = 1 << 62

// How the server learns of changes that programs on it make (LeasesRes.Events).
const (
	EventsNone     uint8 = iota // not at all: every lease is brief
	EventsInotify               // of what is watched one by one; leases on anything else are brief
	EventsFanotify              // of the whole file system, or likewise one by one
)

// LeasesReq asks for leases. With Events the client is told, too, of what others have
// done in directories and to files that it knows.
type LeasesReq struct{ Events bool }

// Fields lists the fields of m.
func (m *LeasesReq) Fields(c *rpc.Codec) { c.Bool(&m.Events) }

// LeasesRes answers that the session gets leases from now on.
type LeasesRes struct {
	Events uint8  // Events…
	Why    string // why there is nothing better; for people
}

// Fields lists the fields of m.
func (m *LeasesRes) Fields(c *rpc.Codec) {
	c.U8(&m.Events)
	if m.Events > EventsFanotify {
		c.Fail(rpc.ErrValue)
	}
	c.String(&m.Why, MaxName)
}

// What a recall concerns (Recalled.What).
const (
	RecallAttr  uint8 = 1 << iota // attributes, extended attributes and, of a directory, the listing
	RecallData                    // the bytes of a file
	RecallNames                   // all names of a directory
	RecallWrite                   // the right to delay writes; alone it ends nothing else
	recallEnd
)

// Recalled is a node that is about to change, or has changed. The lease on a file
// ends with it; that on a directory goes on for all names that are not recalled.
type Recalled struct {
	Node  Node
	Lease uint64 // leases below are void
	What  uint8  // Recall… bits
	Names []string
}

// RecallReq takes leases back. It is answered when nothing of what it concerns is
// cached any more, by the client or its kernel. All concerns everything that the
// client has: it did not answer in time, or events were lost.
type RecallReq struct {
	All   bool
	Lease uint64 // with All: leases below are void
	Nodes []Recalled
}

// Fields lists the fields of m.
func (m *RecallReq) Fields(c *rpc.Codec) {
	c.Bool(&m.All)
	c.U64(&m.Lease)
	rpc.List(c, &m.Nodes, MaxRecalls, 21, func(c *rpc.Codec, r *Recalled) {
		c.U64((*uint64)(&r.Node))
		c.U64(&r.Lease)
		c.U8(&r.What)
		if r.What >= recallEnd {
			c.Fail(rpc.ErrValue)
		}
		rpc.List(c, &r.Names, MaxRecallName, 5, name)
	})
}

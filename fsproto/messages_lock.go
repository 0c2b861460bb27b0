package fsproto

import (
	"math"

	"github.com/rpycfs/rpycfs/rpc"
)

// Kinds of Lock. Posix and OFD locks exclude each other range by range; flock
// locks cover the whole file and know nothing of the other two, as in Linux.
const (
	LockPosix uint8 = iota // fcntl(2) F_SETLK: a process owns it
	LockOFD                // fcntl(2) F_OFD_SETLK: an open file owns it
	LockFlock              // flock(2): an open file owns it
)

// Types of Lock.
const (
	LockRead   uint8 = iota // shared
	LockWrite               // exclusive
	LockUnlock              // none
)

// LockEnd is the last offset that a lock can cover: beyond any file's end.
const LockEnd = math.MaxInt64

// MaxLost bounds the handles that one locks_lost names, MaxGrants the waits that
// one lk_granted ends.
const (
	MaxLost   = 4096
	MaxGrants = 4096
)

// Lock is a lock on the bytes from Start to End, both included.
type Lock struct {
	Kind       uint8  // Lock…, how it was asked for
	Type       uint8  // Lock…
	Owner      uint64 // opaque; the same for locks that do not exclude each other
	Start, End uint64 // at most LockEnd; with LockFlock 0 and LockEnd
	PID        uint32 // the process that asked, at the client; 0: not known there
}

// Fields lists the fields of l.
func (l *Lock) Fields(c *rpc.Codec) {
	c.U8(&l.Kind)
	c.U8(&l.Type)
	c.U64(&l.Owner)
	c.U64(&l.Start)
	c.U64(&l.End)
	c.U32(&l.PID)
	if l.Kind > LockFlock || l.Type > LockUnlock || l.Start > l.End || l.End > LockEnd {
		c.Fail(rpc.ErrValue)
	}
}

// GetlkReq asks which lock is in the way of Lock, which is not set.
type GetlkReq struct {
	Handle Handle
	Lock   Lock
}

// Fields lists the fields of m.
func (m *GetlkReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Handle))
	m.Lock.Fields(c)
}

// GetlkRes names a lock that is in the way. Owner and PID are 0 unless it
// belongs to the asking session.
type GetlkRes struct {
	Conflict bool
	Lock     Lock // with Conflict
}

// Fields lists the fields of m.
func (m *GetlkRes) Fields(c *rpc.Codec) {
	c.Bool(&m.Conflict)
	if m.Conflict {
		m.Lock.Fields(c)
	}
}

// SetlkReq sets Lock on the open file, or takes away what the owner has locked
// of the range. With a Wait number of the client's choice, never used before,
// the lock may be queued and is granted by lk_granted; 0 does not wait.
type SetlkReq struct {
	Handle Handle
	Lock   Lock
	Wait   uint64
}

// Fields lists the fields of m.
func (m *SetlkReq) Fields(c *rpc.Codec) {
	c.U64((*uint64)(&m.Handle))
	m.Lock.Fields(c)
	c.U64(&m.Wait)
}

// SetlkRes tells what became of the lock: it is set, or queued until lk_granted
// tells, or refused because another is in the way. Holder is as in GetlkRes.
type SetlkRes struct {
	Queued  bool
	Refused bool
	Holder  Lock // with Refused
}

// Fields lists the fields of m.
func (m *SetlkRes) Fields(c *rpc.Codec) {
	c.Bool(&m.Queued)
	c.Bool(&m.Refused)
	if m.Refused {
		m.Holder.Fields(c)
	}
}

// CancellkReq ends the waiting for a queued lock.
type CancellkReq struct{ Wait uint64 }

// Fields lists the fields of m.
func (m *CancellkReq) Fields(c *rpc.Codec) { c.U64(&m.Wait) }

// CancellkRes tells whether the lock was still queued. If not, lk_granted has
// told what became of it, or will.
type CancellkRes struct{ Removed bool }

// Fields lists the fields of m.
func (m *CancellkRes) Fields(c *rpc.Codec) { c.Bool(&m.Removed) }

// LockGrant ends one waiting: the lock is set if Errno is 0, else it is not.
type LockGrant struct {
	Wait  uint64
	Errno uint32 // EDEADLK, ENOLCK, EIO and so on, Linux's numbers
}

// LkGrantedReq ends waitings. Numbers that the client does not know are passed
// over.
type LkGrantedReq struct{ Grants []LockGrant }

// Fields lists the fields of m.
func (m *LkGrantedReq) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Grants, MaxGrants, 12, func(c *rpc.Codec, g *LockGrant) {
		c.U64(&g.Wait)
		c.U32(&g.Errno)
	})
}

// LocksLostReq tells that the session was away for longer than the grace: the
// locks that were set through these handles are gone, and everything but
// release fails with EIO on them.
type LocksLostReq struct{ Handles []Handle }

// Fields lists the fields of m.
func (m *LocksLostReq) Fields(c *rpc.Codec) {
	rpc.List(c, &m.Handles, MaxLost, 8, func(c *rpc.Codec, h *Handle) { c.U64((*uint64)(h)) })
}

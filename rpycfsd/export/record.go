package export

import (
	"fmt"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/identity"
	"github.com/rpycfs/rpycfs/internal/keeper"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"github.com/rpycfs/rpycfs/rpc"
)

// What sessions have is recorded outside of the process, so that the next one can go on
// with them (recover.go): nodes, numbers, open files, credentials, locks. A record is
// stored where the thing itself changes, under the same lock, before a reply tells of it;
// that is a copy into a mapped file. Descriptors go to the keeper.

// Keep is what outlives the process. Store and Keeper are nil where nothing does.
type Keep struct {
	Store  *mapped.Store
	Keeper *keeper.Client // nil: records only
	Ended  time.Time      // when the process before had ended, at the latest
}

// Kinds of records. All but nodes begin with the session's key.
const (
	recNode uint8 = iota + 1
	recAttached
	recNumber
	recCred
	recHandle
	recLockOwner
	recLockFile
	recLockWait

	// FirstKind is the first kind that is free for the holder of the store.
	FirstKind uint8 = 32
)

// Bounds of what records hold.
const (
	maxRecGroups = identity.MaxGroups
	maxRecVia    = 400
)

func (id *ident) Fields(c *rpc.Codec) {
	c.U64(&id.dev)
	c.U64(&id.ino)
	c.I64(&id.sec)
	c.U32(&id.nsec)
}

func (h *hint) Fields(c *rpc.Codec) {
	h.dir.Fields(c)
	c.String(&h.name, fsproto.MaxName)
}

// nodeRec is a node. Of two for the same one the higher version counts.
type nodeRec struct {
	version    uint64
	id         ident
	kind       uint32
	kernelType uint32
	kernel     string
	hints      []hint
}

func (r *nodeRec) Fields(c *rpc.Codec) {
	c.U64(&r.version)
	r.id.Fields(c)
	c.U32(&r.kind)
	c.U32(&r.kernelType)
	c.String(&r.kernel, beneath.MaxKernelHandle)
	rpc.List(c, &r.hints, maxHints, 32, func(c *rpc.Codec, h *hint) { h.Fields(c) })
}

// attachedRec is an attached session. Its words are changed in place.
type attachedRec struct {
	session          uint64
	next, stamp, set uint64 // the words, 0 at first
	path             string // from the user's root
}

const (
	wordNext  = 8
	wordStamp = 16
	wordSet   = 24

	setLeases = 1 // bits of wordSet
	setEvents = 2
)

func (r *attachedRec) Fields(c *rpc.Codec) {
	c.U64(&r.session)
	c.U64(&r.next)
	c.U64(&r.stamp)
	c.U64(&r.set)
	c.String(&r.path, fsproto.MaxPath)
}

// numberRec is a number that a session's client knows a node by.
type numberRec struct {
	session uint64
	stamp   uint64 // a word, changed in place
	num     uint64
	id      ident
	alias   bool
}

const wordNumberStamp = 8

func (r *numberRec) Fields(c *rpc.Codec) {
	c.U64(&r.session)
	c.U64(&r.stamp)
	c.U64(&r.num)
	r.id.Fields(c)
	c.Bool(&r.alias)
}

// credRec is a credential as the client has stated it.
type credRec struct {
	session uint64
	req     fsproto.CredReq
}

func (r *credRec) Fields(c *rpc.Codec) {
	c.U64(&r.session)
	r.req.Fields(c)
}

// handleRec is an open file. The cell's ID is its key at the keeper.
type handleRec struct {
	session uint64
	state   uint64 // a word, changed in place: 1 if it has lost locks
	num     uint64
	by      rpc.Dep // the call that opened it
	id      ident
	kind    uint32 // type bits of the mode
	writes  bool
	flags   uint32 // of open(2)
	as      *identity.ID
}

const wordHandleState = 8

func (r *handleRec) Fields(c *rpc.Codec) {
	c.U64(&r.session)
	c.U64(&r.state)
	c.U64(&r.num)
	c.U32(&r.by.Slot)
	c.U32(&r.by.Seq)
	r.id.Fields(c)
	c.U32(&r.kind)
	c.Bool(&r.writes)
	c.U32(&r.flags)
	identityFields(c, &r.as)
}

// identityFields are whose rights something is done with; nil is the daemon's.
func identityFields(c *rpc.Codec, as **identity.ID) {
	some := *as != nil
	c.Bool(&some)
	if !some {
		return
	}
	var uid, gid uint32
	var groups []uint32
	if *as != nil {
		uid, gid, groups = (*as).UID(), (*as).GID(), (*as).Groups()
	}
	c.U32(&uid)
	c.U32(&gid)
	rpc.List(c, &groups, maxRecGroups, 4, (*rpc.Codec).U32)
	if !c.Decoding() {
		return
	}
	id, err := identity.New(uid, gid, groups)
	if uid == 0 {
		id, err = identity.Root(gid, groups)
	}
	if err != nil {
		c.Fail(err)
	}
	*as = &id
}

// lockOwnerRec is who has locks on a file. Which, its open file knows.
type lockOwnerRec struct {
	session uint64
	owner   uint64
	flock   bool
	kind    uint8
	pid     uint32
	id      ident
	file    uint64 // key of the description opened for it; 0: that of handle
	handle  uint64
	read    bool
	write   bool
	via     []uint64
}

func (r *lockOwnerRec) Fields(c *rpc.Codec) {
	c.U64(&r.session)
	c.U64(&r.owner)
	c.Bool(&r.flock)
	c.U8(&r.kind)
	c.U32(&r.pid)
	r.id.Fields(c)
	c.U64(&r.file)
	c.U64(&r.handle)
	c.Bool(&r.read)
	c.Bool(&r.write)
	rpc.List(c, &r.via, maxRecVia, 8, (*rpc.Codec).U64)
}

// lockFileRec is a description that was opened for locks; its cell's ID is the key.
type lockFileRec struct{ session uint64 }

func (r *lockFileRec) Fields(c *rpc.Codec) { c.U64(&r.session) }

// lockWaitRec is a lock that is queued, or of which the client has not been told.
type lockWaitRec struct {
	session uint64
	number  uint64
	by      rpc.Dep // the call that queued it
}

func (r *lockWaitRec) Fields(c *rpc.Codec) {
	c.U64(&r.session)
	c.U64(&r.number)
	c.U32(&r.by.Slot)
	c.U32(&r.by.Seq)
}

// put stores a record, with its descriptor if there is one; none if that is impossible,
// which is logged once: what it is about will not outlive the process.
func (e *Export) put(kind uint8, m rpc.Message, f *beneath.File) mapped.Cell {
	k := &e.cfg.Keep
	if k.Store == nil {
		return mapped.Cell{}
	}
	body, err := rpc.Encode(nil, m)
	var cell mapped.Cell
	if err == nil {
		cell, err = k.Store.Reserve(len(body))
	}
	if err != nil {
		e.unkept.Do(func() {
			e.log.Error("not everything that clients have will survive a restart of the daemon", "err", fmt.Errorf("record of kind %d: %w", kind, err))
		})
		return mapped.Cell{}
	}
	if f != nil {
		k.Keeper.Keep(cell.ID(), f.Fd())
	}
	cell.Publish(kind, body)
	return cell
}

// unput gives a record up, with the keeper's descriptor, and then closes f, which may be
// nil.
func (e *Export) unput(cell mapped.Cell, f *beneath.File) {
	then := func() {
		if f != nil {
			f.Close()
		}
	}
	if cell.IsZero() {
		then()
		return
	}
	cell.Free()
	e.cfg.Keep.Keeper.Drop(cell.ID(), then)
}

// record stores a node, in place of its earlier record. mu is held.
func (e *Export) record(n *node) {
	if e.cfg.Keep.Store == nil || n == e.root {
		return
	}
	e.version++
	old := n.cell
	n.cell = e.put(recNode, &nodeRec{
		version: e.version, id: n.id, kind: n.kind, kernelType: uint32(n.handle.Type), kernel: n.handle.Data, hints: n.hints,
	}, nil)
	old.Free()
}

// KeepAs has the session recorded under a key, from before it is used.
func (s *Session) KeepAs(key uint64) { s.key = key }

// unkeep has the next process not know the session: it has something that does not
// outlive this one, which its client is to notice.
func (s *Session) unkeep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fleeting = true
	s.attached.Free()
	s.attached = mapped.Cell{}
}

// kept reports whether the session is recorded.
func (s *Session) kept() bool { return s.key != 0 && s.e.cfg.Keep.Store != nil }

// recordAttached stores that the session is attached. mu is held.
func (s *Session) recordAttached(path string) {
	if !s.kept() || s.fleeting {
		return
	}
	s.attached = s.e.put(recAttached, &attachedRec{session: s.key, path: path}, nil)
	s.attached.SetWord(wordNext, uint64(s.next))
	s.attached.SetWord(wordStamp, s.stamp)
	s.attached.SetWord(wordSet, s.settings)
}

// set notes what the session has asked for. mu is held.
func (s *Session) set(settings uint64) {
	s.settings = settings
	s.attached.SetWord(wordSet, settings)
}

// enterNumber makes num stand for r. mu is held.
func (s *Session) enterNumber(num fsproto.Node, r *ref, alias bool) {
	entry := &number{r: r}
	if s.kept() {
		entry.cell = s.e.put(recNumber, &numberRec{session: s.key, num: uint64(num), id: r.n.id, alias: alias}, nil)
	}
	s.numbers[num] = entry
}

func (n *number) setStamp(stamp uint64) {
	n.stamp = stamp
	n.cell.SetWord(wordNumberStamp, stamp)
}

// recordHandle stores an open file. What was opened for listing is opened anew.
func (s *Session) recordHandle(c call, num fsproto.Handle, n *node, f *beneath.File, writes bool) mapped.Cell {
	if !s.kept() {
		return mapped.Cell{}
	}
	flags, err := f.Flags()
	if err != nil {
		return mapped.Cell{}
	}
	rec := &handleRec{session: s.key, num: uint64(num), id: n.id, kind: n.kind, writes: writes, flags: uint32(flags), as: c.as}
	if c.Request != nil {
		rec.by = c.Slot
	}
	if n.isDir() {
		f = nil
	}
	return s.e.put(recHandle, rec, f)
}

// loseLocks makes calls through h fail; it reports whether they did not before.
func (h *handle) loseLocks() bool {
	if h.lost.Swap(true) {
		return false
	}
	h.cell.SetWord(wordHandleState, 1)
	return true
}

// recordOwner stores that o has locks on n. lockTable.mu is held.
func (t *lockTable) recordOwner(o *lockOwner) {
	s := o.key.s
	if !s.kept() {
		return
	}
	rec := &lockOwnerRec{
		session: s.key, owner: o.key.id, flock: o.key.flock, kind: o.kind, pid: o.pid,
		file: o.file.cell.ID(), read: o.file.read, write: o.file.write,
	}
	if o.file.own != nil {
		rec.handle = uint64(o.file.own.num)
	}
	for h := range o.via {
		rec.id = h.r.n.id
		if len(rec.via) < maxRecVia {
			rec.via = append(rec.via, uint64(h.num))
		}
	}
	slices.Sort(rec.via)
	old := o.cell
	o.cell = s.e.put(recLockOwner, rec, nil)
	old.Free()
}

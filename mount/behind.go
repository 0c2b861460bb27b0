package mount

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// Write-behind. While the daemon lets this mount delay changes of a file
// (fsproto.LeaseWrite), nobody else is told of the file. So writes, and changes of mode,
// times and owner of which it is certain how they end, are answered at once and sent
// behind: in order, each call naming the one before it, and so many at once as the
// connection takes.
//
//   - Calls of one file go over one connection. The daemon has room for so much data of a
//     user: a call that waits there for one that finds no room would wait forever.
//   - Who asks for what is not known here waits until all of the file is sent and
//     answered: attributes, reads that no cache answers, locks, fsync, and close.
//   - When the daemon calls back, nothing more is delayed, and the answer comes when
//     nothing is left.
//   - Calls that fail are made again one by one, because those behind them have failed
//     with them. What fails then is an error of the file as long as it is open for
//     writing: each fsync and each close tell of it, and the next write through each
//     descriptor. What was to be written behind it is left out, so that the file ends
//     where the trouble began.
//
// What is on its way belongs to the session as any call: it survives cut connections and
// restarts of the daemon, and arrives once.

const (
	// minBehind and maxBehind bound what may be on its way, in bytes of the whole mount.
	// Within them it is so much that it arrives within behindFor.
	minBehind, maxBehind, firstBehind = 1 << 20, 64 << 20, 16 << 20

	behindFor = time.Second
	// maxDelayed bounds how many changes are on their way.
	maxDelayed = 512
	// joinFor is how long a change of attributes waits for another to go with it.
	joinFor = 50 * time.Millisecond
	// apiece is how many calls of a file are on their way before small writes wait, to
	// be joined with those that follow.
	apiece = 2
	// fullWrite is the data from which a write waits for no more, and joinable that
	// from which it is not joined, in bytes.
	fullWrite, joinable = fsproto.MaxData, 256 << 10
)

// behind is what was answered and is not on the server yet. It is nil where nothing is
// delayed. Its methods may be called concurrently.
type behind struct {
	fs    *FS
	owner uint32 // as whom the daemon acts, in its own numbers

	pending atomic.Int32 // files with something on its way

	mu      sync.Mutex // guards what follows, and all files'
	files   map[fsproto.Node]*delayed
	bytes   int           // on their way
	changes int           // the same
	limit   int           // of bytes
	room    chan struct{} // closed when there is some; nil: nobody waits
	streams uint32
	void    map[fsproto.Node]uint64
	floor   uint64 // rights below are void, or below void of their node
}

func newBehind(fs *FS, owner uint32) *behind {
	return &behind{
		fs: fs, owner: owner, limit: firstBehind,
		files: make(map[fsproto.Node]*delayed), void: make(map[fsproto.Node]uint64),
	}
}

// delayed is a file that is open for writing. Its fields are behind's to lock.
type delayed struct {
	b       *behind
	node    fsproto.Node
	lease   uint64       // under which changes may be delayed; 0: under none any more
	attr    fsproto.Attr // as they will be, but for times
	stream  uint32       // of its calls
	writers int          // open files
	others  int          // changes under way that are not delayed
	fresh   bool         // made by this mount, and open since
	flushed bool         // a descriptor was closed since the last write: it may have been the last

	queue  []*delay     // what has not ended, in order
	began  int          // of queue
	flying int          // calls under way
	last   uint64       // number of the last change
	ended  uint64       // all up to this number have
	hurry  uint64       // those up to this number wait for no others
	after  fsproto.Attr // of the latest answer, which is that to this change
	afters uint64
	wait   []waitFor
	timer  *time.Timer // runs while a change of attributes waits for others
	broken bool        // calls have failed, and are made again one by one
	err    error       // of what was answered and cannot be done
}

// delay is one change.
type delay struct {
	number uint64
	since  time.Time
	set    *fsproto.SetattrReq // nil: it is a write
	write  fsproto.WriteReq
	data   []byte

	started chan struct{} // closed when dep is known, or the call has failed
	dep     rpc.Dep
	done    bool
	err     error
}

type waitFor struct {
	number uint64
	ended  chan struct{}
}

// wholes are buffers of MaxData bytes.
var wholes = sync.Pool{New: func() any { return new([fsproto.MaxData]byte) }}

func keepData(data []byte) []byte {
	if len(data) <= joinable {
		return append([]byte(nil), data...)
	}
	return append(wholes.Get().(*[fsproto.MaxData]byte)[:0], data...)
}

func (e *delay) free() {
	if cap(e.data) == fsproto.MaxData {
		wholes.Put((*[fsproto.MaxData]byte)(e.data[:fsproto.MaxData]))
	}
	e.data = nil
}

// wants returns the flags of an open with the wish to delay writes, if there is any.
func (b *behind) wants(flags uint32) uint32 {
	if b != nil && flags&fsproto.OpenAccess != fsproto.OpenRead {
		flags |= fsproto.OpenDelay
	}
	return flags
}

// opened takes note of a file that has been opened. It takes the right to delay changes
// out of the attributes.
func (b *behind) opened(f *file, flags uint32, a *fsproto.Attr) {
	may := a.Lease&fsproto.LeaseWrite != 0
	a.Lease &^= fsproto.LeaseWrite
	if b == nil || flags&fsproto.OpenAccess == fsproto.OpenRead {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.files[f.node]
	if d == nil { // if it was open already, others may have changed it since the reply
		b.streams = max(1, b.streams+1)
		d = &delayed{b: b, node: f.node, stream: b.streams}
		b.files[f.node] = d
		if may && a.Lease >= b.floor && a.Lease >= b.void[f.node] {
			d.lease, d.attr = a.Lease, *a
		}
	}
	d.writers++
	d.flushed = false
	f.delayed = d
}

// flush notes that a descriptor is being closed. There may be no other, whose closing
// would wait for what is delayed from now on.
func (d *delayed) flush() {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	d.flushed = true
}

// made notes that a file that has just been opened for the first time was made so.
func (b *behind) made(node fsproto.Node) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := b.files[node]; d != nil && d.writers == 1 {
		d.fresh = true
	}
}

// closed ends an open file's share. What it has written has ended.
func (d *delayed) closed() {
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.writers--; d.writers == 0 {
		d.lease = 0
		delete(b.files, d.node)
	}
}

// may reports whether changes may be delayed. mu is held.
func (d *delayed) may() bool {
	return d != nil && d.lease != 0 && d.others == 0 && !d.broken && d.err == nil && d.b.fs.link.connected()
}

// write takes a write on behalf of a request, and reports whether it has. It waits until
// there is room.
func (d *delayed) write(ctx context.Context, h *fuse.InHeader, req *fsproto.WriteReq, data []byte) (taken bool, lease uint64, err error) {
	b := d.b
	kept := keepData(data)
	b.mu.Lock()
	for d.may() && b.full(len(data)) {
		if b.room == nil {
			b.room = make(chan struct{})
		}
		room := b.room
		b.mu.Unlock()
		b.fs.readers.handOver(h)
		select {
		case <-room:
		case <-ctx.Done():
			return false, 0, ctx.Err()
		}
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if !d.may() || d.attr.Mode&^(fsproto.ModeType|0o777) != 0 {
		return false, 0, nil // a write may take set-id bits away
	}
	b.fs.nodes.touch(d.node)
	d.flushed = false
	d.attr.Size = max(d.attr.Size, req.Offset+uint64(len(data)))
	if e := d.tail(); e != nil && e.joins(req, data) {
		e.data = append(e.data, data...)
		b.bytes += len(data)
	} else {
		d.add(&delay{write: *req, data: kept})
	}
	d.send()
	return true, d.lease, nil
}

// full reports whether there is no room for n bytes more. mu is held.
func (b *behind) full(n int) bool {
	return b.changes > 0 && (b.bytes+n > b.limit || b.changes >= maxDelayed)
}

// tail returns the last change, if its call has not begun. mu is held.
func (d *delayed) tail() *delay {
	if d.began == len(d.queue) {
		return nil
	}
	return d.queue[len(d.queue)-1]
}

// joins reports whether a write goes on where e ends.
func (e *delay) joins(req *fsproto.WriteReq, data []byte) bool {
	return e.set == nil && len(data) < joinable && len(e.data)+len(data) <= fullWrite && e.write.Handle == req.Handle &&
		e.write.Flags == req.Flags && e.write.Offset+uint64(len(e.data)) == req.Offset
}

// setattr takes a change of attributes, if it is certain that it will succeed, and
// returns what they are then, but for the time of change.
func (b *behind) setattr(req *fsproto.SetattrReq) (a fsproto.Attr, taken bool) {
	if b == nil {
		return a, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.files[req.Node]
	if !d.may() || !d.certain(req) || b.changes >= maxDelayed {
		return a, false
	}
	b.fs.nodes.touch(d.node)
	if req.Mask&fsproto.SetMode != 0 {
		d.attr.Mode = d.attr.Mode&fsproto.ModeType | req.Mode
	}
	if req.Mask&fsproto.SetAtime != 0 {
		d.attr.Atime = req.Atime
	}
	if req.Mask&fsproto.SetMtime != 0 {
		d.attr.Mtime = req.Mtime
	}
	if e := d.tail(); e != nil && e.set != nil {
		joinSetattr(e.set, req)
	} else {
		kept := *req
		d.add(&delay{set: &kept})
	}
	d.send()
	return d.attr, true
}

// certain reports whether a change of attributes will succeed: the daemon acts as the
// file's owner or as root, and what is set needs no more than that.
func (d *delayed) certain(req *fsproto.SetattrReq) bool {
	const here = fsproto.SetMode | fsproto.SetUID | fsproto.SetGID |
		fsproto.SetAtime | fsproto.SetAtimeNow | fsproto.SetMtime | fsproto.SetMtimeNow
	a, mask := &d.attr, req.Mask
	switch {
	case !d.fresh, d.flushed: // a program on the server may have its own view of it
		return false
	case d.b.fs.creds != nil, d.b.owner != 0 && d.b.owner != a.UID:
		return false
	case mask&^here != 0, a.Mode&^(fsproto.ModeType|0o777) != 0:
		return false
	case mask&fsproto.SetMode != 0 && req.Mode&^0o777 != 0:
		return false
	case mask&fsproto.SetUID != 0 && req.UID != a.UID, mask&fsproto.SetGID != 0 && req.GID != a.GID:
		return false
	}
	return true
}

// The bits of a mask that concern the time of access, and of modification.
const (
	setsAtime = fsproto.SetAtime | fsproto.SetAtimeNow
	setsMtime = fsproto.SetMtime | fsproto.SetMtimeNow
)

// joinSetattr makes one change of two, of which next is the later.
func joinSetattr(req, next *fsproto.SetattrReq) {
	if next.Mask&setsAtime != 0 {
		req.Mask &^= setsAtime
		req.Atime = next.Atime
	}
	if next.Mask&setsMtime != 0 {
		req.Mask &^= setsMtime
		req.Mtime = next.Mtime
	}
	if next.Mask&fsproto.SetMode != 0 {
		req.Mode = next.Mode
	}
	if next.Mask&fsproto.SetUID != 0 {
		req.UID = next.UID
	}
	if next.Mask&fsproto.SetGID != 0 {
		req.GID = next.GID
	}
	req.Mask |= next.Mask
}

// settle waits until what is on its way of a file now has ended.
func (b *behind) settle(ctx context.Context, node fsproto.Node) error {
	if b == nil || b.pending.Load() == 0 {
		return nil
	}
	b.mu.Lock()
	ended := b.files[node].end()
	b.mu.Unlock()
	return awaitEnd(ctx, ended)
}

func awaitEnd(ctx context.Context, ended <-chan struct{}) error {
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end returns what is closed when what is on its way now has ended; nil: nothing is. mu
// is held.
func (d *delayed) end() <-chan struct{} {
	if d == nil || len(d.queue) == 0 {
		return nil
	}
	d.hurry = d.last
	d.send()
	w := waitFor{d.last, make(chan struct{})}
	d.wait = append(d.wait, w)
	return w.ended
}

// alone is settle for a change that is not delayed. Until the function that it returns is
// called, nothing is. That is told the attributes after the change; nil: they are not
// known.
func (b *behind) alone(ctx context.Context, node fsproto.Node) (done func(*fsproto.Attr), err error) {
	if b == nil {
		return func(*fsproto.Attr) {}, nil
	}
	b.mu.Lock()
	d := b.files[node]
	if d == nil {
		b.mu.Unlock()
		return func(*fsproto.Attr) {}, nil
	}
	if d.others++; d.others > 1 {
		d.lease = 0 // it will not be known which was the last
	}
	ended := d.end()
	b.mu.Unlock()
	done = func(a *fsproto.Attr) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if d.others--; a == nil {
			d.lease = 0
		} else {
			d.attr = *a
		}
	}
	if err = awaitEnd(ctx, ended); err != nil {
		done(nil)
	}
	return done, err
}

// busy reports whether something of a file is on its way.
func (b *behind) busy(node fsproto.Node) bool {
	if b == nil || b.pending.Load() == 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.files[node]
	return d != nil && len(d.queue) > 0
}

// settleAll is settle for all files.
func (b *behind) settleAll(ctx context.Context) error {
	if b == nil || b.pending.Load() == 0 {
		return nil
	}
	var all []<-chan struct{}
	b.mu.Lock()
	for _, d := range b.files {
		all = append(all, d.end())
	}
	b.mu.Unlock()
	for _, ended := range all {
		if err := awaitEnd(ctx, ended); err != nil {
			return err
		}
	}
	return nil
}

// recalled takes the right to delay changes of a file back, and waits until what is on
// its way has ended. Rights below a number are void.
func (b *behind) recalled(ctx context.Context, node fsproto.Node, lease uint64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	if len(b.void) >= maxVoid {
		for _, lease := range b.void {
			b.floor = max(b.floor, lease)
		}
		clear(b.void)
	}
	b.void[node] = max(b.void[node], lease)
	d := b.files[node]
	if d != nil {
		d.lease = 0
	}
	ended := d.end()
	b.mu.Unlock()
	_ = awaitEnd(ctx, ended)
}

// recalledAll takes all rights back. Nothing is waited for: the daemon does not serve
// what is on its way before it is answered.
func (b *behind) recalledAll(lease uint64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.floor = max(b.floor, lease)
	for _, d := range b.files {
		d.lease = 0
	}
}

// correct returns attributes as they will be when all of the file is on the server: the
// kernel has to be told no size but that.
func (b *behind) correct(node fsproto.Node, a *fsproto.Attr) *fsproto.Attr {
	if b == nil || b.pending.Load() == 0 {
		return a
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := b.files[node]; d != nil && len(d.queue) > 0 && d.err == nil {
		right := *a
		right.Size, right.Mode = d.attr.Size, d.attr.Mode
		return &right
	}
	return a
}

// status fills in what is on its way.
func (b *behind) status(s *Status) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Behind = b.bytes
}

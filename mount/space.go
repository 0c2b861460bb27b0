package mount

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// spaceWait bounds how long a call that found no space is made again, and unread
// how long it waits for something to be let go of.
const (
	spaceWait = 2 * time.Second
	unread    = 100 * time.Millisecond
)

// backlog counts what the kernel has let go of while the daemon has not answered
// yet that it has too: files closed and nodes forgotten. Until then a file that was
// removed keeps its space, while a program on a local disk has it as soon as
// unlink(2) or close(2) return. Its methods may be called concurrently.
type backlog struct {
	left  atomic.Int64
	ended atomic.Uint64 // how much has been answered so far
}

func (b *backlog) begin() { b.left.Add(1) }

func (b *backlog) end(n int) {
	b.ended.Add(uint64(n)) // first: who sees nothing left looks at it
	b.left.Add(int64(-n))
}

// withSpace runs what may need space. If there was none it does so again whenever
// the daemon has done with something that the kernel had let go of, until there has
// been nothing of the kind for a while. A naming must not be under way: forgets wait
// for it.
func (fs *FS) withSpace(cancel <-chan struct{}, do func() fuse.Status) fuse.Status {
	for start := time.Now(); ; {
		before := fs.backlog.ended.Load()
		st := do()
		if st != fuse.Status(syscall.ENOSPC) && st != fuse.Status(syscall.EDQUOT) ||
			time.Since(start) > spaceWait || !fs.backlog.settled(cancel, before) {
			return st
		}
	}
}

// settled waits until the daemon has done with what the kernel let go of, and
// reports whether there was anything since so much had ended. What there is may
// still be on its way here: the kernel hands out forgets behind other requests.
func (b *backlog) settled(cancel <-chan struct{}, before uint64) bool {
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for start := time.Now(); ; {
		left, some := b.left.Load() > 0, b.ended.Load() != before
		switch waited := time.Since(start); {
		case some && !left, waited > spaceWait:
			return some
		case !left && waited > unread:
			return false
		}
		select {
		case <-poll.C:
		case <-cancel:
			return false
		}
	}
}

// callWithSpace is call for what may need space.
func callWithSpace[Req, Res any](fs *FS, cancel <-chan struct{}, h *fuse.InHeader, op *rpc.Op[Req, Res], req *Req, res *Res) fuse.Status {
	return fs.withSpace(cancel, func() fuse.Status { return call(fs, cancel, h, op, req, res) })
}

// spaceLasts is how long it is believed how much space there is, while this mount
// changes nothing. Programs ask for it only to find out what file system this is, too.
const spaceLasts = 30 * time.Second

// spaceCache is what the daemon has told of space last.
type spaceCache struct {
	mu    sync.Mutex
	res   fsproto.StatfsRes
	clock uint64 // of the node table, before the daemon was asked
	until time.Time
	known bool
}

func (c *spaceCache) get(clock uint64) (fsproto.StatfsRes, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.res, c.clock == clock && time.Now().Before(c.until)
}

// put remembers what was told. It is believed for a while only if the daemon would tell
// of changes by others that matter more than this.
func (c *spaceCache) put(res fsproto.StatfsRes, clock uint64, believe bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.res, c.clock, c.until = res, clock, time.Time{}
	c.known = true
	if believe {
		c.until = time.Now().Add(spaceLasts)
	}
}

// last returns what was told last.
func (c *spaceCache) last() (res fsproto.StatfsRes, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.res, c.known
}

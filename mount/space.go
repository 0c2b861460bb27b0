package mount

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/rpc"
)

// spaceWait bounds how long a call that found no space waits for the backlog.
const spaceWait = 2 * time.Second

// backlog counts what the kernel has let go of while the daemon has not answered
// yet that it has too: files closed and nodes forgotten. Until then a file that was
// removed keeps its space, while a program on a local disk has it as soon as
// unlink(2) or close(2) return. Its methods may be called concurrently.
type backlog struct {
	ended atomic.Uint64 // how much has been answered so far

	mu      sync.Mutex
	left    int
	nothing chan struct{} // closed when left becomes 0; made when it no longer is
}

func (b *backlog) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left++; b.left == 1 {
		b.nothing = make(chan struct{})
	}
}

func (b *backlog) end(n int) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended.Add(uint64(n))
	if b.left -= n; b.left == 0 {
		close(b.nothing)
	}
}

// done returns what is closed when nothing is left, nil if that is so.
func (b *backlog) done() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 {
		return nil
	}
	return b.nothing
}

// withSpace runs what may need space, and once more if there was none although the
// kernel had let go of something, when the daemon has done so too. A naming must
// not be under way: forgets wait for it.
func (fs *FS) withSpace(cancel <-chan struct{}, do func() fuse.Status) fuse.Status {
	before := fs.backlog.ended.Load()
	st := do()
	if st != fuse.Status(syscall.ENOSPC) && st != fuse.Status(syscall.EDQUOT) {
		return st
	}
	nothing := fs.backlog.done()
	if nothing == nil {
		if fs.backlog.ended.Load() == before {
			return st
		}
		return do()
	}
	wait := time.NewTimer(spaceWait)
	defer wait.Stop()
	select {
	case <-nothing:
	case <-wait.C:
	case <-cancel:
		return st
	}
	return do()
}

// callWithSpace is call for what may need space.
func callWithSpace[Req, Res any](fs *FS, cancel <-chan struct{}, h *fuse.InHeader, op *rpc.Op[Req, Res], req *Req, res *Res) fuse.Status {
	return fs.withSpace(cancel, func() fuse.Status { return call(fs, cancel, h, op, req, res) })
}

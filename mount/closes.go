package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
)

// A process loses its range locks on a file when it closes any of its descriptors of that
// file (fcntl(2), "Record locking"), which the kernel tells by FLUSH. A file that is opened
// for reading while nobody here has locks on it is closed quietly, without FLUSH: that is a
// third of the requests for a file that is cached. If a process locks it all the same,
// its descriptors are remembered, and looked for in /proc: every closesEvery, and before
// the file is locked, asked for locks or opened again. Of the descriptors that there were
// then one is missing: the locks have ended.
//
// What is not seen: a descriptor that is closed while a duplicate of another one takes
// its number, or that is made and closed, between two looks.
const closesEvery = 20 * time.Millisecond

// mayBeQuiet reports whether files may be closed without FLUSH: there are no locks, or it
// can be seen in /proc that a process closes one.
func (fs *FS) mayBeQuiet() bool {
	return fs.locks == nil || fs.dev != "" && (!fs.cfg.AllowOther || os.Geteuid() == 0)
}

// watched is an owner of range locks on a file that may be closed quietly.
type watched struct {
	node    fsproto.Node
	key     ownerKey
	pid     uint32
	fds     map[int]bool // of the file
	changes uint64       // of the owner
}

// watchCloses is told of a lock that was granted to the caller of fcntl(2).
func (fs *FS) watchCloses(node fsproto.Node, l *fsproto.Lock, tid uint32) {
	if l.Kind != fsproto.LockPosix || !fs.handles.closesQuietly(node) || !asksPosix(tid) {
		return
	}
	fds, err := fs.descriptors(l.PID, node)
	if err != nil || len(fds) == 0 {
		return // not to be seen: the locks end with the last descriptor
	}
	if fs.locks.watch(node, l, fds) {
		fs.locks.settling.Go(fs.lookForCloses)
	}
}

// lookForCloses looks at all owners that are watched as long as there are any.
func (fs *FS) lookForCloses() {
	tick := time.NewTicker(closesEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-fs.locks.ctx.Done():
			return
		}
		list := fs.locks.watched(0)
		if list == nil {
			return
		}
		for _, w := range list {
			fs.lookForClose(fs.locks.ctx, w)
		}
	}
}

// seeCloses ends the locks on a node whose owners have closed it.
func (fs *FS) seeCloses(ctx context.Context, node fsproto.Node) {
	if fs.locks == nil {
		return
	}
	for _, w := range fs.locks.watched(node) {
		fs.lookForClose(ctx, w)
	}
}

// seeClosesFirst does so for a request that may be answered here.
func (fs *FS) seeClosesFirst(cancel <-chan struct{}, h *fuse.InHeader) {
	if fs.locks == nil || !fs.locks.watches(fsproto.Node(h.NodeId)) {
		return
	}
	fs.readers.handOver(h)
	ctx := fs.begin(cancel, h, &fsproto.Setlk.Info, 0)
	defer ctx.end()
	fs.calling(h)
	fs.seeCloses(ctx, fsproto.Node(h.NodeId))
}

// lookForClose ends the locks of an owner if it has closed a descriptor of the file, and
// remembers those that are new. Who asks for locks of the file meanwhile waits for that:
// the owner may have them again by then.
func (fs *FS) lookForClose(ctx context.Context, w *watched) {
	defer fs.locks.undoing.begin(w.node)()
	now, err := fs.descriptors(w.pid, w.node)
	if err != nil {
		return
	}
	closed := false
	for fd := range w.fds {
		closed = closed || !now[fd]
	}
	h, still := fs.locks.looked(w, now)
	if !closed || !still {
		return
	}
	req := fsproto.SetlkReq{Handle: h, Lock: fsproto.Lock{
		Kind: fsproto.LockPosix, Type: fsproto.LockUnlock, Owner: w.key.id, End: fsproto.LockEnd,
	}}
	if err := fs.unlock(ctx, w.node, &req); err != nil {
		fs.log.Debug("unlock after a close", "node", uint64(w.node), "err", err)
	}
}

// watch remembers the descriptors that an owner of locks has of a file, and reports whether
// it is the first one.
func (k *lockKeeper) watch(node fsproto.Node, l *fsproto.Lock, fds map[int]bool) (first bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, o := k.find(node, l)
	if o == nil {
		return false
	}
	o.fds = fds
	first = len(k.watching) == 0
	if k.watching[node] == nil {
		k.watching[node] = make(map[ownerKey]*lockOwner)
	}
	k.watching[node][keyOf(l)] = o
	return first
}

// watches reports whether an owner of locks on a node is watched.
func (k *lockKeeper) watches(node fsproto.Node) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.watching[node] != nil
}

// watched returns the owners of locks on a node that are watched; 0: on any.
func (k *lockKeeper) watched(node fsproto.Node) (list []*watched) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.watching) == 0 {
		return nil
	}
	for n, owners := range k.watching {
		if node != 0 && n != node {
			continue
		}
		for key, o := range owners {
			list = append(list, &watched{node: n, key: key, pid: o.pid, fds: maps.Clone(o.fds), changes: o.changes})
		}
	}
	return list
}

// looked notes the descriptors that an owner was found to have, and returns a handle that
// it has locked through. It reports whether nothing has changed since it was listed.
func (k *lockKeeper) looked(w *watched, fds map[int]bool) (h fsproto.Handle, still bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.watching[w.node][w.key]
	if o == nil || o.pending > 0 || o.changes != w.changes {
		return 0, false
	}
	o.fds = fds
	for h = range o.via {
		break
	}
	return h, true
}

// hasRanges reports whether somebody may have range locks on a node.
func (k *lockKeeper) hasRanges(node fsproto.Node) bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.nodes[node]
	if n == nil {
		return false
	}
	for key := range n.owners {
		if !key.flock {
			return true
		}
	}
	return false
}

// descriptors returns the descriptors that a process has of a file; those of a process that
// has ended are none. It asks the file system for nothing.
func (fs *FS) descriptors(pid uint32, node fsproto.Node) (map[int]bool, error) {
	fds := make(map[int]bool)
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if errors.Is(err, os.ErrNotExist) {
		return fds, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ESRCH) {
		return nil, err
	}
	if len(names) == 0 && leaderLeft(pid) {
		return nil, syscall.ESRCH
	}
	ino := fs.nodes.inoOf(node)
	for _, name := range names {
		var st unix.Statx_t
		err := unix.Statx(int(dir.Fd()), name, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
		if err == nil && st.Ino == ino && fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor) == fs.dev {
			fd, _ := strconv.Atoi(name)
			fds[fd] = true
		}
	}
	return fds, nil
}

// leaderLeft reports whether other threads of a process go on without its first one, whose
// descriptors are those that /proc tells of.
func leaderLeft(pid uint32) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(tasks) > 1
}

// asksPosix reports whether the thread is inside fcntl(2) for a lock of its process's, and
// not for one of an open file description. Where this process may not look, it does not.
func asksPosix(tid uint32) bool {
	switch fcntlCommand(tid) {
	case "0x6", "0x7", "0xd", "0xe": // F_SETLK, F_SETLKW; and those of 32-bit programs with 64-bit offsets
		return true
	}
	return false
}

// asksOFD reports whether the thread is inside fcntl(F_OFD_SETLKW). The kernel's
// request does not tell those locks from a process's, but only a process's can
// deadlock. Where this process may not look, they count as a process's.
func asksOFD(tid uint32) bool { return fcntlCommand(tid) == "0x26" }

// fcntlCommand returns the command that a thread that is inside fcntl(2) has given, or "".
func fcntlCommand(tid uint32) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", tid))
	fields := bytes.Fields(text) // number, descriptor, command, …
	if err != nil || len(fields) < 3 {
		return ""
	}
	return string(fields[2])
}

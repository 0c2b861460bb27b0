// Package export serves a directory tree to sessions: nodes, open files, and a
// handler for each operation of fsproto.
//
// # How the tree is kept in
//
// Every path call goes through package beneath: a descriptor and at most one
// name, no symbolic link followed, nothing but regular files and directories
// opened. What remains is a directory that somebody moves out of the root while
// it is in use. So a node is used only if it was seen beneath the session's root
// less than half a second ago (verify.go): directories by walking "..", files by
// a name they had in such a directory. Open files stay usable wherever they go,
// as they do locally.
//
// # Nodes and descriptors
//
// A node stands for one inode: (device, inode number, birth time). It is known
// to the export as long as a session has a number for it, has it open, or a call
// uses it. It may have a descriptor (O_PATH); those are a bounded cache. A node
// whose descriptor was closed is found again by the kernel's handle
// (directories, with privilege) or by a name it had; if it is neither, the
// answer is ESTALE and the client looks it up anew.
//
// # Locks
//
// In order: Session.mu, Export.mu, leases.mu; watches.mu, watch.mu. They guard memory only: no system
// call is made under them. handle.pos orders the calls that move an open file's position
// (appends, seeks, listings) and is held across them, alone. lockTable.mu is one
// file's: it is held across the calls that lock the file in the kernel, which do
// not wait. Under it Export.mu, sessionLocks.mu and lockGraph.mu are taken, alone
// and for memory only; it is never taken under any other. watches.tree is held across
// the calls that follow directories, before watches.mu.
package export

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/beneath"
	"github.com/rpycfs/rpycfs/internal/fsevents"
	"github.com/rpycfs/rpycfs/internal/identity"
	"github.com/rpycfs/rpycfs/internal/idname"
	"golang.org/x/sys/unix"
)

// Config describes an export. Limits that are 0 get a default.
type Config struct {
	Path     string       // the directory to export
	ReadOnly bool         // nothing can be changed, by nobody
	Key      [32]byte     // authenticates file handles; the same after a restart
	Logger   *slog.Logger // nil: nothing is logged

	// RunAs says whose rights decide: fsproto.RunAsDaemon, or that of sessions,
	// RunAsAccount or RunAsCaller, which need root.
	RunAs uint8

	// MaxNodes bounds the nodes that one session knows, default DefaultNodes.
	MaxNodes int
	// MaxHandles bounds the files that one session has open. The default is an
	// eighth of RLIMIT_NOFILE; all sessions together get a quarter. An open file
	// takes two descriptors.
	MaxHandles int
	// MaxLocks bounds the ranges that one session has locked, and those that all
	// have on one file, default DefaultLocks.
	MaxLocks int
	// Descriptors bounds the cache of descriptors to nodes that no call uses,
	// default a quarter of RLIMIT_NOFILE, at most MaxDescriptors.
	Descriptors int
	// MaxLeases bounds the leases of one session, default DefaultLeases.
	MaxLeases int
	// MaxWatches bounds the watches of one user, default DefaultWatches.
	MaxWatches int

	// Keep is what outlives the process.
	Keep Keep

	// For tests.
	reached       func(point string) error // a call has come so far; an error ends it
	recallTimeout time.Duration            // 0: the constant
	maxTracked    int                      // 0: the constant
	events        fsevents.Method          // how to learn of changes; None: the best way
}

// Limits and their defaults.
const (
	DefaultNodes   = 1 << 20 // nodes of one session, 1.2 KiB each
	DefaultLocks   = 16384   // locked ranges of one session
	MaxDescriptors = 16384   // cached descriptors
	MaxCreds       = fsproto.MaxCreds
)

// recheckAfter is how long it is believed that a node is beneath the root.
const recheckAfter = 500 * time.Millisecond

// recheckDirAfter is the same for a directory that something is to be found in:
// what was looked up a moment ago is then good for the rest of recheckAfter, and
// not at its end already.
const recheckDirAfter = recheckAfter / 2

// idleAfter is how long the descriptor of an unused file is kept. It keeps the
// space of a file that was removed behind our back.
const idleAfter = 5 * time.Second

// Export is an exported tree. Its methods are safe for concurrent use.
type Export struct {
	cfg     Config
	log     *slog.Logger
	priv    beneath.Privilege
	dev     uint64        // the file system that the export stays on
	mount   uint64        // and its mount
	overlay bool          // overlayfs: files may show other devices
	fsid    uint64        // names the file system across reboots
	rootDir *beneath.File // an open file of the mount, for kernel handles
	root    *node
	owners  *idname.Service
	pool    *identity.Pool // threads of others; nil where everything is the daemon's

	handles    atomic.Int64 // open files of all sessions, descriptions for locks among them
	maxHandles int64

	foreign   atomic.Int64 // queued locks that local programs are in the way of
	lockGraph lockGraph
	leases    leases
	watcher   *fsevents.Watcher
	piecemeal bool       // it watches what it is told to, not everything
	watching  sync.Mutex // held by what begins or ends to watch; Export.mu and watches.mu are taken under it
	refused   sync.Once  // for the log: something could not be watched
	watches   watches

	stop chan struct{}
	done sync.WaitGroup

	unkept sync.Once // for the log: something is not recorded

	mu        sync.Mutex
	busy      busyNames
	undecided map[ident][]*undecided // by what is changed
	version   uint64                 // of the last record of a node
	nodes     map[ident]*node
	objects   map[fsevents.Object]*node // that are watched
	ended     []fsevents.Object         // piecemeal: whose nodes are gone, to be unwatched
	left      []*node                   // piecemeal: directories to give a reference back of
	byName    map[hint]*node            // piecemeal: by the names that they were found by last
	idle      list.List                 // of *node with a descriptor that nobody uses, the latest first
}

// Open prepares the export of a directory. Errors are one line for the operator.
func Open(cfg Config) (*Export, error) {
	limit, err := descriptorLimit()
	if err != nil {
		return nil, err
	}
	cfg.MaxNodes = cmp.Or(cfg.MaxNodes, DefaultNodes)
	cfg.MaxHandles = cmp.Or(cfg.MaxHandles, limit/8)
	cfg.MaxLocks = cmp.Or(cfg.MaxLocks, DefaultLocks)
	cfg.MaxLeases = cmp.Or(cfg.MaxLeases, DefaultLeases)
	cfg.recallTimeout = cmp.Or(cfg.recallTimeout, recallTimeout)
	cfg.MaxWatches = cmp.Or(cfg.MaxWatches, DefaultWatches)
	cfg.maxTracked = cmp.Or(cfg.maxTracked, maxTracked)
	cfg.Descriptors = cmp.Or(cfg.Descriptors, min(limit/4, MaxDescriptors))
	e := &Export{
		cfg: cfg, log: cfg.Logger, maxHandles: int64(limit / 4),
		owners: idname.New(), busy: make(busyNames), undecided: make(map[ident][]*undecided), nodes: make(map[ident]*node), objects: make(map[fsevents.Object]*node), byName: make(map[hint]*node), stop: make(chan struct{}),
		lockGraph: lockGraph{edges: make(map[lockKey]map[*lockWait]lockKey)},
		leases:    leases{max: cfg.MaxLeases, within: cfg.recallTimeout, clock: firstClock(), sessions: make(map[*Session]struct{})},
	}
	e.watches.init(e)
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.priv, err = beneath.Privileges(); err != nil {
		return nil, fmt.Errorf("cannot find out the daemon's privileges: %w", err)
	}
	if err := e.openRoot(); err != nil {
		return nil, fmt.Errorf("cannot export %s: %w", cfg.Path, err)
	}
	if err := e.openPool(); err != nil {
		e.release(e.root)
		e.watcher.Close()
		e.rootDir.Close()
		return nil, err
	}
	e.done.Add(2)
	go e.sweepIdle()
	go e.sweepStores()
	return e, nil
}

// openPool prepares for serving with the rights of others, and tries it once.
func (e *Export) openPool() error {
	mode := map[uint8]string{fsproto.RunAsAccount: "account", fsproto.RunAsCaller: "caller"}[e.cfg.RunAs]
	if e.cfg.RunAs == fsproto.RunAsDaemon {
		return nil
	}
	if err := identity.Check(); err != nil {
		return fmt.Errorf("cannot run as %s: %w", mode, err)
	}
	nobody, err := identity.New(identity.Nobody, identity.Nobody, nil)
	if err != nil {
		return err
	}
	e.pool = identity.NewPool(identity.Config{Log: e.log})
	if err := e.pool.Do(context.Background(), nobody, func() {}); err != nil {
		e.pool.Close()
		return fmt.Errorf("cannot run as %s: %w", mode, err)
	}
	return nil
}

func descriptorLimit() (int, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("cannot find out the limit of open files: %w", err)
	}
	limit := int(min(r.Cur, 1<<22))
	if limit < 64 {
		return 0, fmt.Errorf("the limit of open files is %d, at least 64 are needed", limit)
	}
	return limit, nil
}

// openRoot opens the export's root and finds out where it is.
func (e *Export) openRoot() error {
	p, err := beneath.OpenRoot(e.cfg.Path)
	if err != nil {
		return err
	}
	if err := e.setRoot(p); err != nil {
		p.Close()
		return err
	}
	return nil
}

func (e *Export) setRoot(p *beneath.Path) error {
	st, err := p.Stat()
	if err != nil {
		return err
	}
	fs, err := p.Statfs()
	if err != nil {
		return err
	}
	e.dev, e.mount = device(&st), st.Mnt_id
	e.overlay = int64(fs.Type) == unix.OVERLAYFS_SUPER_MAGIC
	e.fsid = uint64(uint32(fs.Fsid.Val[0])) | uint64(uint32(fs.Fsid.Val[1]))<<32
	id, err := identOf(&st, p.Handle)
	if err != nil {
		return err
	}
	if e.rootDir, err = p.OpenDir(); err != nil {
		return err
	}
	if err := e.watchChanges(p); err != nil {
		e.rootDir.Close()
		return err
	}
	e.root = &node{id: id, kind: unix.S_IFDIR, refs: 1}
	e.mu.Lock()
	e.nodes[id] = e.root
	if kernel, err := p.Handle(); err == nil {
		e.watch(e.root, kernel)
	}
	e.mu.Unlock()
	e.install(e.root, p)
	return nil
}

// Close gives up the export. Sessions must have been closed before, and their
// calls have returned.
func (e *Export) Close() error {
	close(e.stop)
	e.done.Wait()
	if e.pool != nil {
		e.pool.Close()
	}
	e.watcher.Close() // what it tells of needs the root
	e.release(e.root)
	e.unwatchEnded()
	e.rootDir.Close()
	e.mu.Lock()
	left := len(e.nodes)
	e.mu.Unlock()
	if left > 0 {
		return fmt.Errorf("export closed with %d nodes in use", left)
	}
	return nil
}

// within refuses what lies on another file system or mount, with EXDEV.
func (e *Export) within(st *beneath.Stat) error {
	if st.Mnt_id != e.mount || (device(st) != e.dev && !e.overlay) {
		return syscall.EXDEV
	}
	return nil
}

// isErrno reports whether err carries one of the errnos.
func isErrno(err error, errnos ...syscall.Errno) bool {
	for _, errno := range errnos {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

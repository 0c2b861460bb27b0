// Package mount shows an exported tree to the kernel. Each request of the
// kernel becomes a call to the daemon; node ids are the session's node numbers,
// so that the two sides cannot come to mean different files.
//
// # What is cached
//
// Nothing in this process but which nodes the kernel knows (nodeTable), what is
// open (handleTable), the page of a listing that was fetched last (page), who
// callers are (credentials), what they may do (accessCache), who has which name
// (nameMap), and which names others have changed lately (hotNames). The kernel
// keeps entries, attributes and data for the time-outs of Config; no entries
// where setRights says so.
//
// # Locks
//
// No lock is held while a call is made, with one exception: reads of one open
// directory wait for each other under its own lock, which nothing else takes.
// Requests of different files never wait for each other here. Notifications to
// the kernel are sent by the notifier's goroutine, because from inside a request
// the kernel may wait for that very request to end; coherence.go says where it
// cannot, and why they are sent from there.
//
// # Interrupts
//
// On a local disk stat, open or mkdir never fail with EINTR. The kernel reports
// every signal that a caller receives, so a call is given up only if the caller
// is being killed, or some seconds later; see request. What a change that was given
// up has done is found out when the daemon has answered it; see leftBehind.
//
// # When the session is over
//
// Every request fails with ENOTCONN, which is what a FUSE mount without a
// process behind it gives too. Unmounting always works.
package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// DefaultTimeout is how long the kernel may use an entry, attributes or the
// absence of an entry without asking, unless Config says otherwise.
const DefaultTimeout = time.Second

// Config says what to mount and how to show it. It is not changed after New.
type Config struct {
	Path   []string // components of the directory below the user's root
	Source string   // what the mount table shows, host:/path

	EntryTimeout    time.Duration // 0: DefaultTimeout
	AttrTimeout     time.Duration // 0: DefaultTimeout
	NegativeTimeout time.Duration // 0: DefaultTimeout

	IDs        IDs
	ACL        *bool   // POSIX ACLs, with the daemon's ids; nil: where the kernel checks permissions
	AllowOther bool    // let other local users in
	Flags      uintptr // MS_… bits for mount(2), MS_RDONLY among them
	Fusermount bool    // mount through fusermount3, as ordinary users must
	ReadAhead  int     // KiB that the kernel reads ahead; 0: 8 MiB

	// Callbacks answers the calls of the daemon on this session. nil: there are no
	// leases, and what is cached is believed for the time-outs above.
	Callbacks *Callbacks
	// LocalLocks leaves locks to the kernel, and nobody else sees them. It is so
	// without Callbacks too.
	LocalLocks bool
	// NoInotify leaves who watches by inotify(7) without events for what others change.
	// It is so without Callbacks too.
	NoInotify bool

	// Timeo is for how long a request waits for a daemon that is out of reach; 0:
	// DefaultTimeo. Then it goes on waiting, or, if Soft is set, fails with ETIMEDOUT.
	Timeo time.Duration
	Soft  bool

	Logger *slog.Logger // nil: slog.Default
}

// FS answers the kernel's requests. All its methods may be called concurrently.
type FS struct {
	fuse.RawFileSystem // answers ENOSYS to what is not implemented
	cfg                Config
	peer               *rpc.Peer
	link               *link
	log                *slog.Logger
	ids                *idMap
	creds              *credentials // nil unless the daemon acts with the caller's rights
	runAs              uint8        // fsproto.RunAs…
	readOnly           bool
	protects           bool // changes are refused here, not by the kernel

	kernelChecks bool // the kernel checks permissions, as it does on a local disk
	acl          bool // POSIX ACLs are passed on

	// How long the kernel may use an entry, or that there is none.
	entryTimeout, negativeTimeout time.Duration

	nodes    *nodeTable
	access   *accessCache
	handles  *handleTable
	naming   *naming
	backlog  backlog
	releases releases
	space    spaceCache
	root     lastAttr
	store    *store  // nil without leases
	behind   *behind // nil: all is on the server when it is answered
	whole    whole
	ahead    *ahead  // nil without leases, or with credentials
	sizes    pending // changes of our own; what is read meanwhile would come with the old size
	forgets  *forgetQueue
	trimmer  *trimmer
	notices  *notifier
	hot      *hotNames

	// mapsAround says that the kernel maps files that are open around its cache.
	mapsAround bool
	expires    bool // it knows names that are only to be asked for again

	dev       string        // its number, as in st_dev, major:minor
	noOpenDir bool          // the kernel opens no directories (nodirs.go)
	listings  listings      // those that are open all the same
	readsAll  bool          // the daemon may read every directory
	device    *device       // nil until it is mounted
	readers   *readers      // the same
	epochs    atomic.Uint64 // how often the kernel was made to look up every name anew
	leases    *leases       // what the daemon promises to call back for
	callbacks *Callbacks    // nil: the daemon does not call back
	inject    *injector     // nil: inotify(7) tells of this machine's changes only
	locks     *lockKeeper   // who may have locks at the daemon
	guard     *guard        // of names beside locked files

	lastNode   atomic.Uint64 // node numbers chosen by the client so far
	lastHandle atomic.Uint64 // handle numbers used so far

	requests                [requestKinds]requestCount
	bytesRead, bytesWritten atomic.Uint64
	invalidations           atomic.Uint64
	unwritten               unwritten
	undecided               undecided
}

var _ fuse.RawFileSystem = (*FS)(nil)

// Attach makes the directory cfg.Path of the daemon at the other end of peer
// the root of a new FS. A session attaches once. The error is the daemon's:
// fs.ErrNotExist, syscall.ENOTDIR and so on hold for it.
func Attach(ctx context.Context, peer *rpc.Peer, cfg Config) (*FS, error) {
	cfg.setDefaults()
	var res fsproto.AttachRes
	if err := rpc.Call(ctx, peer, fsproto.Attach, &fsproto.AttachReq{Path: cfg.Path}, &res); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	if res.Entry.Node != fsproto.RootNode || !res.Entry.Attr.IsDir() {
		return nil, fmt.Errorf("attach: the daemon's root is no directory: %w", rpc.ErrBadRequest)
	}
	fs := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		cfg:           cfg,
		peer:          peer,
		link:          newLink(peer, &cfg),
		log:           cfg.Logger,
		ids:           cfg.IDs.bind(peer, &res),
		runAs:         res.RunAs,
		readsAll:      res.RunAs == fsproto.RunAsDaemon && res.UID == 0,
		readOnly:      readOnly(&cfg, &res),
		nodes:         newNodeTable(),
		access:        newAccessCache(cfg.AttrTimeout),
		handles:       newHandleTable(),
		naming:        newNaming(),
		notices:       newNotifier(cfg.Logger),
		hot:           newHotNames(),
	}
	if err := fs.ids.try(ctx, &res.Entry.Attr); err != nil {
		return nil, fmt.Errorf("names of owners: %w", err)
	}
	fs.setRights()
	if cfg.Callbacks != nil {
		if err := fs.beginLeases(ctx, res.UID); err != nil {
			return nil, fmt.Errorf("leases: %w", err)
		}
	}
	fs.forgets = newForgetQueue(fs.sendForgets, cfg.Logger)
	fs.trimmer = newTrimmer(fs.nodes)
	fs.nodes.note(&res.Entry, fsproto.RootNode, "")
	fs.root.put(&res.Entry.Attr)
	return fs, nil
}

// beginLeases makes the daemon, which acts as owner, call back, and prepares for locks.
func (fs *FS) beginLeases(ctx context.Context, owner uint32) error {
	fs.callbacks = fs.cfg.Callbacks
	if !fs.cfg.LocalLocks {
		fs.guard = newGuard(max(fs.cfg.EntryTimeout, fs.cfg.AttrTimeout, fs.cfg.NegativeTimeout))
		fs.locks = newLockKeeper(fs.guard)
	}
	if !fs.cfg.NoInotify {
		fs.inject = newInjector(fs)
	}
	res, err := fs.askLeases(ctx, fs.inject != nil)
	switch {
	case errors.Is(err, rpc.ErrNoMethod):
		fs.inject = nil
		fs.callbacks.serve(fs)
		return nil // a daemon of before leases
	case err != nil:
		return err
	}
	fs.leases = newLeases(leaseTime)
	fs.leases.events, fs.leases.why = res.Events, res.Why
	fs.access.leases = fs.leases
	fs.store = newStore(fs.leases.valid)
	if fs.cfg.Flags&unix.MS_SYNCHRONOUS == 0 {
		fs.behind = newBehind(fs, owner)
	}
	if fs.creds == nil && res.Events != fsproto.EventsNone {
		fs.ahead = newAhead(fs)
	}
	fs.callbacks.serve(fs)
	return nil
}

// askLeases asks for leases, and with events to be told what others have done.
func (fs *FS) askLeases(ctx context.Context, events bool) (res fsproto.LeasesRes, err error) {
	return res, rpc.Call(ctx, fs.peer, fsproto.Leases, &fsproto.LeasesReq{Events: events}, &res)
}

// setRights decides who checks permissions here, which only matters where the
// daemon acts with the caller's rights.
//
// If the owners and bits that the kernel is shown are the server's own, the
// kernel checks them before it uses what it remembers, and asks the daemon for
// everything else. If they are not, it cannot check, and must not remember any
// entry: by an entry that one user has looked up, another one would get into a
// directory that he may not search.
func (fs *FS) setRights() {
	fs.entryTimeout, fs.negativeTimeout = fs.cfg.EntryTimeout, fs.cfg.NegativeTimeout
	if fs.runAs == fsproto.RunAsCaller {
		fs.creds = newCredentials(fs.peer, fs.ids)
		fs.kernelChecks = fs.ids.own()
		if !fs.kernelChecks {
			fs.entryTimeout, fs.negativeTimeout = 0, 0
		}
	}
	fs.acl = fs.kernelChecks // or the kernel would decide otherwise than the server
	if fs.cfg.ACL != nil {
		fs.acl = *fs.cfg.ACL
	}
}

func (c *Config) setDefaults() {
	for _, d := range []*time.Duration{&c.EntryTimeout, &c.AttrTimeout, &c.NegativeTimeout} {
		if *d == 0 {
			*d = DefaultTimeout
		}
	}
	if c.Timeo == 0 {
		c.Timeo = DefaultTimeo
	}
	if c.ReadAhead == 0 {
		c.ReadAhead = 8 << 10
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
}

// Init is called by go-fuse once the kernel has answered.
func (fs *FS) Init(s *fuse.Server) {
	fs.trimmer.start(s)
	fs.notices.start(countedKernel{s, &fs.invalidations}, fs.lookAnew)
}

// OnUnmount is called by go-fuse after the last request. It ends the workers.
func (fs *FS) OnUnmount() {
	fs.link.stop()
	fs.releases.stop()
	fs.ahead.stop()
	fs.inject.stop()
	if fs.locks != nil {
		fs.locks.stop()
	}
	fs.trimmer.stop()
	fs.notices.stop()
	fs.forgets.stop()
	fs.creds.stop()
	fs.device.close()
}

// locksLost is told of handles that have lost their locks: what the kernel has
// cached must not serve them any more. Whatever is asked of the daemon through
// them fails there.
func (fs *FS) locksLost(handles []fsproto.Handle) {
	for _, h := range handles {
		if f := fs.handles.file(uint64(h)); f != nil {
			fs.locks.lost(f.node, h)
			f.stored.Store(false)
			fs.notices.invalidate(f.node)
			fs.log.Warn("the session was away too long: a file has lost its locks, and fails from now on", "node", uint64(f.node))
		}
	}
}

func (fs *FS) String() string { return "rpycfs" }

// newNode returns a number for a node that is about to be made.
func (fs *FS) newNode() fsproto.Node {
	return fsproto.Node(fsproto.ClientChosen | fs.lastNode.Add(1))
}

// newHandle returns a number for a handle that is about to be opened.
func (fs *FS) newHandle() fsproto.Handle { return fsproto.Handle(fs.lastHandle.Add(1)) }

// Package mount shows an exported tree to the kernel. Each request of the
// kernel becomes a call to the daemon; node ids are the session's node numbers,
// so that the two sides cannot come to mean different files.
//
// # What is cached
//
// Nothing in this process but which nodes the kernel knows (nodeTable), what is
// open (handleTable), the page of a listing that was fetched last (page), and
// which names others have changed lately (hotNames).
// The kernel keeps entries, attributes and data for the time-outs of Config.
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
// is being killed, or some seconds later; see request.
//
// # When the session is over
//
// Every request fails with ENOTCONN, which is what a FUSE mount without a
// process behind it gives too. Unmounting always works.
package mount

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

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
	ACL        bool    // pass POSIX ACLs on; their ids are the daemon's
	AllowOther bool    // let other local users in
	Flags      uintptr // MS_… bits for mount(2), MS_RDONLY among them
	Fusermount bool    // mount through fusermount3, as ordinary users must
	ReadAhead  int     // KiB that the kernel reads ahead; 0: 8 MiB

	Logger *slog.Logger // nil: slog.Default
}

// FS answers the kernel's requests. All its methods may be called concurrently.
type FS struct {
	fuse.RawFileSystem // answers ENOSYS to what is not implemented: locks, until they are
	cfg                Config
	peer               *rpc.Peer
	log                *slog.Logger
	ids                idMap
	runAs              uint8 // fsproto.RunAs…

	nodes   *nodeTable
	handles *handleTable
	naming  *naming
	forgets *forgetQueue
	trimmer *trimmer
	notices *notifier
	hot     *hotNames

	lastNode   atomic.Uint64 // node numbers chosen by the client so far
	lastHandle atomic.Uint64 // handle numbers used so far
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
		log:           cfg.Logger,
		ids:           cfg.IDs.bind(res.UID, res.GID),
		runAs:         res.RunAs,
		nodes:         newNodeTable(),
		handles:       newHandleTable(),
		naming:        newNaming(),
		notices:       newNotifier(cfg.Logger),
		hot:           newHotNames(),
	}
	fs.forgets = newForgetQueue(fs.sendForgets, cfg.Logger)
	fs.trimmer = newTrimmer(fs.nodes)
	fs.nodes.note(&res.Entry, fsproto.RootNode, "")
	return fs, nil
}

func (c *Config) setDefaults() {
	for _, d := range []*time.Duration{&c.EntryTimeout, &c.AttrTimeout, &c.NegativeTimeout} {
		if *d == 0 {
			*d = DefaultTimeout
		}
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
	fs.notices.start(s)
	fs.trimmer.start(s)
}

// OnUnmount is called by go-fuse after the last request. It ends the workers.
func (fs *FS) OnUnmount() {
	fs.trimmer.stop()
	fs.notices.stop()
	fs.forgets.stop()
}

func (fs *FS) String() string { return "rpycfs" }

// newNode returns a number for a node that is about to be made.
func (fs *FS) newNode() fsproto.Node {
	return fsproto.Node(fsproto.ClientChosen | fs.lastNode.Add(1))
}

// newHandle returns a number for a handle that is about to be opened.
func (fs *FS) newHandle() fsproto.Handle { return fsproto.Handle(fs.lastHandle.Add(1)) }

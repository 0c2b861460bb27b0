// Package watch follows what happens in a directory of a server, without a mount.
//
//	c, err := watch.Dial(ctx, watch.Config{Address: …, Auth: …, Recursive: true})
//	for err == nil {
//		var ev watch.Event
//		if ev, err = c.Next(ctx); err == nil {
//			…
//		}
//	}
//
// A program that does not call Next soon enough gets an overflow in place of what found
// no room at the server. A connection that is lost and comes back loses nothing; if the
// server has forgotten the session meanwhile, because it was started anew, the client
// watches anew, and there is an overflow as well. After an overflow the program has to
// look at the directory itself.
package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// Back-off between attempts to watch anew, and how long one attempt and the log-out may
// take.
const (
	minBackoff   = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
	attemptLimit = 15 * time.Second
	closeLimit   = 2 * time.Second
)

// cred is the number of the credential that the watch is asked for with.
const cred = 1

// Errors of this package. Dial also returns those of client.Dial, and errors that wrap
// a syscall.Errno if the server refuses: see fsproto.WatchReq.
var (
	// ErrEnded means that the last event has been returned.
	ErrEnded = errors.New("the watch has ended")
	// ErrNoWatch means that the server cannot watch: it is older than that.
	ErrNoWatch = errors.New("the server is too old to be watched")
)

// Config describes what is watched, and where. It is not changed once Dial has it.
type Config struct {
	Address   string // host:port, or unix:PATH
	Auth      *auth.Client
	Path      []string     // the directory, seen from the user's root
	Recursive bool         // with all that is below
	Log       *slog.Logger // nil: nothing is logged
}

// Event is one thing that happened.
type Event struct {
	Seq uint64 // from 1 on, without a gap
	fsproto.WatchEvent
}

// Client follows one directory. Next and Close are called by one goroutine at a time.
type Client struct {
	cfg     Config
	link    *link
	waiting []fsproto.WatchEvent
	seq     uint64
	ended   bool
}

// Dial logs in and begins to watch: what happens once it has returned is told. ctx
// bounds that, not the client.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{cfg: cfg}
	var err error
	c.link, err = c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Unseen returns why changes by programs on the server are not told, in one line; "" if
// they are.
func (c *Client) Unseen() string {
	if c.link.res.Events == fsproto.EventsNone {
		return c.link.res.Why
	}
	return ""
}

// Next returns the next event. It waits for one, also while there is no connection. The
// error is ctx's, ErrEnded after the last event, or why it cannot go on.
func (c *Client) Next(ctx context.Context) (Event, error) {
	for len(c.waiting) == 0 {
		if c.ended {
			return Event{}, ErrEnded
		}
		if err := c.receive(ctx); err != nil {
			return Event{}, err
		}
	}
	ev := c.waiting[0]
	c.waiting = c.waiting[1:]
	c.seq++
	c.ended = ev.Kind == fsproto.WatchEnd
	return Event{c.seq, ev}, nil
}

// receive waits for a delivery, or watches anew.
func (c *Client) receive(ctx context.Context) error {
	select {
	case b := <-c.link.batches:
		if b.First != c.link.next {
			return fmt.Errorf("the server left events out: %w", rpc.ErrBadRequest)
		}
		c.link.next += uint64(len(b.Events))
		c.waiting = b.Events
		return nil
	case <-c.link.sess.Done():
		return c.again(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// again watches anew after the session has ended.
func (c *Client) again(ctx context.Context) error {
	c.link.close(c.cfg.Log)
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		l, err := c.connect(ctx)
		switch {
		case err == nil:
			c.link = l
			c.waiting = []fsproto.WatchEvent{{Kind: fsproto.WatchOverflow, Time: now()}}
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case gone(err) != 0:
			c.waiting = []fsproto.WatchEvent{{Kind: fsproto.WatchEnd, Time: now(), Error: gone(err)}}
			return nil
		case hopeless(err):
			return err
		}
		c.cfg.Log.Info("watching anew failed", "err", err)
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gone returns the error number if the server says that the directory cannot be watched
// any more, else 0.
func gone(err error) uint32 {
	if !errors.As(err, new(*rpc.Error)) {
		return 0
	}
	for _, errno := range []syscall.Errno{syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP, syscall.EACCES, syscall.ESTALE} {
		if errors.Is(err, errno) {
			return uint32(rpc.CodeOf(errno))
		}
	}
	return 0
}

// hopeless reports whether trying again leads to the same error.
func hopeless(err error) bool {
	for _, e := range []error{
		auth.ErrRefused, auth.ErrHostKeyChanged, auth.ErrHostKeyUnknown, auth.ErrVersion,
		auth.ErrWeakServer, auth.ErrNoMethod, ErrNoWatch,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func now() fsproto.Time {
	t := time.Now()
	return fsproto.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// Close ends the watch and logs out. It returns when nothing of it is left.
func (c *Client) Close() error {
	c.ended, c.waiting = true, nil
	return c.link.close(c.cfg.Log)
}

// link is one session and the listener in it.
type link struct {
	sess    *client.Session
	res     fsproto.WatchRes
	next    uint64 // number of the next event
	batches chan *fsproto.WatchEventsReq
	stopped chan struct{}
	once    sync.Once
}

// connect logs in and watches.
func (c *Client) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	sess, err := client.Dial(ctx, client.Config{Address: c.cfg.Address, Auth: c.cfg.Auth, Log: c.cfg.Log})
	if err != nil {
		return nil, err
	}
	l := &link{sess: sess, next: 1, batches: make(chan *fsproto.WatchEventsReq), stopped: make(chan struct{})}
	if err := l.watch(ctx, &c.cfg); err != nil {
		l.close(c.cfg.Log)
		return nil, err
	}
	return l, nil
}

// watch asks for the watch, as who runs the program.
func (l *link) watch(ctx context.Context, cfg *Config) error {
	peer := l.sess.Peer()
	me := fsproto.CredReq{ID: cred, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	groups, err := os.Getgroups()
	if err != nil {
		return fmt.Errorf("groups of this process: %w", err)
	}
	for _, g := range groups[:min(len(groups), fsproto.MaxGroups)] {
		me.Groups = append(me.Groups, uint32(g))
	}
	if err := rpc.Call(ctx, peer, fsproto.Cred, &me, &fsproto.Empty{}); err != nil {
		return err
	}
	mux := new(rpc.Mux)
	rpc.Handle(mux, fsproto.WatchEvents, l.take)
	listener, err := peer.Export(mux, nil)
	if err != nil {
		return err
	}
	req := fsproto.WatchReq{Listener: listener, Path: cfg.Path, Recursive: cfg.Recursive}
	_, err = rpc.CallWith(ctx, peer, fsproto.Watch, &req, &l.res, rpc.Extra{Cred: cred})
	if errors.Is(err, rpc.ErrNoMethod) {
		return ErrNoWatch
	}
	return err
}

// take hands a delivery to Next, and answers when it is taken, so that a program that
// is slow to read holds no more than one.
func (l *link) take(ctx context.Context, _ *rpc.Request, req *fsproto.WatchEventsReq, _ *fsproto.Empty) error {
	select {
	case l.batches <- req:
		return nil
	case <-l.stopped:
		return rpc.ErrGone
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close logs out.
func (l *link) close(log *slog.Logger) error {
	l.once.Do(func() { close(l.stopped) })
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	if err := l.sess.Close(ctx); err != nil {
		log.Debug("log-out", "err", err)
		return err
	}
	return nil
}

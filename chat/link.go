package chat

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/rpc"
)

// Back-off between attempts to log in again, and how long one attempt may take.
const (
	minBackoff   = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
	attemptLimit = 15 * time.Second
	closeLimit   = 2 * time.Second
)

var errNoChat = errors.New("the server has no chat service")

// link is one log-in session with its chat session. When it is over, the client
// makes another one.
type link struct {
	c    *Client
	sess *client.Session
	peer *rpc.Peer
	chat rpc.Ref // the chat session
	feed *feed
	next uint64        // number of the next event; the pump's
	wake chan struct{} // asks the pump to look after the keys again

	mu   sync.Mutex
	refs map[chatproto.RoomID]rpc.Ref
}

// connect logs in and attaches. The tables are filled when it returns.
func (c *Client) connect(ctx context.Context) (*link, error) {
	sess, err := client.Dial(ctx, client.Config{
		Address: c.cfg.Address, Auth: c.cfg.Auth, Joined: 0, Notify: c.sessionChanged, Log: c.log,
	})
	if err != nil {
		return nil, err
	}
	l := newLink(c, sess.Peer())
	l.sess = sess
	if err := l.attach(ctx); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func newLink(c *Client, peer *rpc.Peer) *link {
	return &link{c: c, peer: peer, feed: newFeed(), refs: make(map[chatproto.RoomID]rpc.Ref), wake: make(chan struct{}, 1)}
}

func (l *link) attach(ctx context.Context) error {
	listener, err := l.peer.Export(l.feed.mux(), nil)
	if err != nil {
		return err
	}
	req := chatproto.ChatAttachReq{Listener: listener, Device: l.c.deviceID()}
	var res chatproto.ChatAttachRes
	if err := rpc.Call(ctx, l.peer, chatproto.Attach, &req, &res); err != nil {
		if errors.Is(err, rpc.ErrNoMethod) {
			return errNoChat
		}
		return chatproto.FromRPC(err)
	}
	l.chat = res.Session
	if err := l.sync(ctx); err != nil {
		return err
	}
	if away, text := l.c.awayState(); away {
		return call(ctx, l, chatproto.SetAway, &chatproto.SetAwayReq{Away: true, Text: text}, new(chatproto.Empty))
	}
	return nil
}

// sync asks for a snapshot and brings the tables up to it.
func (l *link) sync(ctx context.Context) error {
	var res chatproto.SnapshotRes
	if err := call(ctx, l, chatproto.Snapshot, &chatproto.SnapshotReq{}, &res); err != nil {
		return err
	}
	l.next = res.Next
	return l.c.applySnapshot(&res)
}

func (l *link) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	if err := l.sess.Close(ctx); err != nil {
		l.c.log.Debug("log-out", "err", err)
	}
}

// over reports whether the session has ended.
func (l *link) over() bool { return l.peer.Context().Err() != nil }

// call calls a method of the chat session.
func call[Req, Res any](ctx context.Context, l *link, op *rpc.Op[Req, Res], req *Req, res *Res) error {
	_, err := rpc.CallWith(ctx, l.peer, op, req, res, rpc.Extra{Object: l.chat})
	return chatproto.FromRPC(err)
}

// callRoom calls a method of a room. A reference that is no longer valid is
// asked for anew once.
func callRoom[Req, Res any](ctx context.Context, l *link, room chatproto.RoomID, op *rpc.Op[Req, Res], req *Req, res *Res) error {
	for try := 0; ; try++ {
		ref, err := l.ref(ctx, room)
		if err != nil {
			return err
		}
		_, err = rpc.CallWith(ctx, l.peer, op, req, res, rpc.Extra{Object: ref})
		if !errors.Is(err, rpc.ErrNoReference) || try > 0 {
			return chatproto.FromRPC(err)
		}
		l.forget(room)
	}
}

// ref returns the reference of a room.
func (l *link) ref(ctx context.Context, room chatproto.RoomID) (rpc.Ref, error) {
	l.mu.Lock()
	ref, ok := l.refs[room]
	l.mu.Unlock()
	if ok {
		return ref, nil
	}
	var res chatproto.RoomRes
	if err := call(ctx, l, chatproto.OpenRoom, &chatproto.OpenRoomReq{Room: room}, &res); err != nil {
		return 0, err
	}
	l.keep(room, res.Ref)
	return res.Ref, nil
}

func (l *link) keep(room chatproto.RoomID, ref rpc.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refs) < maxRooms {
		l.refs[room] = ref
	}
}

func (l *link) forget(room chatproto.RoomID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.refs, room)
}

// run serves one link after the other until the client is closed or cannot log
// in any more. Links that end soon after they began follow one another slower
// and slower, whatever the server does to them.
func (c *Client) run(l *link) {
	defer close(c.done)
	var pause time.Duration
	for {
		if l == nil {
			var err error
			if l, err = c.reconnect(); err != nil {
				c.fail(err)
				return
			}
		}
		began := time.Now()
		c.setLink(l)
		err := l.serve()
		c.setLink(nil)
		l.close()
		l = nil
		if c.ctx.Err() != nil {
			return
		}
		c.log.Info("chat session over", "err", err)
		if time.Since(began) > maxBackoff {
			pause = 0
		}
		sleep(c.ctx, pause)
		pause = min(max(2*pause, minBackoff), maxBackoff)
	}
}

// reconnect tries until it has logged in again, and fails only for good.
func (c *Client) reconnect() (*link, error) {
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		ctx, cancel := context.WithTimeout(c.ctx, attemptLimit)
		l, err := c.connect(ctx)
		cancel()
		switch {
		case c.ctx.Err() != nil:
			if l != nil {
				l.close()
			}
			return nil, ErrClosed
		case err == nil:
			return l, nil
		case hopeless(err):
			return nil, err
		}
		wait := backoff/2 + rand.N(backoff)
		c.sessionChanged(client.State{LastError: err, NextTry: time.Now().Add(wait)})
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// hopeless reports whether trying again leads to the same error.
func hopeless(err error) bool {
	for _, e := range []error{
		auth.ErrRefused, auth.ErrHostKeyChanged, auth.ErrHostKeyUnknown, auth.ErrVersion,
		auth.ErrWeakServer, auth.ErrNoMethod, errNoChat,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// serve takes in events until the session is over or breaks the protocol.
func (l *link) serve() error {
	ctx, cancel := context.WithCancelCause(l.c.ctx)
	defer cancel(nil)
	stop := context.AfterFunc(l.peer.Context(), func() { cancel(rpc.ErrGone) })
	defer stop()
	defer l.feed.stop()
	p := &pump{link: l, c: l.c}
	err := p.catchUp(ctx)
	for err == nil {
		select {
		case b := <-l.feed.batches:
			err = p.take(ctx, b)
		case first := <-l.feed.cut:
			err = p.cut(ctx, first)
		case <-l.wake:
			err = p.keys(ctx)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return err
}

// feed is the listener that the server calls. Its handlers hand what comes to
// the pump and answer when the pump has taken it, so that a program that is slow
// to read is cut off by the server and holds no more than a delivery.
type feed struct {
	batches chan batch
	cut     chan uint64 // number of the first event that was dropped
	stopped chan struct{}
	once    sync.Once
}

// batch is a delivery.
type batch struct {
	first  uint64
	events []rpc.Message // nil for a kind that is not known
}

func newFeed() *feed {
	return &feed{batches: make(chan batch), cut: make(chan uint64, 1), stopped: make(chan struct{})}
}

func (f *feed) stop() { f.once.Do(func() { close(f.stopped) }) }

// mux has the methods of a listener.
func (f *feed) mux() *rpc.Mux {
	m := new(rpc.Mux)
	rpc.Handle(m, chatproto.Deliver, f.deliver)
	rpc.Handle(m, chatproto.Cut, func(_ context.Context, _ *rpc.Request, req *chatproto.CutReq, _ *chatproto.Empty) error {
		select {
		case f.cut <- req.First:
		default: // one is waiting, and leads to a snapshot
		}
		return nil
	})
	return m
}

func (f *feed) deliver(ctx context.Context, _ *rpc.Request, req *chatproto.DeliverReq, _ *chatproto.Empty) error {
	b := batch{first: req.First}
	for i := range req.Events {
		m, err := decodeEvent(&req.Events[i])
		if err != nil {
			return err
		}
		b.events = append(b.events, m)
	}
	select {
	case f.batches <- b:
		return nil
	case <-f.stopped:
		return rpc.ErrGone
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// decodeEvent returns nil for a kind that is not known. What it returns does not
// refer to the request.
func decodeEvent(e *chatproto.Event) (rpc.Message, error) {
	m := chatproto.NewEventBody(e.Kind)
	if m == nil {
		return nil, nil
	}
	if err := rpc.Decode(append([]byte(nil), e.Body...), m); err != nil {
		return nil, fmt.Errorf("%w: event of kind %d: %w", rpc.ErrBadRequest, e.Kind, err)
	}
	return m, nil
}

package chat

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/local"
	"github.com/rpycfs/rpycfs/rpc"
)

// Pauses before a message is sent again that the server could not take, and how
// often that is tried before it counts as refused.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 10 * time.Second
	maxTries = 20
)

// outbox sends what is said: in order and one at a time within a lane, which is
// a room or a user who is whispered to. A message keeps its id however often it
// is sent, so that the server stores it once.
//
//	put -> queued -> sending -> acknowledged: removed
//	          ^         |
//	          |         +-> refused for good: Failed, removed
//	          +---------+   no session, rate, stale key: again
type outbox struct {
	c     *Client
	state *local.State // nil: what waits is lost with the client

	mu    sync.Mutex
	n     int64 // of the last message, without state
	lanes map[lane]*[]*outgoing
	empty chan struct{} // closed when nothing waits any more; made by who waits
}

// barrier returns when whoever held the outbox at the call has let it go.
func (o *outbox) barrier() {
	o.mu.Lock()
	defer o.mu.Unlock()
}

// lane names what keeps an order: a room, or a user.
type lane struct {
	room chatproto.RoomID
	peer string
}

// outgoing is a message of the outbox.
type outgoing struct {
	local.Queued
	result chan said // has room for one; nil: nobody waits; guarded by outbox.mu
}

// said is what has become of a message.
type said struct {
	room chatproto.RoomID
	res  chatproto.SayRes
	err  error
}

func newOutbox(c *Client) *outbox {
	return &outbox{c: c, state: c.sealed.store(), lanes: make(map[lane]*[]*outgoing)}
}

// len returns how many messages wait.
func (o *outbox) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lenLocked()
}

func (o *outbox) lenLocked() int {
	n := 0
	for _, queue := range o.lanes {
		n += len(*queue)
	}
	return n
}

// newID draws the name of a message.
func newID() (id chatproto.ID) {
	rand.Read(id[:])
	return id
}

// destination is where a message goes.
type destination struct {
	room chatproto.RoomID
	peer string // for a direct message; room does not count then
	seal bool   // sealed or not at all, whatever the server calls the room by then
}

// put takes in a message: it survives this process from here on if there is a
// state directory.
func (o *outbox) put(to destination, kind uint8, text string, wait bool) (*outgoing, error) {
	limit := chatproto.MaxText
	if kind == chatproto.KindTopic {
		limit = chatproto.MaxTopic
	}
	if err := chatproto.CheckText(text, limit); err != nil {
		return nil, err
	}
	if to.seal && o.state == nil {
		return nil, ErrNoState
	}
	m := &outgoing{Queued: local.Queued{
		Room: to.room, Peer: to.peer, Seal: to.seal, ID: newID(), Kind: kind, Text: text, Sent: time.Now().UnixMicro(),
	}}
	if to.peer != "" {
		m.Room = 0
	}
	if wait {
		m.result = make(chan said, 1)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.c.Err(); err != nil {
		return nil, err
	}
	if o.state != nil {
		if err := o.state.Enqueue(&m.Queued); err != nil {
			return nil, err
		}
	} else if o.n++; o.lenLocked() >= local.MaxQueued {
		return nil, local.ErrFull
	} else {
		m.N = o.n
	}
	o.start(m)
	return m, nil
}

// start puts a message at the end of its lane. o.mu is held.
func (o *outbox) start(m *outgoing) {
	key := lane{m.Room, m.Peer}
	queue := o.lanes[key]
	if queue != nil {
		*queue = append(*queue, m)
		return
	}
	o.lanes[key] = &[]*outgoing{m}
	o.c.work.Go(func() { o.run(key) })
}

// run sends the messages of a lane until there are none.
func (o *outbox) run(key lane) {
	for {
		o.mu.Lock()
		m := (*o.lanes[key])[0]
		o.mu.Unlock()
		result := o.send(o.c.ctx, m)
		if o.c.ctx.Err() != nil && result.err != nil {
			return // it waits for another client
		}
		if !o.finish(key, m, result) {
			return
		}
	}
}

// finish removes a message from its lane, and tells what has become of it. It
// reports whether more wait in the lane.
func (o *outbox) finish(key lane, m *outgoing, result said) bool {
	if result.err != nil {
		o.c.log.Warn("a message was refused", "room", m.Room, "peer", m.Peer, "err", result.err)
		o.failed(m, result.err)
	}
	if o.state != nil {
		if err := o.state.Dequeue(m.N); err != nil {
			o.c.log.Error("outbox", "err", err)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if m.result != nil {
		m.result <- result
	}
	queue := o.lanes[key]
	if *queue = (*queue)[1:]; len(*queue) > 0 {
		return true
	}
	delete(o.lanes, key)
	if o.empty != nil && len(o.lanes) == 0 {
		close(o.empty)
		o.empty = nil
	}
	return false
}

// failed tells by an event that a message was refused, unless somebody waits for
// its result.
func (o *outbox) failed(m *outgoing, err error) {
	o.mu.Lock()
	awaited := m.result != nil
	o.mu.Unlock()
	if !awaited {
		o.c.say(&Failed{Message: o.c.pending(&m.Queued), Err: err})
	}
}

// send sends a message until it is acknowledged or refused for good.
func (o *outbox) send(ctx context.Context, m *outgoing) said {
	pause := minRetry
	for tries := 1; ; tries++ {
		l, err := o.c.session(ctx)
		if err != nil {
			return said{err: err}
		}
		room, res, err := o.deliver(ctx, l, m)
		var refusal *chatproto.Error
		switch {
		case err == nil:
			return said{room: room, res: res}
		case ctx.Err() != nil:
			return said{err: err}
		case errors.Is(err, rpc.ErrGone):
			tries = 0
			l.ended(ctx)
			continue
		case errors.Is(err, context.DeadlineExceeded): // see sealed.say
			tries = 0
		case errors.Is(err, chatproto.ErrRate):
			errors.As(err, &refusal)
			tries = 0
			sleep(ctx, max(refusal.RetryAfter, minRetry))
			continue
		case !temporary(err) || tries >= maxTries:
			return said{err: err}
		}
		sleep(ctx, pause)
		pause = min(2*pause, maxRetry)
	}
}

// temporary reports whether sending again may succeed.
func temporary(err error) bool {
	for _, e := range []error{
		rpc.ErrInternal, rpc.ErrBusy, rpc.ErrNoReference, context.Canceled,
		chatproto.ErrStaleKey, chatproto.ErrConflict,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return sealedLater(err)
}

// deliver sends a message once.
func (o *outbox) deliver(ctx context.Context, l *link, m *outgoing) (chatproto.RoomID, chatproto.SayRes, error) {
	req := chatproto.SayReq{ID: m.ID, Kind: m.Kind, Sent: m.Sent, Body: []byte(m.Text)}
	if m.Peer != "" {
		var res chatproto.WhisperRes
		err := call(ctx, l, chatproto.Whisper, &chatproto.WhisperReq{User: m.Peer, Say: req}, &res)
		return res.Room, res.Said, err
	}
	var res chatproto.SayRes
	if m.Seal {
		err := o.c.sealed.say(ctx, l, m, &req, &res)
		return m.Room, res, err
	}
	err := callRoom(ctx, l, m.Room, chatproto.Say, &req, &res)
	return m.Room, res, err
}

// ended waits until the link's session is over, for a call has said so, but not
// for long: whoever answers so without ending it is not to be hurried.
func (l *link) ended(ctx context.Context) {
	select {
	case <-l.peer.Context().Done():
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// adoptLoop takes over what dead programs have left in the outbox.
func (c *Client) adoptLoop() {
	for c.outbox.state != nil && c.ctx.Err() == nil {
		sleep(c.ctx, adopt)
		if _, err := c.session(c.ctx); err == nil {
			c.outbox.adopt()
		}
	}
}

func (o *outbox) adopt() {
	if o.state == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	left, err := o.state.Adopt()
	if err != nil {
		o.c.log.Error("outbox", "err", err)
	}
	for _, q := range left {
		o.start(&outgoing{Queued: q})
	}
}

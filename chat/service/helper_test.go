package service

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/store"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// world is a service with its store.
type world struct {
	t   testing.TB
	dir string
	svc *Service
	st  *store.Store
}

// newWorld has all users except "nobody", and no limits of rates unless cfg has.
func newWorld(t testing.TB, cfg Config) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	if cfg.Rate == 0 {
		cfg.Rate = -1
	}
	w.open(cfg)
	t.Cleanup(func() { w.close() })
	return w
}

func (w *world) open(cfg Config) {
	w.t.Helper()
	cfg.Users = func(name string) bool { return name != "nobody" }
	w.svc = New(cfg)
	st, err := store.Open(context.Background(), store.Config{
		Path: filepath.Join(w.dir, "chat.db"), Users: cfg.Users, Committed: w.svc.Committed, Log: slog.New(slog.DiscardHandler),
	})
	must(w.t, err)
	w.st = st
	w.svc.Use(st)
}

func (w *world) close() {
	w.svc.Close()
	must(w.t, w.st.Close())
}

// device is a session of a user with one listener.
type device struct {
	t    testing.TB
	user string
	link *rpctest.Session
	chat *Session
	peer *rpc.Peer // the client's side
	feed *feed
	ref  rpc.Ref // of the chat session
	mu   sync.Mutex
	refs map[chatproto.RoomID]rpc.Ref
}

// device logs in and attaches.
func (w *world) device(user string) *device {
	w.t.Helper()
	d := w.session(user)
	d.attach()
	return d
}

// session logs in.
func (w *world) session(user string) *device {
	w.t.Helper()
	d := &device{t: w.t, user: user, chat: w.svc.NewSession(user), refs: make(map[chatproto.RoomID]rpc.Ref)}
	mux := new(rpc.Mux)
	d.chat.Register(mux)
	d.link = rpctest.New(w.t, rpc.Config{Root: mux}, rpc.Config{})
	d.peer = d.link.Client
	d.chat.Connected()
	w.t.Cleanup(func() { d.end() })
	return d
}

// end ends the session as the daemon does.
func (d *device) end() {
	d.chat.Close()
	d.link.Client.End(nil)
	d.link.Server.End(nil)
}

// attach hands over a listener.
func (d *device) attach() {
	d.t.Helper()
	d.feed = newFeed()
	must(d.t, d.attachFeed(d.feed))
}

func (d *device) attachFeed(f *feed) error {
	listener, err := d.peer.Export(f.methods(), nil)
	if err != nil {
		return err
	}
	res, err := call(d.peer, chatproto.Attach, 0, &chatproto.ChatAttachReq{Listener: listener})
	if err == nil {
		d.ref = res.Session
	}
	return err
}

// call calls a method of an object; its error is the service's own if it is one.
func call[Req, Res any](p *rpc.Peer, op *rpc.Op[Req, Res], object rpc.Ref, req *Req) (res Res, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = rpc.CallWith(ctx, p, op, req, &res, rpc.Extra{Object: object})
	return res, chatproto.FromRPC(err)
}

func ask[Req, Res any](d *device, op *rpc.Op[Req, Res], req *Req) (Res, error) {
	return call(d.peer, op, d.ref, req)
}

func mustAsk[Req, Res any](d *device, op *rpc.Op[Req, Res], req *Req) Res {
	d.t.Helper()
	res, err := ask(d, op, req)
	must(d.t, err)
	return res
}

// in calls a method of a room, through the reference that the device has.
func in[Req, Res any](d *device, room chatproto.RoomID, op *rpc.Op[Req, Res], req *Req) (Res, error) {
	d.mu.Lock()
	ref := d.refs[room]
	d.mu.Unlock()
	return call(d.peer, op, ref, req)
}

func mustIn[Req, Res any](d *device, room chatproto.RoomID, op *rpc.Op[Req, Res], req *Req) Res {
	d.t.Helper()
	res, err := in(d, room, op, req)
	must(d.t, err)
	return res
}

// enter keeps a room's reference.
func (d *device) enter(r chatproto.RoomRes, err error) chatproto.RoomID {
	d.t.Helper()
	must(d.t, err)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refs[r.Room.Info.Room] = r.Ref
	return r.Room.Info.Room
}

func (d *device) join(name string) chatproto.RoomID {
	d.t.Helper()
	return d.enter(ask(d, chatproto.JoinRoom, &chatproto.JoinRoomReq{ID: newID(), Name: name}))
}

func (d *device) create(kind uint8, name string) chatproto.RoomID {
	d.t.Helper()
	return d.enter(ask(d, chatproto.CreateRoom, &chatproto.CreateRoomReq{ID: newID(), Kind: kind, Name: name}))
}

func (d *device) open(room chatproto.RoomID) {
	d.t.Helper()
	d.enter(ask(d, chatproto.OpenRoom, &chatproto.OpenRoomReq{Room: room}))
}

func (d *device) say(room chatproto.RoomID, text string) chatproto.SayRes {
	d.t.Helper()
	return mustIn(d, room, chatproto.Say, sayReq(text))
}

func sayReq(text string) *chatproto.SayReq {
	return &chatproto.SayReq{ID: newID(), Kind: chatproto.KindText, Body: []byte(text)}
}

func (d *device) snapshot() chatproto.SnapshotRes {
	d.t.Helper()
	return mustAsk(d, chatproto.Snapshot, &chatproto.SnapshotReq{})
}

func (d *device) away(text string) {
	d.t.Helper()
	mustAsk(d, chatproto.SetAway, &chatproto.SetAwayReq{Away: text != "", Text: text})
}

// fence returns when the device has everything that was queued for it before.
func (d *device) fence(w *world) {
	d.t.Helper()
	text := fmt.Sprintf("fence %x", newID())
	w.svc.Notice(text)
	d.feed.await(d.t, "the fence", func(e any) bool { n, ok := e.(*chatproto.Notice); return ok && n.Text == text })
}

func newID() (id chatproto.ID) {
	rand.Read(id[:])
	return id
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// feed is a listener that remembers what it was told.
type feed struct {
	mu      sync.Mutex
	events  []any // decoded, in order
	numbers []uint64
	cuts    []uint64
	problem error
	changed chan struct{}
	gate    chan struct{} // not nil: deliveries wait until it is closed
	waiting chan struct{} // closed when the first one waits
}

func newFeed() *feed {
	return &feed{changed: make(chan struct{}), waiting: make(chan struct{})}
}

// stop makes the listener not answer until the returned function is called,
// whatever the other side cancels.
func (f *feed) stop() (resume func()) {
	gate := make(chan struct{})
	f.mu.Lock()
	f.gate = gate
	f.mu.Unlock()
	return sync.OnceFunc(func() {
		f.mu.Lock()
		f.gate = nil
		f.mu.Unlock()
		close(gate)
	})
}

func (f *feed) methods() *rpc.Mux {
	m := new(rpc.Mux)
	rpc.Handle(m, chatproto.Deliver, func(_ context.Context, _ *rpc.Request, req *chatproto.DeliverReq, _ *chatproto.Empty) error {
		f.mu.Lock()
		gate := f.gate
		f.mu.Unlock()
		if gate != nil {
			f.mu.Lock()
			select {
			case <-f.waiting:
			default:
				close(f.waiting)
			}
			f.mu.Unlock()
			<-gate
		}
		f.take(req)
		return nil
	})
	rpc.Handle(m, chatproto.Cut, f.cut)
	return m
}

// tell wakes who waits; f.mu is held.
func (f *feed) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed) take(req *chatproto.DeliverReq) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.tell()
	size := 0
	for i, e := range req.Events {
		number := req.First + uint64(i)
		if n := len(f.numbers); n > 0 && number <= f.numbers[n-1] {
			f.problem = fmt.Errorf("event %d after %d", number, f.numbers[n-1])
		}
		size += len(e.Body)
		m := chatproto.NewEventBody(e.Kind)
		if m == nil {
			f.problem = fmt.Errorf("event of kind %d", e.Kind)
			return
		}
		if err := rpc.Decode(slices.Clone(e.Body), m); err != nil {
			f.problem = err
		}
		f.numbers = append(f.numbers, number)
		f.events = append(f.events, m)
	}
	if size > chatproto.MaxBatch || len(req.Events) == 0 {
		f.problem = fmt.Errorf("a delivery of %d events with %d bytes", len(req.Events), size)
	}
}

// all returns what the listener was told so far.
func (f *feed) all() []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events)
}

// until waits until enough is true of what the listener was told.
func (f *feed) until(t testing.TB, what string, enough func(f *feed) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		f.mu.Lock()
		done, changed, problem := enough(f), f.changed, f.problem
		f.mu.Unlock()
		if problem != nil {
			t.Fatal(problem)
		}
		if done {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%s did not come; there were %d events", what, len(f.all()))
		}
	}
}

// await waits for an event.
func (f *feed) await(t testing.TB, what string, is func(e any) bool) {
	t.Helper()
	f.until(t, what, func(f *feed) bool { return slices.ContainsFunc(f.events, is) })
}

// of returns the events of one type that were told so far.
func of[T any](f *feed) []T {
	var found []T
	for _, e := range f.all() {
		if x, ok := e.(T); ok {
			found = append(found, x)
		}
	}
	return found
}

// texts returns what was said in a room, as the listener was told.
func (f *feed) texts(room chatproto.RoomID) []string {
	var found []string
	for _, m := range of[*chatproto.Message](f) {
		if m.Room == room && m.Kind == chatproto.KindText {
			found = append(found, string(m.Body))
		}
	}
	return found
}

// saying matches a message with this text.
func saying(text string) func(any) bool {
	return func(e any) bool {
		m, ok := e.(*chatproto.Message)
		return ok && m.Kind == chatproto.KindText && string(m.Body) == text
	}
}

// presenceOf matches news of a user's presence.
func presenceOf(user string, state uint8) func(any) bool {
	return func(e any) bool {
		p, ok := e.(*chatproto.Presence)
		return ok && p.User == user && p.State == state
	}
}

// awaitPresence waits until the last thing told of a user is this state.
func (f *feed) awaitPresence(t testing.TB, user string, state uint8) {
	t.Helper()
	f.until(t, fmt.Sprintf("presence %d of %s", state, user), func(f *feed) bool {
		for _, e := range slices.Backward(f.events) {
			if p, ok := e.(*chatproto.Presence); ok && p.User == user {
				return p.State == state
			}
		}
		return false
	})
}

// cut notes that the feed was cut.
func (f *feed) cut(_ context.Context, _ *rpc.Request, req *chatproto.CutReq, _ *chatproto.Empty) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cuts = append(f.cuts, req.First)
	f.tell()
	return nil
}

// deliver counts the entries.
func (c *counter) deliver(_ context.Context, _ *rpc.Request, req *chatproto.DeliverReq, _ *chatproto.Empty) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range req.Events {
		if e.Kind == chatproto.EventMessage {
			c.n++
		}
	}
	c.got.Broadcast()
	return nil
}

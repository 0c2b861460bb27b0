package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// The operations of each kind of object.
func isSession(method uint16) bool { return method>>4 == 0x021 || method>>4 == 0x022 }
func isRoom(method uint16) bool    { return method>>4 == 0x023 || method>>4 == 0x024 }
func isRoot(method uint16) bool {
	return method>>8 == 0x00 || method>>8 == 0x01 || method == chatproto.Attach.Number
}

// What every peer has beside its services.
const (
	release = 0x0001
	logout  = 0x0002 // ends a session, which is no breach
)

// TestB6HostilePeer: whatever objects, methods, slots and frames a client
// guesses, it learns that there is no such thing, and no more; the daemon serves
// the others meanwhile.
func TestB6HostilePeer(t *testing.T) {
	w := newChatWorld(t, "alice", "bob", "mallory")
	alice, bob := w.attach("alice", w.port), w.attach("bob", w.port)
	plans := alice.create("plans", chatproto.RoomPrivate, "").Ref
	talk := make(chan struct{})
	said := make(chan int, 1)
	go func() {
		n := 0
		defer func() { said <- n }()
		for ; ; n++ {
			select {
			case <-talk:
				return
			default:
			}
			if err := alice.say(fmt.Sprint("meanwhile ", n)); err != nil {
				t.Error(err)
				return
			}
		}
	}()

	mallory := w.frames("mallory")
	session, room := mallory.attach()
	objects := []struct {
		name  string
		ref   rpc.Ref
		knows func(uint16) bool
	}{
		{"the root", 0, isRoot}, {"the own session", session, isSession}, {"a room", room, isRoom},
		{"a stolen room", plans, nil}, {"a guess", rpc.Ref(rand.Uint64() | 1), nil},
	}
	var refs []rpc.Ref
	for _, o := range objects {
		refs = append(refs, o.ref)
	}
	mallory.sweep(refs, func(i int, method uint16, code rpc.Code) {
		switch o := &objects[i]; {
		case o.knows == nil && code == rpc.CodeNoReference:
		case o.knows != nil && !o.knows(method) && code == rpc.CodeNoMethod:
		case o.knows != nil && o.knows(method) && code != rpc.CodeInternal && code != rpc.CodeNoReference:
		default:
			t.Errorf("method %#x of %s: code %#x", method, o.name, code)
		}
	})
	mallory.slots(room)
	w.guesses(t, alice, bob, plans)
	w.violations()

	close(talk)
	n := <-said
	if n < 10 {
		t.Errorf("alice said only %d texts meanwhile", n)
	}
	mustAsk(alice, plans, chatproto.Say, sayReq("nobody heard"))
	alice.fence("all is well", bob)
	var heard []string
	for _, m := range bob.got() {
		if m, ok := m.(*chatproto.Message); ok && m.From == "alice" && strings.HasPrefix(string(m.Body), "meanwhile") {
			heard = append(heard, string(m.Body))
		}
	}
	for i, text := range heard {
		if text != fmt.Sprint("meanwhile ", i) {
			t.Fatalf("bob heard %q as text %d", text, i)
		}
	}
	if len(heard) != n {
		t.Errorf("bob heard %d of %d", len(heard), n)
	}
	if log := w.daemonLog(); strings.Contains(log, "panic") || strings.Contains(log, "call failed") {
		t.Error("an internal error is in the log")
	}
}

// slots tries slots and sequence numbers that are not due. The same call sent
// twice is executed once.
func (f *frames) slots(room rpc.Ref) {
	t := f.t
	t.Helper()
	req, err := rpc.Encode(nil, sayReq("by the rules"))
	must(t, err)
	first := f.do(chatproto.Say.Number, room, req)
	last := rpc.Dep{Slot: 0, Seq: f.seq}
	for name, d := range map[string]struct {
		rpc.Dep
		want rpc.Code
	}{
		"the last call again":   {last, 0},
		"an earlier call":       {rpc.Dep{Slot: 0, Seq: last.Seq - 1}, rpc.CodeSlot},
		"a later call":          {rpc.Dep{Slot: 0, Seq: last.Seq + 2}, rpc.CodeSlot},
		"number 0":              {rpc.Dep{Slot: 0, Seq: 0}, rpc.CodeSlot},
		"a new slot's number 9": {rpc.Dep{Slot: 7, Seq: 9}, rpc.CodeSlot},
		"a slot too high":       {rpc.Dep{Slot: rpc.DefaultSlots, Seq: 1}, rpc.CodeSlot},
		"the highest slot":      {rpc.Dep{Slot: 1<<32 - 1, Seq: 1}, rpc.CodeSlot},
	} {
		f.call(99, chatproto.Say.Number, room, d.Dep, req)
		a, err := f.next()
		must(t, err)
		if code := a.code(t); code != d.want || a.tag != 99 {
			t.Errorf("%s: code %#x to call %d", name, code, a.tag)
		}
		if a.kind == frameReply && string(a.meta) != string(first.meta) {
			t.Errorf("%s: answered with %x, first with %x", name, a.meta, first.meta)
		}
	}
}

// guesses calls every operation with and without a slot on objects that are
// others', and releases those.
func (w *chatWorld) guesses(t *testing.T, alice, bob *listener, plans rpc.Ref) {
	t.Helper()
	mallory := w.attach("mallory", w.port)
	peer := mallory.session.Peer()
	others := []rpc.Ref{alice.ref, alice.own, plans, bob.lobby, 1, ^rpc.Ref(0), mallory.ref + 1, mallory.ref ^ 1<<63, mallory.own}
	for _, op := range rpc.Ops() {
		for _, access := range []rpc.Access{rpc.Query, rpc.State} {
			for _, ref := range others {
				if err := rawCall(peer, ref, op.Number, access, []byte{1, 2, 3}); !errors.Is(err, rpc.ErrNoReference) {
					t.Errorf("%s of another's object: %v", op.Name, err)
				}
			}
			for _, o := range []struct {
				ref   rpc.Ref
				knows func(uint16) bool
			}{{mallory.ref, isSession}, {mallory.lobby, isRoom}, {0, isRoot}} {
				if o.ref == 0 && op.Number == logout {
					continue
				}
				err := rawCall(peer, o.ref, op.Number, access, []byte{1, 2, 3})
				switch {
				case !o.knows(op.Number) && errors.Is(err, rpc.ErrNoMethod):
				case o.knows(op.Number) && !errors.Is(err, rpc.ErrInternal) && !errors.Is(err, rpc.ErrNoReference):
				default:
					t.Errorf("%s of an own object %#x: %v", op.Name, o.ref, err)
				}
			}
		}
	}
	must(t, peer.Release(chatContext(t), others...)) // alice and bob have them still
}

// violations breaks the framing; each time the connection ends, and no more.
func (w *chatWorld) violations() {
	t := w.t.(*testing.T)
	t.Helper()
	for name, b := range map[string][]byte{
		"a kind of frame that is none": appendFrame(nil, 12, 0, 1, 0, 9, 0),
		"a frame of 4 GiB":             appendFrame(nil, 1<<32-1, 8, 1, 0, frameCall, 0),
		"a frame shorter than itself":  appendFrame(nil, 3, 0, 1, 0, frameCall, 0),
		"more meta than frame":         appendFrame(nil, 20, 9, 1, 0, frameCall, 0),
		"a flag that is none":          appendFrame(nil, 12, 0, 1, 0, frameCall, 128),
		"an error with a method":       appendFrame(nil, 12, 0, 1, 7, frameError, 0),
		"noise":                        []byte(strings.Repeat("\xff\xfe", 512)),
	} {
		f := w.frames("mallory")
		_, _ = f.stream.Write(b) // may fail already: the connection ends at once
		if a, err := f.next(); err == nil {
			t.Errorf("%s is answered: %+v", name, a)
		}
	}
	f := w.frames("mallory")
	_, _ = flushed{f.conn}.Write([]byte(strings.Repeat("no multiplexer", 100)))
	if a, err := f.next(); err == nil {
		t.Errorf("noise instead of a multiplexer is answered: %+v", a)
	}
}

// hostileServer is a server that logs users in and calls them as it likes.
type hostileServer struct {
	address, print string
	attached       chan chatproto.ChatAttachReq
	snapshots      chan struct{}
	peer           *rpc.Peer // of the one client
}

// hostileServer serves the world's users.
func (w *chatWorld) hostileServer() *hostileServer {
	t := w.t
	t.Helper()
	key, err := auth.LoadOrCreateKey(filepath.Join(t.TempDir(), "state"))
	must(t, err)
	users, err := auth.LoadUsers(w.users)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h := &hostileServer{
		address: l.Addr().String(), print: key.Fingerprint(),
		attached: make(chan chatproto.ChatAttachReq, 1), snapshots: make(chan struct{}, 100),
	}
	root := new(rpc.Mux)
	rpc.Handle(root, chatproto.Attach, h.attach)
	h.peer = rpc.NewPeer(rpc.Config{Root: root})
	served := make(chan struct{})
	go func() {
		defer close(served)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		s := &auth.Server{Key: key, Users: users, Sessions: h, Logger: slog.New(slog.DiscardHandler)}
		conn, err := s.Handshake(context.Background(), nc)
		if err != nil {
			t.Error(err)
			return
		}
		_ = h.peer.Serve(transport{flushed{conn}}, 1)
	}()
	t.Cleanup(func() {
		l.Close()
		h.peer.End(nil)
		<-served
	})
	return h
}

type transport struct{ flushed }

func (transport) Flush() error { return nil }

func (t transport) Features() uint64 { return t.Conn.Features }

func (h *hostileServer) Create(auth.User, net.Addr) (auth.Grant, error) {
	return auth.Grant{Session: auth.SessionID{1}, Slots: rpc.DefaultSlots}, nil
}

func (h *hostileServer) Secret(auth.SessionID) (auth.Secret, string, bool) {
	return auth.Secret{}, "", false
}

func (h *hostileServer) Resume(auth.SessionID, auth.Purpose, uint32) error {
	return errors.New("gone")
}

// attach gives the client a session with nothing in it.
func (h *hostileServer) attach(_ context.Context, r *rpc.Request, req *chatproto.ChatAttachReq, res *chatproto.ChatAttachRes) (err error) {
	m := new(rpc.Mux)
	rpc.Handle(m, chatproto.Snapshot, func(_ context.Context, _ *rpc.Request, _ *chatproto.SnapshotReq, res *chatproto.SnapshotRes) error {
		*res = chatproto.SnapshotRes{User: "alice", Next: 1}
		h.snapshots <- struct{}{}
		return nil
	})
	res.Session, err = r.Peer.Export(m, nil)
	h.attached <- *req
	return err
}

// TestB6HostileServer: a server calls the listener that it was given, by the two
// methods that a listener has, and nothing else at the client, which goes on
// whatever is delivered.
func TestB6HostileServer(t *testing.T) {
	w := newChatWorld(t, "alice")
	h := w.hostileServer()
	cfg := w.config("alice")
	cfg.Address, cfg.Auth.Host, cfg.Auth.Fingerprint = h.address, h.address, h.print
	alice := w.dialConfig(cfg)
	listener := (<-h.attached).Listener
	<-h.snapshots

	isListener := func(method uint16) bool { return method == chatproto.Deliver.Number || method == chatproto.Cut.Number }
	methods := []uint16{0, 3, 0x01ff, 0x0207, 0x020a, 0x02ff, 0x7fff, 0xffff}
	for _, op := range rpc.Ops() {
		methods = append(methods, op.Number)
	}
	guesses := []rpc.Ref{1, 2, listener + 1, listener ^ 1<<63, ^rpc.Ref(0), rpc.Ref(rand.Uint64() | 1)}
	for _, method := range methods {
		for _, access := range []rpc.Access{rpc.Query, rpc.State} {
			for _, ref := range guesses {
				if err := rawCall(h.peer, ref, method, access, []byte{1, 2, 3}); !errors.Is(err, rpc.ErrNoReference) {
					t.Errorf("method %#x of a guess: %v", method, err)
				}
			}
			want := rpc.ErrNoMethod
			if isListener(method) {
				want = rpc.ErrBadRequest
			}
			if err := rawCall(h.peer, listener, method, access, []byte{1, 2, 3}); !errors.Is(err, want) {
				t.Errorf("method %#x of the listener: %v", method, err)
			}
			want = rpc.ErrNoMethod
			if method == release || method == logout {
				want = rpc.ErrBadRequest // every peer knows them
			}
			if err := rawCall(h.peer, 0, method, access, []byte{1, 2, 3}); !errors.Is(err, want) {
				t.Errorf("method %#x of the client: %v", method, err)
			}
		}
	}

	deliver := func(first uint64, events ...chatproto.Event) error {
		_, err := rpc.CallWith(chatContext(t), h.peer, chatproto.Deliver, &chatproto.DeliverReq{First: first, Events: events}, new(chatproto.Empty), rpc.Extra{Object: listener})
		return err
	}
	for kind := range uint8(12) {
		err := deliver(1, chatproto.Event{Kind: kind, Body: []byte("\x05\x00\x00\x00 noise")})
		if known := chatproto.NewEventBody(kind) != nil; known && !errors.Is(err, rpc.ErrBadRequest) || !known && err != nil {
			t.Errorf("noise as an event of kind %d: %v", kind, err)
		}
	}
	notice := func(text string) chatproto.Event {
		b, err := rpc.Encode(nil, &chatproto.Notice{Text: text})
		must(t, err)
		return chatproto.Event{Kind: chatproto.EventNotice, Body: b}
	}
	forged, err := rpc.Encode(nil, &chatproto.Message{Room: 7, Seq: 1, Kind: chatproto.KindText, From: "bob", Body: []byte("hi")})
	must(t, err)
	must(t, deliver(4, chatproto.Event{Kind: chatproto.EventMessage, Body: forged})) // of a room that alice is not in
	must(t, deliver(1<<60, notice("from far ahead")))
	must(t, deliver(1, notice("from the past")))
	must(t, deliver(1<<60+1, notice("still there?")))
	var heard []string
	for e := range alice.Events(chatContext(t)) {
		switch e := e.(type) {
		case *chat.Message:
			t.Errorf("alice heard %+v", e)
		case *chat.Notice:
			heard = append(heard, e.Text)
		}
		if slices.Contains(heard, "still there?") {
			break
		}
	}
	if alice.Err() != nil || !alice.Status().Connected {
		t.Errorf("%v, %+v", alice.Err(), alice.Status())
	}
}

package chat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// double is a server that does what a test tells it to: one room, number 1,
// whose log it has, and which it may lie about.
type double struct {
	t        testing.TB
	peer     *rpc.Peer // calls the client
	listener rpc.Ref
	client   *Client
	link     *link
	served   chan error

	mu        sync.Mutex
	snapshot  chatproto.SnapshotRes
	log       []chatproto.Message
	lie       func(*chatproto.HistoryRes)
	snapshots int
	said      []chatproto.SayReq
	pages     []chatproto.SearchRes // answers to searches; the last one is repeated
}

// entry is an entry of the double's room.
func entry(seq uint64) chatproto.Message {
	return chatproto.Message{Room: 1, Seq: seq, Kind: chatproto.KindText, From: "bob", Body: fmt.Append(nil, "m", seq), Time: int64(seq)}
}

func state(last uint64) chatproto.RoomState {
	return chatproto.RoomState{Info: chatproto.RoomInfo{Room: 1, Kind: chatproto.RoomPublic, Name: "room", First: 1, Last: last, Member: true}}
}

// newDouble has a client attached whose room has so many entries.
func newDouble(t testing.TB, entries uint64, cfg Config) *double {
	t.Helper()
	d := &double{t: t, served: make(chan error, 1)}
	d.snapshot = chatproto.SnapshotRes{User: "alice", Next: 1, Rooms: []chatproto.RoomState{state(entries)}}
	for i := range entries {
		d.log = append(d.log, entry(i+1))
	}
	pair := rpctest.New(t, rpc.Config{Root: d.root()}, rpc.Config{})
	d.peer = pair.Server
	cfg.Auth = &auth.Client{User: "alice"}
	var err error
	if d.client, err = newClient(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.client.cancel)
	d.link = newLink(d.client, pair.Client)
	return d
}

func (d *double) root() *rpc.Mux {
	root, session, room := new(rpc.Mux), new(rpc.Mux), new(rpc.Mux)
	rpc.Handle(root, chatproto.Attach, func(_ context.Context, r *rpc.Request, req *chatproto.ChatAttachReq, res *chatproto.ChatAttachRes) (err error) {
		d.listener = req.Listener
		res.Session, err = r.Peer.Export(session, nil)
		return err
	})
	rpc.Handle(session, chatproto.Snapshot, func(_ context.Context, _ *rpc.Request, _ *chatproto.SnapshotReq, res *chatproto.SnapshotRes) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.snapshots++
		*res = d.snapshot
		return nil
	})
	rpc.Handle(session, chatproto.Search, func(_ context.Context, _ *rpc.Request, _ *chatproto.SearchReq, res *chatproto.SearchRes) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		*res = d.pages[0]
		d.pages = d.pages[min(1, len(d.pages)-1):]
		return nil
	})
	rpc.Handle(session, chatproto.OpenRoom, func(_ context.Context, r *rpc.Request, req *chatproto.OpenRoomReq, res *chatproto.RoomRes) (err error) {
		if req.Room != 1 {
			return chatproto.ErrNoRoom
		}
		res.Room = state(1)
		res.Ref, err = r.Peer.Export(room, nil)
		return err
	})
	rpc.Handle(room, chatproto.History, func(_ context.Context, _ *rpc.Request, req *chatproto.HistoryReq, res *chatproto.HistoryRes) error {
		d.history(req, res)
		return nil
	})
	rpc.Handle(room, chatproto.Say, func(_ context.Context, _ *rpc.Request, req *chatproto.SayReq, _ *chatproto.SayRes) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		req.Body = bytes.Clone(req.Body)
		d.said = append(d.said, *req)
		return nil
	})
	return root
}

func (d *double) history(req *chatproto.HistoryReq, res *chatproto.HistoryRes) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.log {
		if m.Seq > req.After && len(res.Messages) < 4 {
			res.Messages = append(res.Messages, m)
		}
	}
	if d.lie != nil {
		d.lie(res)
	}
}

// serve attaches the client and lets it run.
func (d *double) serve() {
	d.t.Helper()
	if err := d.link.attach(context.Background()); err != nil {
		d.t.Fatal(err)
	}
	d.client.setLink(d.link)
	go func() { d.served <- d.link.serve() }()
	d.t.Cleanup(func() {
		d.client.cancel()
		if len(d.served) == 0 {
			<-d.served
		}
		d.client.work.Wait()
	})
}

// say adds entries to the log.
func (d *double) say(seqs ...uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range seqs {
		d.log = append(d.log, entry(s))
	}
}

func (d *double) deliver(first uint64, events ...rpc.Message) error {
	d.t.Helper()
	req := chatproto.DeliverReq{First: first}
	for _, m := range events {
		body, err := rpc.Encode(nil, m)
		if err != nil {
			d.t.Fatal(err)
		}
		req.Events = append(req.Events, chatproto.Event{Kind: kindOf(m), Body: body})
	}
	return d.call(&req)
}

func (d *double) call(req *chatproto.DeliverReq) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := rpc.CallWith(ctx, d.peer, chatproto.Deliver, req, new(chatproto.Empty), rpc.Extra{Object: d.listener})
	return err
}

func kindOf(m rpc.Message) uint8 {
	for kind := range uint8(255) {
		if body := chatproto.NewEventBody(kind); body != nil && fmt.Sprintf("%T", body) == fmt.Sprintf("%T", m) {
			return kind
		}
	}
	return 255
}

// expect takes events until all wanted ones were there, in order.
func (d *double) expect(want ...string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var got []string
	for e := range d.client.Events(ctx) {
		switch e := e.(type) {
		case *Message:
			got = append(got, e.Text)
		case *Connection:
			continue
		default:
			got = append(got, strings.TrimPrefix(fmt.Sprintf("%T", e), "*chat."))
		}
		if len(got) == len(want) {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		d.t.Fatalf("events %v, not %v", got, want)
	}
}

func (d *double) mustDeliver(first uint64, events ...rpc.Message) {
	d.t.Helper()
	if err := d.deliver(first, events...); err != nil {
		d.t.Fatal(err)
	}
}

func message(seq uint64) *chatproto.Message {
	m := entry(seq)
	return &m
}

// TestEachOnce: deliveries that come again, and entries that come again, are
// handed out once; what is missing is fetched.
func TestEachOnce(t *testing.T) {
	d := newDouble(t, 2, Config{})
	d.serve()
	d.mustDeliver(1, message(2), message(3))
	d.mustDeliver(1, message(2), message(3)) // again, as a whole
	d.mustDeliver(2, message(3), message(4)) // in part
	d.mustDeliver(4, message(3), message(4)) // under new numbers
	d.say(3, 4, 5, 6, 7, 8, 9, 10)
	d.mustDeliver(6, message(10)) // after a gap that is longer than a page
	d.expect("m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10")
	if info := d.client.Rooms()[0]; info.Last != 10 || info.Unread != 8 {
		t.Errorf("%+v", info)
	}
}

func TestSnapshotContainsEvents(t *testing.T) {
	d := newDouble(t, 2, Config{})
	d.snapshot.Next = 3
	d.serve()
	d.mustDeliver(1, &chatproto.Notice{Text: "old"}, &chatproto.Notice{Text: "old"}, message(3))
	d.expect("m3")
}

// TestLostDelivery: numbers that are missing lead to a snapshot and to the
// history.
func TestLostDelivery(t *testing.T) {
	d := newDouble(t, 2, Config{})
	d.serve()
	d.mustDeliver(1, message(3))
	d.expect("m3")
	d.mu.Lock()
	d.log = append(d.log, entry(3), entry(4), entry(5))
	d.snapshot.Next, d.snapshot.Rooms = 9, []chatproto.RoomState{state(5)}
	d.mu.Unlock()
	d.mustDeliver(9, &chatproto.Notice{Text: "x"})
	d.expect("RoomChanged", "m4", "m5", "Notice")
	if d.snapshots != 2 {
		t.Errorf("%d snapshots", d.snapshots)
	}
}

func TestCutOff(t *testing.T) {
	d := newDouble(t, 2, Config{})
	d.serve()
	d.mu.Lock()
	d.log = append(d.log, entry(3))
	d.snapshot.Next, d.snapshot.Rooms = 5, []chatproto.RoomState{state(3)}
	d.snapshot.Users = []chatproto.Presence{{User: "bob", State: chatproto.Online}}
	d.mu.Unlock()
	cut := func(first uint64) {
		t.Helper()
		if _, err := rpc.CallWith(context.Background(), d.peer, chatproto.Cut, &chatproto.CutReq{First: first}, new(chatproto.Empty), rpc.Extra{Object: d.listener}); err != nil {
			t.Fatal(err)
		}
	}
	cut(1)
	d.expect("Presence", "RoomChanged", "m3")
	cut(4) // is contained in the snapshot
	d.mustDeliver(5, message(4))
	d.expect("m4")
	if d.snapshots != 2 {
		t.Errorf("%d snapshots", d.snapshots)
	}
}

// TestRoomsComeAndGo: a snapshot after a time without a feed brings what has
// changed as events.
func TestRoomsComeAndGo(t *testing.T) {
	d := newDouble(t, 2, Config{})
	d.serve()
	d.mustDeliver(1, &chatproto.RoomGone{Room: 1})
	came := state(7)
	d.mustDeliver(2, &came, message(8))
	d.expect("RoomGone", "RoomChanged", "m8")
	d.mu.Lock()
	d.snapshot.Next, d.snapshot.Rooms = 9, nil
	d.mu.Unlock()
	d.mustDeliver(9, &chatproto.Notice{})
	d.expect("RoomGone", "Notice")
	if n := len(d.client.Rooms()); n != 0 {
		t.Errorf("%d rooms", n)
	}
}

// TestNotKept: entries that retention has removed are told of and passed over.
func TestNotKept(t *testing.T) {
	d := newDouble(t, 2, Config{})
	d.serve()
	d.log = nil
	d.say(6, 7)
	d.mustDeliver(1, message(8))
	d.expect("Warning", "m6", "m7", "m8")
}

// TestHostileServer: what breaks the protocol ends the session or is refused,
// and never reaches the program.
func TestHostileServer(t *testing.T) {
	for name, lie := range map[string]func(*chatproto.HistoryRes){
		"an entry of another room": func(r *chatproto.HistoryRes) { r.Messages[1].Room = 2 },
		"a hole":                   func(r *chatproto.HistoryRes) { r.Messages[1].Seq = 40 },
		"an old entry":             func(r *chatproto.HistoryRes) { r.Messages[0].Seq = 1 },
		"an entry twice":           func(r *chatproto.HistoryRes) { r.Messages[1] = r.Messages[0] },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t, 2, Config{})
			d.lie = lie
			d.serve()
			d.say(3, 4, 5)
			d.mustDeliver(1, message(6))
			err := <-d.served
			if !errors.Is(err, rpc.ErrBadRequest) {
				t.Errorf("served on: %v", err)
			}
			d.served <- err
		})
	}
	t.Run("snapshot of another user", func(t *testing.T) {
		d := newDouble(t, 2, Config{})
		d.snapshot.User = "mallory"
		if err := d.link.attach(context.Background()); err == nil {
			t.Error("attached")
		}
	})
	t.Run("malformed event", func(t *testing.T) {
		d := newDouble(t, 2, Config{})
		d.serve()
		bad := chatproto.Event{Kind: chatproto.EventMessage, Body: []byte("short")}
		if err := d.call(&chatproto.DeliverReq{First: 1, Events: []chatproto.Event{bad}}); !errors.Is(err, rpc.ErrBadRequest) {
			t.Error(err)
		}
		unknown := chatproto.Event{Kind: 200, Body: []byte("from the future")}
		if err := d.call(&chatproto.DeliverReq{First: 1, Events: []chatproto.Event{unknown}}); err != nil {
			t.Error(err)
		}
		d.mustDeliver(2, message(3))
		d.expect("m3")
	})
	t.Run("rooms and users without end", func(t *testing.T) {
		d := newDouble(t, 2, Config{NoEvents: true})
		d.serve()
		for n := uint64(1); n <= 10; n++ {
			var events []rpc.Message
			for i := range uint64(500) {
				s := state(0)
				s.Info.Room = chatproto.RoomID(n*1000 + i)
				events = append(events, &s, &chatproto.Presence{User: fmt.Sprint(n, "/", i), State: chatproto.Online})
			}
			d.mustDeliver((n-1)*1000+1, events...)
		}
		d.mustDeliver(10_001, &chatproto.Notice{})
		if rooms, users := len(d.client.Rooms()), len(d.client.Users()); rooms > maxRooms || users > chatproto.MaxUsers {
			t.Errorf("%d rooms, %d users", rooms, users)
		}
	})
	t.Run("entries of rooms that it has not told of", func(t *testing.T) {
		d := newDouble(t, 2, Config{})
		d.serve()
		m := message(1)
		m.Room = 99
		d.mustDeliver(1, m, &chatproto.Mark{Room: 99, Read: 1}, &chatproto.TypingEvent{Room: 99}, &chatproto.RoomGone{Room: 99}, message(3))
		d.expect("m3")
	})
}

// FuzzEvents: no event does harm, whatever it holds.
// TestSearchPages: a page of the server may be empty or short and not the last;
// each message is found once. A search that does not go on is ended.
func TestSearchPages(t *testing.T) {
	d := newDouble(t, 1, Config{})
	d.serve()
	d.pages = []chatproto.SearchRes{
		{Cursor: 9},
		{Messages: []chatproto.Message{entry(8), entry(7), entry(6)}, Cursor: 6},
		{Cursor: 5}, {Cursor: 4},
		{Messages: []chatproto.Message{entry(3)}},
	}
	var got []uint64
	var cursor Cursor
	for steps := 0; !cursor.Done() && steps < 9; steps++ {
		found, next, err := d.client.Search(t.Context(), "m", cursor, 2)
		if err != nil || len(found) == 0 || len(found) > 2 {
			t.Fatalf("%d found, %v", len(found), err)
		}
		for _, m := range found {
			got = append(got, m.Seq)
		}
		cursor = next
	}
	if want := []uint64{8, 7, 6, 3}; !slices.Equal(got, want) || !cursor.Done() {
		t.Errorf("found %d, want %d", got, want)
	}
	d.pages = []chatproto.SearchRes{{Cursor: 5}}
	if _, _, err := d.client.Search(t.Context(), "m", Cursor{}, 2); err == nil {
		t.Error("a search for ever")
	}
}

func FuzzEvents(f *testing.F) {
	seeds := 0
	for kind := range uint8(12) {
		if m := chatproto.NewEventBody(kind); m != nil {
			body, err := rpc.Encode(nil, m)
			if err == nil {
				f.Add(kind, body)
				seeds++
			}
		}
	}
	body, err := rpc.Encode(nil, message(3))
	if err != nil || seeds < 5 {
		f.Fatalf("%d seeds, %v", seeds, err)
	}
	f.Add(chatproto.EventMessage, body)
	d := newDouble(f, 2, Config{NoEvents: true})
	d.serve()
	p := &pump{link: d.link, c: d.client}
	f.Fuzz(func(_ *testing.T, kind uint8, body []byte) {
		m, err := decodeEvent(&chatproto.Event{Kind: kind, Body: body})
		if err == nil && m != nil {
			_ = p.event(context.Background(), m)
		}
	})
}

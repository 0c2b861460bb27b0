package service

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// raw is a request of any bytes. What answers it is not looked into.
type raw struct{ b []byte }

func (m *raw) Fields(c *rpc.Codec) {
	if !c.Decoding() {
		c.Fixed(m.b)
	}
}

var opRaw = rpc.Define[raw, raw](0x7f40, "test_raw", rpc.Query)

// rawCall calls a method by its number with any bytes. A reply that it does not
// understand is no error.
func rawCall(p *rpc.Peer, object rpc.Ref, number uint16, access rpc.Access, b []byte) error {
	op := *opRaw
	op.Number, op.Access = number, access
	_, err := call(p, &op, object, &raw{b})
	if errors.Is(err, rpc.ErrTrailing) {
		return nil
	}
	return err
}

// methods are all numbers that mean something, and some that do not.
func methods() []uint16 {
	numbers := []uint16{0, 0x01ff, 0x02ff, 0xffff}
	for _, op := range rpc.Ops() {
		if op.Number != opLogoutNumber {
			numbers = append(numbers, op.Number)
		}
	}
	return numbers
}

// opLogoutNumber ends the session, which is no breach.
const opLogoutNumber = 0x0002

// TestB6HostilePeer: whatever objects and methods a client guesses, it learns
// that there is no such reference or no such method; and so does a server that
// goes beyond the listener it was given.
func TestB6HostilePeer(t *testing.T) {
	w := newWorld(t, Config{})
	alice, mallory := w.device("alice"), w.device("mallory")
	room := alice.create(chatproto.RoomPrivate, "plans")
	alice.mu.Lock()
	stolen := alice.refs[room]
	alice.mu.Unlock()

	guesses := []rpc.Ref{1, 2, 3, ^rpc.Ref(0), alice.ref, stolen, mallory.ref + 1, mallory.ref ^ 1<<63}
	for range 20 {
		guesses = append(guesses, rpc.Ref(rand.Uint64()))
	}
	for _, number := range methods() {
		for _, access := range []rpc.Access{rpc.Query, rpc.State} {
			for _, ref := range guesses {
				if err := rawCall(mallory.peer, ref, number, access, []byte{1, 2, 3}); !errors.Is(err, rpc.ErrNoReference) {
					t.Errorf("method %#x of a guessed object: %v", number, err)
				}
			}
		}
	}
	only := func(peer *rpc.Peer, object rpc.Ref, allowed ...uint16) {
		t.Helper()
		for _, number := range methods() {
			err := rawCall(peer, object, number, rpc.Query, nil)
			if err == nil {
				err = rawCall(peer, object, number, rpc.State, nil)
			}
			if known := slices.Contains(allowed, number); !known && !errors.Is(err, rpc.ErrNoMethod) {
				t.Errorf("method %#x of object %#x: %v", number, object, err)
			}
		}
	}
	only(mallory.peer, 0, chatproto.Attach.Number, 0x0001)
	var session []uint16
	for n := chatproto.Snapshot.Number; n <= chatproto.DropMail.Number; n++ {
		session = append(session, n)
	}
	only(mallory.peer, mallory.ref, session...)

	// The server's side against the client.
	server := mallory.link.Server
	listener := mallory.chat.attached[0].listener
	only(server, 0, 0x0001)
	only(server, listener, chatproto.Deliver.Number, chatproto.Cut.Number)
	for range 20 {
		if err := rawCall(server, rpc.Ref(rand.Uint64()), chatproto.Deliver.Number, rpc.State, nil); !errors.Is(err, rpc.ErrNoReference) {
			t.Error(err)
		}
	}
	alice.say(room, "still here")
	alice.feed.await(t, "the text", saying("still here"))
}

// transcript keeps all that a server has written.
type transcript struct {
	rpctest.Transport
	mu      *sync.Mutex
	written *bytes.Buffer
}

func (c transcript) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.written.Write(b)
	c.mu.Unlock()
	return c.Transport.Write(b)
}

// FuzzRequests: no bytes, sent to any method of a chat session or a room, end
// the service or bring to light what another room holds.
func FuzzRequests(f *testing.F) {
	const secret = "xyzzy-not-for-mallory"
	w := newWorld(f, Config{})
	alice := w.device("alice")
	private := alice.create(chatproto.RoomPrivate, secret)
	mustIn(alice, private, chatproto.SetTopic, &chatproto.SetTopicReq{ID: newID(), Topic: secret})
	alice.say(private, secret)
	mustAsk(alice, chatproto.Whisper, &chatproto.WhisperReq{User: "alice", Say: *sayReq(secret)})
	mustAsk(alice, chatproto.PutMail, &chatproto.PutMailReq{Mail: chatproto.Mail{ID: newID(), From: chatproto.DeviceID{1}, Body: []byte(secret)}})

	var mu sync.Mutex
	var written bytes.Buffer
	mallory := w.session("mallory")
	recorded := make(chan error, 1)
	go func() {
		recorded <- mallory.link.ConnectOver(func(c rpctest.Transport) rpc.Transport { return transcript{c, &mu, &written} })
	}()
	f.Cleanup(func() {
		mallory.end()
		<-recorded
	})
	mallory.attach()
	lobby := mallory.join("lobby")
	room := mallory.create(chatproto.RoomPublic, "mallorys")
	mallory.say(room, "not secret")
	mallory.feed.await(f, "the text", saying("not secret"))
	mu.Lock()
	if !bytes.Contains(written.Bytes(), []byte("not secret")) {
		f.Fatal("the transcript does not show what was written")
	}
	mu.Unlock()

	type method struct {
		room chatproto.RoomID // 0: of the session
		name string
		op   *rpc.Info
	}
	var all []method
	for _, op := range rpc.Ops() {
		switch {
		case op.Number >= chatproto.Snapshot.Number && op.Number <= chatproto.DropMail.Number:
			all = append(all, method{op: op})
		case op.Number >= chatproto.Say.Number && op.Number <= chatproto.AddKeys.Number:
			all = append(all, method{lobby, "lobby", op}, method{room, "mallorys", op})
		}
	}
	seeds := 0
	for i, m := range all {
		req, err := rpc.Encode(nil, m.op.NewReq())
		if err != nil {
			continue // the empty message is not allowed
		}
		f.Add(uint8(i), req)
		seeds++
	}
	for _, m := range []struct {
		op  *rpc.Info
		req rpc.Message
	}{
		{&chatproto.OpenRoom.Info, &chatproto.OpenRoomReq{Room: private}},
		{&chatproto.JoinRoom.Info, &chatproto.JoinRoomReq{ID: newID(), Name: "plans"}},
		{&chatproto.Search.Info, &chatproto.SearchReq{Terms: []string{"xyzzy"}}},
		{&chatproto.Search.Info, &chatproto.SearchReq{Room: private}},
		{&chatproto.Search.Info, &chatproto.SearchReq{From: "alice", Limit: 500}},
		{&chatproto.Whisper.Info, &chatproto.WhisperReq{User: "alice", Say: *sayReq("hello")}},
		{&chatproto.Say.Info, sayReq("text")},
		{&chatproto.History.Info, &chatproto.HistoryReq{After: 1 << 40}},
		{&chatproto.Invite.Info, &chatproto.MemberReq{ID: newID(), User: "bob"}},
		{&chatproto.SetTopic.Info, &chatproto.SetTopicReq{ID: newID(), Topic: "topic"}},
		{&chatproto.PutKeys.Info, &chatproto.PutKeysReq{ID: newID(), Epoch: 1, Header: []byte{1}}},
		{&chatproto.GetDevices.Info, &chatproto.GetDevicesReq{User: "alice"}},
	} {
		req, err := rpc.Encode(nil, m.req)
		must(f, err)
		i := slices.IndexFunc(all, func(have method) bool { return have.op == m.op })
		f.Add(uint8(i), req)
		seeds++
	}
	if seeds < 30 {
		f.Fatalf("only %d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		m := all[int(which)%len(all)]
		mallory.t = t
		object := mallory.ref
		if m.room != 0 {
			object = mallory.refs[m.room]
		}
		err := rawCall(mallory.peer, object, m.op.Number, m.op.Access, b)
		if m.room != 0 && !w.st.IsMember("mallory", m.room) {
			mallory.join(m.name) // has left
		}
		if errors.Is(err, rpc.ErrInternal) {
			t.Errorf("%s: %v", m.op.Name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if bytes.Contains(written.Bytes(), []byte(secret)) {
			t.Fatalf("%s told of another room", m.op.Name)
		}
		if written.Len() > 1<<20 {
			written.Reset()
		}
	})
}

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/rpc"
)

// The rows of the feature list that need no program of their own: each test has
// its row in its name. The daemon is a process; the clients speak the protocol.

// TestB3SnapshotAndEvents: fifty come at once and some go again; whoever watches
// from before, or comes into the midst of it, has the final roster from the
// snapshot and the events after it, each change once.
func TestB3SnapshotAndEvents(t *testing.T) {
	const joiners, held, leavers = 50, 15, 5
	names := []string{"early", "midst", "late"}
	for i := range joiners {
		names = append(names, fmt.Sprintf("user%02d", i))
	}
	w := newChatWorld(t, names...)
	early := w.attach("early", w.port)
	w.attach("midst", w.port).close() // is a member of the lobby from here on
	w.attach("late", w.port).close()
	early.await("the end of late", isPresence("late", chatproto.Offline))
	before := early.snapshot()

	// Few enough log in at once for the daemon's limit per address.
	start, more := make(chan struct{}), make(chan struct{})
	var ready, done sync.WaitGroup
	logins := make(chan struct{}, 16)
	for i, name := range names[3:] {
		ready.Add(1)
		done.Go(func() {
			logins <- struct{}{}
			l, err := w.login(name, w.port)
			<-logins
			ready.Done()
			if err != nil {
				t.Error(err)
				return
			}
			<-start
			if i >= joiners-held {
				<-more
			}
			if err := l.enter(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if i < leavers {
				<-more
				if err := l.session.Peer().Release(chatContext(t), l.ref); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	ready.Wait()
	close(start)
	early.await("somebody", func(m rpc.Message) bool {
		p, ok := m.(*chatproto.Presence)
		return ok && strings.HasPrefix(p.User, "user")
	})
	close(more)
	midst := w.attach("midst", w.port)
	seen := midst.snapshot()
	done.Wait()
	late := w.attach("late", w.port)
	late.fence("all are here", early, midst)

	var want []string
	for i, name := range names {
		if i < 3 || i >= 3+leavers {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	final := late.snapshot()
	for who, roster := range map[string][]string{
		"early": rosterOf(early, before), "midst": rosterOf(midst, seen), "late": rosterOf(late, final),
	} {
		sameTexts(t, "roster of "+who, roster, want...)
	}
	for who, entered := range map[string][]string{"early": cameIn(early, before), "midst": cameIn(midst, seen)} {
		slices.Sort(entered)
		sameTexts(t, "who came into the lobby, for "+who, entered, slices.Sorted(slices.Values(names))...)
	}
	for _, name := range names[3 : 3+leavers] {
		if n := early.count(isPresence(name, chatproto.Offline)); n != 1 {
			t.Errorf("%d leave events of %s", n, name)
		}
	}
	members := mustAsk(late, late.lobby, chatproto.Members, &chatproto.MembersReq{})
	sameTexts(t, "members of the lobby", members.Users, slices.Sorted(slices.Values(names))...)
}

// rosterOf returns who is there by a snapshot and the events after it. An event
// that changes nothing is an error: the snapshot has it already, or it comes
// twice.
func rosterOf(l *listener, s *chatproto.SnapshotRes) []string {
	l.t.Helper()
	there := make(map[string]bool)
	for _, p := range s.Users {
		there[p.User] = true
	}
	if s.Next == 0 || s.Next > uint64(len(l.got())+1) {
		l.t.Fatalf("the snapshot is before event %d of %d", s.Next, len(l.got()))
	}
	for _, e := range l.got()[s.Next-1:] {
		p, ok := e.(*chatproto.Presence)
		if !ok {
			continue
		}
		if online := p.State == chatproto.Online; online == there[p.User] {
			l.t.Errorf("%s comes or goes twice: state %d", p.User, p.State)
		} else if there[p.User] = online; !online {
			delete(there, p.User)
		}
	}
	var names []string
	for name := range there {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// cameIn returns who came into the lobby: by the log up to the snapshot's last
// entry, and by the events above it, which must go on there.
func cameIn(l *listener, s *chatproto.SnapshotRes) (names []string) {
	l.t.Helper()
	last := s.Rooms[0].Info.Last
	log := slices.DeleteFunc(l.log(l.lobby), func(m chatproto.Message) bool { return m.Seq > last })
	for _, e := range l.got() {
		if m, ok := e.(*chatproto.Message); ok && m.Seq > last {
			log = append(log, *m)
		}
	}
	for i, m := range log {
		if m.Seq != uint64(i+1) {
			l.t.Fatalf("entry %d comes where %d is due", m.Seq, i+1)
		}
		if m.Kind == chatproto.KindJoin {
			names = append(names, m.From)
		}
	}
	return names
}

// TestF1NameIsFree: a client that was killed never blocks its name. Its user is
// back at once, speaks and is spoken to, and is seen to be there all the time;
// who does not come back leaves once.
func TestF1NameIsFree(t *testing.T) {
	w := serveChat(t, []string{"alice", "bob", "carol"}, "--presence-grace=1500ms", "--chat-rate=0")
	bob := w.attach("bob", w.port)
	for range 2 {
		w.chatter("alice", "-").kill()
	}
	alice := w.attach("alice", w.port)
	if state, n := present(alice.snapshot(), "alice"); n != 1 || state != chatproto.Online {
		t.Errorf("alice is there %d times, with state %d", n, state)
	}
	res, err := alice.whisper("bob", "it is me again", true)
	if err != nil || res.State != chatproto.Online {
		t.Errorf("%+v, %v", res, err)
	}
	must(t, alice.say("hello all"))
	for _, text := range []string{"it is me again", "hello all"} {
		bob.await(text, func(m rpc.Message) bool { return isText(text)(m) && m.(*chatproto.Message).From == "alice" })
	}
	res, err = bob.whisper("alice", "welcome back", true)
	if err != nil || res.State != chatproto.Online {
		t.Errorf("%+v, %v", res, err)
	}
	alice.await("the answer", isText("welcome back"))

	// Carol is killed later and does not come back. When she is gone, alice's
	// dead clients are as well.
	w.chatter("carol", "-").kill()
	bob.await("carol's end", isPresence("carol", chatproto.Offline))
	for user, want := range map[string][3]int{"alice": {0, 0, 1}, "carol": {1, 1, 1}} {
		for state, n := range want {
			if got := bob.count(isPresence(user, uint8(state))); got != n {
				t.Errorf("%s: %d events of state %d, not %d", user, got, state, n)
			}
		}
	}
	for user, want := range map[string]int{"alice": 1, "carol": 0} {
		if _, n := present(bob.snapshot(), user); n != want {
			t.Errorf("%s is there %d times", user, n)
		}
	}
	if _, err := bob.whisper("carol", "are you there?", true); !errors.Is(err, chatproto.ErrOffline) {
		t.Errorf("to carol: %v", err)
	}
	must(t, w.attach("carol", w.port).say("here I am"))
	bob.await("carol", isText("here I am"))
}

// TestF2Whisper: a whisper reaches all sessions of one user and nobody else, who
// cannot be reached is told by type, and nobody speaks as another.
func TestF2Whisper(t *testing.T) {
	w := newChatWorld(t, "alice", "bob", "dave", "mallory")
	alice, other := w.attach("alice", w.port), w.attach("alice", w.port)
	bobs := []*listener{w.attach("bob", w.port), w.attach("bob", w.port), w.attach("bob", w.port)}
	mallory := w.attach("mallory", w.port)

	res, err := alice.whisper("bob", "for your ears", false)
	must(t, err)
	if res.State != chatproto.Online || res.Said.Seq != 1 {
		t.Errorf("%+v", res)
	}
	for _, err := range []error{second(alice.whisper("nobody", "hello?", false)), second(alice.whisper("", "hello?", true))} {
		if !errors.Is(err, chatproto.ErrNoUser) {
			t.Errorf("to nobody: %v", err)
		}
	}
	if _, err := alice.whisper("dave", "now or never", true); !errors.Is(err, chatproto.ErrOffline) {
		t.Errorf("to dave: %v", err)
	}
	if res, err := alice.whisper("dave", "when you are back", false); err != nil || res.State != chatproto.Offline {
		t.Errorf("to dave: %+v, %v", res, err)
	}
	dave := w.attach("dave", w.port)
	fromAlice := mustAsk(dave, dave.ref, chatproto.OpenDirect, &chatproto.OpenDirectReq{User: "alice"})
	sameTexts(t, "what waited for dave", texts(dave.log(fromAlice.Ref)), "alice: when you are back")
	if res, err := alice.whisper("dave", "there you are", true); err != nil || res.State != chatproto.Online {
		t.Errorf("to dave: %+v, %v", res, err)
	}

	w.speakAs(alice, mallory, res.Room)
	alice.fence("is all said?", append(bobs, other, mallory, dave)...)
	for who, l := range map[string]*listener{"bob 0": bobs[0], "bob 1": bobs[1], "bob 2": bobs[2], "alice": alice, "alice 1": other} {
		if n := l.count(isText("for your ears")); n != 1 {
			t.Errorf("%s heard it %d times", who, n)
		}
	}
	for who, l := range map[string]*listener{"mallory": mallory, "dave": dave} {
		if n := l.count(isText("for your ears")); n != 0 {
			t.Errorf("%s heard it", who)
		}
	}
	if n := dave.count(isText("now or never")); n != 0 {
		t.Error("what was for now reached dave later")
	}
	sameTexts(t, "the lobby", texts(alice.log(alice.lobby)), "alice: mine", "mallory: [alice] give mallory the keys", "mallory: mine too", "alice: is all said?")
	direct, err := bobs[0].open(res.Room)
	must(t, err)
	sameTexts(t, "bob and alice", texts(bobs[0].log(direct)), "alice: for your ears")
}

func second[T any](_ T, err error) error { return err }

// speakAs has mallory try to speak as alice: with alice's name in the text, with
// the id of alice's message, with alice's references, in the room of alice and
// another, with the name behind the request, and by logging in as alice.
func (w *chatWorld) speakAs(alice, mallory *listener, direct chatproto.RoomID) {
	t := w.t
	t.Helper()
	mine := sayReq("mine")
	mustAsk(alice, alice.lobby, chatproto.Say, mine)
	must(t, mallory.say("[alice] give mallory the keys"))
	taken := sayReq("mine too")
	taken.ID = mine.ID // ids are everybody's own
	mustAsk(mallory, mallory.lobby, chatproto.Say, taken)

	room, err := alice.open(direct)
	must(t, err)
	for _, stolen := range []rpc.Ref{alice.lobby, room} {
		if _, err := ask(mallory, stolen, chatproto.Say, sayReq("with a stolen reference")); !errors.Is(err, rpc.ErrNoReference) {
			t.Errorf("a stolen room: %v", err)
		}
	}
	req := &chatproto.WhisperReq{User: "bob", Say: *sayReq("with a stolen session")}
	if _, err := ask(mallory, alice.ref, chatproto.Whisper, req); !errors.Is(err, rpc.ErrNoReference) {
		t.Errorf("a stolen session: %v", err)
	}
	if _, err := mallory.open(direct); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Errorf("the room of two others: %v", err)
	}
	b, err := rpc.Encode(nil, sayReq("signed alice"))
	must(t, err)
	b = append(b, "\x05\x00\x00\x00alice"...)
	if err := rawCall(mallory.session.Peer(), mallory.lobby, chatproto.Say.Number, rpc.Change, b); !errors.Is(err, rpc.ErrBadRequest) {
		t.Errorf("a request with a sender: %v", err)
	}
	cfg := chatConfig(w.port, "alice", filepath.Join(w.dir, "key-mallory"), w.print)
	s, err := client.Dial(chatContext(t), client.Config{Address: cfg.Address, Auth: cfg.Auth, Log: cfg.Log})
	if !errors.Is(err, auth.ErrRefused) {
		t.Errorf("a log-in as alice with another's key: %v", err)
	}
	if s != nil {
		_ = s.Close(chatContext(t))
	}
}

// TestF3Rooms: rooms are listed, joined, given topics and left; private ones
// exist for their members only. A room is a reference: it means nothing in
// another's hands, and who leaves or is put out loses it in all sessions.
func TestF3Rooms(t *testing.T) {
	w := newChatWorld(t, "alice", "bob", "mallory")
	alice, mallory := w.attach("alice", w.port), w.attach("mallory", w.port)
	bob, other := w.attach("bob", w.port), w.attach("bob", w.port)
	garden := alice.create("garden", chatproto.RoomPublic, "roses")
	plans := alice.create("plans", chatproto.RoomPrivate, "escape")
	inGarden, inPlans := garden.Room.Info.Room, plans.Room.Info.Room

	sameTexts(t, "alice's list", listed(alice), "garden: roses, 1 members", "lobby: , 3 members", "plans: escape, 1 members")
	sameTexts(t, "mallory's list", listed(mallory), "garden: roses, 1 members", "lobby: , 3 members")
	theirs := bob.join("garden").Ref
	mustAsk(bob, theirs, chatproto.SetTopic, &chatproto.SetTopicReq{ID: randomID(), Topic: "tulips"})
	alice.await("the topic", func(m rpc.Message) bool {
		e, ok := m.(*chatproto.Message)
		return ok && e.Kind == chatproto.KindTopic && e.From == "bob" && string(e.Body) == "tulips"
	})
	sameTexts(t, "the list", listed(mallory), "garden: tulips, 2 members", "lobby: , 3 members")
	sameTexts(t, "the members", mustAsk(alice, garden.Ref, chatproto.Members, &chatproto.MembersReq{}).Users, "alice", "bob")

	// Mallory is in neither room.
	for _, room := range []rpc.Ref{garden.Ref, plans.Ref, theirs, plans.Ref + 1, 1} {
		refuses(t, "a room that mallory is not in", mallory, room, rpc.ErrNoReference)
	}
	for room := range inPlans + 8 {
		if _, err := mallory.open(room); room != mallory.join("lobby").Room.Info.Room && !errors.Is(err, chatproto.ErrNoRoom) {
			t.Errorf("room %d opens for mallory: %v", room, err)
		}
	}
	for _, name := range []string{"plans", "nowhere"} {
		if _, err := ask(mallory, mallory.ref, chatproto.JoinRoom, &chatproto.JoinRoomReq{ID: randomID(), Name: name}); !errors.Is(err, chatproto.ErrNoRoom) {
			t.Errorf("mallory joins %s: %v", name, err)
		}
	}

	// Leaving revokes, in all sessions of the user.
	second, err := other.open(inGarden)
	must(t, err)
	mustAsk(other, second, chatproto.Say, sayReq("still in"))
	mustAsk(bob, theirs, chatproto.Leave, &chatproto.LeaveReq{ID: randomID()})
	refuses(t, "a room that bob has left", bob, theirs, rpc.ErrNoReference)
	refuses(t, "a room that bob has left elsewhere", other, second, rpc.ErrNoReference)
	for _, l := range []*listener{bob, other} {
		l.await("the end of the room", isGone(inGarden))
		if _, err := l.open(inGarden); !errors.Is(err, chatproto.ErrNoRoom) {
			t.Errorf("a room that was left opens: %v", err)
		}
	}
	again := bob.join("garden").Ref
	if again == theirs || again == second {
		t.Error("a revoked reference is used again")
	}
	refuses(t, "the old reference", bob, theirs, rpc.ErrNoReference)
	mustAsk(bob, again, chatproto.Say, sayReq("back"))
	sameTexts(t, "the garden", texts(alice.log(garden.Ref)), "bob: still in", "bob: back")

	// A private room has the members that it was given.
	invite := &chatproto.MemberReq{ID: randomID(), User: "bob"}
	mustAsk(alice, plans.Ref, chatproto.Invite, invite)
	var refs []rpc.Ref
	for _, l := range []*listener{bob, other} {
		l.await("the invitation", isNewRoom(inPlans))
		ref, err := l.open(inPlans)
		must(t, err)
		mustAsk(l, ref, chatproto.Say, sayReq("in on it"))
		refs = append(refs, ref)
	}
	out := &chatproto.MemberReq{ID: randomID(), User: "alice"}
	if _, err := ask(bob, refs[0], chatproto.Remove, out); !errors.Is(err, chatproto.ErrNotAllowed) {
		t.Errorf("bob puts the owner out: %v", err)
	}
	mustAsk(alice, plans.Ref, chatproto.Remove, &chatproto.MemberReq{ID: randomID(), User: "bob"})
	refuses(t, "a room that bob was put out of", bob, refs[0], rpc.ErrNoReference)
	refuses(t, "a room that bob was put out of, elsewhere", other, refs[1], rpc.ErrNoReference)
	mustAsk(alice, plans.Ref, chatproto.Say, sayReq("without bob"))
	alice.fence("the end", bob, other, mallory)
	for who, l := range map[string]*listener{"bob": bob, "bob elsewhere": other, "mallory": mallory} {
		if n := l.count(isText("without bob")); n != 0 {
			t.Errorf("%s heard it", who)
		}
	}
	sameTexts(t, "the plans", texts(alice.log(plans.Ref)), "bob: in on it", "bob: in on it", "alice: without bob")
	sameTexts(t, "bob's list", listed(bob), "garden: tulips, 2 members", "lobby: , 3 members")
}

// listed returns the rooms that a user is told of.
func listed(l *listener) []string {
	l.t.Helper()
	var all []string
	for _, r := range mustAsk(l, l.ref, chatproto.ListRooms, &chatproto.ListRoomsReq{}).Rooms {
		all = append(all, fmt.Sprintf("%s: %s, %d members", r.Name, r.Topic, r.Members))
	}
	return all
}

// refuses fails unless all methods of a room fail with want.
func refuses(t *testing.T, what string, l *listener, room rpc.Ref, want error) {
	t.Helper()
	bob := &chatproto.MemberReq{ID: randomID(), User: "bob"}
	for method, err := range map[string]error{
		"say":       second(ask(l, room, chatproto.Say, sayReq(what))),
		"history":   second(ask(l, room, chatproto.History, &chatproto.HistoryReq{})),
		"topic":     second(ask(l, room, chatproto.SetTopic, &chatproto.SetTopicReq{ID: randomID(), Topic: what})),
		"invite":    second(ask(l, room, chatproto.Invite, bob)),
		"remove":    second(ask(l, room, chatproto.Remove, bob)),
		"leave":     second(ask(l, room, chatproto.Leave, &chatproto.LeaveReq{ID: randomID()})),
		"mark read": second(ask(l, room, chatproto.MarkRead, &chatproto.MarkReadReq{Seq: 1})),
		"typing":    second(ask(l, room, chatproto.Typing, &chatproto.TypingReq{})),
		"members":   second(ask(l, room, chatproto.Members, &chatproto.MembersReq{})),
		"retention": second(ask(l, room, chatproto.SetRetention, &chatproto.SetRetentionReq{Count: 1})),
		"keys":      second(ask(l, room, chatproto.GetKeys, &chatproto.GetKeysReq{})),
	} {
		if !errors.Is(err, want) {
			t.Errorf("%s: %s: %v", what, method, err)
		}
	}
}

package e2ee

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// world is what should be the case under an honest server.
type world struct {
	t       *testing.T
	s       *server
	devices map[string][]*person                     // in use, the holder first
	said    map[chatproto.RoomID]map[string][]string // what each user may read, in order
	rooms   []chatproto.RoomID
	n       int
}

var names = []string{"alice", "bob", "carol", "dave"}

func newWorld(t *testing.T) *world {
	w := &world{t: t, s: newServer(), devices: map[string][]*person{}, said: map[chatproto.RoomID]map[string][]string{}}
	for _, name := range names {
		w.devices[name] = []*person{w.s.person(t, name)}
	}
	for i := range 2 {
		room := w.devices[names[i]][0].create(fmt.Sprintf("room%d", i))
		w.rooms = append(w.rooms, room)
		w.said[room] = map[string][]string{}
	}
	return w
}

func (w *world) anyDevice(r *rapid.T, user string) *person {
	return rapid.SampledFrom(w.devices[user]).Draw(r, "device")
}

func (w *world) anyRoom(r *rapid.T) (chatproto.RoomID, *fakeRoom) {
	id := rapid.SampledFrom(w.rooms).Draw(r, "room")
	return id, w.s.rooms[id]
}

func (w *world) say(p *person, room chatproto.RoomID) {
	w.n++
	text := fmt.Sprintf("%d by %s", w.n, p.user)
	p.say(room, text)
	for _, user := range w.s.rooms[room].members {
		w.said[room][user] = append(w.said[room][user], text)
	}
}

// openRooms makes the holder know its rooms. Users who have left one are passed
// over: nobody makes new keys there for them, or hands over its old ones.
func (w *world) openRooms(r *rapid.T, user string) {
	for _, id := range w.rooms {
		if slices.Contains(w.s.rooms[id].members, user) {
			w.devices[user][0].pull(id)
		} else if slices.ContainsFunc(w.s.rooms[id].log, func(m chatproto.Message) bool { return m.From == user || m.Target == user }) {
			r.Skip("has left a room")
		}
	}
}

func (w *world) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"say": func(r *rapid.T) {
			id, room := w.anyRoom(r)
			if len(room.members) == 0 {
				r.Skip("empty")
			}
			w.say(w.anyDevice(r, rapid.SampledFrom(room.members).Draw(r, "who")), id)
		},
		"invite": func(r *rapid.T) {
			id, room := w.anyRoom(r)
			target := rapid.SampledFrom(names).Draw(r, "target")
			if len(room.members) == 0 || slices.Contains(room.members, target) {
				r.Skip("not to be invited")
			}
			p := w.anyDevice(r, rapid.SampledFrom(room.members).Draw(r, "who"))
			p.invite(id, target)
			if p != w.devices[p.user][0] || rapid.Bool().Draw(r, "confirm") {
				w.say(p, id) // before the device can be revoked
			}
		},
		"remove": func(r *rapid.T) {
			id, room := w.anyRoom(r)
			if len(room.members) < 2 {
				r.Skip("alone")
			}
			others := slices.DeleteFunc(slices.Clone(room.members), func(u string) bool { return u == room.owner })
			w.anyDevice(r, room.owner).remove(id, rapid.SampledFrom(others).Draw(r, "target"))
		},
		"leave": func(r *rapid.T) {
			id, room := w.anyRoom(r)
			if len(room.members) < 2 {
				r.Skip("alone")
			}
			w.anyDevice(r, rapid.SampledFrom(room.members).Draw(r, "who")).leave(id)
		},
		"enrol": func(r *rapid.T) {
			user := rapid.SampledFrom(names).Draw(r, "user")
			if len(w.devices[user]) > 2 {
				r.Skip("enough")
			}
			w.openRooms(r, user)
			p := w.s.device(w.t, user, "another")
			w.devices[user][0].enrol(p)
			w.devices[user] = append(w.devices[user], p)
		},
		"revoke": func(r *rapid.T) {
			user := rapid.SampledFrom(names).Draw(r, "user")
			if len(w.devices[user]) < 2 {
				r.Skip("only one")
			}
			w.openRooms(r, user)
			i := rapid.IntRange(1, len(w.devices[user])-1).Draw(r, "which")
			_, err := w.devices[user][0].e.Revoke(w.t.Context(), w.devices[user][0].v, w.devices[user][i].e.DeviceID())
			must(w.t, err)
			w.devices[user] = slices.Delete(w.devices[user], i, i+1)
		},
		"pull": func(r *rapid.T) {
			id, room := w.anyRoom(r)
			if len(room.members) > 0 {
				w.anyDevice(r, rapid.SampledFrom(room.members).Draw(r, "who")).pull(id)
			}
		},
		"refresh": func(r *rapid.T) {
			p := w.anyDevice(r, rapid.SampledFrom(names).Draw(r, "who"))
			must(w.t, p.e.Refresh(w.t.Context(), p.v, rapid.SampledFrom(names).Draw(r, "whose")))
		},
	}
}

// check lets everybody read, and one device of each read everything again.
func (w *world) check() {
	for _, id := range w.rooms {
		for _, user := range w.s.rooms[id].members {
			for _, p := range w.devices[user] {
				p.pull(id)
				p.at[id] = 0
				want(w.t, p.pull(id), w.said[id][user]...)
				p.wantNoWarnings()
			}
		}
	}
}

// TestMain lets the model run shorter than rapid would by itself.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	os.Exit(m.Run()) // which parses the flags of the command line
}

// Under an honest server all read the same, exactly what was said while they were
// members, and nobody is ever warned.
func TestHonestServerModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t)
		r.Repeat(w.actions())
		w.check()
		if t.Failed() {
			r.FailNow()
		}
	})
}

// Two processes of one user share their state.
func TestTwoProcessesOnOneKV(t *testing.T) {
	s, alice, bob, room := three(t)
	twin := *bob
	var err error
	twin.e, err = Open(bob.kv, "bob", Options{})
	must(t, err)
	if twin.e.DeviceID() != bob.e.DeviceID() {
		t.Fatal("two processes are two devices")
	}
	twin.at, twin.got = maps.Clone(bob.at), slices.Clone(bob.got)
	for i := range 20 {
		alice.say(room, fmt.Sprint(i))
	}
	var wg sync.WaitGroup
	for _, p := range []*person{bob, &twin} {
		wg.Go(func() {
			page := s.rooms[room].kept()
			for i := range page {
				o, err := p.e.Receive(t.Context(), p.v, &page[i])
				if err != nil || len(o.Warnings) > 0 {
					t.Errorf("%+v, %v", o, err)
				}
			}
		})
	}
	wg.Wait()
	// One seals and sends at a time, in turn; both receive meanwhile.
	for i := range 10 {
		p := []*person{bob, &twin}[i%2]
		p.say(room, fmt.Sprint("b", i))
	}
	alice.pull(room)
	alice.wantNoWarnings()
	if n := len(alice.got); n != 31 {
		t.Fatalf("alice has %d texts", n)
	}
	// Counters are never used twice, even if both seal at once.
	counters := make(map[uint64]bool)
	var mu sync.Mutex
	for _, p := range []*person{bob, &twin} {
		for range 8 {
			wg.Go(func() {
				_, body, err := p.e.Seal(t.Context(), p.v, room, newID(), chatproto.KindText, "x")
				m := new(sealedText)
				if err == nil {
					_, err = unwrap(body, chatproto.MaxBody, m)
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil || counters[m.Counter] {
					t.Errorf("counter %d: %v", m.Counter, err)
				}
				counters[m.Counter] = true
			})
		}
	}
	wg.Wait()
}

// The same id keeps its counter, also when it is sealed under another key.
func TestSealAgainKeepsItsPlace(t *testing.T) {
	s, alice, bob, room := three(t)
	id := newID()
	_, first, err := alice.e.Seal(t.Context(), alice.v, room, id, chatproto.KindText, "hello")
	must(t, err)
	second := s.device(t, "bob", "second")
	bob.enrol(second)
	epoch, again, err := alice.e.Seal(t.Context(), alice.v, room, id, chatproto.KindText, "hello")
	must(t, err)
	a, b := new(sealedText), new(sealedText)
	_, err = unwrap(first, chatproto.MaxBody, a)
	must(t, err)
	_, err = unwrap(again, chatproto.MaxBody, b)
	must(t, err)
	if a.Counter != b.Counter || b.Epoch != a.Epoch+1 || a.Nonce == b.Nonce {
		t.Fatalf("%+v, %+v", a, b)
	}
	must(t, s.say("alice", room, id, epoch, again))
	must(t, alice.e.Said(room, id))
	alice.say(room, "more")
	want(t, second.pull(room), "one", "hello", "more")
	second.wantNoWarnings()
}

// A KV or a connection that fails at any point: repeating the call is enough.
func TestFailureAnywhere(t *testing.T) {
	broken := errors.New("broken")
	for at := 1; ; at++ {
		s := newServer()
		alice, bob := s.device(t, "alice", "a"), s.device(t, "bob", "b")
		n, failed := 0, false
		fail := func(string) error {
			if n++; n == at {
				failed = true
				return broken
			}
			return nil
		}
		for _, p := range []*person{alice, bob} {
			p.kv.fail, p.v.down = fail, fail
		}
		retry := func(fn func() error) {
			t.Helper()
			err := fn()
			if errors.Is(err, broken) {
				err = fn()
			}
			must(t, err)
		}
		retry(func() error { return alice.e.Ready(t.Context(), alice.v) })
		retry(func() error { return bob.e.Ready(t.Context(), bob.v) })
		var room chatproto.RoomID
		retry(func() error {
			id := newID()
			proof, err := alice.e.CreateProof(t.Context(), alice.v, id, "r")
			if err == nil {
				room = s.create("alice", "r", id, proof)
			}
			return err
		})
		retry(func() error {
			id := newID()
			proof, err := alice.e.InviteProof(t.Context(), alice.v, room, id, "bob")
			if err == nil {
				err = s.change(chatproto.KindInvite, "alice", room, id, "bob", proof)
			}
			return err
		})
		for _, p := range []*person{alice, bob} {
			id := newID()
			retry(func() error {
				epoch, body, err := p.e.Seal(t.Context(), p.v, room, id, chatproto.KindText, "hello")
				if err == nil {
					err = s.say(p.user, room, id, epoch, body)
				}
				return err
			})
			retry(func() error { return p.e.Said(room, id) })
		}
		log := s.rooms[room].kept()
		for i := range log {
			retry(func() error {
				o, err := bob.e.Receive(t.Context(), bob.v, &log[i])
				if len(o.Warnings) > 0 {
					t.Fatalf("failure %d, entry %d: %q", at, i, o.Warnings)
				}
				return err
			})
		}
		if !failed {
			if at < 50 {
				t.Fatalf("only %d places to fail", at)
			}
			return
		}
	}
}

// A key for more devices than one request can name.
func TestManyMembers(t *testing.T) {
	const n = 40
	s, alice, bob, room := three(t)
	alice.e.keysSize = 8 << 10 // as if there were more members
	r := s.rooms[room]
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprintf("user%04d", i)
		s.person(t, users[i])
		// The proof is made against a log that is not read anew each time.
		id := newID()
		st := &statement{Action: chatproto.KindInvite, ID: id, Target: users[i]}
		must(t, alice.e.transact(func(w *work) error {
			p, err := alice.e.newPass(t.Context(), w, alice.v, room)
			must(t, err)
			known, err := alice.e.sync(t.Context(), w, alice.v, users[i])
			must(t, err)
			st.Identity, st.Room, st.Seen = known.identity(), p.room.Room, p.room.Members
			raw, err := alice.e.state(w, st)
			r.append(chatproto.Message{ID: id, Kind: chatproto.KindInvite, From: "alice", Target: users[i], Body: raw})
			r.members = append(r.members, users[i])
			return err
		}))
	}
	r.stale = true
	page := r.kept()
	page = page[alice.at[room]:]
	if _, err := alice.e.ReceiveAll(t.Context(), alice.v, page); err != nil {
		t.Fatal(err)
	}
	alice.at[room] = uint64(len(r.log))
	// Adding the rest fails once; the next message makes up for it.
	alice.v.down = func(op string) error {
		if op == "addkeys" {
			alice.v.down = nil
			return errors.New("connection lost")
		}
		return nil
	}
	if err := alice.trySay(room, "to all"); err == nil {
		t.Fatal("no error")
	}
	alice.say(room, "to all")
	if got := len(r.boxes[2]); got != 2*(n+2) {
		t.Fatalf("%d boxes", got)
	}
	want(t, bob.pull(room), "to all")
	if len(r.headers) != 2 {
		t.Fatalf("%d epochs", len(r.headers))
	}
}

package service

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// leaves counts how often the listener was told that a user went.
func (f *feed) leaves(user string) int {
	n := 0
	for _, p := range of[*chatproto.Presence](f) {
		if p.User == user && p.State == chatproto.Offline {
			n++
		}
	}
	return n
}

// roster is who is there according to a snapshot and the events after it.
func roster(s chatproto.SnapshotRes, f *feed) map[string]uint8 {
	there := make(map[string]uint8)
	for _, p := range s.Users {
		there[p.User] = p.State
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, e := range f.events {
		if p, ok := e.(*chatproto.Presence); ok && f.numbers[i] >= s.Next {
			there[p.User] = p.State
		}
	}
	maps.DeleteFunc(there, func(_ string, state uint8) bool { return state == chatproto.Offline })
	return there
}

// members is who is in a room according to a snapshot, which tells how many, and
// the entries after it.
func members(s chatproto.SnapshotRes, f *feed) (n uint32) {
	last := s.Rooms[0].Info.Last
	n = s.Rooms[0].Info.Members
	for _, m := range of[*chatproto.Message](f) {
		if m.Seq > last && m.Kind == chatproto.KindJoin {
			n++
		}
	}
	return n
}

// TestB3FiftyJoining: fifty attach and join at once, a third of them go again;
// for each of those who stay, snapshot and events make the same final roster.
func TestB3FiftyJoining(t *testing.T) {
	const users = 50
	w := newWorld(t, Config{})
	devices := make([]*device, users)
	snapshots := make([]chatproto.SnapshotRes, users)
	for i := range users {
		devices[i] = w.session(fmt.Sprintf("user%02d", i))
		devices[i].feed = newFeed()
	}
	var wg sync.WaitGroup
	for i, d := range devices {
		wg.Go(func() {
			if err := d.attachFeed(d.feed); err != nil {
				t.Error(err)
				return
			}
			d.join("lobby")
			snapshots[i] = d.snapshot()
			if i%3 == 0 {
				d.chat.Close()
			}
		})
	}
	wg.Wait()
	want := make(map[string]uint8)
	for i, d := range devices {
		if i%3 != 0 {
			want[d.user] = chatproto.Online
		}
	}
	for i, d := range devices {
		if i%3 == 0 {
			continue
		}
		d.fence(w)
		if got := roster(snapshots[i], d.feed); !maps.Equal(got, want) {
			t.Errorf("%s sees %v, not %v", d.user, got, want)
		}
		if n := members(snapshots[i], d.feed); n != users {
			t.Errorf("%s counts %d members", d.user, n)
		}
		if s := d.snapshot(); len(s.Users) != len(want) || s.Rooms[0].Info.Members != users {
			t.Errorf("%s is told of %d users", d.user, len(s.Users))
		}
		if n := len(d.feed.cuts); n > 0 {
			t.Errorf("%s was cut off %d times", d.user, n)
		}
	}
}

// TestB4LeaveOnce: whichever way a user goes, the others are told once.
func TestB4LeaveOnce(t *testing.T) {
	w := newWorld(t, Config{Grace: 200 * time.Millisecond})
	bob := w.device("bob")
	check := func(user string) {
		t.Helper()
		bob.feed.awaitPresence(t, user, chatproto.Offline)
		bob.fence(w)
		if n := bob.feed.leaves(user); n != 1 {
			t.Errorf("%d leave events of %s", n, user)
		}
	}

	// Released, and then closed.
	a := w.device("released")
	bob.feed.awaitPresence(t, "released", chatproto.Online)
	must(t, a.peer.Release(t.Context(), a.ref))
	check("released")
	a.end()
	check("released")

	// The session ends with its listener attached.
	a = w.device("ended")
	bob.feed.awaitPresence(t, "ended", chatproto.Online)
	a.end()
	check("ended")

	// The connection is lost: away first, then gone.
	a = w.device("lost")
	bob.feed.awaitPresence(t, "lost", chatproto.Online)
	a.link.Cut()
	a.chat.Lost(0)
	bob.feed.await(t, "away", presenceOf("lost", chatproto.Away))
	check("lost")
	a.end()
	check("lost")

	// Two devices: nobody goes until the second does.
	a, b := w.device("two"), w.device("two")
	bob.feed.awaitPresence(t, "two", chatproto.Online)
	a.end()
	bob.fence(w)
	if n := bob.feed.leaves("two"); n != 0 {
		t.Error("gone with one of two devices")
	}
	b.end()
	check("two")
}

// TestB4Resumed: a connection that comes back within the grace was never gone.
func TestB4Resumed(t *testing.T) {
	w := newWorld(t, Config{})
	bob, a := w.device("bob"), w.device("alice")
	room := a.join("lobby")
	bob.join("lobby")
	bob.feed.awaitPresence(t, "alice", chatproto.Online)
	a.link.Cut()
	a.chat.Lost(DefaultAwayAfter) // as after a time of silence
	bob.feed.awaitPresence(t, "alice", chatproto.Away)
	bob.say(room, "while you were away")
	a.chat.Connected()
	a.link.Connect()
	bob.feed.awaitPresence(t, "alice", chatproto.Online)
	a.feed.await(t, "what was said", saying("while you were away"))
	bob.fence(w)
	if n := bob.feed.leaves("alice"); n != 0 {
		t.Errorf("%d leave events", n)
	}
}

// TestF1KilledClientFreesName: a client that was killed never keeps its user
// from coming back, and the old session's end does not take the new one along.
func TestF1KilledClientFreesName(t *testing.T) {
	w := newWorld(t, Config{Grace: 100 * time.Millisecond})
	bob, killed := w.device("bob"), w.device("alice")
	room := killed.join("lobby")
	bob.join("lobby")
	killed.link.Cut()
	killed.chat.Lost(0)
	back := w.device("alice")
	back.open(room)
	back.say(room, "here again")
	bob.feed.await(t, "the text", saying("here again"))
	killed.end()
	bob.fence(w)
	if n := bob.feed.leaves("alice"); n != 0 {
		t.Errorf("%d leave events", n)
	}
	if s := bob.snapshot(); len(s.Users) != 2 || s.Users[0].State != chatproto.Online {
		t.Errorf("%+v", s.Users)
	}
}

// TestAway: a user is as present as the most present of his listeners, and the
// reason is told.
func TestAway(t *testing.T) {
	w := newWorld(t, Config{})
	bob, laptop, phone := w.device("bob"), w.device("alice"), w.device("alice")
	bob.feed.awaitPresence(t, "alice", chatproto.Online)
	laptop.away("lunch")
	bob.fence(w)
	if slices.ContainsFunc(bob.feed.all(), presenceOf("alice", chatproto.Away)) {
		t.Error("away on one of two devices")
	}
	phone.away("dinner")
	bob.feed.awaitPresence(t, "alice", chatproto.Away)
	if s := bob.snapshot(); s.Users[0].Text != "dinner" || s.Users[0].Since == 0 {
		t.Errorf("%+v", s.Users)
	}
	laptop.away("")
	bob.feed.awaitPresence(t, "alice", chatproto.Online)
	if _, err := ask(laptop, chatproto.SetAway, &chatproto.SetAwayReq{Away: true, Text: "\xff"}); err == nil {
		t.Error("a reason that is no text")
	}
}

// bare is an attachment without a client. Nothing is delivered to it.
func bare(c *Session) *attachment {
	a := newAttachment(c, rpc.NewPeer(rpc.Config{}), 1)
	a.admitted, a.queue.running = true, true
	s := c.svc
	s.mu.Lock()
	defer s.mu.Unlock()
	s.feeds[a] = struct{}{}
	c.attached = append(c.attached, a)
	c.user.attached = append(c.user.attached, a)
	s.refresh(c.user)
	return a
}

// told returns what waits for a bare attachment of one user's presence.
func (a *attachment) told(t *testing.T, user string) (states []uint8) {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	for _, e := range a.queue.events {
		p := presence(t, e)
		if p.User == user {
			states = append(states, p.State)
		}
	}
	return states
}

// TestPresenceTimes: away after 15 s and gone after the grace, counted from when
// something was heard last; and changes that follow each other quickly are told
// as one.
func TestPresenceTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		defer s.Close()
		session := func(user string) *Session {
			c := s.NewSession(user)
			c.Connected()
			return c
		}
		watcher := bare(session("watcher"))
		c := session("alice")
		bare(c)
		check := func(after time.Duration, want ...uint8) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := watcher.told(t, "alice"); !slices.Equal(got, want) {
				t.Errorf("told %v, not %v", got, want)
			}
		}
		const on, off, away = chatproto.Online, chatproto.Offline, chatproto.Away
		check(time.Second, on)
		c.Lost(0)
		check(14*time.Second, on)
		check(2*time.Second, on, away)
		check(13*time.Second, on, away)
		check(2*time.Second, on, away, off)
		c.Connected()
		c.Lost(15 * time.Second)
		check(time.Second, on, away, off, on, away)
		check(15*time.Second, on, away, off, on, away, off)

		time.Sleep(time.Minute)
		c.Connected()
		for range 100 {
			c.Lost(0)
			c.Connected() // no news
			c.Lost(15 * time.Second)
			c.Connected()
		}
		before := len(watcher.told(t, "alice"))
		if before > 6+1+presenceBurst {
			t.Errorf("%d changes were told", before)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := watcher.told(t, "alice"); got[len(got)-1] != on || len(got) > before+1 {
			t.Errorf("told %v", got[before:])
		}
	})
}

package service

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// TestAttachLimits: a listener must be named, and so many fit a session.
func TestAttachLimits(t *testing.T) {
	w := newWorld(t, Config{})
	d := w.session("alice")
	if _, err := call(d.peer, chatproto.Attach, 0, &chatproto.ChatAttachReq{}); !errors.Is(err, rpc.ErrBadRequest) {
		t.Error(err)
	}
	for range maxAttached {
		d.attach()
	}
	if err := d.attachFeed(newFeed()); !errors.Is(err, chatproto.ErrFull) {
		t.Errorf("one more: %v", err)
	}
	must(t, d.peer.Release(t.Context(), d.ref))
	until(t, "a free place", func() bool { return d.attachFeed(newFeed()) == nil })
}

// until waits for what has no event of its own.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// TestBogusListener: a reference that is nobody's ends the attachment at the
// first delivery, and with it all that the client got for it.
func TestBogusListener(t *testing.T) {
	w := newWorld(t, Config{})
	bob, d := w.device("bob"), w.session("alice")
	res, err := call(d.peer, chatproto.Attach, 0, &chatproto.ChatAttachReq{Listener: 12345})
	must(t, err)
	bob.feed.awaitPresence(t, "alice", chatproto.Offline)
	if n := bob.feed.leaves("alice"); n != 1 {
		t.Errorf("%d leave events", n)
	}
	until(t, "the end", func() bool {
		_, err = call(d.peer, chatproto.Snapshot, res.Session, &chatproto.SnapshotReq{})
		return errors.Is(err, rpc.ErrNoReference)
	})
	if n := d.link.Server.Exported(); n != 0 {
		t.Errorf("%d references are left", n)
	}
}

// TestStuckListener: an attachment whose listener never answers counts until the
// delivery has ended, so that no client can pile up deliveries.
func TestStuckListener(t *testing.T) {
	w := newWorld(t, Config{})
	d := w.device("alice")
	defer d.feed.stop()()
	w.svc.Notice("hangs")
	<-d.feed.waiting
	must(t, d.peer.Release(t.Context(), d.ref))
	for range maxAttached - 1 {
		must(t, d.attachFeed(newFeed()))
	}
	if err := d.attachFeed(newFeed()); !errors.Is(err, chatproto.ErrFull) {
		t.Errorf("one more: %v", err)
	}
}

// TestLogout: the release of the session's reference takes the rooms along.
func TestLogout(t *testing.T) {
	w := newWorld(t, Config{})
	d := w.device("alice")
	room := d.join("lobby")
	must(t, d.peer.Release(t.Context(), d.ref))
	d.refused(room, rpc.ErrNoReference)
	if _, err := ask(d, chatproto.Snapshot, &chatproto.SnapshotReq{}); !errors.Is(err, rpc.ErrNoReference) {
		t.Error(err)
	}
	d.attach()
	d.open(room)
	d.say(room, "here again")
	must(t, d.peer.Release(t.Context(), d.refs[room])) // only the room
	d.refused(room, rpc.ErrNoReference)
	d.open(room)
	d.say(room, "and again")
}

// TestRates: a user who says too much is told when to go on, and that is true.
func TestRates(t *testing.T) {
	w := newWorld(t, Config{Rate: 10})
	d := w.device("alice")
	room := d.join("lobby")
	var rate *chatproto.Error
	said := 0
	for rate == nil {
		_, err := in(d, room, chatproto.Say, sayReq("again"))
		if err == nil {
			said++
		} else if !errors.As(err, &rate) {
			t.Fatal(err)
		}
	}
	if rate.Code != chatproto.CodeRate || rate.RetryAfter <= 0 || rate.RetryAfter > 100*time.Millisecond || said < 100 {
		t.Errorf("%v after %d", rate, said)
	}
	other := w.device("alice") // the bound is the user's
	other.open(room)
	if _, err := in(other, room, chatproto.Say, sayReq("x")); err == nil {
		if _, err = in(other, room, chatproto.Say, sayReq("x")); !errors.Is(err, chatproto.ErrRate) {
			t.Error(err)
		}
	}
	bob := w.device("bob") // and nobody else's
	bob.join("lobby")
	bob.say(room, "hello")

	met := 0
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"} {
		if _, err := ask(bob, chatproto.Whisper, &chatproto.WhisperReq{User: name, Say: *sayReq("buy this")}); err == nil {
			met++
		}
	}
	if met < 10 || met > 12 {
		t.Errorf("whispered to %d strangers", met)
	}
	mustAsk(bob, chatproto.Whisper, &chatproto.WhisperReq{User: "a", Say: *sayReq("no stranger")})
}

// TestBucket: so many at once, then so many per second, and never more saved up.
func TestBucket(t *testing.T) {
	var b bucket
	now := time.Unix(1_000_000, 0)
	for i := range 3 {
		if wait := b.take(now, 2, 3); wait != 0 {
			t.Errorf("take %d: %v", i, wait)
		}
	}
	if wait := b.take(now, 2, 3); wait != time.Second/2 {
		t.Errorf("wait %v", wait)
	}
	if wait := b.take(now.Add(time.Second/2), 2, 3); wait != 0 {
		t.Errorf("wait %v after the wait", wait)
	}
	now = now.Add(time.Hour)
	n := 0
	for b.take(now, 2, 3) == 0 {
		n++
	}
	if n != 3 {
		t.Errorf("%d saved up", n)
	}
	if wait := b.take(now.Add(-time.Minute), 2, 3); wait <= 0 || wait > time.Second {
		t.Errorf("wait %v after the clock went back", wait)
	}
}

// TestClosed: a session that has ended gives nothing to who is late.
func TestClosed(t *testing.T) {
	w := newWorld(t, Config{})
	d := w.session("alice")
	d.chat.Close()
	if err := d.attachFeed(newFeed()); !errors.Is(err, rpc.ErrGone) {
		t.Error(err)
	}
	if n := d.link.Server.Exported(); n != 0 {
		t.Errorf("%d references are left", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.svc.Stop(ctx, "nobody hears it")
}

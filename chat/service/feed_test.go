package service

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/store"
	"github.com/rpycfs/rpycfs/rpc"
)

// presence decodes a presence event.
func presence(t testing.TB, e *event) (p chatproto.Presence) {
	t.Helper()
	if e.kind == chatproto.EventPresence {
		must(t, rpc.Decode(e.body, &p))
	}
	return p
}

// waiting returns what waits for a device, in events and bytes.
func (w *world) waiting(d *device) (events, size int) {
	w.svc.mu.Lock()
	defer w.svc.mu.Unlock()
	for _, a := range d.chat.attached {
		a.queue.mu.Lock()
		events += len(a.queue.events)
		size += a.queue.size
		a.queue.mu.Unlock()
	}
	return events, size
}

// TestB5StoppedClient: one of ten listeners does not answer while 10 000 entries
// of 8 KiB pass (1 000 under the race detector). The others get all of them, and
// what is kept for the one is bounded. The entries are committed without the disk, which is not what this is
// about; TestB5Resume has a real history.
func TestB5StoppedClient(t *testing.T) {
	const entries, ahead = broadcastEntries, 24
	w := newWorld(t, Config{})
	var devices []*device
	var room chatproto.RoomID
	for i := range 10 {
		d := w.device(fmt.Sprint("user", i))
		room = d.join("lobby")
		devices = append(devices, d)
	}
	for _, d := range devices {
		d.fence(w)
	}
	stopped, others := devices[0], devices[1:]
	resume := stopped.feed.stop()
	defer resume()
	counts := make([]*counter, len(others))
	for i, d := range others {
		counts[i] = d.count()
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	body := []byte(strings.Repeat("x", 8<<10))
	for seq := uint64(1); seq <= entries; seq++ {
		m := chatproto.Message{Room: room, Seq: 1000 + seq, ID: newID(), Kind: chatproto.KindText, From: "user1", Body: body}
		w.svc.Committed([]store.Change{{Room: room, Message: m}})
		if events, size := w.waiting(stopped); events > maxQueue || size > maxQueueSize {
			t.Fatalf("%d events, %d bytes wait", events, size)
		}
		for _, c := range counts {
			c.await(t, int(seq)-ahead)
		}
	}
	for _, c := range counts {
		c.await(t, entries)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	}
	if events, _ := w.waiting(stopped); events != 0 {
		t.Errorf("%d events wait for a listener that was cut off", events)
	}
	for _, d := range others {
		if len(d.feed.cuts) > 0 {
			t.Errorf("%s was cut off", d.user)
		}
	}
	resume()
	stopped.feed.until(t, "the cut", func(f *feed) bool { return len(f.cuts) == 1 })
}

// counter counts entries and keeps none.
type counter struct {
	mu  sync.Mutex
	n   int
	got sync.Cond
}

// count attaches a listener that only counts, in place of the device's own.
func (d *device) count() *counter {
	d.t.Helper()
	must(d.t, d.peer.Release(d.t.Context(), d.ref))
	c := new(counter)
	c.got.L = &c.mu
	d.feed = newFeed()
	m := new(rpc.Mux)
	rpc.Handle(m, chatproto.Deliver, c.deliver)
	rpc.Handle(m, chatproto.Cut, d.feed.cut)
	listener, err := d.peer.Export(m, nil)
	must(d.t, err)
	res, err := call(d.peer, chatproto.Attach, 0, &chatproto.ChatAttachReq{Listener: listener})
	must(d.t, err)
	d.ref = res.Session
	return c
}

// await waits until n entries have come.
func (c *counter) await(t testing.TB, n int) {
	t.Helper()
	late := time.AfterFunc(patience, func() { panic(fmt.Sprintf("%d entries have not come", n)) })
	defer late.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.n < n {
		c.got.Wait()
	}
}

// TestB5Resume: a listener that was cut off is told once, stands still, and has
// everything in order after a snapshot and the history.
func TestB5Resume(t *testing.T) {
	const texts = maxQueueSize/(15<<10) + 20
	w := newWorld(t, Config{})
	alice, bob := w.device("alice"), w.device("bob")
	room := alice.join("lobby")
	bob.join("lobby")
	bob.fence(w)
	resume := bob.feed.stop()
	defer resume()
	big := strings.Repeat("y", 15<<10)
	var want []string
	for i := range texts {
		want = append(want, fmt.Sprint(i, " ", big))
		alice.say(room, want[i])
	}
	if events, _ := w.waiting(bob); events != 0 {
		t.Errorf("%d events wait after the cut", events)
	}
	resume()
	bob.feed.until(t, "the cut", func(f *feed) bool { return len(f.cuts) == 1 })
	got := bob.feed.texts(room)
	if len(got) == 0 || len(got) >= texts {
		t.Fatalf("%d texts before the cut", len(got))
	}
	alice.say(room, "while it stands still")
	want = append(want, "while it stands still")
	s := bob.snapshot()
	if cut := bob.feed.cuts[0]; cut >= s.Next {
		t.Errorf("cut off at %d, the snapshot goes on with %d", cut, s.Next)
	}
	alice.say(room, "live again")
	want = append(want, "live again")
	bob.feed.await(t, "the feed", saying("live again"))
	if n := bob.feed.numbers; n[len(n)-1] < s.Next {
		t.Errorf("event %d after a snapshot that goes on with %d", n[len(n)-1], s.Next)
	}

	// Every entry up to the snapshot's last that was not told is in the history.
	last := of[*chatproto.Message](bob.feed)
	after := last[len(last)-2].Seq
	for after < s.Rooms[0].Info.Last {
		page := mustIn(bob, room, chatproto.History, &chatproto.HistoryReq{After: after})
		for _, m := range page.Messages {
			if after++; m.Seq != after {
				t.Fatalf("entry %d where %d belongs", m.Seq, after)
			}
			if after <= s.Rooms[0].Info.Last {
				got = append(got, string(m.Body))
			}
		}
	}
	if got = append(got, "live again"); !slices.Equal(got, want) {
		t.Errorf("%d texts, not %d", len(got), len(want))
	}
	if n := len(bob.feed.cuts); n != 1 {
		t.Errorf("told %d times of one cut", n)
	}
}

// TestGoneIsCutOff: nothing is kept for a session after its grace.
func TestGoneIsCutOff(t *testing.T) {
	w := newWorld(t, Config{Grace: 1})
	alice, bob := w.device("alice"), w.device("bob")
	room := alice.join("lobby")
	bob.join("lobby")
	bob.link.Cut()
	bob.chat.Lost(0)
	alice.feed.awaitPresence(t, "bob", chatproto.Offline)
	alice.say(room, "not kept in memory")
	if events, _ := w.waiting(bob); events != 0 {
		t.Errorf("%d events wait", events)
	}
	bob.chat.Connected()
	bob.link.Connect()
	bob.feed.until(t, "the cut", func(f *feed) bool { return len(f.cuts) == 1 })
	if s := bob.snapshot(); s.Rooms[0].Unread != 1 || s.Next <= bob.feed.cuts[0] {
		t.Errorf("%+v after cut %d", s, bob.feed.cuts[0])
	}
}

// TestQueueBudget: a body counts once however many queues it is in, and queues
// get less when little is left.
func TestQueueBudget(t *testing.T) {
	b := new(budget)
	queues := make([]*attachment, 40)
	for i := range queues {
		queues[i] = queueOnly()
		queues[i].queue.budget = b
	}
	body := make([]byte, 20<<10)
	shared := &event{kind: 1, body: body}
	for _, a := range queues {
		a.push(shared)
	}
	if used := b.used.Load(); used != int64(len(body)) {
		t.Errorf("%d bytes used by one body", used)
	}
	for _, a := range queues { // each with bodies of its own
		for !a.queue.standing && a.queue.size+len(body) <= b.limit()-(4<<10) {
			a.push(&event{kind: 1, body: body})
		}
	}
	used := b.used.Load()
	if used > queueBudget || used < queueBudget/2 {
		t.Errorf("%d bytes used of %d", used, queueBudget)
	}
	if first, last := queues[0].queue.size, queues[39].queue.size; first <= last || first > maxQueueSize || last < minQueueSize {
		t.Errorf("%d bytes in the first queue, %d in the last", first, last)
	}
	for i, a := range queues {
		switch i % 3 {
		case 0:
			a.queue.close()
		case 1:
			a.cutOff()
		case 2:
			for len(a.queue.events) > 0 {
				a.take()
			}
		}
	}
	if used := b.used.Load(); used != 0 {
		t.Errorf("%d bytes used by nothing", used)
	}
}

// TestF4DeadClientMidBroadcast: one of ten dies while everybody is told; the
// others get everything.
func TestF4DeadClientMidBroadcast(t *testing.T) {
	const texts = 60
	w := newWorld(t, Config{})
	var devices []*device
	var room chatproto.RoomID
	for i := range 10 {
		d := w.device(fmt.Sprint("user", i))
		room = d.join("lobby")
		devices = append(devices, d)
	}
	var want []string
	for i := range texts {
		if i == texts/3 {
			devices[9].link.Cut() // the daemon has not noticed yet
		}
		if i == 2*texts/3 {
			devices[9].end()
		}
		want = append(want, fmt.Sprint("text ", i))
		devices[0].say(room, want[i])
	}
	for _, d := range devices[:9] {
		d.feed.await(t, "the last text", saying(want[texts-1]))
		if got := d.feed.texts(room); !slices.Equal(got, want) {
			t.Errorf("%s got %d texts", d.user, len(got))
		}
	}
}

// queueOnly is an attachment of which only the queue works.
func queueOnly() *attachment {
	a := &attachment{}
	a.queue.budget, a.queue.next, a.queue.running = new(budget), 1, true
	return a
}

// TestBatch: a delivery takes along what fits, and at least one event.
func TestBatch(t *testing.T) {
	a := queueOnly()
	small, big := &event{kind: 1, body: []byte{1}}, &event{kind: 1, body: make([]byte, chatproto.MaxEvent)}
	for range chatproto.MaxEvents {
		a.push(small)
	}
	if d, ok := a.take(); !ok || d.first != 1 || len(d.events) != chatproto.MaxEvents {
		t.Errorf("%d events from %d", len(d.events), d.first)
	}
	for range 5 {
		a.push(big)
	}
	state := &event{kind: chatproto.EventRoom, room: 7}
	a.push(state)
	a.push(state) // is one with the one before
	for _, want := range []struct{ first, n int }{{1025, 2}, {1027, 2}, {1029, 2}} {
		d, ok := a.take()
		if !ok || d.first != uint64(want.first) || len(d.events) != want.n {
			t.Errorf("%d events from %d, not %v", len(d.events), d.first, want)
		}
	}
	a.push(state) // the one before has been taken
	if d, ok := a.take(); !ok || len(d.events) != 1 || d.first != 1031 {
		t.Errorf("%+v", d)
	}
	if _, ok := a.take(); ok || a.queue.running || a.queue.size != 0 || len(a.queue.states) != 0 {
		t.Errorf("%+v", &a.queue)
	}
}

// TestOverflow: the numbers of what was dropped are used up, and the cut is told
// unless a snapshot has come before.
func TestOverflow(t *testing.T) {
	a := queueOnly()
	e := &event{kind: 1, body: make([]byte, 2000)}
	overflow := func() {
		for !a.queue.standing {
			a.push(e)
		}
		a.push(e) // dropped without a number
	}
	overflow()
	n := uint64(maxQueueSize/2000 + 1)
	if d, ok := a.take(); !ok || d.cut != 1 || len(d.events) != 0 {
		t.Errorf("%+v", d)
	}
	if next := a.resume(); next != n+1 {
		t.Errorf("goes on with %d", next)
	}
	overflow()
	if next := a.resume(); next != 2*n+1 {
		t.Errorf("goes on with %d", next)
	}
	a.push(e)
	if d, ok := a.take(); !ok || d.cut != 0 || d.first != 2*n+1 || len(d.events) != 1 {
		t.Errorf("%+v", d)
	}
	a.cutOff()
	if d, _ := a.take(); d.cut != 2*n+2 || a.resume() != 2*n+3 {
		t.Errorf("%+v", d)
	}
	if a.queue.close() != true {
		t.Error("its pump is not seen")
	}
	a.push(e)
	if d, ok := a.take(); ok || !d.ended {
		t.Errorf("%+v after the end", d)
	}
}

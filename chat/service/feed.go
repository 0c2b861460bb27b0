package service

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// What may wait for one listener: events, and bytes of their bodies. Whoever
// speaks while the store synchronises is heard all at once after it, so that this
// is several times what one commit brings (with 256 KiB, thirty who said 8 KiB
// each as fast as they could cut everybody off).
//
// Bodies are shared by all queues that they are in. All of them together have a
// budget; a queue gets a sixteenth of what is left of it, but never so little
// that no event fits.
const (
	maxQueue     = 4096
	maxQueueSize = 4 << 20
	minQueueSize = 32 << 10
	queueBudget  = 128 << 20
)

// stateSize stands for the body of an event that is made when it is sent.
const stateSize = 1 << 10

// event is shared by all queues that it is in, and does not change.
type event struct {
	kind uint8
	body []byte           // nil: of the room's state at the time of sending
	room chatproto.RoomID // if there is no body
	held atomic.Int32     // queues that it is in
}

// stateKey names an event without a body. One of a kind waits in a queue.
type stateKey struct {
	kind uint8
	room chatproto.RoomID
}

// newEvent encodes an event. The messages of this package fit.
func newEvent(kind uint8, m rpc.Message) *event {
	body, err := rpc.Encode(nil, m)
	if err != nil || len(body) > chatproto.MaxEvent {
		panic("chat service: event does not encode")
	}
	return &event{kind: kind, body: body}
}

func (e *event) size() int {
	if e.body == nil {
		return stateSize
	}
	return len(e.body)
}

// budget counts the bytes of all events that are in queues.
type budget struct{ used atomic.Int64 }

func (b *budget) add(e *event) {
	if e.held.Add(1) == 1 {
		b.used.Add(int64(e.size()))
	}
}

func (b *budget) remove(events []*event) {
	for _, e := range events {
		if e.held.Add(-1) == 0 {
			b.used.Add(-int64(e.size()))
		}
	}
}

// limit is how much may wait in one queue at this moment, in bytes.
func (b *budget) limit() int {
	return int(max(minQueueSize, min(maxQueueSize, (queueBudget-b.used.Load())/16)))
}

// queue is what waits for a listener:
//
//	        push             overflow            chat_snapshot
//	(idle) ─────▶ delivering ─────────▶ standing ─────────────▶ (idle)
//	   ▲  nothing left │
//	   └───────────────┘
type queue struct {
	budget *budget

	mu       sync.Mutex
	next     uint64 // number of the next event
	events   []*event
	size     int                   // of events, in bytes
	states   map[stateKey]struct{} // events without a body that wait
	standing bool                  // events are dropped
	cut      uint64                // the first event that was dropped, until the listener is told; 0: none
	running  bool                  // a pump exists
	ended    bool
	idle     chan struct{} // closed when the pump has ended; made by who waits
}

// push queues an event for the listener. It never waits.
func (a *attachment) push(e *event) {
	q := &a.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended || q.standing {
		return
	}
	if e.body == nil {
		key := stateKey{e.kind, e.room}
		if _, waits := q.states[key]; waits {
			return
		}
		if q.states == nil {
			q.states = make(map[stateKey]struct{})
		}
		q.states[key] = struct{}{}
	}
	q.events = append(q.events, e)
	q.size += e.size()
	q.budget.add(e)
	q.next++
	if len(q.events) > maxQueue || q.size > q.budget.limit() {
		q.drop(q.next - uint64(len(q.events)))
	}
	a.wake()
}

// drop cuts the feed off from event first on; q.mu is held.
func (q *queue) drop(first uint64) {
	q.cut = first
	q.clear()
	q.standing = true
}

// clear forgets what waits; q.mu is held.
func (q *queue) clear() {
	q.budget.remove(q.events)
	q.events, q.size, q.states = nil, 0, nil
}

// wake starts a pump unless there is one; q.mu is held.
func (a *attachment) wake() {
	if !a.queue.running {
		a.queue.running = true
		a.session.svc.pumps.Go(a.pump)
	}
}

// cutOff drops what waits for a listener that is not there, and what would be
// next: the feed stands still, so that nothing more is kept for it.
func (a *attachment) cutOff() {
	q := &a.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.ended && !q.standing {
		first := q.next - uint64(len(q.events))
		q.next++
		q.drop(first)
		a.wake()
	}
}

// resume sets the feed going again, and returns the number of its next event.
func (a *attachment) resume() uint64 {
	q := &a.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.standing, q.cut = false, 0
	return q.next
}

// close drops everything for good. It reports whether a delivery is still under
// way, whose pump then gives the attachment's place back.
func (q *queue) close() (delivering bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.cut = 0
	q.clear()
	return q.running
}

// drained returns a channel that is closed once nothing is to be delivered.
func (a *attachment) drained() <-chan struct{} {
	q := &a.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running {
		done := make(chan struct{})
		close(done)
		return done
	}
	if q.idle == nil {
		q.idle = make(chan struct{})
	}
	return q.idle
}

// delivery is what is said to the listener next: events, or a cut.
type delivery struct {
	first  uint64
	events []*event
	cut    uint64
	ended  bool // nothing is said any more
}

// take returns what is to be delivered next. If there is nothing, the pump that
// asks counts as ended.
func (a *attachment) take() (d delivery, ok bool) {
	q := &a.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !q.ended && q.cut != 0:
		d.cut, q.cut = q.cut, 0
		return d, true
	case !q.ended && len(q.events) > 0:
		d.first = q.next - uint64(len(q.events))
		d.events = q.batch()
		return d, true
	}
	q.running, d.ended = false, q.ended
	if q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
	return d, false
}

// batch removes as many events as one delivery may hold; q.mu is held.
func (q *queue) batch() []*event {
	n, size := 0, 0
	for n < len(q.events) && n < chatproto.MaxEvents {
		e := q.events[n]
		if size += e.size(); size > chatproto.MaxBatch && n > 0 {
			break
		}
		q.size -= e.size()
		if e.body == nil {
			delete(q.states, stateKey{e.kind, e.room})
		}
		n++
	}
	batch := q.events[:n:n]
	q.budget.remove(batch)
	if q.events = q.events[n:]; len(q.events) == 0 {
		q.events = nil
	}
	return batch
}

// pump delivers until nothing is left. A listener that fails ends the
// attachment; one that does not answer keeps the pump, and only that.
func (a *attachment) pump() {
	for {
		d, ok := a.take()
		if d.ended {
			a.session.free()
		}
		if !ok {
			return
		}
		if err := a.deliver(d); err != nil {
			a.end(err)
		}
	}
}

// deliver calls the listener.
func (a *attachment) deliver(d delivery) error {
	x := rpc.Extra{Object: a.listener}
	if d.cut != 0 {
		_, err := rpc.CallWith(a.ctx, a.peer, chatproto.Cut, &chatproto.CutReq{First: d.cut}, &chatproto.Empty{}, x)
		return err
	}
	req := chatproto.DeliverReq{First: d.first, Events: make([]chatproto.Event, len(d.events))}
	for i, e := range d.events {
		if e.body == nil {
			var err error
			if e, err = a.stateEvent(e); err != nil {
				return err
			}
		}
		req.Events[i] = chatproto.Event{Kind: e.kind, Body: e.body}
	}
	_, err := rpc.CallWith(a.ctx, a.peer, chatproto.Deliver, &req, &chatproto.Empty{}, x)
	return err
}

// stateEvent makes the body of an event from how its room stands now.
func (a *attachment) stateEvent(e *event) (*event, error) {
	state, err := a.store().Room(context.WithoutCancel(a.ctx), a.user().name, e.room)
	switch {
	case errors.Is(err, chatproto.ErrNoRoom):
		return newEvent(chatproto.EventGone, &chatproto.RoomGone{Room: e.room}), nil
	case err != nil:
		return nil, err
	case e.kind == chatproto.EventMark:
		return newEvent(e.kind, &chatproto.Mark{Room: e.room, Read: state.Read, Last: state.Info.Last, Unread: state.Unread}), nil
	}
	return newEvent(e.kind, &state), nil
}

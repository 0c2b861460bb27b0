package rpc

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
)

// The slots of a session, as NFSv4.1 has them (RFC 8881, section 2.10.6): a
// call that changes something occupies a slot with a sequence number one above
// the slot's last. The callee keeps the last reply of each slot, so that a call
// which is sent again after a lost connection is answered, not executed again.

// callerSlots hands out the slots of the calling side.
type callerSlots struct {
	free     slotPool // slots for any call
	reserved slotPool // slots for calls that a callback causes
}

func newCallerSlots(n, reserved uint32) *callerSlots {
	return &callerSlots{free: slotPool{end: n - reserved}, reserved: slotPool{first: n - reserved, end: n}}
}

func (s *callerSlots) pool(reserved bool) *slotPool {
	if reserved {
		return &s.reserved
	}
	return &s.free
}

// acquire waits for a slot. The returned sequence number counts only once the
// call has been handed to a connection (see commit).
func (s *callerSlots) acquire(ctx context.Context, ended <-chan struct{}, reserved bool) (Dep, error) {
	return s.pool(reserved).acquire(ctx, ended)
}

// commit uses up the sequence number: the callee may have seen it. The caller
// holds the slot.
func (s *callerSlots) commit(d Dep) {
	p := s.pool(d.Slot >= s.reserved.first)
	p.mu.Lock()
	p.seq[d.Slot-p.first] = d.Seq
	p.mu.Unlock()
}

func (s *callerSlots) release(d Dep, reserved bool) { s.pool(reserved).release(d.Slot) }

// slotPool is a range of slots. No more of them are touched than calls need,
// because each costs memory on both sides; but no slot is used again before
// rotation others, because the callee remembers only a slot's last calls.
type slotPool struct {
	first, end uint32 // the range

	mu      sync.Mutex
	seq     []uint32 // last sequence number used, of the slots that were ever handed out
	idle    []uint32 // given back; the first is handed out next
	waiting []chan uint32
}

// rotation is how many slots are idle before one is used again, unless there
// are no others.
const rotation = 16

func (p *slotPool) acquire(ctx context.Context, ended <-chan struct{}) (Dep, error) {
	p.mu.Lock()
	fresh := p.first + uint32(len(p.seq))
	switch {
	case len(p.idle) >= rotation, fresh == p.end && len(p.idle) > 0:
		d := p.next(p.idle[0])
		p.idle = slices.Delete(p.idle, 0, 1)
		p.mu.Unlock()
		return d, nil
	case fresh < p.end:
		p.seq = append(p.seq, 0)
		p.mu.Unlock()
		return Dep{fresh, 1}, nil
	}
	turn := make(chan uint32, 1)
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	var err error
	select {
	case slot := <-turn:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.next(slot), nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-ended:
		err = ErrGone
	}
	p.withdraw(turn)
	return Dep{}, err
}

// next is what the next call in slot is called. p.mu is held.
func (p *slotPool) next(slot uint32) Dep { return Dep{slot, p.seq[slot-p.first] + 1} }

// withdraw ends a waiting. A slot that came all the same goes to the next.
func (p *slotPool) withdraw(turn chan uint32) {
	p.mu.Lock()
	i := slices.Index(p.waiting, turn)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 {
		p.release(<-turn)
	}
}

// release gives a slot to who waits longest, or keeps it.
func (p *slotPool) release(slot uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) > 0 {
		p.waiting[0] <- slot // has room
		p.waiting = slices.Delete(p.waiting, 0, 1)
		return
	}
	p.idle = append(p.idle, slot)
}

// calleeSlots are the slots of the called side.
type calleeSlots struct {
	max   uint32
	log   SlotLog // nil: none
	mu    sync.Mutex
	slots []calleeSlot // up to the highest that was named
}

// slot returns a slot, nil if there is none of that number. It stands until the
// next call. s.mu is held.
func (s *calleeSlots) slot(number uint32) *calleeSlot {
	if number >= s.max {
		return nil
	}
	if missing := int(number) + 1 - len(s.slots); missing > 0 {
		s.slots = append(s.slots, make([]calleeSlot, missing)...)
	}
	return &s.slots[number]
}

// keepReply is the capacity for replies that a slot keeps, in bytes.
const keepReply = 256

type calleeSlot struct {
	seq     uint32 // last sequence number that arrived
	running bool
	again   uint32 // sequence number that another process may have executed; 0: none
	noted   []byte // of that
	// history tells of the last 64 calls whether they succeeded; bit 0 is seq.
	history uint64
	kind    uint8  // of the cached reply
	reply   []byte // its meta
	link    *link  // where the running call's reply goes: the latest that asked
	tag     uint32
	cancel  context.CancelCauseFunc // of the running call
	done    chan struct{}           // closed when the running call ends; made on demand
	arrived chan struct{}           // closed when the next call arrives; made on demand
}

// begin takes in a call. If execute is false the call was sent again and has
// been dealt with: it is still running and will be answered on l, or replay
// holds its answer.
func (s *calleeSlots) begin(d Dep, l *link, tag uint32) (execute bool, kind uint8, replay []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.slot(d.Slot)
	if slot == nil {
		return false, 0, nil, fmt.Errorf("%w: slot %d of %d", ErrSlot, d.Slot, s.max)
	}
	switch {
	case d.Seq == slot.seq+1 && !slot.running:
		slot.seq, slot.running = d.Seq, true
		slot.history <<= 1
		slot.link, slot.tag = l, tag
		if slot.arrived != nil {
			close(slot.arrived)
			slot.arrived = nil
		}
		if s.log != nil {
			s.log.Began(d)
		}
		return true, 0, nil, nil
	case d.Seq == slot.seq && d.Seq != 0 && slot.running:
		slot.link, slot.tag = l, tag
		return false, 0, nil, nil
	case d.Seq == slot.seq && d.Seq != 0:
		return false, slot.kind, slices.Clone(slot.reply), nil
	}
	return false, 0, nil, fmt.Errorf("%w: slot %d has sequence %d, call has %d", ErrSlot, d.Slot, slot.seq, d.Seq)
}

// end keeps the reply of a call and tells where to send it.
func (s *calleeSlots) end(d Dep, kind uint8, meta []byte) (*link, uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := &s.slots[d.Slot]
	slot.running, slot.cancel = false, nil
	slot.kind = kind
	if cap(slot.reply) > max(keepReply, 2*len(meta)) {
		slot.reply = nil
	}
	slot.reply = append(slot.reply[:0], meta...)
	if kind == kindReply {
		slot.history |= 1
	}
	if s.log != nil {
		s.log.Ended(ServedSlot{Dep: d, History: slot.history, Kind: kind, Reply: meta})
	}
	if slot.done != nil {
		close(slot.done)
		slot.done = nil
	}
	return slot.link, slot.tag
}

// again reports whether a running call may have been executed by another process, which
// has not answered it, and what that has noted.
func (s *calleeSlots) again(d Dep) (bool, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := &s.slots[d.Slot]
	return slot.again == d.Seq, slot.noted
}

// setCancel notes how the waiting of a running call is ended.
func (s *calleeSlots) setCancel(d Dep, cancel context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[d.Slot].cancel = cancel
}

// canceller returns how to end the waiting of the running call whose reply goes
// to l with this tag, nil if there is none.
func (s *calleeSlots) canceller(l *link, tag uint32) context.CancelCauseFunc {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.slots {
		if slot := &s.slots[i]; slot.running && slot.link == l && slot.tag == tag {
			return slot.cancel
		}
	}
	return nil
}

// await waits until the calls named by deps have ended, and returns ECANCELED
// unless all of them succeeded.
func (s *calleeSlots) await(ctx context.Context, deps []Dep) error {
	for _, d := range deps {
		for {
			wait, err := s.check(d)
			if err != nil {
				return err
			}
			if wait == nil {
				break
			}
			select {
			case <-wait:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// check returns nil, nil if d has succeeded, and what to wait for if d has not
// ended or not arrived yet.
func (s *calleeSlots) check(d Dep) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.slot(d.Slot)
	if slot == nil || d.Seq == 0 {
		return nil, fmt.Errorf("%w: depends on slot %d sequence %d", ErrBadRequest, d.Slot, d.Seq)
	}
	if d.Seq > slot.seq {
		return ensure(&slot.arrived), nil
	}
	if d.Seq == slot.seq && slot.running {
		return ensure(&slot.done), nil
	}
	if age := slot.seq - d.Seq; age < 64 && slot.history>>age&1 == 1 {
		return nil, nil
	}
	return nil, fmt.Errorf("a call that this one depends on failed: %w", syscall.ECANCELED)
}

func ensure(c *chan struct{}) <-chan struct{} {
	if *c == nil {
		*c = make(chan struct{})
	}
	return *c
}

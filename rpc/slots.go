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
	free     chan uint32 // slots for any call
	reserved chan uint32 // slots for calls that a callback causes
	seq      []uint32    // last sequence number used; owned by the slot's holder
}

func newCallerSlots(n, reserved uint32) *callerSlots {
	s := &callerSlots{free: make(chan uint32, n), reserved: make(chan uint32, n), seq: make([]uint32, n)}
	for i := range n {
		if i < n-reserved {
			s.free <- i
		} else {
			s.reserved <- i
		}
	}
	return s
}

// acquire waits for a slot. The returned sequence number counts only once the
// call has been handed to a connection (see commit).
func (s *callerSlots) acquire(ctx context.Context, ended <-chan struct{}, reserved bool) (Dep, error) {
	from := s.free
	if reserved {
		from = s.reserved
	}
	select {
	case slot := <-from:
		return Dep{slot, s.seq[slot] + 1}, nil
	default:
	}
	select {
	case slot := <-from:
		return Dep{slot, s.seq[slot] + 1}, nil
	case <-ctx.Done():
		return Dep{}, context.Cause(ctx)
	case <-ended:
		return Dep{}, ErrGone
	}
}

// commit uses up the sequence number: the callee may have seen it.
func (s *callerSlots) commit(d Dep) { s.seq[d.Slot] = d.Seq }

func (s *callerSlots) release(d Dep, reserved bool) {
	if reserved {
		s.reserved <- d.Slot
	} else {
		s.free <- d.Slot
	}
}

// calleeSlots are the slots of the called side.
type calleeSlots struct {
	mu    sync.Mutex
	slots []calleeSlot
}

type calleeSlot struct {
	seq     uint32 // last sequence number that arrived
	running bool
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
	if int(d.Slot) >= len(s.slots) {
		return false, 0, nil, fmt.Errorf("%w: slot %d of %d", ErrSlot, d.Slot, len(s.slots))
	}
	slot := &s.slots[d.Slot]
	switch {
	case d.Seq == slot.seq+1 && !slot.running:
		slot.seq, slot.running = d.Seq, true
		slot.history <<= 1
		slot.link, slot.tag = l, tag
		if slot.arrived != nil {
			close(slot.arrived)
			slot.arrived = nil
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
	slot.reply = append(slot.reply[:0], meta...)
	if kind == kindReply {
		slot.history |= 1
	}
	if slot.done != nil {
		close(slot.done)
		slot.done = nil
	}
	return slot.link, slot.tag
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
	if int(d.Slot) >= len(s.slots) || d.Seq == 0 {
		return nil, fmt.Errorf("%w: depends on slot %d sequence %d", ErrBadRequest, d.Slot, d.Seq)
	}
	slot := &s.slots[d.Slot]
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

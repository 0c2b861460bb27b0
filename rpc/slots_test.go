package rpc

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestSlotRotation: one call at a time touches few slots, but none again soon;
// many at once get all; sequence numbers rise by one.
func TestSlotRotation(t *testing.T) {
	s := newCallerSlots(40, 8)
	last := make(map[uint32]int)
	for i := range 100 {
		d, err := s.acquire(t.Context(), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if before, used := last[d.Slot]; used && i-before < rotation {
			t.Fatalf("slot %d used again after %d calls", d.Slot, i-before)
		}
		if want := uint32(i/rotation + 1); d.Seq != want {
			t.Fatalf("call %d has sequence %d", i, d.Seq)
		}
		last[d.Slot] = i
		s.commit(d)
		s.release(d, false)
	}
	if len(last) != rotation {
		t.Errorf("%d slots for one call at a time", len(last))
	}
	seen := make(map[uint32]bool)
	for i := range 40 {
		d, err := s.acquire(t.Context(), nil, i >= 32)
		if err != nil || seen[d.Slot] || (d.Slot >= 32) != (i >= 32) {
			t.Fatalf("call %d: slot %d, %v", i, d.Slot, err)
		}
		seen[d.Slot] = true
	}
}

// TestSlotUncommitted: a slot whose call was never sent keeps its number.
func TestSlotUncommitted(t *testing.T) {
	s := newCallerSlots(1, 0)
	for range 3 {
		d, err := s.acquire(t.Context(), nil, false)
		if err != nil || d != (Dep{0, 1}) {
			t.Fatal(d, err)
		}
		s.release(d, false)
	}
}

// TestSlotWaiters: who waits gets slots in order; who gives up loses none.
func TestSlotWaiters(t *testing.T) {
	s := newCallerSlots(2, 0)
	ended := make(chan struct{})
	var held []Dep
	for range 2 {
		d, err := s.acquire(t.Context(), ended, false)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, d)
	}
	done, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no more patience")
	cancel(cause)
	if _, err := s.acquire(done, ended, false); err != cause {
		t.Errorf("cancelled: %v", err)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if i%2 == 0 {
			wg.Go(cancel)
		}
		wg.Go(func() {
			if d, err := s.acquire(ctx, ended, false); err == nil {
				s.commit(d)
				s.release(d, false)
			}
		})
	}
	for _, d := range held {
		s.commit(d)
		s.release(d, false)
	}
	wg.Wait()
	for range 2 {
		if _, err := s.acquire(t.Context(), ended, false); err != nil {
			t.Fatal("a slot is lost:", err)
		}
	}
	close(ended)
	if _, err := s.acquire(t.Context(), ended, false); err != ErrGone {
		t.Errorf("session ended: %v", err)
	}
}

// TestCalleeSlotsGrow: slots are made when they are named, up to the limit, and
// a long reply does not keep its memory.
func TestCalleeSlotsGrow(t *testing.T) {
	s := calleeSlots{max: 144}
	if execute, _, _, err := s.begin(Dep{144, 1}, nil, 1); execute || !errors.Is(err, ErrSlot) {
		t.Error("slot beyond the limit:", execute, err)
	}
	if len(s.slots) != 0 {
		t.Errorf("%d slots at the beginning", len(s.slots))
	}
	for seq, size := range []int{MaxSlotReply, 1} {
		d := Dep{3, uint32(seq + 1)}
		if execute, _, _, err := s.begin(d, nil, 1); !execute || err != nil {
			t.Fatal(execute, err)
		}
		s.end(d, kindReply, make([]byte, size))
	}
	if len(s.slots) != 4 || cap(s.slots[3].reply) > keepReply {
		t.Errorf("%d slots, %d bytes kept", len(s.slots), cap(s.slots[3].reply))
	}
	if wait, err := s.check(Dep{100, 1}); wait == nil || err != nil {
		t.Error("a call that has not arrived is not waited for:", err)
	}
	if _, err := s.check(Dep{144, 1}); err == nil {
		t.Error("a slot beyond the limit is waited for")
	}
}

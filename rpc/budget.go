package rpc

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Budget bounds the memory that payloads and large replies of all sessions of a
// process occupy, with a share for each user. A session that asks for more waits:
// its peer sees a connection that is read slowly. Safe for concurrent use.
type Budget struct {
	total *semaphore.Weighted
	share int64

	mu    sync.Mutex
	users map[string]*Share
}

// NewBudget returns a budget of total bytes of which one user may hold at most
// share. Both must hold at least one payload with its headroom.
func NewBudget(total, share int64) *Budget {
	return &Budget{total: semaphore.NewWeighted(total), share: min(total, share), users: make(map[string]*Share)}
}

// Share is one user's part of a budget, common to all sessions of that user.
type Share struct {
	budget *Budget
	sem    *semaphore.Weighted
	name   string
	refs   int
}

// User returns the share of the named user. Each call is paired with Close.
func (b *Budget) User(name string) *Share {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.users[name]
	if s == nil {
		s = &Share{budget: b, sem: semaphore.NewWeighted(b.share), name: name}
		b.users[name] = s
	}
	s.refs++
	return s
}

// Close ends one session's use of the share.
func (s *Share) Close() {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if s.refs--; s.refs == 0 {
		delete(s.budget.users, s.name)
	}
}

// most returns how much of n bytes can be had at once.
func (s *Share) most(n int) int {
	if s == nil {
		return n
	}
	return min(n, int(s.budget.share))
}

// acquire waits for n bytes. A nil share is without bound.
func (s *Share) acquire(ctx context.Context, n int) error {
	if s == nil || n == 0 {
		return nil
	}
	if err := s.sem.Acquire(ctx, int64(n)); err != nil {
		return err
	}
	if err := s.budget.total.Acquire(ctx, int64(n)); err != nil {
		s.sem.Release(int64(n))
		return err
	}
	return nil
}

// try takes n bytes if there is room for them.
func (s *Share) try(n int) bool {
	if s == nil {
		return true
	}
	if !s.sem.TryAcquire(int64(n)) {
		return false
	}
	if !s.budget.total.TryAcquire(int64(n)) {
		s.sem.Release(int64(n))
		return false
	}
	return true
}

func (s *Share) release(n int) {
	if s == nil || n == 0 {
		return
	}
	s.budget.total.Release(int64(n))
	s.sem.Release(int64(n))
}

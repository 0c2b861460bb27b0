package idname

import (
	"sync"
	"time"
)

// How long an answer is used: that of rpc.idmapd for one that was found, short
// for one that was not, because accounts come sooner than they go.
const (
	KnownFor   = 10 * time.Minute
	UnknownFor = 30 * time.Second
)

// Cache remembers at most max answers, each for a limited time. An answer may be
// that there is none. Its methods may be called concurrently.
type Cache[K comparable, V any] struct {
	max int
	now func() time.Time

	mu      sync.RWMutex
	answers map[K]answer[V]
}

type answer[V any] struct {
	value   V
	known   bool
	expires time.Time
}

// NewCache returns an empty cache of max answers.
func NewCache[K comparable, V any](max int) *Cache[K, V] {
	return &Cache[K, V]{max: max, now: time.Now, answers: make(map[K]answer[V])}
}

// Get returns the answer for k: the value and whether there is one, or fresh
// false if nothing is remembered or for too long. What was remembered too long
// is returned all the same.
func (c *Cache[K, V]) Get(k K) (value V, known, fresh bool) {
	c.mu.RLock()
	a, ok := c.answers[k]
	c.mu.RUnlock()
	return a.value, a.known, ok && c.now().Before(a.expires)
}

// Put remembers an answer; value counts only if it is known. When the cache is
// full some other answer goes.
func (c *Cache[K, V]) Put(k K, value V, known bool) {
	lasts := KnownFor
	if !known {
		var none V
		value, lasts = none, UnknownFor
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.answers[k]; !ok && len(c.answers) >= c.max {
		for other := range c.answers {
			delete(c.answers, other)
			break
		}
	}
	c.answers[k] = answer[V]{value, known, c.now().Add(lasts)}
}

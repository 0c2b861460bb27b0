package service

import (
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// price is the kind of token that an operation costs.
type price uint8

const (
	talk   price = iota // something is said
	meet                // a room is made, somebody is brought in or spoken to for the first time
	change              // any other change
	read                // something is looked up
	search
	prices
)

// rates are tokens per second, and how many can be saved up, in proportion to
// Config.Rate. A person is far below them. A client that comes back opens up to
// 256 rooms and reads a page of each.
var rates = [prices]struct{ perSecond, burst float64 }{
	talk:   {1, 10},
	meet:   {0.05, 1},
	change: {0.25, 2.5},
	read:   {5, 50},
	search: {0.25, 2},
}

// bucket holds tokens. The zero value is full.
type bucket struct {
	tokens float64
	at     time.Time // when there were so many
}

// take takes a token. If there is none it returns how long it takes until there
// is.
func (b *bucket) take(now time.Time, perSecond, burst float64) time.Duration {
	if b.at.IsZero() {
		b.tokens, b.at = burst, now
	}
	b.tokens = min(burst, b.tokens+max(now.Sub(b.at).Seconds(), 0)*perSecond)
	b.at = now
	if b.tokens < 1 {
		return time.Duration((1 - b.tokens) / perSecond * float64(time.Second))
	}
	b.tokens--
	return 0
}

// charge takes a token of the user's, or returns ErrRate with the time to wait.
func (u *user) charge(s *Service, p price) error {
	if s.cfg.Rate < 0 {
		return nil
	}
	r := rates[p]
	u.mu.Lock()
	defer u.mu.Unlock()
	// At least one token must fit, or nothing could ever be done.
	wait := u.rates[p].take(time.Now(), r.perSecond*s.cfg.Rate, max(r.burst*s.cfg.Rate, 1))
	if wait > 0 {
		return &chatproto.Error{Code: chatproto.CodeRate, RetryAfter: wait}
	}
	return nil
}

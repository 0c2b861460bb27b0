package export

import (
	"context"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
)

// Calls that nobody may interfere with until they have come again (intent.go).

// undecided is a call of another process of which it is not known whether it was
// executed. Others that change the same wait until done is closed.
type undecided struct {
	on      []ident
	done    chan struct{}
	expired bool // the client did not come in time; guarded by Export.mu
}

// await returns when no call is undecided about what c changes.
func (e *Export) awaitDecided(ctx context.Context, c *change) error {
	for i := range c.touched {
		for {
			e.mu.Lock()
			list := e.undecided[c.touched[i].n.id]
			e.mu.Unlock()
			if len(list) == 0 {
				break
			}
			e.reached("waits")
			select {
			case <-list[0].done:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// holdUndecided makes others wait for the calls of a session that have begun a change.
func (s *Session) holdUndecided(calls map[rpc.Dep][]byte) {
	e := s.e
	for d, note := range calls {
		var i intent
		if len(note) == 0 || rpc.Decode(note, &i) != nil {
			continue
		}
		u := &undecided{on: []ident{i.on}, done: make(chan struct{})}
		if i.to != (ident{}) && i.to != i.on {
			u.on = append(u.on, i.to)
		}
		s.undecided[d] = u
		e.mu.Lock()
		for _, id := range u.on {
			e.undecided[id] = append(e.undecided[id], u)
		}
		e.mu.Unlock()
	}
	if len(s.undecided) > 0 {
		s.giveUp = time.AfterFunc(decideWithin, func() { s.letGo(nil) })
	}
}

// letGo lets others go on that wait for a call, or with nil for any.
func (s *Session) letGo(d *rpc.Dep) {
	s.mu.Lock()
	var calls []*undecided
	for dep, u := range s.undecided {
		if d == nil || dep == *d {
			calls = append(calls, u)
		}
	}
	s.mu.Unlock()
	e := s.e
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, u := range calls {
		select {
		case <-u.done:
			continue
		default:
		}
		u.expired = d == nil
		close(u.done)
		for _, id := range u.on {
			if list := without(e.undecided[id], u); len(list) > 0 {
				e.undecided[id] = list
			} else {
				delete(e.undecided, id)
			}
		}
	}
}

func without(list []*undecided, u *undecided) (rest []*undecided) {
	for _, other := range list {
		if other != u {
			rest = append(rest, other)
		}
	}
	return rest
}

// expired reports whether others have been let go on before a call came again.
func (s *Session) expired(d rpc.Dep) bool {
	s.mu.Lock()
	u := s.undecided[d]
	s.mu.Unlock()
	if u == nil {
		return false
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	return u.expired
}

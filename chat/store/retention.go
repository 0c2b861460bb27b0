package store

import (
	"context"
	"database/sql/driver"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

const (
	trimStep  = 256                 // entries that one transaction removes at most
	sweepTime = time.Minute         // between two looks for entries that are too old
	spentFor  = 60 * 24 * time.Hour // how long the id of a removed entry stays known
	maxAge    = 100 * 365 * 24 * time.Hour
)

// SetRetention sets how much of a room is kept. Only the owner may. What is too
// much goes bit by bit.
func (s *Store) SetRetention(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.SetRetentionReq) error {
	keep := &Retention{Count: min(req.Count, maxSeq), Age: time.Duration(min(req.Age, uint64(maxAge/time.Second))) * time.Second}
	err := s.do(ctx, 0, func(b *batch) error {
		r, err := b.room(user, id)
		if err != nil {
			return err
		}
		if r.owner != user {
			return chatproto.ErrNotAllowed
		}
		r = r.clone()
		r.keep = keep
		b.exec("UPDATE rooms SET keep_count = ?, keep_age = ? WHERE id = ?", keep.Count, int64(keep.Age/time.Second), uint64(id))
		b.put(r)
		return nil
	})
	return err
}

// retention returns what holds for r.
func (s *Store) retention(r *room) Retention {
	if r.keep != nil {
		return *r.keep
	}
	return s.cfg.Retain
}

// trim removes what the retention by count leaves over from the rooms that the
// batch has changed. A room that has far too much gets rid of it in steps, each
// in a batch of its own.
func (b *batch) trim() {
	budget := uint64(trimStep)
	for id := range b.touched {
		r := b.s.own.rooms[id]
		count := b.s.retention(r).Count
		if count == 0 || r.last+1-r.first <= count {
			continue
		}
		surplus := r.last + 1 - r.first - count
		n := min(surplus, budget)
		b.remove(r, r.first+n)
		if budget -= n; n < surplus {
			b.s.again(id)
		}
	}
}

// again has the writer come back to a room in a later batch.
func (s *Store) again(id chatproto.RoomID) {
	c := &change{done: make(chan struct{}), run: func(b *batch) error {
		if s.own.rooms[id] != nil {
			b.touched[id] = struct{}{}
		}
		return nil
	}}
	_ = s.queue.add(c) // closed: it is done after the next start
}

// remove removes the entries of r before first.
func (b *batch) remove(r *room, first uint64) {
	list, err := b.removable(r, first)
	if b.fail(err) != nil {
		return
	}
	for i := range list {
		b.forget(&list[i])
	}
	b.exec("DELETE FROM messages WHERE key >= ? AND key < ?", keyOf(r.id, 0), keyOf(r.id, first))
	b.exec("UPDATE rooms SET first = ?, last = ? WHERE id = ?", first, r.last, uint64(r.id))
	r = r.clone()
	r.first = first
	b.put(r)
	b.apply = append(b.apply, func() { r.members.recount(first) })
}

// recount makes unknown what is unread where entries that may have counted are
// gone. Store.mu is held.
func (m *members) recount(first uint64) {
	for _, reader := range m.by {
		if reader.read+1 < first {
			reader.unread = unknown
		}
	}
}

// removed is an entry that is about to go.
type removed struct {
	sender int64
	place  driver.Value
	target driver.Value
	m      chatproto.Message
}

func (b *batch) removable(r *room, first uint64) (list []removed, err error) {
	err = b.db.query(context.Background(), `SELECT key, id, kind, sender, target, time, place, body FROM messages
		WHERE key >= ? AND key < ?`, func(row []driver.Value) error {
		e := removed{sender: int64(num(row[3])), target: row[4], place: row[6]}
		e.m = chatproto.Message{Room: r.id, Seq: seqOf(num(row[0])), Kind: uint8(num(row[2])), Time: int64(num(row[5])), Body: blob(row[7])}
		copy(e.m.ID[:], blob(row[1]))
		list = append(list, e)
		return nil
	}, keyOf(r.id, 0), keyOf(r.id, first))
	return list, err
}

// forget takes an entry out of the index and remembers its id. The index is told
// exactly what it was given: it has no text of its own to go by.
func (b *batch) forget(e *removed) {
	if place, indexed := e.place.(int64); indexed {
		b.exec("INSERT INTO words(words, rowid, body, scope) VALUES ('delete', ?, ?, ?)",
			place, string(e.m.Body), scope(e.m.Room, e.sender, place))
		b.exec("DELETE FROM places WHERE place = ?", place)
	}
	b.exec("INSERT OR REPLACE INTO spent(sender, id, message, kind, target, time, digest, until) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		e.sender, e.m.ID[:], keyOf(e.m.Room, e.m.Seq), e.m.Kind, e.target, e.m.Time, digest(e.m.Body), b.now+spentFor.Microseconds())
}

// sweep removes from time to time what is too old, until ctx ends.
func (s *Store) sweep(ctx context.Context) {
	defer close(s.swept)
	ticker := time.NewTicker(sweepTime)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if err := s.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("chat: old entries stay", "err", err)
		}
	}
}

// sweepOnce removes what is too old now.
func (s *Store) sweepOnce(ctx context.Context) error {
	err := s.do(ctx, 0, func(b *batch) error {
		b.dropOldMail()
		b.exec("DELETE FROM spent WHERE (sender, id) IN (SELECT sender, id FROM spent WHERE until < ? LIMIT ?)", b.now, trimStep)
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.RLock()
	var aged []*room
	for _, r := range s.seen.rooms {
		keep := s.retention(r)
		if keep.Age > 0 || keep.Count > 0 {
			aged = append(aged, r)
		}
	}
	s.mu.RUnlock()
	for _, r := range aged {
		for {
			more, err := s.trimRoom(ctx, r.id)
			if err != nil {
				return err
			}
			if !more {
				break
			}
		}
	}
	return nil
}

// trimRoom removes a step's worth of what is too old or too much in a room, and
// reports whether there is more of it.
func (s *Store) trimRoom(ctx context.Context, id chatproto.RoomID) (more bool, err error) {
	s.mu.RLock()
	r := s.seen.rooms[id]
	s.mu.RUnlock()
	if r == nil {
		return false, nil
	}
	keep := s.retention(r)
	first := r.first
	if keep.Count > 0 && r.last+1-r.first > keep.Count {
		first = min(r.last+1-keep.Count, r.first+trimStep)
	}
	if keep.Age > 0 {
		cutoff := s.cfg.Now().Add(-keep.Age).UnixMicro()
		old, err := s.firstYoung(ctx, r, cutoff)
		if err != nil {
			return false, err
		}
		first = max(first, old)
	}
	if first == r.first {
		return false, nil
	}
	err = s.do(ctx, 0, func(b *batch) error {
		if r := s.own.rooms[id]; r != nil && r.first < first && s.retention(r) == keep {
			b.remove(r, first)
		}
		return b.failed
	})
	return true, err
}

// firstYoung returns the sequence number of the first entry that is not older
// than cutoff, at most trimStep entries on.
func (s *Store) firstYoung(ctx context.Context, r *room, cutoff int64) (first uint64, err error) {
	first = r.first
	err = s.read(ctx, func(db *conn) error {
		return db.query(ctx, "SELECT key, time FROM messages WHERE key >= ? AND key <= ? ORDER BY key LIMIT ?", func(row []driver.Value) error {
			if int64(num(row[1])) >= cutoff {
				return errEnough
			}
			first = seqOf(num(row[0])) + 1
			return nil
		}, keyOf(r.id, r.first), keyOf(r.id, r.last), trimStep)
	})
	return first, err
}

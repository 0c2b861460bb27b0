package local

import (
	"database/sql"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// MaxQueued is how many messages may wait in one state's outbox.
const MaxQueued = 10_000

// Queued is a message that waits in the outbox.
type Queued struct {
	N      int64            // rises in the order in which messages were put in
	Room   chatproto.RoomID // 0: a direct message
	Peer   string           // to whom a direct message goes
	ID     chatproto.ID
	Kind   uint8 // chatproto.KindText or KindAction, or KindTopic in sealed rooms
	Text   string
	Sent   int64  // microseconds since 1970 UTC
	Seal   bool   // it goes out sealed or not at all
	Epoch  uint64 // key epoch of Sealed
	Sealed []byte // Text sealed; nil: not yet, or not to be
}

// Enqueue puts a message into the outbox and sets its N. It is on the disk when
// Enqueue returns. ErrFull if too many wait.
func (s *State) Enqueue(q *Queued) error {
	return s.change(s.db, func(tx *sql.Tx) error {
		var waiting int
		if err := tx.QueryRow("SELECT count(*) FROM outbox").Scan(&waiting); err != nil {
			return err
		}
		if waiting >= MaxQueued {
			return ErrFull
		}
		r, err := tx.Exec("INSERT INTO outbox (owner, room, peer, id, kind, text, sent, seal, epoch, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			s.owner, int64(q.Room), q.Peer, q.ID[:], q.Kind, q.Text, q.Sent, q.Seal, int64(q.Epoch), q.Sealed)
		if err != nil {
			return err
		}
		q.N, err = r.LastInsertId()
		return err
	})
}

// SetSealed keeps what the text of a message was sealed to, so that it is sent
// again as the same bytes.
func (s *State) SetSealed(n int64, epoch uint64, sealed []byte) error {
	return s.change(s.db, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE outbox SET epoch = ?, sealed = ? WHERE n = ?", int64(epoch), sealed, n)
		return err
	})
}

// Dequeue removes a message that was acknowledged or refused for good. Should
// the machine lose its power right then it is sent once more, under the same
// id.
func (s *State) Dequeue(n int64) error {
	return s.change(s.lazy, func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM outbox WHERE n = ?", n)
		return err
	})
}

// Adopt takes over what dead programs left in the outbox and returns it in
// order.
func (s *State) Adopt() (adopted []Queued, err error) {
	err = s.locked(func() error {
		owners, err := s.owners()
		if err != nil {
			return err
		}
		for _, owner := range owners {
			dead, release := s.dead(owner)
			if !dead {
				continue
			}
			more, err := s.inherit(owner)
			release()
			if err != nil {
				return err
			}
			adopted = append(adopted, more...)
		}
		return nil
	})
	return adopted, err
}

// owners returns who else has messages in the outbox, the oldest message's
// owner first.
func (s *State) owners() ([]string, error) {
	rows, err := s.db.Query("SELECT owner FROM outbox WHERE owner <> ? GROUP BY owner ORDER BY min(n)", s.owner)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var owners []string
	for rows.Next() {
		var owner string
		if err := rows.Scan(&owner); err != nil {
			return nil, err
		}
		owners = append(owners, owner)
	}
	return owners, rows.Err()
}

// inherit makes the rows of another owner this one's.
func (s *State) inherit(owner string) (queued []Queued, err error) {
	err = s.change(s.db, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT n, room, peer, id, kind, text, sent, seal, epoch, sealed FROM outbox WHERE owner = ? ORDER BY n", owner)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			q, err := scanQueued(rows)
			if err != nil {
				return err
			}
			queued = append(queued, q)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		_, err = tx.Exec("UPDATE outbox SET owner = ? WHERE owner = ?", s.owner, owner)
		return err
	})
	return queued, err
}

func scanQueued(rows *sql.Rows) (q Queued, err error) {
	var room, epoch int64
	var id []byte
	err = rows.Scan(&q.N, &room, &q.Peer, &id, &q.Kind, &q.Text, &q.Sent, &q.Seal, &epoch, &q.Sealed)
	q.Room, q.Epoch = chatproto.RoomID(room), uint64(epoch)
	copy(q.ID[:], id)
	return q, err
}

package local

import (
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/query"
)

// Entry is an entry of a sealed room's log as this device could open it.
type Entry struct {
	Room     chatproto.RoomID
	Seq      uint64
	ID       chatproto.ID
	Kind     uint8 // of what was sealed, for sealed entries
	From     string
	Target   string
	Time     int64 // server's clock, microseconds since 1970 UTC
	Sent     int64
	Device   chatproto.DeviceID
	Text     string
	Closed   uint8 // Opened, NoKey or Refused
	Warnings []string
}

// Values of Entry.Closed.
const (
	Opened  uint8 = 0
	NoKey   uint8 = 1 // this device has no key for it; later it may have
	Refused uint8 = 2 // not genuine
)

// Keep keeps entries, all or none. One that is kept already stays as it is,
// unless it could not be opened then and can be now.
func (s *State) Keep(entries ...Entry) error {
	return s.change(s.db, func(tx *sql.Tx) error {
		for i := range entries {
			if err := keep(tx, &entries[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func keep(tx *sql.Tx, e *Entry) error {
	warnings, err := json.Marshal(e.Warnings)
	if err != nil {
		return err
	}
	if e.Closed == Opened {
		if _, err := tx.Exec("DELETE FROM entries WHERE room = ? AND seq = ? AND closed = 1", int64(e.Room), int64(e.Seq)); err != nil {
			return err
		}
	}
	_, err = tx.Exec(`INSERT OR IGNORE INTO entries (room, seq, id, kind, sender, target, time, sent, device, text, closed, warnings)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		int64(e.Room), int64(e.Seq), e.ID[:], e.Kind, e.From, e.Target, e.Time, e.Sent, e.Device[:], e.Text, e.Closed, string(warnings))
	return err
}

const entryColumns = "e.n, e.room, e.seq, e.id, e.kind, e.sender, e.target, e.time, e.sent, e.device, e.text, e.closed, e.warnings"

// Entry returns an entry that is kept, nil if it is not.
func (s *State) Entry(room chatproto.RoomID, seq uint64) (*Entry, error) {
	found, _, err := s.entries("SELECT "+entryColumns+" FROM entries e WHERE room = ? AND seq = ?", int64(room), int64(seq))
	if len(found) == 0 {
		return nil, err
	}
	return &found[0], err
}

// History returns the newest n entries of a room before a sequence number (0:
// all), in the order of their sequence numbers.
func (s *State) History(room chatproto.RoomID, before uint64, n int) ([]Entry, error) {
	if before == 0 {
		before = 1 << 62
	}
	found, _, err := s.entries("SELECT "+entryColumns+" FROM entries e WHERE room = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
		int64(room), int64(min(before, 1<<62)), n)
	slices.Reverse(found)
	return found, err
}

// After returns the first n entries of a room after a sequence number that are
// kept, in order.
func (s *State) After(room chatproto.RoomID, after uint64, n int) ([]Entry, error) {
	found, _, err := s.entries("SELECT "+entryColumns+" FROM entries e WHERE room = ? AND seq > ? ORDER BY seq LIMIT ?",
		int64(room), int64(min(after, 1<<62)), n)
	return found, err
}

// Topic returns the newest topic of a room, "" if none is kept.
func (s *State) Topic(room chatproto.RoomID) (string, error) {
	var topic string
	err := s.db.QueryRow("SELECT text FROM entries WHERE room = ? AND kind = ? AND closed = 0 ORDER BY seq DESC LIMIT 1",
		int64(room), chatproto.KindTopic).Scan(&topic)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return topic, err
}

// Last returns the highest sequence number of a room that is kept, 0 if none.
func (s *State) Last(room chatproto.RoomID) (uint64, error) {
	var last sql.NullInt64
	err := s.db.QueryRow("SELECT max(seq) FROM entries WHERE room = ?", int64(room)).Scan(&last)
	return uint64(last.Int64), err
}

// Position is where a search goes on. The zero value begins with the newest.
type Position struct{ Time, N int64 }

// Search returns up to limit texts that match q in any of the rooms, newest
// first, and for each where to go on after it. q.In is not looked at.
func (s *State) Search(q query.Query, rooms []chatproto.RoomID, from Position, limit int) ([]Entry, []Position, error) {
	where := []string{"e.kind IN (?, ?)", "e.closed = 0"}
	args := []any{chatproto.KindText, chatproto.KindAction}
	and := func(condition string, values ...any) {
		where = append(where, condition)
		args = append(args, values...)
	}
	ids := []any{0} // no room has this number
	for _, r := range rooms {
		ids = append(ids, int64(r))
	}
	and("e.room IN (?"+strings.Repeat(", ?", len(ids)-1)+")", ids...)
	if from != (Position{}) {
		and("(e.time, e.n) < (?, ?)", from.Time, from.N)
	}
	if q.From != "" {
		and("e.sender = ?", q.From)
	}
	if !q.After.IsZero() {
		and("e.time >= ?", q.After.UnixMicro())
	}
	if !q.Before.IsZero() {
		and("e.time < ?", q.Before.UnixMicro())
	}
	table := "entries e"
	if match := fts(q.Terms); match != "" {
		table = "words JOIN entries e ON e.n = words.rowid"
		and("words MATCH ?", match)
	}
	args = append(args, limit)
	return s.entries("SELECT "+entryColumns+" FROM "+table+" WHERE "+strings.Join(where, " AND ")+
		" ORDER BY e.time DESC, e.n DESC LIMIT ?", args...)
}

// fts writes terms in FTS5's language: each is a phrase, and all must occur.
func fts(terms []string) string {
	quoted := make([]string, len(terms))
	for i, t := range terms {
		quoted[i] = `"` + strings.ReplaceAll(t, `"`, `""`) + `"`
	}
	return strings.Join(quoted, " ")
}

func (s *State) entries(query string, args ...any) ([]Entry, []Position, error) {
	rows, err := s.db.Query(query, args...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	var found []Entry
	var at []Position
	for rows.Next() {
		var e Entry
		var n, room, seq int64
		var id, device []byte
		var warnings string
		err := rows.Scan(&n, &room, &seq, &id, &e.Kind, &e.From, &e.Target, &e.Time, &e.Sent, &device, &e.Text, &e.Closed, &warnings)
		if err == nil {
			err = json.Unmarshal([]byte(warnings), &e.Warnings)
		}
		if err != nil {
			return nil, nil, err
		}
		e.Room, e.Seq = chatproto.RoomID(room), uint64(seq)
		copy(e.ID[:], id)
		copy(e.Device[:], device)
		found, at = append(found, e), append(at, Position{e.Time, n})
	}
	return found, at, rows.Err()
}

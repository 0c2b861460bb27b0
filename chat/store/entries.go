package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"fmt"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// countable reports whether an entry of the kind counts as unread.
func countable(kind uint8) bool { return kind <= chatproto.KindSealed }

// searchable reports whether the server can look into an entry of the kind.
func searchable(kind uint8) bool {
	return kind == chatproto.KindText || kind == chatproto.KindAction
}

// eraBits is how many low bits of a place its era leaves out.
const eraBits = 18

// scope is what the index holds of an entry beside its text: words for its room,
// its sender and its era.
func scope(room chatproto.RoomID, sender, place int64) string {
	return fmt.Sprintf("r%d u%d e%d", room, sender, place>>eraBits)
}

const (
	insertMessage = "INSERT INTO messages(key, sender, id, kind, target, time, sent, place, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
	insertPlace   = "INSERT INTO places(place, message, time) VALUES (?, ?, ?)"
	insertWords   = "INSERT INTO words(rowid, body, scope) VALUES (?, ?, ?)"
)

// append adds m to the log of r, a room that the caller has just cloned, and
// fills in sequence number and time. The caller puts r afterwards and adds c,
// which append completes, to the batch.
func (b *batch) append(r *room, m chatproto.Message, c *Change) {
	r.last++
	m.Room, m.Seq, m.Time = r.id, r.last, b.now
	m.Body = bytes.Clone(m.Body) // the caller's lasts no longer than its call
	sender := b.user(m.From)
	var place any
	if searchable(m.Kind) {
		b.s.place++
		place = b.s.place
		b.exec(insertPlace, place, keyOf(r.id, m.Seq), m.Time)
		b.exec(insertWords, place, string(m.Body), scope(r.id, sender, b.s.place))
	}
	b.exec(insertMessage, keyOf(r.id, m.Seq), sender, m.ID[:], m.Kind, b.userOrNull(m.Target), m.Time, m.Sent, place, bytesOf(m.Body))
	c.Room, c.Message = r.id, m
	if countable(m.Kind) {
		readers := r.members
		b.apply = append(b.apply, func() { readers.unreadOneMore(m.From) })
	}
}

// unreadOneMore counts a message of from. Store.mu is held.
func (m *members) unreadOneMore(from string) {
	for name, reader := range m.by {
		if name != from && reader.unread >= 0 && reader.unread < chatproto.MaxUnread {
			reader.unread++
		}
	}
}

// bytesOf makes an empty blob of nil, which the database would take for NULL.
func bytesOf(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// entry is what a repeated id is compared with.
type entry struct {
	room   chatproto.RoomID // 0: any
	kind   uint8
	target string
	body   []byte
}

// digest stands for a body whose entry is no longer kept.
func digest(body []byte) []byte {
	sum := sha256.Sum256(body)
	return sum[:16]
}

const (
	selectByID = "SELECT key, kind, target, time, body FROM messages WHERE sender = ? AND id = ?"
	selectGone = "SELECT message, kind, target, time, digest FROM spent WHERE sender = ? AND id = ?"
)

// repeated looks for an entry that user has made with id. If it is e, its key
// and time are returned; if it is another one, ErrOtherID; if there is none,
// key is 0. The entries themselves go with the retention, their ids stay known
// for spentFor longer, so that a client which comes back late is not heard
// twice.
func (b *batch) repeated(user string, id chatproto.ID, e entry) (key uint64, time int64, err error) {
	sender, known := b.s.ids[user]
	if !known {
		return 0, 0, nil
	}
	same := false
	found := func(isBody func([]byte) bool) func(row []driver.Value) error {
		return func(row []driver.Value) error {
			key, time = num(row[0]), int64(num(row[3]))
			same = (e.room == 0 || roomOf(key) == e.room) && uint8(num(row[1])) == e.kind &&
				b.s.nameOf(row[2]) == e.target && isBody(blob(row[4]))
			return errEnough
		}
	}
	ctx := context.Background()
	err = b.db.query(ctx, selectByID, found(func(body []byte) bool { return bytes.Equal(body, e.body) }), sender, id[:])
	if err == nil && key == 0 {
		err = b.db.query(ctx, selectGone, found(func(sum []byte) bool { return bytes.Equal(sum, digest(e.body)) }), sender, id[:])
	}
	if err != nil {
		return 0, 0, b.fail(err)
	}
	if key != 0 && !same {
		return 0, 0, chatproto.ErrOtherID
	}
	return key, time, nil
}

// nameOf returns the name of a user's number, or "" for NULL. It is for the
// writer.
func (s *Store) nameOf(v driver.Value) string { return nameIn(s.names, v) }

// nameIn returns the name that stands for v in names.
func nameIn(names []string, v driver.Value) string {
	id, _ := v.(int64)
	if id < 1 || id > int64(len(names)) {
		return ""
	}
	return names[id-1]
}

// Say stores what user says in a room. An id that the user has used for the same
// thing before gives the first result, stored once.
func (s *Store) Say(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.SayReq) (res chatproto.SayRes, err error) {
	if err := checkSay(req); err != nil {
		return res, err
	}
	err = s.do(ctx, len(req.Body), func(b *batch) error {
		key, time, err := b.repeated(user, req.ID, entry{room: id, kind: req.Kind, body: req.Body})
		if err != nil || key != 0 {
			res = chatproto.SayRes{Seq: seqOf(key), Time: time}
			return err
		}
		r, err := b.room(user, id)
		if err != nil {
			return err
		}
		if err := mayCarry(r, req); err != nil {
			return err
		}
		r = r.clone()
		var c Change
		b.append(r, chatproto.Message{ID: req.ID, Kind: req.Kind, From: user, Sent: req.Sent, Body: req.Body}, &c)
		b.put(r)
		b.changes = append(b.changes, c)
		res = chatproto.SayRes{Seq: c.Message.Seq, Time: c.Message.Time}
		return nil
	})
	if err != nil {
		return chatproto.SayRes{}, err
	}
	return res, nil
}

// checkSay checks what can be checked without knowing the room.
func checkSay(req *chatproto.SayReq) error {
	switch req.Kind {
	case chatproto.KindText, chatproto.KindAction:
		return chatproto.CheckText(string(req.Body), chatproto.MaxText)
	case chatproto.KindSealed:
		if len(req.Body) == 0 || len(req.Body) > chatproto.MaxBody {
			return chatproto.ErrText
		}
		return nil
	}
	return chatproto.ErrNotAllowed
}

// mayCarry checks that req is of a kind that belongs into the room, and in a
// sealed one that it is sealed with a key that is still good.
func mayCarry(r *room, req *chatproto.SayReq) error {
	if r.last >= maxSeq {
		return chatproto.ErrFull
	}
	if sealed := r.kind == chatproto.RoomSealed; sealed != (req.Kind == chatproto.KindSealed) {
		return chatproto.ErrNotAllowed
	}
	if r.kind == chatproto.RoomSealed && (req.Epoch != r.epoch || r.epoch <= r.stale) {
		return chatproto.ErrStaleKey
	}
	return nil
}

// MarkRead moves the user's read mark up to seq, or to the newest entry if that
// comes first. moved is false if the mark was there already; it never goes back.
func (s *Store) MarkRead(ctx context.Context, user string, id chatproto.RoomID, seq uint64) (mark chatproto.Mark, moved bool, err error) {
	state, err := s.Room(ctx, user, id)
	if err != nil {
		return mark, false, err
	}
	if min(seq, state.Info.Last) <= state.Read {
		return chatproto.Mark{Room: id, Read: state.Read, Unread: state.Unread}, false, nil
	}
	err = s.do(ctx, 0, func(b *batch) error {
		mark, moved, err = b.markRead(user, id, seq)
		return err
	})
	if err != nil {
		return chatproto.Mark{}, false, err
	}
	return mark, moved, nil
}

func (b *batch) markRead(user string, id chatproto.RoomID, seq uint64) (mark chatproto.Mark, moved bool, err error) {
	r, err := b.room(user, id)
	if err != nil {
		return mark, false, err
	}
	m := r.members.by[user]
	read, marked := b.marks[m]
	if !marked {
		read = m.read
	}
	if seq = min(seq, r.last); seq > read {
		read, moved = seq, true
	}
	unread, exact, err := countUnread(b.db, r, read, b.s.ids[user], maxScan)
	if err != nil {
		return mark, false, b.fail(err)
	}
	mark = chatproto.Mark{Room: id, Read: read, Unread: uint32(unread)}
	if !moved {
		return mark, false, nil
	}
	if !exact {
		unread = unknown
	}
	b.exec("UPDATE members SET read = ? WHERE room = ? AND user = ?", read, uint64(id), b.user(user))
	b.marks[m] = read
	b.apply = append(b.apply, func() { m.read, m.unread = read, unread })
	return mark, true, nil
}

// maxScan is how many entries the writer looks at to count what is unread.
const maxScan = 1 << 16

const selectUnread = `SELECT count(*) FROM (
	SELECT 1 FROM (SELECT kind, sender FROM messages WHERE key > ? AND key <= ? LIMIT ?)
	WHERE kind <= 3 AND sender <> ? LIMIT ?)`

// countUnread counts the messages of others after read, up to MaxUnread. It
// looks at so many entries at most; exact is false if that may have been too
// few.
func countUnread(db *conn, r *room, read uint64, reader int64, most uint64) (n int64, exact bool, err error) {
	read = max(read, r.first-1)
	if read >= r.last {
		return 0, true, nil
	}
	n, _, err = db.number(selectUnread, keyOf(r.id, read), keyOf(r.id, r.last), most, reader, int64(chatproto.MaxUnread))
	return n, n >= chatproto.MaxUnread || r.last-read <= most, err
}

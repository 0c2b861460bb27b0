package store

import (
	"bytes"
	"context"
	"database/sql/driver"
	"encoding/binary"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Bounds of what is kept for sealed rooms beyond those of the protocol.
const (
	maxLists  = 4096                                        // versions of a user's list of devices
	maxEpochs = 1 << 20                                     // key epochs of a room
	maxBoxes  = chatproto.MaxMembers * chatproto.MaxDevices // boxes of a key epoch
	maxReply  = 256 << 10                                   // lists or headers in one reply, together, in bytes
	mailFor   = 24 * time.Hour                              // how long a letter waits
)

// PutDevices adds a version to the user's list of devices. The sealed rooms that
// the user is in need a new key epoch after it.
func (s *Store) PutDevices(ctx context.Context, user string, req *chatproto.PutDevicesReq) error {
	if len(req.List) == 0 || len(req.List) > chatproto.MaxList {
		return chatproto.ErrText
	}
	return s.do(ctx, len(req.List), func(b *batch) error {
		newest, _, err := b.db.number("SELECT max(version) FROM devices WHERE user = ?", b.s.ids[user])
		switch {
		case err != nil:
			return b.fail(err)
		case req.Version != uint64(newest)+1:
			return chatproto.ErrConflict
		case req.Version > maxLists:
			return chatproto.ErrFull
		}
		b.exec("INSERT INTO devices(user, version, list) VALUES (?, ?, ?)", b.user(user), req.Version, req.List)
		for id := range b.s.own.of[user] {
			if r := b.s.own.rooms[id]; r.kind == chatproto.RoomSealed {
				r = r.clone()
				b.outdate(r)
				b.put(r)
			}
		}
		return nil
	})
}

// Devices returns a page of the lists of req.User, which anybody may see.
func (s *Store) Devices(ctx context.Context, req *chatproto.GetDevicesReq) (res chatproto.GetDevicesRes, err error) {
	if !s.exists(req.User) {
		return res, chatproto.ErrNoUser
	}
	size := 0
	err = s.read(ctx, func(db *conn) error {
		return db.query(ctx, `SELECT list FROM devices WHERE user = (SELECT id FROM users WHERE name = ?) AND version >= ?
			ORDER BY version LIMIT ?`, func(row []driver.Value) error {
			list := blob(row[0])
			if size += len(list); len(res.Lists) == chatproto.MaxLists || len(res.Lists) > 0 && size > maxReply {
				res.More = true
				return errEnough
			}
			res.Lists = append(res.Lists, list)
			return nil
		}, req.User, clamp(req.From), chatproto.MaxLists+1)
	})
	return res, err
}

// clamp makes a number of a peer one that the database can hold.
func clamp(n uint64) uint64 { return min(n, 1<<62) }

// PutKeys begins a key epoch of a sealed room.
func (s *Store) PutKeys(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.PutKeysReq) error {
	size, err := checkKeys(req)
	if err != nil {
		return err
	}
	body := binary.LittleEndian.AppendUint64(nil, req.Epoch)
	return s.do(ctx, size, func(b *batch) error {
		key, _, err := b.repeated(user, req.ID, entry{room: id, kind: chatproto.KindKeys, body: body})
		if err != nil || key != 0 {
			return err
		}
		r, err := b.room(user, id)
		switch {
		case err != nil:
			return err
		case r.kind != chatproto.RoomSealed:
			return chatproto.ErrNotAllowed
		case req.Epoch != r.epoch+1:
			return chatproto.ErrConflict
		case req.Epoch > maxEpochs || r.last >= maxSeq:
			return chatproto.ErrFull
		}
		r = r.clone()
		r.epoch = req.Epoch
		b.exec("UPDATE rooms SET epoch = ? WHERE id = ?", r.epoch, uint64(r.id))
		b.exec("INSERT INTO epochs(room, epoch, boxes, header) VALUES (?, ?, 0, ?)", uint64(r.id), r.epoch, bytesOf(req.Header))
		b.addBoxes(r, req.Keys)
		c := Change{Info: true}
		b.append(r, chatproto.Message{ID: req.ID, Kind: chatproto.KindKeys, From: user, Body: body}, &c)
		b.put(r)
		b.changes = append(b.changes, c)
		return nil
	})
}

// checkKeys checks what can be checked without knowing the room.
func checkKeys(req *chatproto.PutKeysReq) (size int, err error) {
	size, err = checkBoxes(req.Keys, len(req.Header))
	for _, k := range req.Keys {
		if k.Epoch != req.Epoch {
			return size, chatproto.ErrConflict
		}
	}
	return size, err
}

// checkBoxes returns the size of a request's sealed keys and what comes with
// them.
func checkBoxes(keys []chatproto.SealedKey, size int) (int, error) {
	for _, k := range keys {
		if len(k.Box) == 0 || len(k.Box) > chatproto.MaxBox {
			return size, chatproto.ErrText
		}
		size += len(k.Box)
	}
	if len(keys) > chatproto.MaxSealed || size > chatproto.MaxKeysSize {
		return size, chatproto.ErrText
	}
	return size, nil
}

// addBoxes stores sealed keys for epochs that exist. A box that is there
// already stays.
func (b *batch) addBoxes(r *room, keys []chatproto.SealedKey) {
	added := make(map[uint64]int64)
	for _, k := range keys {
		added[k.Epoch] += b.insert("INSERT OR IGNORE INTO boxes(room, device, epoch, box) VALUES (?, ?, ?, ?)",
			uint64(r.id), k.Device[:], k.Epoch, k.Box)
	}
	for epoch, n := range added {
		b.exec("UPDATE epochs SET boxes = boxes + ? WHERE room = ? AND epoch = ?", n, uint64(r.id), epoch)
	}
}

// AddKeys adds boxes to key epochs that exist: CodeConflict if one does not.
func (s *Store) AddKeys(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.AddKeysReq) error {
	size, err := checkBoxes(req.Keys, 0)
	if err != nil {
		return err
	}
	return s.do(ctx, size, func(b *batch) error {
		r, err := b.room(user, id)
		if err != nil {
			return err
		}
		if r.kind != chatproto.RoomSealed {
			return chatproto.ErrNotAllowed
		}
		if err := b.mayAdd(r, req.Keys); err != nil {
			return err
		}
		b.addBoxes(r, req.Keys)
		return nil
	})
}

// mayAdd checks that the epochs of keys exist and have places for them.
func (b *batch) mayAdd(r *room, keys []chatproto.SealedKey) error {
	wanted := make(map[uint64]int64)
	for _, k := range keys {
		if k.Epoch == 0 || k.Epoch > r.epoch {
			return chatproto.ErrConflict
		}
		wanted[k.Epoch]++
	}
	for epoch, n := range wanted {
		boxes, _, err := b.db.number("SELECT boxes FROM epochs WHERE room = ? AND epoch = ?", uint64(r.id), epoch)
		if err != nil {
			return b.fail(err)
		}
		if boxes+n > maxBoxes {
			return chatproto.ErrFull
		}
	}
	return nil
}

// Keys returns a page of the key epochs of a sealed room, with the boxes of one
// device.
func (s *Store) Keys(ctx context.Context, user string, id chatproto.RoomID, req *chatproto.GetKeysReq) (res chatproto.GetKeysRes, err error) {
	r, err := s.roomFor(user, id)
	if err != nil {
		return res, err
	}
	if r.kind != chatproto.RoomSealed {
		return res, chatproto.ErrNotAllowed
	}
	size := 0
	err = s.read(ctx, func(db *conn) error {
		return db.query(ctx, `SELECT e.epoch, e.header, b.box FROM epochs e
			LEFT JOIN boxes b ON b.room = e.room AND b.epoch = e.epoch AND b.device = ?
			WHERE e.room = ? AND e.epoch >= ? AND e.epoch <= ? ORDER BY e.epoch LIMIT ?`, func(row []driver.Value) error {
			k := chatproto.KeyEpoch{Epoch: num(row[0]), Header: blob(row[1]), Box: blob(row[2])}
			if size += len(k.Header) + len(k.Box); len(res.Epochs) == chatproto.MaxEpochs || len(res.Epochs) > 0 && size > maxReply {
				res.More = true
				return errEnough
			}
			res.Epochs = append(res.Epochs, k)
			return nil
		}, req.Device[:], uint64(id), clamp(req.From), r.epoch, chatproto.MaxEpochs+1)
	})
	return res, err
}

// PutMail stores a letter between devices of the user, and sets its time. Its id
// is one of the user's letters' own; the same letter twice is stored once.
func (s *Store) PutMail(ctx context.Context, user string, mail *chatproto.Mail) error {
	if len(mail.Body) == 0 || len(mail.Body) > chatproto.MaxMail {
		return chatproto.ErrText
	}
	return s.do(ctx, len(mail.Body), func(b *batch) error {
		b.dropOldMail()
		if b.failed != nil {
			return b.failed
		}
		sender := b.s.ids[user]
		known, same, err := findMail(b.db, sender, mail)
		switch {
		case err != nil:
			return b.fail(err)
		case known && !same:
			return chatproto.ErrOtherID
		case known:
			return nil
		}
		waiting, _, err := b.db.number("SELECT count(*) FROM mail WHERE user = ?", sender)
		switch {
		case err != nil:
			return b.fail(err)
		case waiting >= chatproto.MaxMails:
			return chatproto.ErrFull
		}
		mail.Time = b.now
		b.exec("INSERT INTO mail(user, id, sender, target, time, body) VALUES (?, ?, ?, ?, ?, ?)",
			b.user(user), mail.ID[:], mail.From[:], mail.To[:], mail.Time, mail.Body)
		return nil
	})
}

// findMail looks for a letter with mail's id; if it is the same one, mail gets
// its time.
func findMail(db *conn, user int64, mail *chatproto.Mail) (known, same bool, err error) {
	err = db.query(context.Background(), "SELECT sender, target, time, body FROM mail WHERE user = ? AND id = ?", func(row []driver.Value) error {
		known = true
		same = bytes.Equal(blob(row[0]), mail.From[:]) && bytes.Equal(blob(row[1]), mail.To[:]) && bytes.Equal(blob(row[3]), mail.Body)
		if same {
			mail.Time = int64(num(row[2]))
		}
		return errEnough
	}, user, mail.ID[:])
	return known, same, err
}

// dropOldMail removes the letters that have waited long enough.
func (b *batch) dropOldMail() {
	b.exec("DELETE FROM mail WHERE time < ?", b.now-mailFor.Microseconds())
}

// DropMail removes a letter of the user's; that it is not there is no error.
func (s *Store) DropMail(ctx context.Context, user string, id chatproto.ID) error {
	return s.do(ctx, 0, func(b *batch) error {
		b.exec("DELETE FROM mail WHERE user = ? AND id = ?", b.s.ids[user], id[:])
		return nil
	})
}

// Mail returns the letters that wait for the user, oldest first.
func (s *Store) Mail(ctx context.Context, user string) (mails []chatproto.Mail, err error) {
	oldest := s.cfg.Now().Add(-mailFor).UnixMicro()
	err = s.read(ctx, func(db *conn) error {
		return db.query(ctx, `SELECT id, sender, target, time, body FROM mail
			WHERE user = (SELECT id FROM users WHERE name = ?) AND time >= ? ORDER BY n LIMIT ?`, func(row []driver.Value) error {
			m := chatproto.Mail{Time: int64(num(row[3])), Body: blob(row[4])}
			copy(m.ID[:], blob(row[0]))
			copy(m.From[:], blob(row[1]))
			copy(m.To[:], blob(row[2]))
			mails = append(mails, m)
			return nil
		}, user, oldest, chatproto.MaxMails)
	})
	return mails, err
}

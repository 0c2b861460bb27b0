package e2ee

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// Recovery returns the recovery key, to be printed and kept apart from all
// devices. Who has it is the user. ErrNotHolder on devices that do not hold it.
func (e *Engine) Recovery() (string, error) {
	seed, err := e.seed()
	if err != nil {
		return "", err
	}
	return printSeed(*seed), nil
}

// Recover enrols this device by the printed recovery key and makes it a holder.
// ErrRecovery: mistyped; ErrRecoveryOld: another user's, or replaced by a newer
// one. After an error of the connection it can be repeated.
func (e *Engine) Recover(ctx context.Context, srv Server, printed string) error {
	seed, err := parseSeed(printed)
	if err != nil {
		return err
	}
	for range 8 {
		err := e.recoverOnce(ctx, srv, seed)
		e.Retry()
		if !errors.Is(err, chatproto.ErrConflict) {
			return err
		}
	}
	return ErrBusy
}

func (e *Engine) recoverOnce(ctx context.Context, srv Server, seed hash) error {
	return e.transact(func(w *work) error {
		l, err := e.recovered(ctx, w, srv, seed)
		if err != nil {
			return err
		}
		if d := l.device(e.device.id); d == nil || !d.Holder && d.Revoked == 0 {
			if err := e.publishSelf(ctx, w, srv, l, seed); err != nil {
				return err
			}
		} else if d.Revoked != 0 {
			return ErrRevoked
		}
		w.drop(keyPending)
		return w.store(keySeed, &single{seed})
	})
}

// recovered pins the own lists, whose newest identity must be the seed's, and
// returns the newest.
func (e *Engine) recovered(ctx context.Context, w *work, srv Server, seed hash) (*deviceList, error) {
	p, err := w.pin(e.user)
	if err != nil {
		return nil, err
	}
	if p != nil {
		p, err = e.sync(ctx, w, srv, e.user)
	} else {
		var raws [][]byte
		if raws, err = fetchLists(ctx, srv, e.user, 1); err == nil {
			p, err = e.pinNew(w, e.user, raws)
		}
	}
	if err != nil {
		return nil, asRefusal(e.user, err)
	}
	if p.identity() != newIdentity(seed).pub {
		return nil, ErrRecoveryOld
	}
	return w.loadList(e.user, p.Version)
}

// publishSelf adds this device to the list, or makes it a holder there.
func (e *Engine) publishSelf(ctx context.Context, w *work, srv Server, l *deviceList, seed hash) error {
	p, err := w.pin(e.user)
	if err != nil {
		return err
	}
	next := *l
	next.Version, next.Prev, next.Devices = l.Version+1, p.List, slices.Clone(l.Devices)
	if d := next.device(e.device.id); d != nil {
		d.Holder = true
	} else {
		next.Devices = append(next.Devices, e.self(true))
	}
	if next.checkDevices() != nil || len(next.Devices) > maxListed {
		return ErrTooMany
	}
	raw, err := signList(&next, seed, nil)
	if err != nil {
		return err
	}
	if err := srv.PutDevices(ctx, next.Version, raw); err != nil {
		return err
	}
	_, err = e.sync(ctx, w, srv, e.user)
	return err
}

// Revoke ends one of the user's other devices: it is struck from the list, and
// all rooms that this device knows get new keys. If it held the recovery key, the
// identity is replaced and with it the recovery key: rotated tells that the new
// one is to be printed. Only on a holder of the recovery key. After an error of
// the connection it can be repeated. ErrNoSuch: no such device in use.
func (e *Engine) Revoke(ctx context.Context, srv Server, device chatproto.DeviceID) (rotated bool, err error) {
	seed, err := e.seed()
	if err != nil {
		return false, err
	}
	if device == e.device.id {
		return false, ErrNoSuch
	}
	err = e.publish(ctx, srv, func(l *deviceList) (*hash, *hash, error) {
		d := l.device(device)
		if d == nil {
			return nil, nil, ErrNoSuch
		}
		if d.Revoked != 0 {
			return nil, nil, errUnchanged
		}
		d.Revoked = e.now().UnixMicro()
		if !d.Holder {
			return seed, nil, nil
		}
		return e.rotate(l, seed)
	})
	if err != nil {
		return false, err
	}
	if rotated, err = e.finishRotation(ctx, srv); err != nil {
		return rotated, err
	}
	return rotated, e.renewAll(ctx, srv)
}

// finishRotation hands the keys of all rooms over to a recovery box that has
// come in force, and then forgets the seed before. It reports whether that was
// to do.
func (e *Engine) finishRotation(ctx context.Context, srv Server) (bool, error) {
	var next single
	var due bool
	find := func(w *work) error {
		have, err := w.load(keyNewSeed, &next)
		if !have || err != nil {
			return err
		}
		p, err := w.pin(e.user)
		due = err == nil && p != nil && p.identity() == newIdentity(next.Hash).pub
		return err
	}
	if err := e.transact(find); err != nil || !due {
		return false, err
	}
	id := newIdentity(next.Hash)
	if err := e.handOver(ctx, srv, id.boxName, id.boxPub); err != nil {
		return true, err
	}
	return true, e.transact(func(w *work) error {
		w.drop(keyNewSeed)
		return w.store(keySeed, &next)
	})
}

// rotate draws a new seed, which this device alone holds. It is stored before
// the list that brings it in force is published.
func (e *Engine) rotate(l *deviceList, old *hash) (*hash, *hash, error) {
	var next single
	err := e.transact(func(w *work) error {
		if have, err := w.load(keyNewSeed, &next); have || err != nil {
			return err
		}
		if _, err := io.ReadFull(e.random, next.Hash[:]); err != nil {
			return err
		}
		return w.store(keyNewSeed, &next)
	})
	for i := range l.Devices {
		d := &l.Devices[i]
		d.Holder = deviceID(d.Sign, d.Box) == e.device.id
	}
	return &next.Hash, old, err
}

// handOver seals the keys of all rooms that this device has to another box.
func (e *Engine) handOver(ctx context.Context, srv Server, to chatproto.DeviceID, pub hash) error {
	rooms, err := e.rooms()
	if err != nil {
		return err
	}
	for _, room := range rooms {
		err := e.catchUp(ctx, srv, room, math.MaxUint64)
		if err == nil {
			err = e.handOverRoom(ctx, srv, room, to, pub)
		}
		if err != nil && !errors.Is(err, chatproto.ErrNoRoom) {
			return err
		}
	}
	return nil
}

func (e *Engine) handOverRoom(ctx context.Context, srv Server, room chatproto.RoomID, to chatproto.DeviceID, pub hash) error {
	keys, err := e.sealHistory(room, to, pub)
	if err != nil {
		return err
	}
	return addKeys(ctx, srv, room, keys)
}

// rooms returns the rooms that this device knows.
func (e *Engine) rooms() ([]chatproto.RoomID, error) {
	all, err := e.kv.List(keyRooms)
	if err != nil {
		return nil, err
	}
	var rooms []chatproto.RoomID
	for key := range all {
		n, err := strconv.ParseUint(strings.TrimPrefix(key, keyRooms), 16, 64)
		if err != nil {
			return nil, err
		}
		rooms = append(rooms, chatproto.RoomID(n))
	}
	slices.Sort(rooms)
	return rooms, nil
}

// sealHistory seals the keys of a room's epochs, as far as they are known.
func (e *Engine) sealHistory(room chatproto.RoomID, to chatproto.DeviceID, pub hash) ([]chatproto.SealedKey, error) {
	all, err := e.kv.List(keyEpochs(room))
	if err != nil {
		return nil, err
	}
	var keys []chatproto.SealedKey
	for name, value := range all {
		var rec epochRecord
		if err := rpc.Decode(value, &rec); err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(name, keyEpochs(room)), 16, 64)
		if err != nil {
			return nil, err
		}
		if rec.Key == (hash{}) {
			continue
		}
		box, err := sealKey(e.random, rec.Key, pub)
		if err != nil {
			return nil, err
		}
		keys = append(keys, chatproto.SealedKey{Epoch: n, Device: to, Box: box})
	}
	slices.SortFunc(keys, func(a, b chatproto.SealedKey) int { return cmp.Compare(a.Epoch, b.Epoch) })
	return keys, nil
}

// sealedKeySize is the encoding of a SealedKey as this package makes them.
const sealedKeySize = 8 + 16 + 4 + 32 + 48

// addKeys adds boxes in as many requests as they need.
func addKeys(ctx context.Context, srv Server, room chatproto.RoomID, keys []chatproto.SealedKey) error {
	for batch := range slices.Chunk(keys, (chatproto.MaxKeysSize-64)/sealedKeySize) {
		if err := srv.AddKeys(ctx, room, batch); err != nil {
			return err
		}
	}
	return nil
}

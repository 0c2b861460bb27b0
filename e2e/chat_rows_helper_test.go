package e2e

import (
	"context"
	"database/sql"
	"path/filepath"
	"slices"
	"testing"

	_ "modernc.org/sqlite" // what a hostile server changes its database with

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// ask calls a method of an object that the listener's client holds, or says that
// it does.
func ask[Req, Res any](l *listener, object rpc.Ref, op *rpc.Op[Req, Res], req *Req) (*Res, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res := new(Res)
	_, err := rpc.CallWith(ctx, l.session.Peer(), op, req, res, rpc.Extra{Object: object})
	return res, chatproto.FromRPC(err)
}

func mustAsk[Req, Res any](l *listener, object rpc.Ref, op *rpc.Op[Req, Res], req *Req) *Res {
	l.t.Helper()
	res, err := ask(l, object, op, req)
	if err != nil {
		l.t.Fatalf("%s: %v", op.Name, err)
	}
	return res
}

func sayReq(text string) *chatproto.SayReq {
	return &chatproto.SayReq{ID: randomID(), Kind: chatproto.KindText, Body: []byte(text)}
}

// join makes the user a member of a public room.
func (l *listener) join(name string) *chatproto.RoomRes {
	l.t.Helper()
	return mustAsk(l, l.ref, chatproto.JoinRoom, &chatproto.JoinRoomReq{ID: randomID(), Name: name})
}

// create makes a room.
func (l *listener) create(name string, kind uint8, topic string) *chatproto.RoomRes {
	l.t.Helper()
	return mustAsk(l, l.ref, chatproto.CreateRoom, &chatproto.CreateRoomReq{ID: randomID(), Kind: kind, Name: name, Topic: topic})
}

// open asks for the reference of a room.
func (l *listener) open(room chatproto.RoomID) (rpc.Ref, error) {
	res, err := ask(l, l.ref, chatproto.OpenRoom, &chatproto.OpenRoomReq{Room: room})
	return res.Ref, err
}

// whisper says something to one user, with now only if the user is there.
func (l *listener) whisper(user, text string, now bool) (*chatproto.WhisperRes, error) {
	return ask(l, l.ref, chatproto.Whisper, &chatproto.WhisperReq{User: user, Now: now, Say: *sayReq(text)})
}

// snapshot asks how things stand.
func (l *listener) snapshot() *chatproto.SnapshotRes {
	l.t.Helper()
	return mustAsk(l, l.ref, chatproto.Snapshot, &chatproto.SnapshotReq{})
}

// log returns all that a room holds, by pages.
func (l *listener) log(room rpc.Ref) []chatproto.Message {
	l.t.Helper()
	var all []chatproto.Message
	for after := uint64(1); ; {
		page := mustAsk(l, room, chatproto.History, &chatproto.HistoryReq{After: after})
		if len(all) == 0 && page.First == 1 { // there is no "after 0"
			all = mustAsk(l, room, chatproto.History, &chatproto.HistoryReq{Before: 2}).Messages
		}
		all = append(all, page.Messages...)
		if len(page.Messages) == 0 || page.Messages[len(page.Messages)-1].Seq == page.Last {
			return all
		}
		after = page.Messages[len(page.Messages)-1].Seq
	}
}

// fence says something in the lobby and waits until the listeners have heard it,
// and so all that happened before.
func (l *listener) fence(text string, others ...*listener) {
	l.t.Helper()
	must(l.t, l.say(text))
	for _, o := range append(others, l) {
		o.await(text, isText(text))
	}
}

// got returns the events that have come, the first of them being number 1.
func (l *listener) got() []rpc.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func isGone(room chatproto.RoomID) func(rpc.Message) bool {
	return func(m rpc.Message) bool {
		e, ok := m.(*chatproto.RoomGone)
		return ok && e.Room == room
	}
}

// isNewRoom is true of the event that tells a user of a room.
func isNewRoom(room chatproto.RoomID) func(rpc.Message) bool {
	return func(m rpc.Message) bool {
		e, ok := m.(*chatproto.RoomState)
		return ok && e.Info.Room == room
	}
}

// present returns the state of a user in a snapshot.
func present(s *chatproto.SnapshotRes, user string) (state uint8, times int) {
	for _, p := range s.Users {
		if p.User == user {
			state = p.State
			times++
		}
	}
	return state, times
}

// doctor changes the database of a daemon that does not run, as a hostile server
// would.
func (w *chatWorld) doctor(change func(exec func(rows int64, query string, args ...any))) {
	w.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(w.dir, "state", "chat.db"))
	must(w.t, err)
	defer func() { must(w.t, db.Close()) }()
	change(func(rows int64, query string, args ...any) {
		w.t.Helper()
		res, err := db.Exec(query, args...)
		must(w.t, err)
		if n, err := res.RowsAffected(); err != nil || n != rows {
			w.t.Fatalf("%s: %d rows, %v", query, n, err)
		}
	})
}

// entryKey is where the database has an entry.
func entryKey(room chatproto.RoomID, seq uint64) int64 { return int64(room)<<40 | int64(seq) }

// texts returns what users said in a log, with who said it.
func texts(log []chatproto.Message) []string {
	var all []string
	for _, m := range log {
		if m.Kind <= chatproto.KindSealed {
			all = append(all, m.From+": "+string(m.Body))
		}
	}
	return all
}

// sameTexts fails unless two lists are the same.
func sameTexts(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, not %q", what, got, want)
	}
}

package store

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

func sealedReq(id chatproto.ID, epoch uint64) *chatproto.SayReq {
	return &chatproto.SayReq{ID: id, Kind: chatproto.KindSealed, Epoch: epoch, Body: []byte{0, 0xff, 1}}
}

func device(n byte) (d chatproto.DeviceID) { d[0] = n; return d }

// In a sealed room only sealed entries are said, under the newest key, and not
// after the circle of readers has changed.
func TestSealedRoom(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	s := c.s
	_, err := s.Create(background, "alice", &chatproto.CreateRoomReq{ID: c.next(), Kind: chatproto.RoomSealed, Name: "vault", Topic: "told"})
	c.want(chatproto.ErrNotAllowed, err)
	proof := []byte("signed")
	room, err := s.Create(background, "alice", &chatproto.CreateRoomReq{ID: c.next(), Kind: chatproto.RoomSealed, Name: "vault", Proof: proof})
	c.ok(err)
	say := func(user string, epoch uint64) error {
		_, err := s.Say(background, user, room, sealedReq(c.next(), epoch))
		return err
	}
	rekey := func(user string, epoch uint64) error {
		return s.PutKeys(background, user, room, &chatproto.PutKeysReq{
			ID: c.next(), Epoch: epoch, Header: fmt.Appendf(nil, "header %d", epoch),
			Keys: []chatproto.SealedKey{{Epoch: epoch, Device: device(1), Box: []byte{byte(epoch)}}},
		})
	}
	_, err = s.Say(background, "alice", room, c.text("plain"))
	c.want(chatproto.ErrNotAllowed, err)
	c.want(chatproto.ErrNotAllowed, s.SetTopic(background, "alice", room, &chatproto.SetTopicReq{ID: c.next(), Topic: "told"}))
	c.want(chatproto.ErrStaleKey, say("alice", 0))
	c.want(chatproto.ErrConflict, rekey("alice", 2))
	c.ok(rekey("alice", 1))
	c.want(chatproto.ErrConflict, rekey("alice", 1))
	c.ok(say("alice", 1))
	c.want(chatproto.ErrStaleKey, say("alice", 2))

	stale := func(what string, user string, epoch uint64) {
		t.Helper()
		if err := say(user, epoch); err == nil {
			t.Errorf("%s: the old key is still good", what)
		}
		c.ok(rekey(user, epoch+1))
		c.want(chatproto.ErrStaleKey, say(user, epoch))
		c.ok(say(user, epoch+1))
	}
	c.ok(s.Invite(background, "alice", room, &chatproto.MemberReq{ID: c.next(), User: "bob", Proof: proof}))
	stale("invite", "bob", 1)
	c.ok(s.PutDevices(background, "bob", &chatproto.PutDevicesReq{Version: 1, List: []byte("list")}))
	stale("devices", "alice", 2)
	c.ok(s.PutDevices(background, "eve", &chatproto.PutDevicesReq{Version: 1, List: []byte("list")}))
	c.ok(say("alice", 3)) // eve is not in the room
	c.ok(s.Remove(background, "alice", room, &chatproto.MemberReq{ID: c.next(), User: "bob", Proof: proof}))
	stale("remove", "alice", 3)
	c.ok(s.Invite(background, "alice", room, &chatproto.MemberReq{ID: c.next(), User: "bob"}))
	c.ok(s.Leave(background, "bob", room, &chatproto.LeaveReq{ID: c.next(), Proof: proof}))
	stale("leave", "alice", 4)

	log := c.log("alice", room)
	if !bytes.Equal(log[0].Body, proof) || log[1].Kind != chatproto.KindKeys || !bytes.Equal(log[1].Body, []byte{1, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("%+v", log[:2])
	}
	if got := c.found("alice", chatproto.SearchReq{}); len(got) != 0 {
		t.Errorf("the server finds %q in a sealed room", got)
	}
	var words int64
	c.ok(s.read(background, func(db *conn) (err error) {
		words, _, err = db.number("SELECT count(*) FROM places")
		return err
	}))
	if words != 0 {
		t.Errorf("%d entries of a sealed room are in the index", words)
	}
	plain := c.create("alice", "plain", chatproto.RoomPublic)
	_, err = s.Say(background, "alice", plain, sealedReq(c.next(), 0))
	c.want(chatproto.ErrNotAllowed, err)
	c.want(chatproto.ErrNotAllowed, s.PutKeys(background, "alice", plain, &chatproto.PutKeysReq{ID: c.next(), Epoch: 1}))
	c.want(chatproto.ErrNotAllowed, s.Invite(background, "alice", plain, &chatproto.MemberReq{ID: c.next(), User: "bob", Proof: proof}))
}

func TestKeys(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	s := c.s
	room := c.create("alice", "vault", chatproto.RoomSealed)
	box := func(epoch uint64, dev byte, text string) chatproto.SealedKey {
		return chatproto.SealedKey{Epoch: epoch, Device: device(dev), Box: []byte(text)}
	}
	add := func(keys ...chatproto.SealedKey) error {
		return s.AddKeys(background, "alice", room, &chatproto.AddKeysReq{Keys: keys})
	}
	c.want(chatproto.ErrConflict, add(box(1, 1, "x")))
	c.want(chatproto.ErrConflict, s.PutKeys(background, "alice", room, &chatproto.PutKeysReq{ID: c.next(), Epoch: 1, Keys: []chatproto.SealedKey{box(2, 1, "x")}}))
	c.want(chatproto.ErrText, s.PutKeys(background, "alice", room, &chatproto.PutKeysReq{ID: c.next(), Epoch: 1, Header: make([]byte, chatproto.MaxKeysSize), Keys: []chatproto.SealedKey{box(1, 1, "x")}}))
	c.want(chatproto.ErrText, add(box(1, 1, "")))
	c.want(chatproto.ErrText, add(box(1, 1, string(make([]byte, chatproto.MaxBox+1)))))
	header := bytes.Repeat([]byte("h"), 90<<10)
	for epoch := uint64(1); epoch <= 4; epoch++ {
		req := &chatproto.PutKeysReq{ID: c.next(), Epoch: epoch, Header: header, Keys: []chatproto.SealedKey{box(epoch, 1, "first"), box(epoch, 1, "again")}}
		c.ok(s.PutKeys(background, "alice", room, req))
		c.ok(s.PutKeys(background, "alice", room, req)) // sent again
	}
	c.ok(add(box(2, 2, "second"), box(2, 1, "other"), box(4, 2, "fourth")))
	c.ok(add(box(2, 2, "second again")))
	c.want(chatproto.ErrConflict, add(box(5, 1, "x")))
	c.want(chatproto.ErrConflict, add(box(0, 1, "x")))
	got := make(map[uint64]string)
	req := &chatproto.GetKeysReq{Device: device(2), From: 2}
	for pages := 0; ; pages++ {
		res, err := s.Keys(background, "alice", room, req)
		c.ok(err)
		for _, k := range res.Epochs {
			if k.Epoch != req.From || !bytes.Equal(k.Header, header) {
				t.Fatalf("epoch %d where %d should be", k.Epoch, req.From)
			}
			got[k.Epoch] = string(k.Box)
			req.From++
		}
		if !res.More {
			if pages == 0 {
				t.Error("all in one page")
			}
			break
		}
	}
	if fmt.Sprint(got) != "map[2:second 3: 4:fourth]" {
		t.Errorf("device 2 has %v", got)
	}
	res, err := s.Keys(background, "alice", room, &chatproto.GetKeysReq{Device: device(1), From: 2})
	if c.ok(err); string(res.Epochs[0].Box) != "first" {
		t.Errorf("a box was replaced by %q", res.Epochs[0].Box)
	}
	c.ok(s.read(background, func(db *conn) error {
		counted, _, err := db.number("SELECT sum(boxes) FROM epochs")
		there, _, _ := db.number("SELECT count(*) FROM boxes")
		if counted != 6 || there != 6 {
			t.Errorf("%d boxes counted, %d there; want 6", counted, there)
		}
		return err
	}))
	c.ok(s.do(background, 0, func(b *batch) error {
		b.exec("UPDATE epochs SET boxes = ? WHERE epoch = 3", maxBoxes)
		return nil
	}))
	c.want(chatproto.ErrFull, add(box(3, 9, "x")))
}

func TestDevices(t *testing.T) {
	c := script{t: t, s: open(t, Config{Users: func(name string) bool { return name != "nobody" }})}
	put := func(version uint64, list string) error {
		return c.s.PutDevices(background, "alice", &chatproto.PutDevicesReq{Version: version, List: []byte(list)})
	}
	c.want(chatproto.ErrConflict, put(0, "x"))
	c.want(chatproto.ErrConflict, put(2, "x"))
	c.want(chatproto.ErrText, put(1, ""))
	c.want(chatproto.ErrText, put(1, string(make([]byte, chatproto.MaxList+1))))
	for v := range uint64(20) {
		c.ok(put(v+1, fmt.Sprint("list ", v+1)))
		c.want(chatproto.ErrConflict, put(v+1, "other"))
	}
	get := func(user string, from uint64) (string, bool) {
		t.Helper()
		res, err := c.s.Devices(background, &chatproto.GetDevicesReq{User: user, From: from})
		c.ok(err)
		return fmt.Sprintf("%d %s", len(res.Lists), bytes.Join(res.Lists[:min(1, len(res.Lists))], nil)), res.More
	}
	for _, x := range []struct {
		user string
		from uint64
		want string
		more bool
	}{
		{"alice", 0, "16 list 1", true}, {"alice", 3, "16 list 3", true}, {"alice", 5, "16 list 5", false},
		{"alice", 20, "1 list 20", false}, {"alice", 21, "0 ", false}, {"alice", 1 << 63, "0 ", false}, {"bob", 0, "0 ", false},
	} {
		if got, more := get(x.user, x.from); got != x.want || more != x.more {
			t.Errorf("%s from %d: %q, %v", x.user, x.from, got, more)
		}
	}
	_, err := c.s.Devices(background, &chatproto.GetDevicesReq{User: "nobody"})
	c.want(chatproto.ErrNoUser, err)
}

func TestMail(t *testing.T) {
	clock := newClock()
	c := script{t: t, s: open(t, Config{Now: clock.now})}
	s := c.s
	letter := func(body string) *chatproto.Mail {
		return &chatproto.Mail{ID: c.next(), From: device(1), To: device(2), Body: []byte(body)}
	}
	first := letter("first")
	c.ok(s.PutMail(background, "alice", first))
	clock.add(time.Hour)
	again := *first
	again.Time = 0
	c.ok(s.PutMail(background, "alice", &again))
	if again.Time != first.Time || first.Time == 0 {
		t.Errorf("posted at %d, again at %d", first.Time, again.Time)
	}
	other := *first
	other.Body = []byte("other")
	c.want(chatproto.ErrOtherID, s.PutMail(background, "alice", &other))
	c.ok(s.PutMail(background, "bob", &other)) // ids are each user's own
	c.want(chatproto.ErrText, s.PutMail(background, "alice", letter("")))
	c.want(chatproto.ErrText, s.PutMail(background, "alice", letter(string(make([]byte, chatproto.MaxMail+1)))))
	for i := 1; i < chatproto.MaxMails; i++ {
		c.ok(s.PutMail(background, "alice", letter(fmt.Sprint(i))))
	}
	c.want(chatproto.ErrFull, s.PutMail(background, "alice", letter("too many")))
	mails, err := s.Mail(background, "alice")
	if c.ok(err); len(mails) != chatproto.MaxMails || string(mails[0].Body) != "first" || mails[0].ID != first.ID ||
		mails[0].From != first.From || mails[0].To != first.To || mails[0].Time != first.Time {
		t.Fatalf("%d letters, %+v", len(mails), mails[0])
	}
	c.ok(s.DropMail(background, "bob", mails[1].ID)) // not his
	c.ok(s.DropMail(background, "alice", mails[1].ID))
	c.ok(s.DropMail(background, "alice", mails[1].ID))
	if mails, err = s.Mail(background, "alice"); err != nil || len(mails) != chatproto.MaxMails-1 || string(mails[1].Body) != "2" {
		t.Errorf("%d letters, %v", len(mails), err)
	}
	clock.add(23*time.Hour + time.Minute)
	if mails, err = s.Mail(background, "alice"); err != nil || len(mails) != chatproto.MaxMails-2 {
		t.Errorf("%d letters after a day, %v", len(mails), err)
	}
	c.ok(s.PutMail(background, "alice", letter("after the first has gone")))
}

package chatproto

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// ops are the operations of the chat service.
func ops(t testing.TB) []*rpc.Info {
	var own []*rpc.Info
	for _, op := range rpc.Ops() {
		if op.Number>>8 == 2 {
			own = append(own, op)
		}
	}
	if len(own) < 25 {
		t.Fatalf("%d operations", len(own))
	}
	return own
}

// messages are all messages of the service: those of its operations and the
// bodies of its events.
func messages(t testing.TB) map[string]func() rpc.Message {
	all := make(map[string]func() rpc.Message)
	for _, op := range ops(t) {
		all[op.Name+" request"], all[op.Name+" reply"] = op.NewReq, op.NewRes
	}
	for kind := EventMessage; NewEventBody(kind) != nil; kind++ {
		all[fmt.Sprint("event ", kind)] = func() rpc.Message { return NewEventBody(kind) }
	}
	return all
}

// Every message comes back as it was sent, and nothing that is cut short or
// goes on decodes.
func TestMessages(t *testing.T) {
	for name, empty := range messages(t) {
		rpctest.CheckMessage(t, name, empty)
	}
}

// All fields cross the wire: what is set arrives.
func TestFieldsAreListed(t *testing.T) {
	for name, make := range messages(t) {
		in, out := make(), make()
		for seed := uint64(1); ; seed++ {
			if b, ok := rpctest.Sample(in, rand.New(rand.NewPCG(seed, 1))); ok && rpc.Decode(b, out) == nil {
				break
			}
		}
		if fmt.Sprintf("%v", in) != fmt.Sprintf("%v", out) {
			t.Errorf("%s: %v arrives as %v", name, in, out)
		}
	}
}

// The smallest size that a list states for its elements is not above the true
// one: otherwise a list of small elements would be refused.
func TestSmallestElements(t *testing.T) {
	for name, m := range map[string]rpc.Message{
		"messages": &HistoryRes{Messages: []Message{{Kind: KindText}}},
		"found":    &SearchRes{Messages: []Message{{Kind: KindText}}},
		"rooms":    &ListRoomsRes{Rooms: []RoomInfo{{Kind: RoomPublic}}},
		"states":   &SnapshotRes{Rooms: []RoomState{{Info: RoomInfo{Kind: RoomPublic}}}},
		"users":    &SnapshotRes{Users: []Presence{{}}},
		"members":  &MembersRes{Users: []string{""}},
		"terms":    &SearchReq{Terms: []string{""}},
		"events":   &DeliverReq{Events: []Event{{}}},
		"lists":    &GetDevicesRes{Lists: [][]byte{nil}},
		"mails":    &GetMailRes{Mails: []Mail{{}}},
		"epochs":   &GetKeysRes{Epochs: []KeyEpoch{{}}},
		"keys":     &PutKeysReq{Keys: []SealedKey{{}}},
		"more":     &AddKeysReq{Keys: []SealedKey{{}}},
	} {
		b, err := rpc.Encode(nil, m)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := rpc.Decode(b, reflect.New(reflect.TypeOf(m).Elem()).Interface().(rpc.Message)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Values out of range are refused in both directions.
func TestRefusedValues(t *testing.T) {
	long := func(n int) []byte { return make([]byte, n+1) }
	for name, m := range map[string]rpc.Message{
		"presence":        &Presence{State: Online + 1},
		"whisper state":   &WhisperRes{State: Online + 1},
		"room kind 0":     &RoomInfo{},
		"room kind":       &RoomInfo{Kind: RoomDirect + 1},
		"message kind 0":  &Message{},
		"message kind":    &Message{Kind: KindKeys + 1},
		"say kind 0":      &SayReq{},
		"say an entry":    &SayReq{Kind: KindCreate},
		"create kind 0":   &CreateRoomReq{},
		"create direct":   &CreateRoomReq{Kind: RoomDirect},
		"body":            &SayReq{Kind: KindText, Body: long(MaxBody)},
		"topic":           &SetTopicReq{Topic: string(long(MaxTopic))},
		"term":            &SearchReq{Terms: []string{string(long(MaxTerm))}},
		"terms":           &SearchReq{Terms: make([]string, MaxTerms+1)},
		"page":            &HistoryRes{Messages: make([]Message, MaxPage+1)},
		"event":           &Event{Body: long(MaxEvent)},
		"events":          &DeliverReq{Events: make([]Event, MaxEvents+1)},
		"box":             &SealedKey{Box: long(MaxBox)},
		"keys":            &AddKeysReq{Keys: make([]SealedKey, MaxSealed+1)},
		"mail":            &Mail{Body: long(MaxMail)},
		"list of devices": &PutDevicesReq{List: long(MaxList)},
		"proof":           &LeaveReq{Proof: long(MaxProof)},
		"notice":          &Notice{Text: string(long(MaxNotice))},
		"away":            &SetAwayReq{Text: string(long(MaxAwayText))},
	} {
		if _, err := rpc.Encode(nil, m); !errors.Is(err, rpc.ErrValue) && !errors.Is(err, rpc.ErrTooLong) {
			t.Errorf("%s: encodes, %v", name, err)
		}
	}
	// Decoding checks the same, whatever the other side's encoder does.
	b, err := rpc.Encode(nil, &Presence{State: Online})
	if err != nil {
		t.Fatal(err)
	}
	b[4]++
	if err := rpc.Decode(b, new(Presence)); !errors.Is(err, rpc.ErrValue) {
		t.Errorf("an unknown presence: %v", err)
	}
}

// The largest bodies of events fit an event, and the largest pages a reply.
func TestLargestFit(t *testing.T) {
	name := strings.Repeat("n", MaxUser)
	for what, m := range map[string]rpc.Message{
		"message": &Message{Kind: KindSealed, From: name, Target: name, Body: make([]byte, MaxBody)},
		"room": &RoomState{Info: RoomInfo{
			Kind: RoomPublic, Name: strings.Repeat("n", MaxRoomName), Topic: strings.Repeat("t", MaxTopic), Owner: name, Peer: name,
		}},
		"mail":   &Mail{Body: make([]byte, MaxMail)},
		"notice": &Notice{Text: strings.Repeat("t", MaxNotice)},
	} {
		b, err := rpc.Encode(nil, m)
		if err != nil || len(b) > MaxEvent {
			t.Errorf("%s: %d bytes, %v", what, len(b), err)
		}
	}
	small := Message{Kind: KindText, From: name, Target: name, Body: make([]byte, MaxPageSize/MaxPage)}
	page := &HistoryRes{}
	for range MaxPage {
		page.Messages = append(page.Messages, small)
	}
	if b, err := rpc.Encode(nil, page); err != nil || len(b) > rpc.MaxReply {
		t.Errorf("page of %d bytes, %v", len(b), err)
	}
}

func TestSlottedRepliesFit(t *testing.T) {
	name := strings.Repeat("n", 64)
	state := RoomState{Info: RoomInfo{Kind: RoomPublic, Name: name, Topic: strings.Repeat("t", MaxTopic), Owner: name, Peer: name}}
	for _, op := range ops(t) {
		if !op.Slotted() {
			continue
		}
		m := op.NewRes()
		if r, ok := m.(*RoomRes); ok {
			r.Room = state
		}
		b, err := rpc.Encode(nil, m)
		if err != nil || len(b) > rpc.MaxSlotReply {
			t.Errorf("%s: a reply of %d bytes, %v", op.Name, len(b), err)
		}
	}
}

func TestCheckRoomName(t *testing.T) {
	for _, good := range []string{"a", "lobby", "Kitchen-2", "a.b_c", "0day", "küche", "厨房", "كشك", "हिन्दी", strings.Repeat("x", MaxRoomName)} {
		if err := CheckRoomName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", " ", "a b", "-a", ".a", "_a", ".", "..", "a/b", "#a", "@a", "a\n", "a\x00", "a\x1b[31m", "a\xff", "u\u0308", "\u0308u",
		"a\u202eb", "a\u200bb", "😀", strings.Repeat("x", MaxRoomName+1), strings.Repeat("ü", MaxRoomName/2+1),
	} {
		if err := CheckRoomName(bad); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for name, fold := range map[string]string{"Kitchen": "kitchen", "KÜCHE": "küche", "a": "a"} {
		if got := FoldRoomName(name); got != fold {
			t.Errorf("%q folds to %q", name, got)
		}
	}
}

func TestCheckText(t *testing.T) {
	for text, ok := range map[string]bool{
		"": false, "a": true, "1234567890": true, "12345678901": false, "a\nb\tc\x1b": true, "a\x00b": false, "\xff": false, "öööööö": false,
	} {
		if err := CheckText(text, 10); (err == nil) != ok || err != nil && !errors.Is(err, ErrText) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// An error of the service crosses the wire and is the same on the other side.
func TestErrors(t *testing.T) {
	for code := range errorTexts {
		e := &Error{Code: code}
		var wire *rpc.Error
		if !errors.As(e, &wire) || wire.Code != code || rpc.CodeOf(e) != code || rpc.CodeOf(fmt.Errorf("say: %w", e)) != code {
			t.Errorf("%v crosses as %+v", e, wire)
		}
		back := FromRPC(fmt.Errorf("call: %w", wire))
		if !errors.Is(back, e) {
			t.Errorf("%v comes back as %v", e, back)
		}
		for other := range errorTexts {
			if other != code && errors.Is(back, &Error{Code: other}) {
				t.Errorf("%v is also %#x", back, other)
			}
		}
	}
	for _, wait := range []time.Duration{time.Millisecond, 1500 * time.Millisecond, time.Hour} {
		var wire *rpc.Error
		if !errors.As(&Error{Code: CodeRate, RetryAfter: wait}, &wire) {
			t.Fatal("no error for the wire")
		}
		var back *Error
		if !errors.As(FromRPC(wire), &back) || back.RetryAfter != wait || !strings.Contains(back.Error(), "try again in") {
			t.Errorf("%v comes back as %+v", wait, back)
		}
	}
	// A hostile detail changes nothing but the time to wait.
	for _, detail := range [][]byte{nil, {1}, {1, 2, 3, 4, 5}, make([]byte, 1000)} {
		var back *Error
		if !errors.As(FromRPC(&rpc.Error{Code: CodeRate, Detail: detail}), &back) || back.RetryAfter != 0 {
			t.Errorf("detail %x: %+v", detail, back)
		}
	}
	for _, other := range []error{nil, errors.New("x"), &rpc.Error{Code: rpc.CodeGone}, &rpc.Error{Code: 0x2ffff}} {
		if got := FromRPC(other); !errors.Is(got, other) || errors.As(got, new(*Error)) {
			t.Errorf("%v comes back as %v", other, got)
		}
	}
	if text := (&Error{Code: 0x2ffff}).Error(); !strings.Contains(text, "0x2ffff") {
		t.Errorf("an unknown error says %q", text)
	}
}

// FuzzMessages feeds every decoder; whatever decodes has exactly one encoding.
func FuzzMessages(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	all := messages(f)
	seeds := 0
	for name, make := range all {
		if b, ok := rpctest.Sample(make(), r); ok {
			f.Add(name, b)
			seeds++
		}
	}
	if seeds < 50 {
		f.Fatalf("%d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		make := all[name]
		if make == nil {
			return
		}
		m := make()
		if rpc.Decode(b, m) != nil {
			return
		}
		again, err := rpc.Encode(nil, m)
		if err != nil || !bytes.Equal(b, again) {
			t.Fatalf("%s: %x encodes as %x, %v", name, b, again, err)
		}
	})
}

// FuzzRoomName: a name that is allowed folds to one that is allowed, and folding
// again changes nothing.
func FuzzRoomName(f *testing.F) {
	for _, s := range []string{"a", "Kitchen", "KÜCHE", "İstanbul", "ẞ", "\u1e9e", "Ω", "a\u0308", "Ⅷ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckRoomName(name) != nil {
			return
		}
		if fold := FoldRoomName(name); FoldRoomName(fold) != fold {
			t.Fatalf("%q folds to %q, and that to %q", name, fold, FoldRoomName(fold))
		}
	})
}

package fsproto

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// ops are the operations of the file service.
func ops(t testing.TB) []*rpc.Info {
	var own []*rpc.Info
	for _, op := range rpc.Ops() {
		if op.Number>>8 == 1 {
			own = append(own, op)
		}
	}
	if len(own) < 30 {
		t.Fatalf("%d operations", len(own))
	}
	return own
}

// Every message of every operation comes back as it was sent, and nothing that
// is cut short or goes on decodes.
func TestMessages(t *testing.T) {
	for _, op := range ops(t) {
		rpctest.CheckMessage(t, op.Name+" request", op.NewReq)
		rpctest.CheckMessage(t, op.Name+" reply", op.NewRes)
	}
}

// Requests of slotted operations must fit a call, replies a slot.
func TestSlottedRepliesFit(t *testing.T) {
	for _, op := range ops(t) {
		if !op.Slotted() {
			continue
		}
		m := op.NewRes()
		v := reflect.ValueOf(m).Elem()
		growHandles(v)
		b, err := rpc.Encode(nil, m)
		if err != nil || len(b) > rpc.MaxSlotReply {
			t.Errorf("%s: a reply of %d bytes, %v", op.Name, len(b), err)
		}
	}
}

// growHandles gives every file handle its full length and sets every bool.
func growHandles(v reflect.Value) {
	if v.Type() == reflect.TypeFor[FileHandle]() {
		v.Set(reflect.ValueOf(make(FileHandle, MaxFileHandle)))
		return
	}
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			growHandles(v.Field(i))
		}
	}
	if v.Kind() == reflect.Bool {
		v.SetBool(true)
	}
	if v.Type() == reflect.TypeFor[Node]() {
		v.SetUint(1)
	}
}

func TestNames(t *testing.T) {
	for _, bad := range []string{"", ".", "..", "/", "a/b", "a\x00", "\x00", string(make([]byte, 256))} {
		if ValidName(bad) {
			t.Errorf("%q is a name", bad)
		}
		// Forged: the length and the bytes as they would stand in a lookup.
		b := binary.LittleEndian.AppendUint64(nil, 1)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(bad)))
		if rpc.Decode(append(b, bad...), new(LookupReq)) == nil {
			t.Errorf("a lookup of %q decodes", bad)
		}
	}
	for _, good := range []string{"a", "...", ".a", "\xff\xfe", "a\nb", string(bytes.Repeat([]byte("x"), MaxName))} {
		if !ValidName(good) {
			t.Errorf("%q is no name", good)
		}
	}
}

func TestDirentSize(t *testing.T) {
	for _, known := range []bool{false, true} {
		d := Dirent{Name: "name", Known: known, Entry: Entry{FileHandle: make([]byte, 40)}}
		b, err := rpc.Encode(nil, &d)
		if err != nil || len(b) != DirentSize(4, known, 40) {
			t.Errorf("known %v: %d bytes, DirentSize says %d, %v", known, len(b), DirentSize(4, known, 40), err)
		}
	}
}

// FuzzMessages feeds each operation's decoders; whatever decodes has exactly
// one encoding.
func FuzzMessages(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	seeds := 0
	for _, op := range ops(f) {
		for side, m := range []rpc.Message{op.NewReq(), op.NewRes()} {
			if b, ok := rpctest.Sample(m, r); ok {
				f.Add(op.Number, side == 1, b)
				seeds++
			}
		}
	}
	if seeds < 30 {
		f.Fatalf("%d seeds", seeds)
	}
	byNumber := make(map[uint16]*rpc.Info)
	for _, op := range ops(f) {
		byNumber[op.Number] = op
	}
	f.Fuzz(func(t *testing.T, number uint16, reply bool, b []byte) {
		op := byNumber[number]
		if op == nil {
			return
		}
		m := op.NewReq()
		if reply {
			m = op.NewRes()
		}
		if rpc.Decode(b, m) != nil {
			return
		}
		again, err := rpc.Encode(nil, m)
		if err != nil || !bytes.Equal(b, again) {
			t.Fatalf("%s: %x encodes as %x, %v", op.Name, b, again, err)
		}
	})
}

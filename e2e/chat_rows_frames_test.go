package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// raw is a request of any bytes. What answers it is not looked into.
type raw struct{ b []byte }

func (m *raw) Fields(c *rpc.Codec) {
	if !c.Decoding() {
		c.Fixed(m.b)
	}
}

var opRaw = rpc.Define[raw, raw](0x7f40, "test_raw", rpc.Query)

// rawCall calls a method by its number with any bytes. A reply that it does not
// understand is no error.
func rawCall(p *rpc.Peer, object rpc.Ref, method uint16, access rpc.Access, b []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	op := *opRaw
	op.Number, op.Access = method, access
	_, err := rpc.CallWith(ctx, p, &op, &raw{b}, new(raw), rpc.Extra{Object: object})
	if errors.Is(err, rpc.ErrTrailing) {
		return nil
	}
	return err
}

// frames is a connection on which a client writes the frames itself.
type frames struct {
	t      *testing.T
	conn   *auth.Conn
	stream *yamux.Stream // the control stream
	in     *bufio.Reader
	seq    uint32 // of slot 0
}

// flushed is a connection that keeps nothing back.
type flushed struct{ *auth.Conn }

func (c flushed) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err == nil {
		err = c.Raw.Flush()
	}
	return n, err
}

func (c flushed) Close() error { return c.Raw.Close() }

// frames logs a user in.
func (w *chatWorld) frames(user string) *frames {
	w.t.Helper()
	cfg := w.config(user)
	nc, err := net.Dial("tcp", cfg.Address)
	must(w.t, err)
	conn, _, err := cfg.Auth.Login(chatContext(w.t), nc)
	must(w.t, err)
	must(w.t, conn.SetDeadline(time.Now().Add(chatPatience)))
	settings := yamux.DefaultConfig()
	settings.EnableKeepAlive, settings.LogOutput = false, io.Discard
	mux, err := yamux.Client(flushed{conn}, settings)
	must(w.t, err)
	w.t.Cleanup(func() { _ = mux.Close() })
	stream, err := mux.OpenStream()
	must(w.t, err)
	_, err = stream.Write([]byte{byte(rpc.RoleControl)})
	must(w.t, err)
	_, err = mux.AcceptStream() // the server's calls, which nobody answers
	must(w.t, err)
	return &frames{t: w.t.(*testing.T), conn: conn, stream: stream, in: bufio.NewReaderSize(stream, 64<<10)}
}

// Kinds of frames and flags of calls, as PROTOCOL.md has them.
const (
	frameCall, frameReply, frameError = 1, 2, 3
	flagSlot, flagObject              = 2, 8
)

// appendFrame appends a frame with these lengths, true or not.
func appendFrame(b []byte, length, meta, tag uint32, method uint16, kind, flags uint8, body ...byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, length)
	b = binary.LittleEndian.AppendUint32(b, meta)
	b = binary.LittleEndian.AppendUint32(b, tag)
	b = binary.LittleEndian.AppendUint16(b, method)
	return append(append(b, kind, flags), body...)
}

// appendCall appends a call without a slot.
func appendCall(b []byte, tag uint32, method uint16, object rpc.Ref) []byte {
	if object == 0 {
		return appendFrame(b, 12, 0, tag, method, frameCall, 0)
	}
	return appendFrame(b, 12+8, 8, tag, method, frameCall, flagObject, binary.LittleEndian.AppendUint64(nil, uint64(object))...)
}

// call writes a call with a slot.
func (f *frames) call(tag uint32, method uint16, object rpc.Ref, slot rpc.Dep, body []byte) {
	f.t.Helper()
	meta := binary.LittleEndian.AppendUint32(nil, slot.Slot)
	meta = binary.LittleEndian.AppendUint32(meta, slot.Seq)
	meta = binary.LittleEndian.AppendUint64(meta, uint64(object))
	meta = append(meta, body...)
	n := uint32(len(meta))
	f.write(appendFrame(nil, 12+n, n, tag, method, frameCall, flagSlot|flagObject, meta...))
}

func (f *frames) write(b []byte) {
	f.t.Helper()
	_, err := f.stream.Write(b)
	must(f.t, err)
}

// answer is a frame that came.
type answer struct {
	tag  uint32
	kind uint8
	meta []byte
}

// next reads a frame.
func (f *frames) next() (a answer, err error) {
	var head [16]byte
	if _, err = io.ReadFull(f.in, head[:]); err != nil {
		return a, err
	}
	a.tag, a.kind = binary.LittleEndian.Uint32(head[8:]), head[14]
	a.meta = make([]byte, binary.LittleEndian.Uint32(head[0:])-12)
	_, err = io.ReadFull(f.in, a.meta)
	return a, err
}

// code returns the number of an error, 0 for a reply. Beyond the number an error
// tells nothing.
func (a *answer) code(t *testing.T) rpc.Code {
	switch a.kind {
	case frameReply:
		return 0
	case frameError:
		if len(a.meta) == 16 && string(a.meta[4:]) == strings.Repeat("\x00", 12) {
			return rpc.Code(binary.LittleEndian.Uint32(a.meta))
		}
	}
	t.Errorf("a frame of kind %d with %q", a.kind, a.meta)
	return 0
}

// do makes a call in slot 0 and returns its answer.
func (f *frames) do(method uint16, object rpc.Ref, body []byte) answer {
	f.t.Helper()
	f.seq++
	f.call(1, method, object, rpc.Dep{Slot: 0, Seq: f.seq}, body)
	a, err := f.next()
	must(f.t, err)
	return a
}

// attach makes a chat session whose listener does not exist, and returns it and
// a room that it has joined.
func (f *frames) attach() (session, room rpc.Ref) {
	f.t.Helper()
	req, err := rpc.Encode(nil, &chatproto.ChatAttachReq{Listener: 1})
	must(f.t, err)
	var res chatproto.ChatAttachRes
	must(f.t, rpc.Decode(f.do(chatproto.Attach.Number, 0, req).meta, &res))
	req, err = rpc.Encode(nil, &chatproto.JoinRoomReq{ID: randomID(), Name: "lobby"})
	must(f.t, err)
	var joined chatproto.RoomRes
	must(f.t, rpc.Decode(f.do(chatproto.JoinRoom.Number, res.Session, req).meta, &joined))
	return res.Session, joined.Ref
}

// numbers are those of the services and all others; with the race detector,
// which makes both sides slow, every 17th of those, other ones each time.
func numbers() (all []uint16) {
	step := 1
	if raceEnabled {
		step = 17
	}
	for n := range 0x400 {
		all = append(all, uint16(n))
	}
	for n := 0x400 + rand.IntN(step); n < 1<<16; n += step {
		all = append(all, uint16(n))
	}
	return all
}

// sweep calls all methods of each object, without a slot and without a request,
// and has each answer checked.
func (f *frames) sweep(objects []rpc.Ref, check func(i int, method uint16, code rpc.Code)) {
	f.t.Helper()
	methods := numbers()
	written := make(chan error, 1)
	go func() {
		var b []byte
		for i, object := range objects {
			for n, method := range methods {
				b = appendCall(b, uint32(i*len(methods)+n), method, object)
				if len(b) < 32<<10 && n < len(methods)-1 {
					continue
				}
				if _, err := f.stream.Write(b); err != nil {
					written <- err
					return
				}
				b = b[:0]
			}
		}
		written <- nil
	}()
	seen := make([]bool, len(objects)*len(methods))
	for range seen {
		a, err := f.next()
		must(f.t, err)
		if int(a.tag) >= len(seen) || seen[a.tag] {
			f.t.Fatalf("call %#x is answered, which was not made or has its answer", a.tag)
		}
		seen[a.tag] = true
		check(int(a.tag)/len(methods), methods[int(a.tag)%len(methods)], a.code(f.t))
	}
	must(f.t, <-written)
}

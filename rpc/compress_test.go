package rpc_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

type long struct{ S []byte }

func (m *long) Fields(c *rpc.Codec) { c.Bytes(&m.S, rpc.MaxReply-4) }

var (
	// opKeep keeps its payload, opGive returns it, opTell as part of the message.
	opKeep = rpc.Define[number, number](0x7f20, "test_keep", rpc.Change, rpc.CarriesData, rpc.Compresses)
	opGive = rpc.Define[number, number](0x7f21, "test_give", rpc.Query, rpc.ReturnsData, rpc.Compresses)
	opTell = rpc.Define[number, long](0x7f22, "test_tell", rpc.Query, rpc.Compresses)
	// opHush tells the same, and is never compressed.
	opHush = rpc.Define[number, long](0x7f23, "test_hush", rpc.Query)
)

// keeper returns what was kept.
func keeper(data *[]byte) *rpc.Mux {
	mux := new(rpc.Mux)
	rpc.Handle(mux, opKeep, func(_ context.Context, r *rpc.Request, _, res *number) error {
		*data = bytes.Clone(r.Data)
		res.N = uint64(len(r.Data))
		return nil
	})
	rpc.Handle(mux, opGive, func(_ context.Context, r *rpc.Request, _, res *number) error {
		b, err := r.Reply(len(*data))
		copy(b, *data)
		res.N = uint64(len(*data))
		return err
	})
	tell := func(_ context.Context, _ *rpc.Request, _ *number, res *long) error {
		res.S = *data
		return nil
	}
	rpc.Handle(mux, opTell, tell)
	rpc.Handle(mux, opHush, tell)
	return mux
}

// prose is n bytes that get about a fifth.
func prose(n int) []byte {
	b := make([]byte, 0, n+64)
	for i := 0; len(b) < n; i++ {
		b = append(b, "all work and no play "...)
		b = binary.AppendUvarint(b, uint64(i*i))
	}
	return b[:n]
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// roundTrip sends data there and back in each way.
func roundTrip(t *testing.T, client *rpc.Peer, data []byte) {
	t.Helper()
	ctx := testContext(t)
	var res number
	if _, err := rpc.CallWith(ctx, client, opKeep, &number{}, &res, rpc.Extra{Data: data}); err != nil || res.N != uint64(len(data)) {
		t.Fatalf("keep of %d bytes: %d, %v", len(data), res.N, err)
	}
	into := make([]byte, len(data))
	n, err := rpc.CallWith(ctx, client, opGive, &number{}, &res, rpc.Extra{Into: into})
	if err != nil || !bytes.Equal(into[:n], data) || res.N != uint64(len(data)) {
		t.Fatalf("give of %d bytes: %d bytes, %d, %v", len(data), n, res.N, err)
	}
	for _, op := range []*rpc.Op[number, long]{opTell, opHush} {
		var told long
		if err := rpc.Call(ctx, client, op, &number{}, &told); err != nil || !bytes.Equal(told.S, data) {
			t.Fatalf("%s of %d bytes: %d bytes, %v", op.Name, len(data), len(told.S), err)
		}
	}
}

// TestCompress: a client that wants it so has everything long compressed, both ways, and
// nothing that is short, gets no shorter, or is of another operation.
func TestCompress(t *testing.T) {
	for _, joined := range []int{0, 3} {
		var data []byte
		s := rpctest.New(t, rpc.Config{Root: keeper(&data), Compress: rpc.CompressAuto}, rpc.Config{Compress: rpc.CompressOn})
		for range joined {
			s.Join()
		}
		roundTrip(t, s.Client, nil)
		roundTrip(t, s.Client, prose(16<<10-5))
		if c := s.Client.Compression(); c.Sent.Messages+c.Received.Messages+c.SentPlain > 0 || !c.Known || !c.Asks {
			t.Errorf("%+v for small calls", c)
		}
		sizes := []int{16 << 10, 100_000, 128 << 10, 1<<20 - 1, rpc.MaxPayload}
		var total uint64
		for _, n := range sizes {
			total += uint64(n)
			roundTrip(t, s.Client, prose(n))
		}
		c := s.Client.Compression()
		if n := uint64(len(sizes)); c.Sent.Messages != n || c.Received.Messages != 2*n || c.SentPlain != 0 {
			t.Errorf("%+v for %d compressible messages", c, n)
		}
		if c.Sent.Bytes != total || c.Sent.Wire > total/4 || c.Received.Bytes < 2*total || c.Received.Wire > total/2 {
			t.Errorf("%+v for %d bytes", c, total)
		}
		if server := s.Server.Compression(); server.Sent != c.Received || server.Received != c.Sent || !server.Asked {
			t.Errorf("%+v at the server, %+v at the client", server, c)
		}
		roundTrip(t, s.Client, noise(rpc.MaxPayload))
		if d := s.Client.Compression(); d.Sent != c.Sent || d.Received != c.Received || d.SentPlain != 1 {
			t.Errorf("%+v after noise, %+v before", d, c)
		}
	}
}

// TestCompressMixed: calls of all kinds side by side, while connections are cut.
func TestCompressMixed(t *testing.T) {
	service := newService()
	s := rpctest.New(t, rpc.Config{Root: &service.mux, Compress: rpc.CompressAuto}, rpc.Config{Compress: rpc.CompressOn})
	ctx := testContext(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			into := make([]byte, 200_000)
			for i := range 30 {
				n := uint64(g*20_000 + i*100)
				data := make([]byte, n)
				fill(data, n)
				var res number
				if _, err := rpc.CallWith(ctx, s.Client, opStore, &number{n}, &res, rpc.Extra{Data: data}); err != nil || res.N != n {
					t.Errorf("store(%d) = %d, %v", n, res.N, err)
				}
				got, err := rpc.CallWith(ctx, s.Client, opFetch, &number{n}, &res, rpc.Extra{Into: into})
				if err != nil || !bytes.Equal(into[:got], data[:n-n/4]) {
					t.Errorf("fetch(%d) = %d bytes, %v", n, got, err)
				}
			}
		})
	}
	for i := range 6 {
		<-service.progress
		s.Cut()
		s.Features = rpc.FeatureCompress * uint64(i%2) // the next one may be with an older daemon
		s.Connect()
		s.Join()
		s.Join()
	}
	wg.Wait()
	if c := s.Client.Compression(); c.Sent.Messages == 0 || c.Received.Messages == 0 {
		t.Errorf("nothing was compressed: %+v", c)
	}
}

// TestCompressNotKnown: who does not compress is sent nothing compressed.
func TestCompressNotKnown(t *testing.T) {
	for _, how := range [][2]rpc.Compress{{rpc.CompressOff, rpc.CompressOn}, {rpc.CompressAuto, rpc.CompressOff}} {
		var data []byte
		s := rpctest.New(t, rpc.Config{Root: keeper(&data), Compress: how[0]}, rpc.Config{Compress: how[1]})
		roundTrip(t, s.Client, prose(1<<20))
		if c := s.Client.Compression(); c != (rpc.CompressStats{How: how[1]}) {
			t.Errorf("%v: %+v", how, c)
		}
	}
}

// slow is the server's side of a connection to another machine, on which what is written
// has a rate, in bytes per second.
type slow struct {
	rpctest.Transport
	rate float64
	sent *atomic.Int64
}

func (s slow) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

func (s slow) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		part := b[:min(len(b), 4<<10)]
		time.Sleep(time.Duration(float64(len(part)) / s.rate * 1e9))
		m, err := s.Transport.Write(part)
		n += m
		s.sent.Add(int64(m))
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

// TestCompressAuto: over a slow connection data is compressed when that is known, and over
// loopback nothing is.
func TestCompressAuto(t *testing.T) {
	text := prose(1 << 20)
	data := text
	s := rpctest.New(t, rpc.Config{Compress: rpc.CompressAuto, Root: keeper(&data)}, rpc.Config{Root: keeper(&data), Compress: rpc.CompressAuto})
	for range 8 {
		roundTrip(t, s.Client, text)
	}
	c := s.Client.Compression()
	if c.Sent.Messages+c.Received.Messages+c.SentPlain > 0 || !c.Known || !c.Local || c.Rate == 0 {
		t.Errorf("over loopback: %+v", c)
	}

	var sent atomic.Int64
	wrapped := func(c rpctest.Transport) rpc.Transport { return slow{c, 8e6, &sent} }
	go func() { _ = s.ConnectBoth(wrapped, wrapped) }()
	const rounds = 6
	for range rounds {
		roundTrip(t, s.Client, text)
	}
	c = s.Client.Compression()
	if c.Received.Messages < rounds || !c.Asks || c.Sent.Messages < rounds/2 || !c.Asked || c.Local {
		t.Errorf("over a slow connection: %+v", c)
	}
	// Of the four ways that the text goes one is never compressed.
	if got := sent.Load(); got > rounds*int64(len(text))*5/2 {
		t.Errorf("%d bytes sent over it, for %d", got, 4*rounds*len(text))
	}
}

// raw is the other side of a connection that a test writes by hand.
type raw struct{ net.Conn }

func (raw) Flush() error     { return nil }
func (raw) Features() uint64 { return 0 } // the main connection's count

func rawPair(t *testing.T) (mine, theirs net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if mine, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if theirs, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mine.Close(); theirs.Close() })
	return mine, theirs
}

// frameOf returns a compressed frame.
func frameOf(kind uint8, method uint16, tag uint32, flags uint8, size uint32, meta, payload []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(16+len(meta)+len(payload)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(meta)))
	b = binary.LittleEndian.AppendUint32(b, tag)
	b = binary.LittleEndian.AppendUint16(b, method)
	b = append(b, kind, flags|0x20)
	b = binary.LittleEndian.AppendUint32(b, size)
	return append(append(b, meta...), payload...)
}

// pack compresses data as another implementation might.
func pack(t *testing.T, data []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(data, nil)
}

// bomb is a frame of zstd that gets n MiB long, and does not say so.
func bomb(n int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58} // a window of 2 MiB
	for i := range 8 * n {
		header := uint32(128<<10)<<3 | 1<<1 // a repeated byte
		if i == 8*n-1 {
			header |= 1
		}
		b = append(b, byte(header), byte(header>>8), byte(header>>16), 0)
	}
	return b
}

// hostile are ends of frames that a peer must not take, with the length that they claim.
func hostile(t *testing.T) map[string]struct {
	size uint32
	end  []byte
} {
	good := pack(t, prose(20_000))
	flipped := bytes.Clone(good)
	for i := len(flipped) / 2; i < len(flipped)/2+20; i++ {
		flipped[i] ^= 0x55
	}
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 1, 0, 0} // 2 TiB, and an empty block
	return map[string]struct {
		size uint32
		end  []byte
	}{
		"no zstd":             {20_000, noise(100)},
		"cut off":             {20_000, good[:len(good)-1]},
		"flipped":             {20_000, flipped},
		"one byte too many":   {20_001, good},
		"one byte too few":    {19_999, good},
		"no shorter":          {uint32(len(good)), good},
		"a bomb":              {20_000, bomb(1024)},
		"a bomb that says so": {1 << 30, bomb(1024)},
		"a window":            {20_000, window},
		"more behind it":      {20_000, append(bytes.Clone(good), good...)},
		"nothing":             {20_000, nil},
	}
}

// TestHostileClient: a client that sends what does not decode, or to more than it says,
// loses its connection; the server stays.
func TestHostileClient(t *testing.T) {
	for what, h := range hostile(t) {
		t.Run(what, func(t *testing.T) {
			var data []byte
			budget := rpc.NewBudget(4<<20, 4<<20)
			share := budget.User("a")
			s := rpctest.New(t, rpc.Config{Root: keeper(&data), Compress: rpc.CompressAuto, Share: share}, rpc.Config{Compress: rpc.CompressOn})
			if err := rpc.Call(testContext(t), s.Client, opHush, &number{}, &long{}); err != nil {
				t.Fatal(err)
			}
			mine, theirs := rawPair(t)
			ended := make(chan error, 1)
			go func() { ended <- s.Server.ServeJoined(raw{theirs}, s.Server.Epoch()) }()
			meta := make([]byte, 16) // slot 0, sequence 1, the number
			meta[4] = 1
			if _, err := mine.Write(frameOf(1, opKeep.Number, 1, 0x02, h.size, meta, h.end)); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err == nil || errors.Is(err, io.EOF) {
				t.Errorf("ended with %v", err)
			}
			if data != nil {
				t.Error("it was taken")
			}
			s.Connect()
			roundTrip(t, s.Client, prose(1<<20))
		})
	}
}

// TestHostileServer: the same the other way round.
func TestHostileServer(t *testing.T) {
	for what, h := range hostile(t) {
		for _, op := range []*rpc.Info{&opTell.Info, &opGive.Info} {
			t.Run(what+" "+op.Name, func(t *testing.T) {
				var data []byte
				s := rpctest.New(t, rpc.Config{Root: keeper(&data), Compress: rpc.CompressAuto}, rpc.Config{Compress: rpc.CompressAuto})
				if err := rpc.Call(testContext(t), s.Client, opHush, &number{}, &long{}); err != nil {
					t.Fatal(err)
				}
				mine, theirs := rawPair(t)
				ended := make(chan error, 1)
				go func() { ended <- s.Client.ServeJoined(raw{theirs}, s.Client.Epoch()) }()
				ctx, cancel := context.WithCancel(testContext(t))
				defer cancel()
				answered := make(chan error, 1)
				call := make([]byte, 16)
				for joined := false; !joined; { // until the call comes here
					go func() {
						var err error
						if op == &opTell.Info {
							err = rpc.Call(ctx, s.Client, opTell, &number{}, &long{})
						} else {
							_, err = rpc.CallWith(ctx, s.Client, opGive, &number{}, &number{}, rpc.Extra{Into: make([]byte, 20_000)})
						}
						answered <- err
					}()
					_ = mine.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
					_, err := io.ReadFull(mine, call)
					if joined = err == nil; !joined {
						if err := <-answered; err != nil {
							t.Fatal(err)
						}
					}
				}
				meta, payload := h.end, []byte(nil)
				if op == &opGive.Info {
					meta, payload = make([]byte, 8), h.end
				}
				if _, err := mine.Write(frameOf(2, 0, binary.LittleEndian.Uint32(call[8:]), 0, h.size, meta, payload)); err != nil {
					t.Fatal(err)
				}
				if err := <-ended; err == nil || errors.Is(err, io.EOF) {
					t.Errorf("ended with %v", err)
				}
				s.Connect()
				if err := <-answered; err != nil {
					t.Errorf("the call, over the next connection: %v", err)
				}
			})
		}
	}
}

// BenchmarkCompress sends a megabyte there and back again.
func BenchmarkCompress(b *testing.B) {
	for _, of := range []struct {
		name string
		data []byte
	}{{"prose", prose(1 << 20)}, {"noise", noise(1 << 20)}} {
		for name, how := range map[string]rpc.Compress{"off": rpc.CompressOff, "on": rpc.CompressOn} {
			b.Run(of.name+"/"+name, func(b *testing.B) {
				data := of.data
				s := rpctest.New(b, rpc.Config{Root: keeper(&data), Compress: rpc.CompressAuto}, rpc.Config{Compress: how})
				into := make([]byte, len(data))
				var res number
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := rpc.CallWith(b.Context(), s.Client, opGive, &number{}, &res, rpc.Extra{Into: into}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/rpycfs/rpycfs/internal/bufconn"
	"github.com/rpycfs/rpycfs/rpc"
)

// Package rpc over the stack that the daemon and the mount use: TLS over a
// buffered connection, yamux streams by role on the first connection, bulk
// frames straight on TLS on the others. Only the log-in is left out.

const (
	bulkConns = 2 // connections beside the main one, as a mount opens them
	inFlight  = 8 // bulk calls at once
)

// small is a message of up to callSize bytes.
type small struct{ B []byte }

// Fields lists the fields of m.
func (m *small) Fields(c *rpc.Codec) { c.Bytes(&m.B, callSize) }

// place is a position in a file.
type place struct {
	Offset uint64
	Size   uint32
}

// Fields lists the fields of m.
func (m *place) Fields(c *rpc.Codec) {
	c.U64(&m.Offset)
	c.U32(&m.Size)
	if m.Size > rpc.MaxPayload {
		c.Fail(rpc.ErrTooLong)
	}
}

// One operation per way of handling a call.
var (
	opQuick = rpc.Define[small, small](0x7e00, "bench_quick", rpc.Query, rpc.Quick)
	opQuery = rpc.Define[small, small](0x7e01, "bench_query", rpc.Query)
	opSlot  = rpc.Define[small, small](0x7e02, "bench_slot", rpc.Change)
	opRead  = rpc.Define[place, place](0x7e03, "bench_read", rpc.Query, rpc.ReturnsData)
	opWrite = rpc.Define[place, place](0x7e04, "bench_write", rpc.Change, rpc.CarriesData)
)

// benchService answers them.
func benchService() *rpc.Mux {
	m := new(rpc.Mux)
	for _, op := range []*rpc.Op[small, small]{opQuick, opQuery, opSlot} {
		rpc.Handle(m, op, func(_ context.Context, _ *rpc.Request, req, res *small) error {
			*res = *req
			return nil
		})
	}
	rpc.Handle(m, opRead, func(_ context.Context, r *rpc.Request, req, res *place) error {
		b, err := r.Reply(int(req.Size))
		if err == nil && len(b) > 0 {
			b[0] = mark(req.Offset)
		}
		*res = *req
		return err
	})
	rpc.Handle(m, opWrite, func(_ context.Context, r *rpc.Request, req, res *place) error {
		*res = place{req.Offset, uint32(len(r.Data))}
		if len(r.Data) > 0 && r.Data[0] != mark(req.Offset) {
			return rpc.ErrBadRequest
		}
		return nil
	})
	return m
}

// mark is the first byte of the payload at offset.
func mark(offset uint64) byte { return byte(offset >> 12 * 37) }

// transport is TLS over a buffered connection, as auth makes it.
type transport struct {
	*tls.Conn
	raw *bufconn.Conn
}

// Flush writes out what is held back.
func (t transport) Flush() error { return t.raw.Flush() }

// Features returns none: nothing is compressed.
func (t transport) Features() uint64 { return 0 }

func log() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// rpycfsServer returns what serves one connection. The first byte on it tells
// whether it is a session's main connection or one more for the latest session.
func rpycfsServer(conf *tls.Config) func(net.Conn) {
	var latest atomic.Pointer[rpc.Peer]
	mux := benchService()
	return func(c net.Conn) {
		raw := bufconn.New(c)
		t := transport{tls.Server(raw, conf), raw}
		var kind [1]byte
		if _, err := io.ReadFull(t, kind[:]); err != nil {
			return
		}
		raw.Hold()
		if kind[0] == 'b' {
			latest.Load().ServeJoined(t, 1)
			return
		}
		p := rpc.NewPeer(rpc.Config{Root: mux, Log: log(), Share: rpc.NewBudget(256<<20, 128<<20).User("bench")})
		latest.Store(p)
		p.Serve(t, 1)
		p.End(nil)
	}
}

// rpycfsClient is a session.
type rpycfsClient struct {
	peer    *rpc.Peer
	serving sync.WaitGroup
}

func dialTransport(addr string, conf *tls.Config, kind byte) (transport, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return transport{}, err
	}
	raw := bufconn.New(c)
	t := transport{tls.Client(raw, conf), raw}
	if _, err := t.Write([]byte{kind}); err != nil {
		c.Close()
		return transport{}, err
	}
	raw.Hold()
	return t, nil
}

// dialRpycfs makes a session with bulk connections beside the main one.
func dialRpycfs(addr string, conf *tls.Config, bulk int) (*rpycfsClient, error) {
	main, err := dialTransport(addr, conf, 'm')
	if err != nil {
		return nil, err
	}
	r := &rpycfsClient{peer: rpc.NewPeer(rpc.Config{Client: true, Log: log()})}
	r.serving.Go(func() { r.peer.Serve(main, 1) })
	if err := (echoOp{r, opQuick}).Echo([]byte("ready?"), make([]byte, 6)); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	for range bulk {
		t, err := dialTransport(addr, conf, 'b')
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.serving.Go(func() { r.peer.ServeJoined(t, 1) })
	}
	return r, nil
}

// Close ends the session.
func (r *rpycfsClient) Close() error {
	r.peer.End(nil)
	r.serving.Wait()
	return nil
}

// echoOp makes small calls of one operation.
type echoOp struct {
	r  *rpycfsClient
	op *rpc.Op[small, small]
}

// Echo sends p and reads the answer into into.
func (e echoOp) Echo(p, into []byte) error {
	var res small
	if err := rpc.Call(context.Background(), e.r.peer, e.op, &small{p}, &res); err != nil {
		return err
	}
	if copy(into, res.B) != len(into) {
		return fmt.Errorf("answer of %d bytes", len(res.B))
	}
	return nil
}

// Read receives n bytes, chunk by chunk, several in flight.
func (r *rpycfsClient) Read(n int64) error { return r.each(n, chunk, r.readAt) }

// Write sends n bytes, chunk by chunk, several in flight.
func (r *rpycfsClient) Write(n int64) error { return r.each(n, chunk, r.writeAt) }

// each calls move for every piece of n bytes; a worker keeps its buffer.
func (r *rpycfsClient) each(n int64, size int, move func(b []byte, offset uint64) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, inFlight)
	for i := range errs {
		wg.Go(func() {
			b := make([]byte, size)
			for errs[i] == nil {
				end := next.Add(int64(size))
				if end > n {
					return
				}
				errs[i] = move(b, uint64(end)-uint64(size))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r *rpycfsClient) readAt(b []byte, offset uint64) error {
	var res place
	n, err := rpc.CallWith(context.Background(), r.peer, opRead, &place{offset, uint32(len(b))}, &res, rpc.Extra{Into: b})
	if err == nil && (n != len(b) || b[0] != mark(offset)) {
		err = fmt.Errorf("read at %d: wrong data", offset)
	}
	return err
}

func (r *rpycfsClient) writeAt(b []byte, offset uint64) error {
	var res place
	b[0] = mark(offset)
	_, err := rpc.CallWith(context.Background(), r.peer, opWrite, &place{offset, uint32(len(b))}, &res, rpc.Extra{Data: b})
	if err == nil && int(res.Size) != len(b) {
		err = fmt.Errorf("write at %d: %d of %d bytes arrived", offset, res.Size, len(b))
	}
	return err
}

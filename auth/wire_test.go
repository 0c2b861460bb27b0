package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
)

// wire is what happens to the bytes that one side writes.
type wire struct {
	net.Conn
	mu      sync.Mutex
	written int
	flip    int  // offset of the byte to change; -1: none
	cut     int  // offset at which the connection ends; -1: never
	single  bool // one byte at a time
}

func newWire(c net.Conn) *wire { return &wire{Conn: c, flip: -1, cut: -1} }

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p = bytes.Clone(p)
	if i := w.flip - w.written; i >= 0 && i < len(p) {
		p[i] ^= 0x20
	}
	if i := w.cut - w.written; w.cut >= 0 && i < len(p) {
		n, _ := w.Conn.Write(p[:max(i, 0)])
		w.Conn.Close()
		w.written += n
		return n, io.ErrClosedPipe
	}
	if !w.single {
		n, err := w.Conn.Write(p)
		w.written += n
		return n, err
	}
	for i := range p {
		if _, err := w.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	w.written += len(p)
	return len(p), nil
}

// over runs a log-in over a damaged wire; hurt says how, given the wires of
// client and server.
func over(t *testing.T, s *Server, c *Client, hurt func(client, server *wire)) (client, server *wire, clientErr, serverErr error) {
	a, b := net.Pipe()
	client, server = newWire(a), newWire(b)
	hurt(client, server)
	done := make(chan error, 1)
	go func() {
		_, err := s.Handshake(context.Background(), server)
		done <- err
	}()
	_, _, clientErr = c.Login(context.Background(), client)
	serverErr = <-done
	a.Close()
	return client, server, clientErr, serverErr
}

// methods are the ways to log in.
func methods(t *testing.T) map[string]func() *Client {
	return map[string]func() *Client{
		"password": func() *Client { c := testClient(t); c.Timeout = 2 * time.Second; return c },
		"key": func() *Client {
			c := testClient(t)
			c.Password, c.scram, c.Signers, c.Timeout = nil, nil, signers(testSigner(1)), 2*time.Second
			return c
		},
	}
}

// TestOneByteAtATime delivers both directions byte by byte.
func TestOneByteAtATime(t *testing.T) {
	s, _ := testServer(t)
	for name, client := range methods(t) {
		_, _, err1, err2 := over(t, s, client(), func(c, s *wire) { c.single, s.single = true, true })
		if err1 != nil || err2 != nil {
			t.Errorf("%s: %v, %v", name, err1, err2)
		}
	}
}

// each runs test for every offset, on as many processors as there are.
func each(from, to int, test func(offset int)) {
	var all sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for i := range next {
				test(i)
			}
		})
	}
	for i := from; i < to; i++ {
		next <- i
	}
	close(next)
	all.Wait()
}

// eachByte damages a log-in by each method at each byte that each side writes,
// one in each run, and lets check judge how both sides ended. Clocks are fake:
// who waits for bytes that never come costs no time.
func eachByte(t *testing.T, damage func(w *wire, offset int), check func(name, side string, offset int, clientErr, serverErr error)) {
	// Without the large shares of ML-KEM there are half as many bytes.
	t.Setenv("GODEBUG", "tlsmlkem=0,tlssecpmlkem=0")
	rightScram()
	synctest.Test(t, func(t *testing.T) {
		s, _ := testServer(t)
		for name, client := range methods(t) {
			c, sv, err1, err2 := over(t, s, client(), func(*wire, *wire) {})
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			for side, length := range map[string]int{"client": c.written, "server": sv.written} {
				from := 0
				if name == "key" { // TLS itself is the same for both
					from = length - min(length, 500)
				}
				each(from, length, func(offset int) {
					_, _, clientErr, serverErr := over(t, s, client(), func(c, s *wire) {
						damage(map[string]*wire{"client": c, "server": s}[side], offset)
					})
					check(name, side, offset, clientErr, serverErr)
				})
			}
		}
		if s.places.total != 0 {
			t.Errorf("%d places still taken", s.places.total)
		}
	})
}

// TestEveryByteFlipped: whoever reads a changed byte does not take the log-in for
// a good one. The one exception is the version in the header of the first record,
// which TLS 1.3 ignores by its own rules (RFC 8446, section 5.1).
func TestEveryByteFlipped(t *testing.T) {
	const recordVersion = 2
	eachByte(t, func(w *wire, offset int) { w.flip = offset },
		func(name, side string, offset int, clientErr, serverErr error) {
			accepted := side == "client" && serverErr == nil || side == "server" && clientErr == nil
			if accepted != (offset == recordVersion) {
				t.Errorf("%s: byte %d of the %s changed: client %v, server %v", name, offset, side, clientErr, serverErr)
			}
		})
}

// TestCutAfterEveryByte: neither side takes a log-in for a good one that ended
// early, and neither waits.
func TestCutAfterEveryByte(t *testing.T) {
	eachByte(t, func(w *wire, offset int) { w.cut = offset },
		func(name, side string, offset int, clientErr, serverErr error) {
			if clientErr == nil || serverErr == nil || isTimeout(clientErr) || isTimeout(serverErr) {
				t.Errorf("%s: cut after byte %d of the %s: client %v, server %v", name, offset, side, clientErr, serverErr)
			}
		})
}

// examples returns a valid encoding of every message, by kind.
func examples(t testing.TB) map[kind][]byte {
	list := []message{
		&clientHello{version: Version, features: 1 << 40, purpose: NewSession, user: "alice"},
		&serverHello{version: Version, features: 3, nonce: [32]byte{1}},
		&keyMessage{[]byte("signature")}, &keyRefused{}, &scramMessage{"n,,n=alice"},
		&proofMessage{[32]byte{9}}, &granted{Grant{Slots: 64}}, &resumed{}, newRefused(reasonBusy, time.Second),
	}
	encoded := make(map[kind][]byte)
	for _, m := range list {
		b, err := appendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		encoded[m.kind()] = b
	}
	if len(encoded) != len(messageOf) {
		t.Fatalf("%d examples for %d messages", len(encoded), len(messageOf))
	}
	return encoded
}

// TestMessages: what is cut, too long, or has an unknown field is refused.
func TestMessages(t *testing.T) {
	for k, frame := range examples(t) {
		m, err := receive(bytes.NewReader(frame), messageOf[k]())
		if err != nil {
			t.Fatalf("message %d: %v", k, err)
		}
		if again, err := appendMessage(nil, m); err != nil || !bytes.Equal(again, frame) {
			t.Errorf("message %d: %x became %x, %v", k, frame, again, err)
		}
		for i := range frame {
			if _, err := receive(bytes.NewReader(frame[:i]), messageOf[k]()); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("message %d cut at %d: %v", k, i, err)
			}
		}
		longer := append(bytes.Clone(frame), 0)
		binary.LittleEndian.PutUint16(longer, uint16(len(longer)-headerSize))
		if _, err := receive(bytes.NewReader(longer), messageOf[k]()); !errors.Is(err, ErrProtocol) || !errors.Is(err, rpc.ErrTrailing) {
			t.Errorf("message %d with an unknown field: %v", k, err)
		}
	}
	if _, err := receive(strings.NewReader("\xff\xff\x05"), &scramMessage{}); !errors.Is(err, ErrProtocol) {
		t.Errorf("64 KiB: %v", err)
	}
	if _, err := appendMessage(nil, &keyMessage{make([]byte, maxBody)}); err == nil {
		t.Error("too much was sent")
	}
	for name, m := range map[string]clientHello{
		"no user": {purpose: NewSession}, "epoch": {purpose: NewSession, user: "a", epoch: 1},
		"session": {purpose: NewSession, user: "a", session: SessionID{1}}, "no purpose": {user: "a"},
		"user": {purpose: Resume, user: "a", epoch: 1}, "no epoch": {purpose: Join}, "purpose": {purpose: 4, epoch: 1},
	} {
		m.version = Version
		if _, err := rpc.Encode(nil, &m); err == nil {
			t.Errorf("a hello with wrong %s", name)
		}
	}
}

// FuzzMessage: whatever decodes encodes to the same bytes.
func FuzzMessage(f *testing.F) {
	for _, frame := range examples(f) {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		for k, empty := range messageOf {
			m, err := receive(bytes.NewReader(frame), empty())
			if err != nil {
				continue
			}
			again, err := appendMessage(nil, m)
			if err != nil || !bytes.HasPrefix(frame, again) {
				t.Errorf("message %d: %x became %x, %v", k, frame, again, err)
			}
		}
	})
}

// FuzzServer lets a client say anything inside TLS. It must not get in, and the
// server must end.
func FuzzServer(f *testing.F) {
	all := examples(f)
	hello := all[kindClientHello]
	resume, err := appendMessage(nil, &clientHello{version: Version, purpose: Resume, epoch: 2})
	if err != nil {
		f.Fatal(err)
	}
	seeds := [][]byte{
		hello, append(bytes.Clone(hello), all[kindKey]...), append(bytes.Clone(hello), all[kindScram]...),
		append(resume, all[kindProof]...),
	}
	first, err := appendMessage(nil, &scramMessage{"p=tls-exporter,,n=alice,r=" + strings.Repeat("n", scramNonce)})
	if err != nil {
		f.Fatal(err)
	}
	seeds = append(seeds, append(append(bytes.Clone(hello), first...), all[kindScram]...))
	addAll(f, seeds)
	s, sessions := testServer(f)
	s.Logger.Info("quiet")
	f.Fuzz(func(t *testing.T, said []byte) {
		nc, done := serve(t, s)
		c := dialTLS(t, nc)
		go func() {
			c.Write(said)
			nc.Close()
		}()
		io.Copy(io.Discard, c)
		if r := <-done; r.err == nil || sessions.count() != 0 {
			t.Errorf("%x got in", said)
		}
		s.guesses = throttle{}
	})
}

// FuzzClient lets a server say anything inside TLS. The client must not take it
// for one that knows the password, and must end.
func FuzzClient(f *testing.F) {
	all := examples(f)
	hello := all[kindServerHello]
	addAll(f, [][]byte{
		hello, append(bytes.Clone(hello), all[kindGranted]...), append(bytes.Clone(hello), all[kindScram]...),
		append(bytes.Clone(hello), all[kindRefused]...), append(bytes.Clone(hello), all[kindKeyRefused]...),
	})
	key := testKey(f, 100)
	f.Fuzz(func(t *testing.T, said []byte) {
		nc, done := rawServer(t, key, func(c *tls.Conn, _ *clientHello) error {
			go func() {
				c.Write(said)
				c.NetConn().Close()
			}()
			io.Copy(io.Discard, c)
			return nil
		})
		if _, _, err := testClient(t).Login(context.Background(), nc); err == nil {
			t.Errorf("%x was taken for a server", said)
		}
		<-done
	})
}

// FuzzSSHSIG: no signature but the right one is accepted.
func FuzzSSHSIG(f *testing.F) {
	s := vectorStatement(f)
	blob, err := sign(testSigner(1), s)
	if err != nil {
		f.Fatal(err)
	}
	addAll(f, [][]byte{blob, blob[:40]})
	id := idOf(testSigner(1).PublicKey())
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := verifySignature(b, s)
		if err == nil && idOf(key) == id && !bytes.Equal(b, blob) {
			t.Errorf("%x holds too", b)
		}
	})
}

// addAll adds seeds, of which there must be some.
func addAll[T []byte | string](f *testing.F, seeds []T) {
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		if len(s) == 0 {
			f.Fatal("an empty seed")
		}
		f.Add([]byte(s))
	}
}

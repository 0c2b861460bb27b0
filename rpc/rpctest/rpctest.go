// Package rpctest joins two peers inside a test.
package rpctest

import (
	"net"
	"sync"
	"testing"

	"github.com/rpycfs/rpycfs/rpc"
)

// Transport is a connection that keeps nothing back.
type Transport struct {
	net.Conn
	features uint64
}

// Flush does nothing.
func (Transport) Flush() error { return nil }

// Features returns what both peers have.
func (t Transport) Features() uint64 { return t.features }

// Session is a pair of peers that a test can cut and join again.
type Session struct {
	Server, Client *rpc.Peer

	// Features of the connections that are made from now on.
	Features uint64

	t       testing.TB
	mu      sync.Mutex
	epoch   uint32
	serving sync.WaitGroup
	conns   []net.Conn
	bulk    []net.Conn
}

// Pair returns the two sides of a connected session. Both end with the test.
func Pair(t testing.TB, server, client *rpc.Mux) (*rpc.Peer, *rpc.Peer) {
	s := New(t, rpc.Config{Root: server}, rpc.Config{Root: client})
	return s.Server, s.Client
}

// New makes a connected session of two peers.
func New(t testing.TB, server, client rpc.Config) *Session {
	t.Helper()
	client.Client = true
	s := &Session{t: t, Server: rpc.NewPeer(server), Client: rpc.NewPeer(client)}
	if server.Compress != rpc.CompressOff && client.Compress != rpc.CompressOff {
		s.Features = rpc.FeatureCompress
	}
	t.Cleanup(func() {
		s.Client.End(nil)
		s.Server.End(nil)
		s.serving.Wait()
	})
	s.Connect()
	return s
}

// Connect joins the peers in a new epoch, superseding the connection that
// stands.
func (s *Session) Connect() {
	s.t.Helper()
	s.connect(bare, bare)
}

// ConnectOver is Connect with the server's side of the connection wrapped. It
// returns when the connection has ended, with what the client saw.
func (s *Session) ConnectOver(wrap func(Transport) rpc.Transport) error {
	s.t.Helper()
	return s.ConnectBoth(wrap, bare)
}

// ConnectBoth is ConnectOver with both sides wrapped.
func (s *Session) ConnectBoth(server, client func(Transport) rpc.Transport) error {
	s.t.Helper()
	return <-s.connect(server, client)
}

func bare(c Transport) rpc.Transport { return c }

func (s *Session) connect(server, client func(Transport) rpc.Transport) <-chan error {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	a, b := socketPair(s.t)
	s.epoch++
	s.conns = []net.Conn{a, b}
	epoch, features := s.epoch, s.Features
	ended := make(chan error, 1)
	s.serving.Add(2)
	go func() {
		defer s.serving.Done()
		s.Server.Serve(server(Transport{a, features}), epoch)
	}()
	go func() {
		defer s.serving.Done()
		ended <- s.Client.Serve(client(Transport{b, features}), epoch)
	}()
	return ended
}

// Join adds a connection.
func (s *Session) Join() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	a, b := socketPair(s.t)
	s.bulk = append(s.bulk, a, b)
	epoch, features := s.epoch, s.Features
	s.serving.Add(2)
	go func() {
		defer s.serving.Done()
		s.Server.ServeJoined(Transport{a, features}, epoch)
	}()
	go func() {
		defer s.serving.Done()
		s.Client.ServeJoined(Transport{b, features}, epoch)
	}()
}

// CutJoined closes the joined connections under both peers.
func (s *Session) CutJoined() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.bulk {
		c.Close()
	}
	s.bulk = nil
}

// Cut closes the connection under both peers.
func (s *Session) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	type accepted struct {
		c   net.Conn
		err error
	}
	ch := make(chan accepted, 1)
	go func() {
		c, err := ln.Accept()
		ch <- accepted{c, err}
	}()
	b, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a := <-ch
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.c, b
}

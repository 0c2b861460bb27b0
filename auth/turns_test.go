package auth

import (
	"net"
	"runtime"
	"testing"
)

// TestTurns: a handshake that waits for its client keeps no other from computing, one
// that computes does.
func TestTurns(t *testing.T) {
	var all turns
	var waiting []chan error
	var clients []net.Conn
	for range 100 { // many more than may compute
		client, server := net.Pipe()
		defer server.Close()
		done := make(chan error)
		go func() {
			u := all.take()
			defer u.give()
			_, err := turnConn{server, u}.Read(make([]byte, 1))
			done <- err
		}()
		waiting, clients = append(waiting, done), append(clients, client)
	}
	for i := range waiting { // all of them have got as far as to read
		if _, err := clients[i].Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := <-waiting[i]; err != nil {
			t.Error(err)
		}
	}

	var holding []*turn
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		holding = append(holding, all.take())
	}
	took := make(chan *turn)
	go func() { took <- all.take() }()
	select {
	case <-took:
		t.Fatal("more computed at once than may")
	case all.free <- struct{}{}:
		t.Fatal("a turn is free")
	default:
	}
	holding[0].give()
	holding[0].give() // which gives no second one away
	(<-took).give()
	for _, u := range holding[1:] {
		u.give()
	}
	if len(all.free) != 0 {
		t.Errorf("%d turns are taken for ever", len(all.free))
	}
}

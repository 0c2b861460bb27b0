package rpc_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// statsOf returns what a peer has counted of an operation.
func statsOf(p *rpc.Peer, number uint16) rpc.OpStats {
	for _, s := range p.Stats() {
		if s.Op.Number == number {
			return s
		}
	}
	return rpc.OpStats{}
}

// TestStats counts calls on the side that makes them and on the one that answers.
func TestStats(t *testing.T) {
	s := newService()
	server, client := rpctest.Pair(t, &s.mux, nil)
	ctx := testContext(t)
	if list := client.Stats(); len(list) != 0 {
		t.Errorf("before the first call: %v", list)
	}
	for n := range uint64(20) {
		err := rpc.Call(ctx, client, opCount, &number{n}, &number{})
		if (err != nil) != (n == 13) {
			t.Fatal(n, err)
		}
	}
	_ = rpc.Call(ctx, client, opFail, &number{uint64(syscall.ENOENT)}, &number{})
	blocking, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- rpc.Call(blocking, client, opBlock, &number{}, &number{}) }()
	<-s.blocked

	if c := statsOf(client, opCount.Number); c.Calls != 20 || c.Errors != 1 || c.InFlight != 0 || c.Time <= 0 || c.Served != 0 || c.Op.Name != "test_count" {
		t.Errorf("client: %+v", c)
	}
	if c := statsOf(server, opCount.Number); c.Served != 20 || c.ServedErrors != 1 || c.Calls+c.InFlight != 0 {
		t.Errorf("server: %+v", c)
	}
	if c := statsOf(client, opFail.Number); c.Calls != 1 || c.Errors != 1 {
		t.Errorf("failed: %+v", c)
	}
	if c := statsOf(client, opBlock.Number); c.Calls != 0 || c.InFlight != 1 {
		t.Errorf("in flight: %+v", c)
	}
	cancel()
	<-done
	if c := statsOf(client, opBlock.Number); c.Calls != 1 || c.Errors != 1 || c.InFlight != 0 {
		t.Errorf("given up: %+v", c)
	}
	var last uint16
	for _, c := range client.Stats() {
		if c.Op.Number <= last {
			t.Errorf("%#x comes after %#x", c.Op.Number, last)
		}
		last = c.Op.Number
	}
}

// TestHeard looks at the time of the last arrival, with a connection and without.
func TestHeard(t *testing.T) {
	s := newService()
	session := rpctest.New(t, rpc.Config{Root: &s.mux}, rpc.Config{})
	before := time.Now()
	if err := rpc.Call(testContext(t), session.Client, opEcho, &number{}, &number{}); err != nil {
		t.Fatal(err)
	}
	if at := session.Client.Heard(); at.Before(before) || at.After(time.Now()) {
		t.Errorf("heard at %v, after a call at %v", at, before)
	}
	if n := session.Client.Turns(); n != 1 {
		t.Errorf("turn %d while the first connection stands", n)
	}
	session.Client.End(nil)
	if at, n := session.Client.Heard(), session.Client.Turns(); at.Before(before) || n != 2 {
		t.Errorf("without a connection: heard at %v, turn %d", at, n)
	}
}

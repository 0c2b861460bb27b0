package rpc_test

import (
	"context"
	"errors"
	"testing"

	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// A change that is refused before it reaches a handler uses up its slot on both
// sides, so that the slot's next call is taken.
func TestRefusedChangesKeepTheirSlots(t *testing.T) {
	s := newService()
	_, client := rpctest.Pair(t, &s.mux, nil)
	ctx := testContext(t)
	for i := range uint64(3 * rpc.DefaultSlots) {
		_, err := rpc.CallWith(ctx, client, opCount, &number{1}, &number{}, rpc.Extra{Object: 12345})
		if !errors.Is(err, rpc.ErrNoReference) {
			t.Fatalf("call %d through no reference: %v", i, err)
		}
		if err := rpc.Call(ctx, client, opNoHandler, &number{1}, &number{}); !errors.Is(err, rpc.ErrNoMethod) {
			t.Fatalf("call %d of no method: %v", i, err)
		}
	}
	if err := rpc.Call(ctx, client, opCount, &number{2}, &number{}); err != nil {
		t.Error(err)
	}
}

var opNoHandler = rpc.Define[number, number](0x7f30, "test_no_handler", rpc.Change)

// A call that revokes the reference it was made through, and whose answer is
// lost, is answered as it ended when it is sent again.
func TestReplayThroughARevokedReference(t *testing.T) {
	session := rpctest.New(t, rpc.Config{}, rpc.Config{})
	for i := range uint64(20) {
		obj, times, cut := new(rpc.Mux), 0, make(chan struct{})
		var ref rpc.Ref
		rpc.Handle(obj, opCount, func(_ context.Context, r *rpc.Request, req, res *number) error {
			times++
			*res = *req
			r.Peer.Revoke(ref)
			session.Cut()
			close(cut)
			return nil
		})
		var err error
		if ref, err = session.Server.Export(obj, nil); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		var got number
		go func() {
			_, err := rpc.CallWith(testContext(t), session.Client, opCount, &number{i}, &got, rpc.Extra{Object: ref})
			done <- err
		}()
		<-cut
		session.Connect()
		if err := <-done; err != nil || got.N != i || times != 1 {
			t.Fatalf("%v, answer %d, executed %d times", err, got.N, times)
		}
	}
}

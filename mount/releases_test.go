package mount

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// TestReleases: files that are closed one after the other are closed at the daemon by few
// calls, each once; by a daemon that knows no such call one by one.
func TestReleases(t *testing.T) {
	for name, many := range map[string]bool{"many": true, "one by one": false} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var closed []fsproto.Handle
			calls, told := 0, make(chan struct{}, 1)
			took := func(handles ...fsproto.Handle) {
				mu.Lock()
				defer mu.Unlock()
				closed = append(closed, handles...)
				calls++
				select {
				case told <- struct{}{}:
				default:
				}
			}
			mux := fakeDaemon(nil)
			rpc.Handle(mux, fsproto.Release, func(_ context.Context, _ *rpc.Request, req *fsproto.ReleaseReq, _ *fsproto.Empty) error {
				took(req.Handle)
				return nil
			})
			if many {
				rpc.Handle(mux, fsproto.Releases, func(_ context.Context, _ *rpc.Request, req *fsproto.ReleasesReq, _ *fsproto.Empty) error {
					took(req.Handles...)
					return nil
				})
			}
			callbacks := NewCallbacks()
			_, client := rpctest.Pair(t, mux, callbacks.Mux())
			fs, err := Attach(context.Background(), client, Config{Callbacks: callbacks})
			if err != nil {
				t.Fatal(err)
			}
			defer fs.OnUnmount()
			const n = 2*fsproto.MaxReleases + 10
			for h := range n {
				fs.releaseSoon(fsproto.Handle(h + 1))
			}
			fs.hurryReleases()
			for done := false; !done; {
				<-told
				mu.Lock()
				done = len(closed) >= n
				mu.Unlock()
			}
			fs.releases.stop()
			slices.Sort(closed)
			if len(closed) != n || len(slices.Compact(closed)) != n {
				t.Errorf("%d closed, %d different ones, want %d", len(closed), len(slices.Compact(closed)), n)
			}
			if many && calls > n/10 {
				t.Errorf("%d calls for %d files", calls, n)
			}
			if left := fs.backlog.left.Load(); left != 0 {
				t.Errorf("%d are thought to be open", left)
			}
			fs.releaseSoon(1) // after the end of the mount: nothing happens
		})
	}
}

package mount

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// releaseWithin is how long the daemon is not told of a file that was written and closed,
// so that one call tells it of several: who makes many small ones closes one after the
// other. Until then others find it open, and the daemon's kernel keeps it from being run.
const releaseWithin = 4 * time.Millisecond

// releases gathers handles to be closed at the daemon.
type releases struct {
	mu      sync.Mutex
	waiting []fsproto.Handle
	timer   *time.Timer // runs while any wait, or they are being taken
	single  bool        // the daemon closes them one by one only
	stopped bool
	running sync.WaitGroup // calls
}

// stop leaves what waits to the end of the session, and returns when no call runs.
func (r *releases) stop() {
	r.mu.Lock()
	r.stopped = true
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	r.running.Wait()
}

// releaseSoon closes a handle at the daemon, with others.
func (fs *FS) releaseSoon(h fsproto.Handle) {
	fs.backlog.begin()
	r := &fs.releases
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, h)
	if r.timer == nil && !r.stopped {
		r.timer = time.AfterFunc(releaseWithin, fs.releaseNow)
	}
}

// hurryReleases has what waits closed, before somebody can notice by what a call changes
// that it is not.
func (fs *FS) hurryReleases() {
	r := &fs.releases
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil && r.timer.Stop() {
		r.timer = nil
		go fs.releaseNow()
	}
}

// releaseNow closes what waits.
func (fs *FS) releaseNow() {
	for {
		handles, single := fs.releases.take()
		if handles == nil {
			return
		}
		fs.releaseThese(handles, single)
		fs.releases.running.Done()
	}
}

// take returns handles to be closed, nil if there are none, and whether the daemon closes
// them one by one only. running is to be told when they are.
func (r *releases) take() (handles []fsproto.Handle, single bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(r.waiting), fsproto.MaxReleases)
	if n == 0 || r.stopped {
		r.waiting, r.timer = nil, nil
		return nil, false
	}
	handles, r.waiting = r.waiting[:n:n], r.waiting[n:]
	r.running.Add(1)
	return handles, r.single
}

func (fs *FS) releaseThese(handles []fsproto.Handle, single bool) {
	if !single && len(handles) > 1 {
		err := fs.releaseAll(handles)
		if !errors.Is(err, rpc.ErrNoMethod) {
			fs.backlog.end(len(handles))
			return
		}
		fs.releases.mu.Lock()
		fs.releases.single = true
		fs.releases.mu.Unlock()
	}
	for _, h := range handles {
		fs.release(h)
		fs.backlog.end(1)
	}
}

func (fs *FS) releaseAll(handles []fsproto.Handle) error {
	err := fs.link.behind(&fsproto.Releases.Info, func(ctx context.Context) error {
		return rpc.Call(ctx, fs.peer, fsproto.Releases, &fsproto.ReleasesReq{Handles: handles}, &fsproto.Empty{})
	})
	if err != nil {
		fs.log.Debug("release", "handles", len(handles), "err", err)
	}
	return err
}

package export

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/fsevents"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpc/rpctest"
)

// listener is a client that is told what others do.
type listener struct {
	*env
	told    chan fsproto.Event
	lost    chan struct{} // receives that some are missing
	recalls chan struct{} // receives before a recall is answered; nil: it is at once
}

// listener attaches to the export of v.
func (v *env) listener(events bool) *listener {
	v.t.Helper()
	l := &listener{told: make(chan fsproto.Event, 10000), lost: make(chan struct{}, 100), recalls: make(chan struct{})}
	other := *v
	l.env = &other
	l.s = v.session(Identity{Name: "listener"})
	var mux, calls rpc.Mux
	l.s.Register(&mux)
	rpc.Handle(&calls, fsproto.Recall, func(ctx context.Context, _ *rpc.Request, _ *fsproto.RecallReq, _ *fsproto.Empty) error {
		select {
		case <-l.recalls:
		case <-ctx.Done():
		}
		return nil
	})
	rpc.Handle(&calls, fsproto.Events, func(_ context.Context, _ *rpc.Request, req *fsproto.EventsReq, _ *fsproto.Empty) error {
		if req.Lost {
			l.lost <- struct{}{}
		}
		for _, e := range req.Events {
			l.told <- e
		}
		return nil
	})
	_, l.client = rpctest.Pair(v.t, &mux, &calls)
	do(l.env, fsproto.Attach, fsproto.AttachReq{})
	do(l.env, fsproto.Leases, fsproto.LeasesReq{Events: events})
	return l
}

// until returns what the listener is told up to the creation of a name.
func (l *listener) until(name string) (events []fsproto.Event) {
	l.t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case e := <-l.told:
			if e.What == fsproto.EventCreate && e.Name == name {
				return events
			}
			events = append(events, e)
		case <-late:
			l.t.Fatalf("nothing is told of %s, but %+v", name, events)
		}
	}
}

func (v *env) mkdir(parent fsproto.Node, name string) fsproto.Entry {
	v.t.Helper()
	return do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: parent, Name: name, Mode: 0o755}).Entry
}

// TestNotices: others are told what a session does, as far as they know what it is about.
func TestNotices(t *testing.T) {
	v := newEnv(t, Config{}, Identity{Name: "first"}, func(dir string) {
		must(t, os.MkdirAll(dir+"/known", 0o755))
		must(t, os.MkdirAll(dir+"/unknown", 0o755))
		must(t, os.WriteFile(dir+"/known/file", nil, 0o644))
		must(t, os.WriteFile(dir+"/unknown/file", nil, 0o644))
	})
	l, deaf := v.listener(true), v.listener(false)
	close(l.recalls)
	close(deaf.recalls)
	dir, file := l.lookup("known").Node, l.lookup("known/file").Node
	deaf.lookup("known/file")
	own, mine := v.lookup("known"), v.lookup("known/file")

	const root = fsproto.RootNode
	_, h := v.create("made", fsproto.OpenWrite)
	for range 3 {
		_, err := v.write(fsproto.WriteReq{Handle: h}, "x")
		must(t, err)
	}
	v.release(h)
	do(v, fsproto.Setattr, fsproto.SetattrReq{Node: mine.Node, Mask: fsproto.SetMode, Mode: 0o600})
	do(v, fsproto.Rename, fsproto.RenameReq{Parent: own.Node, Name: "file", NewParent: v.lookup("unknown").Node, NewName: "file"})
	do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: v.lookup("unknown").Node, Name: "file"})
	do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "made"})
	v.mkdir(v.lookup("unknown").Node, "not told")
	l.mkdir(root, "by the listener")
	v.mkdir(root, "end")

	got := l.until("end")
	got = slices.CompactFunc(got, func(a, b fsproto.Event) bool { return a == b }) // as they were taken one by one, or not
	const regular = fsproto.ModeRegular
	want := []fsproto.Event{
		{What: fsproto.EventCreate, Kind: regular, Dir: root, Name: "made"},
		{What: fsproto.EventModify, Kind: regular, Dir: root, Name: "made"},
		{What: fsproto.EventClose, Kind: regular, Dir: root, Name: "made"},
		{What: fsproto.EventAttrib, Kind: regular, Node: file, Dir: dir, Name: "file"},
		{What: fsproto.EventRename, Kind: regular, Node: file, Dir: dir, Name: "file"},
		{What: fsproto.EventDelete, Kind: regular, Node: file},
		{What: fsproto.EventDelete, Kind: regular, Dir: root, Name: "made"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("told\n%+v, want\n%+v", got, want)
	}
	if len(deaf.told) != 0 {
		t.Error("a session that did not ask is told")
	}
}

// TestNoticeAfterRecall: what a program on the server does is told after the session has
// dropped what it knows of it.
func TestNoticeAfterRecall(t *testing.T) {
	v := newEnv(t, Config{}, Identity{Name: "first"}, nil)
	if by, why := v.e.eventsBy(); by == fsproto.EventsNone {
		t.Logf("the kernel tells an ordinary user nothing: %s", why)
		return
	}
	l := v.listener(true)
	do(l.env, fsproto.Lookup, fsproto.LookupReq{Parent: fsproto.RootNode, Name: "file"}) // a lease on the name
	must(t, exec.Command("mkdir", v.path("file")).Run())                                 // what this process does is a session's
	select {
	case l.recalls <- struct{}{}:
	case e := <-l.told:
		t.Fatalf("told before the recall was answered: %+v", e)
	case <-time.After(20 * time.Second):
		t.Fatal("no recall")
	}
	close(l.recalls)
	if events := l.until("file"); len(events) != 0 {
		t.Errorf("before: %+v", events)
	}
}

// TestNoticesBounded: what is not taken is left out from some point on, and that is said.
func TestNoticesBounded(t *testing.T) {
	v := newEnv(t, Config{}, Identity{Name: "first"}, nil)
	s := v.session(Identity{Name: "slow"})
	s.notices.sending = true // but nothing is
	s.recalls.peer = new(rpc.Peer)
	for i := range maxNotices + 3 {
		s.notify(fsproto.Event{What: fsproto.EventCreate, Dir: 1, Name: fmt.Sprint(i)}, nil)
	}
	sizes := 0
	for first := true; ; first = false {
		req, _, _ := s.nextNotices()
		if req == nil {
			break
		}
		if req.Lost != first || len(req.Events) > fsproto.MaxEvents {
			t.Fatalf("lost is %t in a call with %d events", req.Lost, len(req.Events))
		}
		sizes += len(req.Events)
	}
	if sizes != maxNotices {
		t.Errorf("%d are told", sizes)
	}
}

// TestNoticesMerge: a change that says nothing new is not told again, but none is passed
// over that another one lies behind.
func TestNoticesMerge(t *testing.T) {
	q := notices{}
	modify := func(name string) *fsproto.Event {
		return &fsproto.Event{What: fsproto.EventModify, Dir: 1, Name: name}
	}
	closed := &fsproto.Event{What: fsproto.EventClose, Dir: 1, Name: "a"}
	for i, step := range []struct {
		e    *fsproto.Event
		want bool
	}{
		{modify("a"), false}, {modify("a"), true}, {modify("b"), false}, {modify("a"), true}, {closed, false},
		{modify("a"), false}, {modify("b"), true}, {&fsproto.Event{What: fsproto.EventDelete, Dir: 1, Name: "b"}, false}, {modify("b"), false},
	} {
		if got := q.merge(step.e, nil); got != step.want {
			t.Errorf("step %d: merged is %t", i, got)
		} else if !got {
			q.queue = append(q.queue, notice{event: *step.e})
		}
	}
}

// TestNoticesLost: that the kernel has lost events is told at once, not with the next one.
func TestNoticesLost(t *testing.T) {
	v := newEnv(t, Config{}, Identity{Name: "first"}, nil)
	l := v.listener(true)
	close(l.recalls)
	v.e.happened([]fsevents.Event{{Kind: fsevents.Overflow}})
	select {
	case <-l.lost:
	case <-time.After(soon):
		t.Error("it is not told")
	}
}

// A client that refuses to be called back is not told of changes either, also of none that
// are waiting when it refuses.
func TestNoticesOfWhoRefuses(t *testing.T) {
	a, _ := twoLeasers(t, Config{}, nil)
	l := &a.e.leases
	l.mu.Lock()
	a.s.recalls.peer = nil
	l.mu.Unlock()
	a.s.notify(fsproto.Event{What: fsproto.EventCreate, Dir: fsproto.RootNode, Name: "f"}, nil)
	a.s.recalls.sender.Wait()
	l.mu.Lock()
	if q := &a.s.notices; len(q.queue) > 0 || q.sending {
		t.Errorf("%d events wait, sending: %v", len(q.queue), q.sending)
	}
	l.mu.Unlock()
}

package identity

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// hold occupies a thread of id until the returned function is called.
func hold(t *testing.T, p *Pool, id ID) (release func()) {
	t.Helper()
	running, stop := make(chan struct{}), make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		do(t, p, id, func() {
			close(running)
			<-stop
		})
	})
	<-running
	return func() {
		close(stop)
		done.Wait()
	}
}

// TestBounds: no more threads than there may be, of one identity and in all.
func TestBounds(t *testing.T) {
	p := newPool(t, Config{PerIdentity: 2, Threads: 3})
	a, b := user(t, 2001), user(t, 2002)
	release := []func(){hold(t, p, a), hold(t, p, a), hold(t, p, b)}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("no longer wanted")
	var waiting sync.WaitGroup
	for _, id := range []ID{a, b, user(t, 2003)} {
		waiting.Go(func() {
			if err := p.Do(ctx, id, func() { t.Error("ran beyond the bounds") }); !errors.Is(err, why) {
				t.Errorf("error %v", err)
			}
		})
	}
	eventually(t, "three wait", func() bool { n, w, _ := p.tally(); return n == 3 && w == 3 })
	cancel(why)
	waiting.Wait()
	if n, w, crews := p.tally(); n != 3 || w != 0 || crews != 2 {
		t.Errorf("%d threads, %d waiting, %d crews", n, w, crews)
	}
	for _, f := range release {
		f()
	}
	do(t, p, user(t, 2003), func() {}) // takes the place of an idle one
	if n, _, _ := p.tally(); n > 3 {
		t.Errorf("%d threads", n)
	}
}

// TestFair: who has no thread at all gets the next one that becomes free, however
// much work its owner still has.
func TestFair(t *testing.T) {
	p := newPool(t, Config{PerIdentity: 1, Threads: 1})
	a, b := user(t, 2001), user(t, 2002)
	release := hold(t, p, a)
	var mu sync.Mutex
	var order []string
	var waiting sync.WaitGroup
	queue := func(id ID, name string, n int) {
		_, before, _ := p.tally()
		for range n {
			waiting.Go(func() {
				do(t, p, id, func() {
					mu.Lock()
					defer mu.Unlock()
					order = append(order, name)
				})
			})
		}
		eventually(t, "they wait", func() bool { _, w, _ := p.tally(); return w == before+n })
	}
	queue(a, "a", 5)
	queue(b, "b", 2)
	release()
	waiting.Wait()
	if got := strings.Join(order, ""); got[0] != 'b' || len(got) != 7 {
		t.Errorf("order %s", got)
	}
}

// TestMany runs more identities than there are threads, many times over.
func TestMany(t *testing.T) {
	p := newPool(t, Config{PerIdentity: 2, Threads: 4})
	var mu sync.Mutex
	ran := map[uint32]int{}
	var calls sync.WaitGroup
	for i := range 12 {
		id := user(t, uint32(2000+i))
		for range 4 {
			calls.Go(func() {
				for range 10 {
					do(t, p, id, func() {
						must(t, id.verify(0))
						mu.Lock()
						ran[id.UID()]++
						mu.Unlock()
					})
				}
			})
		}
	}
	calls.Wait()
	for i := range 12 {
		if n := ran[uint32(2000+i)]; n != 40 {
			t.Errorf("identity %d ran %d times", i, n)
		}
	}
	if n, w, _ := p.tally(); n > 4 || w != 0 {
		t.Errorf("%d threads, %d waiting", n, w)
	}
}

// TestCloseWhileWaiting: what waits is told, what runs is finished.
func TestCloseWhileWaiting(t *testing.T) {
	p := newPool(t, Config{PerIdentity: 1})
	id := user(t, 2001)
	release := hold(t, p, id)
	failed := make(chan error, 1)
	go func() { failed <- p.Do(context.Background(), id, func() {}) }()
	eventually(t, "it waits", func() bool { _, w, _ := p.tally(); return w == 1 })
	closed := make(chan struct{})
	go func() {
		p.Close()
		close(closed)
	}()
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
	select {
	case <-closed:
		t.Error("closed while something runs")
	default:
	}
	release()
	<-closed
}

// TestPanic: a panic is the caller's, with the stack of where it was; the thread
// and what comes after it are none the worse.
func TestPanic(t *testing.T) {
	p := newPool(t, Config{PerIdentity: 1})
	id := user(t, 2001)
	for name, run := range map[string]func(func()){
		"Do":      func(f func()) { do(t, p, id, f) },
		"Outside": Outside,
		"both":    func(f func()) { do(t, p, id, func() { Outside(f) }) },
	} {
		func() {
			defer func() {
				v, _ := recover().(string)
				if !strings.Contains(v, "oh no") || !strings.Contains(v, "TestPanic") {
					t.Errorf("%s: recovered %q", name, v)
				}
			}()
			run(func() { panic("oh no") })
		}()
	}
	ran := false
	do(t, p, id, func() { ran = true })
	if n, _, _ := p.tally(); n != 1 || !ran {
		t.Errorf("%d threads, ran: %v", n, ran)
	}
}

// TestGoexit: a function that ends its goroutine ends the thread, and the caller
// is told.
func TestGoexit(t *testing.T) {
	p := newPool(t, Config{PerIdentity: 1})
	id := user(t, 2001)
	for range 3 {
		if err := p.Do(context.Background(), id, runtime.Goexit); !errors.Is(err, errGone) {
			t.Errorf("error %v", err)
		}
	}
	do(t, p, id, func() {})
}

// TestOutside: from within an identity, the process's own rights.
func TestOutside(t *testing.T) {
	p := newPool(t, Config{})
	id := user(t, 2001)
	var uids []string
	do(t, p, id, func() {
		uids = append(uids, currentUID())
		Outside(func() { uids = append(uids, currentUID()) })
		uids = append(uids, currentUID())
	})
	if !slices.Equal(uids, []string{"2001", "0", "2001"}) {
		t.Errorf("user ids %v", uids)
	}
}

func currentUID() string {
	uid, _, _ := unix.Getresuid()
	return strconv.Itoa(uid)
}

func BenchmarkDo(b *testing.B) {
	p := newPool(b, Config{})
	id := user(b, 2001)
	b.ReportAllocs()
	f := func() {}
	for b.Loop() {
		do(b, p, id, f)
	}
}

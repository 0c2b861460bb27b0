package idname

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestMachine asks the name service of this machine.
func TestMachine(t *testing.T) {
	s := New()
	for range 2 {
		for _, k := range []Kind{User, Group} {
			if name, err := s.Name(t.Context(), k, 0); name != "root" || err != nil {
				t.Errorf("kind %d, 0 is %q, %v", k, name, err)
			}
			if id, known, err := s.ID(t.Context(), k, "root"); id != 0 || !known || err != nil {
				t.Errorf("kind %d, root is %d, %t, %v", k, id, known, err)
			}
			if name, err := s.Name(t.Context(), k, 4_111_222_333); name != "" || err != nil {
				t.Errorf("kind %d: nobody is %q, %v", k, name, err)
			}
			for _, name := range []string{"no-such-name", "0", "", "root\x00x", strings.Repeat("r", MaxName+1)} {
				if id, known, err := s.ID(t.Context(), k, name); known || err != nil {
					t.Errorf("kind %d: %q is %d, %v", k, name, id, err)
				}
			}
		}
	}
}

// fake is a name service.
type fake struct {
	calls int
	err   error
	gate  chan struct{} // if set, a call waits for one
	began chan struct{}
}

func (f *fake) wait() error {
	if f.gate != nil {
		f.began <- struct{}{}
		<-f.gate
		return f.err
	}
	f.calls++
	return f.err
}

func (f *fake) name(Kind, uint32) (string, error) { return "name", f.wait() }
func (f *fake) id(Kind, string) (uint32, error)   { return 7, f.wait() }

func TestRemembers(t *testing.T) {
	f := &fake{}
	s := newService(f)
	now := time.Now()
	s.names[User].now = func() time.Time { return now }
	ask := func(want string, calls int) {
		t.Helper()
		if got, err := s.Name(t.Context(), User, 1); got != want || err != nil || f.calls != calls {
			t.Errorf("%q, %v after %d calls; want %q after %d", got, err, f.calls, want, calls)
		}
	}
	ask("name", 1)
	ask("name", 1)
	f.err = errNone
	now = now.Add(KnownFor)
	ask("", 2)
	ask("", 2)
	f.err = nil
	now = now.Add(UnknownFor)
	ask("name", 3)
	f.err = errors.New("the directory does not answer")
	for range 2 {
		if _, err := s.Name(t.Context(), User, 2); !errors.Is(err, f.err) {
			t.Errorf("a failure of the name service: %v", err)
		}
	}
	if f.calls != 5 {
		t.Errorf("%d calls: a failure was remembered", f.calls)
	}
}

// TestSlow has the name service stop: who waits may leave, no more than
// maxCalls wait in it, and what comes late is of use.
func TestSlow(t *testing.T) {
	f := &fake{gate: make(chan struct{}), began: make(chan struct{}, 2*maxCalls)}
	s := newService(f)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	for id := range uint32(2 * maxCalls) {
		go func() {
			_, err := s.Name(ctx, User, id)
			left <- err
		}()
	}
	for range maxCalls {
		<-f.began
	}
	cancel()
	for range 2 * maxCalls {
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("a call ended with %v", err)
		}
	}
	if n := len(f.began); n > 0 {
		t.Errorf("%d more calls than %d", n, maxCalls)
	}
	close(f.gate)
	if id, known, err := s.ID(t.Context(), Group, "x"); id != 7 || !known || err != nil {
		t.Errorf("afterwards %d, %t, %v", id, known, err)
	}
}

func TestCacheBound(t *testing.T) {
	c := NewCache[int, int](3)
	for i := range 10 {
		c.Put(i, i, true)
		if v, known, fresh := c.Get(i); v != i || !known || !fresh {
			t.Errorf("%d: %d, %t, %t", i, v, known, fresh)
		}
		if len(c.answers) > 3 {
			t.Fatalf("%d answers", len(c.answers))
		}
	}
	c.Put(9, 1, false)
	if _, known, fresh := c.Get(9); known || !fresh || len(c.answers) != 3 {
		t.Error("an answer was not replaced")
	}
}

package identity

import (
	"container/list"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

// errGone is what became of a function that ended its goroutine.
var errGone = errors.New("identity: the function has ended its goroutine")

// task is one call of Do.
type task struct {
	f        func()
	done     chan struct{} // of one place
	err      error
	panicked string // "": it has not

	crew  *crew         // that it waits for
	place *list.Element // in the crew's queue; guarded by Pool.mu
}

var tasks = sync.Pool{New: func() any { return &task{done: make(chan struct{}, 1)} }}

func newTask(f func()) *task {
	t := tasks.Get().(*task)
	t.f = f
	return t
}

// run runs the function, and keeps a panic for the caller.
func (t *task) run() {
	defer func() {
		if v := recover(); v != nil {
			t.panicked = fmt.Sprintf("%v\n\n%s", v, debug.Stack())
		}
	}()
	t.f()
}

// end tells the caller; the task is the caller's from then on.
func (t *task) end(err error) {
	t.err = err
	t.done <- struct{}{}
}

// result is what Do returns when the task has ended. It gives the task back.
func (t *task) result() error {
	err, panicked := t.err, t.panicked
	*t = task{done: t.done}
	tasks.Put(t)
	if panicked != "" {
		panic(panicked)
	}
	return err
}

// Outside runs f with the process's own rights and waits for it, from within a
// function that runs as somebody else. It costs a goroutine. A panic in f is one
// of the caller.
func Outside(f func()) {
	t := newTask(f)
	go func() {
		ended := false
		defer func() {
			if !ended {
				t.end(errGone)
			}
		}()
		t.run()
		ended = true
		t.end(nil)
	}()
	<-t.done
	if err := t.result(); err != nil {
		panic(err)
	}
}

// onThread runs f on a thread of its own, which ends with it. The process's main
// thread cannot end, and others look at it to see whose the process is: it is
// left alone.
func (p *Pool) onThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // locked: the thread ends with the goroutine
	}
	elsewhere := make(chan struct{})
	p.threads.Go(func() {
		runtime.LockOSThread() // while the main thread is locked, this is another
		close(elsewhere)
		f()
	})
	<-elsewhere
	runtime.UnlockOSThread()
}

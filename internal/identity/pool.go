package identity

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Defaults of Config.
const (
	DefaultPerIdentity = 16
	DefaultThreads     = 128
	DefaultIdle        = 10 * time.Second
)

// Config describes a pool. What is 0 gets its default.
type Config struct {
	PerIdentity int           // threads of one identity
	Threads     int           // threads of all
	Idle        time.Duration // how long a thread without work is kept, up to twice of it
	Log         *slog.Logger  // nil: nothing is logged
}

// ErrClosed is what Do returns after Close.
var ErrClosed = errors.New("identity: the pool is closed")

// Pool keeps the threads. All methods are safe for concurrent use.
type Pool struct {
	cfg     Config
	threads sync.WaitGroup
	stop    chan struct{}

	mu      sync.Mutex // guards all below, and what crews hold; never held while a function runs
	closed  bool
	crews   map[ID]*crew // those with threads or waiting tasks
	total   int          // threads, those that are starting included
	blocked []*crew      // with waiting tasks, the one that waits longest first
}

// crew is the threads of one identity, and what waits for them.
type crew struct {
	id      ID
	threads int
	idle    []*thread // the one that is idle longest first
	waiting list.List // of *task
}

// thread is one thread. It serves its crew and no other.
type thread struct {
	crew  *crew
	tasks chan *task // of one place; closed to end an idle thread
	used  time.Time  // when it became idle
}

// NewPool returns a pool without threads. It ends with Close.
func NewPool(cfg Config) *Pool {
	cfg.PerIdentity = cmp.Or(cfg.PerIdentity, DefaultPerIdentity)
	cfg.Threads = cmp.Or(cfg.Threads, DefaultThreads)
	cfg.Idle = cmp.Or(cfg.Idle, DefaultIdle)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pool{cfg: cfg, stop: make(chan struct{}), crews: make(map[ID]*crew)}
	p.threads.Go(p.sweep)
	return p
}

// Close ends all threads and waits for them: what runs is finished, what waits
// fails with ErrClosed.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.stop)
	}
	for _, c := range slices.Clone(p.blocked) {
		for t := p.next(c); t != nil; t = p.next(c) {
			t.end(ErrClosed)
		}
	}
	for th := p.coldest(); th != nil; th = p.coldest() {
		p.dismiss(th)
	}
	p.mu.Unlock()
	p.threads.Wait()
}

// Do runs f on a thread of an identity and waits for it. While all threads that
// the identity may have are taken it waits for one, until ctx ends; once f has
// begun it is waited for, whatever ctx says. f must not call Do. A panic in f is
// one of the caller.
//
// The error is not f's: EPERM if no thread could take on the identity (the log
// says why; f has not run), ErrClosed, or why ctx ended.
func (p *Pool) Do(ctx context.Context, id ID, f func()) error {
	t := newTask(f)
	if err := p.submit(id, t); err != nil {
		return err
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		if p.withdraw(t) {
			return context.Cause(ctx)
		}
		<-t.done
	}
	return t.result()
}

// submit gives t to a thread, starts one for it, or lets it wait.
func (p *Pool) submit(id ID, t *task) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	c := p.crews[id]
	if c == nil {
		c = &crew{id: id}
		p.crews[id] = c
	}
	switch {
	case len(c.idle) > 0:
		th := c.idle[len(c.idle)-1] // its stack and caches are the warmest
		c.idle = c.idle[:len(c.idle)-1]
		th.tasks <- t
	case c.threads < p.cfg.PerIdentity && p.room():
		p.start(c, t)
	default:
		if c.waiting.Len() == 0 {
			p.blocked = append(p.blocked, c)
		}
		t.crew, t.place = c, c.waiting.PushBack(t)
	}
	return nil
}

// room makes room for one more thread, with mu held: by ending the thread that
// has been idle longest if there are as many as there may be.
func (p *Pool) room() bool {
	if p.total < p.cfg.Threads {
		return true
	}
	th := p.coldest()
	if th != nil {
		p.dismiss(th)
	}
	return th != nil
}

// coldest returns the thread that has been idle longest, with mu held; nil if
// none is.
func (p *Pool) coldest() (coldest *thread) {
	for _, c := range p.crews {
		if len(c.idle) > 0 && (coldest == nil || c.idle[0].used.Before(coldest.used)) {
			coldest = c.idle[0]
		}
	}
	return coldest
}

// withdraw takes back a task that no thread has taken yet.
func (p *Pool) withdraw(t *task) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.place == nil {
		return false
	}
	c := t.crew
	p.unqueue(c, t)
	p.dropEmpty(c)
	return true
}

// next takes the task of c that waits longest, with mu held; nil if none does.
func (p *Pool) next(c *crew) *task {
	front := c.waiting.Front()
	if front == nil {
		return nil
	}
	t := front.Value.(*task)
	p.unqueue(c, t)
	return t
}

func (p *Pool) unqueue(c *crew, t *task) {
	c.waiting.Remove(t.place)
	t.place = nil
	if c.waiting.Len() == 0 {
		p.blocked = slices.DeleteFunc(p.blocked, func(o *crew) bool { return o == c })
	}
}

func (p *Pool) dropEmpty(c *crew) {
	if c.threads == 0 && c.waiting.Len() == 0 {
		delete(p.crews, c.id)
	}
}

// start starts a thread of c with its first task; mu is held.
func (p *Pool) start(c *crew, t *task) {
	c.threads++
	p.total++
	th := &thread{crew: c, tasks: make(chan *task, 1)}
	p.threads.Go(func() { p.onThread(func() { p.serve(th, t) }) })
}

// dismiss ends the thread of a crew that has been idle longest; mu is held.
func (p *Pool) dismiss(th *thread) {
	c := th.crew
	c.idle = slices.Delete(c.idle, 0, 1)
	close(th.tasks)
	p.count(c)
}

// count counts a thread of c as ended, with mu held, though it may take another
// moment. If c is left without a thread, what waits lines up anew.
func (p *Pool) count(c *crew) {
	c.threads--
	p.total--
	if i := slices.Index(p.blocked, c); i >= 0 && c.threads == 0 {
		p.blocked = append(slices.Delete(p.blocked, i, i+1), c)
	}
	p.dropEmpty(c)
}

// heir returns the crew that should have the place of a thread of c that has
// nothing to do at this moment; nil if it is to stay. Whoever waits without
// having any thread goes first, then c's own work, then whoever could use one
// more: so nobody waits longer than for others' running tasks.
func (p *Pool) heir(c *crew) (more *crew) {
	for _, w := range p.blocked {
		if w.threads == 0 {
			return w
		}
		if more == nil && w != c && w.threads < p.cfg.PerIdentity {
			more = w
		}
	}
	if c.waiting.Len() > 0 {
		return nil
	}
	return more
}

// turn ends a thread's task and says what the thread does now: another task, or
// wait for one (nil). It reports false when the thread is to end.
func (p *Pool) turn(th *thread) (t *task, stay bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := th.crew
	if h := p.heir(c); h != nil || p.closed {
		p.count(c)
		if h != nil {
			p.start(h, p.next(h))
		}
		return nil, false
	}
	if t := p.next(c); t != nil {
		return t, true
	}
	th.used = time.Now()
	c.idle = append(c.idle, th)
	return nil, true
}

// lost counts a thread that ended before its time. What waited for it gets
// another one.
func (p *Pool) lost(th *thread) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count(th.crew)
	for _, c := range p.blocked {
		if c.threads < p.cfg.PerIdentity {
			p.start(c, p.next(c))
			return
		}
	}
}

// serve is a thread's life.
func (p *Pool) serve(th *thread, t *task) {
	if err := th.crew.id.assume(); err != nil {
		p.cfg.Log.Error("a thread could not take on an identity and ends", "identity", th.crew.id, "err", err)
		p.lost(th)
		t.end(fmt.Errorf("cannot act as %v: %w: %w", th.crew.id, err, syscall.EPERM))
		return
	}
	left := true
	defer func() {
		if left { // t has ended the goroutine
			p.lost(th)
			t.end(errGone)
		}
	}()
	for t != nil {
		t.run()
		done := t
		var stay bool
		// Idle before the caller knows: its next call finds this thread.
		t, stay = p.turn(th)
		left = false
		done.end(nil)
		if !stay {
			return
		}
		if t == nil {
			t = <-th.tasks // nil when it is dismissed
		}
		left = t != nil
	}
}

// sweep ends threads that had nothing to do for a while.
func (p *Pool) sweep() {
	tick := time.NewTicker(p.cfg.Idle)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-tick.C:
			p.dismissIdle(now.Add(-p.cfg.Idle))
		}
	}
}

// dismissIdle ends the threads that have been idle since before.
func (p *Pool) dismissIdle(before time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for th := p.coldest(); th != nil && !th.used.After(before); th = p.coldest() {
		p.dismiss(th)
	}
}

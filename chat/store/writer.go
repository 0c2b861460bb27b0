package store

import (
	"context"
	"fmt"
	"sync"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Bounds of a batch: what one transaction takes at most.
const (
	maxBatch     = 512
	maxBatchSize = 4 << 20
)

// change is a change that somebody waits for. run checks it against the batch
// and then writes it: a run that refuses has written nothing. What it returns
// beside the error it leaves in variables of the caller, who reads them after
// done.
type change struct {
	run  func(b *batch) error
	size int // bytes of bodies, about
	err  error
	done chan struct{}

	// Guarded by queue.mu.
	taken bool
	gone  bool // its caller has given up
}

// queue holds the changes until the writer takes them.
type queue struct {
	mu     sync.Mutex
	list   []*change
	closed bool
	wake   chan struct{} // has room for one
}

// do has the writer carry out run, and returns when it is on the disk or
// refused. If ctx ends while the change waits it is withdrawn; once the writer
// has it, its true outcome is awaited.
func (s *Store) do(ctx context.Context, size int, run func(b *batch) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c := &change{run: run, size: size, done: make(chan struct{})}
	if err := s.queue.add(c); err != nil {
		return err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	if s.queue.withdraw(c) {
		return context.Cause(ctx)
	}
	<-c.done
	return c.err
}

func (q *queue) add(c *change) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	q.list = append(q.list, c)
	q.ring()
	return nil
}

// ring wakes the writer. mu is held.
func (q *queue) ring() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// withdraw reports whether c was still waiting and will not be carried out.
func (q *queue) withdraw(c *change) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	c.gone = !c.taken
	return c.gone
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ring()
}

// take returns the next changes, in the order in which they came, or nil at the
// end: the queue is closed and empty.
func (q *queue) take() []*change {
	for {
		if batch, over := q.grab(); len(batch) > 0 || over {
			return batch
		}
		<-q.wake
	}
}

func (q *queue) grab() (batch []*change, over bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for _, c := range q.list {
		if len(batch) == maxBatch || len(batch) > 0 && size+c.size > maxBatchSize {
			break
		}
		n++
		if !c.gone {
			c.taken = true
			size += c.size
			batch = append(batch, c)
		}
	}
	clear(q.list[:n])
	q.list = q.list[n:]
	return batch, q.closed && len(batch) == 0
}

// batch is what one transaction changes. Only the writer's goroutine uses it.
type batch struct {
	s       *Store
	db      *conn
	now     int64 // microseconds since 1970 UTC; never less than in an earlier batch
	touched map[chatproto.RoomID]struct{}
	marks   map[*member]uint64
	apply   []func() // what readers see after the commit, in order; Store.mu is held
	changes []Change
	failed  error // the database refused something: nothing of the batch is kept
}

// write is the writer: it carries out changes until the queue is closed.
func (s *Store) write() {
	defer close(s.written)
	for {
		list := s.queue.take()
		if list == nil {
			return
		}
		s.transact(list)
		for _, c := range list {
			close(c.done)
		}
	}
}

// transact carries out the changes of list in one transaction. One that is
// refused leaves the others alone; if the database fails, all of them do.
func (s *Store) transact(list []*change) {
	s.clock = max(s.clock, s.cfg.Now().UnixMicro())
	b := &batch{
		s: s, db: s.writer, now: s.clock,
		touched: make(map[chatproto.RoomID]struct{}), marks: make(map[*member]uint64),
	}
	place, users := s.place, len(s.names)
	b.exec("BEGIN IMMEDIATE")
	for _, c := range list {
		if b.failed != nil {
			break
		}
		c.err = c.run(b)
	}
	if b.failed == nil {
		b.trim()
	}
	if b.failed == nil {
		b.commit()
	}
	if b.failed != nil {
		s.undo(b, place, users)
		for _, c := range list {
			c.err = b.failed
		}
		return
	}
	s.publish(b)
}

// exec runs a statement of the batch. The first error ends the batch.
func (b *batch) exec(text string, args ...any) {
	if b.failed == nil {
		b.fail(b.db.exec(text, args...))
	}
}

// insert is exec for a statement that may find that there is nothing to do. It
// returns how many rows it has changed.
func (b *batch) insert(text string, args ...any) int64 {
	if b.failed != nil {
		return 0
	}
	n, err := b.db.change(text, args...)
	b.fail(err)
	return n
}

// fail makes err, unless it is nil, the end of the batch.
func (b *batch) fail(err error) error {
	if b.failed == nil {
		b.failed = err
	}
	return err
}

func (b *batch) commit() {
	if hook := b.s.commitHook; hook != nil {
		b.fail(hook())
	}
	b.exec("COMMIT")
}

// undo forgets what a failed batch has done in memory and in the database.
func (s *Store) undo(b *batch, place int64, users int) {
	_ = b.db.exec("ROLLBACK") // the database may have done it already
	s.log.Error("chat: nothing can be stored", "err", b.failed)
	s.place = place
	for _, name := range s.names[users:] {
		delete(s.ids, name)
	}
	s.names = s.names[:users]
	for id := range b.touched {
		if r := s.seen.rooms[id]; r != nil {
			s.own.put(r)
		} else {
			s.own.drop(id)
		}
	}
	b.failed = fmt.Errorf("not stored: %w", b.failed)
}

// publish lets readers see what has been committed, and tells the service.
func (s *Store) publish(b *batch) {
	s.mu.Lock()
	for id := range b.touched {
		s.seen.put(s.own.rooms[id])
	}
	for _, apply := range b.apply {
		apply()
	}
	s.view = view{names: s.names, place: s.place}
	for id := range b.touched {
		if s.own.rooms[id].dead() {
			s.own.drop(id)
			s.seen.drop(id)
		}
	}
	s.mu.Unlock()
	if s.cfg.Committed != nil && len(b.changes) > 0 {
		s.cfg.Committed(b.changes)
	}
}

// put makes r the state of its room that the rest of the batch sees.
func (b *batch) put(r *room) {
	b.s.own.put(r)
	b.touched[r.id] = struct{}{}
}

// room returns the room if user may act in it.
func (b *batch) room(user string, id chatproto.RoomID) (*room, error) {
	r := b.s.own.rooms[id]
	if r == nil || !r.has(user) {
		return nil, chatproto.ErrNoRoom
	}
	return r, nil
}

// user returns the number that stands for a name in the database.
func (b *batch) user(name string) int64 {
	s := b.s
	if id, known := s.ids[name]; known {
		return id
	}
	id := int64(len(s.names)) + 1
	b.exec("INSERT INTO users(id, name) VALUES (?, ?)", id, name)
	s.names = append(s.names, name)
	s.ids[name] = id
	return id
}

// userOrNull returns the number of a user, or nil for nobody.
func (b *batch) userOrNull(name string) any {
	if name == "" {
		return nil
	}
	return b.user(name)
}

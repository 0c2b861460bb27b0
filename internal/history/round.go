package history

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Client takes part in a round.
type Client struct {
	Number  int           // Server or the number of a mount
	Dir     string        // where it sees the export
	Workers int           // how many goroutines work for it at once
	Steps   int           // what each of them does
	Pause   time.Duration // the longest that each rests after every second step
}

// A Round is a while of random work of several clients in a fresh directory.
type Round struct {
	Clock   Clock
	Name    string   // of the directory, below each client's
	Clients []Client // the first one makes the directory
	Seed    uint64
	// Grace is how long the mounts may take to see a change by Server.
	Grace time.Duration
	// Owners lets files be given away, for which every client must have the right.
	Owners bool
	// Contents leaves everything else but the contents of files alone.
	Contents bool
	// Loaders are as many as there are workers, or more.
	Loaders []*Loader
}

// The objects of a round: names that come and go, a file that is truncated now
// and then, one that is mapped, and one for attributes.
var (
	names                         = []string{"n0", "n1", "n2", "n3"}
	truncated, mapped, attributed = "c0", "c1", "a0"
	permanent                     = []string{truncated, mapped, attributed}
)

// A Log is what the clients of a round did and saw.
type Log struct {
	round    *Round
	initial  map[string]string // states of the objects at first
	ops      map[string][]Op   // by object: KIND NAME
	failures []Failure
}

// A Failure is an operation with an error that no model knows. The worker that
// met it has left the round.
type Failure struct {
	Op
	Object string // "" if it was to prepare or to clean up
	Cause  error
}

func (f Failure) String() string {
	return fmt.Sprintf("%s: %s %s: %v (after %.1f ms)", nameOf(f.Client), f.Call, f.Object, f.Cause, ms(f.End-f.Start))
}

// Run makes the directory, lets the clients work and returns when all of them
// have done their steps.
func (r *Round) Run() (*Log, error) {
	log := &Log{round: r, initial: make(map[string]string), ops: make(map[string][]Op)}
	if err := r.prepare(log, filepath.Join(r.Clients[0].Dir, r.Name)); err != nil {
		return nil, fmt.Errorf("round %s: %s makes the directory: %w", r.Name, nameOf(r.Clients[0].Number), err)
	}
	var actors []*actor
	values := new(atomic.Uint32)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for _, c := range r.Clients {
		for w := range c.Workers {
			a := newActor(r, c, w, values, r.Loaders[len(actors)])
			actors = append(actors, a)
			ready.Add(1)
			done.Go(func() {
				a.open()
				ready.Done()
				<-start
				a.work(c.Steps, c.Pause)
				a.close()
			})
		}
	}
	ready.Wait()
	close(start)
	done.Wait()
	for _, a := range actors {
		for object, ops := range a.ops {
			log.ops[object] = append(log.ops[object], ops...)
		}
		if a.failed != nil {
			log.failures = append(log.failures, *a.failed)
		}
	}
	return log, nil
}

// prepare makes the round's directory with what is always there.
func (r *Round) prepare(log *Log, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, private), 0o755); err != nil {
		return err
	}
	for _, name := range permanent {
		if err := os.WriteFile(filepath.Join(dir, name), content("init"), 0o644); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, attributed)
	if err := os.Chtimes(path, time.Time{}, time.Unix(firstTime, 0)); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	for attribute, value := range attributes(&st) {
		log.initial[attribute+" "+attributed] = value
	}
	log.initial["content "+truncated], log.initial["content "+mapped] = "init", "init"
	return nil
}

// attributes are those of a file that the rounds change, as their states.
func attributes(st *unix.Stat_t) map[string]string {
	return map[string]string{
		"mode":  fmt.Sprintf("%#o", st.Mode&0o7777),
		"mtime": strconv.FormatInt(st.Mtim.Sec, 10),
		"owner": strconv.FormatUint(uint64(st.Uid), 10),
	}
}

// models are the models of the kinds of objects.
var models = map[string]Model{
	"name": Name, "content": Content, "mode": Attribute, "mtime": Attribute, "owner": Attribute,
}

// Check returns what cannot be explained, at most one violation per object and
// listing, and the failures that no outage of their client excuses.
func (l *Log) Check(outages ...Outage) ([]*Violation, []Failure) {
	var violations []*Violation
	for _, ops := range l.ops {
		excuse(ops, outages)
	}
	for _, object := range slices.Sorted(maps.Keys(l.ops)) {
		kind, _, _ := strings.Cut(object, " ")
		if models[kind] == nil {
			continue
		}
		h := l.history(object)
		if v := h.violation(object, l.initial[object]); v != nil {
			violations = append(violations, v)
		}
	}
	violations = append(violations, l.checkListings()...)
	failures := slices.DeleteFunc(slices.Clone(l.failures), func(f Failure) bool {
		return slices.ContainsFunc(outages, func(out Outage) bool { return out.overlaps(&f.Op) })
	})
	return violations, failures
}

// history is an object's history as far as the outcome of every change is known,
// and as far as it can be checked.
func (l *Log) history(object string) *history {
	kind, _, _ := strings.Cut(object, " ")
	h := &history{models[kind], l.ops[object], l.round.Grace}
	h.ops = withoutOwn(h.ops)
	const unsure = 64 // many more than can be under way at once
	if ends := h.times(func(o *Op) time.Duration { return o.End }); len(ends) > maxOps-unsure {
		h = h.until(ends[maxOps-unsure])
	}
	for _, f := range l.failures {
		if f.Object == object {
			h = h.until(f.Start)
		}
	}
	return h
}

// Count is the number of operations.
func (l *Log) Count() int {
	n := 0
	for _, ops := range l.ops {
		n += len(ops)
	}
	return n
}

// Slowest is the operation that took longest, of those that no outage of their
// client excuses.
func (l *Log) Slowest(outages ...Outage) (slowest Op) {
	for _, ops := range l.ops {
		for _, o := range ops {
			excused := slices.ContainsFunc(outages, func(out Outage) bool { return out.overlaps(&o) })
			if !excused && o.End-o.Start > slowest.End-slowest.Start {
				slowest = o
			}
		}
	}
	return slowest
}

func newActor(r *Round, c Client, worker int, values *atomic.Uint32, loader *Loader) *actor {
	id := fmt.Sprintf("%d%c", c.Number, 'a'+worker)
	return &actor{
		round: r, client: c.Number, id: id, dir: filepath.Join(c.Dir, r.Name),
		rand: rand.New(rand.NewPCG(r.Seed, uint64(c.Number)<<8|uint64(worker))),
		ops:  make(map[string][]Op), fds: make(map[string]int), values: values, loader: loader,
	}
}

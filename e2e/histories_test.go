package e2e

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/internal/history"
)

const (
	// grace is how long a change on the server's own disk may take to reach the
	// mounts. It is milliseconds where the machine is not busy.
	grace = time.Second
	// recallTimeout is how long a client that does not answer keeps others waiting.
	recallTimeout = 10 * time.Second
	// workers is how many work at once at most.
	workers = 6
)

// histories is a daemon with mounts, each of them behind a proxy of its own, and
// what has been found wrong so far.
type histories struct {
	*world
	clock   history.Clock
	seed    uint64
	mounts  []history.Client
	proxies []*proxy
	loaders []*history.Loader

	broken  bool // the daemon is: violations are looked for
	rounds  int
	found   map[string]int // violations by kind
	outages outages
}

// newHistories starts a daemon and three mounts, which live for a while.
func newHistories(t *testing.T, while time.Duration, owners bool) *histories {
	t.Helper()
	h := &histories{
		world: newWorldFor(t, while+8*time.Minute), found: make(map[string]int),
		seed: uint64(setting(t, "RPYCFS_HISTORY_SEED", int(time.Now().UnixNano()%1e9)+1)),
	}
	t.Logf("RPYCFS_HISTORY_SEED=%d", h.seed)
	var options []string
	if owners {
		h.serveOwners()
		options = append(options, "idmap=raw")
	} else {
		h.serve()
	}
	for i := range 3 {
		dir := filepath.Join(h.dir, "m"+strconv.Itoa(i+1))
		must(t, os.Mkdir(dir, 0o755))
		p := newProxy(t, h.port, false)
		h.mountAt(p.port, "/", dir, options...)
		h.proxies = append(h.proxies, p)
		h.mounts = append(h.mounts, history.Client{Number: i + 1, Dir: dir, Workers: workers / 3, Steps: 60, Pause: 4 * time.Millisecond})
	}
	t.Cleanup(func() { sweep(t, h.dir) }) // before the proxies end
	for range workers {
		l, err := history.NewLoader()
		must(t, err)
		t.Cleanup(func() { must(t, l.Close()) })
		h.loaders = append(h.loaders, l)
	}
	h.clock = history.NewClock()
	return h
}

// serveOwners starts a daemon that lets its clients' root give files away.
func (h *histories) serveOwners() {
	h.t.Helper()
	h.enrol(testUser)
	must(h.t, auth.EditUsers(h.users, func(u *auth.Users) error {
		user, _ := u.Lookup(testUser)
		user.Trusted, user.NoRootSquash = true, true
		u.Delete(testUser)
		return u.Add(user)
	}))
	h.serveWith([]string{"--users=" + h.users, "--run-as=caller"})
}

// run does rounds until the time is over, at least one, and reports what has no
// explanation, once for each kind.
func (h *histories) run(t *testing.T, while time.Duration, round history.Round) {
	t.Helper()
	began, ops := h.rounds, 0
	for end := time.Now().Add(while); ; {
		h.rounds++
		round.Loaders = h.loaders
		round.Clock, round.Name, round.Seed = h.clock, fmt.Sprintf("r%d", h.rounds), h.seed+uint64(h.rounds)<<32
		log, err := round.Run()
		must(t, err)
		ops += log.Count()
		h.check(t, round.Name, log)
		if time.Now().After(end) || h.broken && len(h.found) > 0 {
			break
		}
	}
	t.Logf("%d rounds, %d operations; violations: %v", h.rounds-began, ops, h.found)
}

// check reports what is wrong with a round.
func (h *histories) check(t *testing.T, round string, log *history.Log) {
	t.Helper()
	outages := h.outages.list()
	violations, failures := log.Check(outages...)
	for _, v := range violations {
		if h.found[v.Kind()]++; h.found[v.Kind()] > 1 {
			continue
		}
		report := t.Errorf
		if h.broken {
			report = t.Logf
		}
		report("%v after the start, round %s, seed %d: %s", h.clock.Now().Round(time.Millisecond), round, h.seed, v)
	}
	for _, f := range failures {
		t.Errorf("round %s, seed %d: %s", round, h.seed, f)
	}
	if o := log.Slowest(outages...); o.End-o.Start > recallTimeout+5*time.Second {
		t.Errorf("round %s, seed %d: took %v: %v", round, h.seed, o.End-o.Start, &o)
	}
}

// lasting is a time from the environment.
func lasting(t testing.TB, name string, otherwise time.Duration) time.Duration {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		t.Fatalf("%s=%s is no time", name, s)
	}
	return d
}

// TestHistories: when a call of one client that changes something has returned,
// every other client sees it, at once. What is changed on the server's own disk,
// they see within a second.
func TestHistories(t *testing.T) {
	needFUSE(t)
	while := lasting(t, "RPYCFS_HISTORY", 5*time.Second)
	h := newHistories(t, while, false)
	t.Run("mounts", func(t *testing.T) {
		h.run(t, while/5, history.Round{Clients: h.mounts})
	})
	t.Run("contents", func(t *testing.T) {
		h.run(t, while/5, history.Round{Clients: h.mounts, Contents: true})
	})
	t.Run("server", func(t *testing.T) {
		h.run(t, while*2/5, history.Round{Clients: h.withServer(), Grace: grace})
	})
	if os.Geteuid() != 0 {
		return // who is not root can give no files away
	}
	t.Run("owners", func(t *testing.T) {
		h := newHistories(t, while, true)
		h.run(t, while/5, history.Round{Clients: h.mounts, Owners: true})
	})
}

// TestBrokenRecall: a daemon that forgets one recall in fifty is found out, within a
// minute.
func TestBrokenRecall(t *testing.T) {
	needFUSE(t)
	right := bin
	broken := t.TempDir()
	must(t, build(broken, "-tags=brokenrecall"))
	bin = broken
	defer func() { bin = right }()
	h := newHistories(t, time.Minute, false)
	h.broken = true
	h.run(t, time.Minute, history.Round{Clients: h.mounts})
	if len(h.found) == 0 {
		t.Error("not found out within a minute")
	}
}

// withServer are the mounts, slowed down so that most of what they do comes after
// the grace of the last of the server's changes.
func (h *histories) withServer() []history.Client {
	var clients []history.Client
	for _, c := range h.mounts {
		c.Workers, c.Steps, c.Pause = 1, 160, 60*time.Millisecond
		clients = append(clients, c)
	}
	server := history.Client{Number: history.Server, Dir: h.export, Workers: 1, Steps: 40, Pause: 20 * time.Millisecond}
	return append(clients, server)
}

// TestHistoriesWithFaults stops the processes of mounts, and cuts and stalls
// their connections, one at a time. That one may go on telling of the moment of
// the cut until its first call that has reached the server again; the others go
// on as if nothing were, and wait no longer than for a recall.
func TestHistoriesWithFaults(t *testing.T) {
	needFUSE(t)
	while := lasting(t, "RPYCFS_HISTORY_FAULTS", 5*time.Second)
	h := newHistories(t, while, false)
	faults, stop := h.faults(t), make(chan struct{})
	var disturbing sync.WaitGroup
	disturbing.Go(func() { h.disturb(t, stop, faults, while) })
	defer disturbing.Wait() // then nothing stands still any more
	defer close(stop)
	h.run(t, while, history.Round{Clients: h.mounts})
}

// disturb makes faults until it is told to stop.
func (h *histories) disturb(t *testing.T, stop <-chan struct{}, faults []fault, while time.Duration) {
	random := rand.New(rand.NewPCG(h.seed, 1))
	upTo := func(most time.Duration) time.Duration { return time.Duration(random.Int64N(int64(most))) }
	for n := 0; ; n++ {
		select {
		case <-stop:
			t.Logf("%d faults", n)
			return
		case <-time.After(200*time.Millisecond + upTo(300*time.Millisecond)):
		}
		most := time.Second
		if while >= time.Minute && random.IntN(20) == 0 {
			most = 2 * recallTimeout // then others go on without the client
		}
		i := random.IntN(len(h.mounts))
		h.fault(t, i, faults[random.IntN(len(faults))], upTo(most))
	}
}

// A fault begins, or ends, for a mount.
type fault func(mount int, on bool)

func (h *histories) faults(t *testing.T) []fault {
	t.Helper()
	pids := make([]int, len(h.mounts))
	for i, c := range h.mounts {
		all := processesWith("mount.rpycfs", c.Dir+"\x00")
		if len(all) != 1 {
			t.Fatalf("processes behind %s: %v", c.Dir, all)
		}
		pids[i] = all[0]
	}
	return []fault{
		func(i int, on bool) {
			signal := syscall.SIGCONT
			if on {
				signal = syscall.SIGSTOP
			}
			if err := syscall.Kill(pids[i], signal); err != nil {
				t.Errorf("mount %d: %v", i+1, err)
			}
		},
		func(i int, on bool) { h.proxies[i].block(on) },
		func(i int, on bool) { h.proxies[i].stall(on) },
	}
}

// fault lets a fault last for a time, and waits until the mount has reached the
// server again. No program may be started meanwhile: a new process closes what
// this one has open on the mount, and waits for it.
func (h *histories) fault(t *testing.T, i int, fault fault, lasts time.Duration) {
	end := h.outages.begin(h.mounts[i].Number, h.clock)
	fault(i, true)
	time.Sleep(lasts) // the fault itself
	fault(i, false)
	probe := filepath.Join(h.mounts[i].Dir, fmt.Sprintf("reached-%d", h.clock.Now()))
	if err := os.Mkdir(probe, 0o755); err != nil {
		t.Errorf("mount %d does not come back after %v: %v", i+1, lasts, err)
	}
	end()
}

// outages are those so far, for use by several goroutines.
type outages struct {
	mu  sync.Mutex
	all []history.Outage
}

// begin notes an outage that lasts until the function it returns is called.
func (o *outages) begin(client int, clock history.Clock) (end func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := len(o.all)
	o.all = append(o.all, history.Outage{Client: client, From: clock.Now(), To: math.MaxInt64})
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.all[i].To = clock.Now()
	}
}

func (o *outages) list() []history.Outage {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]history.Outage(nil), o.all...)
}

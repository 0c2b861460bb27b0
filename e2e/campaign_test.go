package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A campaign lets processes work through two mounts while connections and the daemon
// fail, in rounds. After each it looks at what is left on the server, with everything
// quiet. RPYCFS_CAMPAIGN=30m RPYCFS_CAMPAIGN_SEED=… is the long run: `make soak`.

// TestCampaignKept: with the keeper alive no program sees an error; nothing is done twice,
// and nothing that was acknowledged is lost.
func TestCampaignKept(t *testing.T) {
	c := newCampaign(t, 8*time.Second, false, "--lock-grace=5m") // some faults follow each other closely
	c.rounds(c.minutes(2), c.length, func(quiet func() bool) {
		c.disturb(quiet, c.killed, c.killed, c.killed, c.restarted)
	})
	c.holds("ok removed", "ok locked", "EAGAIN")
	c.finish()
}

// TestCampaignLost kills the keeper too: that is as before, but that files are ESTALE
// which have no name, and EIO if a lock was lost.
func TestCampaignLost(t *testing.T) {
	c := newCampaign(t, 4*time.Second, true)
	c.rounds(c.minutes(1), c.length, func(quiet func() bool) {
		c.allKilled()
		c.disturb(quiet, c.allKilled, c.allKilled, c.keeperKilled, c.restarted)
	})
	c.holds("ESTALE", "EIO", "ok")
	c.finish()
}

// TestCampaignBlackholed swallows everything from and to one of the mounts, for five
// minutes in the long run. The other one goes on, and this one does afterwards; it has lost
// its locks.
func TestCampaignBlackholed(t *testing.T) {
	grace, gone, n := time.Second, 3*time.Second, 1
	if long(t) { // a sixth is five minutes of the usual half hour
		grace, gone, n = 30*time.Second, lasting(t, "RPYCFS_CAMPAIGN", 0)/6, 2
	}
	c := newCampaign(t, gone, true, "--lock-grace="+grace.String())
	c.rounds(n, time.Duration(n)*(gone+c.most), func(quiet func() bool) {
		c.pause(quiet, c.least)
		c.proxies[0].stall(true)
		if !long(t) {
			c.proxies[0].forsake() // it takes the daemon 15 s to notice
		}
		c.pause(quiet, gone)
		c.proxies[0].stall(false)
	})
	c.holds("ok removed", "EIO", "ok")
	c.finish()
}

// crew are the programs of a campaign.
var crew = []string{
	"append", "append", "append", "append", "exclusive", "exclusive", "rename", "exchange", "directories", "links",
	"xattrs", "removed", "count", "count", "count", "sqlite", "sqlite", "git", "files", "files",
}

type campaign struct {
	*world
	losing      bool // locks, and files without names, may be lost
	length      time.Duration
	least, most time.Duration // between two faults
	seed        int
	proxies     [2]*proxy
	mounts      [2]string
	held        [3]*locker // who has open a removed file, has locked another, wants that lock
	samples     []usage
	steps       map[string]int // that programs took
	lost        map[string]int // errors that programs met

	mu     sync.Mutex
	faults map[string]int
}

// long reports whether this is the long run.
func long(t testing.TB) bool { return lasting(t, "RPYCFS_CAMPAIGN", time.Second) >= time.Minute }

func newCampaign(t *testing.T, length time.Duration, losing bool, args ...string) *campaign {
	t.Helper()
	needFUSE(t)
	length = lasting(t, "RPYCFS_CAMPAIGN", length)
	c := &campaign{
		world: newWorldFor(t, 2*length+5*time.Minute), losing: losing, length: length,
		least: 100 * time.Millisecond, most: time.Second,
		seed:  setting(t, "RPYCFS_CAMPAIGN_SEED", 1+int(time.Now().UnixNano()%1e6)),
		steps: make(map[string]int), lost: make(map[string]int), faults: make(map[string]int),
	}
	if long(t) {
		c.least, c.most = 10*c.least, 10*c.most
	}
	t.Logf("seed %d, %v", c.seed, length)
	c.serve(args...)
	c.mounts = [2]string{c.mnt, c.mnt + "2"}
	must(t, os.Mkdir(c.mounts[1], 0o755))
	for i, dir := range c.mounts {
		c.proxies[i] = newProxy(t, c.port, false)
		c.mountAt(c.proxies[i].port, "/", dir)
	}
	c.hold()
	return c
}

// minutes is how many rounds of a minute there are, or a few shorter ones.
func (c *campaign) minutes(least int) int { return max(least, int(c.length/time.Minute)) }

// hold starts processes that have open files during the whole campaign.
func (c *campaign) hold() {
	for i := range c.held {
		c.held[i] = newLocker(c.t)
	}
	for i, name := range []string{"removed", "locked", "locked"} {
		path := filepath.Join(c.mounts[i/2], name)
		c.held[i].want("ok", "open x %d %s", os.O_RDWR|os.O_CREATE, path)
		if i < 2 {
			c.held[i].want("ok", "write x %s", name)
		}
	}
	c.held[1].want("ok", "ofd x w 0 9")
	must(c.t, os.Remove(filepath.Join(c.mnt, "removed")))
}

// holds wants the answers of those that have open files: what the removed one and the
// locked one hold, and whether the lock is free.
func (c *campaign) holds(removed, locked, lock string) {
	c.t.Helper()
	c.held[0].want(removed, "read x")
	c.held[1].want(locked, "read x")
	c.held[2].want(lock, "ofd x w 0 9")
	for _, l := range c.held {
		l.end()
	}
}

// rounds lets programs work n times, for as long in all, while f disturbs them until its
// argument says that it should be quiet.
func (c *campaign) rounds(n int, all time.Duration, f func(quiet func() bool)) {
	c.t.Helper()
	for i := range n {
		dir := fmt.Sprint("round", i)
		c.prepare(dir)
		end := time.Now().Add(all / time.Duration(n))
		working := c.work(dir, end)
		f(func() bool { return !time.Now().Before(end) })
		reports := working()
		c.reach()
		c.check(dir, reports)
		if c.t.Failed() {
			c.t.FailNow()
		}
		must(c.t, os.RemoveAll(filepath.Join(c.mnt, dir)))
		c.samples = append(c.samples, c.settled())
	}
}

// prepare makes the directory of a round.
func (c *campaign) prepare(dir string) {
	c.t.Helper()
	at := filepath.Join(c.mnt, dir)
	for _, d := range []string{"", "names", "moved"} {
		must(c.t, os.Mkdir(filepath.Join(at, d), 0o755))
	}
	must(c.t, os.WriteFile(filepath.Join(at, "log"), nil, 0o644))
	must(c.t, os.WriteFile(filepath.Join(at, "counter"), []byte("0"), 0o644))
	for who, kind := range crew {
		if path := database(at, who, c.losing); kind == "sqlite" && !exists(path) {
			c.sql(path, "create table t(who, i, text);")
		}
	}
}

// work starts the crew. What it returns waits for all of them and returns their reports.
func (c *campaign) work(dir string, end time.Time) func() []report {
	c.t.Helper()
	jobs := make([]*job, len(crew))
	for i, kind := range crew {
		jobs[i] = c.program(kind, filepath.Join(c.mounts[i%2], dir), i, c.losing, end)
	}
	return func() []report {
		c.t.Helper()
		reports := make([]report, len(jobs))
		for i, j := range jobs {
			reports[i] = j.report()
			c.steps[crew[i]] += reports[i].Steps
			for what, n := range reports[i].Lost {
				c.lost[what] += n
			}
		}
		return reports
	}
}

// reach waits until both mounts reach the daemon.
func (c *campaign) reach() {
	c.t.Helper()
	for _, dir := range c.mounts {
		probe := filepath.Join(dir, "probe")
		must(c.t, os.Mkdir(probe, 0o755))
		must(c.t, os.Remove(probe))
	}
}

// disturb makes faults of the connections, and such as these of the daemon, until it
// should be quiet. What is done when follows from the seed.
func (c *campaign) disturb(quiet func() bool, daemon ...func()) {
	var links sync.WaitGroup
	defer links.Wait()
	seed := uint64(c.seed + len(c.samples))
	for i := range c.proxies {
		links.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for c.pause(quiet, c.moment(random)) {
				c.linkFault(quiet, random, c.proxies[i])
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, 9))
	for c.pause(quiet, c.moment(random)) {
		daemon[random.IntN(len(daemon))]()
	}
}

// moment is how long to wait for the next fault.
func (c *campaign) moment(random *rand.Rand) time.Duration {
	return c.least + time.Duration(random.Int64N(int64(c.most-c.least)))
}

// pause waits, and reports whether it need not be quiet after that.
func (c *campaign) pause(quiet func() bool, d time.Duration) bool {
	for end := time.Now().Add(d); time.Now().Before(end) && !quiet(); {
		time.Sleep(min(50*time.Millisecond, time.Until(end)))
	}
	return !quiet()
}

// linkFault does something to the connections of a mount.
func (c *campaign) linkFault(quiet func() bool, random *rand.Rand, p *proxy) {
	most := c.most / 3
	if random.IntN(10) == 0 {
		most = 2 * c.most // longer than the mount waits for an answer
	}
	d := time.Duration(random.Int64N(int64(most)))
	while := func() { c.pause(quiet, d) }
	switch random.IntN(8) {
	case 0:
		c.did("cut")
		p.cut()
	case 1:
		c.did("stalled")
		p.stall(true)
		while()
		p.stall(false)
	case 2:
		c.did("delayed")
		p.delay.Store(int64(time.Millisecond + d/50))
		while()
		p.delay.Store(0)
	case 3:
		c.did("half closed, to the daemon")
		p.halfClose(true)
	case 4:
		c.did("half closed, to the mount")
		p.halfClose(false)
	case 5:
		c.did("passed on late")
		p.late(while)
	case 6:
		c.did("reordered")
		p.reorder(d, while)
	case 7:
		c.did("gone")
		p.block(true)
		while()
		p.block(false)
	}
}

func (c *campaign) did(fault string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[fault]++
}

func (c *campaign) killed() {
	c.did("killed")
	c.kill()
}

func (c *campaign) restarted() {
	c.did("restarted")
	if !eventually(patience, func() bool { return listening(c.port) }) { // before that a signal just kills it
		c.t.Error("the daemon does not listen")
	}
	c.restart()
}

// allKilled kills the daemon and its keeper, and starts the daemon again.
func (c *campaign) allKilled() {
	c.did("all killed")
	c.crash()
	c.killKeeper()
	c.start()
}

func (c *campaign) keeperKilled() {
	c.did("keeper killed")
	c.killKeeper()
}

func (c *campaign) killKeeper() {
	for _, pid := range c.keepers() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
}

// sql runs sqlite3 and returns what it prints.
func (c *campaign) sql(path, script string) string {
	c.t.Helper()
	cmd := c.command("sqlite3", "-batch", "-bail", path)
	cmd.Stdin = strings.NewReader(script)
	return c.run(cmd)
}

// check compares what the programs have told with what is on the server.
func (c *campaign) check(dir string, reports []report) {
	c.t.Helper()
	at := func(names ...string) string { return filepath.Join(append([]string{c.export, dir}, names...)...) }
	read := func(names ...string) string {
		text, err := os.ReadFile(at(names...))
		if err != nil {
			c.t.Error(err)
		}
		return string(text)
	}
	c.checkLog(read("log"), reports)
	won := make(map[string]int)
	counted, doubtful := 0, 0
	for who, r := range reports {
		for _, name := range r.Won {
			if other, taken := won[name]; taken {
				c.t.Errorf("%s was made by %d and by %d", name, other, who)
			}
			won[name] = who
			if text := read("names", name); text != strconv.Itoa(who) {
				c.t.Errorf("%s holds %q; it is %d's", name, text, who)
			}
		}
		counted, doubtful = counted+r.Counted, doubtful+r.Doubtful
		if crew[who] == "sqlite" {
			c.checkRows(database(at(), who, c.losing), who, r)
		}
	}
	entries, err := os.ReadDir(at("names"))
	if err != nil || len(entries) != len(won) {
		c.t.Errorf("%d names were made, %d by somebody, %v", len(entries), len(won), err)
	}
	if n, err := strconv.Atoi(read("counter")); err != nil || n < counted || n > counted+doubtful {
		c.t.Errorf("the counter is at %d, %v, after %d counts and %d of which that is not known", n, err, counted, doubtful)
	}
	for _, dir := range c.mounts {
		sameTree(c.t, dir, c.export)
	}
	if n := strings.Count(c.daemonLog(), "level=ERROR"); n > 0 {
		c.t.Errorf("%d errors in the daemon's log", n)
	}
}

// checkLog wants the lines of each program in their order, and all of them.
func (c *campaign) checkLog(log string, reports []report) {
	c.t.Helper()
	next := map[int]int{}
	for line := range strings.Lines(log) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		number, filler, _ := strings.Cut(rest, " ")
		who, _ := strconv.Atoi(name)
		i, err := strconv.Atoi(number)
		if err != nil || i != next[who] || len(filler) != i%5000 {
			c.t.Errorf("the log has %.40q where line %d of %d belongs", line, next[who], who)
			return
		}
		next[who]++
	}
	for who, r := range reports {
		if crew[who] == "append" && next[who] != r.Steps {
			c.t.Errorf("the log has %d lines of %d, %d were written", next[who], who, r.Steps)
		}
	}
}

// checkRows wants the rows that were committed, once each, and no others but for those
// where sqlite3 has failed.
func (c *campaign) checkRows(path string, who int, r report) {
	c.t.Helper()
	text := c.sql(path, fmt.Sprintf("pragma integrity_check; select i, text from t where who=%d;", who))
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if lines[0] != "ok" {
		c.t.Errorf("%s: %s", path, text)
		return
	}
	rows := make(map[int]int)
	for _, line := range lines[1:] {
		number, text, _ := strings.Cut(line, "|")
		i, err := strconv.Atoi(number)
		if err != nil || text != rowText(who, i) {
			c.t.Errorf("%s: row %.60q", path, line)
		}
		rows[i]++
	}
	for _, i := range r.Rows {
		if rows[i] != 1 {
			c.t.Errorf("%s: row %d of %d is there %d times", path, i, who, rows[i])
		}
	}
	failed := 0
	for _, n := range r.Lost {
		failed += n
	}
	if len(rows) < len(r.Rows) || len(rows) > len(r.Rows)+failed {
		c.t.Errorf("%s: %d rows of %d, %d were committed and %d perhaps", path, len(rows), who, len(r.Rows), failed)
	}
}

// finish looks for what the processes have kept, tells of everything, and unmounts.
func (c *campaign) finish() {
	c.t.Helper()
	c.reach()
	first, last := c.samples[0], c.usage()
	eventually(patience, func() bool {
		last = c.usage()
		return last.grown(first, 0) == nil
	})
	c.samples = append(c.samples, last)
	for _, what := range last.withLeast(c.samples[len(c.samples)/2:]).grown(first, 0) {
		c.t.Error(what)
	}
	goroutines := ""
	if !c.losing || long(c.t) {
		goroutines = c.goroutines()
	}
	var table strings.Builder
	for i, u := range c.samples {
		fmt.Fprintf(&table, "after round %d: %v\n", i, u)
	}
	c.t.Logf("seed %d, faults: %v\nsteps: %v\nerrors: %v\n%s%s", c.seed, c.faults, c.steps, c.lost, table.String(), goroutines)
	c.run(c.command("umount.rpycfs", c.mounts[1]))
}

// goroutines compares how many goroutines the daemon and a mount have with how many they
// have after a new start, and tells of it. They are asked by killing them.
func (c *campaign) goroutines() string {
	c.t.Helper()
	log := func(name string) string { return filepath.Join(c.dir, name) }
	daemon := func() int {
		n := c.dumped(c.daemon.Process.Pid, log("daemon.log"), func() { _ = c.daemon.Wait() })
		c.start()
		c.reach()
		return n
	}
	mount := func() int {
		pid := processesWith("mount.rpycfs", c.mnt+"\x00")[0]
		n := c.dumped(pid, log("mount.log"), func() {
			eventually(patience, func() bool { return syscall.Kill(pid, 0) != nil })
		})
		c.run(exec.Command("fusermount3", "-u", "-z", c.mnt))
		c.mountAt(c.proxies[0].port, "/", c.mnt)
		c.reach()
		return n
	}
	var told strings.Builder
	for _, x := range []struct {
		name  string
		count func() int
	}{{"daemon", daemon}, {"mount", mount}} {
		used, fresh := x.count(), x.count()
		fmt.Fprintf(&told, "%s: %d goroutines, %d after a new start\n", x.name, used, fresh)
		if used > fresh+10 {
			c.t.Errorf("the %s has %d goroutines, %d after a new start", x.name, used, fresh)
		}
	}
	return told.String()
}

// dumped ends a process so that it tells of its goroutines in a log, and counts them.
func (c *campaign) dumped(pid int, log string, wait func()) int {
	c.t.Helper()
	before, err := os.ReadFile(log)
	must(c.t, err)
	must(c.t, syscall.Kill(pid, syscall.SIGQUIT))
	wait()
	after, err := os.ReadFile(log)
	must(c.t, err)
	n := 0
	for text := range bytes.SplitSeq(after[len(before):], []byte("\n\n")) {
		if bytes.HasPrefix(text, []byte("goroutine ")) && !pooled.Match(text) {
			n++
		}
	}
	return n
}

// pooled are goroutines that wait for work, of which there are a few at most.
var pooled = regexp.MustCompile(`rpc\.\(\*Peer\)\.worker\(|mount\.\(\*readers\)\.work\(`)

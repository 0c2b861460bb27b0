package store

import (
	"bufio"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Many say at once: no gap, nothing twice, times do not go back, and Committed
// tells the same in the same order before the callers know.
func TestConcurrentSays(t *testing.T) {
	const users, each = 16, 60
	told := make(map[chatproto.RoomID][]chatproto.Message)
	var mu sync.Mutex
	s := open(t, Config{Committed: func(changes []Change) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range changes {
			told[c.Room] = append(told[c.Room], c.Message)
		}
	}})
	c := script{t: t, s: s, ids: 1 << 30}
	rooms := []chatproto.RoomID{c.join(userName(0), LobbyName), c.create(userName(0), "den", chatproto.RoomPublic)}
	for i := 1; i < users; i++ {
		c.join(userName(i), LobbyName)
		c.join(userName(i), "den")
	}
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			for n := range each {
				room := rooms[(u+n)%2]
				req := sayReq(uint64(u*each+n+1), fmt.Sprint(u, " says ", n))
				res, err := s.Say(background, userName(u), room, req)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if m := told[room][res.Seq-1]; m.ID != req.ID || m.Time != res.Time {
					t.Errorf("entry %d was told as %+v", res.Seq, m)
				}
				mu.Unlock()
				if again, err := s.Say(background, userName(u), room, req); again != res || err != nil {
					t.Errorf("said again: %+v, %v; want %+v", again, err, res)
				}
			}
		})
	}
	wg.Wait()
	for _, room := range rooms {
		log := c.log(userName(0), room)
		if want := users + users*each/2; len(log) != want || len(told[room]) != want {
			t.Errorf("room %d: %d entries, %d told; want %d", room, len(log), len(told[room]), want)
		}
		for i, m := range log {
			if m.Seq != uint64(i)+1 || told[room][i].Seq != m.Seq || told[room][i].ID != m.ID || i > 0 && m.Time < log[i-1].Time {
				t.Fatalf("room %d, entry %d: %+v, told %+v", room, i+1, m, told[room][i])
			}
		}
	}
}

// stall has the writer wait in the middle of a batch until the result is closed.
func (c *script) stall() (release chan struct{}) {
	c.t.Helper()
	reached := make(chan struct{})
	release = make(chan struct{})
	if err := c.s.queue.add(&change{done: make(chan struct{}), run: func(*batch) error {
		close(reached)
		<-release
		return nil
	}}); err != nil {
		c.t.Fatal(err)
	}
	<-reached
	return release
}

// A change whose caller gives up while it waits is not made; one that the writer
// has begun tells its true outcome.
func TestWithdraw(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	lobby := c.join("alice", LobbyName)
	cause := errors.New("given up")
	ctx, cancel := context.WithCancelCause(background)
	release := c.stall()
	result := make(chan error)
	go func() { _, err := c.s.Say(ctx, "alice", lobby, sayReq(1001, "never")); result <- err }()
	for waiting := 0; waiting == 0; { // until it is in the queue
		c.s.queue.mu.Lock()
		waiting = len(c.s.queue.list)
		c.s.queue.mu.Unlock()
	}
	cancel(cause)
	c.want(cause, <-result)
	close(release)
	if log := c.log("alice", lobby); len(log) != 1 {
		t.Errorf("%d entries", len(log))
	}
	_, err := c.s.Say(ctx, "alice", lobby, sayReq(1002, "never"))
	c.want(cause, err)

	ctx, cancel = context.WithCancelCause(background)
	commits := 0
	c.ok(c.s.do(background, 0, func(*batch) error {
		c.s.commitHook = func() error { // first called for this batch, then for what is said
			if commits++; commits == 2 {
				cancel(cause)
			}
			return nil
		}
		return nil
	}))
	if _, err := c.s.Say(ctx, "alice", lobby, sayReq(1003, "said")); err != nil || ctx.Err() == nil {
		t.Errorf("%v, %v; want an entry although the context has ended", err, ctx.Err())
	}
	cancel(nil)
	if log := c.log("alice", lobby); len(log) != 2 {
		t.Errorf("%d entries", len(log))
	}
}

// If the disk refuses, all of a batch fail and nothing of it stays: not in
// memory, not in the database, not for those who listen.
func TestFailedCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	var told int
	s := open(t, Config{Path: path, Committed: func(changes []Change) { told += len(changes) }})
	c := script{t: t, s: s}
	lobby := c.join("alice", LobbyName)
	before := told
	broken := errors.New("no disk")
	fails := make([]error, 4)
	release := c.stall()
	var wg sync.WaitGroup
	for i, run := range []func() error{
		func() error { _, err := s.Say(background, "alice", lobby, sayReq(2001, "lost")); return err },
		func() error {
			_, err := s.Create(background, "bob", &chatproto.CreateRoomReq{ID: idOf(2002), Kind: chatproto.RoomPublic, Name: "lost"})
			return err
		},
		func() error { _, err := s.Direct(background, "carol", "bob"); return err },
		func() error {
			_, err := s.Join(background, "dave", &chatproto.JoinRoomReq{ID: idOf(2003), Name: LobbyName})
			return err
		},
	} {
		wg.Go(func() { fails[i] = run() })
	}
	for waiting := 0; waiting < len(fails); {
		s.queue.mu.Lock()
		waiting = len(s.queue.list)
		s.queue.mu.Unlock()
	}
	once := false
	s.commitHook = func() error { // the writer stands still: it is seen at the next commits
		if !once { // the batch that has stalled
			once = true
			return nil
		}
		return broken
	}
	close(release)
	wg.Wait()
	for _, err := range fails {
		c.want(broken, err)
	}
	c.ok(s.do(background, 0, func(*batch) error {
		s.commitHook = nil
		if told != before || len(s.own.rooms) != 1 || len(s.own.of) != 1 || len(s.names) != 1 || len(s.ids) != 1 {
			t.Errorf("something stayed: %d told, rooms %v, members %v, users %v", told-before, s.own.rooms, s.own.of, s.names)
		}
		return nil
	}))
	if s.IsMember("dave", lobby) || len(c.log("alice", lobby)) != 1 {
		t.Error("something stayed")
	}
	if got := c.found("alice", chatproto.SearchReq{Terms: []string{"lost"}}); len(got) != 0 {
		t.Errorf("finds %q", got)
	}
	// And then it goes on as if nothing had been.
	res, err := s.Say(background, "alice", lobby, sayReq(2001, "lost"))
	if c.ok(err); res.Seq != 2 {
		t.Errorf("entry %d", res.Seq)
	}
	if id := c.create("bob", "lost", chatproto.RoomPublic); c.say("bob", id, "found") != 2 {
		t.Error("numbers are off")
	}
	if got := c.found("bob", chatproto.SearchReq{Terms: []string{"found"}}); len(got) != 1 {
		t.Errorf("finds %q", got)
	}
}

// A full disk is told as such, and the store works again when there is room.
func TestDiskFull(t *testing.T) {
	s := open(t, Config{})
	c := script{t: t, s: s}
	lobby := c.join("alice", LobbyName)
	limit := func(more int64) {
		t.Helper()
		c.ok(s.do(background, 0, func(b *batch) error {
			pages, _, err := b.db.number("PRAGMA page_count")
			if err == nil {
				_, _, err = b.db.number(fmt.Sprintf("PRAGMA max_page_count = %d", pages+more))
			}
			return err
		}))
	}
	limit(4)
	text := strings.Repeat("word ", 3000)
	var err error
	said := 1
	for range 20 {
		if _, err = s.Say(background, "alice", lobby, c.text(text)); err != nil {
			break
		}
		said++
	}
	c.want(syscall.ENOSPC, err)
	_, err = s.Say(background, "alice", lobby, c.text(text))
	c.want(syscall.ENOSPC, err)
	limit(1 << 20)
	if seq := c.say("alice", lobby, text); seq != uint64(said)+1 || len(c.log("alice", lobby)) != said+1 {
		t.Errorf("entry %d after %d", seq, said)
	}
}

const crashEnv = "RPYCFS_TEST_CRASH"

// crashChild says as much as it can, with several at once, and prints what was
// acknowledged, until it is killed.
func crashChild() {
	s, err := Open(background, Config{Path: os.Getenv(crashEnv)})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for u := range 8 {
		go func() {
			lobby, err := s.Join(background, userName(u), &chatproto.JoinRoomReq{ID: idOf(uint64(os.Getpid())<<20 + uint64(u)), Name: LobbyName})
			for n := uint64(0); err == nil; n++ {
				var res chatproto.SayRes
				id := uint64(os.Getpid())<<32 + n<<4 + uint64(u)
				res, err = s.Say(background, userName(u), lobby, sayReq(id, fmt.Sprint("crash ", id)))
				mu.Lock()
				fmt.Println("said", id, res.Seq)
				mu.Unlock()
			}
			fmt.Println("error", err)
			os.Exit(1)
		}()
	}
	select {}
}

// What was acknowledged before a SIGKILL is there after it, in its place.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chat.db")
	acknowledged := make(map[uint64]uint64) // sequence number by id
	for range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			word := strings.Fields(lines.Text())
			if len(word) != 3 || word[0] != "said" {
				if n < 200 || len(word) == 3 { // the last line may be cut
					t.Error(lines.Text())
				}
				break
			}
			id, _ := strconv.ParseUint(word[1], 10, 64)
			acknowledged[id], _ = strconv.ParseUint(word[2], 10, 64)
			if n == 200 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed
	}
	c := script{t: t, s: open(t, Config{Path: path})}
	log := c.log(userName(0), 1)
	for i, m := range log {
		if m.Seq != uint64(i)+1 {
			t.Fatalf("entry %d where %d should be", m.Seq, i+1)
		}
	}
	if len(acknowledged) < 800 {
		t.Errorf("only %d were acknowledged", len(acknowledged))
	}
	for id, seq := range acknowledged {
		if seq > uint64(len(log)) || string(log[seq-1].Body) != fmt.Sprint("crash ", id) {
			t.Errorf("%d was acknowledged as entry %d and is not there", id, seq)
		}
	}
	if got := c.found(userName(0), chatproto.SearchReq{Terms: []string{"crash"}}); len(got) < len(acknowledged) {
		t.Errorf("finds %d of %d", len(got), len(acknowledged))
	}
	c.ok(c.s.read(background, func(db *conn) error {
		return db.query(background, "PRAGMA integrity_check", func(row []driver.Value) error {
			if text(row[0]) != "ok" {
				t.Error(text(row[0]))
			}
			return nil
		})
	}))
}

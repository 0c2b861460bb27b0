package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/query"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(diesEnv); dir != "" {
		os.Exit(dies(dir))
	}
	goleak.VerifyTestMain(m)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *State {
	t.Helper()
	s, err := Open(dir)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func id(n byte) chatproto.ID { return chatproto.ID{n} }

func texts(queued []Queued) string {
	var all []string
	for _, q := range queued {
		all = append(all, q.Text)
	}
	return strings.Join(all, " ")
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir)
	must(t, s.Enqueue(&Queued{Room: 1, ID: id(1), Text: "x"}))
	unlock, err := s.LockRoom(t.Context(), 1)
	must(t, err)
	defer unlock()
	files := 0
	must(t, filepath.Walk(filepath.Dir(dir), func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		files++
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	}))
	if files < 8 {
		t.Errorf("only %d files", files)
	}
}

func TestKV(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	must(t, a.Update(func(tx *Tx) error {
		tx.Put("room/1", []byte("one"))
		tx.Put("room/2", []byte{})
		tx.Put("room%", []byte("percent"))
		return nil
	}))
	boom := errors.New("boom")
	if err := a.Update(func(tx *Tx) error { tx.Put("room/1", nil); return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if v, err := b.Get("room/1"); string(v) != "one" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := b.Get("room/2"); v == nil || len(v) != 0 || err != nil {
		t.Errorf("empty value: %v, %v", v, err)
	}
	if v, err := b.Get("nothing"); v != nil || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if all, err := b.List("room/"); len(all) != 2 || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	must(t, b.Update(func(tx *Tx) error { tx.Put("room/1", nil); return nil }))
	if v, err := a.Get("room/1"); v != nil || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

// TestKVUpdatesExclude counts up in two states at once: what Get returns inside
// Update is still true when the update is made.
func TestKVUpdatesExclude(t *testing.T) {
	dir := t.TempDir()
	const each = 40
	var wait sync.WaitGroup
	for _, s := range []*State{open(t, dir), open(t, dir)} {
		wait.Go(func() {
			for range each {
				if err := s.Update(func(tx *Tx) error {
					v, err := tx.Get("n")
					tx.Put("n", append(v, 'x'))
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if v, _ := open(t, dir).Get("n"); len(v) != 2*each {
		t.Errorf("%d updates are left of %d", len(v), 2*each)
	}
}

func TestOutboxKeepsOrderAndOwner(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	for i, s := range []*State{a, b, a} {
		must(t, s.Enqueue(&Queued{Room: 7, ID: id(byte(i)), Text: fmt.Sprint("m", i), Sent: 1, Seal: i == 0}))
	}
	if got, err := b.Adopt(); len(got) != 0 || err != nil {
		t.Errorf("adopted from the living: %v, %v", got, err)
	}
	if err := b.Enqueue(&Queued{ID: id(0)}); err == nil {
		t.Error("an id was taken twice")
	}
	must(t, a.Close())
	got, err := b.Adopt()
	if texts(got) != "m0 m2" || err != nil || got[0].Room != 7 || got[0].ID != id(0) || got[0].Sent != 1 || !got[0].Seal || got[1].Seal {
		t.Fatalf("%+v, %v", got, err)
	}
	must(t, b.SetSealed(got[0].N, 3, []byte("sealed")))
	must(t, b.Dequeue(got[1].N))
	must(t, b.Close())
	c := open(t, dir)
	got, err = c.Adopt()
	if texts(got) != "m0 m1" || err != nil || got[0].Epoch != 3 || string(got[0].Sealed) != "sealed" || got[1].Sealed != nil {
		t.Fatalf("%+v, %v", got, err)
	}
}

const diesEnv = "RPYCFS_LOCAL_DIES"

// dies puts a message into the outbox and is killed.
func dies(dir string) int {
	s, err := Open(dir)
	if err == nil {
		err = s.Enqueue(&Queued{Room: 1, ID: id(9), Text: "last words"})
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	p, _ := os.FindProcess(os.Getpid())
	_ = p.Kill()
	select {}
}

func TestOutboxOfAKilledProgram(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	self, err := os.Executable()
	must(t, err)
	p, err := os.StartProcess(self, []string{self}, &os.ProcAttr{Env: append(os.Environ(), diesEnv+"="+dir), Files: []*os.File{nil, os.Stdout, os.Stderr}})
	must(t, err)
	state, err := p.Wait()
	must(t, err)
	if state.Exited() {
		t.Fatalf("it was not killed: %v", state)
	}
	if got, err := s.Adopt(); texts(got) != "last words" || err != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "owners"))
	if len(entries) != 1 || err != nil {
		t.Errorf("owners left: %v, %v", entries, err)
	}
}

func TestOutboxIsBounded(t *testing.T) {
	s := open(t, t.TempDir())
	_, err := s.lazy.Exec(`WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < ?)
		INSERT INTO outbox (owner, room, peer, id, kind, text, sent, seal, epoch) SELECT 'x', 1, '', i, 1, '', 0, 0, 0 FROM c`, MaxQueued)
	must(t, err)
	if err := s.Enqueue(&Queued{ID: id(1)}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
}

func TestLockRoom(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	unlock, err := a.LockRoom(t.Context(), 5)
	must(t, err)
	other, err := b.LockRoom(t.Context(), 6)
	must(t, err)
	other()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.LockRoom(ctx, 5); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	again, err := b.LockRoom(t.Context(), 5)
	must(t, err)
	again()
}

func TestHistory(t *testing.T) {
	s := open(t, t.TempDir())
	for i := uint64(1); i <= 10; i++ {
		must(t, s.Keep(Entry{Room: 3, Seq: i, ID: id(byte(i)), Kind: chatproto.KindText, From: "bob", Time: int64(i), Text: fmt.Sprint("number ", i), Closed: map[uint64]uint8{5: NoKey, 6: Refused}[i]}))
	}
	must(t, s.Keep(Entry{Room: 3, Seq: 4, Text: "changed"}))
	must(t, s.Keep(Entry{Room: 3, Seq: 5, Kind: chatproto.KindText, Text: "opened", Warnings: []string{"late"}, Device: chatproto.DeviceID{7}}))
	must(t, s.Keep(Entry{Room: 3, Seq: 6, Kind: chatproto.KindText, Text: "a refused one"}))
	if e, err := s.Entry(3, 6); err != nil || e.Closed != Refused || e.Text != "number 6" {
		t.Errorf("%+v, %v", e, err)
	}
	got, err := s.History(3, 6, 3)
	must(t, err)
	if len(got) != 3 || got[0].Seq != 3 || got[1].Text != "number 4" || got[2].Text != "opened" || got[2].Warnings[0] != "late" || got[2].Device[0] != 7 || got[2].Closed != Opened {
		t.Errorf("%+v", got)
	}
	if last, err := s.Last(3); last != 10 || err != nil {
		t.Error(last, err)
	}
	if last, err := s.Last(4); last != 0 || err != nil {
		t.Error(last, err)
	}
	if got, err := s.After(3, 8, 5); err != nil || len(got) != 2 || got[0].Seq != 9 {
		t.Errorf("%+v, %v", got, err)
	}
	must(t, s.Keep(Entry{Room: 3, Seq: 11, Kind: chatproto.KindTopic, Text: "old"}, Entry{Room: 3, Seq: 12, Kind: chatproto.KindTopic, Text: "new"}))
	if topic, err := s.Topic(3); topic != "new" || err != nil {
		t.Error(topic, err)
	}
	if topic, err := s.Topic(4); topic != "" || err != nil {
		t.Error(topic, err)
	}
	if e, err := s.Entry(3, 10); err != nil || e.Text != "number 10" {
		t.Error(e, err)
	}
	if e, err := s.Entry(3, 13); err != nil || e != nil {
		t.Error(e, err)
	}
}

func TestSearch(t *testing.T) {
	s := open(t, t.TempDir())
	say := func(room chatproto.RoomID, seq uint64, from, text string, at int64) {
		t.Helper()
		must(t, s.Keep(Entry{Room: room, Seq: seq, Kind: chatproto.KindText, From: from, Text: text, Time: at * 1e6}))
	}
	say(1, 1, "alice", "the quick brown fox", 100)
	say(1, 2, "bob", "fox brown quick", 101)
	say(2, 1, "bob", "Füchse sind quick", 102)
	say(3, 1, "bob", "quick elsewhere", 103)
	must(t, s.Keep(Entry{Room: 1, Seq: 3, Kind: chatproto.KindTopic, Text: "quick topic"}))
	rooms := []chatproto.RoomID{1, 2}
	for _, c := range []struct {
		q    query.Query
		want string
	}{
		{query.Query{Terms: []string{"quick"}}, "2/1 1/2 1/1"},
		{query.Query{Terms: []string{"quick brown"}}, "1/1"},
		{query.Query{Terms: []string{"brown", "fox"}}, "1/2 1/1"},
		{query.Query{Terms: []string{"fuchse"}}, "2/1"},
		{query.Query{Terms: []string{"quick"}, From: "bob"}, "2/1 1/2"},
		{query.Query{From: "alice"}, "1/1"},
		{query.Query{After: time.Unix(101, 0), Before: time.Unix(102, 0)}, "1/2"},
		{query.Query{Terms: []string{`" OR 1`}}, ""},
		{query.Query{Terms: []string{"NOT", "fox*"}}, ""},
	} {
		var got []string
		for from := (Position{}); ; {
			found, at, err := s.Search(c.q, rooms, from, 2)
			must(t, err)
			for _, e := range found {
				got = append(got, fmt.Sprintf("%d/%d", e.Room, e.Seq))
			}
			if len(found) < 2 {
				break
			}
			from = at[len(at)-1]
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %v, not %s", c.q, got, c.want)
		}
	}
	if found, _, err := s.Search(query.Query{Terms: []string{"quick"}}, nil, Position{}, 5); len(found) != 0 || err != nil {
		t.Errorf("in no room: %v, %v", found, err)
	}
}

func TestStateOfANewerVersion(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := s.db.Exec("PRAGMA user_version = 99")
	must(t, err)
	must(t, s.Close())
	if _, err := Open(dir); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
}

func TestDamagedState(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "chat.db"), bytes.Repeat([]byte("not a database "), 1000), 0o600))
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("the error does not say where: %v", err)
	}
}

// FuzzFTS: no term is read as anything but text.
func FuzzFTS(f *testing.F) {
	s, err := Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	seeds := []string{"word", `"`, `a" OR "b`, "NEAR(", "x*", "-y", "text:z", "\x01", "日本", "^"}
	for _, seed := range seeds {
		f.Add(seed)
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, term string) {
		if strings.ContainsRune(term, 0) || term == "" {
			return
		}
		if _, _, err := s.Search(query.Query{Terms: []string{term}}, nil, Position{}, 1); err != nil {
			t.Errorf("%q: %v", term, err)
		}
	})
}

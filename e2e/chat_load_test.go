package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat"
)

// slowest is what no delay of a message may come near, however busy the machine
// that tests is. What it is on a quiet one, bench/chatbench measures.
const slowest = 5 * time.Second

// TestChatBesideCopy: messages pass while a large file is written and read
// through a mount of the same daemon.
func TestChatBesideCopy(t *testing.T) {
	needFUSE(t)
	w := newChatWorld(t, "alice", "bob", testUser)
	alice, bob := w.dial("alice"), w.dial("bob")
	speaking := joinRoom(t, alice, "lobby")
	joinRoom(t, bob, "lobby")
	w.mount("/")

	mib := setting(t, "RPYCFS_E2E_COPY_MIB", 128)
	source := filepath.Join(w.dir, "source")
	ctx, stop := context.WithCancel(chatContext(t))
	heard := make(chan []time.Duration, 1)
	go func() { heard <- delays(ctx, bob) }()
	said := make(chan int, 1)
	copying, copied := context.WithCancel(t.Context())
	defer copied()
	go func() {
		n := 0
		for ; copying.Err() == nil; n++ {
			if _, err := speaking.Say(chatContext(t), fmt.Sprint("message ", n)); err != nil {
				t.Error(err)
				break
			}
		}
		said <- n
	}()
	for _, args := range [][]string{
		{"if=/dev/urandom", "of=" + source},
		{"if=" + source, "of=" + filepath.Join(w.mnt, "copy"), "conv=fsync"},
		{"if=" + filepath.Join(w.mnt, "copy"), "of=/dev/null"},
	} {
		w.run(exec.CommandContext(w.ctx, "dd", append(args, "bs=1M", fmt.Sprint("count=", mib), "status=none")...))
	}
	copied()
	n := <-said
	_, err := speaking.Say(chatContext(t), lastWords)
	must(t, err)
	all := <-heard
	stop()
	if len(all) != n+1 {
		t.Fatalf("%d of %d messages were heard", len(all), n+1)
	}
	slices.Sort(all)
	t.Logf("%d messages beside %d MiB each way; median delay %v, p99 %v", n, mib, all[len(all)/2], all[len(all)*99/100])
	if worst := all[len(all)-1]; worst > slowest {
		t.Errorf("a message took %v", worst)
	}
	if text := w.run(w.command("cmp", source, filepath.Join(w.export, "copy"))); text != "" {
		t.Error(text)
	}
	w.umount()
	must(t, os.Remove(source))
}

// lastWords end a conversation.
const lastWords = "that is all"

// delays returns how long after they were sent the messages of a conversation
// came, up to the last words.
func delays(ctx context.Context, c *chat.Client) (all []time.Duration) {
	for e := range c.Events(ctx) {
		if m, ok := e.(*chat.Message); ok && m.Said() {
			all = append(all, time.Since(m.Sent))
			if m.Text == lastWords {
				return all
			}
		}
	}
	return all
}

// TestManyListeners: a burst of messages reaches many listeners, each in order
// and complete, and the daemon keeps nothing of those who left.
func TestManyListeners(t *testing.T) {
	listeners, messages := 60, 300
	if raceEnabled {
		listeners = 25
	}
	listeners = setting(t, "RPYCFS_E2E_LISTENERS", listeners)
	users := make([]string, 6)
	for i := range users {
		users[i] = fmt.Sprint("user", i)
	}
	w := newChatWorld(t, append(users, "speaker")...)
	speaker := joinRoom(t, w.dial("speaker"), "lobby")
	before := descriptors(w.daemon.Process.Pid)

	var all []*chat.Client
	for i := range listeners {
		c, err := chat.Dial(chatContext(t), w.config(users[i%len(users)]))
		must(t, err)
		all = append(all, c)
		joinRoom(t, c, "lobby")
	}
	errs := make(chan error, listeners)
	for _, c := range all {
		go func() {
			texts, err := listen(c, "lobby", messages, chatPatience)
			for i, text := range texts {
				if want := fmt.Sprint("message ", i); err == nil && text != want {
					err = fmt.Errorf("%s hears %q in place of %q", c.User(), text, want)
				}
			}
			errs <- err
		}()
	}
	start := time.Now()
	for i := range messages {
		if _, err := speaker.Say(chatContext(t), fmt.Sprint("message ", i)); err != nil {
			t.Fatal(err)
		}
	}
	for range listeners {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d messages to %d listeners in %v", messages, listeners, time.Since(start))
	var closing sync.WaitGroup
	for _, c := range all {
		closing.Go(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	closing.Wait()
	if !eventually(patience, func() bool { return descriptors(w.daemon.Process.Pid) <= before }) {
		t.Errorf("%d descriptors after all have left, %d before they came", descriptors(w.daemon.Process.Pid), before)
	}
}

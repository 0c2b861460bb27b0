package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	floodDirs, floodFiles = 20, 50
	// floodMemory is what a program may have used at most, beside the race detector.
	floodMemory = 384 << 10 // KiB
)

// TestFlood changes files on the server's disk as fast as the machine can, in a tree of
// which a client has everything cached and goes on reading, and which is watched through
// the mount and by rpycfs watch. Nothing grows without bound, nobody waits for ever, and
// when it is over all is seen as it is.
func TestFlood(t *testing.T) {
	learning(t, func(t *testing.T, w *world) {
		changes, seconds := 2000, 60 // each of four, whatever comes first
		if d := lasting(t, "RPYCFS_FLOOD", 0); d > 0 {
			changes, seconds = 1<<40, int(d.Seconds())
		}
		for i := range floodDirs {
			dir := filepath.Join(w.export, fmt.Sprint("d", i))
			must(t, os.Mkdir(dir, 0o755))
			for j := range floodFiles {
				must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("f", j)), bytes.Repeat([]byte{byte(j)}, 100*j), 0o644))
			}
		}
		sameState(t, w)
		x := w.logged(w.watchCommand("--json", "--recursive", testUser+"@127.0.0.1:/"), `"kind":"start"`)
		y := w.logged(w.command("inotifywait", "-m", "-r", "--format", "%e %w%f", w.mnt), "Watches established.")

		var reading sync.WaitGroup
		var over atomic.Bool
		reading.Go(func() { readAll(t, w.mnt, &over) })
		var all []*job
		for i := range 4 {
			all = append(all, w.job("flood", w.export, i+1, changes, seconds))
		}
		total, rate := 0, 0.0
		for _, j := range all {
			var n, took int
			j.end(&n, &took)
			total += n
			rate += float64(n) / time.Duration(took).Seconds()
		}
		over.Store(true)
		reading.Wait()

		// Who has lost events hears of the next again. Everything before it has come then.
		for i := 0; !eventually(time.Second, func() bool { return x.says("mark ") && y.says("mark ") }); i++ {
			if i == int(patience.Seconds()) {
				t.Fatalf("a watcher hears nothing any more (%+v):\nwatch:\n%s\ninotifywait:\n%s", w.status(), tail(x.text()), tail(y.text()))
			}
			must(t, os.Mkdir(filepath.Join(w.export, fmt.Sprint("mark ", i)), 0o755))
		}
		files := sameState(t, w)
		s := w.status()
		t.Logf("%d changes, %.0f a second; %d files compared; everything was recalled %d times, %d changes left out for inotify",
			total, rate, files, s.RecalledAll, s.Lost)
		for what, pid := range map[string]int{"daemon": w.daemon.Process.Pid, "mount": w.mountProcesses()[0], "watch": x.cmd.Process.Pid, "inotifywait": y.cmd.Process.Pid} {
			most := peak(t, pid)
			t.Logf("%s: at most %d KiB", what, most)
			if most > floodMemory && !raceEnabled {
				t.Errorf("%s has used %d KiB", what, most)
			}
		}
		if strings.Contains(w.daemonLog(), lostLeases) {
			t.Error("a session was fenced")
		}
	})
}

// floodJob changes what is below a directory, and prints how many changes it has made in
// how many nanoseconds. Most are writes of files that others have, a few of names.
func floodJob(args []string) error {
	var seed, most, seconds int
	if err := integers(args[1:], &seed, &most, &seconds); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(uint64(seed), 9))
	path := func(kind string) string {
		return fmt.Sprintf("%s/d%d/%s%d", args[0], random.IntN(floodDirs), kind, random.IntN(floodFiles))
	}
	began, changes := time.Now(), 0
	for end := began.Add(time.Duration(seconds) * time.Second); changes < most && time.Now().Before(end); {
		fd, err := unix.Open(path("f"), unix.O_RDWR|unix.O_CREAT, 0o644)
		if err != nil {
			return err
		}
		for range 16 {
			_, err = unix.Pwrite(fd, strconv.AppendInt(nil, int64(changes), 10), random.Int64N(5000))
			changes++
		}
		a, b, own := path("f"), path("f"), path(fmt.Sprint("own", seed, "-"))
		err = errors.Join(err, unix.Fchmod(fd, uint32(0o600|random.IntN(0o100))), unix.Close(fd))
		for _, e := range []error{unix.Rename(a, b), unix.Mkdir(own, 0o755), unix.Rmdir(own), unix.Unlink(path("f"))} {
			if !anyOf(e, syscall.ENOENT) {
				err = errors.Join(err, e)
			}
		}
		if err != nil {
			return err
		}
		changes += 5
	}
	fmt.Println(changes, int(time.Since(began)))
	return nil
}

// readAll reads everything below dir over and over. What is there changes meanwhile.
func readAll(t *testing.T, dir string, over *atomic.Bool) {
	for !over.Load() {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				_, err = os.ReadFile(path)
			}
			if anyOf(err, syscall.ENOENT, syscall.ESTALE) {
				return nil
			}
			return err
		})
		if err != nil {
			t.Errorf("reading beside: %v", err)
			return
		}
	}
}

// sameState compares all that programs see through the mount with what they see on the
// server's disk, and returns how many files that were.
func sameState(t *testing.T, w *world) int {
	t.Helper()
	n := sameTree(t, w.mnt, w.export)
	for name := range entries(t, w.export) {
		here, there := stat(filepath.Join(w.mnt, name)), stat(filepath.Join(w.export, name))
		if here != there {
			t.Errorf("%s: the client sees %+v, not %+v", name, here, there)
		}
	}
	return n
}

// logged is a program whose output goes to a file.
type logged struct {
	w   *world
	cmd *exec.Cmd
	log string
}

// logged starts a program, which is ended with the test, and waits until it has printed
// a text.
func (w *world) logged(cmd *exec.Cmd, text string) *logged {
	w.t.Helper()
	l := &logged{w, cmd, filepath.Join(w.dir, filepath.Base(cmd.Path)+".log")}
	log, err := os.Create(l.log)
	must(w.t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	must(w.t, cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // by the signal
	})
	if !eventually(patience, func() bool { return l.says(text) }) {
		w.t.Fatalf("%s does not say %q:\n%s", cmd.Path, text, tail(l.text()))
	}
	return l
}

func (l *logged) text() string {
	text, err := os.ReadFile(l.log)
	must(l.w.t, err)
	return string(text)
}

// says reports whether a text is among the last that was printed.
func (l *logged) says(text string) bool {
	f, err := os.Open(l.log)
	must(l.w.t, err)
	defer f.Close()
	info, err := f.Stat()
	must(l.w.t, err)
	b := make([]byte, min(64<<10, info.Size()))
	_, err = f.ReadAt(b, info.Size()-int64(len(b)))
	must(l.w.t, err)
	return bytes.Contains(b, []byte(text))
}

// peak is the most memory that a process has had, in KiB.
func peak(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return kib
}

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestManyProcesses lets processes work on different files of one mount. No
// program may see an error or a wrong byte, and neither the daemon nor the
// process behind the mount may keep anything of it.
func TestManyProcesses(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve()
	w.mount("/")
	count, seconds := setting(t, "RPYCFS_E2E_WORKERS", 20), setting(t, "RPYCFS_E2E_SECONDS", 4)

	// Buffers and caches fill up in the first half; the second must find them full.
	half := (seconds + 1) / 2
	steps := w.workers(count, half, 0)()
	before := w.settled()
	steps += w.workers(count, half, 1000)()
	after := w.settled()

	t.Logf("%d processes, %d steps in %d s; %v before, %v after", count, steps, seconds, before, after)
	if steps < count {
		t.Errorf("%d processes took only %d steps", count, steps)
	}
	if n := sameTree(t, w.mnt, w.export); n < count {
		t.Errorf("only %d files were left to compare", n)
	}
	var limit unix.Rlimit
	must(t, unix.Prlimit(w.daemon.Process.Pid, unix.RLIMIT_NOFILE, nil, &limit))
	for _, what := range after.grown(before, int(limit.Cur/4)) {
		t.Error(what)
	}
	w.umount()
	w.stop()
}

// workers starts processes that work in the mount for some seconds. The function
// it returns waits for them, checks that they found no error, and returns how
// many steps they took.
func (w *world) workers(count, seconds, seed int) func() int {
	w.t.Helper()
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	all := make([]*job, count)
	for i := range all {
		all[i] = w.program("files", w.mnt, seed+i, false, end)
	}
	return func() int {
		w.t.Helper()
		total := 0
		for _, j := range all {
			total += j.report().Steps
		}
		return total
	}
}

// usage is what a world uses: daemon, keeper and mounts, and the daemon's records.
type usage struct {
	processes []figures
	records   int // KiB
}

// figures are what a process uses.
type figures struct {
	name                 string
	descriptors, threads int
	memory               int // KiB that are resident
}

func (w *world) usage() usage {
	w.t.Helper()
	u := usage{processes: []figures{figuresOf(w.t, "daemon", w.daemon.Process.Pid)}}
	for _, pid := range w.keepers() {
		u.processes = append(u.processes, figuresOf(w.t, "keeper", pid))
	}
	for i, pid := range w.mountProcesses() {
		u.processes = append(u.processes, figuresOf(w.t, fmt.Sprint("mount ", i+1), pid))
	}
	files, _ := filepath.Glob(filepath.Join(w.dir, "state", "*.sessions"))
	for _, path := range files {
		info, err := os.Stat(path)
		must(w.t, err)
		u.records += int(info.Size() >> 10)
	}
	return u
}

func figuresOf(t testing.TB, name string, pid int) figures {
	t.Helper()
	return figures{name: name, descriptors: descriptors(pid), threads: inStatus(t, pid, "Threads"), memory: resident(t, pid)}
}

// settled measures once the descriptors do not change any more: what is released, is
// released behind the close.
func (w *world) settled() usage {
	w.t.Helper()
	var u usage
	eventually(3*time.Second, func() bool {
		last := u
		u = w.usage()
		return slices.EqualFunc(u.processes, last.processes, func(a, b figures) bool {
			return a.name == b.name && a.descriptors == b.descriptors
		})
	})
	return u
}

func (u usage) String() string {
	var b strings.Builder
	for _, f := range u.processes {
		fmt.Fprintf(&b, "%s %d KiB, %d descriptors, %d threads; ", f.name, f.memory, f.descriptors, f.threads)
	}
	fmt.Fprintf(&b, "records %d KiB", u.records)
	return b.String()
}

// withLeast is the same with the least memory of some samples: how much of it is garbage
// changes all the time.
func (u usage) withLeast(samples []usage) usage {
	u.processes = slices.Clone(u.processes)
	for _, s := range samples {
		for i := range u.processes {
			for _, f := range s.processes {
				if f.name == u.processes[i].name {
					u.processes[i].memory = min(u.processes[i].memory, f.memory)
				}
			}
		}
	}
	return u
}

// grown tells what is used more than before, beyond what the garbage collector, the
// scheduler and pools may keep, and so many descriptors in caches.
func (u usage) grown(before usage, cached int) []string {
	var found []string
	more := func(what string, now, then, slack int) {
		if now > then+slack {
			found = append(found, fmt.Sprintf("%s: %d, before %d", what, now, then))
		}
	}
	slack := 48 << 10 // for what a mount stores, and the heap around it
	if raceEnabled {  // the detector keeps a multiple of what it watches
		slack *= 3
	}
	for _, f := range u.processes {
		i := slices.IndexFunc(before.processes, func(b figures) bool { return b.name == f.name })
		if i < 0 {
			continue // the keeper comes and goes
		}
		then := before.processes[i]
		more("descriptors of the "+f.name, f.descriptors, then.descriptors, 8+cached)
		more("threads of the "+f.name, f.threads, then.threads, 16)
		more("KiB of memory of the "+f.name, f.memory, then.memory, slack)
	}
	more("KiB of records", u.records, before.records, 1<<10)
	return found
}

func descriptors(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}

// resident is the memory of a process in KiB.
func resident(t testing.TB, pid int) int {
	t.Helper()
	return inStatus(t, pid, "VmRSS")
}

// inStatus is a number of /proc/PID/status.
func inStatus(t testing.TB, pid int, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		var n int
		if _, err := fmt.Sscanf(line, name+": %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("process %d has no %s", pid, name)
	return 0
}

// TestTerminateUnderLoad ends the daemon while a program writes: within five
// seconds, with exit 0, and with everything on disk that was acknowledged. The
// program waits for the daemon and goes on when it is back. When the daemon knows no
// session any more, as after a reboot, the program gets an error instead of waiting
// forever.
func TestTerminateUnderLoad(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve()
	w.mount("/")
	// In a process of its own: one that has files open on a mount that does not
	// answer cannot even start another program.
	self, err := os.Executable()
	must(t, err)
	writer := w.command(self)
	writer.Env = append(w.env(), writerEnv+"="+filepath.Join(w.mnt, "file"))
	var said bytes.Buffer
	writer.Stdout = &said
	must(t, writer.Start())
	file := filepath.Join(w.export, "file")
	if !eventually(patience, func() bool { i, err := os.Stat(file); return err == nil && i.Size() > 1<<20 }) {
		t.Fatal("nothing is written")
	}

	start := time.Now()
	w.stop()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v to end", took)
	}
	size := func() int64 {
		i, err := os.Stat(file)
		must(t, err)
		return i.Size()
	}
	before := size()
	w.start()
	if !eventually(patience, func() bool { return size() > before+1<<20 }) {
		t.Error("the program does not go on")
	}
	w.stop()
	records, err := filepath.Glob(filepath.Join(w.dir, "state", "*.sessions"))
	if err != nil || len(records) != 1 {
		t.Fatalf("records %q, %v", records, err)
	}
	must(t, os.Remove(records[0]))
	w.start()
	if err := writer.Wait(); err == nil || !writer.ProcessState.Exited() {
		t.Fatalf("the program that wrote ended with %v, not with an error of its own", err)
	}
	var written int64
	if _, err := fmt.Sscan(said.String(), &written); err != nil {
		t.Fatalf("%v: %q", err, said.String())
	}
	if i, err := os.Stat(file); err != nil {
		t.Error(err)
	} else if i.Size() < written {
		t.Errorf("%d bytes were acknowledged, %d are on disk", written, i.Size())
	}
	t.Logf("%s", said.String())
	w.umount()
	w.stop()
}

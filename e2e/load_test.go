package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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
	before := w.usage()
	steps += w.workers(count, half, 1000)()
	after := w.usage()

	t.Logf("%d processes, %d steps in %d s; %v before, %v after", count, steps, seconds, before, after)
	if steps < count {
		t.Errorf("%d processes took only %d steps", count, steps)
	}
	if n := sameTree(t, w.mnt, w.export); n < count {
		t.Errorf("only %d files were left to compare", n)
	}
	after.checkAgainst(t, before)
	w.umount()
	w.stop()
}

// TestCutUnderLoad cuts the connection at random moments while processes work.
// The session resumes by itself, and no program sees more than a delay.
func TestCutUnderLoad(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve()
	p := newProxy(t, w.port, false)
	w.mountAt(p.port, "/", w.mnt)
	count, cuts := setting(t, "RPYCFS_E2E_WORKERS", 20), setting(t, "RPYCFS_E2E_CUTS", 10)

	wait := w.workers(count, 2+cuts/2, 2000)
	random := rand.New(rand.NewPCG(uint64(cuts), 7))
	for done := 0; done < cuts; {
		time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
		if p.cut() > 0 {
			done++
		}
	}
	steps := wait()
	t.Logf("%d processes took %d steps while the connection was cut %d times", count, steps, cuts)
	if n := sameTree(t, w.mnt, w.export); n < count {
		t.Errorf("only %d files were left to compare", n)
	}
	w.umount()
	w.stop()
}

// workers starts processes that work in the mount for some seconds. The function
// it returns waits for them, checks that they found no error, and returns how
// many steps they took.
func (w *world) workers(count, seconds, seed int) func() int {
	w.t.Helper()
	self, err := os.Executable()
	must(w.t, err)
	type one struct {
		cmd      *exec.Cmd
		out, err bytes.Buffer
	}
	all := make([]one, count)
	for i := range all {
		o := &all[i]
		o.cmd = w.command(self)
		o.cmd.Env = append(w.env(), fmt.Sprintf("%s=%s %d %d", workerEnv, filepath.Join(w.mnt, strconv.Itoa(seed+i)), seed+i, seconds))
		o.cmd.Stdout, o.cmd.Stderr = &o.out, &o.err
		must(w.t, o.cmd.Start())
	}
	return func() int {
		w.t.Helper()
		total := 0
		for i := range all {
			if err := all[i].cmd.Wait(); err != nil {
				w.t.Errorf("%v: %s", err, all[i].err.String())
			}
			n, _ := strconv.Atoi(strings.TrimSpace(all[i].out.String()))
			total += n
		}
		return total
	}
}

// usage is what the daemon and the process behind the mount use.
type usage struct {
	daemonFDs, mountFDs       int
	daemonCache               int // descriptors that the daemon may keep for nodes
	daemonMemory, mountMemory int // KiB that are resident
}

// usage measures once the descriptors have settled: what is released, is
// released behind the close.
func (w *world) usage() usage {
	w.t.Helper()
	mounts := w.mountProcesses()
	if len(mounts) != 1 {
		w.t.Fatalf("processes behind the mount: %v", mounts)
	}
	var u usage
	eventually(3*time.Second, func() bool {
		last := u
		u = usage{
			daemonFDs: descriptors(w.daemon.Process.Pid), mountFDs: descriptors(mounts[0]),
			daemonMemory: resident(w.t, w.daemon.Process.Pid), mountMemory: resident(w.t, mounts[0]),
		}
		var limit unix.Rlimit
		must(w.t, unix.Prlimit(w.daemon.Process.Pid, unix.RLIMIT_NOFILE, nil, &limit))
		u.daemonCache = int(limit.Cur / 4)
		return u.daemonFDs < 40 && u.daemonFDs == last.daemonFDs && u.mountFDs == last.mountFDs
	})
	return u
}

func (u usage) String() string {
	return fmt.Sprintf("daemon %d KiB and %d descriptors, mount %d KiB and %d descriptors",
		u.daemonMemory, u.daemonFDs, u.mountMemory, u.mountFDs)
}

// checkAgainst allows what a garbage collector and bounded caches may keep.
func (u usage) checkAgainst(t *testing.T, before usage) {
	t.Helper()
	const slack = 48 << 10 // KiB
	if u.daemonMemory > before.daemonMemory+slack || u.mountMemory > before.mountMemory+slack {
		t.Errorf("memory grew: %v, before %v", u, before)
	}
	if u.mountFDs > before.mountFDs+8 || u.daemonFDs > before.daemonFDs+u.daemonCache {
		t.Errorf("descriptors were kept: %v, before %v", u, before)
	}
}

func descriptors(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}

// resident is the memory of a process in KiB.
func resident(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib
		}
	}
	t.Fatalf("process %d has no VmRSS", pid)
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

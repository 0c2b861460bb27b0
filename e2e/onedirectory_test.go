package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lostLeases is what the daemon says when it fences a session.
const lostLeases = "it has lost its leases"

// TestOneDirectory lets processes on two mounts make, rename, remove and open the same
// few names of one directory, while others store into a file there through mappings.
// The kernel holds the directory's lock while a change of it waits at the server for
// the other mount to drop a name, which takes that mount's lock; with six on each side
// some always hold both. If they waited for each other, the daemon would fence one.
func TestOneDirectory(t *testing.T) {
	needFUSE(t)
	while := lasting(t, "RPYCFS_ONE_DIRECTORY", 3*time.Second)
	w := newWorldFor(t, while+4*time.Minute)
	w.serve()
	second := filepath.Join(w.dir, "second")
	must(t, os.Mkdir(second, 0o755))
	must(t, os.Mkdir(filepath.Join(w.export, "shared"), 0o777))
	must(t, os.WriteFile(filepath.Join(w.export, "shared", mappedName), make([]byte, pageSize), 0o666))
	w.mount("/")
	w.mountAt(w.port, "/", second)

	seconds := int(while.Seconds())
	stores := w.job("map", filepath.Join(w.mnt, "shared", mappedName), seconds)
	var jostlers []*job
	for i := range 6 {
		for _, mnt := range []string{w.mnt, second} {
			jostlers = append(jostlers, w.job("jostle", filepath.Join(mnt, "shared"), i*2+len(mnt)%2+1, seconds))
		}
	}
	total, slowest, what := 0, time.Duration(0), ""
	for _, j := range jostlers {
		var calls, took int
		var call string
		j.end(&calls, &took, &call)
		total += calls
		if d := time.Duration(took); d > slowest {
			slowest, what = d, call
		}
		if calls < 10 {
			t.Errorf("%s: %d calls", j.name, calls)
		}
	}
	var stored, longest int
	stores.end(&stored, &longest)
	t.Logf("%d calls by %d processes in %v, the slowest %v (%s); %d stores, the slowest %v",
		total, len(jostlers), while, slowest, what, stored, time.Duration(longest))
	if strings.Contains(w.daemonLog(), lostLeases) {
		t.Errorf("a session was fenced:\n%s", w.daemonLog())
	}
	if asked := os.Getenv("RPYCFS_ONE_DIRECTORY") != ""; asked && max(slowest, time.Duration(longest)) > time.Second {
		t.Error("a call took longer than a second")
	}
	for _, mnt := range []string{w.mnt, second} {
		sameTree(t, mnt, w.export)
	}
}

// mappedName is the file that is stored to.
const mappedName = "mapped"

// jostleJob changes names of a directory that others change, too, and prints how many
// calls it has made, how many nanoseconds the slowest took, and which that was.
func jostleJob(args []string) error {
	var seed, seconds int
	if err := integers(args[1:], &seed, &seconds); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(uint64(seed), 5))
	name := func() string { return filepath.Join(args[0], fmt.Sprint("n", random.IntN(8))) }
	calls, slowest, what := 0, time.Duration(0), "none"
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); calls++ {
		began := time.Now()
		call, err := jostle(random.IntN(8), args[0], name(), name())
		if took := time.Since(began); took > slowest {
			slowest, what = took, call
		}
		if !anyOf(err, syscall.ENOENT, syscall.EEXIST, syscall.ENOTEMPTY, syscall.EISDIR, syscall.ENOTDIR) {
			return fmt.Errorf("%s: %w", call, err)
		}
	}
	fmt.Println(calls, int(slowest), what)
	return nil
}

// jostle makes one call, or opens something and closes it.
func jostle(what int, dir, a, b string) (call string, err error) {
	switch what {
	case 0:
		return "mkdir", unix.Mkdir(a, 0o777)
	case 1:
		return "rename", unix.Rename(a, b)
	case 2:
		return "rmdir", unix.Rmdir(a)
	case 3:
		return "create", touch(a, os.O_CREATE|os.O_EXCL|os.O_WRONLY)
	case 4:
		return "unlink", unix.Unlink(a)
	case 5:
		return "list", list(dir)
	case 6:
		return "read", touch(filepath.Join(dir, mappedName), os.O_RDONLY)
	default:
		return "open", touch(a, os.O_RDONLY)
	}
}

// touch opens a file, reads what is in it or writes something, and closes it.
func touch(path string, flags int) error {
	f, err := os.OpenFile(path, flags, 0o666)
	if err != nil {
		return err
	}
	if flags&os.O_WRONLY != 0 {
		_, err = f.WriteString("something")
	} else if _, err = io.Copy(io.Discard, f); anyOf(err, syscall.EISDIR) {
		err = nil
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

func list(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Readdirnames(-1)
	return err
}

// mapJob stores to a file through a mapping. It prints how often, and how many
// nanoseconds the slowest store took.
func mapJob(args []string) error {
	var seconds int
	if err := integers(args[1:], &seconds); err != nil {
		return err
	}
	stores, slowest := 0, time.Duration(0)
	err := mapped(args[0], func(page []byte) error {
		for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); stores++ {
			began := time.Now()
			page[stores%pageSize]++
			if stores%16 == 0 {
				if err := unix.Msync(page, unix.MS_SYNC); err != nil {
					return err
				}
			}
			slowest = max(slowest, time.Since(began))
		}
		return nil
	})
	fmt.Println(stores, int(slowest))
	return err
}

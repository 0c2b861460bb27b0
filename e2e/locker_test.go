package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lockerEnv makes the test binary a locker: it does what it reads, one system
// call a line, and prints what came of it.
const lockerEnv = "RPYCFS_E2E_LOCKER"

// lockerMain runs on one thread, so that a signal can be sent to it.
func lockerMain() int {
	runtime.LockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	noRestart(syscall.SIGUSR1)
	l := &lockerProcess{files: make(map[string]int)}
	fmt.Println(unix.Gettid())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(l.do(strings.Fields(in.Text())))
	}
	return 0
}

// noRestart makes a signal's handler one after which system calls are not begun
// again. The Go runtime's are.
func noRestart(s syscall.Signal) {
	var act struct {
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}
	p := uintptr(unsafe.Pointer(&act))
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), 0, p, 8, 0, 0)
	act.flags &^= 0x10000000 // SA_RESTART
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), p, 0, 8, 0, 0)
}

type lockerProcess struct{ files map[string]int }

// do carries out one command and returns its result.
func (l *lockerProcess) do(f []string) string {
	fd := l.files[f[1]]
	switch f[0] {
	case "open": // open ID FLAGS PATH
		flags, _ := strconv.Atoi(f[2])
		fd, err := unix.Open(f[3], flags|unix.O_CLOEXEC, 0o644)
		l.files[f[1]] = fd
		return result(err)
	case "inherit": // inherit ID FD
		l.files[f[1]], _ = strconv.Atoi(f[2])
		return "ok"
	case "dup": // dup ID NEW
		fd, err := unix.Dup(fd)
		l.files[f[2]] = fd
		return result(err)
	case "number": // number ID
		return strconv.Itoa(fd)
	case "close": // close ID
		return result(unix.Close(fd))
	case "flock": // flock ID sh|ex|un [nb]
		how := map[string]int{"sh": unix.LOCK_SH, "ex": unix.LOCK_EX, "un": unix.LOCK_UN}[f[2]]
		if len(f) > 3 {
			how |= unix.LOCK_NB
		}
		return result(unix.Flock(fd, how))
	case "read": // read ID
		b := make([]byte, 100)
		n, err := unix.Pread(fd, b, 0)
		return strings.TrimSpace(result(err) + " " + string(b[:max(n, 0)]))
	case "write": // write ID TEXT
		_, err := unix.Pwrite(fd, []byte(f[2]), 0)
		return result(err)
	}
	return l.fcntl(fd, f)
}

// fcntl is setlk|setlkw|getlk|ofd|ofdw|ofdget ID r|w|u START END; END may be
// "end".
func (l *lockerProcess) fcntl(fd int, f []string) string {
	cmd := map[string]int{
		"setlk": unix.F_SETLK, "setlkw": unix.F_SETLKW, "getlk": unix.F_GETLK,
		"ofd": unix.F_OFD_SETLK, "ofdw": unix.F_OFD_SETLKW, "ofdget": unix.F_OFD_GETLK,
	}[f[0]]
	k := unix.Flock_t{Type: map[string]int16{"r": unix.F_RDLCK, "w": unix.F_WRLCK, "u": unix.F_UNLCK}[f[2]]}
	k.Start, _ = strconv.ParseInt(f[3], 10, 64)
	if f[4] != "end" {
		end, _ := strconv.ParseInt(f[4], 10, 64)
		k.Len = end - k.Start + 1
	}
	err := unix.FcntlFlock(uintptr(fd), cmd, &k)
	if err != nil || !strings.HasSuffix(f[0], "get") && f[0] != "getlk" {
		return result(err)
	}
	if k.Type == unix.F_UNLCK {
		return "free"
	}
	end := int64(math.MaxInt64)
	if k.Len > 0 {
		end = k.Start + k.Len - 1
	}
	return fmt.Sprintf("%c %d %d pid %d", map[int16]rune{unix.F_RDLCK: 'r', unix.F_WRLCK: 'w'}[k.Type], k.Start, end, k.Pid)
}

func result(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// locker is a process that locks when it is told to.
type locker struct {
	t      testing.TB
	cmd    *exec.Cmd
	tid    int
	in     io.WriteCloser
	answer chan string
}

// newLocker starts a process; files are its descriptors from 3 on.
func newLocker(t testing.TB, files ...*os.File) *locker {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	l := &locker{t: t, cmd: exec.Command(exe), answer: make(chan string, 1)}
	l.cmd.Env = append(os.Environ(), lockerEnv+"=1")
	l.cmd.Stderr = os.Stderr
	l.cmd.ExtraFiles = files
	l.in, err = l.cmd.StdinPipe()
	must(t, err)
	out, err := l.cmd.StdoutPipe()
	must(t, err)
	must(t, l.cmd.Start())
	go func() {
		defer close(l.answer)
		for out := bufio.NewScanner(out); out.Scan(); {
			l.answer <- out.Text()
		}
	}()
	l.tid, err = strconv.Atoi(l.hear())
	must(t, err)
	t.Cleanup(l.end)
	return l
}

// end lets the process exit.
func (l *locker) end() {
	if l.cmd.ProcessState == nil {
		l.in.Close()
		_ = l.cmd.Wait()
	}
}

// kill ends the process as a crash does.
func (l *locker) kill() {
	l.t.Helper()
	must(l.t, l.cmd.Process.Kill())
	_ = l.cmd.Wait()
}

// tell gives a command whose answer is heard later.
func (l *locker) tell(format string, args ...any) {
	l.t.Helper()
	if _, err := fmt.Fprintf(l.in, format+"\n", args...); err != nil {
		l.t.Fatal(err)
	}
}

func (l *locker) hear() string {
	l.t.Helper()
	select {
	case s, ok := <-l.answer:
		if !ok {
			l.t.Fatal("a locker has ended")
		}
		return s
	case <-time.After(2 * patience):
		_ = l.cmd.Process.Kill() // it would be waited for
		l.t.Fatal("a locker does not answer")
	}
	panic("unreachable")
}

// do gives a command and returns its result.
func (l *locker) do(format string, args ...any) string {
	l.t.Helper()
	l.tell(format, args...)
	return l.hear()
}

// want gives a command that must have a result.
func (l *locker) want(want, format string, args ...any) {
	l.t.Helper()
	if got := l.do(format, args...); got != want {
		l.t.Errorf("%s: %s, want %s", fmt.Sprintf(format, args...), got, want)
	}
}

// wants checks the result of a command that was told before.
func (l *locker) wants(got, want string) {
	l.t.Helper()
	if got != want {
		l.t.Errorf("a lock that was waited for: %s, want %s", got, want)
	}
}

// blocks checks that a command has not been answered, once its system call has
// been entered.
func (l *locker) blocks() {
	l.t.Helper()
	asleep := func() bool {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", l.cmd.Process.Pid, l.tid))
		return strings.HasPrefix(string(text), strconv.Itoa(unix.SYS_FCNTL)+" ") ||
			strings.HasPrefix(string(text), strconv.Itoa(unix.SYS_FLOCK)+" ")
	}
	if !eventually(patience, func() bool { return asleep() || len(l.answer) > 0 }) {
		l.t.Error("a locker neither waits nor answers")
	}
	if len(l.answer) > 0 {
		l.t.Errorf("a lock did not wait: %s", <-l.answer)
	}
}

// interrupt sends a signal to the thread that locks, until it has answered: one
// that comes before the system call is entered ends nothing.
func (l *locker) interrupt() string {
	l.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		must(l.t, unix.Tgkill(l.cmd.Process.Pid, l.tid, unix.SIGUSR1))
		select {
		case s := <-l.answer:
			return s
		case <-time.After(100 * time.Millisecond):
		}
	}
	l.t.Error("a signal does not end the waiting")
	return ""
}

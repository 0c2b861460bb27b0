package history

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Loader reads files through mappings, in a process of its own.
//
// Who has to wait for a page of a mount keeps other threads of the process from
// mapping memory, and soon from running at all. That would be a deadlock where the
// page comes through something that the process itself does for the mount, a proxy
// for instance.
//
// It is used by one goroutine at a time.
type Loader struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
}

// loaderEnv tells a program that it is to be a Loader's process.
const loaderEnv = "RPYCFS_HISTORY_LOADER"

// ServeLoader does a Loader's work and ends the program, if that is what it has been
// started for. Every program that calls NewLoader must call it first.
func ServeLoader() {
	if os.Getenv(loaderEnv) == "" {
		return
	}
	var m mapping
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		value, err := m.obey(orders.Text())
		fmt.Printf("%d %s\n", errnoOf(err), value)
	}
	os.Exit(0)
}

func errnoOf(err error) (errno unix.Errno) {
	if err != nil && !errors.As(err, &errno) {
		return unix.EIO
	}
	return errno
}

// NewLoader starts the program that calls it once more, as a Loader's process.
func NewLoader() (*Loader, error) {
	l := &Loader{cmd: exec.Command("/proc/self/exe")}
	l.cmd.Env = append(os.Environ(), loaderEnv+"=1")
	l.cmd.Stderr = os.Stderr
	// It may be waiting for a page when it is told to end.
	l.cmd.WaitDelay = time.Second
	var err error
	if l.orders, err = l.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.answers = bufio.NewReader(answers)
	return l, l.cmd.Start()
}

// Close ends the process.
func (l *Loader) Close() error {
	_ = l.orders.Close()
	_ = l.cmd.Process.Kill()
	if err := l.cmd.Wait(); !errors.As(err, new(*exec.ExitError)) {
		return err
	}
	return nil
}

func (l *Loader) order(order string) (string, error) {
	if _, err := fmt.Fprintln(l.orders, order); err != nil {
		return "", err
	}
	line, err := l.answers.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the loader is gone: %w", err)
	}
	var errno unix.Errno
	number, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if _, err := fmt.Sscan(number, &errno); err != nil {
		return "", fmt.Errorf("the loader says %q", line)
	}
	if errno != 0 {
		return "", errno
	}
	return value, nil
}

// mapFile maps a file, in place of one that is mapped; none if path is "".
func (l *Loader) mapFile(path string) error {
	_, err := l.order("map " + path)
	return err
}

// load reads the first cell of the mapping: one load, which no change can tear.
func (l *Loader) load() (string, error) { return l.order("load") }

// mapping is what a Loader's process has mapped.
type mapping struct{ b []byte }

func (m *mapping) obey(order string) (string, error) {
	path, isMap := strings.CutPrefix(order, "map ")
	if !isMap {
		cell := *(*[cellSize]byte)(unsafe.Pointer(&m.b[0]))
		return strings.TrimRight(string(cell[:]), " "), nil
	}
	if m.b != nil {
		_ = unix.Munmap(m.b)
		m.b = nil
	}
	if path == "" {
		return "", nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	m.b, err = unix.Mmap(fd, 0, contentSize, unix.PROT_READ, unix.MAP_SHARED)
	return "", err
}

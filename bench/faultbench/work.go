package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The programs run in a process of their own: who has files open on a mount that stands
// still cannot even start another program.

const (
	workArg = "--work" // what that process finds as its first argument

	pause     = 20 * time.Millisecond // between two steps of a program
	readFiles = 32
	readSize  = 64 << 10
	blocks    = 64 // of the open file
	blockSize = 4096

	goOn      = 2 * time.Second  // how long they go on when all work again
	recovery  = 30 * time.Second // how long they may take for that
	endLimit  = 3 * time.Second  // how long their last step may take
	firstWait = 10 * time.Second // how long their first step may take
)

// outcome is what a program has met.
type outcome struct {
	Steps  int
	Errors map[string]int
	Wrong  []string // what it read that was wrong
	Frozen float64  // seconds, longest time without success
	Works  bool     // its last step succeeded, begun after all was mended
	Acked  []int    // numbers that fsync or rename has acknowledged
	Tried  int      // the last number that may have been written
}

// program is one that does one step after the other.
type program struct {
	step func(n int) error
	ack  bool // steps are to be found on the server

	mu      sync.Mutex
	outcome outcome
	success time.Time // when the last good step ended
	begun   time.Time // when it began
}

func (p *program) run(stop <-chan struct{}) {
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(pause):
		}
		p.mu.Lock()
		p.outcome.Tried = n
		p.mu.Unlock()
		begun := time.Now()
		err := p.step(n)
		select {
		case <-stop: // the mount may be gone
			return
		default:
		}
		p.mu.Lock()
		p.note(n, begun, err)
		p.mu.Unlock()
	}
}

// note takes note of a step. mu is held.
func (p *program) note(n int, begun time.Time, err error) {
	o := &p.outcome
	o.Steps++
	if err != nil {
		var wrong wrongError
		if errors.As(err, &wrong) {
			o.Wrong = append(o.Wrong, wrong.Error())
			return
		}
		var errno syscall.Errno
		name := err.Error()
		if errors.As(err, &errno) {
			name = errno.Error()
		}
		o.Errors[name]++
		return
	}
	p.freeze()
	p.success, p.begun = time.Now(), begun
	if p.ack {
		o.Acked = append(o.Acked, n)
	}
}

// freeze looks how long it is since the last success. mu is held.
func (p *program) freeze() {
	if !p.success.IsZero() {
		p.outcome.Frozen = max(p.outcome.Frozen, time.Since(p.success).Seconds())
	}
}

// worksSince reports whether a step succeeded that began after a time.
func (p *program) worksSince(t time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.begun.After(t)
}

// wrongError says that data are not what they have to be.
type wrongError string

func (w wrongError) Error() string { return string(w) }

// Names of the programs, and of their files.
const (
	progAppend = "append"
	progHeld   = "held"
	progSwap   = "swap"
	progRead   = "read"
)

// line is a line of the log; its length varies.
func line(n int) string {
	text := fmt.Sprintf("%d %s", n, strings.Repeat("x", n%500))
	return fmt.Sprintf("%s %08x\n", text, crc32.ChecksumIEEE([]byte(text)))
}

// block is what step n writes into the open file.
func block(n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%015d\n", n), blockSize/16)
}

// version is the content of the file that is replaced.
func version(n int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%015d\n", n), 1+n%300) }

func readContent(i int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%015d\n", i*7919), readSize/16)
}

// prepare makes the files that programs find.
func prepare(dir string) error {
	errs := []error{
		os.Mkdir(filepath.Join(dir, "read"), 0o755),
		os.WriteFile(filepath.Join(dir, progAppend), nil, 0o644),
		os.WriteFile(filepath.Join(dir, progHeld), make([]byte, blocks*blockSize), 0o644),
	}
	for i := range readFiles {
		errs = append(errs, os.WriteFile(readName(dir, i), readContent(i), 0o644))
	}
	return errors.Join(errs...)
}

func readName(dir string, i int) string { return filepath.Join(dir, "read", fmt.Sprint(i)) }

// appender appends numbered lines and syncs each. After an error it opens the log anew.
func appender(dir string) func(int) error {
	var f *os.File
	return func(n int) (err error) {
		defer func() {
			if err != nil && f != nil {
				f.Close()
				f = nil
			}
		}()
		if f == nil {
			if f, err = os.OpenFile(filepath.Join(dir, progAppend), os.O_WRONLY|os.O_APPEND, 0); err != nil {
				return err
			}
		}
		if _, err = f.WriteString(line(n)); err != nil {
			return err
		}
		return f.Sync()
	}
}

// holder works in a file that it opens once.
func holder(dir string) (func(int) error, error) {
	f, err := os.OpenFile(filepath.Join(dir, progHeld), os.O_RDWR, 0)
	return func(n int) error {
		at := int64(n%blocks) * blockSize
		if _, err := f.WriteAt(block(n), at); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		got := make([]byte, blockSize)
		if _, err := f.ReadAt(got, at); err != nil {
			return err
		}
		if !bytes.Equal(got, block(n)) {
			return wrongError(fmt.Sprintf("block %d of the open file reads %.20q", n, got))
		}
		return nil
	}, err
}

// swapper replaces a file as editors and databases do: a new one, synced, renamed.
func swapper(dir string) func(int) error {
	name := filepath.Join(dir, progSwap)
	return func(n int) error {
		f, err := os.Create(name + ".new")
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(version(n)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		return os.Rename(name+".new", name)
	}
}

// reader reads files that nobody changes.
func reader(dir string) func(int) error {
	return func(n int) error {
		got, err := os.ReadFile(readName(dir, n%readFiles))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, readContent(n%readFiles)) {
			return wrongError(fmt.Sprintf("file %d reads wrong: %d of %d bytes", n%readFiles, len(got), readSize))
		}
		return nil
	}
}

// work runs the programs in dir. It says "working" when all do, goes on until it is told
// that all is mended, and some time longer, and says what they met.
func work(dir string, in io.Reader, out io.Writer) error {
	held, err := holder(dir)
	if err != nil {
		return err
	}
	programs := map[string]*program{
		progAppend: {step: appender(dir), ack: true},
		progHeld:   {step: held, ack: true},
		progSwap:   {step: swapper(dir), ack: true},
		progRead:   {step: reader(dir)},
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, p := range programs {
		p.outcome.Errors = make(map[string]int)
		running.Go(func() { p.run(stop) })
	}
	if !allWork(programs, time.Time{}, firstWait) {
		return errors.New("the programs do not even begin to work")
	}
	told := bufio.NewScanner(in)
	fmt.Fprintln(out, "working")
	told.Scan()
	mended := time.Now()
	if allWork(programs, mended, recovery) {
		time.Sleep(goOn)
	}
	close(stop)
	ended := make(chan struct{})
	go func() {
		running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(endLimit):
	}
	outcomes := make(map[string]outcome)
	for name, p := range programs {
		p.mu.Lock()
		p.outcome.Works = p.begun.After(mended)
		if !p.outcome.Works {
			p.freeze()
		}
		o := p.outcome
		o.Acked = slices.Clone(o.Acked)
		p.mu.Unlock()
		outcomes[name] = o
	}
	return json.NewEncoder(out).Encode(outcomes)
}

// allWork waits until every program has done a step that it began after a time.
func allWork(programs map[string]*program, since time.Time, limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(pause) {
		all := true
		for _, p := range programs {
			all = all && p.worksSince(since)
		}
		if all {
			return true
		}
	}
	return false
}

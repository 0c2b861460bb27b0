package history

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	private   = "p"           // a directory for what is renamed from and to
	firstTime = 1_000_000_000 // seconds: the first mtime
	firstUser = 20_000        // the owners that files are given to
)

// An actor is a worker of a client. It is used by one goroutine.
type actor struct {
	round  *Round
	client int
	id     string // unique in the round: the first part of what it writes
	dir    string // the round's, as the client sees it
	rand   *rand.Rand

	ops    map[string][]Op // by object
	failed *Failure

	fds    map[string]int // the permanent files, open
	loader *Loader        // maps the mapped one
	listed *os.File       // the directory
	held   []int          // files that keep their inode numbers from being given to others
	made   int            // names and values so far
	values *atomic.Uint32 // of attributes, by all actors
}

// open opens what the actor holds open during the round.
func (a *actor) open() {
	a.must(func() error {
		for _, name := range permanent {
			fd, err := unix.Open(a.path(name), unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			a.fds[name] = fd
		}
		var err error
		if err = a.loader.mapFile(a.path(mapped)); err != nil {
			return err
		}
		a.listed, err = os.Open(a.dir)
		return err
	})
}

func (a *actor) close() {
	_ = a.loader.mapFile("")
	if a.listed != nil {
		_ = a.listed.Close()
	}
	for _, fd := range a.fds {
		_ = unix.Close(fd)
	}
	for _, fd := range a.held {
		_ = unix.Close(fd)
	}
}

// work does steps until one fails in a way that no model knows.
func (a *actor) work(steps int, pause time.Duration) {
	for i := range steps {
		if a.failed != nil {
			return
		}
		switch n := a.rand.IntN(100); {
		case a.round.Contents:
			a.content([]string{truncated, mapped}[a.rand.IntN(2)])
		case n < 45:
			a.name(names[a.rand.IntN(len(names))])
		case n < 70:
			a.content([]string{truncated, mapped}[a.rand.IntN(2)])
		case n < 88:
			a.attribute()
		default:
			a.list()
		}
		if i%2 == 1 && pause > 0 {
			time.Sleep(time.Duration(a.rand.Int64N(int64(pause)))) // no more than a rhythm
		}
	}
}

// call does an operation and remembers it as one on each of the objects whose
// value it returns.
func (a *actor) call(call Call, objects []string, f func() ([]string, error)) {
	op := Op{Client: a.client, Call: call, Start: a.round.Clock.Now()}
	values, err := again(f)
	op.End, op.Since = a.round.Clock.Now(), op.Start
	known := err == nil || strings.HasPrefix(objects[0], "name ") && (errors.Is(err, unix.ENOENT) ||
		errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR))
	if !known {
		a.failed = &Failure{op, objects[0], err}
		return
	}
	errors.As(err, &op.Err)
	for i, object := range objects {
		if err == nil {
			op.Value = values[i]
		}
		a.ops[object] = append(a.ops[object], op)
	}
}

// one is call for one object.
func (a *actor) one(call Call, object string, f func() (string, error)) {
	a.call(call, []string{object}, func() ([]string, error) {
		value, err := f()
		return []string{value}, err
	})
}

// must does something that is no operation on an object, and cannot fail.
func (a *actor) must(f func() error) {
	op := Op{Client: a.client, Call: "prepare", Start: a.round.Clock.Now()}
	_, err := again(func() ([]string, error) { return nil, f() })
	op.End = a.round.Clock.Now()
	if err != nil && a.failed == nil {
		a.failed = &Failure{op, "", err}
	}
}

// again repeats what a signal has ended. Signals are Go's own, for its scheduler.
func again(f func() ([]string, error)) ([]string, error) {
	for {
		if values, err := f(); !errors.Is(err, unix.EINTR) {
			return values, err
		}
	}
}

func (a *actor) path(name string) string { return filepath.Join(a.dir, name) }

// unique is a value that nobody else writes in the round; at most cellSize bytes.
func (a *actor) unique() string {
	a.made++
	return a.id + strconv.Itoa(a.made)
}

// pick returns one of the functions, each as likely as it is often there.
func (a *actor) pick(of ...func()) func() { return of[a.rand.IntN(len(of))] }

// list lists the directory.
func (a *actor) list() {
	a.pick(func() {
		a.one(List, "directory", func() (string, error) {
			d, err := os.Open(a.dir)
			if err != nil {
				return "", err
			}
			defer d.Close()
			return listing(d)
		})
	}, func() {
		a.one(ListHeld, "directory", func() (string, error) {
			if _, err := a.listed.Seek(0, 0); err != nil {
				return "", err
			}
			return listing(a.listed)
		})
	})()
}

// listing is what a directory shows of the objects of a round.
func listing(d *os.File) (string, error) {
	all, err := d.Readdirnames(-1)
	all = slices.DeleteFunc(all, func(n string) bool { return !slices.Contains(names, n) && !slices.Contains(permanent, n) })
	slices.Sort(all)
	return strings.Join(all, " "), err
}

package fsevents

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

// Method is how changes are learned of; a larger one is better.
type Method uint8

// The methods. The package comment compares them.
const (
	None         Method = iota // not at all
	Inotify                    // one watch per object; own changes come too
	FanotifyDirs               // fanotify, one mark per object
	Fanotify                   // fanotify, one mark on the file system
)

func (m Method) String() string {
	return [...]string{"none", "inotify", "fanotify (objects)", "fanotify (file system)"}[m]
}

// Object identifies a file or directory in events, as long as it exists. It is
// the kernel's file handle (type and bytes), with Inotify the watch descriptor.
// The zero value is none.
type Object string

// Kind says what has happened. The kernel joins events about one entry that have
// not been read yet, so that several bits may be set; which came first is not
// known then. Create with Delete, for example, may leave an entry or none.
type Kind uint16

// The kinds of changes.
const (
	Create     Kind = 1 << iota // an entry was made, by link(2) too
	Delete                      // an entry was removed
	Rename                      // an entry was moved; what was at the new place is replaced
	Modify                      // content or size changed
	Attrib                      // mode, owner, times, attributes or number of links changed
	CloseWrite                  // closed by somebody who could write, for good: by the last descriptor or mapping
	DeleteSelf                  // the object itself is gone, and with it its watch: nobody has it open any more
	Overflow                    // events were lost; anything may have changed
)

var kindNames = []string{"create", "delete", "rename", "modify", "attrib", "close-write", "delete-self", "overflow"}

func (k Kind) String() string {
	var set []string
	for i, name := range kindNames {
		if k&(1<<i) != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, "|")
}

// Event is a change by somebody else, with Inotify by this process too. At least
// one of Dir, NewDir and Target is watched, unless it is an Overflow or Unasked.
// While everything is told of (WatchAll), Dir and NewDir are set watched or not.
type Event struct {
	Kind Kind
	Dir  Object // the directory that holds the entry, if it is watched
	Name string // of the entry in Dir; "": the event is about Dir itself
	// Of a Rename: where the entry went, if that directory is watched. Dir is ""
	// if it came from where nothing is watched.
	NewDir  Object
	NewName string
	// Target is the object behind the entry, watched or not; with Inotify only of
	// events about a watched file. The object is what counts where it and Name
	// disagree: a write to a file that was removed bears the name that it had.
	Target Object
	IsDir  bool // what changed is a directory
	// Unasked: nothing that the event names is watched. It comes of WatchAll only.
	Unasked bool
}

// Config is what Open needs. Root and Handle must be set.
type Config struct {
	Root *beneath.Path // a directory of the file system to watch; used by Open only
	Want Method        // no other one; None: the best that can be had
	Log  *slog.Logger  // nil: nothing is logged
	// Handle gets what has happened since its last call, in order. It runs on the
	// Watcher's goroutine; while it does, events wait in the kernel, which drops
	// them when there are too many (Overflow). It may keep strings of events but
	// not the slice, and must not call Close.
	Handle func(events []Event)

	settle time.Duration // how long the second half of a move may take; 0: defaultSettle
}

// Watcher tells of changes in one file system until it is closed. Its methods may
// be called by several goroutines at a time.
type Watcher struct {
	cfg    Config
	log    *slog.Logger
	source source   // nil: None from the start
	file   *os.File // what source's events are read from
	done   chan struct{}
	fsid   unix.Fsid // of the file system

	mu     sync.Mutex // never held while calling out
	method Method
	why    string
}

// source is a method of the kernel's. decode is called by the Watcher's goroutine
// only, the others by anybody.
type source interface {
	// decode adds the events of what was read. It wants more if the rest of the
	// last ones is likely to follow at once.
	decode(records []byte, b *batch) (more bool, err error)
	object(p *beneath.Path) (Object, error)
	watch(p *beneath.Path) (Object, error)
	unwatch(o Object)
	close()
}

const (
	readSize = 64 << 10 // bytes of records read at a time: many hundred events
	maxBatch = 4096     // events of a batch after which no more are waited for
	// The halves of a move are made by one system call, but its thread may lose the
	// processor in between.
	defaultSettle = 5 * time.Millisecond
)

// Open starts telling of changes in the file system that holds cfg.Root. Without
// a wish it fails only if there is no such directory: if nothing can be learned,
// Method says None.
func Open(cfg Config) (*Watcher, error) {
	w := &Watcher{cfg: cfg, log: cfg.Log, done: make(chan struct{})}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if cfg.settle == 0 {
		w.cfg.settle = defaultSettle
	}
	st, err := cfg.Root.Statfs()
	if err != nil {
		return nil, fmt.Errorf("fsevents: statfs: %w", err)
	}
	w.fsid = st.Fsid
	refused := w.choose(fileSystem(st.Type))
	w.why = strings.Join(refused, "; ")
	if cfg.Want != None && w.method == None {
		return nil, fmt.Errorf("fsevents: %s", w.why)
	}
	if w.method == None {
		close(w.done)
	} else {
		go w.run()
	}
	return w, nil
}

// choose tries the methods, best first, and returns why each was not to be had.
func (w *Watcher) choose(fs uint32) (refused []string) {
	if !local[fs] {
		return []string{fmt.Sprintf("file system of type %#x: not known to tell of all changes", fs)}
	}
	for _, try := range []struct {
		method Method
		open   func(root *beneath.Path) (source, *os.File, error)
		needs  string
	}{
		{Fanotify, openFileSystem, "needs root and Linux 5.17"},
		{FanotifyDirs, openDirs, "needs Linux 5.17"},
		{Inotify, openInotify, "see inotify(7) about its limits"},
	} {
		if w.cfg.Want != None && w.cfg.Want != try.method {
			continue
		}
		src, file, err := try.open(w.cfg.Root)
		if err == nil {
			w.source, w.file, w.method = src, file, try.method
			return refused
		}
		refused = append(refused, fmt.Sprintf("%s: %v (%s)", try.method, err, try.needs))
	}
	return refused
}

// Method returns how changes are learned of and, in one line, why not in a better
// way. It falls to None when the kernel refuses to go on, after a last Overflow.
func (w *Watcher) Method() (Method, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.method, w.why
}

// Own reports whether changes by this very process are told of as well. Without,
// only a DeleteSelf may be a consequence of its own doing.
func (w *Watcher) Own() bool {
	m, _ := w.Method()
	return m == Inotify
}

// Object returns by which name events know p, "" if they cannot without a watch.
func (w *Watcher) Object(p *beneath.Path) (Object, error) {
	if w.source == nil {
		return "", nil
	}
	return w.source.object(p)
}

// Watch makes events tell of p and, if it is a directory, of its entries, from
// now on: what is to be kept must be read after Watch has returned. A second Watch
// changes nothing. A file need be watched only if changes may come through names
// in directories that are not: if it has several links.
//
// Errors are the kernel's: ENOSPC at its limit (fs.inotify.max_user_watches,
// fs.fanotify.max_user_marks) or ours of descriptors, EACCES if p may not be read,
// EXDEV if it lies on another file system than the root; [errors.ErrUnsupported]
// if the method is None, [os.ErrClosed] after Close. Whoever gets one must not rely
// on events about p.
func (w *Watcher) Watch(p *beneath.Path) (Object, error) {
	if m, _ := w.Method(); m == None {
		return "", errors.ErrUnsupported
	}
	st, err := p.Statfs()
	if err != nil {
		return "", err
	}
	if st.Fsid != w.fsid { // no mark there, other objects with the same handles, or a network
		return "", unix.EXDEV
	}
	return w.source.watch(p)
}

// Unwatch ends what Watch began. It is not needed after a DeleteSelf.
func (w *Watcher) Unwatch(o Object) {
	if w.source != nil {
		w.source.unwatch(o)
	}
}

// Close ends everything. When it returns, Handle is not running and will not be
// called again.
func (w *Watcher) Close() error {
	if w.source == nil {
		return nil
	}
	err := w.file.Close()
	<-w.done
	w.source.close()
	return err
}

// run reads events until the file is closed.
func (w *Watcher) run() {
	defer close(w.done)
	b := newBatch()
	for buf := make([]byte, readSize); ; {
		err := w.fill(buf, b)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			w.fail(err)
			b.overflow()
		}
		if len(b.events) > 0 {
			w.cfg.Handle(b.events)
		}
		if err != nil {
			return
		}
	}
}

// fill waits for events and makes a batch of those that are there.
func (w *Watcher) fill(buf []byte, b *batch) error {
	b.reset()
	more, err := w.read(buf, b)
	if err != nil || !more {
		return err
	}
	if err := w.file.SetReadDeadline(time.Now().Add(w.cfg.settle)); err != nil {
		return err
	}
	for more && len(b.events) < maxBatch {
		more, err = w.read(buf, b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
	}
	return w.file.SetReadDeadline(time.Time{})
}

// read adds to the batch what one system call gets.
func (w *Watcher) read(buf []byte, b *batch) (more bool, err error) {
	n, err := w.file.Read(buf)
	if err != nil {
		return false, err
	}
	more, err = w.source.decode(buf[:n], b)
	if err != nil { // the rest of the records is lost, no more
		w.log.Error("fsevents: the kernel's records are not understood; taking all caches as out of date", "error", err)
		b.overflow()
	}
	return more, nil
}

// fail remembers that there will be no more events.
func (w *Watcher) fail(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	w.log.Error("fsevents: no more events; changes on the server's disk are seen late from now on", "error", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why = fmt.Sprintf("%s ended: %v; restart the daemon", w.method, err)
	w.method = None
}

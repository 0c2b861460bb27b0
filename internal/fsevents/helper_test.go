package fsevents

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

// TestMain is the child processes as well.
func TestMain(m *testing.M) {
	unix.Umask(0)
	var err error
	if dir := os.Getenv("FSEVENTS_CHILD"); dir != "" {
		err = obey(dir, os.Stdin, os.Stdout)
	} else if dir := os.Getenv("FSEVENTS_LIMIT"); dir != "" {
		err = limited(dir)
	} else {
		goleak.VerifyTestMain(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// methods are those that can be had here, best first. Marking a file system takes
// the machine's root, and is not possible where the temporary directory lies on a
// container's overlay; TestBestMethod and TestLimit state that it is refused then.
func methods() []Method {
	var fs unix.Statfs_t
	err := unix.Statfs(os.TempDir(), &fs)
	ids, _ := os.ReadFile("/proc/self/uid_map")
	everybody := slices.Equal(strings.Fields(string(ids)), []string{"0", "0", "4294967295"})
	if os.Geteuid() == 0 && everybody && err == nil && fs.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return []Method{Fanotify, FanotifyDirs, Inotify}
	}
	return []Method{FanotifyDirs, Inotify}
}

// obey makes the changes whose names it reads, one a line, and answers each.
func obey(dir string, in io.Reader, out io.Writer) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		word, arg, _ := strings.Cut(lines.Text(), " ")
		do := orders[word]
		if do == nil {
			return fmt.Errorf("no order %q", word)
		}
		answer := "done"
		if err := do(arg); err != nil {
			answer = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return err
		}
	}
	return nil
}

// child is another process that makes changes.
type child struct {
	t   testing.TB
	in  io.Writer
	out *bufio.Scanner
}

func newChild(t testing.TB, dir string) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "FSEVENTS_CHILD="+dir, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("child: %v", err)
		}
	})
	return &child{t, in, bufio.NewScanner(out)}
}

// tell sends an order without waiting for the answer.
func (c *child) tell(order string) {
	c.t.Helper()
	_, err := fmt.Fprintln(c.in, order)
	must(c.t, err)
}

// answer waits for the answer to an order.
func (c *child) answer(order string) {
	c.t.Helper()
	if !c.out.Scan() || c.out.Text() != "done" {
		c.t.Fatalf("child: %s: %q %v", order, c.out.Text(), c.out.Err())
	}
}

func (c *child) do(order string) {
	c.t.Helper()
	c.tell(order)
	c.answer(order)
}

// fixture is a directory with a Watcher and another process that works there.
type fixture struct {
	t      testing.TB
	dir    string
	root   *beneath.Path
	w      *Watcher
	child  *child
	labels map[Object]string // what expected events call a watched object
	syncs  int

	mu     sync.Mutex
	events []Event
	news   chan struct{}
	hold   chan struct{} // not nil: Handle waits until it is closed
}

// newFixture watches a new directory and those named, which are made in it.
func newFixture(t testing.TB, m Method, dirs ...string) *fixture {
	t.Helper()
	return fixtureIn(t, t.TempDir(), m, dirs...)
}

func fixtureIn(t testing.TB, dir string, m Method, dirs ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: dir, labels: map[Object]string{}, news: make(chan struct{}, 1)}
	root, err := beneath.OpenRoot(f.dir)
	must(t, err)
	t.Cleanup(root.Close)
	f.root = root
	f.w, err = Open(Config{Root: root, Want: m, Handle: f.handle, settle: 200 * time.Millisecond})
	must(t, err)
	t.Cleanup(func() { f.w.Close() })
	o, err := f.w.Watch(root)
	must(t, err)
	f.labels[o] = "."
	for _, name := range dirs {
		must(t, root.Mkdir(name, 0o777))
		f.watch(name)
	}
	f.child = newChild(t, f.dir)
	f.sync()
	return f
}

// watch watches an entry of the root and gives it its name as label.
func (f *fixture) watch(name string) Object {
	f.t.Helper()
	p, err := f.root.Walk(name)
	must(f.t, err)
	defer p.Close()
	o, err := f.w.Watch(p)
	must(f.t, err)
	f.labels[o] = name
	return o
}

func (f *fixture) handle(events []Event) {
	f.mu.Lock()
	f.events = append(f.events, events...)
	hold := f.hold
	f.mu.Unlock()
	select {
	case f.news <- struct{}{}:
	default:
	}
	if hold != nil {
		<-hold
	}
}

// await waits until there is an event that ok accepts and takes the events away
// up to there.
func (f *fixture) await(what string, ok func(e Event) bool) []Event {
	f.t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		f.mu.Lock()
		if i := slices.IndexFunc(f.events, ok); i >= 0 {
			taken := slices.Clone(f.events[:i+1])
			f.events = slices.Delete(f.events, 0, i+1)
			f.mu.Unlock()
			return taken
		}
		f.mu.Unlock()
		select {
		case <-f.news:
		case <-deadline:
			f.t.Fatalf("%s has not come; there is %v", what, f.events)
		}
	}
}

// sync returns all events up to now: those before a mark that the child makes.
func (f *fixture) sync() []Event {
	f.t.Helper()
	f.syncs++
	name := ".sync" + strconv.Itoa(f.syncs)
	f.child.do("mark " + name)
	events := f.await(name, func(e Event) bool { return e.Name == name })
	return events[:len(events)-1]
}

// changes makes the child follow an order and returns what is told of it: for each
// entry once, all kinds together, because it depends on the moment what the kernel
// and a batch join.
func (f *fixture) changes(order string) []string {
	f.t.Helper()
	f.child.do(order)
	return f.describe(f.sync())
}

func (f *fixture) describe(events []Event) (lines []string) {
	kinds := map[string]Kind{}
	var order []string
	for _, e := range events {
		what := f.place(e.Dir, e.Name)
		if e.Kind&Rename != 0 {
			what += " -> " + f.place(e.NewDir, e.NewName)
		}
		if e.Dir == "" && e.NewDir == "" {
			what = "object " + f.labels[e.Target]
		}
		if e.IsDir {
			what += "/"
		}
		if kinds[what] == 0 {
			order = append(order, what)
		}
		kinds[what] |= e.Kind
	}
	for _, what := range order {
		lines = append(lines, kinds[what].String()+" "+what)
	}
	return lines
}

func (f *fixture) place(dir Object, name string) string {
	switch label := f.labels[dir]; {
	case dir == "":
		return "?"
	case name == "":
		return label
	case label == ".":
		return name
	default:
		return label + "/" + name
	}
}

// end waits for a mark behind many changes. The event of one may be lost in an
// overflow, so more are made until one has come.
type end chan struct{}

func newEnd() end { return make(end, 1) }

func (d end) see(e Event) {
	if strings.HasPrefix(e.Name, "end") {
		select {
		case d <- struct{}{}:
		default:
		}
	}
}

func (d end) await(c *child) {
	c.t.Helper()
	for i := range 200 {
		c.do("mark end" + strconv.Itoa(i))
		select {
		case <-d:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	c.t.Fatal("the end has not come")
}

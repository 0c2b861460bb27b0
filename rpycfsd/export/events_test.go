package export

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/fsevents"
)

// eventMethods are those that can be had here: for the whole file system root alone.
func eventMethods() []fsevents.Method {
	methods := []fsevents.Method{fsevents.Inotify, fsevents.FanotifyDirs}
	if os.Geteuid() == 0 {
		methods = append(methods, fsevents.Fanotify)
	}
	return methods
}

// program runs a shell script on the server, in the exported directory.
func (v *env) program(script string) {
	v.t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = v.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		v.t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// settled returns what was recalled because of all that has happened on the server
// until now. Sentinel must be a leased file; it is told with the rest.
func (a *leaser) settled(sentinel string) map[fsproto.Node]fsproto.Recalled {
	a.t.Helper()
	num := a.lookup(sentinel).Node
	a.program("echo >> " + sentinel)
	if !eventually(a.t, soon, func() bool { time.Sleep(time.Millisecond); return !a.holds(num) }) {
		a.t.Fatal("no event")
	}
	return a.recalledAll()
}

// Changes by programs on the server take back what they put out of date, and not the
// leases on other files.
func TestEventsRecall(t *testing.T) {
	type change = map[string]uint8
	scripts := []struct {
		script string
		what   change
		names  map[string][]string
	}{
		{"echo >> f", change{"f": recallWhole}, nil},
		{"truncate -s 1 f", change{"f": recallWhole}, nil},
		{"chmod 600 f", change{"f": recallAttr}, nil},
		{"chmod 711 d", change{"d": recallAttr}, nil},
		{"echo > d/new", change{"d": recallAttr}, map[string][]string{"d": {"new"}}},
		{"mkdir d/new", change{"d": recallAttr}, map[string][]string{"d": {"new"}}},
		{"ln f d/new", change{"d": recallAttr, "f": recallAttr}, map[string][]string{"d": {"new"}}},
		{"rm d/in", change{"d": recallAttr, "d/in": recallAttr}, map[string][]string{"d": {"in"}}},
		{"rmdir d/empty", change{"d": recallAttr, "d/empty": recallAttr}, map[string][]string{"d": {"empty"}}},
		{"mv d/in e/out", change{"d": recallAttr, "e": recallAttr, "d/in": recallAttr}, map[string][]string{"d": {"in"}, "e": {"out"}}},
		{"mv d/in f", change{"d": recallAttr, "d/in": recallAttr, "f": recallAttr}, map[string][]string{"d": {"in"}}},
		{"echo >> d/in; mv d/in e/out", change{"d/in": recallWhole}, nil},
		{"echo >> f; mv f x; mv g f; mv x g", change{"f": recallWhole, "g": recallAttr}, nil},
		{"mv d/in hidden/in", change{"d/in": recallAttr}, nil},
		{"echo >> hidden/two", change{"two": recallWhole}, nil},
	}
	paths := []string{"d", "e", "f", "g", "other", "d/in", "d/empty", "two"}
	for _, method := range eventMethods() {
		for _, c := range scripts {
			t.Run(fmt.Sprint(method, ": ", c.script), func(t *testing.T) {
				a, b := twoLeasers(t, Config{events: method}, func(dir string) {
					makeTree(dir)
					os.Mkdir(filepath.Join(dir, "hidden"), 0o777)
					os.WriteFile(filepath.Join(dir, "two"), nil, 0o666)
					os.Link(filepath.Join(dir, "two"), filepath.Join(dir, "hidden/two"))
					os.WriteFile(filepath.Join(dir, "sentinel"), nil, 0o666)
				})
				nodes := a.believed(paths...)
				a.program(c.script)
				got := a.settled("sentinel")
				b.quiet()
				for i, path := range paths {
					r := got[nodes[i]]
					if r.What&c.what[path] != c.what[path] {
						t.Errorf("%s: recalled %#x, want %#x", path, r.What, c.what[path])
					}
					for _, name := range c.names[path] {
						if !slices.Contains(r.Names, name) {
							t.Errorf("%s: names recalled %q, want %q too", path, r.Names, name)
						}
					}
				}
				if r, ok := got[nodes[4]]; ok {
					t.Errorf("a file that nobody changed: recalled %+v", r)
				}
			})
		}
	}
}

// believed returns the nodes at paths, on all of which there are leases that are not
// brief.
func (a *leaser) believed(paths ...string) []fsproto.Node {
	a.t.Helper()
	nodes := a.leased(paths...)
	for i, num := range nodes {
		lease := do(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: num}).Attr.Lease
		if lease == 0 || lease&fsproto.LeaseBrief != 0 {
			a.t.Fatalf("%s: lease %#x", paths[i], lease)
		}
	}
	return nodes
}

// piecemealMethods watch one object after another.
var piecemealMethods = []fsevents.Method{fsevents.Inotify, fsevents.FanotifyDirs}

// brief reports whether a lease is one, and fails if there is none.
func (a *leaser) brief(num fsproto.Node) bool {
	a.t.Helper()
	lease := do(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: num}).Attr.Lease
	if lease == 0 {
		a.t.Fatal("no lease")
	}
	return lease&fsproto.LeaseBrief != 0
}

// What nobody has asked about is not watched, and told so.
func TestBriefLeases(t *testing.T) {
	for _, method := range piecemealMethods {
		a, _ := twoLeasers(t, Config{events: method}, makeTree)
		en := a.lookup("d")
		if en.Attr.Lease&fsproto.LeaseBrief == 0 {
			t.Errorf("%v: a lease on a directory that is not watched", method)
		}
		began := a.e.leases.now()
		if a.brief(en.Node) {
			t.Errorf("%v: no lease on a directory that is asked about", method)
		}
		var early fsproto.AttrRes
		a.s.grantAll(began, false, &fsproto.GetattrReq{Node: en.Node}, &early)
		if early.Attr.Lease&fsproto.LeaseBrief == 0 {
			t.Errorf("%v: a lease by a reply from before the directory was watched", method)
		}
		if en := a.lookup("f"); en.Attr.Lease&fsproto.LeaseBrief != 0 {
			t.Errorf("%v: no lease on a file in a directory that is watched", method)
		}
		a.e.leases.overflow(true)
		if !a.recalled().All || !a.brief(a.lookup("f").Node) {
			t.Errorf("%v: a lease although there are no events any more", method)
		}
	}
}

// Where something cannot be watched, leases are brief.
func TestWatchRefused(t *testing.T) {
	for _, method := range piecemealMethods {
		a, _ := twoLeasers(t, Config{events: method}, makeTree)
		d := a.lookup("d").Node
		a.e.watcher.Close()
		for _, num := range []fsproto.Node{d, a.lookup("d/in").Node} {
			if !a.brief(num) {
				t.Errorf("%v: a lease on what cannot be watched", method)
			}
		}
	}
}

// A file is watched as long as somebody knows it, whether the directory is still known
// or not, and nothing is afterwards.
func TestWatchesLast(t *testing.T) {
	for _, method := range piecemealMethods {
		a, _ := twoLeasers(t, Config{events: method}, makeTree)
		en, d := a.lookup("d/in"), a.lookup("d")
		do(a.env, fsproto.Forget, fsproto.ForgetReq{Nodes: []fsproto.Forgotten{{Node: d.Node, Stamp: d.Stamp}}})
		if a.brief(en.Node) {
			t.Errorf("%v: no lease on a file of a directory that was forgotten", method)
		}
		a.program("echo >> d/in")
		if r := a.recalled(); len(r.Nodes) != 1 || r.Nodes[0].Node != en.Node {
			t.Errorf("%v: recalled %+v", method, r)
		}
		do(a.env, fsproto.Forget, fsproto.ForgetReq{Nodes: []fsproto.Forgotten{{Node: en.Node, Stamp: en.Stamp}}})
		var watches, names, ended int
		if !eventually(t, soon, func() bool { // what tells of the last events holds nodes
			a.e.unwatchEnded()
			a.e.mu.Lock()
			defer a.e.mu.Unlock()
			watches, names, ended = len(a.e.objects), len(a.e.byName), len(a.e.ended)
			return watches == 1 && names == 0 && ended == 0
		}) {
			t.Errorf("%v: left %d watches, %d names, %d to end", method, watches, names, ended)
		}
	}
}

// A file that has left the watched directories is watched itself.
func TestStrayFileIsWatched(t *testing.T) {
	for _, method := range piecemealMethods {
		a, _ := twoLeasers(t, Config{events: method}, func(dir string) {
			makeTree(dir)
			os.Mkdir(filepath.Join(dir, "hidden"), 0o777)
		})
		num := a.believed("f")[0]
		h := a.open(num, fsproto.OpenRead)
		a.program("mv f hidden/f")
		a.recalled()
		// The move may be told twice, the second time while the file begins to be watched or
		// after a lease was given.
		for what := recallAttr; what != recallWhole; {
			if !eventually(t, soon, func() bool {
				lease := do(a.env, fsproto.Getattr, fsproto.GetattrReq{Node: num}).Attr.Lease
				return lease != 0 && lease&fsproto.LeaseBrief == 0
			}) {
				t.Fatalf("%v: no lease", method)
			}
			a.program("echo >> hidden/f")
			r := a.recalled()
			if len(r.Nodes) != 1 {
				t.Fatalf("%v: recalled %+v", method, r)
			}
			what = r.Nodes[0].What
		}
		a.release(h)
	}
}

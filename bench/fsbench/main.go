// Fsbench measures the mounted file system beside others and the exported
// directory itself: one machine, over loopback and emulated links, one run,
// changing order, medians. It needs root (to empty the page cache, to mount, and
// for network namespaces), and takes down every process and mount that it made,
// also when it is interrupted or something hangs.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
	"github.com/rpycfs/rpycfs/bench/internal/runs"
)

// Roles of this program, by its first argument, beside that of measuring.
const (
	roleLoopback = "serve-loopback" // the FUSE loopback
	rolePass     = "pass-packets"   // an emulated link
)

func main() {
	actRole()
	os.Exit(bench(os.Args[1:], os.Stdout, os.Stderr))
}

// actRole does not return if the process has a role.
func actRole() {
	if len(os.Args) != 4 {
		return
	}
	role := map[string]func([]string) error{roleLoopback: serveLoopback, rolePass: passPackets}[os.Args[1]]
	if role == nil {
		return
	}
	if err := role(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "fsbench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// slow are the cells that would take hours.
const slow = `ms/.*/(sshfs|rclone)|ms/(small files|untar|git clone|rm -rf|go build|SQLite)`

type options struct {
	dir, bin, old, json, render, plot string
	links                             string
	only, scaled                      regexp.Regexp
	rounds, part                      int
	mib, farMiB                       int64
	sizes
	limit, total time.Duration
	check        bool
	verbose      bool
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	f := flag.NewFlagSet("fsbench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dir, "dir", "/var/tmp", "make the exported tree in a new directory under `dir`, on the disk to be measured")
	f.StringVar(&o.bin, "bin", "", "take the programs of rpycfs from `dir` instead of building them")
	f.StringVar(&o.old, "old", "", "measure the programs in `dir` too, as one more peer")
	f.StringVar(&o.links, "links", linkLoopback+";200mbit/30ms;50mbit/100ms", "measure over these `links`")
	f.TextVar(&o.only, "only", regexp.MustCompile(""), "measure only cells whose \"link/row/peer\" this `expression` fits")
	f.TextVar(&o.scaled, "scaled", regexp.MustCompile(slow), "do only a part, and extrapolate, in the cells that this `expression` fits")
	f.IntVar(&o.part, "part", 20, "the part is one of this `many`")
	f.StringVar(&o.json, "json", "", "write every sample to `file`")
	f.StringVar(&o.render, "render", "", "measure nothing, print the tables of a JSON `file`")
	f.StringVar(&o.plot, "plot", "", "draw a plot into `file` (.svg)")
	f.IntVar(&o.rounds, "rounds", 3, "measured `rounds`")
	f.Int64Var(&o.mib, "mib", 1024, "size of the large files in `MiB`")
	f.Int64Var(&o.farMiB, "far-mib", 64, "the same over emulated links")
	f.IntVar(&o.reads, "reads", 2000, "random reads per thread")
	f.IntVar(&o.small, "small", 5000, "small files made")
	f.IntVar(&o.listed, "listed", 20000, "entries of the directory that ls -l lists")
	f.IntVar(&o.files, "files", 10000, "files of the tree, at most")
	f.IntVar(&o.modules, "modules", 100, "packages of the module that go build builds")
	f.IntVar(&o.inserts, "inserts", 200, "rows that SQLite inserts, each in a transaction")
	f.StringVar(&o.source, "tree", "", "the tree is a copy of `dir` (default: Go's own sources)")
	f.Uint64Var(&o.seed, "seed", 1, "`number` that chooses the files, the offsets and the module")
	f.DurationVar(&o.limit, "limit", 10*time.Minute, "end a cell that takes longer")
	f.DurationVar(&o.total, "total", 6*time.Hour, "end everything after this time")
	f.BoolVar(&o.verbose, "v", false, "say what each cell has brought")
	f.BoolVar(&o.check, "check", false, "exit 4 when a target is missed")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	positive := []int{o.rounds, o.part, int(o.mib), int(o.farMiB), o.reads, o.small, o.listed, o.files, o.modules, o.inserts}
	if f.NArg() > 0 || slices.Min(positive) < 1 {
		f.Usage()
		return nil, flag.ErrHelp
	}
	return &o, nil
}

// bench returns 0, 1 after an error, 2 for wrong usage, and 4 when -check was
// given and a target is missed.
func bench(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if err != nil {
		return 2
	}
	var rep *Report
	if o.render != "" {
		rep, err = readReport(o.render)
	} else if err = peers.EnterNamespace(); err == nil {
		rep, err = o.measure(stderr)
	}
	if err == nil {
		rep.markdown(stdout)
		if o.plot != "" {
			err = rep.plot(o.plot)
		}
		err = errors.Join(err, rep.failed())
	}
	if err != nil {
		fmt.Fprintln(stderr, "fsbench:", err)
		return 1
	}
	if o.check && !rep.met() {
		return 4
	}
	return 0
}

func (o *options) measure(stderr io.Writer) (*Report, error) {
	dir, err := os.MkdirTemp(o.dir, "fsbench-")
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir}
	defer s.close()
	stop := s.closeOnSignal(o.total)
	defer stop()
	if err := s.setUp(o); err != nil {
		return nil, err
	}
	rows := s.rows(o)
	rep := &Report{Notes: o.notes(s)}
	for _, r := range rows {
		rep.Figures = append(rep.Figures, r.figures()...)
	}
	progress := runs.Progress(stderr)
	defer fmt.Fprint(progress, "\r\033[K")
	for round := range o.rounds {
		for _, r := range rows {
			for _, c := range runs.Order(r.cells, round) {
				fmt.Fprintf(progress, "\r\033[Kround %d of %d: %s, %s, %s", round+1, o.rounds, r.link, r.name, c.peer)
				begin := time.Now()
				c.measure()
				if o.verbose {
					fmt.Fprintf(stderr, "%s, %s, %s: %.2f s in all; %s\n", r.link, r.name, c.peer, time.Since(begin).Seconds(), c.last())
				}
			}
			if o.json != "" { // now, so that a run that is ended leaves something
				if err := rep.write(o.json); err != nil {
					return nil, err
				}
			}
		}
	}
	return rep, nil
}

func (o *options) notes(s *site) []string {
	version := func(name string, args ...string) string {
		out, _ := exec.Command(name, args...).CombinedOutput()
		first, _, _ := strings.Cut(string(out), "\n")
		return first
	}
	var trees []string
	for _, l := range s.loads {
		trees = append(trees, fmt.Sprintf("%d files and %d MiB", len(l.tree.entries), l.tree.bytes>>20))
	}
	return []string{
		fmt.Sprintf("%s, %d CPUs, %s, %s, %s, %s on %s; client and server are one machine.", version("uname", "-sr"), runtime.NumCPU(),
			strings.ToLower(version("sh", "-c", "sshfs -V 2>&1 | grep SSHFS")), version("ssh", "-V"), version("rclone", "--version"), version("git", "--version"),
			version("stat", "-f", "-c", "%T", s.dir)),
		fmt.Sprintf("Medians of %d rounds, all peers in turn in each; a ratio is the median of the rounds' ratios.", o.rounds),
		"Cold: a new mount, a new daemon and no caches (drop_caches=3), which is so before every cell. Warm: the same once more on the same mount." +
			" Server warm: cold, but the server has read the file itself.",
		"Contents are checked: every 64th byte's word of a large file while it is read, all of what was written or copied by hash.",
		fmt.Sprintf("Large files %d MiB (%d over emulated links) by 1 MiB calls; %d random reads per thread; %d files of 4 KiB made; ls -l of %d; a module of %d packages; %d inserts; seed %d.",
			o.mib, o.farMiB, o.reads, o.small, o.listed, o.modules, o.inserts, o.seed),
		"The tree, of " + filepath.Base(filepath.Dir(o.source)) + "/" + filepath.Base(o.source) + ", has " + trees[0] + ".",
		fmt.Sprintf("~: extrapolated from one %dth: less was created, listed, built and inserted, and a tree of %s.", o.part, trees[len(trees)-1]),
		"Peak memory: resident, of all processes of a side together, since the mount.",
		"sshfs tuned: " + strings.Join(tunedOptions, ","),
		"rclone: " + strings.Join(rcloneOptions, " ") + "; it returns before what was written is at the server.",
	}
}

// closeOnSignal takes everything down and exits when a signal comes or the time
// is over.
func (s *site) closeOnSignal(total time.Duration) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		select {
		case <-done:
			return
		case sig := <-signals:
			fmt.Fprintln(os.Stderr, "fsbench:", sig)
		case <-time.After(total):
			fmt.Fprintln(os.Stderr, "fsbench: not done in", total)
		}
		s.close()
		os.Exit(1)
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

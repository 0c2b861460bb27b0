// Fsbench measures the mounted file system beside sshfs and the exported
// directory itself: one machine, loopback, one run, changing order, medians.
// It needs root (to empty the page cache and to mount), and takes down every
// process and mount that it made, also when it is interrupted or something
// hangs.
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
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
	"github.com/rpycfs/rpycfs/bench/internal/runs"
)

// Names of the peers in the table.
const (
	peerLocal  = "local disk"
	peerSSHFS  = "sshfs"
	peerTuned  = "sshfs tuned"
	peerRpycfs = "rpycfs"
	peerOld    = "rpycfs old"
)

// Names of the rows. Everything is cold except where the server's cache is said
// to be warm, and in the last rows: there the client has done the same before.
const (
	rowRead         = "sequential read"
	rowReadWarm     = "sequential read, server warm"
	rowWrite        = "sequential write + fsync"
	rowRandom1      = "4 KiB random reads, 1 thread"
	rowRandom16     = "4 KiB random reads, 16 threads"
	rowRandom1Warm  = "4 KiB random reads, 1 thread, server warm"
	rowRandom16Warm = "4 KiB random reads, 16 threads, server warm"
	rowCreate       = "small files created"
	rowList         = "ls -lR"
	rowListWarm     = "ls -lR, server warm"
	rowStatAgain    = "stat, again"
	rowFindAgain    = "find, again"
	rowListAgain    = "ls -lR, again"
	rowGitAgain     = "git status, again"
	rowGrepAgain    = "grep -r, again"
)

// tunedOptions make sshfs as fast as it gets without giving up encryption.
var tunedOptions = []string{
	"Ciphers=aes128-gcm@openssh.com", "max_conns=2", "kernel_cache",
	"entry_timeout=3600,attr_timeout=3600,negative_timeout=3600",
	"dcache_timeout=3600,dcache_max_size=100000",
}

// targets are what the project promises beside sshfs, default and tuned, and what is
// done again beside the local disk.
func targets() []runs.Target {
	least := map[string]float64{rowRead: 2, rowReadWarm: 2, rowWrite: 1.2}
	var all []runs.Target
	for _, row := range []string{rowRead, rowReadWarm, rowWrite, rowRandom1, rowRandom16,
		rowRandom1Warm, rowRandom16Warm, rowCreate, rowList, rowListWarm} {
		for _, base := range []string{peerSSHFS, peerTuned} {
			all = append(all, runs.Target{Row: row, Peer: peerRpycfs, Base: base, Least: max(1, least[row])})
		}
	}
	for row, times := range map[string]float64{rowStatAgain: 1.3, rowFindAgain: 2, rowListAgain: 2, rowGitAgain: 2, rowGrepAgain: 5} {
		all = append(all, runs.Target{Row: row, Peer: peerRpycfs, Base: peerLocal, Least: 1 / times})
	}
	return all
}

func main() {
	if err := peers.EnterNamespace(); err != nil {
		fmt.Fprintln(os.Stderr, "fsbench:", err)
		os.Exit(1)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

type options struct {
	dir, bin, old, only, json string
	rounds                    int
	mib                       int64
	reads, small              int
	limit, total              time.Duration
	check                     bool
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	f := flag.NewFlagSet("fsbench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dir, "dir", "/var/tmp", "make the exported tree in a new directory under `dir`, on the disk to be measured")
	f.StringVar(&o.bin, "bin", "", "take rpycfsd and mount.rpycfs from `dir` instead of building them")
	f.StringVar(&o.old, "old", "", "measure the programs in `dir` too, as one more peer")
	f.StringVar(&o.only, "only", "", "measure only cells whose \"row/peer$\" contains one of the `texts`, separated by semicolons")
	f.StringVar(&o.json, "json", "", "write JSON to `file` too")
	f.IntVar(&o.rounds, "rounds", 3, "measured `rounds`")
	f.Int64Var(&o.mib, "mib", 1024, "size of the large files in `MiB`")
	f.IntVar(&o.reads, "reads", 2000, "random reads per thread")
	f.IntVar(&o.small, "small", 5000, "small files made")
	f.DurationVar(&o.limit, "limit", 2*time.Minute, "end a cell that takes longer")
	f.DurationVar(&o.total, "total", time.Hour, "end everything after this time")
	f.BoolVar(&o.check, "check", false, "exit 4 when a target is missed")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 || o.rounds < 1 || o.mib < 1 || o.reads < 1 || o.small < 1 {
		f.Usage()
		return nil, flag.ErrHelp
	}
	return &o, nil
}

// run returns 0, 1 after an error, 2 for wrong usage, and 4 when -check was
// given and a target is missed.
func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if err != nil {
		return 2
	}
	rep, err := o.bench(stderr)
	if err == nil {
		err = o.print(rep, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "fsbench:", err)
		return 1
	}
	if o.check && !rep.Met() {
		return 4
	}
	return 0
}

func (o *options) print(rep *runs.Report, w io.Writer) error {
	if o.json != "" {
		f, err := os.Create(o.json)
		if err != nil {
			return err
		}
		if err := errors.Join(rep.JSON(f), f.Close()); err != nil {
			return err
		}
	}
	return rep.Text(w)
}

func (o *options) bench(stderr io.Writer) (*runs.Report, error) {
	dir, err := os.MkdirTemp(o.dir, "fsbench-")
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir}
	defer s.close()
	stop := s.closeOnSignal(o.total)
	defer stop()
	l := &loads{
		backing: s.path("tree"), size: o.mib << 20, reads: o.reads, small: o.small,
		dirs: 100, filesInDir: 100,
	}
	if err := s.setUp(o.bin, o.old); err != nil {
		return nil, err
	}
	if err := l.prepare(); err != nil {
		return nil, err
	}
	rows := runs.Filter(s.rows(l, o.limit), o.only)
	if err := runs.Measure(rows, 0, o.rounds, runs.Progress(stderr)); err != nil {
		return nil, err
	}
	return runs.NewReport(rows, targets(), o.notes(dir)...), nil
}

func (o *options) notes(dir string) []string {
	version := func(name string, args ...string) string {
		out, _ := exec.Command(name, args...).CombinedOutput()
		first, _, _ := strings.Cut(string(out), "\n")
		return first
	}
	return []string{
		"All on one machine over loopback; medians; a ratio is the median of the rounds' ratios.",
		"Mounted afresh and with empty caches (drop_caches=3) before every cell; \"server warm\": the server then",
		"reads everything once itself. Contents are checked: every 64th byte's word while reading, all of what was written.",
		fmt.Sprintf("Large files %d MiB by 1 MiB calls; %d random reads per thread; %d files of 4 KiB made; ls -lR of 100 × 100 files.", o.mib, o.reads, o.small),
		fmt.Sprintf("%s, %d CPUs, %s, %s on %s", version("uname", "-sr"), runtime.NumCPU(), strings.ToLower(version("sh", "-c", "sshfs -V 2>&1 | grep SSHFS")),
			version("ssh", "-V"), version("stat", "-f", "-c", "%T", dir)),
		"sshfs tuned: " + strings.Join(tunedOptions, ","),
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

// site is the working directory with the servers, which start when their first
// cell is measured.
type site struct {
	dir   string
	ssh   peers.SSHServer
	ours  peers.Rpycfs
	old   peers.Rpycfs // with -old
	peers []peer
}

var mountPoints = []string{"mnt/sshfs", "mnt/tuned", "mnt/rpycfs", "mnt/old"}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// setUp makes the directories and names the peers.
func (s *site) setUp(bin, old string) error {
	for _, name := range append([]string{"tree", "ssh", "rpycfs", "old", "mnt"}, mountPoints...) {
		if err := os.Mkdir(s.path(name), 0o700); err != nil {
			return err
		}
	}
	s.ssh.Dir = s.path("ssh")
	s.ours = peers.Rpycfs{Label: peerRpycfs, Bin: bin, State: s.path("rpycfs"), Tree: s.path("tree"), Mnt: s.path("mnt/rpycfs")}
	s.peers = []peer{
		local{s.path("tree")},
		&peers.SSHFS{Label: peerSSHFS, Server: &s.ssh, Tree: s.path("tree"), Mnt: s.path("mnt/sshfs")},
		&peers.SSHFS{Label: peerTuned, Server: &s.ssh, Tree: s.path("tree"), Mnt: s.path("mnt/tuned"), Options: tunedOptions},
		&s.ours,
	}
	if old != "" {
		s.old = peers.Rpycfs{Label: peerOld, Bin: old, State: s.path("old"), Tree: s.path("tree"), Mnt: s.path("mnt/old")}
		s.peers = append(s.peers, &s.old)
	}
	return nil
}

func (s *site) rows(l *loads, limit time.Duration) []*runs.Row {
	var rows []*runs.Row
	for _, load := range l.all() {
		r := &runs.Row{Name: load.name, Unit: load.unit}
		for _, p := range s.peers {
			if _, ssh := p.(*peers.SSHFS); ssh && load.again {
				continue // minutes, for what it does not promise
			}
			r.Add(p.Name(), func() (float64, error) { return measure(p, load, l.warmUp, limit) })
		}
		rows = append(rows, r)
	}
	return rows
}

// close unmounts what is still mounted, ends the servers and removes the
// directory.
func (s *site) close() {
	for _, name := range mountPoints {
		for peers.IsMount(s.path(name)) && syscall.Unmount(s.path(name), syscall.MNT_DETACH) == nil {
		}
	}
	s.ssh.Stop()
	s.ours.Stop()
	s.old.Stop()
	os.RemoveAll(s.dir)
}

// Chatbench measures the chat service: a daemon and its clients in processes of
// their own, over loopback, with everything that a session has: TLS, log-in,
// package rpc. Clients use the protocol's messages directly, so that a thousand
// of them fit the machine beside the daemon. A delay is taken from the sender's
// clock before the call to the receiver's in its handler; the clocks are one.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/runs"
)

func main() {
	role := os.Getenv(roleEnv)
	if role == "" {
		if err := enterNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, "chatbench:", err)
			os.Exit(1)
		}
	}
	os.Exit(run(role, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// enterNamespace runs the program again in a mount namespace of its own, if it
// may: the mount of one part vanishes with it whatever happens.
func enterNamespace() error {
	const done = "CHATBENCH_NAMESPACE"
	if os.Getenv(done) != "" || os.Geteuid() != 0 {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	args := append([]string{"unshare", "--mount", "--propagation", "private", exe}, os.Args[1:]...)
	return syscall.Exec(unshare, args, append(os.Environ(), done+"=1"))
}

// run returns 0, 1 after an error, 2 for wrong usage, and 4 when -check was
// given and a target is missed.
func run(role string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	switch role {
	case "daemon":
		return result(stderr, runChild(new(server).methods(), stdin, stdout))
	case "clients":
		return result(stderr, runChild(new(clients).methods(), stdin, stdout))
	}
	o, err := parse(args, stderr)
	if err != nil {
		return 2
	}
	rep, err := o.bench(stderr)
	// What was found before something failed is shown all the same.
	if code := result(stderr, errors.Join(err, o.print(rep, stdout))); code != 0 {
		return code
	}
	if o.check && !rep.met() {
		return 4
	}
	return 0
}

func result(stderr io.Writer, err error) int {
	if err != nil {
		fmt.Fprintln(stderr, "chatbench:", err)
		return 1
	}
	return 0
}

type options struct {
	dir, bin, only, json, profile string
	listeners, senders, messages  int
	million, bursts, large        int
	mib                           int64
	rate                          int
	says, moderate, quiet         time.Duration
	check                         bool
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	f := flag.NewFlagSet("chatbench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dir, "dir", "/var/tmp", "keep the daemon's state in a new directory under `dir`, on the disk to be measured")
	f.StringVar(&o.bin, "bin", "", "take mount.rpycfs from `dir` instead of building it")
	f.StringVar(&o.only, "only", "", "measure only these `parts`, separated by commas: "+strings.Join(partNames(), ","))
	f.StringVar(&o.json, "json", "", "write JSON to `file` too")
	f.StringVar(&o.profile, "profile", "", "write CPU profiles of the daemon to `prefix`PART.pprof")
	f.IntVar(&o.listeners, "listeners", 1000, "attached listeners, at most 1000")
	f.IntVar(&o.senders, "senders", 64, "senders at once")
	f.IntVar(&o.bursts, "bursts", 5, "bursts at full speed")
	f.IntVar(&o.messages, "burst", 1000, "messages in a burst; more than 1000 overflow a feed")
	f.IntVar(&o.rate, "rate", 20, "messages per second at the moderate rate")
	f.DurationVar(&o.moderate, "time", 10*time.Second, "duration of the moderate rate")
	f.DurationVar(&o.says, "says", 5*time.Second, "duration of a measurement of durable messages")
	f.IntVar(&o.million, "million", 1_000_000, "messages to search in")
	f.IntVar(&o.large, "large", 10_000, "messages of 8 KiB while a listener is stopped")
	f.Int64Var(&o.mib, "mib", 4096, "`MiB` copied through a mount")
	f.DurationVar(&o.quiet, "quiet", 25*time.Second, "wait so long before memory is measured")
	f.BoolVar(&o.check, "check", false, "exit 4 when a target is missed")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(o.only, ",") {
		if name != "" && !slices.Contains(partNames(), name) {
			fmt.Fprintln(stderr, "no part", name)
			return nil, flag.ErrHelp
		}
	}
	if f.NArg() > 0 || o.listeners < 4 || o.listeners > 1000 || o.senders < 1 || o.million < 10_000 || o.mib < 1 {
		f.Usage()
		return nil, flag.ErrHelp
	}
	return &o, nil
}

// part is one of the measurements.
type part struct {
	name string
	run  func(*site) error
}

var parts = []part{
	{"idle", (*site).idle},
	{"fanout", (*site).fanout},
	{"says", (*site).says},
	{"history", (*site).millions},
	{"stopped", (*site).stopped},
	{"copy", (*site).copying},
}

func partNames() (all []string) {
	for _, p := range parts {
		all = append(all, p.name)
	}
	return all
}

// bench measures the parts, each with a daemon of its own.
func (o *options) bench(stderr io.Writer) (*report, error) {
	rep := &report{Notes: o.notes()}
	for _, p := range parts {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), p.name) {
			continue
		}
		s, err := newSite(o, rep, p.name, runs.Progress(stderr))
		if err == nil {
			err = errors.Join(p.run(s), s.close())
		}
		if err != nil {
			return rep, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return rep, nil
}

func (o *options) notes() []string {
	return []string{
		"Daemon and clients on one machine over loopback, each in processes of its own; TLS 1.3, log-in by key.",
		fmt.Sprintf("%s %s/%s, %d CPUs, state under %s", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), o.dir),
	}
}

func (o *options) print(rep *report, w io.Writer) error {
	if rep == nil {
		return nil
	}
	if o.json != "" {
		f, err := os.Create(o.json)
		if err != nil {
			return err
		}
		if err := errors.Join(rep.json(f), f.Close()); err != nil {
			return err
		}
	}
	return rep.text(w)
}

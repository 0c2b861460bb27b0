// Rpcbench measures what a call and a byte cost through package rpc, beside
// grpc-go, a bare multiplexer and plain TLS: two processes, loopback, TLS 1.3
// everywhere, one run, changing order, medians.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/runs"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run returns 0, 1 after an error, 2 for wrong usage, and 4 when -check was
// given and a target is missed.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if os.Getenv(serverEnv) != "" {
		if err := runServer(stdin, stdout); err != nil {
			fmt.Fprintln(stderr, "rpcbench: server:", err)
			return 1
		}
		return 0
	}
	o, err := parse(args, stderr)
	if err != nil {
		return 2
	}
	rep, err := o.bench(stderr)
	if err == nil {
		err = o.print(rep, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "rpcbench:", err)
		return 1
	}
	if o.check && (!rep.Met() || grows(rep.Growth) != "") {
		return 4
	}
	return 0
}

type options struct {
	rounds   int
	duration time.Duration
	mib      int64
	only     string
	profile  string
	json     bool
	check    bool
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	f := flag.NewFlagSet("rpcbench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.rounds, "rounds", 7, "measured `rounds`")
	f.DurationVar(&o.duration, "time", time.Second, "duration of one measurement of small calls")
	f.Int64Var(&o.mib, "mib", 512, "`MiB` moved by one measurement of bulk")
	f.StringVar(&o.only, "only", "", "measure only rows and peers whose \"row/peer$\" contains one of the `texts`, separated by semicolons")
	f.StringVar(&o.profile, "profile", "", "write CPU profiles to `prefix`client.pprof and prefixserver.pprof")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.check, "check", false, "exit 4 when a target is missed")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 || o.rounds < 1 || o.mib < 1 || o.duration <= 0 {
		f.Usage()
		return nil, flag.ErrHelp
	}
	return &o, nil
}

// bench starts the server process, measures, and ends it.
func (o *options) bench(stderr io.Writer) (rep *report, err error) {
	serverProfile := ""
	if o.profile != "" {
		serverProfile = o.profile + "server.pprof"
		stop, err := profile(o.profile + "client.pprof")
		if err != nil {
			return nil, err
		}
		defer stop()
	}
	s, err := startServer(serverProfile)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	c, err := dialAll(&s.hello)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	rows := runs.Filter(c.rows(o.duration, o.mib<<20), o.only)
	if err := runs.Measure(rows, 1, o.rounds, runs.Progress(stderr)); err != nil {
		return nil, err
	}
	rep = &report{Report: runs.NewReport(rows, targets, notes()...)}
	if o.only == "" {
		rep.Growth, err = measureGrowth(s, c.rpycfs)
	}
	return rep, err
}

func notes() []string {
	return []string{
		"Two processes over loopback, TLS 1.3 everywhere; medians; a ratio is the median of the rounds' ratios.",
		fmt.Sprintf("%s %s/%s, %d CPUs", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU()),
	}
}

// report is what a run found.
type report struct {
	*runs.Report
	Growth []growth `json:",omitempty"`
}

func (o *options) print(rep *report, w io.Writer) error {
	if o.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "\t")
		return enc.Encode(rep)
	}
	if err := rep.Text(w); err != nil || len(rep.Growth) == 0 {
		return err
	}
	return printGrowth(rep.Growth, w)
}

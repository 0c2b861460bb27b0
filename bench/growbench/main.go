// Growbench measures how cost grows: with the files of a tree, with the clients of a
// daemon and with streams beside each other. It needs root (to empty caches and to
// mount), works over loopback, and takes down what it has started, also when it is
// interrupted.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

func main() { os.Exit(bench(os.Args[1:], os.Stdout, os.Stderr)) }

// numbers are the points at which a part is measured.
type numbers []int

func (n *numbers) String() string { return strings.Trim(fmt.Sprint(*n), "[]") }

func (n *numbers) Set(text string) error {
	*n = nil
	for field := range strings.SplitSeq(text, ",") {
		v, err := strconv.Atoi(field)
		if err != nil || v < 1 {
			return fmt.Errorf("%q is no number above 0", field)
		}
		*n = append(*n, v)
	}
	return nil
}

type options struct {
	dir, bin, json, render, plot string
	only                         regexp.Regexp
	files, clients, streams      numbers
	mib                          int
	each, total                  time.Duration
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := options{
		files:   numbers{1000, 10_000, 100_000, 1_000_000},
		clients: numbers{1, 2, 5, 10, 20, 50, 100, 200},
		streams: numbers{1, 2, 4, 8, 16, 32, 64},
	}
	f := flag.NewFlagSet("growbench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dir, "dir", "/var/tmp", "work in a new directory under `dir`")
	f.StringVar(&o.bin, "bin", "", "take the programs of rpycfs from `dir` instead of building them")
	f.StringVar(&o.json, "json", "", "write what was found to `file`")
	f.StringVar(&o.render, "render", "", "measure nothing, print the tables of a JSON `file`")
	f.StringVar(&o.plot, "plot", "", "draw the curves into `file` (.svg)")
	f.TextVar(&o.only, "only", regexp.MustCompile(""), "measure only the parts (files, clients, streams) that this `expression` fits")
	f.Var(&o.files, "files", "`numbers` of files in the tree")
	f.Var(&o.clients, "clients", "`numbers` of mounts of one daemon")
	f.Var(&o.streams, "streams", "`numbers` of files that are read beside each other")
	f.IntVar(&o.mib, "mib", 1024, "`MiB` that the streams read together")
	f.DurationVar(&o.each, "time", 3*time.Second, "how long the clients work at each number")
	f.DurationVar(&o.total, "total", 40*time.Minute, "end everything after this time")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 || o.mib < 1 || o.each <= 0 {
		f.Usage()
		return nil, flag.ErrHelp
	}
	return &o, nil
}

// bench returns 0, 1 after an error, 2 for wrong usage.
func bench(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if err != nil {
		return 2
	}
	var rep report
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
	}
	if err != nil {
		fmt.Fprintln(stderr, "growbench:", err)
		return 1
	}
	return 0
}

// measure takes all points. What it has found so far is written after each.
func (o *options) measure(stderr io.Writer) (rep report, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.total)
	defer cancel()
	s := &site{o: o}
	if s.dir, err = os.MkdirTemp(o.dir, "growbench-"); err != nil {
		return rep, err
	}
	defer os.RemoveAll(s.dir)
	if s.bin = o.bin; s.bin == "" {
		s.bin = filepath.Join(s.dir, "bin")
		if err := errors.Join(os.Mkdir(s.bin, 0o755), peers.Build(s.bin)); err != nil {
			return rep, err
		}
	}
	for _, p := range []struct {
		name string
		at   numbers
		take func(context.Context, int) (point, error)
	}{{"files", o.files, s.files}, {"clients", o.clients, s.clients}, {"streams", o.streams, s.streams}} {
		if !o.only.MatchString(p.name) {
			continue
		}
		for _, n := range p.at {
			found, err := p.take(ctx, n)
			if err != nil {
				return rep, fmt.Errorf("%d %s: %w", n, p.name, err)
			}
			found.Part, found.N = p.name, n
			fmt.Fprintf(stderr, "%s %d: %+v\n", p.name, n, found.Values)
			rep.Points = append(rep.Points, found)
			if o.json != "" {
				text, err := json.MarshalIndent(&rep, "", "\t")
				if err = errors.Join(err, os.WriteFile(o.json, append(text, '\n'), 0o644)); err != nil {
					return rep, err
				}
			}
		}
	}
	return rep, nil
}

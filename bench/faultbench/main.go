// Faultbench breaks the connections of mounted file systems, and kills their servers,
// while programs do work that can be checked, and says what the programs met: errors,
// lost data, and for how long they stood still. Rpycfs, sshfs and rclone go through the
// same, each through a proxy on loopback. It needs root, and takes down every process
// and mount that it made, also when it is interrupted or something hangs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == workArg {
		if err := work(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := peers.EnterNamespace(); err != nil {
		fmt.Fprintln(os.Stderr, "faultbench:", err)
		os.Exit(1)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

type options struct {
	dir, bin, only string
	total          time.Duration
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	f := flag.NewFlagSet("faultbench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dir, "dir", "/var/tmp", "make the exported trees in a new directory under `dir`")
	f.StringVar(&o.bin, "bin", "", "take rpycfsd and mount.rpycfs from `dir` instead of building them")
	f.StringVar(&o.only, "only", "", "only cells whose \"fault/peer$\" contains one of the `texts`, separated by semicolons")
	f.DurationVar(&o.total, "total", 40*time.Minute, "end everything after this time")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		f.Usage()
		return nil, flag.ErrHelp
	}
	return &o, nil
}

// wanted reports whether a cell is to be measured.
func (o *options) wanted(fault, peer string) bool {
	return slices.ContainsFunc(strings.Split(o.only, ";"), func(text string) bool {
		return strings.Contains(fault+"/"+peer+"$", text)
	})
}

// run returns 0, 1 after an error, and 2 for wrong usage.
func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.total)
	defer cancel()
	cells, err := o.measure(ctx, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "faultbench:", err)
		return 1
	}
	printTable(stdout, cells)
	return 0
}

func (o *options) measure(ctx context.Context, stderr io.Writer) (cells []cell, err error) {
	dir, err := os.MkdirTemp(o.dir, "faultbench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if o.bin == "" {
		o.bin = filepath.Join(dir, "bin")
		if err := errors.Join(os.Mkdir(o.bin, 0o700), peers.Build(o.bin)); err != nil {
			return nil, err
		}
	}
	for _, f := range faults {
		for _, p := range candidates {
			if !o.wanted(f.name, p.name) {
				continue
			}
			c, err := (&site{dir: filepath.Join(dir, fmt.Sprint(len(cells))), bin: o.bin}).measure(ctx, f, p)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", f.name, p.name, err)
			}
			fmt.Fprintf(stderr, "%s, %s: %s\n", f.name, p.name, c.details())
			cells = append(cells, c)
		}
	}
	return cells, nil
}

// machine says where and when this was measured.
func machine() string {
	line := func(name string, args ...string) string {
		out, _ := exec.Command(name, args...).CombinedOutput()
		first, _, _ := strings.Cut(string(out), "\n")
		return first
	}
	return fmt.Sprintf("%s, %d CPUs, %s, %s, %s, %s.", time.Now().Format(time.DateOnly), runtime.NumCPU(), line("uname", "-sr"),
		line("sh", "-c", "sshfs -V 2>&1 | grep -m1 SSHFS"), line("ssh", "-V"), line("rclone", "version"))
}

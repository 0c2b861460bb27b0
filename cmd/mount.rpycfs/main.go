// Command mount.rpycfs mounts a directory that rpycfsd serves. See
// mount.rpycfs(8).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rpycfs/rpycfs/internal/login"
	"github.com/rpycfs/rpycfs/internal/mountopt"
	"github.com/rpycfs/rpycfs/internal/version"
)

// Exit codes of mount(8).
const (
	exitUsage  = 1  // wrong invocation or permissions
	exitSystem = 2  // something is missing on this machine
	exitMount  = 32 // the mount failed
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == serveArg {
		os.Exit(serveChild(context.Background()))
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole command but for the process in the background.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a, err := mountopt.ParseArgs(args)
	if err != nil {
		return complain(stderr, err)
	}
	if a.Help {
		fmt.Fprint(stdout, mountopt.Usage)
		return 0
	}
	if a.Version {
		fmt.Fprintln(stdout, version.String("mount.rpycfs"))
		return 0
	}
	if a.PasswordShown {
		fmt.Fprintln(stderr, "mount.rpycfs: warning: every user of this machine can read the password on the command line; better credentials=FILE")
	}
	for _, name := range a.Options.Ignored {
		if a.Verbose {
			fmt.Fprintf(stderr, "mount.rpycfs: option %q ignored\n", name)
		}
	}
	job, err := prepare(a)
	if err != nil {
		return complain(stderr, err)
	}
	if a.Fake {
		return 0
	}
	if a.Options.Foreground {
		err = serveForeground(ctx, job, stderr)
	} else {
		err = startChild(ctx, job)
	}
	if err != nil {
		return complain(stderr, err)
	}
	if a.Verbose {
		fmt.Fprintf(stdout, "mount.rpycfs: %s mounted on %s\n", job.Source, job.Dir)
	}
	return 0
}

// failure is an error with its exit code.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(code int, format string, args ...any) error {
	return &failure{code, fmt.Errorf(format, args...)}
}

// complain prints one line and returns the exit code.
func complain(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "mount.rpycfs: %s\n", login.OneLine(err))
	return exitCode(err)
}

func exitCode(err error) int {
	var f *failure
	switch {
	case errors.As(err, &f):
		return f.code
	case errors.Is(err, mountopt.ErrUsage):
		return exitUsage
	}
	return exitMount
}

// Command rpycfs is what a person does with rpycfs beside serving and mounting.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/rpycfs/rpycfs/internal/clean"
	"github.com/rpycfs/rpycfs/internal/login"
	"github.com/rpycfs/rpycfs/internal/mountopt"
	"github.com/rpycfs/rpycfs/internal/version"
)

// Exit codes. The last is the one of sendmail for mail that waits in the queue.
const (
	exitFailed = 1
	exitUsage  = 2
	exitQueued = 75
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// commandLine is what may stand on the command line.
type commandLine struct {
	Version kong.VersionFlag `help:"Print version and requirements, and exit."`
	Chat    chatCommands     `cmd:"" help:"Talk with the users of a server."`
	Passwd  passwd           `cmd:"" help:"Keep the users file of a server."`
	Status  statusOf         `cmd:"" help:"Tell how mounts are: whether they are connected, and what they have done."`
	Sync    sync             `cmd:"" help:"Wait until all that was written to a mount is on the server's disk."`
	Watch   watchOf          `cmd:"" help:"Print what happens in a directory of a server, without a mount."`
}

// environment is what a command works with.
type environment struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
}

// warn prints a line on standard error.
func (env *environment) warn(format string, args ...any) {
	fmt.Fprintf(env.stderr, "rpycfs: %s\n", clean.Line(login.OneLine(fmt.Errorf(format, args...))))
}

// exit is the panic that ends parsing after --help and --version.
type exit int

// failure is an error with an exit code of its own.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// ended is a failure of which standard output has told: an exit code.
type ended int

func (e ended) Error() string { return fmt.Sprintf("ended with %d", int(e)) }

// run does what the arguments say and returns the exit code: 0, 1 when it
// failed, 2 when the arguments make no sense.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case exit:
			code = int(p)
		default:
			panic(p)
		}
	}()
	var line commandLine
	parser, err := kong.New(&line,
		kong.Name("rpycfs"), kong.Description("What a person does with rpycfs beside serving and mounting."),
		kong.Vars{"version": version.String("rpycfs")},
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exit(code)) }))
	if err != nil {
		panic(err) // commandLine itself is wrong
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "rpycfs: %v; see rpycfs --help\n", err)
		return exitUsage
	}
	env := &environment{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr}
	if err := command.Run(env); err != nil {
		var told ended
		if errors.As(err, &told) {
			return int(told)
		}
		env.warn("%w", err)
		return exitCode(err)
	}
	return 0
}

func exitCode(err error) int {
	var f *failure
	switch {
	case errors.As(err, &f):
		return f.code
	case errors.Is(err, mountopt.ErrUsage):
		return exitUsage
	}
	return exitFailed
}

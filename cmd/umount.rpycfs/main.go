// Command umount.rpycfs unmounts an rpycfs mount and returns when the process
// behind it is gone: then everything that was written has reached the daemon.
// See umount.rpycfs(8).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/internal/mounts"
	"github.com/rpycfs/rpycfs/internal/version"
)

// Exit codes of umount(8).
const (
	exitUsage = 1
	exitMount = 32
)

// waitLimit is how long the process may take to end. It logs out within seconds
// or not at all.
const waitLimit = 30 * time.Second

const usageText = `usage: umount.rpycfs [-flnrv] DIR

  -f  unmount even if the server does not answer
  -l  take the mount out of the tree now, and let it go when it is unused
  -v  say what is done
  -n, -r, -t TYPE, -N NAMESPACE  accepted, for umount(8)
`

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// args is the command line.
type args struct {
	target               string
	force, lazy, verbose bool
	help, version        bool
}

func run(ctx context.Context, argv []string, stdout, stderr io.Writer) int {
	a, err := parse(argv)
	if err != nil {
		fmt.Fprintf(stderr, "umount.rpycfs: %v\n", err)
		return exitUsage
	}
	switch {
	case a.help:
		fmt.Fprint(stdout, usageText)
		return 0
	case a.version:
		fmt.Fprintln(stdout, version.String("umount.rpycfs"))
		return 0
	}
	if err := unmount(ctx, a); err != nil {
		fmt.Fprintf(stderr, "umount.rpycfs: %s\n", strings.ReplaceAll(explain(a.target, err), "\n", " "))
		return exitMount
	}
	if a.verbose {
		fmt.Fprintf(stdout, "umount.rpycfs: %s unmounted\n", a.target)
	}
	return 0
}

// parse reads the arguments; options may stand anywhere.
func parse(argv []string) (args, error) {
	var a args
	var words []string
	for i := 0; i < len(argv); i++ {
		arg := argv[i]
		switch {
		case arg == "--":
			words = append(words, argv[i+1:]...)
			i = len(argv)
		case arg == "--help":
			a.help = true
		case arg == "--version":
			a.version = true
		case len(arg) > 1 && arg[0] == '-':
			skip, err := a.short(arg[1:])
			if err != nil {
				return a, err
			}
			if skip {
				i++
			}
		default:
			words = append(words, arg)
		}
	}
	if a.help || a.version {
		return a, nil
	}
	if len(words) != 1 || words[0] == "" {
		return a, errors.New("want one directory, as in: umount.rpycfs DIR; see umount.rpycfs -h")
	}
	a.target = words[0]
	return a, nil
}

// short reads a group of one-letter options. skipNext says that the next
// argument is the value of the last one.
func (a *args) short(group string) (skipNext bool, err error) {
	for i := 0; i < len(group); i++ {
		switch group[i] {
		case 'f':
			a.force = true
		case 'l':
			a.lazy = true
		case 'v':
			a.verbose = true
		case 'h':
			a.help = true
		case 'V':
			a.version = true
		case 'n', 'r':
		case 't', 'N', 'O':
			return i == len(group)-1, nil
		default:
			return false, fmt.Errorf("unknown option -%c; see umount.rpycfs -h", group[i])
		}
	}
	return false, nil
}

// unmount unmounts and, unless lazy, waits for the process behind the mount.
// The process is found before: afterwards the mount is not in the table.
func unmount(ctx context.Context, a args) error {
	m, err := mounts.Find(a.target)
	if err != nil {
		return err
	}
	server, err := mounts.Server(m.Dev)
	if err != nil && !errors.Is(err, mounts.ErrNoProcess) {
		return err
	}
	if server != nil {
		defer server.Close()
	}
	if err := mounts.Unmount(m.Point, mounts.UnmountOptions{Lazy: a.lazy, Force: a.force, Fusermount: os.Geteuid() != 0}); err != nil {
		return err
	}
	if a.lazy || server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	if err := server.Wait(ctx); err != nil {
		return fmt.Errorf("%s is unmounted, but the process behind it goes on after %v: %w", a.target, waitLimit, err)
	}
	return nil
}

func explain(target string, err error) string {
	switch {
	case errors.Is(err, mounts.ErrNotMounted):
		return fmt.Sprintf("%v (no rpycfs mount there)", err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Sprintf("%s is busy: files in it are open; see fuser -m, or use -l", target)
	case errors.Is(err, syscall.EPERM):
		return fmt.Sprintf("%s: only root and who mounted it may unmount it", target)
	}
	return err.Error()
}

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rpycfs/rpycfs/internal/history"
)

// bin is the directory of the programs under test.
var bin string

func TestMain(m *testing.M) {
	history.ServeLoader()
	if os.Getenv(jobEnv) != "" {
		os.Exit(jobMain())
	}
	if os.Getenv(writerEnv) != "" {
		os.Exit(writerMain())
	}
	if os.Getenv(lockerEnv) != "" {
		os.Exit(lockerMain())
	}
	if os.Getenv(counterEnv) != "" {
		os.Exit(counterMain())
	}
	if os.Getenv(chatterEnv) != "" {
		os.Exit(chatterMain())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	bin = os.Getenv("RPYCFS_BIN")
	if bin == "" {
		dir, err := os.MkdirTemp("", "rpycfs-e2e-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		bin = dir
	}
	return m.Run()
}

// build builds the programs into dir, with the race detector if the tests have it.
func build(dir string, flags ...string) error {
	args := []string{"build", "-buildvcs=false", "-o", dir + string(filepath.Separator)}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(append(args, flags...), "../cmd/...")...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the programs: %w", err)
	}
	return nil
}

// needFUSE leaves the test out where the machine's owner said that there is no
// FUSE. Without that word a missing /dev/fuse is a failure like any other.
func needFUSE(t *testing.T) {
	t.Helper()
	if os.Getenv("RPYCFS_SKIP_FUSE") == "1" {
		t.Skip("RPYCFS_SKIP_FUSE=1")
	}
}

// setting is a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is no number", name, s)
	}
	return n
}

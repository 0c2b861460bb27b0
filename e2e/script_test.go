package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestScripts runs the scripts that mount nothing.
func TestScripts(t *testing.T) { runScripts(t, "testdata/plain") }

// TestMountScripts runs the scripts that mount. Each looks for what it left
// behind: mounts, processes, reports of races.
func TestMountScripts(t *testing.T) {
	needFUSE(t)
	runScripts(t, "testdata/mount")
}

// TestRootScripts runs the scripts that only root can run: mount(8) with helpers
// in a /sbin and an fstab of its own.
func TestRootScripts(t *testing.T) {
	needFUSE(t)
	if os.Getuid() != 0 {
		return // that an ordinary user mounts is what the other tests show then
	}
	runScripts(t, "testdata/root")
}

func runScripts(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails":     cmdFails,
			"listening": cmdListening,
			"mounted":   cmdMounted,
			"soon":      cmdSoon,
			"signal":    cmdSignal,
			"perm":      cmdChmod,
		},
	})
}

// setUp gives a script its ports, directories and environment, and watches over
// its end.
func setUp(e *testscript.Env) error {
	t := e.T().(testing.TB)
	for _, v := range programEnv(e.WorkDir) {
		name, value, _ := strings.Cut(v, "=")
		e.Setenv(name, value)
	}
	e.Setenv("PORT", strconv.Itoa(freePort(t)))
	e.Setenv("PORT2", strconv.Itoa(freePort(t)))
	e.Setenv("BIN", bin)
	for _, dir := range []string{"home", "tmp"} {
		if err := os.MkdirAll(filepath.Join(e.WorkDir, dir), 0o755); err != nil {
			return err
		}
	}
	e.Defer(func() {
		sweep(t, e.WorkDir)
		reportRaces(t, e.WorkDir)
	})
	return nil
}

// cmdFails is `fails REGEXP PROGRAM ARG...`: the program must end within two
// seconds with an exit status that is not 0, and print one line to standard
// error that matches, and nothing to standard output.
func cmdFails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails regexp program arg...")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	limit := 2 * time.Second
	if raceEnabled {
		limit = patience // hashing a password 600 000 times is far slower
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, args[1]), args[2:]...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), environ(ts)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	text := stderr.String()
	ts.Logf("%v: %v: %q", took.Round(time.Millisecond), err, text)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() <= 0 {
		ts.Fatalf("%s ended with %v, not with an exit status above 0", args[1], err)
	}
	if took > limit {
		ts.Fatalf("it took %v", took)
	}
	if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		ts.Fatalf("not one line on standard error: %q", text)
	}
	if !pattern.MatchString(text) {
		ts.Fatalf("%q does not match %q", text, args[0])
	}
	if stdout.Len() > 0 {
		ts.Fatalf("standard output is not empty: %q", stdout.String())
	}
}

func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LC_ALL", "STATE_DIRECTORY", "GORACE", "RPYCFS_PASSWORD"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// cmdListening is `listening PORT`: waits until something listens there.
func cmdListening(ts *testscript.TestScript, neg bool, args []string) {
	port, err := strconv.Atoi(args[0])
	ts.Check(err)
	if !eventually(patience, func() bool { return listening(port) != neg }) {
		ts.Fatalf("listening on port %d is still %v", port, neg)
	}
}

// cmdMounted is `[!] mounted DIR`. Of a directory that is not mounted it also
// says that no process is behind it any more.
func cmdMounted(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	found := false
	for _, m := range mountsBelow(filepath.Dir(dir)) {
		found = found || m == dir
	}
	if found == neg {
		ts.Fatalf("%s: mounted is %v", dir, found)
	}
	if left := processesWith("mount.rpycfs", dir); neg && len(left) > 0 {
		ts.Fatalf("processes %v are left", left)
	}
}

// cmdSoon is `soon PROGRAM ARG...`: repeats it until it succeeds.
func cmdSoon(ts *testscript.TestScript, neg bool, args []string) {
	ok := eventually(patience, func() bool { return (ts.Exec(args[0], args[1:]...) == nil) != neg })
	if !ok {
		ts.Fatalf("%s: not within %v", strings.Join(args, " "), patience)
	}
}

// cmdSignal is `signal NAME`: sends it to the script's processes in the background.
func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	sig := unix.SignalNum("SIG" + args[0])
	if sig == 0 {
		ts.Fatalf("unknown signal %s", args[0])
	}
	sent := 0
	for _, cmd := range ts.BackgroundCmds() {
		if cmd.Process.Signal(sig) == nil {
			sent++
		}
	}
	if sent != 1 {
		ts.Fatalf("%d processes got the signal, not one", sent)
	}
}

// cmdChmod is `perm MODE FILE`, since the files of a script are made with one
// mode.
func cmdChmod(ts *testscript.TestScript, _ bool, args []string) {
	mode, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	ts.Check(os.Chmod(ts.MkAbs(args[1]), os.FileMode(mode)))
}

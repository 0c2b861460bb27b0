package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/login"
)

// The mount is served by a second process in a session of its own:
//
//	command              process in the background
//	   | -- job (fd 3) ------> |   log in, attach, mount
//	   | <-- report (fd 4) --- |   one line: mounted, or why not
//	   | statfs on the mount   |
//	   | -- end of fd 3 -----> |   the command is content, or gone
//
// The job holds passwords, so it travels through a pipe. The terminal, if there
// is one, is fd 5, for questions.
const (
	serveArg = "--serve" // what the second process finds as its first argument

	jobFD      = 3
	reportFD   = 4
	terminalFD = 5

	maxReport = 64 << 10
)

// report is what the second process says about its start.
type report struct {
	Mounted bool
	Code    int    // exit code, if not mounted
	Text    string // one line, if not mounted
}

// verdict is the last thing that the command says.
type verdict struct{ Keep bool }

// startChild starts the second process and returns when the mount answers.
func startChild(ctx context.Context, j *job) error {
	exe, err := os.Executable()
	if err != nil {
		return fail(exitSystem, "%w", err)
	}
	jobR, jobW, err := os.Pipe()
	if err != nil {
		return fail(exitSystem, "%w", err)
	}
	defer jobW.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		jobR.Close()
		return fail(exitSystem, "%w", err)
	}
	defer reportR.Close()

	cmd := exec.Command(exe)
	cmd.Args = []string{"mount.rpycfs", serveArg, j.Source, j.Dir} // for ps
	cmd.Env = childEnv()
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{jobR, reportW}
	if t := login.OpenTerminal(); t != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, t.File())
		defer t.Close()
		defer t.KeepState()() // the other process may end while it hides a password
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	jobR.Close()
	reportW.Close()
	if err != nil {
		return fail(exitSystem, "start in the background: %w", err)
	}
	// Ctrl-C while a password is asked for reaches this process only. When it
	// ends, so does the pipe, and with it the other one.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	return converse(ctx, j, jobW, reportR, signals, cmd)
}

// childEnv leaves the password out, which came with the job.
func childEnv() (env []string) {
	const secret = login.PasswordVariable + "="
	for _, e := range os.Environ() {
		if len(e) < len(secret) || e[:len(secret)] != secret {
			env = append(env, e)
		}
	}
	return env
}

func converse(ctx context.Context, j *job, jobW io.Writer, reportR io.Reader, signals <-chan os.Signal, cmd *exec.Cmd) error {
	out := json.NewEncoder(jobW)
	if err := out.Encode(j); err != nil {
		return fail(exitSystem, "start in the background: %w", err)
	}
	reports := make(chan error, 1)
	go func() { reports <- readReport(reportR) }()
	var err error
	select {
	case err = <-reports:
		if err != nil {
			awaitEnd(cmd)
		}
	case <-signals:
		err = fail(exitMount, "interrupted")
	case <-ctx.Done():
		err = fail(exitMount, "%w", ctx.Err())
	}
	if err != nil {
		return err
	}
	if err := answers(j.Dir); err != nil {
		return err // the other process unmounts at the end of the pipe
	}
	if err := out.Encode(verdict{Keep: true}); err != nil {
		return fail(exitMount, "the process in the background has ended; see its log")
	}
	return cmd.Process.Release()
}

// endTimeout is how long a process that has reported a failure may take to end.
const endTimeout = time.Second

// awaitEnd waits for a process that has nothing left to do, so that nothing is
// left when the command returns.
func awaitEnd(cmd *exec.Cmd) {
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(endTimeout):
	}
}

func readReport(r io.Reader) error {
	var rep report
	if err := json.NewDecoder(io.LimitReader(r, maxReport)).Decode(&rep); err != nil {
		return fail(exitSystem, "the process in the background ended without a word")
	}
	if !rep.Mounted {
		return &failure{rep.Code, errors.New(rep.Text)}
	}
	return nil
}

// serveChild is the second process.
func serveChild(ctx context.Context) int {
	in, out := os.NewFile(jobFD, "job"), os.NewFile(reportFD, "report")
	for _, f := range []*os.File{in, out} {
		if _, err := f.Stat(); err != nil {
			os.Stderr.WriteString("mount.rpycfs: " + serveArg + " is for mount.rpycfs itself\n")
			return exitUsage
		}
		unix.CloseOnExec(int(f.Fd())) // fusermount3 need not have them
	}
	dec := json.NewDecoder(in)
	var j job
	if err := dec.Decode(&j); err != nil {
		return exitUsage
	}
	signals := endSignals()
	keep := awaitVerdict(dec)
	s, closeLog, err := childStart(ctx, &j, keep)
	rep := report{Mounted: err == nil}
	if err != nil {
		rep.Code, rep.Text = exitCode(err), login.OneLine(err)
	}
	werr := json.NewEncoder(out).Encode(rep)
	out.Close()
	if err != nil {
		return rep.Code
	}
	defer closeLog()
	if werr != nil || !<-keep {
		s.log.Error("unmounting", "err", errAborted)
		s.stop()
		return exitMount
	}
	in.Close()
	s.wait(signals)
	return 0
}

// awaitVerdict reads what the command says last. The end of its pipe is a no.
func awaitVerdict(dec *json.Decoder) chan bool {
	keep := make(chan bool, 1)
	go func() {
		var v verdict
		keep <- dec.Decode(&v) == nil && v.Keep
	}()
	return keep
}

// childStart mounts and lets go of the terminal. A verdict that comes before
// the mount stands can only be a no: whoever waited for it is gone, and nobody
// is left to answer a question.
func childStart(ctx context.Context, j *job, keep chan bool) (*serving, func(), error) {
	log, closeLog, err := openLog(j, io.Discard)
	if err != nil {
		return nil, nil, err
	}
	type result struct {
		s   *serving
		err error
	}
	started := make(chan result, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		term := inheritedTerminal()
		s, err := start(ctx, j, term, log)
		term.Close()
		started <- result{s, err}
	}()
	var r result
	select {
	case r = <-started:
	case <-keep:
		cancel()
		select {
		case r = <-started:
		case <-time.After(abortTimeout): // it hangs in a question
			closeLog()
			os.Exit(exitMount)
		}
		keep <- false
	}
	if r.err != nil {
		closeLog()
		return nil, nil, r.err
	}
	return r.s, closeLog, nil
}

// abortTimeout is how long a start that nobody waits for may take to end.
const abortTimeout = 2 * time.Second

// inheritedTerminal returns the command's terminal, or nil.
func inheritedTerminal() *login.Terminal {
	var stat unix.Stat_t
	if unix.Fstat(terminalFD, &stat) != nil {
		return nil
	}
	unix.CloseOnExec(terminalFD)
	return login.AsTerminal(os.NewFile(terminalFD, "/dev/tty"))
}

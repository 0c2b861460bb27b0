package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// jobEnv makes the test binary a program that does one of the jobs, with the arguments
// that follow its name. It prints what it has to say, and ends by itself.
const jobEnv = "RPYCFS_E2E_JOB"

var jobs = map[string]func(args []string) error{
	"jostle":  jostleJob,  // DIR SEED SECONDS
	"map":     mapJob,     // FILE SECONDS
	"flood":   floodJob,   // DIR SEED CHANGES SECONDS
	"store":   storeJob,   // FILE
	"knock":   knockJob,   // PORT CONNECTIONS
	"touch":   touchJob,   // FILE
	"write":   writeJob,   // FILE
	"program": programJob, // KIND DIR WHO LOSING END
}

func jobMain() int {
	args := strings.Fields(os.Getenv(jobEnv))
	if err := jobs[args[0]](args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", strings.Join(args, " "), err)
		return 1
	}
	return 0
}

// job is a program at work.
type job struct {
	w         *world
	cmd       *exec.Cmd
	name      string
	out, errs bytes.Buffer
}

// job starts a program that does a job.
func (w *world) job(name string, args ...any) *job {
	w.t.Helper()
	self, err := os.Executable()
	must(w.t, err)
	j := &job{w: w, cmd: w.command(self), name: strings.TrimSpace(name + " " + fmt.Sprintln(args...))}
	j.cmd.Env = append(w.env(), jobEnv+"="+j.name)
	j.cmd.Stdout, j.cmd.Stderr = &j.out, &j.errs
	must(w.t, j.cmd.Start())
	return j
}

// end waits for the program and reads what it has printed into values.
func (j *job) end(values ...any) {
	j.w.t.Helper()
	if err := j.cmd.Wait(); err != nil {
		j.w.t.Errorf("%s: %v: %s", j.name, err, j.errs.String())
		return
	}
	if _, err := fmt.Sscan(j.out.String(), values...); err != nil {
		j.w.t.Errorf("%s: %v: it printed %q", j.name, err, j.out.String())
	}
}

// integers reads arguments that are numbers.
func integers(args []string, values ...*int) error {
	if len(args) != len(values) {
		return fmt.Errorf("%d numbers, want %d", len(args), len(values))
	}
	for i, v := range values {
		n, err := strconv.Atoi(args[i])
		if err != nil {
			return err
		}
		*v = n
	}
	return nil
}

// mapped runs f with the first page of a file, which others see as it is changed.
func mapped(path string, f func(page []byte) error) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	page, err := unix.Mmap(int(file.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return errors.Join(f(page), unix.Munmap(page))
}

const pageSize = 4096

// anyOf reports whether an error is one of these, or none.
func anyOf(err error, allowed ...syscall.Errno) bool {
	for _, e := range allowed {
		if errors.Is(err, e) {
			return true
		}
	}
	return err == nil
}

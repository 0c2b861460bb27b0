package mount_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// workerArg makes the test binary a program that other users run.
const workerArg = "worker"

// worker starts a program that does a job as a user; see work.
func (w *world) worker(p person, groups []uint32, job ...string) *exec.Cmd {
	w.Helper()
	program := w.tmp + "/worker"
	if _, err := os.Stat(program); err != nil {
		data, err := os.ReadFile("/proc/self/exe") // may lie where only root may look
		w.ok(err)
		w.ok(os.WriteFile(program, data, 0o755))
	}
	cmd := exec.Command(program, append([]string{workerArg}, job...)...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.uid, Gid: p.gid, Groups: groups}}
	return cmd
}

// does runs a job to its end; it returns what the job says.
func (w *world) does(p person, job ...string) string {
	w.Helper()
	out, err := w.worker(p, nil, job...).CombinedOutput()
	if err != nil && len(out) == 0 {
		w.Fatalf("%s: %v", p.name, err)
	}
	return strings.TrimSpace(string(out))
}

// work does a job: change DIR NAME, make DIR NAME COUNT FORBIDDEN, or lock FILE,
// which says so and keeps the lock until the end of its input.
func work(args []string) int {
	var err error
	switch args[0] {
	case "change":
		for how, change := range changes {
			err = errors.Join(err, clears(args[1]+"/"+how+" by "+args[2], change))
		}
	case "lock":
		err = withFile(args[1], unix.O_RDWR, func(fd int) error {
			if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
				return err
			}
			fmt.Println("locked")
			_, err := io.Copy(io.Discard, os.Stdin)
			return err
		})
	case "make":
		var n int
		if n, err = strconv.Atoi(args[3]); err == nil {
			err = makeMany(args[1]+"/"+args[2], n, args[4])
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// changes are what takes set-id bits from a file, by who is not root.
var changes = map[string]func(path string) error{
	"write": func(path string) error {
		return withFile(path, unix.O_WRONLY, func(fd int) error {
			_, err := unix.Write(fd, []byte("x"))
			return err
		})
	},
	"write direct": func(path string) error {
		return withFile(path, unix.O_WRONLY|unix.O_DIRECT, func(fd int) error {
			_, err := unix.Write(fd, make([]byte, 4096))
			return err
		})
	},
	"append": func(path string) error {
		return withFile(path, unix.O_WRONLY|unix.O_APPEND, func(fd int) error {
			_, err := unix.Write(fd, []byte("x"))
			return err
		})
	},
	"truncate": func(path string) error { return unix.Truncate(path, 1) },
	"ftruncate": func(path string) error {
		return withFile(path, unix.O_WRONLY, func(fd int) error { return unix.Ftruncate(fd, 1) })
	},
	"open": func(path string) error { return withFile(path, unix.O_WRONLY|unix.O_TRUNC, nil) },
	"fallocate": func(path string) error {
		return withFile(path, unix.O_WRONLY, func(fd int) error { return unix.Fallocate(fd, 0, 0, 1<<16) })
	},
	"copy_file_range": func(path string) error {
		return withFile(path, unix.O_RDWR, func(fd int) error {
			return withFile(path, unix.O_RDWR, func(from int) error {
				at, to := int64(0), int64(1<<16)
				_, err := unix.CopyFileRange(from, &at, fd, &to, 1, 0)
				return err
			})
		})
	},
}

// clears makes a change to a file with set-id bits and sees whether they are gone.
func clears(path string, change func(string) error) error {
	for _, want := range []uint32{0o6777, 0o777} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return err
		}
		if got := st.Mode & 0o7777; got != want {
			return fmt.Errorf("%s: mode %o, want %o", path, got, want)
		}
		if want&0o6000 == 0 {
			break
		}
		if err := change(path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func withFile(path string, flags int, f func(fd int) error) error {
	fd, err := unix.Open(path, flags, 0)
	if err != nil || f == nil {
		return err
	}
	return errors.Join(f(fd), unix.Close(fd))
}

// makeMany makes n files of all kinds from four threads, and looks after each
// whether it is its own. What is forbidden it tries in vain in between.
func makeMany(prefix string, n int, forbidden string) error {
	const threads = 4
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for t := range threads {
		wg.Go(func() {
			for i := range n / threads {
				if errs[t] = makeOne(prefix+"-"+strconv.Itoa(t)+"-"+strconv.Itoa(i), i, forbidden); errs[t] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func makeOne(path string, i int, forbidden string) error {
	var err error
	switch i % 5 {
	case 0:
		err = os.WriteFile(path, []byte(path), 0o600)
	case 1:
		err = os.Mkdir(path, 0o700)
	case 2:
		err = os.Symlink("x", path)
	case 3:
		err = unix.Mkfifo(path, 0o600)
	case 4:
		if err = os.WriteFile(path+"~", nil, 0o600); err == nil {
			err = os.Rename(path+"~", path)
		}
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if int(st.Uid) != os.Getuid() || int(st.Gid) != os.Getgid() {
		return fmt.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
	}
	if _, err := os.ReadFile(forbidden); !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s: %v", forbidden, err)
	}
	return nil
}

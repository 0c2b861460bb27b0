package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	mountUser     = "mounter"
	benchPassword = "throwaway"
	copyRate      = 100 // messages per second beside the copy
)

// copying measures the delay of messages in quiet, and while a large file is
// written through a mount of the same daemon and read back.
func (s *site) copying() error {
	if os.Geteuid() != 0 {
		return errors.New("mounting needs root")
	}
	ears, mouth := names("ear", 10), names("speaker", 1)
	if err := s.serve(ears, mouth, []string{mountUser}); err != nil {
		return err
	}
	all, err := s.room("hall", mouth, ears)
	if err != nil {
		return err
	}
	s.step("mount")
	dir, err := s.mount()
	if err != nil {
		return err
	}
	s.step("quiet")
	quiet := sayArgs{N: 10 * copyRate, For: 10 * time.Second, Size: textSize}
	got, err := s.sayAndHear(all[0], all[1:], quiet)
	if err != nil {
		return err
	}
	s.rep.delays(s.part, "delay, quiet", got.Delays)
	local := filepath.Join(s.dir, "source")
	if err := makeFile(local, s.o.mib); err != nil {
		return err
	}
	remote := filepath.Join(dir, "copy")
	if err := s.beside(all, "written to the mount", local, remote); err != nil {
		return err
	}
	return s.beside(all, "read from the mount", remote, "/dev/null")
}

// beside says messages for as long as a copy runs.
func (s *site) beside(all []*child, what, from, to string) error {
	s.step("%d MiB %s", s.o.mib, what)
	if err := resetAll(all[1:]); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	// dd with fsync, so that the copy ends when the server has it.
	args := []string{"if=" + from, "of=" + to, "bs=1M", "status=none"}
	if to != "/dev/null" {
		args = append(args, "conv=fsync")
	}
	dd := exec.CommandContext(ctx, "dd", args...)
	start := time.Now()
	if err := dd.Start(); err != nil {
		return err
	}
	var took time.Duration
	ended := make(chan error, 1)
	go func() {
		err := dd.Wait()
		took = time.Since(start)
		ended <- err
	}()
	total := 0
	for running := true; running; {
		var done said
		if err := all[0].ask("say", sayArgs{N: copyRate / 2, For: time.Second / 2, Size: textSize}, &done); err != nil {
			return err
		}
		total += done.N
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("dd: %w", err)
			}
			running = false
		default:
		}
	}
	got, err := awaitAll(all[1:], total)
	if err != nil {
		return err
	}
	s.rep.add(s.part, what, float64(s.o.mib)/took.Seconds(), "MiB/s")
	s.rep.add(s.part, "delay, "+what+", p50", got.Delays.quantile(.5), "ms")
	s.rep.atMost(s.part, "delay, "+what+", p99", got.Delays.quantile(.99), 100, "ms")
	return nil
}

// makeFile makes a file that does not compress.
func makeFile(path string, mib int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{})
	for range mib {
		r.Read(block)
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// mount mounts the daemon's tree; the site's close unmounts it.
func (s *site) mount() (string, error) {
	bin := s.o.bin
	if bin == "" {
		bin = s.dir
		if err := build(bin); err != nil {
			return "", err
		}
	}
	dir, password := filepath.Join(s.dir, "mnt"), filepath.Join(s.dir, "password")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(password, []byte(benchPassword+"\n"), 0o600)); err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(s.login.Address)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(bin, "mount.rpycfs"), host+":/", dir, "-o",
		"port="+port+",user="+mountUser+",password-file="+password)
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir, "XDG_STATE_HOME="+s.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mount.rpycfs: %w\n%s", err, out)
	}
	s.cleanup = append(s.cleanup, func() error { return unmount(dir) })
	return dir, nil
}

// unmount waits a little for who still uses the mount.
func unmount(dir string) error {
	err := syscall.Unmount(dir, 0)
	for range 50 {
		if err != syscall.EBUSY {
			return err
		}
		time.Sleep(100 * time.Millisecond)
		err = syscall.Unmount(dir, 0)
	}
	return errors.Join(err, syscall.Unmount(dir, syscall.MNT_DETACH))
}

// build builds mount.rpycfs of the module that this one stands in.
func build(dir string) error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/rpycfs/rpycfs").Output()
	if err != nil {
		return fmt.Errorf("go list: %w (run within bench/, or give -bin)", err)
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "./cmd/mount.rpycfs")
	cmd.Dir = string(out[:len(out)-1])
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

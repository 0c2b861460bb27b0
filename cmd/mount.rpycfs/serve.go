package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/client"
	"github.com/rpycfs/rpycfs/internal/login"
	"github.com/rpycfs/rpycfs/internal/mounts"
	"github.com/rpycfs/rpycfs/internal/status"
	"github.com/rpycfs/rpycfs/mount"
)

// answerTimeout is how long a fresh mount may take to answer its first request.
const answerTimeout = 10 * time.Second

// settleLimit is how long a fresh mount may take to be one that can be unmounted.
const settleLimit = time.Second

// serving is a mount that is being served.
type serving struct {
	session *client.Session
	mounted *mount.Mounted
	log     *slog.Logger
	status  *status.Server // nil: there is no socket
	forget  func()         // takes the record for umount.rpycfs away
	ended   chan struct{}  // the kernel has let go of the mount
}

// start logs in, attaches and mounts. The mount is being served on return.
func start(ctx context.Context, j *job, term *login.Terminal, log *slog.Logger) (*serving, error) {
	calls := mount.NewCallbacks()
	session, err := dial(ctx, j, term, calls, log)
	if err != nil {
		return nil, err
	}
	s := &serving{session: session, log: log, forget: func() {}, ended: make(chan struct{})}
	if err := s.mount(ctx, j, calls); err != nil {
		session.Close(context.Background())
		return nil, err
	}
	go func() {
		defer close(s.ended)
		s.mounted.Serve()
	}()
	s.mounted.Settle(settleLimit)
	return s, nil
}

func (s *serving) mount(ctx context.Context, j *job, calls *mount.Callbacks) error {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	fs, err := mount.Attach(ctx, s.session.Peer(), mount.Config{
		Path: j.Path, Source: j.Source, IDs: j.IDs, ACL: j.ACL, AllowOther: j.AllowOther,
		Flags: j.Flags, Fusermount: j.Fusermount, Callbacks: calls, LocalLocks: j.NoLock, NoInotify: j.NoInotify,
		Timeo: j.Timeo, Soft: j.Soft, Logger: s.log,
	})
	if err != nil {
		return explainAttach(j, err)
	}
	if s.mounted, err = mount.Mount(fs, j.Dir); err != nil {
		return explainMount(j, err)
	}
	if s.mounted.Dev == "" {
		return nil
	}
	if forget, err := mounts.Record(s.mounted.Dev); err != nil {
		s.log.Warn("umount.rpycfs will not wait for this process", "err", err)
	} else {
		s.forget = forget
	}
	if err := s.answerStatus(j, fs); err != nil {
		s.log.Warn("rpycfs status will not get an answer", "err", err)
	}
	return nil
}

// wait serves until the mount is gone or a signal comes. Then it unmounts,
// whether files are open or not, and logs out: a signal ends this process, and
// a mount without a process is of no use.
func (s *serving) wait(signals <-chan os.Signal) {
	done := s.session.Done()
	for {
		select {
		case <-s.ended:
			// After umount -f of a busy mount it is still in the table.
			if err := s.mounted.Unmount(true); err != nil {
				s.log.Warn("unmount", "err", err)
			}
			s.finish()
			return
		case sig := <-signals:
			s.log.Info("unmounting", "signal", sig.String())
			s.stop()
			return
		case <-done:
			done = nil // requests fail from here on; unmounting is the user's to do
			s.log.Error("the session is over; unmount and mount again")
		}
	}
}

// stop unmounts, lazily if need be, and finishes.
func (s *serving) stop() {
	if err := s.mounted.Unmount(false); err != nil {
		s.log.Info("unmounting lazily", "err", err)
		if err := s.mounted.Unmount(true); err != nil {
			s.log.Error("unmount", "err", err)
		}
	}
	select {
	case <-s.ended:
	case <-time.After(time.Second): // open files keep it alive until this process ends
	}
	s.finish()
}

func (s *serving) finish() {
	if s.status != nil {
		s.status.Close()
	}
	if err := s.session.Close(context.Background()); err != nil {
		s.log.Debug("log out", "err", err)
	}
	s.forget()
}

// endSignals are the signals that end the process in order.
func endSignals() chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP)
	return c
}

// answers waits until the mount at dir answers a statfs and shows a directory.
func answers(dir string) error {
	result := make(chan error, 1)
	go func() {
		var fs syscall.Statfs_t
		var st syscall.Stat_t
		err := syscall.Statfs(dir, &fs)
		if err == nil {
			err = syscall.Stat(dir, &st)
		}
		if err == nil && st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			err = syscall.ENOTDIR
		}
		result <- err
	}()
	select {
	case err := <-result:
		if err != nil {
			return fail(exitMount, "the mount on %s fails: %w", dir, err)
		}
		return nil
	case <-time.After(answerTimeout):
		return fail(exitMount, "the mount on %s does not answer", dir)
	}
}

// serveForeground mounts and serves in this process.
func serveForeground(ctx context.Context, j *job, stderr io.Writer) error {
	log, closeLog, err := openLog(j, stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	signals := endSignals()
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := cancelOn(signals, cancel)
	s, err := start(ctx, j, login.OpenTerminal(), log)
	interrupted := stop()
	if err != nil {
		return err
	}
	if err := answers(j.Dir); err != nil || interrupted {
		s.stop()
		return err
	}
	fmt.Fprintf(stderr, "mount.rpycfs: %s mounted on %s\n", j.Source, j.Dir)
	s.wait(signals)
	return nil
}

// cancelOn cancels when a signal comes, until stop is called, which reports
// whether one came.
func cancelOn(signals <-chan os.Signal, cancel func()) (stop func() bool) {
	quit, done := make(chan struct{}), make(chan bool, 1)
	go func() {
		select {
		case <-signals:
			cancel()
			done <- true
		case <-quit:
			done <- false
		}
	}()
	return func() bool {
		close(quit)
		return <-done
	}
}

// errAborted says that nobody waits for the mount any more.
var errAborted = errors.New("the command that started the mount is gone")

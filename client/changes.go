package client

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// changes tells that the network may have become another one: addresses, routes or the
// state of an interface have changed, or the machine has slept.
type changes struct {
	C <-chan string // what has changed; capacity 1

	c     chan string
	files []*os.File
	wait  sync.WaitGroup
}

// slept is how much more time has to have passed than programs could run for the
// machine to have slept.
const slept = time.Second

// watchChanges begins to watch. What cannot be watched is left out.
func watchChanges(log *slog.Logger) *changes {
	w := &changes{c: make(chan string, 1)}
	w.C = w.c
	for what, open := range map[string]func() (*os.File, func() error, error){"network": w.network, "sleep": w.sleep} {
		f, read, err := open()
		if err != nil {
			log.Debug("changes are not noticed", "of", what, "err", err)
			continue
		}
		w.files = append(w.files, f)
		w.wait.Go(func() {
			for {
				if err := read(); err != nil {
					if !errors.Is(err, os.ErrClosed) {
						log.Debug("changes are not noticed any more", "of", what, "err", err)
					}
					return
				}
			}
		})
	}
	return w
}

// stop returns when nothing is watched any more.
func (w *changes) stop() {
	for _, f := range w.files {
		f.Close()
	}
	w.wait.Wait()
}

func (w *changes) tell(what string) {
	select {
	case w.c <- what:
	default: // one is told already
	}
}

// network listens to the kernel's own announcements, rtnetlink(7).
func (w *changes) network() (*os.File, func() error, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, nil, os.NewSyscallError("bind", err)
	}
	f := os.NewFile(uintptr(fd), "rtnetlink")
	buf := make([]byte, 64<<10)
	links := make(map[int32]uint32)
	return f, func() error {
		n, err := f.Read(buf)
		if errors.Is(err, syscall.ENOBUFS) {
			w.tell("much in the network")
			return nil
		}
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("rtnetlink: %w", err)
		}
		for _, m := range messages {
			if what := describe(&m, links); what != "" {
				w.tell(what)
			}
		}
		return nil
	}, nil
}

// describe says what a message tells of that matters, or nothing. Of interfaces that is
// whether they are up and connected; wireless ones are announced all the time.
func describe(m *syscall.NetlinkMessage, links map[int32]uint32) string {
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return "an address"
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return "a route"
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return ""
		}
		info := (*unix.IfInfomsg)(unsafe.Pointer(&m.Data[0]))
		state := info.Flags & (unix.IFF_UP | unix.IFF_RUNNING)
		if m.Header.Type == unix.RTM_DELLINK {
			delete(links, info.Index)
			return "an interface"
		}
		if before, known := links[info.Index]; known && before == state {
			return ""
		}
		links[info.Index] = state
		return "an interface"
	}
	return ""
}

// sleep waits for steps of the machine's clock, of which waking up is one
// (timerfd_create(2)), and sees whether time has passed that no program could run in.
func (w *changes) sleep() (*os.File, func() error, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, nil, os.NewSyscallError("timerfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "timerfd")
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: 1 << 33}}
	arm := func() error {
		return os.NewSyscallError("timerfd_settime", unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil))
	}
	if err := arm(); err != nil {
		f.Close()
		return nil, nil, err
	}
	before := asleep()
	buf := make([]byte, 8)
	return f, func() error {
		if _, err := f.Read(buf); err != nil && !errors.Is(err, syscall.ECANCELED) {
			return err
		}
		if now := asleep(); now-before > slept {
			before = now
			w.tell("the machine has slept")
		}
		return arm()
	}, nil
}

// asleep returns for how long the machine has slept since it was started.
func asleep() time.Duration {
	var boot, running unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &running) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - running.Nano())
}

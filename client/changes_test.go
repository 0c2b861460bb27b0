package client

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestChanges brings the only interface of a network name space of its own up.
func TestChanges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root may make a network of its own: looked at without changes")
		watchChanges(slog.New(slog.DiscardHandler)).stop()
		return
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never back: the thread ends with this
		result <- inOwnNetwork()
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func inOwnNetwork() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	w := watchChanges(slog.Default())
	defer w.stop()
	if len(w.files) != 2 {
		return errors.New("network or sleep are not watched")
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		return err
	}
	select {
	case <-w.C:
		return nil
	case <-time.After(10 * time.Second):
		return errors.New("a new address was not noticed")
	}
}

// TestDescribe: interfaces are told of when their state changes.
func TestDescribe(t *testing.T) {
	links := make(map[int32]uint32)
	link := func(flags uint32) *syscall.NetlinkMessage {
		data := make([]byte, unix.SizeofIfInfomsg)
		binary.NativeEndian.PutUint32(data[4:], 3) // index
		binary.NativeEndian.PutUint32(data[8:], flags)
		return &syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWLINK}, Data: data}
	}
	for i, c := range []struct {
		m    *syscall.NetlinkMessage
		want string
	}{
		{link(unix.IFF_UP), "an interface"},
		{link(unix.IFF_UP), ""},
		{link(unix.IFF_UP | unix.IFF_RUNNING), "an interface"},
		{link(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_BROADCAST), ""},
		{&syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_DELADDR}}, "an address"},
		{&syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWLINK}}, ""},
		{&syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWNEIGH}}, ""},
	} {
		if got := describe(c.m, links); got != c.want {
			t.Errorf("message %d: %q, want %q", i, got, c.want)
		}
	}
	if asleep() < 0 {
		t.Error("the machine has slept for less than no time")
	}
}

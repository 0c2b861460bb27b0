package mount

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
)

// The kernel does not tell a file system what is watched in it. But the descriptors of
// inotify(7) list their watches in /proc/PID/fdinfo, by device and file handle; in the
// handles of FUSE are our own node numbers. Root sees the watches of everybody whose
// process it sees, an ordinary user those of the own programs.

const (
	// scanShare is the part of a processor's time that may go into looking for watches, while
	// changes of what nobody watches come in.
	scanShare = 1. / 25
	// scanAgain is for how long a watch is believed to be there.
	scanAgain = time.Second
	// longestPause bounds the time between two looks, and so how late an event may be.
	longestPause = time.Second
)

// watches are what somebody watches in one file system. It is used by one goroutine.
type watches struct {
	dev   string // as fdinfo has it
	nodes map[fsproto.Node]struct{}
	began time.Time // of the last look
	next  time.Time // may be begun
}

// newWatches returns watches of a device, major:minor.
func newWatches(dev string) (*watches, error) {
	var major, minor uint32
	if _, err := fmt.Sscanf(dev, "%d:%d", &major, &minor); err != nil {
		return nil, fmt.Errorf("device %q: %w", dev, err)
	}
	return &watches{dev: strconv.FormatUint(uint64(major)<<20|uint64(minor), 16)}, nil
}

// any reports whether one of the nodes was watched at the last look.
func (w *watches) any(nodes ...fsproto.Node) bool {
	for _, n := range nodes {
		if _, ok := w.nodes[n]; ok {
			return true
		}
	}
	return false
}

// look finds out what is watched now.
func (w *watches) look() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w.began = time.Now()
	used := threadTime()
	w.nodes = make(map[fsproto.Node]struct{})
	for _, pid := range numbers("/proc") {
		fds := "/proc/" + pid + "/fd/"
		for _, fd := range numbers(fds) {
			if to, err := os.Readlink(fds + fd); err == nil && to == "anon_inode:inotify" {
				if info, err := os.ReadFile("/proc/" + pid + "/fdinfo/" + fd); err == nil {
					w.add(info)
				}
			}
		}
	}
	used = threadTime() - used
	w.next = time.Now().Add(min(longestPause, time.Duration(float64(used)/scanShare)))
}

// threadTime returns what this thread has used of a processor.
func threadTime() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// numbers returns the entries of a directory that are numbers; none if it cannot be
// read.
func numbers(dir string) (names []string) {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	all, _ := f.Readdirnames(-1) // a process that ends meanwhile
	for _, name := range all {
		if name[0] >= '0' && name[0] <= '9' {
			names = append(names, name)
		}
	}
	return names
}

// add adds the watches in an fdinfo: lines like
//
//	inotify wd:2 ino:64 sdev:27 mask:fff ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:00…
func (w *watches) add(fdinfo []byte) {
	for s := bufio.NewScanner(bytes.NewReader(fdinfo)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) == 0 || fields[0] != "inotify" {
			continue
		}
		var dev, kind, handle string
		for _, f := range fields[1:] {
			name, value, _ := strings.Cut(f, ":")
			switch name {
			case "sdev":
				dev = value
			case "fhandle-type":
				kind = value
			case "f_handle":
				handle = value
			}
		}
		if dev != w.dev || kind != strconv.FormatInt(fuseHandle, 16) {
			continue
		}
		if b, err := hex.DecodeString(handle); err == nil {
			if node, ok := nodeOf(b); ok {
				w.nodes[node] = struct{}{}
			}
		}
	}
}

// fuseHandle is the type of the kernel's file handles of FUSE (FILEID_INO64_GEN): the
// node number's upper and lower half, then the generation, which is always 0 here.
const fuseHandle = 0x81

// handleOf returns the kernel's handle of a node.
func handleOf(n fsproto.Node) unix.FileHandle {
	var b [12]byte
	binary.NativeEndian.PutUint32(b[0:], uint32(n>>32))
	binary.NativeEndian.PutUint32(b[4:], uint32(n))
	return unix.NewFileHandle(fuseHandle, b[:])
}

// nodeOf is the way back.
func nodeOf(handle []byte) (fsproto.Node, bool) {
	if len(handle) < 12 {
		return 0, false
	}
	return fsproto.Node(binary.NativeEndian.Uint32(handle))<<32 | fsproto.Node(binary.NativeEndian.Uint32(handle[4:])), true
}

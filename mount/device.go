package mount

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/mounts"
)

// device is the kernel's end of a mount. It is kept beside go-fuse's own descriptor
// for notifications that go-fuse has no call for.
type device struct {
	fd      int
	noEpoch atomic.Bool // the kernel has refused one
}

// attachDevice puts the file system into the mount table at dir and returns the
// descriptor that its requests come from.
func (fs *FS) attachDevice(dir string, opts *fuse.MountOptions) (fd int, err error) {
	if fs.cfg.Fusermount {
		if fs.cfg.Flags&unix.MS_RDONLY != 0 {
			fs.inject.none("the kernel changes nothing on a mount that is read only")
		}
		return viaFusermount(dir, fs.deviceOptions(opts))
	}
	st, err := os.Stat(dir)
	if err != nil {
		return -1, err
	}
	if fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	data := []string{
		"fd=" + strconv.Itoa(fd), "rootmode=" + strconv.FormatUint(uint64(st.Sys().(*syscall.Stat_t).Mode&syscall.S_IFMT), 8),
		"user_id=" + strconv.Itoa(os.Geteuid()), "group_id=" + strconv.Itoa(os.Getegid()),
		"max_read=" + strconv.Itoa(opts.MaxWrite),
	}
	data = append(data, opts.Options...)
	if opts.AllowOther {
		data = append(data, "allow_other")
	}
	if err := fs.mountAt(dir, opts.FsName, strings.Join(data, ",")); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountAt puts the file system into the mount table. If it is to be read only and told
// of changes, the mount is, which is what programs and the mount table know; the file
// system is not, or the kernel could not tell of any, but refuses all changes itself
// (FS.protects).
func (fs *FS) mountAt(dir, source, data string) error {
	const readOnly = unix.MS_RDONLY
	flags := fs.cfg.Flags
	fs.protects = flags&readOnly != 0 && fs.inject != nil
	if !fs.protects {
		return unix.Mount(source, dir, mounts.FSType, flags, data)
	}
	if err := unix.Mount(source, dir, mounts.FSType, flags&^readOnly, data); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", flags|unix.MS_BIND|unix.MS_REMOUNT, ""); err != nil {
		mounts.Unmount(dir, mounts.UnmountOptions{Lazy: true})
		return fmt.Errorf("make it read only: %w", err)
	}
	return nil
}

// deviceOptions are the options for fusermount3, which tells commas apart by
// backslashes.
func (fs *FS) deviceOptions(opts *fuse.MountOptions) string {
	list := append(fusermountOptions(fs.cfg.Flags), opts.Options...)
	if opts.AllowOther {
		list = append(list, "allow_other")
	}
	list = append(list, "fsname="+opts.FsName, "subtype="+opts.Name, "max_read="+strconv.Itoa(opts.MaxWrite))
	for i, o := range list {
		list[i] = strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(o)
	}
	return strings.Join(list, ",")
}

// viaFusermount mounts through the set-uid helper, which opens /dev/fuse and sends
// the descriptor over a socket (fusermount3(1), _FUSE_COMMFD). What it has to say on
// stderr becomes the error.
func viaFusermount(dir, options string) (fd int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount"), os.NewFile(uintptr(pair[1]), "fusermount")
	defer ours.Close()
	defer theirs.Close()
	cmd := exec.Command("fusermount3", "-o", options, "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	var said bytes.Buffer
	cmd.Stderr = &limited{w: &said, left: 4096}
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(said.String()); text != "" {
			return -1, errors.New(strings.ReplaceAll(text, "\n", "; "))
		}
		return -1, err
	}
	theirs.Close()
	return receiveFD(pair[0])
}

// limited passes on what fits and swallows the rest.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	l.w.Write(p[:n])
	return len(p), nil
}

// receiveFD takes one descriptor out of a message.
func receiveFD(socket int) (int, error) {
	var data [1]byte
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, data[:], control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fusermount3: no descriptor: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("fusermount3: no descriptor in its message: %w", errors.Join(err, syscall.EPROTO))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("fusermount3: no descriptor in its message: %w", errors.Join(err, syscall.EPROTO))
	}
	return fds[0], nil
}

// newDevice keeps a descriptor of the device that fd is.
func newDevice(fd int) (*device, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return &device{fd: own}, err
}

func (d *device) close() {
	if d != nil {
		unix.Close(d.fd)
	}
}

// expire makes the kernel ask again for a name, at its next use, and leaves alone who has
// what it leads to as the working directory (FUSE_EXPIRE_ONLY, Linux 6.2). It waits for
// the directory's lock.
func (d *device) expire(dir fsproto.Node, name string) {
	const notifyInvalEntry = 3
	msg := make([]byte, 32, 32+len(name)+1) // fuse_out_header, fuse_notify_inval_entry_out
	binary.NativeEndian.PutUint32(msg[0:], uint32(cap(msg)))
	binary.NativeEndian.PutUint32(msg[4:], notifyInvalEntry)
	binary.NativeEndian.PutUint64(msg[16:], uint64(dir))
	binary.NativeEndian.PutUint32(msg[24:], uint32(len(name)))
	binary.NativeEndian.PutUint32(msg[28:], fuse.EXPIRE_ONLY)
	msg = append(append(msg, name...), 0)
	_, _ = unix.Write(d.fd, msg) // ENOENT: the kernel does not have it
}

// epochs reports whether the kernel is believed to know epochs.
func (d *device) epochs() bool { return !d.noEpoch.Load() }

// incEpoch makes the kernel ask again for every name that it knows, at its next use.
// It takes no lock there (FUSE_NOTIFY_INC_EPOCH, Linux 6.16). It reports whether the
// kernel does that.
func (d *device) incEpoch() bool {
	const notifyIncEpoch = 8
	var msg [16]byte // fuse_out_header: length, code, no request
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[4:], notifyIncEpoch)
	_, err := unix.Write(d.fd, msg[:])
	if err == unix.EINVAL {
		d.noEpoch.Store(true)
	}
	return err == nil
}

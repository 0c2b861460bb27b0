package mount

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/mounts"
)

// Sizes of the mount.
const (
	maxWrite      = 1 << 20 // bytes in one read or write request
	maxBackground = 128     // read-ahead and write-back requests at once
)

// capabilities are what is asked of the kernel beyond go-fuse's choice. One that
// the kernel lacks is left out:
//
//   - ATOMIC_O_TRUNC: open and truncate in one request
//   - DONT_MASK: the umask comes as it is, the daemon applies it
//   - HANDLE_KILLPRIV_V2 (5.12): the kernel says when set-id bits must go
//   - READDIRPLUS_AUTO: listings with attributes only for who looks at them
//   - ASYNC_DIO: direct reads and writes in parallel
//   - DIRECT_IO_ALLOW_MMAP (6.6): shared mappings of files open around the kernel's cache
//   - CACHE_SYMLINKS (4.20): where a symbolic link leads is asked once; no link's target changes
const capabilities = fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK | fuse.CAP_HANDLE_KILLPRIV_V2 |
	fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO | fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_CACHE_SYMLINKS

// Mounted is a file system in the mount table.
type Mounted struct {
	Dir string // absolute, without symlinks
	Dev string // major:minor, as in the mount table

	fs     *FS
	server *fuse.Server
}

// Mount puts fs into the mount table at dir. Serve must be called then. On an
// error nothing is mounted and fs is of no more use.
func Mount(fs *FS, dir string) (*Mounted, error) {
	m := &Mounted{Dir: dir, fs: fs}
	opts := fs.mountOptions()
	fd, err := fs.attachDevice(dir, opts)
	if err == nil {
		m.server, err = fs.serveDevice(fd, dir, opts)
	}
	if err != nil {
		fs.OnUnmount()
		return nil, fmt.Errorf("mount: %w", err)
	}
	if at, err := mounts.At(dir); err == nil && at.Type == mounts.FSType {
		m.Dev, fs.dev = at.Dev, at.Dev
		fs.raiseReadAhead(m.Dev)
	}
	return m, nil
}

// serveDevice lets go-fuse answer the first request that comes from a descriptor, which
// it takes over, and notify the kernel through it. The other requests are for readers.
func (fs *FS) serveDevice(fd int, dir string, opts *fuse.MountOptions) (*fuse.Server, error) {
	var err error
	if fs.device, err = newDevice(fd); err != nil {
		unix.Close(fd)
	} else {
		fs.link.mounted(fs.device.fd)
	}
	raw := injecting{counted{fs}}
	var server *fuse.Server
	if err == nil {
		server, err = fuse.NewServer(raw, "/dev/fd/"+strconv.Itoa(fd), opts)
	}
	if err != nil {
		mounts.Unmount(dir, mounts.UnmountOptions{Lazy: true, Fusermount: fs.cfg.Fusermount})
		return nil, err
	}
	settings := *server.KernelSettings()
	fs.mapsAround = settings.Flags64()&fuse.CAP_DIRECT_IO_ALLOW_MMAP != 0
	fs.expires = settings.Flags64()&fuse.CAP_HAS_EXPIRE_ONLY != 0
	fs.noOpenDir = fs.readsAll && fs.ahead != nil && settings.Flags64()&fuse.CAP_NO_OPENDIR_SUPPORT != 0
	fs.readers = newReaders(raw, opts, fs.device.fd, settings, fs.log)
	return server, nil
}

func (fs *FS) mountOptions() *fuse.MountOptions {
	opts := &fuse.MountOptions{
		FsName:            fs.cfg.Source,
		Name:              strings.TrimPrefix(mounts.FSType, "fuse."),
		AllowOther:        fs.cfg.AllowOther,
		MaxWrite:          maxWrite,
		MaxBackground:     maxBackground,
		EnableLocks:       fs.locks != nil,
		DisableSplice:     true, // fails at 1 MiB and a header
		ExtraCapabilities: capabilities,
		EnableAcl:         fs.acl && fs.kernelChecks,
		PanicHandler:      fs.panicked,
		Logger:            slog.NewLogLogger(fs.log.Handler(), slog.LevelDebug),
	}
	if fs.kernelChecks {
		opts.Options = append(opts.Options, "default_permissions")
	}
	return opts
}

// panicked answers a request whose handler has panicked.
func (fs *FS) panicked(v any) fuse.Status {
	fs.log.Error("panic in a request of the kernel", "panic", v, "stack", string(debug.Stack()))
	return fuse.EIO
}

// mountFlags are the flags of mount(2) by their names for fusermount3.
var mountFlags = []struct {
	flag uintptr
	name string
}{
	{unix.MS_RDONLY, "ro"}, {unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"},
	{unix.MS_NOATIME, "noatime"}, {unix.MS_SYNCHRONOUS, "sync"}, {unix.MS_DIRSYNC, "dirsync"},
}

func fusermountOptions(flags uintptr) (opts []string) {
	for _, f := range mountFlags {
		if flags&f.flag != 0 {
			opts = append(opts, f.name)
		}
	}
	return opts
}

// raiseReadAhead lets the kernel read further ahead than its 128 KiB, where
// this process may say so.
func (fs *FS) raiseReadAhead(dev string) {
	path := filepath.Join("/sys/class/bdi", dev, "read_ahead_kb")
	if err := os.WriteFile(path, strconv.AppendInt(nil, int64(fs.cfg.ReadAhead), 10), 0); err != nil {
		fs.log.Debug("read-ahead stays at the kernel's default", "err", err)
	}
}

// Serve answers the kernel until the file system is unmounted.
func (m *Mounted) Serve() {
	m.fs.inject.start(m)
	m.fs.readers.run()
	m.server.Serve() // finds that it is unmounted, and ends
}

// Settle returns when nothing is left of mounting, or after a limit: the injector tries
// its calls first, and an ordinary user's mount is busy while it does.
func (m *Mounted) Settle(limit time.Duration) {
	if m.fs.inject == nil {
		return
	}
	select {
	case <-m.fs.inject.probed:
	case <-time.After(limit):
	}
}

// Unmount takes the file system out of the mount table. Files that are open
// keep it alive, until this process ends, only if lazy is set; otherwise it
// fails with EBUSY. A mount that somebody else has put on top is left alone.
func (m *Mounted) Unmount(lazy bool) error {
	at, err := mounts.At(m.Dir)
	if errors.Is(err, mounts.ErrNotMounted) {
		return nil
	}
	if err != nil {
		return err
	}
	if at.Dev != m.Dev {
		return fmt.Errorf("unmount %s: covered by another mount: %w", m.Dir, syscall.EBUSY)
	}
	return mounts.Unmount(m.Dir, mounts.UnmountOptions{Lazy: lazy, Fusermount: m.fs.cfg.Fusermount})
}

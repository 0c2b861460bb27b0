package auth

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxFile bounds every file that this package reads, in bytes.
const maxFile = 4 << 20

// readPrivate reads a regular file of which the mode has none of the bits of
// forbidden set; secrets says what it holds, for the error.
func readPrivate(path string, forbidden fs.FileMode, secrets string) ([]byte, error) {
	// O_NONBLOCK: opening a fifo must not hang.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readChecked(f, forbidden, secrets)
}

// readChecked is readPrivate on an open file.
func readChecked(f *os.File, forbidden fs.FileMode, secrets string) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", f.Name())
	}
	if info.Mode()&forbidden != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets others at %s; chmod 600 it", f.Name(), info.Mode().Perm(), secrets)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", f.Name(), maxFile)
	}
	return b, nil
}

// writeAtomic replaces path by a file of mode 0600 that holds data. Owner and
// group stay those of the file that it replaces. After an error path is as it
// was.
func writeAtomic(path string, data []byte) error {
	return makeFile(path, data, os.Rename)
}

// createAtomic makes path, of mode 0600 and with data in it from the first
// moment. It fails with fs.ErrExist when path exists.
func createAtomic(path string, data []byte) error {
	return makeFile(path, data, func(temporary, path string) error {
		if err := os.Link(temporary, path); err != nil {
			return err
		}
		return os.Remove(temporary)
	})
}

// makeFile writes data to a temporary file beside path, on disk before place
// gives it its name.
func makeFile(path string, data []byte, place func(temporary, path string) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = keepOwner(f, path)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := place(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// keepOwner gives f the owner and group of the file at path, if there is one:
// root edits files that a daemon reads as somebody else.
func keepOwner(f *os.File, path string) error {
	old, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	made, err := f.Stat()
	if err != nil {
		return err
	}
	was, is := old.Sys().(*syscall.Stat_t), made.Sys().(*syscall.Stat_t)
	if was.Uid == is.Uid && was.Gid == is.Gid {
		return nil
	}
	return f.Chown(int(was.Uid), int(was.Gid))
}

// syncDir makes a change of names in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockFile opens path with flags, creating it with mode 0600, and takes an
// exclusive lock that lasts until the file is closed. When somebody replaced the
// file while we waited for the lock, it starts again with the new one.
func lockFile(path string, flags int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, flags|os.O_CREATE|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		held, err := f.Stat()
		if err == nil {
			var named os.FileInfo
			if named, err = os.Stat(path); err == nil && os.SameFile(held, named) {
				return f, nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			return err
		}
	}
}

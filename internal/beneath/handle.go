package beneath

import (
	"golang.org/x/sys/unix"
)

// KernelHandle finds an object again without its name (name_to_handle_at(2)).
// It is a comparable value; the zero value is none.
type KernelHandle struct {
	Type int32
	Data string // at most MaxKernelHandle bytes
}

// MaxKernelHandle bounds the size of a kernel handle that is used, in bytes.
const MaxKernelHandle = 64

// Handle returns p's kernel handle.
func (p *Path) Handle() (KernelHandle, error) {
	return kernelHandle(p.fd, "", unix.AT_EMPTY_PATH)
}

const atHandleFID = 0x200 // AT_HANDLE_FID of name_to_handle_at(2)

// EventHandle returns the handle that fanotify(7) knows p by. It is the kernel
// handle where there is one; elsewhere (overlays, Linux 6.5) it can be compared
// but not opened.
func (p *Path) EventHandle() (KernelHandle, error) {
	h, err := p.Handle()
	if err == unix.EOPNOTSUPP {
		return kernelHandle(p.fd, "", unix.AT_EMPTY_PATH|atHandleFID)
	}
	return h, err
}

// HandleAt returns the kernel handle of entry name of directory p.
func (p *Path) HandleAt(name string) (KernelHandle, error) {
	if err := checkName(name); err != nil {
		return KernelHandle{}, err
	}
	return kernelHandle(p.fd, name, 0)
}

func kernelHandle(fd int, name string, flags int) (h KernelHandle, err error) {
	err = retry(func() error {
		fh, _, err := unix.NameToHandleAt(fd, name, flags)
		if err != nil {
			return err
		}
		if fh.Size() > MaxKernelHandle {
			return unix.EOVERFLOW
		}
		h = KernelHandle{fh.Type(), string(fh.Bytes())}
		return nil
	})
	return h, err
}

// OpenHandle returns the object of a kernel handle. It needs
// CAP_DAC_READ_SEARCH, and finds objects outside the root as well: the caller
// must check where it is. f is any open file of the same mount.
func (f *File) OpenHandle(h KernelHandle) (*Path, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.OpenByHandleAt(f.fd, unix.NewFileHandle(h.Type, []byte(h.Data)), pathFlags)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Path{fd}, nil
}

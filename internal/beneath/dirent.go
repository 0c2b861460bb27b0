package beneath

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Dirent is one entry as getdents64(2) gives it.
type Dirent struct {
	Name string
	Next uint64 // position after the entry, as the file system counts it
	Ino  uint64
	Type uint32 // S_IF… bits; 0: the file system does not say
}

// MinDirents is a buffer that holds at least one entry, in bytes.
const MinDirents = 1024

// Dirents reads entries from directory f's position into buf and returns them
// without "." and "..". end is set where there are no more. The caller lets only
// one Dirents or Seek run on f at a time.
func (f *File) Dirents(buf []byte, dst []Dirent) (entries []Dirent, end bool, err error) {
	var n int
	err = retry(func() error {
		n, err = unix.Getdents(f.fd, buf)
		return err
	})
	if err != nil || n <= 0 {
		return dst, err == nil, err
	}
	return parseDirents(buf[:n], dst), false, nil
}

// direntHead is the size of what stands before a name: ino, off, reclen, type.
const direntHead = 8 + 8 + 2 + 1

func parseDirents(buf []byte, dst []Dirent) []Dirent {
	for len(buf) >= direntHead {
		size := int(binary.NativeEndian.Uint16(buf[16:]))
		if size < direntHead || size > len(buf) {
			break
		}
		name := buf[direntHead:size]
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		d := Dirent{
			Name: string(name),
			Next: binary.NativeEndian.Uint64(buf[8:]),
			Ino:  binary.NativeEndian.Uint64(buf),
			Type: uint32(buf[18]) << 12, // DT_… are the type bits of a mode
		}
		if checkName(d.Name) == nil {
			dst = append(dst, d)
		}
		buf = buf[size:]
	}
	return dst
}

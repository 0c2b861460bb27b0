package mount

import (
	"encoding/binary"
	"io"
	"log"
	"log/slog"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// waitingFS answers what readers ask of it. An open of node 2 waits, like a call, until
// its file is flushed or it is interrupted; all others are answered at once.
type waitingFS struct {
	fuse.RawFileSystem
	readers *readers
	flushed chan struct{}
}

func (f *waitingFS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId != 2 {
		return fuse.OK
	}
	f.readers.handOver(&in.InHeader)
	select {
	case <-f.flushed:
		return fuse.OK
	case <-cancel:
		return fuse.EINTR
	}
}

func (f *waitingFS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status {
	f.flushed <- struct{}{}
	return fuse.OK
}

// GetAttr waits without a word: kinds that may always do so need not hand over.
func (f *waitingFS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	<-cancel
	return fuse.EINTR
}

func (f *waitingFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	for i := range buf {
		buf[i] = byte(i)
	}
	return inPlace(buf), fuse.OK
}

// kernelEnd is the other end of what readers believe to be /dev/fuse.
type kernelEnd struct {
	t  *testing.T
	fd int
}

func startReaders(t *testing.T) (k kernelEnd, r *readers, ended chan struct{}) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range pair {
		for _, opt := range []int{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF} {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 4<<20)
		}
	}
	fs := &waitingFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), flushed: make(chan struct{})}
	init := fuse.InitIn{Major: 7, Minor: 45, MaxReadAhead: maxWrite}
	opts := &fuse.MountOptions{MaxWrite: maxWrite, DisableSplice: true, Logger: log.New(io.Discard, "", 0)}
	fs.readers = newReaders(fs, opts, pair[0], init, slog.New(slog.DiscardHandler))
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		fs.readers.run()
		unix.Close(pair[0])
	}()
	return kernelEnd{t, pair[1]}, fs.readers, ended
}

// ask sends a request, whose header is complete but for its length.
func (k kernelEnd) ask(request any) {
	k.t.Helper()
	in, err := binary.Append(nil, binary.NativeEndian, request)
	if err != nil {
		k.t.Fatal(err)
	}
	binary.NativeEndian.PutUint32(in, uint32(len(in)))
	if _, err := unix.Write(k.fd, in); err != nil {
		k.t.Fatal(err)
	}
}

// reply returns whose reply comes next, its error and its data.
func (k kernelEnd) reply() (unique uint64, status int32, data []byte) {
	k.t.Helper()
	buf := make([]byte, largeSize)
	n, err := unix.Read(k.fd, buf)
	if err != nil || n < outHeaderSize || binary.NativeEndian.Uint32(buf) != uint32(n) {
		k.t.Fatalf("reply of %d bytes, %v", n, err)
	}
	return binary.NativeEndian.Uint64(buf[8:]), int32(binary.NativeEndian.Uint32(buf[4:])), buf[outHeaderSize:n]
}

func (k kernelEnd) wants(unique uint64, status int32) (data []byte) {
	k.t.Helper()
	u, s, data := k.reply()
	if u != unique || s != status {
		k.t.Fatalf("a reply to %d, status %d; want %d, %d", u, s, unique, status)
	}
	return data
}

func requestHeader(op uint32, unique, node uint64) fuse.InHeader {
	return fuse.InHeader{Opcode: op, Unique: unique, NodeId: node}
}

// TestReadersHandOver has requests wait in ways that only later ones end.
func TestReadersHandOver(t *testing.T) {
	k, r, ended := startReaders(t)
	const opGetAttr = 3
	unique := uint64(2)
	for range 3 { // the second time there are spares
		const waiting = 3 * maxSpares
		for i := range uint64(waiting) {
			k.ask(&fuse.OpenIn{InHeader: requestHeader(opOpen, unique+2*i, 2)})
			k.ask(&fuse.OpenIn{InHeader: requestHeader(opOpen, unique+2*i+1000, 3)})
			k.wants(unique+2*i+1000, 0)
		}
		for range waiting { // in any order: each flush lets one open go on
			k.ask(&fuse.FlushIn{InHeader: requestHeader(opFlush, 5000, 3)})
			for range 2 {
				if u, st, _ := k.reply(); st != 0 || u != 5000 && (u < unique || u >= unique+2*waiting) {
					t.Fatalf("a reply to %d, status %d", u, st)
				}
			}
		}
		unique += 2 * waiting
	}
	k.ask(&fuse.GetAttrIn{InHeader: requestHeader(opGetAttr, 6000, 3)})
	k.ask(&fuse.OpenIn{InHeader: requestHeader(opOpen, 6002, 3)})
	k.wants(6002, 0)
	k.ask(&fuse.InterruptIn{InHeader: requestHeader(opInterrupt, 6001, 0), Unique: 6000})
	k.wants(6000, -int32(unix.EINTR))
	r.mu.Lock()
	if len(r.under) > 1 { // the last one may still be on its way out
		t.Errorf("%d requests are under way", len(r.under))
	}
	r.mu.Unlock()
	unix.Close(k.fd)
	<-ended
}

// TestReadersEnd unmounts beside requests that wait.
func TestReadersEnd(t *testing.T) {
	k, _, ended := startReaders(t)
	k.ask(&fuse.OpenIn{InHeader: requestHeader(opOpen, 2, 2)})
	k.ask(&fuse.OpenIn{InHeader: requestHeader(opOpen, 4, 3)})
	k.wants(4, 0)
	unix.Close(k.fd)
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("a request still waits")
	}
}

// TestReadersData reads as much as can be asked for, and more.
func TestReadersData(t *testing.T) {
	k, _, ended := startReaders(t)
	for i, size := range []uint32{0, 1, smallSize, maxWrite} {
		unique := uint64(2 + 2*i)
		k.ask(&fuse.ReadIn{InHeader: requestHeader(opRead, unique, 3), Size: size})
		data := k.wants(unique, 0)
		if len(data) != int(size) || size > 0 && data[size-1] != byte(size-1) {
			t.Errorf("%d bytes, want %d", len(data), size)
		}
	}
	k.ask(&fuse.ReadIn{InHeader: requestHeader(opRead, 20, 3), Size: 2 * largeSize})
	k.wants(20, -int32(unix.EIO))
	unix.Close(k.fd)
	<-ended
}

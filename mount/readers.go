package mount

import (
	"encoding/binary"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The kernel wakes those that wait to read a request in turn, on whatever processor they
// sleep, and waking threads is most of what a request costs that is answered here. So
// a single goroutine reads while all is answered here. While requests make calls there
// are more: waking another one first would delay the call.
//
//	        next             a request
//	spare --------> reading ----------> answering
//	  ^                ^                 |     |
//	  |                +-----------------+     |
//	  +----------------------------------------+
//	      others read, enough of them, or all is answered here
//
// Nobody waits in answering unless somebody else reads, or is about to: see handOver.

const (
	// largeSize has room for the largest request or reply. The data of a write
	// begins at a page, which saves the kernel work.
	largeSize  = maxWrite + 2*pageSize
	writeStart = pageSize - 80 // 80: fuse_in_header and fuse_write_in
	pageSize   = 4096
	// smallSize has room for most replies.
	smallSize = 72 << 10
	// The sizes of fuse_in_header and fuse_out_header.
	inHeaderSize, outHeaderSize = 40, 16

	// maxSpares is how many goroutines are kept that neither read nor answer.
	maxSpares = 16
	// quickly is how many requests are answered without waiting before one goroutine
	// is thought to be enough.
	quickly = 32
	// looking is how long a goroutine that answers all here looks for the next request
	// before it sleeps.
	looking = 200 * time.Microsecond
	// maxMissed is how many requests are waited for asleep at most, when it has looked
	// in vain.
	maxMissed = 63
)

// Kinds of requests, as in linux/fuse.h; go-fuse does not export them.
const (
	opForget      = 2
	opOpen        = 14
	opRead        = 15
	opRelease     = 18
	opGetXAttr    = 22
	opListXAttr   = 23
	opFlush       = 25
	opInit        = 26
	opOpenDir     = 27
	opReadDir     = 28
	opReleaseDir  = 29
	opInterrupt   = 36
	opIoctl       = 39
	opBatchForget = 42
	opReadDirPlus = 44
)

// answeredHere reports whether a kind of request may be answered without waiting. Its
// handler calls handOver before it waits for anything but a mutex.
func answeredHere(op uint32) bool {
	switch op {
	case opOpen, opOpenDir, opFlush, opRelease, opReleaseDir, opForget, opBatchForget, opInterrupt:
		return true
	}
	return false
}

// dataSize returns how much data a request asks for.
func dataSize(op uint32, in []byte) uint32 {
	at := 0
	switch op {
	case opRead, opReadDir, opReadDirPlus:
		at = inHeaderSize + 16
	case opGetXAttr, opListXAttr:
		at = inHeaderSize
	case opIoctl:
		at = inHeaderSize + 28
	}
	if at == 0 || len(in) < at+4 {
		return 0
	}
	return binary.NativeEndian.Uint32(in[at:])
}

// readers read the requests of the kernel and answer them.
type readers struct {
	fd      int
	handler *fuse.ProtocolServer
	log     *slog.Logger
	most    int32 // that read at once

	reading atomic.Int32  // that read, or are about to
	quick   atomic.Int32  // requests answered without waiting since the last that was not
	turn    chan struct{} // for a spare to read
	over    chan struct{} // closed when it is unmounted
	end     func()        // closes it
	spares  atomic.Int32
	running sync.WaitGroup
	large   sync.Pool // of *[largeSize]byte

	skip, missed atomic.Int32 // how many requests look passes over, and did last time

	mu    sync.Mutex
	under map[uint64]struct{} // numbers of the requests that may wait
}

// newReaders prepares for requests from a descriptor. What the kernel said at the
// beginning is go-fuse's, which has answered it.
func newReaders(fs fuse.RawFileSystem, opts *fuse.MountOptions, fd int, init fuse.InitIn, log *slog.Logger) *readers {
	r := &readers{
		fd: fd, handler: fuse.NewProtocolServer(fs, opts), log: log, most: int32(1 + max(2, min(runtime.GOMAXPROCS(0), 16))),
		turn: make(chan struct{}), over: make(chan struct{}), under: make(map[uint64]struct{}),
	}
	r.end = sync.OnceFunc(r.unmounted)
	r.large.New = func() any { return new([largeSize]byte) }
	init.InHeader = fuse.InHeader{Length: uint32(binary.Size(init)), Opcode: opInit}
	r.handle(&init)
	return r
}

// handle answers a request that does not come from the kernel.
func (r *readers) handle(request any) {
	in, err := binary.Append(nil, binary.NativeEndian, request)
	if err == nil {
		r.handler.HandleRequest([][]byte{in}, [][]byte{make([]byte, smallSize)})
	}
}

// run answers until the file system is unmounted and the last request answered.
func (r *readers) run() {
	r.next()
	r.running.Wait()
}

// next makes one more goroutine read.
func (r *readers) next() {
	r.reading.Add(1)
	select {
	case r.turn <- struct{}{}:
	default:
		r.running.Go(r.work)
	}
}

// work reads and answers requests, or is a spare, until it is unmounted or there are
// spares enough.
func (r *readers) work() {
	in := r.large.Get().(*[largeSize]byte)
	defer r.large.Put(in)
	out := make([]byte, smallSize)
	for r.read(in[writeStart:], out) {
		if r.reading.Load() == 0 || r.reading.Load() < r.most && r.quick.Load() < quickly {
			r.reading.Add(1)
			continue
		}
		if r.spares.Add(1) > maxSpares {
			r.spares.Add(-1)
			return
		}
		select {
		case <-r.turn:
			r.spares.Add(-1)
		case <-r.over:
			return
		}
	}
}

// read reads a request and answers it; buf and out have room for it and for a small
// reply. It reports whether there may be more.
func (r *readers) read(buf, out []byte) bool {
	r.look()
	n, err := unix.Read(r.fd, buf)
	for err == unix.EINTR || err == unix.EAGAIN || err == unix.ENOENT { // ENOENT: interrupted before it was read
		n, err = unix.Read(r.fd, buf)
	}
	left := r.reading.Add(-1)
	if err != nil || n < inHeaderSize {
		if err != unix.ENODEV {
			r.log.Debug("no more requests of the kernel", "read", n, "err", err)
		}
		r.end()
		return false
	}
	in := buf[:n]
	op, unique := binary.NativeEndian.Uint32(in[4:]), binary.NativeEndian.Uint64(in[8:])
	if answeredHere(op) {
		r.quick.Store(min(r.quick.Load()+1, quickly))
	} else {
		r.begin(unique)
		if left == 0 {
			r.next()
		}
	}
	r.answer(op, in, out)
	r.answered(unique)
	return true
}

// look waits for a request without going to sleep, for a moment, if all is answered here:
// the program that has its answer now often has the next question. Where that is not so,
// or others need the processor, it is seldom tried.
func (r *readers) look() {
	if r.quick.Load() < quickly || runtime.GOMAXPROCS(0) < 2 || r.skip.Add(-1) >= 0 {
		return
	}
	fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
	for end := time.Now().Add(looking); time.Now().Before(end); {
		if n, _ := unix.Poll(fds, 0); n != 0 {
			r.missed.Store(0)
			r.skip.Store(0)
			return
		}
	}
	r.missed.Store(min(2*r.missed.Load()+1, maxMissed))
	r.skip.Store(r.missed.Load())
}

// handOver is called by the handler of a request, in its goroutine, before it waits.
func (r *readers) handOver(h *fuse.InHeader) {
	if r == nil {
		return
	}
	r.begin(h.Unique)
	if r.reading.Load() == 0 {
		r.next()
	}
}

// begin notes that a request may wait.
func (r *readers) begin(unique uint64) {
	r.quick.Store(0)
	r.mu.Lock()
	r.under[unique] = struct{}{}
	r.mu.Unlock()
}

// answered notes that a request has ended.
func (r *readers) answered(unique uint64) {
	r.mu.Lock()
	delete(r.under, unique)
	r.mu.Unlock()
}

// answer handles a request and writes the reply.
func (r *readers) answer(op uint32, in, small []byte) {
	out := [][]byte{small}
	if dataSize(op, in) > smallSize-pageSize {
		large := r.large.Get().(*[largeSize]byte)
		defer r.large.Put(large)
		out = [][]byte{small[:outHeaderSize], large[:]}
	}
	n, st := r.handler.HandleRequest([][]byte{in}, out)
	if !st.Ok() {
		r.log.Error("a request of the kernel cannot be read or answered", "op", op, "length", len(in))
		n = refusal(out[0], in)
	}
	if n == 0 {
		return // those that are not to be answered
	}
	// ENOENT: it was interrupted meanwhile, or the file system was unmounted.
	if _, err := writeReply(r.fd, out, n); err != nil && err != unix.ENOENT && err != unix.ENODEV {
		r.log.Debug("reply to the kernel", "op", op, "err", err)
	}
}

// refusal makes a reply that says EIO to a request.
func refusal(out, request []byte) int {
	status := -int32(syscall.EIO)
	binary.NativeEndian.PutUint32(out, outHeaderSize)
	binary.NativeEndian.PutUint32(out[4:], uint32(status))
	copy(out[8:outHeaderSize], request[8:]) // its number
	return outHeaderSize
}

// writeReply writes the first n bytes of out.
func writeReply(fd int, out [][]byte, n int) (int, error) {
	head := out[0]
	if n <= len(head) {
		return unix.Write(fd, head[:n])
	}
	return unix.Writev(fd, [][]byte{head, out[1][:n-len(head)]})
}

// unmounted lets the spares go, and those that still answer know that nobody waits for
// it.
func (r *readers) unmounted() {
	close(r.over)
	r.mu.Lock()
	under := make([]uint64, 0, len(r.under))
	for unique := range r.under {
		under = append(under, unique)
	}
	r.mu.Unlock()
	for _, unique := range under {
		interrupt := fuse.InterruptIn{Unique: unique}
		interrupt.InHeader = fuse.InHeader{Length: uint32(binary.Size(interrupt)), Opcode: opInterrupt}
		r.handle(&interrupt)
	}
}

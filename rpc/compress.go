package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

// File data is compressed where the connection is slower than that takes. Who reads
// knows how fast data arrives, so who reads asks for it, in every call and reply; who
// writes compresses what he sends next, each message by itself, and sends it as it is
// if that saves too little. Until he knows he goes by the round trip: where it is long
// a connection brings little in its first ones.

// FeatureCompress is the feature bit of the log-in by which a side says that it knows
// compressed frames.
const FeatureCompress uint64 = 1 << 0

// Compress says when file data is compressed.
type Compress uint8

const (
	CompressOff  Compress = iota // never, in neither direction
	CompressAuto                 // where data arrives slowly
	CompressOn                   // always, in both directions
)

const (
	// minCompress is the data from which a message may be compressed, in bytes.
	minCompress = 16 << 10
	// compressBelow is the rate at which data arrives, in bytes per second, below which
	// it is asked for compressed. One processor compresses 160 to 330 MB of a second.
	compressBelow = 32e6
	// compressFrom is the round trip from which on it is asked for as long as the rate is not
	// known, and as long as neither is.
	compressFrom = 2 * time.Millisecond
	// worthwhile is the part of a message that has to be saved.
	worthwhile = 8
	// maxZstdWindow bounds what a decoder has to look back to, in bytes.
	maxZstdWindow = 2 << 20
	// zstdWindow is what this side's encoder looks back to. More saves 1 % more of Go's
	// sources.
	zstdWindow = 128 << 10
)

var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithWindowSize(zstdWindow))
	if err != nil {
		panic(err)
	}
	return e
})

var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.IgnoreChecksum(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(MaxReply), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		panic(err)
	}
	return d
})

// decompress fills dst, which is not empty, with what src is when it is decompressed.
// Beside dst it takes the memory of one block of zstd, 128 KiB.
func decompress(dst, src []byte) error {
	out, err := decoder().DecodeAll(src, dst[:0:len(dst)])
	if err == nil && (len(out) != len(dst) || &out[0] != &dst[0]) {
		err = errors.New("not as long as it says")
	}
	if err != nil {
		return fmt.Errorf("%w: compressed data: %w", errProtocol, err)
	}
	return nil
}

// compression is how one connection, with those that joined it, compresses.
type compression struct {
	how      Compress    // CompressOff unless the other side knows it, too
	local    bool        // the other side is on this machine: what is slow is that, and no connection
	asked    atomic.Bool // by the other side
	rtt      func() time.Duration
	arrivals arrivals
}

// begin sets up the compression over a main connection.
func (c *compression) begin(how Compress, t Transport, rtt func() time.Duration) {
	c.rtt = rtt
	if t.Features()&FeatureCompress != 0 {
		c.how = how
	}
	c.local = local(t)
}

// asks reports whether the other side is to compress.
func (c *compression) asks() bool {
	return c.how == CompressOn || c.how == CompressAuto && !c.local && c.slow()
}

// slow reports whether data arrives slowly, or will, as far as is known.
func (c *compression) slow() bool {
	rate := c.arrivals.rate.Load()
	if rate == 0 {
		rtt := c.rtt()
		return rtt == 0 || rtt >= compressFrom
	}
	return rate < compressBelow
}

// compresses reports whether this side does.
func (c *compression) compresses() bool {
	return c.how == CompressOn || c.how == CompressAuto && c.asked.Load()
}

// mark makes the head of a frame say whether the other side is to compress.
func (c *compression) mark(head []byte) {
	if kind := head[14]; kind != kindCall && kind != kindReply {
		return
	}
	head[15] &^= flagAsk
	if c.asks() {
		head[15] |= flagAsk
	}
}

// told takes note of whether the other side asks.
func (c *compression) told(h *header) {
	if (h.kind == kindCall || h.kind == kindReply) && c.asked.Load() != h.ask {
		c.asked.Store(h.ask)
	}
}

// arrivals measures how fast data arrives, while a message of which the sender has all at
// hand is read.
type arrivals struct {
	rate atomic.Int64 // bytes per second, of the last few megabytes; 0: not known yet

	mu    sync.Mutex
	bytes int
	took  time.Duration
}

const (
	// knownBytes, or knownTime, are from when on the rate is known.
	knownBytes = 1 << 20
	knownTime  = 250 * time.Millisecond
	// halfBytes is when half of what was is forgotten.
	halfBytes = 4 << 20
)

// add takes note of n bytes that were waited for.
func (a *arrivals) add(n int, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes += n
	a.took += took
	if a.bytes < knownBytes && a.took < knownTime {
		return
	}
	a.rate.Store(int64(float64(a.bytes) / max(a.took, 1).Seconds()))
	if a.bytes >= halfBytes {
		a.bytes /= 2
		a.took /= 2
	}
}

// local reports whether both ends of a connection are on this machine.
func local(c net.Conn) bool {
	mine, _ := c.LocalAddr().(*net.TCPAddr)
	other, _ := c.RemoteAddr().(*net.TCPAddr)
	return other == nil || other.IP.IsLoopback() || mine != nil && mine.IP.Equal(other.IP)
}

// compressed counts one direction of a session.
type compressed struct{ messages, bytes, wire atomic.Uint64 }

func (c *compressed) add(bytes, wire int) {
	c.messages.Add(1)
	c.bytes.Add(uint64(bytes))
	c.wire.Add(uint64(wire))
}

func (c *compressed) get() Compressed {
	return Compressed{c.messages.Load(), c.bytes.Load(), c.wire.Load()}
}

// Compressed counts what was compressed in one direction.
type Compressed struct {
	Messages uint64
	Bytes    uint64 // before it was compressed
	Wire     uint64 // after
}

// CompressStats tells what was compressed since the session began, and how it stands with
// the connection that there is.
type CompressStats struct {
	Sent, Received Compressed
	SentPlain      uint64 // messages that were to be compressed, of which too little was saved

	How   Compress
	Known bool // there is a connection, and both sides compress
	Local bool // the other side is on this machine, so this one does not ask unless it is CompressOn
	Asks  bool // what arrives is asked for compressed
	Asked bool // the other side asks for what is sent
	Rate  int  // at which data arrives, in bytes per second; 0: not known yet
}

// Compression tells of what is compressed.
func (p *Peer) Compression() CompressStats {
	s := CompressStats{How: p.cfg.Compress, Sent: p.sent.get(), Received: p.received.get(), SentPlain: p.sentPlain.Load()}
	p.mu.Lock()
	c := p.conn
	p.mu.Unlock()
	if c != nil && c.compression.how != CompressOff {
		s.Known, s.Asks, s.Asked = true, c.compression.asks(), c.compression.asked.Load()
		s.Local = c.compression.local
		s.Rate = int(c.compression.arrivals.rate.Load())
	}
	return s
}

// parts returns the end of a frame that may be compressed, which is its payload, or the
// meta of a reply without one, and what stands before it.
func (f *frame) parts() (plain, part []byte) {
	plain = f.head[headerSize:]
	if f.data != nil {
		return plain, f.data
	}
	if meta := int(binary.LittleEndian.Uint32(f.head[4:])); meta < len(plain) {
		return plain[:meta], plain[meta:]
	}
	if f.head[14] == kindReply {
		return nil, plain
	}
	return plain, nil
}

// shrink returns f with its end compressed, or nil if it is to be written as it is. The
// memory, which is as much as f's, is drawn from the share until it is written.
func (l *link) shrink(f *frame) *shrunk {
	if !f.compress || !l.conn.compression.compresses() {
		return nil
	}
	plain, part := f.parts()
	if len(part) < minCompress {
		return nil
	}
	p := l.peer
	s := &shrunk{share: p.cfg.Share, n: headerSize + rawSize + len(plain) + len(part) + zstdOverhead}
	if !s.share.try(s.n) {
		return nil // who does not take what is sent gets it without
	}
	s.buffer = newBuffer(s.n)
	b := append(s.b[:0], f.head[:headerSize]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(part)))
	b = append(b, plain...)
	start := len(b)
	b = encoder().EncodeAll(part, b)
	wire := len(b) - start
	if wire > len(part)-len(part)/worthwhile {
		p.sentPlain.Add(1)
		s.written()
		return nil
	}
	b[15] |= flagCompressed
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	if len(plain) == 0 {
		binary.LittleEndian.PutUint32(b[4:], uint32(wire))
	}
	s.b = b
	p.sent.add(len(part), wire)
	return s
}

// zstdOverhead is at least what zstd may need beside the data, in bytes: a header, and
// three for each block of 128 KiB.
const zstdOverhead = 64

// shrunk is a frame of which the end is compressed.
type shrunk struct {
	*buffer
	share *Share
	n     int // drawn from the share
}

func (s *shrunk) written() {
	s.free()
	s.share.release(s.n)
}

// fill reads what arrives into b, and takes note of how long that took.
func (l *link) fill(b []byte) error {
	waited := len(b) - l.r.Buffered()
	if waited < minCompress || l.conn.compression.how == CompressOff {
		_, err := io.ReadFull(l.r, b)
		return err
	}
	start := time.Now()
	_, err := io.ReadFull(l.r, b)
	if err == nil {
		l.conn.compression.arrivals.add(waited, time.Since(start))
	}
	return err
}

// expand reads wire bytes of compressed data into dst.
func (l *link) expand(dst []byte, wire int) error {
	buf := newBuffer(wire)
	defer buf.free()
	err := l.fill(buf.b)
	if err == nil {
		err = decompress(dst, buf.b)
	}
	if err == nil {
		l.peer.received.add(len(dst), wire)
	}
	return err
}

// Package mapped keeps small records in a mapped file. What has been written is there
// after the process was killed, however it was, without a system call for each record.
// It is not there after the machine has been started anew, which Open makes sure of:
// the file names the boot that it belongs to.
//
//	file    page 0: magic, format, boot; then chunks
//	chunk   64 bytes: the size of its cells; then cells of one size
//	cell    u32 kind<<24 | length, 0 while it is free; 4 bytes; the record
//
// The kind is stored last, so that a record is whole or not there.
package mapped

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	pageSize  = 4096
	chunkSize = 256 << 10
	chunkHead = 64
	cellHead  = 8

	format = 1
)

// window is how much of the address space the file may grow into.
const window = 1 << (26 + 10*(^uint(0)>>63))

var magic = [8]byte{'r', 'p', 'y', 'c', 'k', 'e', 'e', 'p'}

// sizes are those of cells, with their heads.
var sizes = []int{64, 128, 192, 256, 384, 512, 1024, 4352}

// MaxRecord is the longest record, in bytes.
const MaxRecord = 4352 - cellHead

// ErrBusy says that another process has the file open.
var ErrBusy = errors.New("another process has it open")

// Store is a mapped file. Its methods, and those of its cells, are safe for concurrent
// use; a cell's bytes are its holder's to guard.
type Store struct {
	f   *os.File
	mem []byte

	frozen atomic.Bool

	mu   sync.Mutex
	size int
	free [8][]int // offsets of free cells, by size
	live int
}

// Cell is a place for a record. The zero value is none, of which the methods do nothing.
type Cell struct {
	s   *Store
	off int
}

// Record is what Open found.
type Record struct {
	Cell
	Kind uint8
	Body []byte // in place
}

// Open opens a file, which is made if it is missing, and returns the records that are in
// it, unless they are of an earlier boot or another format. ErrBusy if another process
// has it open. Nobody else may be able to write to the file.
func Open(path string) (*Store, []Record, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, nil, fmt.Errorf("which boot this is: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			err = ErrBusy
		}
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	s := &Store{f: f}
	records, err := s.load(bytes.TrimSpace(boot))
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, records, nil
}

// load maps the file and reads it, or begins a new one.
func (s *Store) load(boot []byte) ([]Record, error) {
	head := make([]byte, pageSize)
	copy(head, magic[:])
	binary.LittleEndian.PutUint32(head[8:], format)
	copy(head[16:], boot)
	st, err := s.f.Stat()
	if err != nil {
		return nil, err
	}
	found := make([]byte, pageSize)
	_, err = s.f.ReadAt(found, 0)
	known := err == nil && bytes.Equal(found, head) && (st.Size()-pageSize)%chunkSize == 0 && st.Size() <= window
	if !known {
		if err := s.f.Truncate(0); err != nil {
			return nil, err
		}
		if err := s.grow(0, pageSize); err != nil {
			return nil, err
		}
		if _, err := s.f.WriteAt(head, 0); err != nil {
			return nil, err
		}
		s.size = pageSize
	} else {
		s.size = int(st.Size())
	}
	if s.mem, err = unix.Mmap(int(s.f.Fd()), 0, window, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE); err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return s.scan(), nil
}

// scan returns the records and collects the free cells.
func (s *Store) scan() (records []Record) {
	for at := pageSize; at < s.size; at += chunkSize {
		class := s.classOf(int(binary.LittleEndian.Uint32(s.mem[at:])))
		if class < 0 {
			class = 0 // it had been added and not yet been used
			binary.LittleEndian.PutUint32(s.mem[at:], uint32(sizes[0]))
		}
		for off := at + chunkHead; off+sizes[class] <= at+chunkSize; off += sizes[class] {
			head := s.head(off).Load()
			if n := int(head & 0xffffff); head != 0 && n <= sizes[class]-cellHead {
				c := Cell{s, off}
				records = append(records, Record{c, uint8(head >> 24), c.bytes(n)})
				s.live++
				continue
			}
			s.head(off).Store(0)
			s.free[class] = append(s.free[class], off)
		}
	}
	return records
}

func (s *Store) classOf(size int) int {
	for i, n := range sizes {
		if n == size {
			return i
		}
	}
	return -1
}

func (s *Store) head(off int) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&s.mem[off])) }

// grow adds room to the file, all of it: a store into a page for which there is no space
// would end the process.
func (s *Store) grow(from, n int) error {
	err := unix.Fallocate(int(s.f.Fd()), 0, int64(from), int64(n))
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = s.f.WriteAt(make([]byte, n), int64(from))
	}
	return err
}

// Reserve takes a place for a record of n bytes. It ends with Publish or Free.
func (s *Store) Reserve(n int) (Cell, error) {
	if s == nil {
		return Cell{}, nil
	}
	class := 0
	for class < len(sizes) && sizes[class]-cellHead < n {
		class++
	}
	if class == len(sizes) {
		return Cell{}, fmt.Errorf("a record of %d bytes", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free[class]) == 0 {
		if s.size+chunkSize > window {
			return Cell{}, fmt.Errorf("%s is full", s.f.Name())
		}
		if err := s.grow(s.size, chunkSize); err != nil {
			return Cell{}, fmt.Errorf("%s: %w", s.f.Name(), err)
		}
		binary.LittleEndian.PutUint32(s.mem[s.size:], uint32(sizes[class]))
		for off := s.size + chunkHead; off+sizes[class] <= s.size+chunkSize; off += sizes[class] {
			s.free[class] = append(s.free[class], off)
		}
		s.size += chunkSize
	}
	last := len(s.free[class]) - 1
	off := s.free[class][last]
	s.free[class] = s.free[class][:last]
	s.live++
	return Cell{s, off}, nil
}

// Put stores a record.
func (s *Store) Put(kind uint8, body []byte) (Cell, error) {
	c, err := s.Reserve(len(body))
	if err == nil {
		c.Publish(kind, body)
	}
	return c, err
}

// Freeze has the records stay as they are, for the next process: what is changed from now
// on is not stored.
func (s *Store) Freeze() {
	if s != nil {
		s.frozen.Store(true)
	}
}

// Frozen reports whether the records stay as they are. What was changed before it was
// asked, and said no, is stored.
func (s *Store) Frozen() bool { return s != nil && s.frozen.Load() }

// Frozen reports whether the record stays as it is.
func (c Cell) Frozen() bool { return c.s.Frozen() }

// Live returns how many records there are.
func (s *Store) Live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}

// Close gives the file up. No cell may be used afterwards.
func (s *Store) Close() error {
	if s == nil {
		return nil
	}
	return errors.Join(unix.Munmap(s.mem), s.f.Close())
}

func (c Cell) bytes(n int) []byte {
	return c.s.mem[c.off+cellHead : c.off+cellHead+n : c.off+cellHead+n]
}

// Publish fills a reserved place; from here on the record is there. kind is not 0.
func (c Cell) Publish(kind uint8, body []byte) {
	if c.s == nil || c.Frozen() {
		return
	}
	copy(c.bytes(len(body)), body)
	c.s.head(c.off).Store(uint32(kind)<<24 | uint32(len(body)))
}

// Free gives the place up, and the record that is in it.
func (c Cell) Free() {
	if c.s == nil || c.Frozen() {
		return
	}
	s := c.s
	s.head(c.off).Store(0)
	class := s.classOf(int(binary.LittleEndian.Uint32(s.mem[(c.off-pageSize)/chunkSize*chunkSize+pageSize:])))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free[class] = append(s.free[class], c.off)
	s.live--
}

// ID names the cell among all that are in use; 0 is none.
func (c Cell) ID() uint64 { return uint64(c.off) }

// IsZero reports whether c is none.
func (c Cell) IsZero() bool { return c.s == nil }

// Word returns the 8 bytes of the record at at, a multiple of 8, to be changed in place
// in one step; nil for none. It is in the byte order of the machine.
func (c Cell) Word(at int) *atomic.Uint64 {
	if c.s == nil {
		return nil
	}
	return (*atomic.Uint64)(unsafe.Pointer(&c.s.mem[c.off+cellHead+at]))
}

// Write copies b into the record at at.
func (c Cell) Write(at int, b []byte) {
	if c.s != nil && !c.Frozen() {
		copy(c.s.mem[c.off+cellHead+at:], b)
	}
}

// Get returns a word, 0 for none.
func (c Cell) Get(at int) uint64 {
	if c.s == nil || c.Frozen() {
		return 0
	}
	return c.Word(at).Load()
}

// SetWord stores a word.
func (c Cell) SetWord(at int, v uint64) {
	if c.s != nil && !c.Frozen() {
		c.Word(at).Store(v)
	}
}

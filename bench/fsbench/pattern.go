package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// File content is a function of a seed and the offset, so that every place of a
// file can be checked without a second copy. While the clock runs one word per
// cache line is compared, which costs next to nothing; the whole is compared
// when it does not.

const (
	word = 8
	line = 64
)

var errContent = errors.New("content differs")

// wordAt is the word at off, a multiple of word.
func wordAt(seed uint64, off int64) uint64 {
	x := seed ^ uint64(off)*0x9e3779b97f4a7c15
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	return x ^ x>>32
}

// fill writes the content at off into p. Both are multiples of word.
func fill(p []byte, seed uint64, off int64) {
	for i := 0; i < len(p); i += word {
		binary.LittleEndian.PutUint64(p[i:], wordAt(seed, off+int64(i)))
	}
}

// check compares every step-th byte's word of p, which was read at off.
func check(p []byte, seed uint64, off int64, step int) error {
	for i := 0; i+word <= len(p); i += step {
		if binary.LittleEndian.Uint64(p[i:]) != wordAt(seed, off+int64(i)) {
			return fmt.Errorf("%w at %d", errContent, off+int64(i))
		}
	}
	return nil
}

// writeFile makes a file of n bytes, a multiple of word, on stable storage.
func writeFile(name string, seed uint64, n int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, min(n, mib))
	for off := int64(0); off < n; off += int64(len(buf)) {
		buf = buf[:min(n-off, mib)]
		fill(buf, seed, off)
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return f.Sync()
}

// checkFile reads a file of exactly n bytes and compares its content.
func checkFile(name string, seed uint64, n int64, step int) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, mib)
	off := int64(0)
	for {
		k, err := io.ReadFull(f, buf)
		if err := check(buf[:k], seed, off, step); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		off += int64(k)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if off != n {
		return fmt.Errorf("%s: %d bytes, want %d", name, off, n)
	}
	return nil
}

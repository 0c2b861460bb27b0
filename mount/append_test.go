package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAppendTwoMounts lets programs of two mounts append records to one file,
// with descriptors that stay open and with new ones, while others read it: what
// is read is whole records in order at every moment, and none is lost.
func TestAppendTwoMounts(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, first, second := twoMounts(t)
	w.ok(os.WriteFile(w.export+"/log", nil, 0o644))
	records := times(t, "RPYCFS_APPENDS", 100)
	const writers = 4
	total := writers * records
	for _, point := range []string{first, second} {
		// It is shared from the beginning: what a reader's kernel keeps that opened it
		// before that may be filled up with zeros (DESIGN.md, Leases).
		f, err := os.OpenFile(point+"/log", os.O_WRONLY|os.O_APPEND, 0)
		w.ok(err)
		defer f.Close()
	}

	var wg sync.WaitGroup
	for i := range writers {
		path := []string{first, second}[i%2] + "/log"
		wg.Go(func() {
			if err := appendRecords(path, i, records, i < 2); err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	for _, point := range []string{first, second} {
		wg.Go(func() {
			if err := follow(point+"/log", writers, total); err != nil {
				t.Errorf("following at %s: %v", point, err)
			}
		})
		wg.Go(func() {
			if err := reread(point+"/log", writers, total); err != nil {
				t.Errorf("rereading at %s: %v", point, err)
			}
		})
	}
	wg.Wait()
	want, err := os.ReadFile(w.export + "/log")
	w.ok(err)
	for _, point := range []string{first, second} {
		got, err := os.ReadFile(point + "/log")
		w.ok(err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes read, %d written, or different ones", point, len(got), len(want))
		}
	}
}

// record is one line of a writer: who, which, a filling, and the sum of it.
func record(writer, n int) string {
	line := fmt.Sprintf("%d %d %s ", writer, n, strings.Repeat("x", (n*37+writer*11)%300))
	return fmt.Sprintf("%s%08x\n", line, crc32.ChecksumIEEE([]byte(line)))
}

func appendRecords(path string, writer, records int, keep bool) error {
	var f *os.File
	for n := range records {
		if f == nil {
			var err error
			if f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
				return err
			}
		}
		if _, err := f.WriteString(record(writer, n)); err != nil {
			return err
		}
		if !keep {
			if err := f.Close(); err != nil {
				return err
			}
			f = nil
		}
	}
	if f != nil {
		return f.Close()
	}
	return nil
}

// records checks a log as it is read.
type records struct {
	next []int
	seen int
	rest []byte
}

// add takes more of the log. Every full line is the next record of its writer.
func (r *records) add(data []byte) error {
	r.rest = append(r.rest, data...)
	for {
		line, rest, ok := bytes.Cut(r.rest, []byte("\n"))
		if !ok {
			if i := bytes.IndexByte(r.rest, 0); i >= 0 {
				return fmt.Errorf("a zero after %q", r.rest[:i])
			}
			return nil
		}
		var writer, n int
		if _, err := fmt.Sscanf(string(line), "%d %d ", &writer, &n); err != nil || writer < 0 || writer >= len(r.next) {
			return fmt.Errorf("record %d is %.100q", r.seen, line)
		}
		if want := record(writer, r.next[writer]); string(line)+"\n" != want {
			return fmt.Errorf("record %d is %.100q, want %.100q", r.seen, line, want)
		}
		r.next[writer]++
		r.seen++
		r.rest = rest
	}
}

// patience is how long a record may take that another program has appended.
const patience = 60 * time.Second

// follow reads on and on through one descriptor, as tail -f does.
func follow(path string, writers, total int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := records{next: make([]int, writers)}
	buf := make([]byte, 1<<16)
	for last := time.Now(); r.seen < total; {
		n, err := f.Read(buf)
		if err != nil && err != io.EOF {
			return err
		}
		if n > 0 {
			last = time.Now()
		}
		if err := r.add(buf[:n]); err != nil {
			return err
		}
		if time.Since(last) > patience {
			return fmt.Errorf("%d of %d records come through", r.seen, total)
		}
	}
	return nil
}

// reread reads the whole file again and again through one descriptor: it never
// becomes shorter, and nothing in it changes.
func reread(path string, writers, total int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var before []byte
	for last := time.Now(); ; {
		data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(data, before) {
			return errors.New("what was read before has changed")
		}
		if len(data) > len(before) {
			last = time.Now()
		}
		r := records{next: make([]int, writers)}
		if err := r.add(data); err != nil {
			return err
		}
		if r.seen == total {
			return nil
		}
		if time.Since(last) > patience {
			return fmt.Errorf("%d of %d records come through", r.seen, total)
		}
		before = data
	}
}

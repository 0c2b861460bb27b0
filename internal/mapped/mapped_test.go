package mapped

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRecords puts, changes and frees records at random; whoever opens the file next
// finds what was there last.
func TestRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	want := map[uint64][]byte{}
	cells := map[uint64]Cell{}
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 4 {
		s, found, err := Open(path)
		must(t, err)
		if len(found) != len(want) || s.Live() != len(want) {
			t.Fatalf("round %d: %d records, want %d", round, len(found), len(want))
		}
		for _, rec := range found {
			if !bytes.Equal(rec.Body, want[rec.ID()]) || rec.Kind != uint8(1+len(rec.Body)%7) {
				t.Fatalf("record %d: kind %d, %x; want %x", rec.ID(), rec.Kind, rec.Body, want[rec.ID()])
			}
			cells[rec.ID()] = rec.Cell
		}
		for range 3000 {
			for id, c := range cells {
				switch r.IntN(3) {
				case 0:
					c.Free()
					delete(cells, id)
					delete(want, id)
				case 1:
					if len(want[id]) >= 16 {
						c.Write(8, []byte("changed!"))
						copy(want[id][8:], "changed!")
					}
				}
				break
			}
			body := make([]byte, r.IntN(MaxRecord>>r.IntN(8))+1)
			for i := range body {
				body[i] = byte(r.Uint32())
			}
			c, err := s.Put(uint8(1+len(body)%7), body)
			must(t, err)
			if _, taken := want[c.ID()]; taken {
				t.Fatalf("cell %d is used twice", c.ID())
			}
			cells[c.ID()], want[c.ID()] = c, body
		}
		must(t, s.Close())
	}
}

// TestKilled: a process that is killed leaves all that it has written; before that
// nobody else opens the file.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if path := os.Getenv("MAPPED_WRITER"); path != "" {
		s, _, err := Open(path)
		must(t, err)
		for i := range 1000 {
			c, err := s.Put(3, binaryOf(0))
			must(t, err)
			c.SetWord(0, uint64(i))
		}
		c, err := s.Reserve(100) // never published
		must(t, err)
		c.Write(0, []byte("half"))
		if _, _, err := Open(path); !errors.Is(err, ErrBusy) {
			t.Errorf("opened twice: %v", err)
		}
		self, _ := os.FindProcess(os.Getpid())
		must(t, self.Kill())
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "MAPPED_WRITER="+path)
	out, err := cmd.CombinedOutput()
	if err == nil || err.Error() != "signal: killed" {
		t.Fatalf("%v\n%s", err, out)
	}
	s, found, err := Open(path)
	must(t, err)
	defer s.Close()
	seen := map[uint64]bool{}
	for _, rec := range found {
		seen[rec.Word(0).Load()] = true
	}
	if len(found) != 1000 || len(seen) != 1000 {
		t.Errorf("%d records, %d of them different", len(found), len(seen))
	}
}

// TestOtherBoot: records of an earlier boot, another format, or of anything else are not
// believed.
func TestOtherBoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, at := range []int{0, 8, 16} {
		s, _, err := Open(path)
		must(t, err)
		_, err = s.Put(1, []byte(strconv.Itoa(at)))
		must(t, err)
		must(t, s.Close())
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt([]byte{'?'}, int64(at))
		must(t, err)
		f.Close()
		s, found, err := Open(path)
		must(t, err)
		if len(found) != 0 {
			t.Errorf("byte %d changed: %d records", at, len(found))
		}
		must(t, s.Close())
	}
}

func binaryOf(v byte) []byte { return bytes.Repeat([]byte{v}, 8) }

func BenchmarkPut(b *testing.B) {
	s, _, err := Open(filepath.Join(b.TempDir(), "file"))
	must(b, err)
	defer s.Close()
	body := make([]byte, 150)
	for b.Loop() {
		c, err := s.Put(1, body)
		must(b, err)
		c.Free()
	}
}

package mount_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

// TestOpenReplaced: while complete files are renamed over a name without end, on
// the server's disk or through another mount, whoever opens the name gets one of
// them, whole.
func TestOpenReplaced(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w, reader, other := twoMounts(t)
	opens := times(t, "RPYCFS_OPENS", 2000) / 2
	for where, dir := range map[string]string{"server": w.export, "mount": other} {
		t.Run(where, func(t *testing.T) {
			name := "/replaced-" + where
			if err := replace(dir+name, 0); err != nil {
				t.Fatal(err)
			}
			var stop atomic.Bool
			var writer, readers sync.WaitGroup
			writer.Go(func() {
				for n := 1; !stop.Load(); n++ {
					if err := replace(dir+name, n); err != nil {
						t.Error(err)
						return
					}
				}
			})
			for range 2 {
				readers.Go(func() {
					for i := range opens / 2 {
						if i%64 == 0 { // which tells the kernel of the file, too
							if _, err := os.ReadDir(reader); err != nil {
								t.Error(err)
								return
							}
						}
						if err := whole(reader + name); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			readers.Wait()
			stop.Store(true)
			writer.Wait()
		})
	}
}

// replace renames a new file over path. It holds a number, bytes whose count and
// values depend on it, and the sum of all that.
func replace(path string, n int) error {
	r := rand.New(rand.NewPCG(uint64(n), 0))
	body := fmt.Appendf(nil, "%d\n", n)
	for range r.IntN(1500) {
		body = append(body, byte(r.Uint64()))
	}
	sum := sha256.Sum256(body)
	if err := os.WriteFile(path+".new", append(body, sum[:]...), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// whole reports what is wrong with a file that replace has made.
func whole(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if len(data) < sha256.Size {
		return fmt.Errorf("only %d bytes", len(data))
	}
	body := data[:len(data)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], data[len(body):]) {
		return errors.New("half a file")
	}
	return nil
}

package mount_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// TestCloseToOpen: what a program of one mount has written and closed is what
// another one reads that opens the file after that, on another mount: size,
// times and content, although the first open was a moment ago.
func TestCloseToOpen(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	_, first, second := twoMounts(t)
	points := []string{first, second}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(os.WriteFile(first+"/f", nil, 0o644))
	for i := range times(t, "RPYCFS_CLOSES", 25) {
		writer, reader := points[i%2], points[(i+1)%2]
		held, err := os.Open(reader + "/f") // keeps the inode and its pages in use
		ok(err)
		_, err = io.ReadAll(held)
		ok(err)
		content := strings.Repeat(fmt.Sprintf("%d ", i), 1+(i*977)%4000)
		ok(os.WriteFile(writer+"/f", []byte(content), 0o644))
		f, err := os.Open(reader + "/f")
		ok(err)
		st, err := f.Stat()
		ok(err)
		wrote, err := os.Stat(writer + "/f")
		ok(err)
		got, err := io.ReadAll(f)
		ok(err)
		if string(got) != content || st.Size() != int64(len(content)) || !st.ModTime().Equal(wrote.ModTime()) {
			t.Errorf("round %d: read %d bytes %.20q…, fstat size %d of %v; written %d bytes %.20q… at %v",
				i, len(got), got, st.Size(), st.ModTime(), len(content), content, wrote.ModTime())
		}
		if again, err := io.ReadAll(io.NewSectionReader(held, 0, 1<<40)); err != nil || string(again) != content {
			t.Errorf("round %d: through the descriptor that was open: %d bytes, %v", i, len(again), err)
		}
		ok(f.Close())
		ok(held.Close())
	}
}
